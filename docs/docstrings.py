"""Converts docstrings, which are plain text, to reStructuredText that shows the same text."""

import inspect
import re
from inspect import Signature
from typing import Any

from sphinx.application import Sphinx
from sphinx.util.inspect import signature as sphinx_signature
from sphinx.util.inspect import stringify_signature

_CODE = re.compile(r"`[^`]+`|\b(?:torch|functional|torchnotes|nn|init)(?:\.\w+)+|\b[a-z]\w*_(?=[\s,.)])")


def structured(text: str, parameters: set[str]) -> list[str]:
    """The lines of paragraphs and of lists of parameters, `name: meaning` or `name   meaning`."""
    entries: list[tuple[str, str]] = []  # a name, or "", and a text
    for line in [*text.splitlines(), ""]:
        match = re.match(r"(\w+(?:, \w+)*)(?:: |  +)(\S.*)", line)
        if match and set(match[1].split(", ")) <= parameters:
            entries.append((match[1], match[2]))
        elif not line or not entries or (entries[-1][0] and not line.startswith(" ")):
            entries.append(("", line))
        else:
            entries[-1] = entries[-1][0], f"{entries[-1][1]} {line.strip()}".strip()
    lines: list[str] = []
    for name, words in entries:
        lines += ["", f"``{name}``", f"    {_escaped(words)}", ""] if name else ["", _escaped(words), ""]
    return lines


def _escaped(text: str) -> str:
    parts, end = [], 0
    for match in _CODE.finditer(text):
        parts += [re.sub(r"([\\*`|_])", r"\\\1", text[end : match.start()]), f"``{match[0].strip('`')}``"]
        end = match.end()
    parts.append(re.sub(r"([\\*`|_])", r"\\\1", text[end:]))
    return "".join(parts)


def _process(app: Sphinx, what: str, name: str, object: Any, options: Any, lines: list[str]) -> None:
    if "Example:" in lines:  # in the style that napoleon reads
        return
    try:
        parameters = set(inspect.signature(object).parameters)
    except (TypeError, ValueError):
        parameters = set()
    lines[:] = structured("\n".join(lines), parameters)


def _signature(app: Sphinx, what: str, name: str, object: Any, options: Any, signature: str, returns: str) -> Any:
    """Replaces (*args, **kwargs) by the signature of the class's own __init__, or by nothing."""
    anything = re.fullmatch(r"\(\*args: [~\w.]*Any, \*\*kwargs: [~\w.]*Any\)", signature or "")
    if anything and "__init__" in vars(object):
        own = sphinx_signature(object.__init__, bound_method=True).replace(return_annotation=Signature.empty)
        return stringify_signature(own, unqualified_typehints=True), ""
    return "()" if anything else signature, returns


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", _process)
    app.connect("autodoc-process-signature", _signature)
    return {"parallel_read_safe": True}

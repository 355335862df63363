"""Typesets the opening comment of a formula header, or the docstring of a module.

The directive `derivation` gets the name of an operation or the path of a file. Paragraphs are prose, indented lines are
formulas. Two or more spaces separate the formulas of a line from each other and from a remark or a label in words. Text
below a column continues it.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import make_refnode

from .prose import Item, typeset

ROOT = Path(__file__).parents[1]
_RELATION = re.compile(r"(?P<left>.*?) +(?=(?:=|<-|->|<=|>=|<|>|~) )")


@dataclass
class Row:
    """A line of formulas: a left side or a label, the rest, and a remark, each in separated parts."""

    source: str
    left: str = ""
    middle: list[str] = field(default_factory=list)
    remark: list[str] = field(default_factory=list)
    places: list[int] = field(default_factory=list)  # where the columns start in the source
    follows: bool = False  # continues the row before, below its middle column

    def columns(self) -> list[tuple[str, list[Item], bool]]:
        """The columns with content: name, content, and whether to display it. Unreadable rows are shown as they are."""
        places = {(True, True): "middle", (True, False): "rest", (False, True): "wide", (False, False): "whole"}
        middle = places[bool(self.left or self.follows), bool(self.remark)]
        display = bool(self.remark) and typeset(self.remark[0])[0].kind == "math"  # not a remark in words
        found = [
            ("label" if _is_words(self.left) else "left", _items([self.left], True), True),
            (middle, _items(self.middle, True), True),
            ("remark", _items(self.remark, display), display),
        ]
        balanced = len(re.findall(r"[([{]", self.source)) == len(re.findall(r"[)\]}]", self.source))
        if not balanced or any(item.kind == "unread" for _, items, _ in found for item in items):
            return [("whole", [Item("code", self.source.strip())], True)]
        return [column for column in found if column[1]]


def _is_words(part: str) -> bool:
    return all(item.kind == "text" for item in typeset(part))


def _items(parts: list[str], display: bool) -> list[Item]:
    """Typesets parts without the spaces that align their first relation with those above and below."""
    read = [typeset(_RELATION.sub(r"\g<left> ", part, count=1), display) for part in parts if part]
    return [item for part in read for item in (Item("text", "\N{EM SPACE}"), *part)][1:]


def comment(path: Path) -> str:
    if path.suffix == ".py":
        return ast.get_docstring(ast.parse(path.read_text())) or ""
    opening = path.read_text().split("#pragma once")[0]
    return "\n".join(line.removeprefix("//").removeprefix(" ") for line in opening.splitlines())


def blocks(text: str) -> Iterator[str | list[Row]]:
    """Yields paragraphs and groups of formulas."""
    for block in re.split(r"\n(?:\s*\n)+", text.strip("\n")):
        if block.startswith(" "):
            yield rows(block.splitlines())
        elif block:
            yield " ".join(block.splitlines())


def rows(lines: list[str]) -> list[Row]:
    found: list[Row] = []
    margin = min(_indent(line) for line in lines)
    for line in lines:
        indent = _indent(line)
        starts_with_relation = bool(re.match(r" *(?:=|<-|->|<|>|~) ", line))
        if found and indent in found[-1].places[1:][-1:]:  # continues the last column
            column = found[-1].remark or found[-1].middle
            column[-1] += " " + line.strip()
            found[-1].source += "\n" + line
        else:
            row = _row(line)
            row.follows = indent > margin or starts_with_relation
            if not row.left and (starts_with_relation or not row.follows):
                _split(row)
            found.append(row)
    return found


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _row(line: str) -> Row:
    row = Row(line)
    parts = [(match.start(), match[0]) for match in re.finditer(r"\S.*?(?=  +(?![ =<>~]|->)|$)", line)]
    if len(parts) > 1 and _is_words(parts[0][1]):
        place, row.left = parts.pop(0)
        row.places.append(place)
    column, end = row.middle, 0
    for place, part in parts:
        if column and place - end > 2 and column[-1][-1] not in ",;:":
            column = row.remark
        if not column:
            row.places.append(place)
        column.append(part)
        end = place + len(part)
    return row


def _split(row: Row) -> None:
    """Separates the left side of the first formula from the rest."""
    relation = _RELATION.match(row.middle[0])
    if relation and [item.kind for item in typeset(relation["left"])] == ["math"]:
        row.left, row.middle[0] = relation["left"], row.middle[0][relation.end() :]


def source_of(name: str) -> Path:
    """The header with the formulas of an operation, or else its module."""
    header = ROOT / f"csrc/formulas/{name.lower().strip('_')}.h"
    return header if header.exists() else next(ROOT.glob(f"torchnotes/**/{name.lower()}.py"), ROOT / name)


class Derivation(SphinxDirective):
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        path = source_of(self.arguments[0])
        self.env.note_dependency(str(path))
        target = nodes.target("", "", ids=[nodes.make_id(path.name)])
        self.env.domains.standard_domain.note_hyperlink_target(path.name, self.env.docname, target["ids"][0])
        source = nodes.Text(f"Typeset from {path.relative_to(ROOT)}.")
        return [target, *self.typeset(comment(path)), nodes.paragraph("", "", source)]

    def typeset(self, text: str) -> Iterator[nodes.Node]:
        for block in blocks(text):
            if isinstance(block, str):
                yield nodes.paragraph("", "", *inline(typeset(block)))
                continue
            columns = [column for row in block for column in row.columns()]
            parts = (
                nodes.paragraph("", "", *inline(items, display), classes=[name]) for name, items, display in columns
            )
            yield nodes.container("", *parts, classes=["formulas"])


def inline(items: list[Item], display: bool = False) -> Iterator[nodes.Node]:
    for kind, value in items:
        if kind == "math":
            yield nodes.math(value, value, display=display)
        elif kind == "code":
            yield nodes.literal(value, value)
        else:
            yield nodes.Text(value)


class LinksToDerivations(SphinxPostTransform):
    """Links `csrc/formulas/tanh.h`, or `tanh.h`, to the derivation that it contains."""

    default_priority = 100

    def run(self, **kwargs: Any) -> None:
        labels = self.env.domains.standard_domain.anonlabels
        for name in list(self.document.findall(nodes.literal)):
            header = name.astext().removeprefix("csrc/formulas/")
            if header.endswith(".h") and header in labels:
                page, place = labels[header]
                name.replace_self(make_refnode(self.app.builder, self.env.docname, page, place, name.deepcopy()))


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("derivation", Derivation)
    app.add_post_transform(LinksToDerivations)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

"""Converts LaTeX to MathML, which browsers show without scripts or fonts.

latex2mathml translates. Fixed here: primes, which it raises like any other superscript and thereby makes tiny, names,
which it splits into letters, and the spaces around signs, slashes, ~ and infinity.
"""

from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

PRIMES = {"\N{PRIME}", "\N{DOUBLE PRIME}", "\N{TRIPLE PRIME}"}
SIGNS = {"\N{MINUS SIGN}", "+", "\N{PLUS-MINUS SIGN}"}
CLOSING = {")", "]", "}", *PRIMES}


def mathml(latex: str, display: bool) -> str:
    """With `display`, fractions and sums have full height even within a line."""
    tree = ElementTree.fromstring(convert(latex, xmlns=""))
    tree.attrib = {"displaystyle": "true"} if display else {}
    for element in list(tree.iter()):
        _fix(element)
    return ElementTree.tostring(tree, encoding="unicode")


def _fix(element: Element) -> None:
    children = list(element)
    if element.tag in ("msup", "msubsup") and _prime_of(children[-1]) is not None:
        base, prime = Element("mrow"), Element("mo", lspace="0.05em", rspace="0")
        above = children[-1]
        prime.text = _prime_of(above)
        base.extend((children[0], prime))
        rest = [*children[1:-1], *list(above)[1:]]  # an index, or an exponent after the prime
        element[:] = [base, *rest]
        element.tag = {0: "mrow", 1: element.tag.replace("subsup", "sub")}[len(rest)]
    elif children and all(child.tag == "mi" and "mathvariant" in child.attrib for child in children):
        name = Element("mi")
        name.text = "".join(child.text or "" for child in children)
        element[:] = [name]
    for before, sign in zip((None, *element), element, strict=False):
        opens = before is None or (
            before.tag == "mo" and before.text not in CLOSING and before.get("form") != "postfix"
        )
        if sign.text in SIGNS and opens:
            sign.tag = "mo"
            sign.attrib.update(form="prefix", rspace="0")
    if element.tag == "mo" and element.text == "/":
        element.attrib.update(lspace="0.1em", rspace="0.1em")
    elif element.text == "~":
        element.tag, element.text = "mo", "\N{TILDE OPERATOR}"
    elif element.text == "\N{INFINITY}":
        element.tag = "mi"


def _prime_of(above: Element) -> str | None:
    first = above[0] if above.tag == "mrow" and len(above) else above
    return first.text if first.text in PRIMES else None


def _visit(self: HTML5Translator, node: nodes.Element) -> None:
    self.body.append(mathml(node.astext(), node.get("display", isinstance(node, nodes.math_block))))
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", (_visit, None), (_visit, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}

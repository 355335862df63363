"""Shows formulas as MathML, which browsers display without scripts or fonts."""

import re

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator


def mathml(latex: str, display: bool) -> str:
    """Converts LaTeX. With `display`, fractions and sums have full height even within a line."""
    # A group with two members: otherwise docutils attaches an index to the hat or the prime.
    latex = re.sub(r"(\\hat{[^}]*}|\\?\w+'+)(?=_)", r"{\1{}}", latex)
    text = re.sub(r"\n *", "", tex2mathml(latex))
    for old, new, space in (("'</mo><mo>'", "\N{DOUBLE PRIME}", 0.05), ("'", "\N{PRIME}", 0.05), ("/", "/", 0.1)):
        text = re.sub(rf"<mo[^>]*>{old}</mo>", f'<mo lspace="{space}em" rspace="{space}em">{new}</mo>', text)
    return text.replace("<math", '<math displaystyle="true"', 1) if display else text


def visit(self: HTML5Translator, node: nodes.Element) -> None:
    is_block = isinstance(node, nodes.math_block)
    math = mathml(node.astext(), node.get("display", is_block))
    self.body.append(f'<div class="math" tabindex="0">{math}</div>' if is_block else math)
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", (visit, None), (visit, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}

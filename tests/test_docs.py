"""The documentation typesets derivations correctly, has a page for everything public, and builds without warnings."""

import re
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from sphinx.util.inventory import InventoryFile
from test_docstrings import PUBLIC
from torch.testing import assert_close

import torchnotes
from docs.curves import derivatives, of_record
from docs.derivation import ROOT, blocks, comment
from docs.formula import Unreadable, latex
from docs.mathml import mathml
from docs.prose import typeset
from torchnotes.testing.operations import OPERATIONS

HEADERS = [path for path in sorted((ROOT / "csrc/formulas").glob("*.h")) if "\n\n  " in comment(path)]
MODULES = ("init.py", "signal/__init__.py", "optim/newton.py", "ops/normalization/sync_batch_norm.py")
DERIVATIONS = [*HEADERS, *(ROOT / "torchnotes" / name for name in MODULES)]
by_derivation = pytest.mark.parametrize("path", DERIVATIONS, ids=lambda path: path.stem)

# Translated by hand from the headers. DISPLAYED are formulas on lines of their own.
DISPLAYED = {
    "s(z) = 1 / (1 + e^-z)": r"s(z) = \frac{1}{1 + e^{-z}}",
    "s''(z) = s (1 - s)(1 - 2s) = 2s^3 - 3s^2 + s": r"s''(z) = s\,(1 - s)(1 - 2s) = 2s^{3} - 3s^{2} + s",
    "t'(z) = 4 e^2z / (e^2z + 1)^2 = 1 - t^2": r"t'(z) = \frac{4\,e^{2z}}{(e^{2z} + 1)^{2}} = 1 - t^{2}",
    "v = sum (x_i - mu)^2 / n": r"v = \frac{\sum (x_{i} - \mu)^{2}}{n}",
    "x^_i = (x_i - mu) r": r"\hat{x}_{i} = (x_{i} - \mu)\,r",
    "dL/dx_i = gamma r (d_i - 1/n sum_j d_j - x^_i 1/n sum_j d_j x^_j)": (
        r"\frac{dL}{dx_{i}} = \gamma\,r\,\left(d_{i} - \frac{1}{n}\,\sum\limits_{j} d_{j}"
        r" - \hat{x}_{i}\,\frac{1}{n}\,\sum\limits_{j} d_{j}\,\hat{x}_{j}\right)"
    ),
    "dx^_i/dx_j = [i = j] - 1/n": r"\frac{d\hat{x}_{i}}{dx_{j}} = [i = j] - \frac{1}{n}",
    "n v = sum (x_i - k)^2 - (sum (x_i - k))^2 / n": (
        r"n\,v = \sum (x_{i} - k)^{2} - \frac{\left(\sum (x_{i} - k)\right)^{2}}{n}"
    ),
    "z = f^-1(y)": r"z = f^{-1}(y)",
    "(dl/dx)/w = (1 - y) - L s(-x)": r"\frac{dl/dx}{w} = (1 - y) - L\,s(-x)",
    "(d2l/dx2)/w = L s (1 - s) >= 0": r"\frac{d^{2}l/dx^{2}}{w} = L\,s\,(1 - s) \geq 0",
    "d2l/du_i du_j = k p_i ([i = j] - p_j) + 2 z m p_i p_j": (
        r"\frac{d^{2}l}{du_{i}\,du_{j}} = k\,p_{i}\,([i = j] - p_{j}) + 2\,z\,m\,p_{i}\,p_{j}"
    ),
    "p_j = e^(u_j - lse)": r"p_{j} = e^{u_{j} - \mathrm{lse}}",
    "diag(y^) - y^ y^^T": r"\mathrm{diag}(\hat{y}) - \hat{y}\,\hat{y}^{T}",
    "c'_j = -2 (u_j / s^2) c_j": r"c'_{j} = -2\,\left(\frac{u_{j}}{s^{2}}\right)\,c_{j}",
    "dG.v/dg = sum_j (k p_j - a_j) v_j": r"\frac{dG \cdot v}{dg} = \sum\limits_{j} (k\,p_{j} - a_{j})\,v_{j}",
    "(H v)_j = g { p_j [c_j v_j - d] + c'_j v_j }": r"(H\,v)_{j} = g\,\{p_{j}\,[c_{j}\,v_{j} - d] + c'_{j}\,v_{j}\}",
    "E[dJ/dw_i] = -x_i (t - sum_{k != i} w_k x_k)": (
        r"E\left[\frac{dJ}{dw_{i}}\right] = -x_{i}\,\left(t - \sum\limits_{k \neq i} w_{k}\,x_{k}\right)"
    ),
    "d = ± min(1, c / (|g| + 1e-6)) g": r"d = \pm \mathrm{min}\left(1, \frac{c}{\left|g\right| + 10^{-6}}\right)\,g",
    "g = dE/dw = (dSE/dw) / S": r"g = \frac{dE}{dw} = \frac{dSE/dw}{S}",
    "z_ij = sum_l x_il W_jl + b_j": r"z_{ij} = \sum\limits_{l} x_{il}\,W_{jl} + b_{j}",
    "delta^l = delta^(l+1) W * f'(z^l)": r"\delta^{l} = \delta^{l + 1}\,W * f'(z^{l})",
    "v_x . dL/dx = delta . V": r"v_{x} \cdot \frac{dL}{dx} = \delta \cdot V",
    "w' = w - eta m^ / (sqrt(v^) + eps)": r"w' = w - \frac{\eta\,\hat{m}}{\sqrt{\hat{v}} + \varepsilon}",
    "v^ = v' / (1 - beta2^t)": r"\hat{v} = \frac{v'}{1 - \beta_{2}^{t}}",
    "C = sqrt(v' - m'^2) + eps": r"C = \sqrt{v' - m'^{2}} + \varepsilon",
    "rho_h(r) = (tau - sigma) r/2 + r^2/(4h) + h/4": (
        r"\rho_{h}(r) = (\tau - \sigma)\,\frac{r}{2} + \frac{r^{2}}{4h} + \frac{h}{4}"
    ),
    "d2rho_h/df2 = 1/(2h)": r"\frac{d^{2}\rho_{h}}{df^{2}} = \frac{1}{2h}",
    "dw/dmean = 1": r"\frac{dw}{d\mathrm{mean}} = 1",
    "sin (pi/2 r) = r S(r^2)": r"\sin\,\left(\frac{\pi}{2}\,r\right) = r\,S(r^{2})",
    "r = sqrt(-ln min(p, 1 - p))": r"r = \sqrt{-\ln\,\mathrm{min}(p, 1 - p)}",
    "[1/sqrt 2, sqrt 2)": r"\left[\frac{1}{\sqrt{2}}, \sqrt{2}\right)",
    "F(x) = (Phi((x - mean)/std) - Phi(alpha)) / (Phi(beta) - Phi(alpha))": (
        r"F(x) = \frac{\Phi((x - \mathrm{mean})/\mathrm{std}) - \Phi(\alpha)}{\Phi(\beta) - \Phi(\alpha)}"
    ),
    "(c0, c1) <- (q_high ^ c1 ^ k0, q_low)": (
        r"(c_{0}, c_{1}) \leftarrow (q_{\mathrm{high}} \oplus c_{1} \oplus k_{0}, q_{\mathrm{low}})"
    ),
    "w % 16": r"w \bmod 16",
    "E|r + h U|": r"E\left|r + h\,U\right|",
    "e - f'(x) / f''(x) = f'''(xi) / (2 f''(x)) e^2": (
        r"e - \frac{f'(x)}{f''(x)} = \frac{f'''(\xi)}{2\,f''(x)}\,e^{2}"
    ),
    "|e_(k+1)| ~ C |e_k|^2": r"\left|e_{k + 1}\right| \sim C\,\left|e_{k}\right|^{2}",
    "f'(x*) = 0": r"f'(x^{*}) = 0",
    "-> 0": r"\to 0",
    "sum l / sum w": r"\frac{\sum l}{\sum w}",
}
AMONG_WORDS = {
    "|d|^2 / 2L": r"\left|d\right|^{2} / 2L",
    "p/(1 - p)": "p/(1 - p)",
    "dL/dx_i = gamma r d_i": r"dL/dx_{i} = \gamma\,r\,d_{i}",
    "(r^2 + h^2) / (2h)": r"(r^{2} + h^{2}) / (2h)",
    "s = sum e^(x_j - m)": r"s = \sum e^{x_{j} - m}",
}


@pytest.mark.parametrize("text", DISPLAYED)
def test_displayed_formulas(text: str):
    assert latex(text, display=True) == DISPLAYED[text]


@pytest.mark.parametrize("text", AMONG_WORDS)
def test_inline_formulas(text: str):
    assert latex(text) == AMONG_WORDS[text]


@pytest.mark.parametrize(
    "text",
    ("a / 2 pi", "a / b c", "a / b / c", "e^x_k", "1/ln 2", "ln x/2", "(a", "a)", "|a", "+", "a +", "a !", "word"),
)
def test_rejects_ambiguous_and_invalid_formulas(text: str):
    for display in (False, True):
        with pytest.raises(Unreadable):
            latex(text, display)


@pytest.mark.parametrize(
    ("text", "parts"),
    (
        (  # pinball_loss.h: "a" before a word is an article, h is a number
            "the half-width h of a window: rho_h(r) = E rho(r + h U) with U uniform in [-1, 1], which is convex",
            ["h", r"\rho_{h}(r) = E\,\rho(r + h\,U)", "U", "[-1, 1]"],
        ),
        ("at the kink z = 0 the subgradient a is taken", ["z = 0", "a"]),
        ("g where r > 0, else a g", ["g", "r > 0", r"a\,g"]),
        ("Here a c stands in the low half of 64 bits", ["c"]),
        ("In the mean-only form r = 1 is a constant", ["r = 1"]),
        (
            "A |lambda_i| up to n eps max |lambda|",
            [r"\left|\lambda_{i}\right|", r"n\,\varepsilon\,\mathrm{max}\,\left|\lambda\right|"],
        ),
        ("this is a sum of two terms >= 0, at the tau-quantile of y.", [r"\geq 0", r"\tau", "y"]),
        ("(y^ - y: the notes' y^ is p, their y is a)", [r"\hat{y} - y", r"\hat{y}", "p", "y", "a"]),
        ("torch's mean is the greatest (2015), 53 for double (8.7), -0 stays -0", []),
        (
            "w = mean + std x is N(mean, std^2)",
            [r"w = \mathrm{mean} + \mathrm{std}\,x", r"N(\mathrm{mean}, \mathrm{std}^{2})"],
        ),
        ("with M = sum a_j (of the operand) and y = ignored", [r"M = \sum a_{j}", "y ="]),
    ),
)
def test_finds_formulas_in_text(text: str, parts: list[str]):
    items = typeset(text)
    assert [item.value for item in items if item.kind == "math"] == parts
    assert not [item for item in items if item.kind == "unread"]


def test_finds_code_in_text():
    items = typeset("the derivative of `backward` (philox.h), as torch.nn.Sigmoid and may_invert say")
    code = [item.value for item in items if item.kind == "code"]
    assert code == ["backward", "philox.h", "torch.nn.Sigmoid", "may_invert"]


def columns(text: str) -> list[list[tuple[str, str]]]:
    (rows,) = blocks(text)
    return [
        [(name, "".join(item.value for item in items)) for name, items, _ in row.columns()]
        for row in rows
        if not isinstance(row, str)
    ]


TANH = """
   t'(z)  = 1 - t^2    greatest at z = 0, where it is 1;
                       -> 0 at both infinities
   t''(z) = -2 t
"""
LOSS = """
   l/w = -p y
       = x + L,              L = 1 + y,  by x = s
   f(z)  = z for z > 0        = max(a z, z)
"""
PHILOX = """
   ten times:   p = M0 c0, q = M1 c2          products
                c0 <- c1
                k0 <- k1
"""
TOGETHER = "   and        x = 0  y = 1    z = 2\n"
BROKEN = "   F(x) = (Phi(x) - 1) / (Phi(beta) -\n   Phi(alpha)) x = 2"


def test_columns_of_formulas():
    remark = r"greatest at z = 0, where it is 1; \to 0 at both infinities"
    assert columns(TANH) == [
        [("left", "t'(z)"), ("middle", "= 1 - t^{2}"), ("remark", remark)],
        [("left", "t''(z)"), ("rest", r"= -2\,t")],
    ]
    space = "\N{EM SPACE}"
    assert columns(LOSS) == [
        [("left", r"\frac{l}{w}"), ("rest", r"= -p\,y")],
        [("rest", f"= x + L,{space}L = 1 + y,{space}by x = s")],
        [("left", "f(z)"), ("rest", rf"= z for z > 0{space} = \mathrm{{max}}(a\,z, z)")],
    ]
    assert columns(PHILOX) == [
        [("label", "ten times:"), ("middle", r"p = M_{0}\,c_{0}, q = M_{1}\,c_{2}"), ("remark", "products")],
        [("rest", r"c_{0} \leftarrow c_{1}")],
        [("rest", r"k_{0} \leftarrow k_{1}")],
    ]

    assert columns(TOGETHER) == [[("label", "and"), ("middle", f"x = 0{space}y = 1"), ("remark", "z = 2")]]


def test_unreadable_lines_are_shown_verbatim():
    assert columns(BROKEN) == [[("whole", line.strip())] for line in BROKEN.splitlines()]


def source_symbols(text: str) -> str:
    return re.sub(r"[\s/^_(){}\[\]`]", "", text)


def latex_symbols(text: str) -> str:
    text = text.replace("10^{-6}", "1e-6").replace("10^{4}", "10^4")
    for command, word in {
        "varepsilon": "eps",
        "leq": "<=",
        "geq": ">=",
        "neq": "!=",
        "leftarrow": "<-",
        "to": "->",
    }.items():
        text = re.sub(rf"\\{command}\b", word, text)
    for command, word in {
        "sim": "~",
        "cdot": ".",
        "bmod": "%",
        "oplus": "",
        "pm": "±",
        "infty": "infinity",
        "ldots": "...",
    }.items():
        text = re.sub(rf"\\{command}\b", word, text)
    text = re.sub(r"\\(left|right|frac|hat|mathrm|limits)|\\,", "", text)
    return source_symbols(text.replace("\\", ""))


@by_derivation
def test_no_symbol_of_a_derivation_is_lost_or_moved(path: Path):
    """Apart from brackets, fraction bars, hats and indices, the symbols are in the order of the source."""
    typeset_text = ""
    for block in blocks(comment(path)):
        rows = [typeset(block)] if isinstance(block, str) else [c[1] for row in block for c in row.columns()]
        for kind, value in (item for row in rows for item in row):
            typeset_text += latex_symbols(value) if kind == "math" else source_symbols(value)
    assert typeset_text == source_symbols(comment(path))


@by_derivation
def test_every_formula_is_readable(path: Path):
    unread = []
    for block in blocks(comment(path)):
        if isinstance(block, str):
            unread += [item.value for item in typeset(block) if item.kind == "unread"]
        else:
            unread += [row.source for row in block if row.columns()[0][1][0].kind == "code"]
    assert unread == []


def test_mathml_of_primes_indices_and_slashes():
    prime = '<mo lspace="0.05em" rspace="0.05em">\N{PRIME}</mo>'
    assert f"<mi>f</mi>{prime}" in mathml("f'", False)
    assert prime.replace("\N{PRIME}", "\N{DOUBLE PRIME}") in mathml("f''", False)
    assert f"<msub><mrow><mi>c</mi>{prime}<mrow></mrow></mrow><mi>j</mi></msub>" in mathml("c'_{j}", False)
    assert "</mover><mrow></mrow></mrow><mi>i</mi></msub>" in mathml(r"\hat{x}_{i}", False)
    assert '<mo lspace="0.1em" rspace="0.1em">/</mo>' in mathml("a/b", False)
    assert mathml("x", True).startswith('<math displaystyle="true"')


def test_curves_are_derivatives():
    z = torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64)
    s = torch.sigmoid(z)
    expected = [s, s * (1 - s), s * (1 - s) * (1 - 2 * s)]
    assert_close(derivatives(torchnotes.functional.sigmoid, z), expected)
    assert_close(derivatives(torchnotes.functional.relu, z), [z.relu(), (z > 0).double(), 0 * z])


@pytest.mark.parametrize("name", OPERATIONS)
def test_plots_an_operation_without_an_entry(name: str):
    figure = Figure()
    of_record(name).draw(figure)
    for axes in figure.axes:
        (line, *_) = axes.get_lines()
        assert torch.as_tensor(line.get_ydata()).isfinite().sum() > 390  # of 401


def test_everything_public_is_documented(site: Path):
    inventory = InventoryFile.loads((site / "objects.inv").read_bytes(), uri="").data
    assert set(PUBLIC.values()) <= {*inventory["py:class"], *inventory["py:function"]}


def test_pages_are_complete(site: Path):
    pages = list((site / "reference").glob("*.html"))
    assert len(pages) > 20
    for page in pages:
        name = page.stem.split(".")[-1]
        html = page.read_text()
        assert "<math" in html
        assert re.search(rf'<img alt="[^"]{{20,}}" src="../_images/{name}.svg"', html)
        assert not re.findall(r'<(?:script|link|img|source)[^>]*(?:src|href)="(?:https?:)?//', html)  # self-contained


def test_links_and_measurements(site: Path):
    tanh = (site / "reference/torchnotes.functional.tanh.html").read_text()
    assert 'href="https://docs.pytorch.org/docs/stable/generated/torch.nn.Tanh.html#torch.nn.Tanh"' in tanh
    assert 'id="speed"' in tanh
    assert 'href="../reference/torchnotes.functional.tanh.html#tanh-h"' in (site / "notes/table.html").read_text()

"""Notebooks show reports as HTML, and every figure once. The cells run in a real kernel."""

import base64
import pickle
import re
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from xml.etree import ElementTree

import nbclient
import nbformat
import pytest
import torch

import torchnotes
from torchnotes import _html, nn, signal
from torchnotes._notebook import NotebookFigure

ROOT = Path(__file__).parents[1]
PREPARED = """
import sys
import torch
from torchnotes import convert, nn, signal
found = signal.propagation(nn.MLP((8, 8, 8)), torch.randn(4, 8))
"""
PYPLOT = "import matplotlib.pyplot as plt"
CELLS = {  # what runs in a cell, and how many figures it shows
    "last": ("found.plot()", 1),
    "in the middle": ("found.plot()\n1 + 1", 1),
    "assigned": ("figure = found.plot()", 1),
    "assigned and last": ("figure = found.plot()\nfigure", 1),
    "semicolon": ("found.plot();", 1),
    "displayed": ("display(found.plot())", 1),
    "printed": ("print(found.plot())", 1),
    "two": ("found.plot()\nfound.plot()", 2),
    "in a function": ("def f():\n    found.plot()\nf()", 1),
    "before an error": ("found.plot()\n1 / 0", 1),
    "again, in a later cell": ("figure", 1),
    "none": ("1 + 1", 0),
}


def outputs(cells: list[str]) -> list[list]:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    resources = {"metadata": {"path": str(ROOT)}}
    nbclient.NotebookClient(notebook, timeout=120, allow_errors=True, resources=resources).execute()
    return [cell["outputs"] for cell in notebook["cells"]]


def figures(of_cell: list) -> list[dict]:
    return [output for output in of_cell if "image/png" in output.get("data", {})]


@pytest.fixture(scope="module", params=("without pyplot", "with pyplot"))
def run(request: pytest.FixtureRequest) -> tuple[bool, dict[str, list]]:
    pyplot = request.param == "with pyplot"
    start = PREPARED + (PYPLOT if pyplot else "")
    ran = outputs([start, *(cell for cell, _ in CELLS.values()), "print('matplotlib.pyplot' in sys.modules)"])
    assert not ran[0], ran[0]
    return pyplot, dict(zip((*CELLS, "pyplot"), ran[1:], strict=True))


@pytest.mark.parametrize("name", CELLS)
def test_a_cell_shows_each_figure_once(run, name: str):
    found = figures(run[1][name])
    assert len(found) == CELLS[name][1]
    for output in found:
        assert base64.b64decode(output["data"]["image/png"]).startswith(b"\x89PNG")
        assert output["metadata"]["image/png"]["width"] == 900


def test_pyplot_is_not_imported(run):
    assert run[1]["pyplot"][0]["text"].strip() == str(run[0])


def test_a_figure_is_shown_as_it_is_when_the_cell_ends():
    """And not below later cells."""
    first, later = outputs([PREPARED + "figure = found.plot()\nfigure.set_size_inches(3, 3)", "1 + 1"])
    assert figures(first)[0]["metadata"]["image/png"]["width"] == 300
    assert not figures(later)


def test_a_program_gets_a_figure_and_no_window():
    program = PREPARED + (
        "figure = found.plot()\n"
        "import matplotlib.figure\n"
        "assert isinstance(figure, matplotlib.figure.Figure)\n"
        "assert not {'IPython', 'matplotlib.pyplot'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_a_terminal_of_ipython_shows_no_figure():
    program = PREPARED + "found.plot()\nprint('end')"
    command = [sys.executable, "-m", "IPython", "--no-banner", "--colors=NoColor", "-c", program]
    run = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True)
    assert run.stdout.split() == ["end"]


def test_figures_can_be_pickled():
    found = signal.propagation(nn.MLP((8, 8, 8)), torch.randn(4, 8))
    assert type(pickle.loads(pickle.dumps(found.plot()))) is NotebookFigure


def text_of(html: str) -> list[list[str]]:
    """The rows of its tables. Not well-formed HTML is an error."""
    root = ElementTree.fromstring(html)
    return [["".join(cell.itertext()) for cell in row] for row in root.iter("tr")]


def test_html_of_a_propagation():
    model = torch.nn.Sequential(OrderedDict({"<b>&": nn.Linear(8, 8, init="default")}))
    for _ in range(20):
        model.append(nn.Linear(8, 8, init="default"))
    model.unused = torch.nn.Module()
    model.unused.add_module("<i>", nn.Linear(2, 2))
    model.unused.forward = lambda x: x
    found = signal.propagation(model, torch.randn(4, 8))
    html = found._repr_html_()
    header, first, *_ = rows = text_of(html)
    assert header[:4] == ["layer", "kind", "k", "Var(w)"]
    assert first[:3] == ["<b>&", "Linear", "8"]
    assert len(rows) == 22
    paragraphs = ["".join(p.itertext()) for p in ElementTree.fromstring(html).iter("p")]
    assert paragraphs == [found.verdict, "not called: unused.<i>"]
    assert "vanishes" in found.verdict
    assert [" ".join(row).split() for row in rows[1:]] == [line.split() for line in str(found).splitlines()[2:23]]


def test_html_of_a_conversion():
    layers = {"<b>&": torch.nn.Linear(3, 3), "1": torch.nn.ReLU(), "2": torch.nn.GELU(), "3": torch.nn.Linear(3, 3)}
    report = torchnotes.convert(torch.nn.Sequential(OrderedDict(layers)))
    assert text_of(report._repr_html_()) == [
        ["conversion", "modules", "names"],
        ["replaced by Linear", "2", "<b>&, 3"],
        ["replaced by ReLU", "1", "1"],
        ["fused", "1", "<b>& with 1"],
        ["kept: GELU: torchnotes has no counterpart", "1", "2"],
    ]
    many = torchnotes.convert(torch.nn.Sequential(*(torch.nn.Tanh() for _ in range(5))))
    assert text_of(many._repr_html_())[1:] == [["replaced by Tanh", "5", "0, 1, 2, ..."]]


def test_html_leaves_the_rest_of_the_notebook_alone():
    """Every rule is confined to the snippet, and there are no colors, which may not suit the theme."""
    rules = re.findall(r"([^{}]+)\{([^{}]*)\}", _html.SNIPPET_STYLE)
    assert rules
    for selectors, declarations in rules:
        assert all(selector.strip().startswith(".torchnotes ") for selector in selectors.split(","))
        assert not re.search(r"color|background|font", declarations)


def test_cells_show_reports_as_html():
    prepared = PREPARED + "report = convert(torch.nn.Sequential(torch.nn.ReLU()))"
    _, (propagation,), (conversion,) = outputs([prepared, "found", "report"])
    for output, word in ((propagation, "Var(z)"), (conversion, "replaced by ReLU")):
        assert word in output["data"]["text/html"]
        assert output["data"]["text/plain"]

"""Notebooks show reports as HTML, and every figure once. The cells run in a real kernel."""

import base64
import pickle
import subprocess
import sys
from pathlib import Path

import nbclient
import nbformat
import pytest
import torch

from torchnotes import nn, signal
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

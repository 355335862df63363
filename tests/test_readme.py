"""The documents: their Python runs, their links and places exist, and the README's figures are the measured ones."""

import contextlib
import io
import re
from pathlib import Path

import pytest

from benchmarks import publish

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
MADE = ROOT / "docs/reference"  # by Sphinx, which checks it
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *(p for p in sorted((ROOT / "docs").rglob("*.md")) if MADE not in p.parents),
]
PROGRAMS = [README, (ROOT / "docs/semantics.md").read_text()]  # those of docs/scaling.md need several processes


@pytest.mark.parametrize("program", re.findall(r"```python\n(.*?)```", "".join(PROGRAMS), re.DOTALL))
def test_the_examples_run(program: str):
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(program, {})
    assert printed.getvalue()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path):
    links = re.findall(r"\]\((?!http|#)([^)#]+)", document.read_text())
    places = [document.parent / link for link in links]
    assert not [place for place in places if MADE not in place.parents and not place.exists()]


def test_code_and_decisions_name_each_other():
    """Every page is named where the code does what it explains, and every page that the code names exists."""
    sources = [p for folder in ("csrc", "torchnotes", "benchmarks") for p in (ROOT / folder).rglob("*.*")]
    code = "".join(p.read_text() for p in sources if p.suffix in (".py", ".h", ".cpp", ".cuh", ".cu"))
    pages = {p.name for p in (ROOT / "docs/decisions").glob("*.md")} - {"index.md"}
    assert set(re.findall(r"docs/decisions/([\w-]+\.md)", code)) == pages


@pytest.mark.parametrize("document", ("NOTES.md", "CONTRIBUTING.md"))
def test_code_and_tests_named_in_documents_exist(document: str):
    named = re.findall(r"`((?:csrc|tests|torchnotes)/[\w/.]+)`", (ROOT / document).read_text())
    places = [place for place in named if "X." not in place]  # X stands for any operation
    assert places
    assert not [place for place in places if not (ROOT / place).exists()]


def test_commands_exist():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    documents = README + (ROOT / "CONTRIBUTING.md").read_text()
    commands = re.findall(r"(?:^|`)make ([a-z-]+)", documents, re.MULTILINE)
    assert {"train", "test", "test-all"} <= set(commands) <= set(targets)


def test_figures_are_those_of_the_results():
    assert f"{publish.BEGIN}\n{publish.summary()}{publish.END}" in README

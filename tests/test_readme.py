"""The documents: their code runs, their links and references exist, and the README's figures are the measured ones."""

import contextlib
import doctest
import io
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks import publish

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
PROGRAM = re.compile(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", re.DOTALL)  # and what it prints
PAGES = [  # the programs of docs/howto/processes.md need several processes
    page for page in DOCUMENTS if PROGRAM.search(page.read_text()) and page.name != "processes.md"
]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_programs_print_what_the_page_shows(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for program, expected in PROGRAM.findall(page.read_text()):
        if page.name == "README.md":  # each of its programs is complete
            names = {}
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(program, names)
        got = printed.getvalue()
        assert not expected or doctest.OutputChecker().check_output(expected, got, doctest.ELLIPSIS), got


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_exist(document: Path):
    prose = re.sub(r"(?s)^```.*?^```", "", document.read_text(), flags=re.MULTILINE)
    links = re.findall(r"\]\((?!http|#)([^)#]+)", prose)
    places = [document.parent / link for link in links]
    assert not [place for place in places if not place.exists()]


def test_code_and_decisions_refer_to_each_other():
    """Code names every page of docs/decisions, and every page that the code names exists."""
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


def test_figures_match_the_results():
    assert f"{publish.BEGIN}\n{publish.summary()}{publish.END}" in README

"""The notes have a page and a notebook each, in an order, whose numbers are computed when the site is built."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTES = ROOT / "docs/notes"
# In the order of the table of contents
PAGES = [
    name
    for toctree in re.findall(r"(?s):maxdepth: 1\n\n(.*?)```", (NOTES / "index.md").read_text())
    for name in toctree.split()
]
by_page = pytest.mark.parametrize("name", PAGES)


def prose_and_code(name: str) -> tuple[str, str]:
    text = (NOTES / f"{name}.md").read_text()
    code = re.findall(r"(?s)```{code-cell} python\n(?:---\n.*?\n---\n)?(.*?)```", text)
    return re.sub(r"(?s)^---.*?---|```.*?```", "", text), "\n".join(code)


def test_every_row_of_the_table_has_a_page():
    rows = re.findall(r"(?m)^\| \[(\d+)\]\(docs/notes/([\w-]+)\.md\) \|", (ROOT / "NOTES.md").read_text())
    assert [int(number) for number, _ in rows] == list(range(1, 29))
    assert sorted(page for _, page in rows) == sorted(PAGES)


@by_page
def test_pages_have_the_same_parts_and_lead_to_the_next(name: str):
    prose, code = prose_and_code(name)
    assert re.findall(r"(?m)^## (.*)", prose) == ["Statement", "Derivation", "Example"]
    assert "assert" in code
    following = [*PAGES, "../tutorial"][PAGES.index(name) + 1]
    assert f"]({following}.md)" in prose.rpartition("**Next:**")[2]


@by_page
def test_results_are_not_written_by_hand(name: str):
    assert re.findall(r".*\d\.\d.*", prose_and_code(name)[0]) == []


@by_page
def test_notebooks_are_executed(name: str, site: Path):
    """The site's notebook has the output of every cell and needs nothing from the site."""
    notebook = json.loads((site / f"notes/{name}.ipynb").read_text())
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in cells)
    outputs = [output for cell in cells for output in cell["outputs"]]
    # neither warnings nor the value of a last line
    assert {(output["output_type"], output.get("name")) for output in outputs} <= {
        ("stream", "stdout"),
        ("display_data", None),
    }
    assert any(output["output_type"] == "stream" for output in outputs)
    text = "".join("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    for target in re.findall(r"\]\(([^)]*)\)", text):
        assert target.startswith("https:") or (site / "notes" / target).exists()
    html = (site / f"notes/{name}.html").read_text()
    assert f'href="{name}.ipynb"' in html
    assert all(re.search(r'alt="[^"/.]{20,}"', image) for image in re.findall("<img[^>]*_images[^>]*>", html))

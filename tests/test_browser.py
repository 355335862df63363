"""The HTML pages in a real browser, and that the helper notices what is wrong with a page."""

import re
from pathlib import Path

import pytest

from browser import chromium, contrast, luminance, problems
from torchnotes import _html
from torchnotes.__main__ import main


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


def test_contrast_by_hand():
    """Black on white has the greatest contrast; #767676 is the lightest gray with 4.5 on white."""
    white, black = luminance([255] * 3), luminance([0] * 3)
    assert contrast(white, black) == pytest.approx(21)
    assert contrast(white, luminance([0x76] * 3)) > 4.5 > contrast(white, luminance([0x77] * 3))


def test_the_report_of_a_training(browser, blobs: Path, tmp_path: Path):
    output = tmp_path / "with spaces"
    assert main(["train", "--data", str(blobs), "--epochs", "2", "--threads", "1", "--output", str(output)]) == 0
    assert "<img alt=" in (output / "report.html").read_text()
    assert problems(browser, output / "report.html") == []


def test_the_documentation(browser, site: Path):
    pages = [page for folder in (".", "notes", "howto", "reference") for page in sorted((site / folder).glob("*.html"))]
    assert len(pages) > 70
    assert problems(browser, *pages) == []


@pytest.mark.parametrize("options", ([], ["--data", "prices.csv"], ["--data", "prices.csv", "--target", "color"]))
def test_the_mistakes_in_a_report(browser, tmp_path: Path, monkeypatch, options):
    """Images of digits, and tables of many columns with long names."""
    monkeypatch.chdir(tmp_path)
    lines = (
        ",".join((str(i % 7), ("red", "green")[i % 2], *(str(i * k % 11) for k in range(30)), f"{i % 13}.5"))
        for i in range(99)
    )
    names = ",".join(("size", "color", *(f"a column with a long name {k}" for k in range(30)), "price"))
    Path("prices.csv").write_text("\n".join((names, *lines)))
    assert main(["train", *options, "--epochs", "1", "--threads", "1", "--output", "run"]) == 0
    assert re.search("<h3>(Worst mistakes|Largest errors)", Path("run/report.html").read_text())
    assert problems(browser, tmp_path / "run/report.html") == []


WIDE = _html.table(["a" * 40] * 20, [["1" * 40] * 20])


@pytest.mark.parametrize(
    ("part", "complaint"),
    (
        (WIDE, None),
        (_html.preformatted("x" * 500), None),
        (_html.paragraph("x" * 500), None),
        (WIDE.replace('class="scroll"', ""), "pixels wider than the window"),
        ('<img src="data:image/svg+xml,<svg xmlns=%22http://www.w3.org/2000/svg%22/>">', "image without alt"),
        ('<img alt="a" src="missing.png">', "request: file:///.*missing.png"),
        ('<img alt="a" src="data:image/png;base64,AAAA">', "image that cannot be shown"),
        ('<script src="https://example.com/script.js"></script>', "request: https://example.com/script.js"),
        ("<script>absent()</script>", "script: absent is not defined"),
        ("<script>console.error('from a script')</script>", "console: from a script"),
        ("<script>document.querySelector('meta[name=viewport]').remove()</script>", "as wide as on a screen"),
        ("<style>body { color: #777 }</style>", "text of contrast 4"),
        ("<style>body { background: white }</style>", "dark: a background of luminance 1.00"),
    ),
)
def test_problems_are_noticed(browser, tmp_path: Path, part: str, complaint: str | None):
    path = tmp_path / "page.html"
    path.write_text(_html.page("A page", [part]))
    found = problems(browser, path)
    assert bool(found) == bool(complaint), found
    assert any(re.search(complaint or "", problem) for problem in found) == bool(complaint), found

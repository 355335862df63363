"""The report of `train`, and how quantities are written."""

import base64
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import torchnotes
from torchnotes import _html
from torchnotes._units import duration, size
from torchnotes.classifier.comparison import Result
from torchnotes.classifier.tasks import Classes
from torchnotes.cli import _figures
from torchnotes.cli._report import headline

ROOT = Path(torchnotes.__file__).parents[1]


@pytest.mark.parametrize(
    ("seconds", "text"),
    (
        (0, "0 ns"),
        (4.2e-8, "42 ns"),
        (9.994e-4, "999 µs"),
        (9.996e-4, "1 ms"),
        (0.060896, "60.9 ms"),
        (1.2345, "1.23 s"),
        (4321, "4,320 s"),
    ),
)
def test_durations_have_three_digits_and_a_fitting_unit(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(("count", "text"), ((0, "0 B"), (812, "812 B"), (44_312, "44.3 kB"), (1.5e12, "1,500 GB")))
def test_sizes_have_three_digits_and_a_fitting_unit(count, text):
    assert size(count) == text


def result(name, seconds, accuracy=0.975, rows=1234):
    """All predictions are right, with a probability of 1."""
    output, y = torch.tensor([[0.0, 100.0]]).repeat(rows, 1).double(), torch.ones(rows, dtype=torch.long)
    return Result(name, Classes(("a", "b")), accuracy, 0.1, seconds, 1000, 1e-7, output, y)


@pytest.mark.parametrize(
    ("ours", "torchs", "speed"),
    (
        (0.0012, 0.00168, "a step took 1.2 ms, 1.4 times as fast as torch"),
        (0.0012, 0.0006, "a step took 1.2 ms, 2.0 times as long as with torch"),
        (0.0012, 0.00122, "a step took 1.2 ms, as long as with torch"),
        (0.0012, 0.00118, "a step took 1.2 ms, as long as with torch"),
        (1.04e-8, 1e-8, "a step took 10.4 ns, as long as with torch"),
        (1e-8, 1.06e-8, "a step took 10 ns, 1.1 times as fast as torch"),
    ),
)
def test_the_headline_is_computed_from_the_results(ours, torchs, speed):
    results = [result("torchnotes", ours), result("torch", torchs)]
    assert headline(results) == f"97.5% of 1,234 test rows classified correctly; {speed}"


def drawing(image):
    """The source of an SVG image."""
    return base64.b64decode(re.search(r"base64,([\w+/=]+)", image)[1]).decode()


def test_figures_are_described_and_suit_both_themes():
    results = [result("torchnotes", 1, rows=12), result("torch", 1, rows=12)]
    reliability, histogram = _figures.calibration(results)
    assert 'alt="Accuracy by predicted probability. The calibration error is 0.0% for torchnotes, ' in reliability
    assert (
        'alt="Number of test rows by predicted probability. Above 90%: 12 for torchnotes, 12 for torch."' in histogram
    )
    for image in (reliability, histogram):
        source = drawing(image)
        assert re.search(r'id="patch_1">\s*<path [^>]*style="([^"]*)"', source)[1] == "fill: none"  # the background
        texts = re.findall(r'<g id="text_\d+">\s*<!--.*?-->\s*<g style="([^"]*)"', source)
        assert len(texts) == source.count('<g id="text_') > 10
        assert all(f"fill: {_html.GREY}" in style for style in texts)


def test_text_from_data_is_escaped():
    page = _html.page("<b>", [_html.table(["<i>"], [["&"]]), _html.paragraph("<u>"), _html.preformatted("<s>")], "<h>")
    assert not re.search("<[biush]>", page)
    for escaped in (
        "<title>&lt;b&gt;",
        "<h1>&lt;h&gt;",
        "<th>&lt;i&gt;",
        "<td>&amp;",
        "<p>&lt;u&gt;",
        "&lt;s&gt;</pre>",
    ):
        assert escaped in page


@pytest.mark.parametrize("absent", ("matplotlib", "matplotlib rich sklearn"))
def test_trains_without_optional_packages(blobs, tmp_path, absent):
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({absent.split()}))\n"
        "from torchnotes.__main__ import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    train = ["train", "--data", str(blobs), "--epochs", "1", "--threads", "1", "--output", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code, *train], env=environment, cwd=ROOT, capture_output=True, check=True)
    report = (tmp_path / "report.html").read_text()
    assert "<img" not in report
    assert "No figures: this requires matplotlib, which is not installed:" in report
    assert "-m pip install" in report

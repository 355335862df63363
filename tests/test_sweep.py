"""The sweep: its cases, what counts as a loss, and its page."""

import math

import pytest
import torch

from benchmarks import families, instructions, publish, sweep, sweep_page
from benchmarks.families import SweepCase
from benchmarks.timing import OURS, Problem
from torchnotes.testing.operations import OPERATIONS


def test_cases_cover_every_operation_and_have_distinct_names():
    cases = list(families.cases())
    measured_elsewhere = {"sync_batch_norm", "gaussian_dropout_penalty"}
    others = {"sgd", "adam", "adamw", "rmsprop", "gradient_norm", "uniform", "normal", "trunc_normal"}
    assert {case.family for case in cases} == (OPERATIONS.keys() - measured_elsewhere) | others
    names = [(case.family, case.name, case.elements, case.dtype) for case in cases]
    assert len(names) == len(set(names))
    assert {case.family for case in cases if case.quick} == {case.family for case in cases}


@pytest.mark.parametrize(
    "case", [case for case in families.cases() if case.elements < 5000], ids=lambda case: case.family
)
def test_small_cases_compute_the_same_as_torch(case: SweepCase):
    sweep.prepared(case, compiled=False)


def test_a_wrong_result_is_not_timed():
    wrong = Problem({OURS: lambda: (torch.ones(3),), "eager": lambda: (torch.zeros(3),)}, lambda: (torch.zeros(3),), 1)
    with pytest.raises(AssertionError, match=f"{OURS} computes something else"):
        sweep.prepared(SweepCase("relu", "wrong", 3, torch.float32, lambda: wrong), compiled=False)


@pytest.mark.parametrize(("ratios", "measured", "kept"), (((1.2,), 1, 1.2), ((0.8, 1.1), 2, 1.1), ((0.8, 0.7), 2, 0.7)))
def test_losses_are_measured_again(monkeypatch: pytest.MonkeyPatch, ratios, measured, kept):
    rows = iter(ratios)
    calls = []

    def measure(case, compiled, patience=1):
        calls.append(patience)
        return {"ratio": next(rows)}

    monkeypatch.setattr(sweep, "measure", measure)
    assert sweep.measure_twice(next(families.cases()), compiled=False) == {"ratio": kept}
    assert calls == [1, 3][:measured]


@pytest.fixture
def rows():
    of_all = {"machine": "a machine", "instructions": "AVX2", "threads": "2", "torch": "2", "commit": "c"}
    shared = {"dtype": "float32", "rival": "eager", "copy_fraction": ""} | of_all
    ratios = {"relu": (1.0, 2.0, 3.0), "softmax": (0.5, 1.5, 4.0)}
    return [
        shared | {"family": family, "case": f"case {i}", "elements": "8", "ratio": str(ratio)}
        for family, several in ratios.items()
        for i, ratio in enumerate(several)
    ]


def test_summary_lists_the_worst_operation_first(rows):
    lines = sweep_page.summary(rows, publish.table).splitlines()
    assert lines[0] == "| least / lower quartile / median | a machine, AVX2, 2 threads |"
    assert lines[2:] == ["| softmax | **0.50** / 1.00 / 1.50 |", "| relu | 1.00 / 1.50 / 2.00 |"]


def test_readme_shows_the_most_threads_of_each_machine(rows):
    alone = [row | {"threads": "1"} for row in rows]
    another = [row | {"threads": "10", "machine": "another"} for row in rows]
    assert sweep_page.with_most_threads([*alone, *rows, *another]) == [*rows, *another]


def test_section_lists_losses_and_the_share_of_the_bandwidth(rows, tmp_path):
    rows[3]["copy_fraction"] = "0.9"
    counts = [{"operation": "relu", "case": "training", "instructions": "AVX2", "torchnotes": "1.5", "rival": "3"}]
    text = sweep_page.section(rows, counts, publish.table, "plot.png")
    assert "1 of 6 cases are slower" in text
    assert "- 0.50: softmax, case 0, float32, 8 elements (eager)" in text
    assert "| softmax | 0.90 | 0.90 |" in text
    assert "| relu | training | 1.50 / 3.00 |" in text
    sweep_page.draw(rows, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 0


def test_section_compares_threads(rows):
    for row in rows:
        row |= {"elements": "65536", "torchnotes_us": "10", "rival_us": "20"}
    alone = [row | {"threads": "1", "torchnotes_us": "18", "rival_us": "30"} for row in rows]
    text = sweep_page.threads([*rows, *alone], publish.table)
    assert "| relu | AVX2 | 2 | 1.80 | 1.50 |" in text
    assert sweep_page.threads(rows, publish.table) == ""


def test_single_steps_count_instructions():
    def loop(n: int):
        return lambda: sum(range(n))

    few, more = instructions.count(loop(100)), instructions.count(loop(200))
    assert 100 < more - few < 20_000  # some per iteration
    assert instructions.count(loop(100)) == pytest.approx(few, rel=0.02)


def test_report_lists_losses_first(rows):
    for row in rows:
        row["ratio"] = float(row["ratio"])
    lines = sweep.report(rows).splitlines()
    assert lines[0] == "1 of 6 cases are slower than torch:"
    assert lines[1].split()[:2] == ["0.50", "softmax"]
    assert lines[-1].split()[0] == "relu"


def test_quick_mode_measures_fewer_cases():
    quick, full = (sweep.selected(["softmax"], ["bfloat16"], full) for full in (False, True))
    assert 0 < len(quick) < len(full)
    assert all(case.dtype == torch.bfloat16 for case in full)
    assert math.prod((1024, 16)) in {case.elements for case in quick}

"""The performance model of distributed training, and the page that presents it."""

import pytest

from benchmarks import publish, scaling, scaling_page
from benchmarks.scaling import LARGEST, SMALLEST, STEPS, WORKS, all_reduce


@pytest.fixture
def rows():
    """A latency of 10 µs with 2 processes and 30 µs with 4; 1e-3 µs per byte; steps of 1000 µs on one of 2 cores."""
    times = {work.name: {1: 1000.0, 2: 700.0, 4: 900.0} for work in WORKS}
    times[all_reduce(SMALLEST).name] = {1: 1.0, 2: 10.0, 4: 30.0}
    times[all_reduce(LARGEST).name] = {1: 1.0, 2: 10 + LARGEST / 1e3, 4: 30 + 1.5 * LARGEST / 1e3}
    of_all = {"cores": "2", "machine": "a machine", "torch": "2", "commit": "c"}
    return [
        {"case": name, "processes": str(n), "median_us": str(us), **of_all}
        for name, by in times.items()
        for n, us in by.items()
    ]


def test_model_by_hand(rows):
    machine = scaling_page.Machine({(row["case"], int(row["processes"])): row for row in rows})
    (work,) = (work for work in STEPS if work.setup is scaling.split_classes)  # sends (N - 1) (16 + 32 x 256) bytes
    assert machine.bandwidth(2) == pytest.approx(1e3)
    assert machine.by_the_model(work, 2) == pytest.approx(1000 / 2 + 2 * 10 + 8208 / 1e3)
    assert machine.by_the_model(work, 4) == pytest.approx(1000 / 2 + 2 * 30 + 3 * 8208 / 1e3)
    assert machine.on_cores_of_their_own(work, 8) == pytest.approx(1000 / 8 + 2 * 7 * 10 + 7 * 8208 / 1e3)


def test_the_page_lists_every_step_twice(rows):
    text = scaling_page.section(rows, publish.table)
    assert all(text.count(work.name) == 2 for work in STEPS)
    assert "| 2 | 10 µs | 1 GB/s |" in text


def test_refuses_to_time_a_wrong_result():
    rows = [{"case": "step", "processes": n, "loss": loss} for n, loss in ((1, 0.5), (2, 0.5 + 1e-7))]
    scaling.check([dict(row) for row in rows])
    rows[1]["loss"] = 0.501
    with pytest.raises(AssertionError, match="step: 2 processes compute something else than one"):
        scaling.check(rows)

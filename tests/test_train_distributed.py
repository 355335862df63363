"""`train` by several processes: the same training as by one, and how it ends when one of them does."""

import contextlib
import os
import signal
import subprocess
import textwrap
import time
from pathlib import Path

import pytest
import torch
from test_train import ROOT, quick, state_of

from torchnotes.__main__ import main
from torchnotes.classifier.checkpoint import load
from torchrun import launcher

RANKS = 2
LIMIT = 120  # seconds until a launcher has ended, on a busy machine


@contextlib.contextmanager
def launched(*arguments):
    """torchrun, ended with all that it has started."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # a child would inherit that it is ignored
    process = subprocess.Popen(
        [*launcher(RANKS), *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    signal.signal(signal.SIGINT, handler)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)  # which it passes on, other than SIGKILL
            process.communicate(timeout=LIMIT)


def finished(*arguments):
    with launched(*arguments) as process:
        out, err = process.communicate(timeout=LIMIT)
    return process.returncode, out, err


def endless(folder):
    return "-m", "torchnotes", *quick("--output", folder, "--epochs", "100000")


def wait_for_an_epoch(process, folder):
    while not (folder / "training.pt").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)


def test_any_number_of_processes_goes_the_same_way(blobs, tmp_path):
    """105 rows in batches of 17: parts of 9 and 8, and in the end 3 rows, of which the second process has none."""

    def command(folder, epochs, *more):
        options = "--noise", "0", "--dtype", "float64", "--batch-size", "17", "--epochs", epochs
        return quick("--data", blobs, "--output", tmp_path / folder, *options, *more)

    assert main(command("one", 6)) == 0
    assert main(command("several", 2)) == 0
    status, out, err = finished("-m", "torchnotes", *command("several", 4, "--resume"))
    assert status == 0, err
    assert out.count("105 rows to learn from") == 1
    assert out.count("By torch each process normalises by the statistics of its own rows") == 1
    assert f"in each of {RANKS} processes" in (tmp_path / "several/report.html").read_text()
    assert main(command("several", 6, "--resume")) == 0
    one, several = (state_of(tmp_path / folder)["torchnotes"] for folder in ("one", "several"))
    for kind in ("train_loss", "validation_loss", "train_accuracy", "validation_accuracy", "gradient_norms"):
        values = [[epoch[kind] for epoch in state["epochs"]] for state in (one, several)]
        torch.testing.assert_close(*map(torch.tensor, values), rtol=1e-9, atol=1e-12)
    for name, x in one["model"].items():
        torch.testing.assert_close(several["model"][name], x, rtol=1e-9, atol=1e-12)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the processes by what Linux says of them")
def test_when_one_is_killed_all_end_and_the_training_can_be_resumed(tmp_path):
    with launched(*endless(tmp_path)) as process:
        wait_for_an_epoch(process, tmp_path)
        os.kill(worker(process.pid, rank=1), signal.SIGKILL)
        start = time.monotonic()
        _, err = process.communicate(timeout=LIMIT)
    assert time.monotonic() - start < 60
    assert process.returncode != 0
    assert "Signal 9 (SIGKILL)" in err
    assert "rank      : 1 " in err
    done = len(state_of(tmp_path)["torch"]["epochs"])
    assert done >= 1
    assert main(quick("--output", tmp_path, "--epochs", done + 1, "--resume")) == 0
    assert len(state_of(tmp_path)["torch"]["epochs"]) == done + 1


def worker(launcher, rank):
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    (found,) = (pid for pid in children if f"\0RANK={rank}\0" in Path(f"/proc/{pid}/environ").read_text())
    return int(found)


def test_an_interruption_ends_all_and_keeps_the_model_and_the_report(tmp_path):
    with launched(*endless(tmp_path)) as process:
        wait_for_an_epoch(process, tmp_path)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=LIMIT)
    assert process.returncode != 0
    assert err.count("Interrupted after ") == 1
    assert "Interrupted after " in (tmp_path / "report.html").read_text()
    assert "\ntorchnotes " in out
    assert load(tmp_path / "model.pt").source == "digits"
    assert len(state_of(tmp_path)["torchnotes"]["epochs"]) >= 1


@pytest.mark.parametrize(
    ("options", "complaint"),
    (
        (("--epochs", "ten"), "python -m torchnotes train: error: argument --epochs: 'ten' is not a whole number"),
        (("--data", "none.csv"), "python -m torchnotes train: error: none.csv cannot be read: "),
    ),
)
def test_what_is_refused_is_refused_in_one_line(tmp_path, options, complaint):
    status, _, err = finished("-m", "torchnotes", *quick("--output", tmp_path / "run", *options))
    assert status != 0
    assert err.count(": error: ") == 1
    assert complaint in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("failure", "complaint"),
    (("1 / 0", "ZeroDivisionError: division by zero"), ("time.sleep(600)", "Timed out waiting 5000ms")),
)
def test_the_error_of_one_process_ends_all_and_is_shown(blobs, tmp_path, failure, complaint):
    """In its second epoch one process fails, or answers no more."""
    program = tmp_path / "failing.py"
    program.write_text(
        textwrap.dedent(f"""
        import itertools, os, sys, time
        from torchnotes.__main__ import recorded_main
        from torchnotes.classifier import training

        learned, calls = training.learned, itertools.count()

        def failing(*arguments):
            if os.environ["RANK"] == "1" and next(calls) == 2 * 13 + 3:  # networks and batches of an epoch, and some
                {failure}
            return learned(*arguments)

        training.learned = failing
        sys.exit(recorded_main())
        """)
    )
    status, _, err = finished(program, *quick("--data", blobs, "--output", tmp_path, "--timeout", 5))
    assert status != 0
    report = err[err.index("ChildFailedError") :]
    assert complaint in report
    assert len(state_of(tmp_path)["torch"]["epochs"]) == 1

"""`train` by several processes: the same training as by one, and how it ends when one of them does."""

import contextlib
import signal
import subprocess
import textwrap
import time

import pytest
import torch
from test_main import ROOT, refusal
from test_train import quick, state_of, trained

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


def test_any_number_of_processes_goes_the_same_way(blobs, tmp_path):
    """One process, then several until Ctrl-C, which keeps the model and the report, and then one again.

    105 rows in batches of 17: parts of 9 and 8, and in the end 3 rows, of which the second process has none.
    """
    options = dict(noise=0.0, dtype="float64", batch_size=17)
    trained(blobs, tmp_path, epochs=1, **options)
    command = quick("--data", blobs, "--output", tmp_path, "--noise", "0", "--dtype", "float64", "--batch-size", "17")
    with launched("-m", "torchnotes", *command, "--epochs", "100000", "--resume") as process:
        while len(state_of(tmp_path)["torch"]["epochs"]) < 2:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=LIMIT)
    assert process.returncode != 0
    assert err.count("Interrupted after ") == 1
    assert "\ntorchnotes " in out
    assert out.count("105 rows to learn from") == 1
    assert out.count("By torch each process normalises by the statistics of its own rows") == 1
    report = (tmp_path / "report.html").read_text()
    assert "Interrupted after " in report
    assert f"in each of {RANKS} processes" in report
    assert load(tmp_path / "model.pt").source == "blobs.csv"
    epochs = 1 + len(state_of(tmp_path)["torch"]["epochs"])
    trained(blobs, tmp_path, epochs=epochs, resume=True, **options)
    trained(blobs, tmp_path / "one", epochs=epochs, **options)
    one, several = (state_of(folder)["torchnotes"] for folder in (tmp_path / "one", tmp_path))
    for kind in ("train_loss", "validation_loss", "train_accuracy", "validation_accuracy", "gradient_norms"):
        values = [[epoch[kind] for epoch in state["epochs"]] for state in (one, several)]
        torch.testing.assert_close(*map(torch.tensor, values), rtol=1e-9, atol=1e-12)
    for name, x in one["model"].items():
        torch.testing.assert_close(several["model"][name], x, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("failure", "complaint"),
    (("time.sleep(600)", "Timed out waiting 5000ms"), ("os.kill(os.getpid(), 9)", "Signal 9 (SIGKILL)")),
)
def test_when_one_process_fails_all_end_and_the_training_can_be_resumed(blobs, tmp_path, failure, complaint):
    """In its second epoch it answers no more, which is an error of the other one, or it is killed."""
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
    with launched(program, *quick("--data", blobs, "--output", tmp_path, "--timeout", 5)) as process:
        _, err = process.communicate(timeout=LIMIT)
    assert process.returncode != 0
    assert complaint in err[err.index("ChildFailedError") :]
    assert len(state_of(tmp_path)["torch"]["epochs"]) == 1
    trained(blobs, tmp_path, epochs=2, resume=True)


@pytest.mark.parametrize(("rank", "waits"), (("0", []), ("1", [10])))
def test_what_all_refuse_is_refused_by_the_first(monkeypatch, capsys, rank, waits):
    """As torchrun ends the others when it has ended."""
    waited = []
    monkeypatch.setattr(time, "sleep", waited.append)
    variables = dict(RANK=rank, WORLD_SIZE="2", LOCAL_RANK=rank, LOCAL_WORLD_SIZE="2", TORCHELASTIC_RUN_ID="1")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for command in (quick("--epochs", "ten"), ("predict", "none.pt")):
        assert "'ten' is not a whole" in (line := refusal(capsys, *command)) or "none.pt cannot be read" in line
    assert waited == 2 * waits

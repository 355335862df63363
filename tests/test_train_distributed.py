"""`train` with several processes: the same results as with one, and what happens if one of them ends."""

import contextlib
import signal
import subprocess
import textwrap
import time

import pytest
import torch
from test_main import ROOT, error_line
from test_train import quick, state_of, train

from torchnotes.classifier.checkpoint import load
from torchrun import launcher

RANKS = 2
LIMIT = 120  # seconds for a launcher to finish on a busy machine


@contextlib.contextmanager
def launched(*arguments):
    """Runs torchrun, and ends it together with its processes."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # a child would inherit an ignored signal
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
            process.send_signal(signal.SIGTERM)  # forwarded to its processes, unlike SIGKILL
            process.communicate(timeout=LIMIT)


def test_results_do_not_depend_on_the_number_of_processes(blobs, tmp_path):
    """Trains with one process, then with several until Ctrl-C, which saves the model and the report, then with one.

    105 rows in batches of 17 give parts of 9 and 8 rows, and a last batch of 3 rows, all on the first process.
    """
    options = dict(noise=0.0, dtype="float64", batch_size=17)
    train(blobs, tmp_path, epochs=1, **options)
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
    assert out.count("105 training rows") == 1
    assert out.count("In torch each process normalizes by the statistics of its own rows") == 1
    report = (tmp_path / "report.html").read_text()
    assert "Interrupted after " in report
    assert f"in each of {RANKS} processes" in report
    assert load(tmp_path / "model.pt").source == "blobs.csv"
    epochs = 1 + len(state_of(tmp_path)["torch"]["epochs"])
    train(blobs, tmp_path, epochs=epochs, resume=True, **options)
    train(blobs, tmp_path / "one", epochs=epochs, **options)
    one, several = (state_of(folder)["torchnotes"] for folder in (tmp_path / "one", tmp_path))
    for kind in ("train_loss", "validation_loss", "train_score", "validation_score"):
        values = [[epoch[kind] for epoch in state["epochs"]] for state in (one, several)]
        torch.testing.assert_close(*map(torch.tensor, values), rtol=1e-9, atol=1e-12)
    for name, x in one["model"].items():
        torch.testing.assert_close(several["model"][name], x, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("failure", "complaint"),
    (("time.sleep(600)", "Timed out waiting 5000ms"), ("os.kill(os.getpid(), 9)", "Signal 9 (SIGKILL)")),
)
def test_if_one_process_fails_all_end_and_training_can_be_resumed(blobs, tmp_path, failure, complaint):
    """In the second epoch one process stops responding, which is an error in the other one, or is killed."""
    program = tmp_path / "failing.py"
    program.write_text(
        textwrap.dedent(f"""
        import itertools, os, sys, time
        from torchnotes.__main__ import recorded_main
        from torchnotes.classifier.training import Contender

        timed_step, calls = Contender.timed_step, itertools.count()

        def failing(*arguments):
            if os.environ["RANK"] == "1" and next(calls) == 2 * 13 + 3:  # networks and batches of an epoch, and some
                {failure}
            return timed_step(*arguments)

        Contender.timed_step = failing
        sys.exit(recorded_main())
        """)
    )
    with launched(program, *quick("--data", blobs, "--output", tmp_path, "--timeout", 5)) as process:
        _, err = process.communicate(timeout=LIMIT)
    assert process.returncode != 0
    assert complaint in err[err.index("ChildFailedError") :]
    assert len(state_of(tmp_path)["torch"]["epochs"]) == 1
    train(blobs, tmp_path, epochs=2, resume=True)


def test_no_network_outlives_the_process_group(blobs, tmp_path):
    """It could deadlock when it is freed; see the fixture process_group."""
    program = tmp_path / "checking.py"
    program.write_text(
        textwrap.dedent("""
        import gc, sys
        import torch.distributed as dist
        from torch.nn.parallel import DistributedDataParallel
        from torchnotes.__main__ import recorded_main

        destroy = dist.destroy_process_group

        def checking():
            assert not any(type(each) is DistributedDataParallel for each in gc.get_objects()), "a network is alive"
            destroy()
            print("destroyed")

        dist.destroy_process_group = checking
        sys.exit(recorded_main())
        """)
    )
    with launched(program, *quick("--data", blobs, "--output", tmp_path, "--epochs", "1")) as process:
        out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, err
    assert out.count("destroyed") == RANKS


@pytest.mark.parametrize(("rank", "waits"), (("0", []), ("1", [10])))
def test_the_first_process_reports_invalid_input(monkeypatch, capsys, rank, waits):
    """torchrun ends the other processes once the first one has ended."""
    waited = []
    monkeypatch.setattr(time, "sleep", waited.append)
    variables = dict(RANK=rank, WORLD_SIZE="2", LOCAL_RANK=rank, LOCAL_WORLD_SIZE="2", TORCHELASTIC_RUN_ID="1")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert "'ten' is not an integer" in error_line(capsys, *quick("--epochs", "ten"))
    assert "none.pt cannot be read" in error_line(capsys, "predict", "none.pt")
    assert waited == 2 * waits

"""`train` and `predict`, from data to a model, and what they refuse."""

import csv
import io
import itertools
import math
import pickle
import re
import shlex
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy
import pytest
import torch
from test_main import full_disk, nobody_reads, refusal

import torchnotes
from torchnotes.__main__ import main
from torchnotes.classifier import comparison, data, threads, training
from torchnotes.classifier.checkpoint import load
from torchnotes.classifier.network import OPTIMIZERS, Design, by_torch, by_torchnotes, copy_parameters
from torchnotes.classifier.ranks import Ranks, launched
from torchnotes.cli import _progress
from torchnotes.cli._figures import binned, calibration_error

ROOT = Path(torchnotes.__file__).parents[1]


def quick(*arguments):
    given = "--epochs", "4", "--hidden", "16", "--batch-size", "8", "--threads", "1"  # for the bits of torch's network
    return ["train", *given, *map(str, arguments)]


def test_the_digits_are_learned(tmp_path, capsys):
    assert main(["train", "--output", str(tmp_path / "run")]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    rows = {line.split()[0]: line.split()[1:] for line in printed.out.splitlines() if line.startswith("torch")}
    for name in ("torchnotes", "torch"):
        accuracy, *_, error = rows[name]
        assert float(accuracy.rstrip("%")) > 94
        assert float(error) < 1e-5
    report = (tmp_path / "run/report.html").read_text()
    assert report.count("<img ") == 3
    assert "http" not in report.replace("http-equiv", "")  # all of it is in the file
    for cell in (rows["torchnotes"][0], rows["torch"][0]):
        assert f"<td>{cell}</td>" in report
    assert main(["predict", str(tmp_path / "run/model.pt")]) == 0
    printed = capsys.readouterr()
    lines = list(csv.DictReader(io.StringIO(printed.out)))
    right = sum(line["class"] == str(y) for line, y in zip(lines, labels_of_digits(), strict=True))
    assert f"{right} of 1797 are right" in printed.err
    assert right > 1760


def labels_of_digits():
    import sklearn.datasets

    return sklearn.datasets.load_digits().target.tolist()


@pytest.mark.parametrize(
    "options",
    (
        ("--optimizer", "sgd", "--activation", "tanh", "--init", "glorot"),
        ("--optimizer", "rmsprop", "--activation", "relu", "--init", "torch", "--dtype", "float64"),
        ("--optimizer", "adamw", "--activation", "sigmoid", "--noise", "0", "--hidden", "16", "8"),
        ("--dtype", "bfloat16", "--batch-size", "13"),
    ),
)
def test_every_option_trains_a_model_that_predicts(blobs, tmp_path, capsys, options):
    assert main(quick("--data", blobs, "--output", tmp_path, "--lr", "0.05", *options)) == 0
    capsys.readouterr()
    model = load(tmp_path / "model.pt")
    assert model.classes == ("ant", "bee", "cat")
    assert model.source == "blobs.csv"
    unlabelled = tmp_path / "unlabelled.csv"
    unlabelled.write_text("".join(line.rsplit(",", 1)[0] + "\n" for line in blobs.read_text().splitlines()))
    assert main(["predict", str(tmp_path / "model.pt"), "--data", str(unlabelled)]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    lines = list(csv.DictReader(io.StringIO(printed.out)))
    assert sum(line["class"] == ("ant", "bee", "cat")[i % 3] for i, line in enumerate(lines)) > 140
    assert main(["predict", str(tmp_path / "model.pt"), "--data", str(blobs)]) == 0
    assert "of 150 are right" in capsys.readouterr().err


def test_a_seed_gives_the_same_model_again(blobs, tmp_path):
    states = []
    for seed, folder in ((3, "a"), (3, "b"), (4, "c")):
        assert main(quick("--data", blobs, "--output", tmp_path / folder, "--seed", seed)) == 0
        states.append(load(tmp_path / folder / "model.pt").state["0.weight"])
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


@pytest.fixture
def threads_of_train(monkeypatch):
    """The number of threads that train computes with for some arguments, where torch would take 4."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    used = []
    learned = training.learned
    monkeypatch.setattr(training, "learned", lambda *call: used.append(torch.get_num_threads()) or learned(*call))

    def number(*arguments):
        used.clear()
        with threads.threads(4):
            assert main(["train", "--epochs", "1", "--hidden", "16", *map(str, arguments)]) == 0
            assert torch.get_num_threads() == 4
        (number,) = set(used)
        return number

    return number


@pytest.mark.parametrize(
    ("times", "fastest"), (((1.0, 2.0, 0.1), 1), ((1.0, 0.95, 0.1), 1), ((1.0, 0.6, 0.8), 2), ((1.0, 0.6, 0.4), 4))
)
def test_the_number_of_threads_is_the_one_that_steps_are_fastest_with(
    blobs, tmp_path, monkeypatch, threads_of_train, times, fastest
):
    def time_of(step, number):
        step()
        return times[(1, 2, 4).index(number)]

    monkeypatch.setattr(threads, "time_of", time_of)
    assert threads_of_train("--data", blobs, "--output", tmp_path) == fastest


def test_the_number_of_threads_can_be_given(blobs, tmp_path, monkeypatch, threads_of_train):
    fastest = itertools.count(2)
    monkeypatch.setattr("torchnotes.classifier.program.fastest", lambda step: next(fastest))
    command = "--data", blobs, "--output", tmp_path
    assert threads_of_train(*command, "--threads", 3) == 3
    assert threads_of_train(*command) == 2
    assert threads_of_train(*command, "--resume", "--epochs", 2) == 2
    monkeypatch.setenv("MKL_NUM_THREADS", "4")
    assert threads_of_train(*command) == 4


def test_timing_the_threads_changes_nothing(blobs, tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "WORTH_IT", 0.0)  # one thread in the end, as with --threads 1
    given = quick("--data", blobs)
    timed = [argument for argument in given if argument not in ("--threads", "1")]
    for folder, command in (("given", given), ("timed", timed)):
        with threads.threads(2):
            assert main([*command, "--output", str(tmp_path / folder)]) == 0
    assert_same(*(state_of(tmp_path / folder) for folder in ("given", "timed")))


def test_compiled_networks_come_third(blobs, tmp_path, capsys):
    assert main(quick("--data", blobs, "--output", tmp_path, "--compile")) == 0
    assert "\ntorch compiled " in capsys.readouterr().out


def test_both_networks_start_alike_and_the_best_state_is_saved(blobs, tmp_path, monkeypatch):
    losses = iter([0.5, 9.0, 0.2, 9.0, 0.3, 9.0, 0.4, 9.0])  # of the validation: ours and torch's in turn
    states, judged = [], []
    made, judge = comparison.contenders, comparison.result

    def result(contender, *rest):
        found = judge(contender, *rest)
        judged.append({name: x.clone() for name, x in contender.model.state_dict().items()})
        return found

    def watched(*arguments):
        contenders = made(*arguments)
        values = [list(c.model.state_dict().values()) for c in contenders]
        assert all(torch.equal(a, b) for a, b in zip(*values, strict=True))
        return contenders

    def measured(contender, *rest):
        if contender.name == "torchnotes":
            states.append({name: x.clone() for name, x in contender.model.state_dict().items()})
        return training.Epoch(1.0, 1.0, next(losses), 1.0, [1.0], [1.0])

    monkeypatch.setattr("torchnotes.classifier.program.contenders", watched)
    monkeypatch.setattr(training, "measured", measured)
    monkeypatch.setattr(comparison, "result", result)
    assert main(quick("--data", blobs, "--output", tmp_path)) == 0
    for kept in (load(tmp_path / "model.pt").state, judged[0]):
        assert all(torch.equal(kept[name], x) for name, x in states[1].items())


def test_a_wrong_gradient_shows_in_the_table(blobs, tmp_path, capsys, monkeypatch):
    right = comparison.loss_of
    monkeypatch.setattr(
        comparison,
        "loss_of",
        lambda name: (lambda x, y: 1.001 * right(name)(x, y)) if name == "torchnotes" else right(name),
    )
    assert main(quick("--data", blobs, "--output", tmp_path)) == 0
    assert "differ by at most 0.001 of the greatest" in capsys.readouterr().out


def test_an_interruption_keeps_the_best_model_and_the_report(tmp_path):
    command = [sys.executable, "-m", "torchnotes", "train", "--epochs", "100000", "--output", str(tmp_path)]
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # a child would inherit that it is ignored
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, handler)
    try:
        while "  torch  " not in process.stdout.readline():  # until both networks have an epoch behind them
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert err.startswith("Interrupted after ")
    assert err.count("\n") == 1
    assert "Interrupted after " in (tmp_path / "report.html").read_text()
    assert main(["predict", str(tmp_path / "model.pt")]) == 0
    assert "\ntorchnotes " in out


def state_of(folder):
    return torch.load(folder / "training.pt", weights_only=True)["contenders"]


def assert_same(a, b):
    """To the last bit, whatever tensors are in."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        a, b = a.values(), b.values()
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, (list, type({}.values()))):
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert a == b


@pytest.mark.parametrize(
    "options",
    (
        ("--optimizer", "adam"),
        ("--optimizer", "sgd", "--dtype", "bfloat16"),
        ("--optimizer", "rmsprop", "--activation", "tanh", "--hidden", "16", "8"),
    ),
)
def test_a_training_that_is_resumed_is_the_one_that_was_not_ended(blobs, tmp_path, options):
    def run(folder, *more):
        assert main(quick("--data", blobs, "--output", tmp_path / folder, "--noise", "0.2", *options, *more)) == 0

    run("whole")
    run("parts", "--epochs", "1")
    run("parts", "--epochs", "3", "--resume")
    assert not torch.equal(*(state_of(tmp_path / f)["torchnotes"]["model"]["0.weight"] for f in ("whole", "parts")))
    run("parts", "--resume")
    assert_same(state_of(tmp_path / "parts"), state_of(tmp_path / "whole"))
    assert_same(load(tmp_path / "parts/model.pt").state, load(tmp_path / "whole/model.pt").state)


def test_what_an_epoch_has_begun_is_done_again(blobs, tmp_path, capsys, monkeypatch):
    learned, calls = training.learned, itertools.count()

    def interrupted(*arguments):
        if next(calls) == 2 * 13 * 2 + 3:  # networks, batches, epochs: in the third one
            raise KeyboardInterrupt
        return learned(*arguments)

    assert main(quick("--data", blobs, "--output", tmp_path / "whole")) == 0
    monkeypatch.setattr(training, "learned", interrupted)
    command = quick("--data", blobs, "--output", tmp_path / "ended")
    assert main(command) == 130
    assert "Interrupted after 2 of 4 epochs" in capsys.readouterr().err
    assert main([*command, "--resume"]) == 0
    assert_same(state_of(tmp_path / "ended"), state_of(tmp_path / "whole"))


@pytest.mark.parametrize(
    ("options", "complaint"),
    (
        (("--lr", "0.5"), "is of a training with --lr 0.002, not 0.5"),
        (("--hidden", "8", "8", "--seed", "1"), "with --hidden 16, not 8 8; --seed 0, not 1"),
        (("--compile",), "with --compile False, not True"),
        (("--epochs", "1"), "has 1 epochs behind it"),
        (("--data", "others.csv"), "is of a training with other data"),
        (("--output", "elsewhere"), "elsewhere/training.pt: there is no training to resume"),
    ),
)
def test_another_training_is_not_resumed(blobs, tmp_path, capsys, monkeypatch, options, complaint):
    monkeypatch.chdir(tmp_path)
    assert main(quick("--data", blobs, "--output", "run", "--epochs", "1")) == 0
    capsys.readouterr()
    kept = Path("run/training.pt").read_bytes()
    Path("others.csv").write_text(blobs.read_text().replace("ant", "ape"))
    assert complaint in refusal(capsys, *quick("--data", blobs, "--output", "run", "--resume", *options))
    assert Path("run/training.pt").read_bytes() == kept
    assert not Path("elsewhere").exists()


def test_what_is_no_training_is_not_resumed(blobs, tmp_path, capsys):
    (tmp_path / "training.pt").write_text("nothing")
    command = quick("--data", blobs, "--output", tmp_path, "--resume")
    assert "training.pt is not a training of python -m torchnotes train" in refusal(capsys, *command)


class Numbered(Ranks):
    """Alone, whatever its number."""

    def part(self, rows):
        return rows


def test_every_rank_has_noise_of_its_own():
    pair = torch.randn(32, 2, generator=torch.Generator().manual_seed(0)), torch.arange(32) % 2

    def weight(rank, noise):
        design = Design((2, 8, 2), noise=noise)
        alone = Numbered(rank)
        networks = comparison.contenders(design, "sgd", 0.1, 0, torch.device("cpu"), False, alone)
        course = training.Course(pair, pair, 1, 8, 0)
        training.train(networks, course, alone, training.Progress(), lambda _: None, lambda: None)
        return [network.model[0].weight for network in networks]

    for noise, differ in ((0.0, False), (0.3, True)):
        first, again, second = weight(0, noise), weight(0, noise), weight(1, noise)
        for number in range(2):
            assert torch.equal(first[number], again[number])
            assert torch.equal(first[number], second[number]) != differ


def test_every_epoch_has_an_order_and_noise_of_its_own(monkeypatch):
    pair = torch.randn(32, 2), torch.arange(32) % 2
    course = training.Course(pair, pair, 3, 32, 0)
    orders = [tuple(next(course.batches(epoch)).tolist()) for epoch in range(3)]
    assert len(set(orders)) == 3
    networks = comparison.contenders(Design((2, 8, 2)), "sgd", 0.1, 0, torch.device("cpu"), False, Ranks())
    seeds = []
    monkeypatch.setattr(torch, "manual_seed", seeds.append)
    training.train(networks, course, Ranks(), training.Progress(), lambda _: None, lambda: None)
    assert len(set(seeds)) == 3


@pytest.mark.parametrize("size", (1, 2, 3, 5))
def test_ranks_divide_a_batch(size):
    for count in range(2, 12):
        rows = torch.arange(count)
        parts = [Ranks(rank, size).part(rows) for rank in range(size)]
        assert torch.equal(torch.cat(parts), rows)
        lengths = [len(part) for part in parts if len(part)]
        assert max(lengths) - min(lengths) <= 1 < min(lengths)
        assert len(lengths) == min(size, max(1, count // 2))


@pytest.mark.parametrize(
    ("options", "loss"),
    (
        (("--optimizer", "sgd"), "loss"),
        (("--optimizer", "adam", "--batch-size", "128"), "validation loss"),  # after a single step, from a finite loss
    ),
)
def test_a_training_that_diverges_says_so(blobs, tmp_path, capsys, options, loss):
    assert main(quick("--data", blobs, "--output", tmp_path, "--lr", "1e30", *options)) == 1
    assert re.search(f"^the {loss} of torchnotes is nan in epoch 1: a smaller --lr may help", capsys.readouterr().err)


@pytest.mark.parametrize("size", (2**63 - 1, 10**15))
def test_a_network_that_is_too_large_is_refused(blobs, tmp_path, capsys, size):
    command = quick("--data", blobs, "--output", tmp_path, "--hidden", size)
    assert "there is not enough memory for it" in refusal(capsys, *command)


def test_columns_that_are_constant_are_learned_from(tmp_path, capsys):
    path = tmp_path / "constant.csv"
    path.write_text("".join(f"1,1,{number % 2}\n" for number in range(40)))
    assert main(quick("--data", path, "--output", tmp_path, "--epochs", "1", "--batch-size", "40")) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("name", ("model.pt", "training.pt"))
def test_a_disk_that_is_full_is_named(blobs, tmp_path, capsys, name):
    (tmp_path / f"{name}.partial").symlink_to("/dev/full")
    command = quick("--data", blobs, "--output", tmp_path)
    assert "No space left on device" in refusal(capsys, *command)


def test_without_the_variables_of_torchrun_a_process_is_alone(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        assert not launched()
        monkeypatch.setenv(name, "1")
    assert launched()
    monkeypatch.setenv("RANK", "first")
    assert not launched()


ROW = "1.5,2.5,a\n"


def array_alone():
    file = io.BytesIO()
    numpy.save(file, numpy.zeros((30, 2)))
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    (
        ("x.csv", None, "cannot be read: "),
        ("x.txt", ROW, "ends in .npz or .csv"),
        ("x.csv", "", "has no rows"),
        ("x.csv", "a,b,c\n", "has no rows"),
        ("x.csv", ROW * 30 + "1.5,nan,a\n", "row 31, column 2: nan"),
        ("x.csv", ROW + "-inf,1,a\n", "row 2, column 1: -inf"),
        ("x.csv", ROW + "\n1.5,a\n", "line 3: 2 columns, where there were 3 before"),
        ("x.csv", ROW + "1.5,two,a\n", "line 2: 'two' is not a number"),
        ("x.csv", ROW * 19 + "\n", "x.csv: at least 20 rows are needed, not 19"),
        ("x.csv", ROW, "x.csv: at least 20 rows are needed, not 1"),
        ("x.csv", ROW.replace(",", ";") * 30, "has one column: commas have to part the numbers and the class"),
        ("x.csv", ROW.replace(",", "\t") * 30, "has one column: commas have to part the numbers and the class"),
        ("x.csv", '1,2,"a\n' + ROW * 30, "cannot be read: unexpected end of data"),
        ("x.csv", ROW * 30 + "1,2,\n", "row 31 has no class"),
        ("x.csv", ROW + f"{'9' * 5000}x,2,a\n", f"line 2: '{'9' * 59} is not a number"),
        ("x.csv", ROW * 20, "rows of one class only, 'a'"),
        ("x.csv", "".join(f"1,2,{i}\n" for i in range(40)), "40 rows of 40 classes"),
        ("x.csv", "".join(f"1,2,{i % 2}.0\n" for i in range(40)), "such as 0.0, and regression is not supported"),
        ("x.csv", "".join(f"1,2,{text}\n" for text in ("1", "7", "2e3") * 20), "such as 2e3, and regression"),
        ("x.csv", b"\xff\xfe\x00", "cannot be read: "),
        ("x.npz", b"no archive", "x.npz cannot be read: it is no archive of numbers"),
        ("x.npz", {"y": numpy.zeros(3, int)}, "has y, but no array called x"),
        ("x.npz", {"x": numpy.zeros((30, 2))}, "has no classes"),
        ("x.npz", {"x": numpy.zeros((30, 2)), "y": numpy.zeros(29, int)}, "y has shape (29,), but x has 30 rows"),
        ("x.npz", {"x": numpy.zeros((30, 2)), "y": numpy.full(30, 0.5)}, "such as 0.5, and regression"),
        ("x.npz", {"x": numpy.zeros((30, 2)), "y": numpy.arange(30.0) % 3}, "such as 0.0, and regression"),
        ("x.npz", {"x": numpy.zeros((30, 2)), "y": numpy.full(30, math.inf, "f4")}, "such as inf, and regression"),
        ("x.npz", {"x": numpy.zeros((30, 2)), "y": numpy.zeros(30, "M8[D]")}, "y has to hold classes"),
        ("x.npz", array_alone(), "a single array, without a name"),
        ("folder.csv", None, "cannot be read: "),
        ("folder.npz", None, "cannot be read: "),
        ("x.npz", {"x": numpy.zeros((30, 2), complex), "y": numpy.zeros(30, int)}, "has to hold real numbers"),
        ("x.npz", {"x": numpy.zeros(30), "y": numpy.zeros(30, int)}, "has shape (30,)"),
        ("x.npz", {"x": numpy.array([object()] * 30), "y": numpy.zeros(30, int)}, "it is no archive of numbers"),
    ),
)
def test_bad_data_are_refused_before_anything_is_written(tmp_path, capsys, name, content, complaint):
    path = tmp_path / name
    if path.stem == "folder":
        path.mkdir()
    if isinstance(content, dict):
        numpy.savez(path, **content)
    elif content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert complaint in refusal(capsys, *quick("--data", path, "--output", tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("option", "complaint"),
    (
        (("--epochs", "0"), "'0' is not a whole number of at least 1"),
        (("--epochs", "ten"), "'ten' is not"),
        (("--hidden", "-3"), "'-3' is not"),
        (("--batch-size", "1"), "'1' is not a whole number of at least 2"),
        (("--lr", "nan"), "'nan' is not a number above 0"),
        (("--noise", "1"), "'1' is not a number from 0 to below 1"),
        (("--seed", str(2**64)), "is not a whole number"),
        (("--activation", "gelu"), "invalid choice: 'gelu'"),
        (("--dtype", "int8"), "invalid choice: 'int8'"),
        (("--device", "meta"), "'meta' computes nothing"),
        (("--output", "/dev/null/run"), "nothing can be written there"),
        (("--threads", "0"), "'0' is not a whole number from 1 to 1024"),
        (("--threads", "1025"), "'1025' is not a whole number from 1 to 1024"),
        (("--timeout", "0"), "'0' is not a number of seconds from 1 to a million"),
        (("--timeout", "60"), "--timeout is for processes that torchrun starts"),
    ),
)
def test_bad_options_are_refused(capsys, option, complaint):
    assert complaint in refusal(capsys, *quick(*option))


def test_what_is_no_model_is_refused(blobs, tmp_path, capsys):
    assert "No such file" in refusal(capsys, "predict", tmp_path / "none.pt")
    torch.save({"weight": torch.ones(3)}, tmp_path / "other.pt")
    assert "is not a checkpoint" in refusal(capsys, "predict", tmp_path / "other.pt")
    assert "is not a checkpoint" in refusal(capsys, "predict", blobs)
    assert main(quick("--data", blobs, "--output", tmp_path)) == 0
    capsys.readouterr()
    other = tmp_path / "other.csv"
    other.write_text("1,2,3,4,ant\n")
    assert "has 4 features, but the model was made for 2" in refusal(
        capsys, "predict", tmp_path / "model.pt", "--data", other
    )
    for label, complaint in (("dog", "does not know the class 'dog'"), ("1.5", "such as 1.5, and regression")):
        other.write_text(f"1,2,{label}\n")
        assert complaint in refusal(capsys, "predict", tmp_path / "model.pt", "--data", other)
    assert "model.pt is of a training with blobs.csv: --data is required" in refusal(
        capsys, "predict", tmp_path / "model.pt"
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The files of a training of digits, as bytes."""
    folder = tmp_path_factory.mktemp("trained")
    assert main(quick("--epochs", "1", "--output", folder)) == 0
    return {name: (folder / name).read_bytes() for name in ("model.pt", "training.pt")}


def flipped(content):
    """A bit of a tensor, which the zip archive's checksum tells."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        largest = max(archive.infolist(), key=lambda member: member.file_size)
        (number,) = archive.read(largest)[100:101]
        place = content.index(archive.read(largest)) + 100
    return content[:place] + bytes([number ^ 64]) + content[place + 1 :]


def saved(content):
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def changed(key, value):
    """A file of the right format that does not fit itself."""

    def change(content):
        found = torch.load(io.BytesIO(content), weights_only=True)
        return saved({**found, key: value} if value is not None else {k: v for k, v in found.items() if k != key})

    return change


def with_nan(content):
    found = torch.load(io.BytesIO(content), weights_only=True)
    found["state"]["0.weight"][0, 0] = math.nan
    return saved(found)


def scripted(_):
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), file)
    return file.getvalue()


DAMAGES = {
    "truncated": lambda content: content[: len(content) // 2],
    "without its end": lambda content: content[:-1],
    "only its end": lambda content: content[len(content) // 2 :],
    "empty": lambda _: b"",
    "a bit is wrong": flipped,
    "zeros": lambda content: content[:1000] + bytes(2000) + content[3000:],
    "a text": lambda _: b"epoch,loss\n1,0.5\n",
    "a pickle": lambda _: pickle.dumps({"format": "torchnotes classifier 1"}),
    "a pickled object": lambda _: pickle.dumps(math.sin),
    "a list": lambda _: saved([1, 2]),
    "a module": lambda _: saved(torch.nn.Linear(2, 2)),
    "a TorchScript module": scripted,
    "an empty archive": lambda _: b"PK\x05\x06" + bytes(18),
}


@pytest.mark.parametrize(
    "damage",
    (
        *DAMAGES.values(),
        changed("design", None),
        changed("design", {"sizes": (64, 8, 10)}),
        changed("design", {"sizes": "many"}),
        changed("state", {}),
        changed("mean", torch.zeros(3)),
        changed("mean", torch.full((64,), math.nan)),
        changed("scale", torch.zeros(64)),
        changed("scale", torch.full((64,), math.nan)),
        with_nan,
        changed("classes", ("a", "b")),
        changed("more", 1),
    ),
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.jit
def test_a_model_that_is_damaged_or_of_another_program_is_refused(trained, tmp_path, capsys, damage):
    path = tmp_path / "model.pt"
    path.write_bytes(damage(trained["model.pt"]))
    assert "is not a checkpoint of python -m torchnotes train, or is damaged" in refusal(capsys, "predict", path)


@pytest.mark.parametrize(
    "damage",
    (
        DAMAGES["a bit is wrong"],
        DAMAGES["a list"],
        changed("definition", None),
        changed("contenders", {"torchnotes": {"epochs": []}}),
    ),
)
def test_a_training_that_is_damaged_is_not_resumed(trained, tmp_path, capsys, damage):
    path = tmp_path / "training.pt"
    path.write_bytes(damage(trained["training.pt"]))
    command = quick("--output", tmp_path, "--resume")
    assert "is not a training of python -m torchnotes train, or is damaged" in refusal(capsys, *command)


def test_a_folder_is_no_model(tmp_path, capsys):
    assert "cannot be read: Is a directory" in refusal(capsys, "predict", tmp_path)


def test_predictions_that_nobody_reads_end_quietly(trained, tmp_path, capfd, monkeypatch):
    path = tmp_path / "model.pt"
    path.write_bytes(trained["model.pt"])
    for command in (["predict", str(path)], quick("--output", tmp_path / "run")):
        with nobody_reads() as file, monkeypatch.context() as patched:
            patched.setattr(sys, "stdout", file)
            assert main(command) == 141
        assert capfd.readouterr() == ("", "")


def test_predictions_for_a_disk_that_is_full_end_in_one_line(trained, tmp_path, capfd, monkeypatch):
    path = tmp_path / "model.pt"
    path.write_bytes(trained["model.pt"])
    for command in (("predict", path), quick("--output", tmp_path / "run")):
        with full_disk() as file, monkeypatch.context() as patched:
            patched.setattr(sys, "stdout", file)
            assert "No space left on device" in refusal(capfd, *command)


def test_what_the_output_cannot_encode_is_escaped(tmp_path, monkeypatch):
    path = tmp_path / "data\udce9.csv"  # a name that is no UTF-8
    path.write_text("".join(f"{i},{i},{('été', 'hiver')[i % 2]}\n" for i in range(40)), encoding="utf-8")
    printed = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", printed)
    assert main(quick("--data", path, "--output", tmp_path)) == 0
    assert main(["predict", str(tmp_path / "model.pt"), "--data", str(path)]) == 0
    text = printed.buffer.getvalue().decode("ascii")
    assert r"data\udce9.csv: 28 rows" in text
    assert r"\xb5s" in text
    assert r"\xe9t\xe9," in text
    assert "µs" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_standard_streams_may_be_closed(blobs, tmp_path, monkeypatch):
    for command in (quick("--data", blobs, "--output", tmp_path), ("predict", tmp_path / "model.pt", "--data", blobs)):
        for name in ("stdout", "stderr"):
            with monkeypatch.context() as patched:
                patched.setattr(sys, name, None)
                assert main([str(argument) for argument in command]) == 0
                getattr(sys, name).close()


@pytest.mark.skipif(sys.platform == "win32", reason="by a shell")
def test_the_files_of_standard_streams_may_be_closed(blobs, tmp_path):
    command = shlex.join([sys.executable, "-m", "torchnotes", *quick("--data", blobs, "--output", tmp_path)])
    assert subprocess.run(["sh", "-c", f"{command} <&- >&- 2>&-"], cwd=ROOT).returncode == 0
    assert (tmp_path / "report.html").exists()


@pytest.mark.parametrize("start", ("", "a,b,c\n"))
def test_a_byte_order_mark_is_no_part_of_the_data(tmp_path, start):
    path = tmp_path / "x.csv"
    path.write_text(start + "1,2,a\n3,4,b\n" * 10, encoding="utf-8-sig")
    rows = data.load(path)
    assert rows.x.tolist() == [[1, 2], [3, 4]] * 10
    assert rows.classes == ("a", "b")


def test_classes_may_be_whole_numbers_of_any_length(tmp_path):
    path = tmp_path / "x.csv"
    names = "-3", "+2", "1_0", "9" * 5000
    path.write_text("".join(f"1,{name}\n" for name in names[::-1] * 5))
    assert data.load(path).classes == names


def test_data_come_as_they_are_from_both_kinds_of_files(blobs, tmp_path):
    rows = data.load(blobs)
    assert rows.classes == ("ant", "bee", "cat")
    numpy.savez(tmp_path / "same.npz", X=rows.x.numpy(), labels=numpy.array(rows.classes)[rows.y.numpy()])
    again = data.load(tmp_path / "same.npz")
    assert torch.equal(rows.x, again.x)
    assert torch.equal(rows.y, again.y)
    numpy.savez(tmp_path / "images.npz", data=numpy.ones((24, 2, 3), "uint8"), target=numpy.arange(24) % 12 - 1)
    images = data.load(tmp_path / "images.npz")
    assert images.x.shape == (24, 6)
    assert images.classes == ("-1", *map(str, range(11)))  # in the order of the numbers, not of the letters


def test_the_parts_of_the_data_are_apart_and_make_up_the_whole():
    x = torch.arange(100.0)[:, None]
    rows = data.Rows(x, torch.arange(100) % 2, ("a", "b"), "numbers")
    parts = data.split(rows, 0)
    assert [len(part[0]) for part in parts] == [70, 15, 15]
    assert torch.equal(torch.cat([part[0] for part in parts]).sort(0)[0], x)
    assert all(torch.equal(part[0][:, 0] % 2, part[1]) for part in parts)


def test_networks_are_judged_in_evaluation_and_trained_on():
    network = by_torchnotes(Design((5, 7, 3)))
    x = torch.randn(4, 5)
    expected = network.eval()(x)
    network.train()
    assert torch.equal(training.logits_of(network, x), expected)
    assert all(module.training for module in network.modules())


def test_a_batch_of_one_row_is_left_out():
    assert [len(rows) for rows in training.batches(9, 4, torch.Generator())] == [4, 4]
    assert [len(rows) for rows in training.batches(9, 7, torch.Generator())] == [7, 2]


def test_the_two_networks_compute_the_same():
    for activation, noise in itertools.product(("leaky_relu", "relu", "tanh", "sigmoid"), (0.0, 0.3)):
        design = Design((5, 7, 6, 3), activation, noise, dtype="float64")
        ours, theirs = by_torchnotes(design), by_torch(design)
        copy_parameters(ours, theirs)
        x = torch.randn(8, 5, dtype=torch.float64)
        if noise:
            ours.eval(), theirs.eval()
        torch.testing.assert_close(ours(x), theirs(x))
    sigma2 = 0.3 / 0.7
    noisy = by_torch(Design((2, 2, 2), noise=0.3))[3](torch.ones(200_000))
    assert abs(noisy.var().item() - sigma2) < 5 * sigma2 * math.sqrt(2 / 200_000)
    assert OPTIMIZERS.keys() == {"adam", "adamw", "rmsprop", "sgd"}


def test_calibration_by_hand():
    """Two bins: probabilities 0.5 and 0.7 (mean 0.6, in bins of their own), of which one of two, and 0.9, right."""
    result = comparison.Result(
        "torch", 0.5, 0.1, 1.0, 1, 0.0, torch.tensor([0.51, 0.55, 0.95]), torch.tensor([True, False, True])
    )
    confidence, right, share = binned(result)
    assert confidence == pytest.approx([0.53, 0.95])
    assert right == [0.5, 1.0]
    assert share == pytest.approx([2 / 3, 1 / 3])
    assert calibration_error(result) == pytest.approx(2 / 3 * 0.03 + 1 / 3 * 0.05)


def test_the_bars_of_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    shown = _progress.progress(["torchnotes", "torch"], 1, 2)
    assert isinstance(shown, _progress.Bars)
    with shown:
        shown.step("torchnotes", 0.25, 0.5)
        shown.epoch("torchnotes", training.Epoch(0.25, 0.5, 0.3, 0.75, [], []))
    assert "loss 0.2500" in capsys.readouterr().out

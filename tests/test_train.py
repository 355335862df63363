"""The commands `train` and `predict`, and the input that they reject."""

import contextlib
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
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import numpy
import pytest
import torch
from test_main import ROOT, error_line
from torch.utils._pytree import tree_flatten

from torchnotes.__main__ import main
from torchnotes._bad_input import BadInput
from torchnotes.classifier import comparison, data, program, threads, training
from torchnotes.classifier.checkpoint import load
from torchnotes.classifier.network import OPTIMIZERS, Design, by_torch, by_torchnotes, copy_parameters
from torchnotes.classifier.program import Program
from torchnotes.classifier.ranks import Ranks, launched
from torchnotes.classifier.tasks import Classes
from torchnotes.classifier.training import Contender, Progress
from torchnotes.cli import _progress
from torchnotes.cli._figures import binned
from torchnotes.cli._report import summary
from torchnotes.ops.activations import ACTIVATIONS

CPU = torch.device("cpu")


def quick(*arguments):
    """The arguments of a short training. With one thread torch's network is reproducible."""
    given = ["--epochs", "4", "--hidden", "16", "--batch-size", "8", "--threads", "1"]
    return ["train", *given, *map(str, arguments)]


def begin(path, folder, **options):
    """A Program with the options of `quick`, before training."""
    given = dict(hidden=[16], activation="leaky_relu", init="he", noise=0.1, dtype="float32", compile=False)
    given |= dict(optimizer="adam", lr=2e-3, epochs=4, batch_size=8, device=CPU, seed=0, resume=False, threads=1)
    given |= dict(target=None, exclude=[], task=None, loss=None, quantiles=None)
    return Program(Namespace(data=path, output=folder, **given | options), Ranks())


def train(path, folder, **options):
    program = begin(path, folder, **options)
    assert program.train(Progress()) == (0, "")
    return program


def state_of(folder):
    return torch.load(folder / "training.pt", weights_only=True)["contenders"]


def assert_same(a, b):
    """Compares nested tensors bit by bit."""
    (leaves_a, structure_a), (leaves_b, structure_b) = tree_flatten(a), tree_flatten(b)
    assert structure_a == structure_b
    for x, y in zip(leaves_a, leaves_b, strict=True):
        assert torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The output of training on the digits. Tests must not change it."""
    folder = tmp_path_factory.mktemp("digits")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main(["train", "--epochs", "12", "--threads", "1", "--output", str(folder)]) == 0
    return SimpleNamespace(folder=folder, printed=printed.getvalue())


@pytest.fixture(scope="module")
def short(blobs, tmp_path_factory):
    """The output of one epoch on the blobs. Tests must not change it."""
    folder = tmp_path_factory.mktemp("short")
    train(blobs, folder, epochs=1)
    return folder


# train and predict


def test_learns_the_digits(digits, capsys):
    import sklearn.datasets

    rows = {line.split()[0]: line.split()[1:] for line in digits.printed.splitlines() if line.startswith("torch")}
    report = (digits.folder / "report.html").read_text()
    for name in ("torchnotes", "torch"):
        accuracy, *_, memory, unit, error = rows[name]
        assert float(accuracy.rstrip("%")) > 94
        assert (float(memory) > 64 * 128 * 4 / 1e3, unit) == (True, "kB")  # more than the output of one layer
        assert float(error) < 1e-5
        assert f"<td>{accuracy}</td>" in report
    assert report.count("<img ") == 5 + report.count("image/png") > 6  # the figures, and the worst mistakes
    assert "http" not in report  # the file is self-contained
    assert re.search(r"<h1>9\d\.\d% of 270 test rows classified correctly; a step took [\d.]+ [µm]s, ", report)
    assert main(["predict", str(digits.folder / "model.pt")]) == 0
    printed = capsys.readouterr()
    lines = list(csv.DictReader(io.StringIO(printed.out)))
    labels = sklearn.datasets.load_digits().target.tolist()
    correct = sum(line["class"] == str(y) for line, y in zip(lines, labels, strict=True))
    assert f"({correct} of 1797 rows)" in printed.err
    assert correct > 1740


@pytest.mark.parametrize(
    "options",
    (
        dict(optimizer="sgd", activation="tanh", init="glorot"),
        dict(optimizer="rmsprop", activation="relu", init="torch", dtype="float64"),
        dict(optimizer="adamw", activation="sigmoid", noise=0.0, hidden=[16, 8]),
        dict(dtype="bfloat16", batch_size=13),
    ),
)
def test_every_option_trains_a_model_that_predicts(blobs, tmp_path, capsys, options):
    train(blobs, tmp_path, lr=0.05, **options)
    model = load(tmp_path / "model.pt")
    assert (model.task, model.source) == (Classes(("ant", "bee", "cat")), "blobs.csv")
    unlabeled = tmp_path / "unlabeled.csv"
    unlabeled.write_text("".join(line.rsplit(",", 1)[0] + "\n" for line in blobs.read_text().splitlines()))
    for path, accuracy in ((unlabeled, ""), (blobs, "of 150 rows")):
        assert main(["predict", str(tmp_path / "model.pt"), "--data", str(path)]) == 0
        printed = capsys.readouterr()
        assert accuracy in printed.err
        assert bool(accuracy) == bool(printed.err)
        lines = list(csv.DictReader(io.StringIO(printed.out)))
        assert sum(line["class"] == model.task.classes[i % 3] for i, line in enumerate(lines)) > 140


def test_a_seed_reproduces_the_model(blobs, tmp_path):
    first, again, other = (
        train(blobs, tmp_path, seed=seed, epochs=1).networks[0].best_state["0.weight"] for seed in (3, 3, 4)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_both_networks_start_alike_and_the_best_state_is_saved(blobs, tmp_path, monkeypatch):
    losses = iter([0.5, 9.0, 0.2, 9.0, 0.3, 9.0, 0.4, 9.0])  # validation losses of our network and torch's, alternating
    states, evaluated = [], []
    result = comparison.result

    def state(contender):
        return {name: x.clone() for name, x in contender.model.state_dict().items()}

    def evaluate(contender, *rest):
        states.append(state(contender))
        return training.Epoch(1.0, 1.0, next(losses), 1.0)

    def recorded_result(contender, *rest):
        found = result(contender, *rest)
        evaluated.append(state(contender))
        return found

    monkeypatch.setattr(Contender, "evaluate", evaluate)
    monkeypatch.setattr(comparison, "result", recorded_result)
    program = begin(blobs, tmp_path)
    assert_same(*(list(network.model.state_dict().values()) for network in program.networks))
    program.train(Progress())
    program.evaluate()
    for best in (load(tmp_path / "model.pt").state, evaluated[0]):
        assert_same(dict(best), states[2])


def test_the_table_shows_a_wrong_gradient(blobs, tmp_path, monkeypatch):
    loss_of = comparison.loss_of
    wrong = {"torchnotes": lambda x, y: 1.001 * torch.nn.functional.cross_entropy(x, y)}
    monkeypatch.setattr(comparison, "loss_of", lambda name, task: wrong.get(name) or loss_of(name, task))
    program = train(blobs, tmp_path, epochs=1)
    assert "differ by at most 0.001 of the largest" in summary(program, *program.evaluate())


@pytest.mark.parametrize(
    ("options", "loss"),
    (
        (dict(optimizer="sgd"), "loss"),
        (dict(optimizer="adam", batch_size=128), "validation loss"),  # after a single step with a finite loss
    ),
)
def test_divergence_is_reported(blobs, tmp_path, options, loss):
    status, ending = begin(blobs, tmp_path, lr=1e30, **options).train(Progress())
    assert status == 1
    assert ending == f"Training diverged: the {loss} of torchnotes is nan in epoch 1. Try a smaller --lr."


def test_layers_are_watched(blobs, tmp_path, capsys):
    """A network that goes wrong is reported in plain words, once, on the terminal and in the report."""
    assert main([*quick("--data", blobs, "--optimizer", "sgd", "--lr", 5), "--output", str(tmp_path)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("updates too large: the update of the weight of layer 3 is") == 1
    assert "updates too large: the update of the weight of layer 3 is" in (tmp_path / "report.html").read_text()


def test_watching_goes_on_where_a_training_is_resumed(blobs, tmp_path):
    """13 steps an epoch, of which each tenth is measured."""
    watch = train(blobs, tmp_path, epochs=1).watch
    assert [record.step for record in watch.records] == [0, 10]
    watch = train(blobs, tmp_path, epochs=3, resume=True).watch
    assert [record.step for record in watch.records] == [20, 30]


def test_watching_changes_nothing(blobs, tmp_path, monkeypatch):
    watched = train(blobs, tmp_path / "a")
    monkeypatch.setattr(program.signal, "watch", lambda *_, **__: contextlib.nullcontext())
    train(blobs, tmp_path / "b")
    assert_same(state_of(tmp_path / "a"), state_of(tmp_path / "b"))
    assert watched.watch.records


def test_constant_columns(tmp_path):
    path = tmp_path / "constant.csv"
    path.write_text("".join(f"1,1,{number % 2}\n" for number in range(40)))
    train(path, tmp_path, epochs=1, batch_size=40)


# threads


@pytest.fixture
def with_threads(monkeypatch):
    """Torch's default is 4 threads, and no environment variable changes it."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    with threads.threads(4):
        yield


@pytest.mark.parametrize(
    ("times", "fastest"), (((1.0, 2.0, 0.1), 1), ((1.0, 0.95, 0.1), 1), ((1.0, 0.6, 0.8), 2), ((1.0, 0.6, 0.4), 4))
)
def test_fastest_number_of_threads_is_chosen(blobs, tmp_path, monkeypatch, with_threads, times, fastest):
    monkeypatch.setattr(threads, "mean_time", lambda step, number: step() and times[(1, 2, 4).index(number)])
    assert begin(blobs, tmp_path, threads=None).options.threads == torch.get_num_threads() == fastest


def test_the_number_of_threads_can_be_given(blobs, tmp_path, monkeypatch, with_threads):
    fastest = iter((2, 3))
    monkeypatch.setattr(program, "fastest", lambda step: next(fastest))
    assert begin(blobs, tmp_path, threads=3).options.threads == 3
    assert train(blobs, tmp_path, threads=None, epochs=1).options.threads == 2
    assert begin(blobs, tmp_path, threads=None, resume=True).options.threads == torch.get_num_threads() == 2
    monkeypatch.setenv("MKL_NUM_THREADS", "4")
    torch.set_num_threads(4)
    assert begin(blobs, tmp_path, threads=None).options.threads == 4


def test_compiled_networks_come_third(blobs, tmp_path, capsys, monkeypatch, with_threads):
    compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model: compile(model, backend="eager"))
    assert main(quick("--data", blobs, "--output", tmp_path, "--compile", "--epochs", "1")) == 0
    assert torch.get_num_threads() == 4  # restored
    rows = [line.split("  ")[0] for line in capsys.readouterr().out.splitlines() if line.startswith("torch")]
    assert rows == ["torchnotes", "torch", "torch compiled"]


def test_timing_the_threads_does_not_affect_training(blobs, tmp_path, monkeypatch, with_threads):
    monkeypatch.setattr(threads, "WORTHWHILE", 0.0)  # selects one thread
    for given in (1, None):
        torch.set_num_threads(2)
        train(blobs, tmp_path / str(given), epochs=2, threads=given)
    assert_same(state_of(tmp_path / "1"), state_of(tmp_path / "None"))


# interruption and resumption


@pytest.mark.parametrize(
    "options",
    (
        dict(optimizer="adam"),
        dict(optimizer="sgd", dtype="bfloat16"),
        dict(optimizer="rmsprop", activation="tanh", hidden=[16, 8]),
    ),
)
def test_resuming_gives_the_same_model(blobs, tmp_path, options):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(blobs, whole, noise=0.2, **options)
    for epochs in (1, 3, 4):
        train(blobs, parts, noise=0.2, epochs=epochs, resume=epochs > 1, **options)
        same = torch.equal(*(state_of(folder)["torchnotes"]["model"]["0.weight"] for folder in (whole, parts)))
        assert same == (epochs == 4)
    assert_same(state_of(parts), state_of(whole))
    assert_same(load(parts / "model.pt").state, load(whole / "model.pt").state)


def test_an_interruption_keeps_the_best_model_and_the_report(blobs, tmp_path, capsys, monkeypatch):
    """Ctrl-C in the third epoch. Resuming restarts that epoch."""
    whole, ended = tmp_path / "whole", tmp_path / "ended"
    train(blobs, whole)
    timed_step, calls = Contender.timed_step, itertools.count()

    def interrupted(*arguments):
        if next(calls) == 2 * 13 * 2 + 3:  # networks, batches, epochs
            signal.raise_signal(signal.SIGINT)
        return timed_step(*arguments)

    monkeypatch.setattr(Contender, "timed_step", interrupted)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be ignored
    try:
        assert main(quick("--data", blobs, "--output", ended)) == 130
    finally:
        signal.signal(signal.SIGINT, handler)
    printed = capsys.readouterr()
    assert printed.err == "Interrupted after 2 of 4 epochs.\n"
    assert "\ntorchnotes " in printed.out
    assert "Interrupted after 2 of 4 epochs." in (ended / "report.html").read_text()
    assert load(ended / "model.pt").source == "blobs.csv"
    train(blobs, ended, resume=True)
    assert_same(state_of(ended), state_of(whole))


def test_an_interruption_before_the_first_epoch_ends_leaves_nothing_to_report(blobs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Contender, "timed_step", lambda *arguments: signal.default_int_handler(0, None))
    assert main(quick("--data", blobs, "--output", tmp_path)) == 130
    assert "No epoch was completed" in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("options", "complaint"),
    (
        (dict(lr=0.5), "is of a training with --lr 0.002, not 0.5"),
        (dict(hidden=[8, 8], seed=1), "with --hidden 16, not 8 8; --seed 0, not 1"),
        (dict(compile=True), "with --compile False, not True"),
        (dict(epochs=1), "has completed 1 epochs: --epochs must be larger"),
        (dict(path="others.csv"), "is of a training with other data"),
        (dict(folder=Path("elsewhere")), "elsewhere/training.pt: there is no training to resume"),
    ),
)
def test_rejects_resuming_another_training(blobs, short, tmp_path, monkeypatch, options, complaint):
    monkeypatch.chdir(tmp_path)
    before = (short / "training.pt").read_bytes()
    Path("others.csv").write_text(blobs.read_text().replace("ant", "ape"))
    given = dict(path=blobs, folder=short) | options
    with pytest.raises(BadInput, match=complaint):
        begin(Path(given.pop("path")), given.pop("folder"), resume=True, **given)
    assert (short / "training.pt").read_bytes() == before
    assert not Path("elsewhere").exists()


# several ranks


TWO = Classes(("no", "yes"))


class SingleRank(Ranks):
    """A single process with an arbitrary rank."""

    def part(self, rows):
        return rows


def train_small(noise=0.1, ranks=None, epochs=1):
    """Networks trained on 32 rows."""
    pair = torch.randn(32, 2, generator=torch.Generator().manual_seed(0)), torch.arange(32) % 2
    ranks = ranks or Ranks()
    networks = comparison.contenders(Design((2, 8, 2), noise=noise), TWO, "sgd", 0.1, 0, CPU, False, ranks)
    experiment = training.Experiment(pair, pair, epochs, 8, 0)
    training.train(networks, experiment, ranks, Progress(), lambda _: None, lambda: None)
    return [network.model[0].weight for network in networks], experiment


@pytest.mark.parametrize(("noise", "differ"), ((0.0, False), (0.3, True)))
def test_every_rank_has_different_noise(noise, differ):
    first, again, second = (train_small(noise, SingleRank(rank))[0] for rank in (0, 0, 1))
    for number in range(2):
        assert torch.equal(first[number], again[number])
        assert torch.equal(first[number], second[number]) != differ


def test_every_epoch_has_a_different_order_and_noise(monkeypatch):
    seeds = []
    monkeypatch.setattr(torch, "manual_seed", seeds.append)
    _, experiment = train_small(epochs=3)
    assert len(set(seeds[1:])) == 3  # the first seed is that of the parameters
    assert len({tuple(torch.cat(list(experiment.batches(epoch))).tolist()) for epoch in range(3)}) == 3


@pytest.mark.parametrize("size", (1, 2, 3, 5))
def test_ranks_divide_a_batch(size):
    for count in range(2, 12):
        rows = torch.arange(count)
        parts = [Ranks(rank, size).part(rows) for rank in range(size)]
        assert torch.equal(torch.cat(parts), rows)
        lengths = [len(part) for part in parts if len(part)]
        assert max(lengths) - min(lengths) <= 1 < min(lengths)
        assert len(lengths) == min(size, max(1, count // 2))


def test_distributed_training_requires_the_variables_of_torchrun(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        assert not launched()
        monkeypatch.setenv(name, "1")
    assert launched()
    monkeypatch.setenv("RANK", "first")
    assert not launched()


# invalid input

ROW = "1.5,2.5,a\n"
X, Y = numpy.zeros((30, 2)), numpy.zeros(30, int)


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    (
        ("x.xlsx", ROW, "must end in .csv, .tsv, .txt or .npz"),
        ("x.csv", None, "cannot be read: "),
        ("x.csv", "", "has no rows"),
        ("x.csv", "a,b,c\n", "has no rows"),
        ("x.csv", ROW + "-inf,1,a\n", "line 2: -inf in column 'column 1' is not finite"),
        ("x.csv", ROW + "\n1.5,a\n", "line 3: 2 columns instead of 3"),
        ("x.csv", ROW + "1.5,two,a\n", "line 2: 'two' in column 'column 2' is not a number"),
        ("x.csv", ROW * 19 + "\n1,1,\n", "x.csv: at least 20 rows with a target are required, not 19"),
        ("x.csv", ROW, "x.csv: at least 20 rows with a target are required, not 1"),
        ("x.csv", "1\n2\n" * 30, "has one column: expected several, separated by tabs, semicolons"),
        ("x.csv", '1,2,"a\n' + ROW * 30, "cannot be read: unexpected end of data"),
        ("x.csv", ROW + f"{'9' * 5000}x,2,a\n", f"line 2: '{'9' * 59} in column 'column 1' is not a number"),
        ("x.csv", ROW * 20, "every row is of class 'a'"),
        ("x.csv", "".join(f"1,2,w{i}\n" for i in range(40)), "40 classes in 40 rows"),
        ("x.csv", "1,2,1.5\n" * 20, "the target 'column 3' is 1.5 in every row"),
        ("x.csv", b"\xff\xfe\x00", "cannot be read: "),
        ("x.npz", b"no archive", "x.npz cannot be read: it is not an archive of numbers"),
        ("x.npz", X, "a single array without a name"),
        ("x.npz", {"y": Y}, "contains y, but no array called x"),
        ("x.npz", {"x": X}, "has no classes"),
        ("x.npz", {"x": X, "y": Y[1:]}, "y has shape (29,), but x has 30 rows"),
        ("x.npz", {"x": X, "y": Y + 0.5}, "the target 'y' is 0.5 in every row"),
        ("x.npz", {"x": X, "y": numpy.full(30, math.inf, "f4")}, "row 1: inf in column 'y' is not finite"),
        ("x.npz", {"x": X, "y": Y.astype("M8[D]")}, "y must be classes"),
        ("x.npz", {"x": X.astype(complex), "y": Y}, "must be real numbers"),
        ("x.npz", {"x": X[:, 0], "y": Y}, "has shape (30,)"),
        ("x.npz", {"x": numpy.array([object()] * 30), "y": Y}, "x has Python objects: save x.astype(float)"),
        ("folder.csv", None, "cannot be read: "),
        ("folder.npz", None, "cannot be read: "),
    ),
)
def test_rejects_bad_data_before_anything_is_written(tmp_path, name, content, complaint):
    path = tmp_path / name
    if path.stem == "folder":
        path.mkdir()
    if isinstance(content, dict):
        numpy.savez(path, **content)
    elif isinstance(content, numpy.ndarray):
        with path.open("wb") as file:
            numpy.save(file, content)
    elif content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BadInput, match=re.escape(complaint)) as error:
        begin(path, tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("command", "complaint"),
    (
        (f"train --data blobs.csv --hidden {2**63 - 1}", "not enough memory"),
        (f"train --data blobs.csv --hidden {10**15}", "not enough memory"),
        ("predict .", "cannot be read: Is a directory"),
        ("predict none.pt", "cannot be read: No such file"),
        ("predict model.pt", "model.pt was trained on blobs.csv: --data is required"),
        ("predict model.pt --data 1,2,3,4,ant", "has 5 columns, but the model expects 2 without the target"),
        ("predict model.pt --data 1,2,dog", "does not know the class 'dog'"),
        ("predict model.pt --data 1,2,1.5", "does not know the class '1.5'"),
    ),
)
def test_rejects_other_models_and_data(blobs, short, tmp_path, monkeypatch, capsys, command, complaint):
    monkeypatch.chdir(tmp_path)
    for path in (blobs, short / "model.pt"):
        Path(path.name).symlink_to(path)
    *arguments, row = command.split()
    if "," in row:
        Path("row.csv").write_text(f"{row}\n")
        row = "row.csv"
    assert complaint in error_line(capsys, *arguments, row)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("name", ("model.pt", "training.pt"))
def test_full_disks_are_reported(blobs, tmp_path, capsys, name):
    (tmp_path / f"{name}.partial").symlink_to("/dev/full")
    command = quick("--data", blobs, "--output", tmp_path)
    assert "No space left on device" in error_line(capsys, *command, after_output=True)


def flipped(content):
    """Flips a bit of a tensor. The checksum of the zip archive detects it."""
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
    """An inconsistent file of the right format."""

    def change(content):
        found = torch.load(io.BytesIO(content), weights_only=True)
        return saved({**found, key: value} if value is not None else {k: v for k, v in found.items() if k != key})

    return change


def with_nan(content):
    found = torch.load(io.BytesIO(content), weights_only=True)
    found["state"]["0.weight"][0, 0] = math.nan
    return saved(found)


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
    "other tensors": lambda _: saved({"weight": torch.ones(3)}),
    "a module": lambda _: saved(torch.nn.Linear(2, 2)),
    "a TorchScript module": lambda _: torch.jit.script(torch.nn.Linear(2, 2)).save_to_buffer(),
    "an empty archive": lambda _: b"PK\x05\x06" + bytes(18),
    "no design": changed("design", None),
    "another design": changed("design", {"sizes": (64, 8, 10)}),
    "sizes that are none": changed("design", {"sizes": "many"}),
    "no state": changed("state", {}),
    "too few means": changed("mean", torch.zeros(3)),
    "a mean of NaN": changed("mean", torch.full((64,), math.nan)),
    "a scale of 0": changed("scale", torch.zeros(64)),
    "a scale of NaN": changed("scale", torch.full((64,), math.nan)),
    "a weight of NaN": with_nan,
    "too few classes": changed("task", {"kind": "Classes", "classes": ("a", "b")}),
    "another task": changed("task", {"kind": "Guesses"}),
    "other features": changed("features", {"features": (), "layout": (), "target": "y", "named": False}),
    "something more": changed("more", 1),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.jit
def test_rejects_damaged_models_and_those_of_other_programs(digits, tmp_path, capsys, damage):
    path = tmp_path / "model.pt"
    path.write_bytes(DAMAGES[damage]((digits.folder / "model.pt").read_bytes()))
    complaint = "is not a checkpoint of python -m torchnotes train, or is damaged"
    assert complaint in error_line(capsys, "predict", path)


@pytest.mark.parametrize(
    "damage",
    (
        *(DAMAGES[name] for name in ("a bit is wrong", "a list", "a text")),
        changed("definition", None),
        changed("contenders", {"torchnotes": {"epochs": []}}),
    ),
)
def test_rejects_resuming_a_damaged_training(blobs, short, tmp_path, damage):
    (tmp_path / "training.pt").write_bytes(damage((short / "training.pt").read_bytes()))
    with pytest.raises(BadInput, match="is not a training of python -m torchnotes train, or is damaged"):
        begin(blobs, tmp_path, resume=True)


# output


def test_characters_that_the_output_cannot_encode_are_escaped(tmp_path, monkeypatch):
    path = tmp_path / "data\udce9.csv"  # a name that is not valid UTF-8
    path.write_text("".join(f"{i},{i},{('été', 'hiver')[i % 2]}\n" for i in range(40)), encoding="utf-8")
    printed = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", printed)
    assert main(quick("--data", path, "--output", tmp_path, "--epochs", "1")) == 0
    assert main(["predict", str(tmp_path / "model.pt"), "--data", str(path)]) == 0
    text = printed.buffer.getvalue().decode("ascii")
    assert r"data\udce9.csv: 40 rows" in text
    assert "28 training rows" in text
    assert r"\xe9t\xe9," in text
    assert "<title>torchnotes: data?.csv" in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ("stdout", "stderr"))
def test_standard_streams_may_be_closed(blobs, short, monkeypatch, name):
    monkeypatch.setattr(sys, name, None)
    assert main(["predict", str(short / "model.pt"), "--data", str(blobs)]) == 0
    getattr(sys, name).close()


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
def test_the_files_of_standard_streams_may_be_closed(blobs, tmp_path):
    command = quick("--data", blobs, "--output", tmp_path, "--epochs", "1")
    command = shlex.join([sys.executable, "-m", "torchnotes", *command])
    assert subprocess.run(["sh", "-c", f"{command} <&- >&- 2>&-"], cwd=ROOT).returncode == 0
    assert (tmp_path / "report.html").exists()


@pytest.mark.parametrize("columns", (80, 140))
def test_progress_bars_on_a_terminal(blobs, tmp_path, monkeypatch, capsys, columns):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", str(columns))
    program = begin(blobs, tmp_path)
    program.networks[1].seconds = [0.001, 0.003]
    program.networks[1].epochs = [training.Epoch(0.25, 0.5, 0.3, 0.75)]
    with _progress.progress(program) as bars:
        bars.step(program.networks[1], 0.25, 0.5)
        bars.epoch(program.networks[1])
    shown = capsys.readouterr().out
    narrow = "1/52", "left  2 ms/step", "validation accuracy 75.00%"
    for text in (*narrow, *([] if columns == 80 else ["training 50.00%  loss 0.2500  4,000 rows/s"])):
        assert text in shown


# the data


@pytest.mark.parametrize("start", ("", "a,b,c\n"))
def test_a_byte_order_mark_is_not_data(tmp_path, start):
    path = tmp_path / "x.csv"
    path.write_text(start + "1,2,a\n3,4,b\n" * 10, encoding="utf-8-sig")
    rows = data.load(path)
    assert rows.x.tolist() == [[1, 2], [3, 4]] * 10
    assert rows.task.classes == ("a", "b")


def test_classes_may_be_whole_numbers_of_any_length(tmp_path):
    path = tmp_path / "x.csv"
    names = "-3", "+2", "1_0", "9" * 5000
    path.write_text("".join(f"1,{name}\n" for name in names[::-1] * 5))
    assert data.load(path).task.classes == names


def test_both_file_formats_give_the_same_data(blobs, tmp_path):
    rows = data.load(blobs)
    assert rows.task.classes == ("ant", "bee", "cat")
    numpy.savez(tmp_path / "same.npz", X=rows.x.numpy(), labels=numpy.array(rows.task.classes)[rows.y.numpy()])
    again = data.load(tmp_path / "same.npz")
    assert torch.equal(rows.x, again.x)
    assert torch.equal(rows.y, again.y)
    numpy.savez(tmp_path / "images.npz", data=numpy.ones((24, 2, 3), "uint8"), target=numpy.arange(24) % 12 - 1)
    images = data.load(tmp_path / "images.npz")
    assert images.x.shape == (24, 6)
    assert images.task.classes == ("-1", *map(str, range(11)))  # ordered as numbers, not as text


def test_the_split_is_a_partition_of_the_data():
    parts = data.split(100, 0)
    assert [len(part) for part in parts] == [70, 15, 15]
    assert torch.equal(torch.cat(parts).sort()[0], torch.arange(100))


# the networks


def test_networks_are_evaluated_in_eval_mode():
    network = by_torchnotes(Design((5, 7, 3)))
    x = torch.randn(4, 5)
    expected = network.eval()(x)
    network.train()
    assert torch.equal(training.output_of(network, x), expected)
    assert all(module.training for module in network.modules())


@pytest.mark.parametrize(("size", "lengths"), ((4, [4, 4]), (7, [7, 2])))
def test_a_batch_of_one_row_is_skipped(size, lengths):
    experiment = training.Experiment((torch.ones(9, 2), torch.ones(9)), (), 1, size, 0)
    assert [len(rows) for rows in experiment.batches(0)] == lengths


def test_the_two_networks_compute_the_same():
    for activation, noise in itertools.product(ACTIVATIONS, (0.0, 0.3)):
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
    """Probabilities of 0.5 and 0.7, of which one is right, and of 0.9, which is right."""
    confidence, accuracy, error = binned(torch.tensor([0.51, 0.55, 0.95]), torch.tensor([True, False, True]))
    assert confidence.tolist() == pytest.approx([0.53, 0.95])
    assert accuracy.tolist() == [0.5, 1.0]
    assert error == pytest.approx(2 / 3 * 0.03 + 1 / 3 * 0.05)

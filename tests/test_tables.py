"""Tables of users: what `train` understands of them, and what `predict` makes of it."""

import base64
import contextlib
import csv
import io
import math
import re
from types import SimpleNamespace

import hypothesis.strategies as st
import numpy
import pytest
import torch
from hypothesis import assume, given, settings
from test_main import error_line
from test_train import begin, quick, train

from torchnotes.__main__ import main
from torchnotes._bad_input import BadInput
from torchnotes.classifier import metrics, resumption, tables
from torchnotes.classifier.checkpoint import load as load_model
from torchnotes.classifier.data import Wish, load, load_like, split
from torchnotes.classifier.features import Feature
from torchnotes.classifier.tasks import Classes, Numbers, Pinball, Quantiles, quantity
from torchnotes.cli import _classification, _regression
from torchnotes.cli._understood import understood

WORDS = "red", "green", "blue"


def table(path, header, rows, separator=",", **options):
    with path.open("w", newline="", **options) as file:
        lines = csv.writer(file, delimiter=separator)
        if header:
            lines.writerow(header)
        lines.writerows(rows)
    return path


def predicted(capsys, model, path):
    """The lines that predict prints, without the header, and its errors."""
    capsys.readouterr()
    assert main(["predict", str(model), "--data", str(path)]) == 0
    printed = capsys.readouterr()
    return list(csv.reader(io.StringIO(printed.out))), printed.err


# reading

ROWS = [[0.25 * i, WORDS[i % 3], f"class {i % 2}"] for i in range(40)]
COMMAS = [[f"{x}".replace(".", ","), *rest] for x, *rest in ROWS]
NAMES = "size", "color", "kind"
SAME = {
    "commas": dict(header=NAMES, rows=ROWS),
    "no header": dict(header=(), rows=ROWS),
    "byte order mark": dict(header=NAMES, rows=ROWS, encoding="utf-8-sig"),
    "tabs": dict(header=NAMES, rows=ROWS, separator="\t"),
    "vertical bars": dict(header=NAMES, rows=ROWS, separator="|"),
    "semicolons": dict(header=NAMES, rows=ROWS, separator=";"),
    "semicolons and decimal commas": dict(header=NAMES, rows=COMMAS, separator=";"),
    "decimal commas without a header": dict(header=(), rows=COMMAS, separator=";"),
    "spaces": dict(header=NAMES, rows=[[f" {cell} " for cell in row] for row in ROWS]),
    "a last separator": dict(header=(*NAMES, ""), rows=[[*row, ""] for row in ROWS]),
    "blank lines": dict(header=NAMES, rows=[line for row in ROWS for line in (row, [], ["", "", ""])]),
}


@pytest.mark.parametrize("style", SAME)
def test_every_style_of_a_table_is_understood(tmp_path, style):
    rows = load(table(tmp_path / "x.csv", **SAME[style]))
    one_hot = [[float(row[1] == word) for word in sorted(WORDS)] for row in ROWS]
    assert rows.x.tolist() == [[row[0], *code] for row, code in zip(ROWS, one_hot, strict=True)]
    assert rows.y.tolist() == [int(row[2][-1]) for row in ROWS]
    assert rows.task == Classes(("class 0", "class 1"))
    if SAME[style]["header"]:
        assert [feature.name for feature in rows.features] == ["size", "color"]
        assert "the first line was skipped: size, color, kind" in understood(rows, split(40, 0))
    else:
        assert "header    none" in understood(rows, split(40, 0))


SEPARATOR = "§"  # stands for that of the file: other separators in every line would be ambiguous
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0\r\ufeff\t;|,"), max_size=6)
NUMBER = st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=50, deadline=None)
@given(
    separator=st.sampled_from(sorted(tables.SEPARATORS)),
    names=st.lists(TEXT.map(str.strip).filter(bool), min_size=3, max_size=3, unique=True),
    rows=st.lists(st.tuples(NUMBER, TEXT, NUMBER), min_size=1, max_size=8),
)
def test_what_is_written_is_read(tmp_path_factory, separator, names, rows):
    names = [name.replace(SEPARATOR, separator).strip() or "a" for name in names]
    rows = [(x, word.replace(SEPARATOR, separator), y) for x, word, y in rows]
    assume(len(set(names)) == 3)
    path = table(tmp_path_factory.mktemp("x") / "x.csv", names, rows, separator, encoding="utf-8")
    found = tables.read(path, names)
    assert (found.names, found.named) == (tuple(names), True)
    words = [None if word.strip() in tables.MISSING else word.strip() for _, word, _ in rows]
    assert found.columns[1].tolist() == words
    for i in (0, 2):
        assert [float(cell) for cell in found.columns[i]] == [row[i] for row in rows]


@pytest.mark.parametrize(
    ("first", "rows", "expected", "header"),
    (
        ("a,b", ["1,x", "2,y"], (), True),
        ("x,y", ["x,y", "y,x"], (), False),  # words that occur again
        ("c,d", ["x,y", "y,x"], (), True),
        ("1.5,x", ["2.5,y", "1.5,x"], (), False),
        ("NA,x", ["2.5,y", "1.5,x"], (), False),  # a missing number
        (",b", ["0,x", "1,y"], (), True),  # pandas writes its index without a name
        ("2019,2020", ["1,x", "2,y"], (), False),
        ("2019,2020", ["1,x", "2,y"], ("2020",), True),
    ),
)
def test_headers_are_recognized(tmp_path, first, rows, expected, header):
    path = tmp_path / "x.csv"
    path.write_text("\n".join((first, *rows)))
    found = tables.read(path, expected)
    assert found.named == header
    assert len(found) == len(rows) + (not header)


# the inputs of the network


def test_missing_values_have_an_input_or_a_category_of_their_own(tmp_path):
    rows = [["" if i % 4 == 1 else i, "?" if i % 5 == 1 else WORDS[i % 2], i % 2] for i in range(60)]
    found = load(table(tmp_path / "x.csv", ("number", "word", "kind"), rows))
    number, word = found.features
    assert (number.missing, number.width, word.categories, word.width) == (True, 2, ("green", "red"), 3)
    for (value, text, _), x in zip(rows, found.x.tolist(), strict=True):
        assert x[1] == (value == "")
        assert math.isnan(x[0]) if value == "" else x[0] == value
        assert x[2:] == [text == "green", text == "red", text == "?"]
    program = begin(tmp_path / "x.csv", tmp_path / "run")
    x, (training, *_) = program.experiment.training[0], program.parts
    assert x.isfinite().all()
    assert x[found.x[training, 1] == 1, 0].abs().max() == 0  # the mean
    assert x[:, 0].mean().item() == pytest.approx(0, abs=1e-6)
    assert set((x[:, 2] - x[:, 2].min()).tolist()) == {0, 1}  # categories keep their scale


def test_categories_are_those_of_the_training_rows(tmp_path):
    """A word that only occurs elsewhere has no weight. It counts as the mean of the training rows."""
    parts = split(60, 0)
    rows = [[WORDS[i % 2], i % 2] for i in range(60)]
    rows[parts.test[0]][0] = "mauve"
    program = begin(table(tmp_path / "x.csv", ("word", "kind"), rows), tmp_path / "run")
    assert program.rows.features.features[0].categories == ("green", "red")
    assert program.rows.x[parts.test[0]].isnan().all()
    assert program.test[0][0].abs().max() == 0
    assert program.rows.features.unknown(program.rows.x) == {"word": 1}


def test_dates_are_days(tmp_path):
    days = ["1970-01-02", "1970-01-03 12:00", "1970-01-02T06:00:00Z", "1969-12-31T23:00-01:00", ""]
    rows = [[days[i % 5], i % 2] for i in range(40)]
    found = load(table(tmp_path / "x.csv", ("day", "kind"), rows))
    assert found.x[:4, 0].tolist() == [1, 2.5, 1.25, 0]
    assert found.x[:5, 1].tolist() == [0, 0, 0, 0, 1]
    assert "1 as days since 1970: day" in understood(found, split(40, 0))


def test_useless_columns_are_left_out_and_mentioned(tmp_path):
    rows = [[i, f"name {i}", "", 7, i % 4, i % 3, i % 2] for i in range(60)]
    found = load(
        table(tmp_path / "x.csv", ("", "name", "empty", "constant", "color", "size", "kind"), rows),
        Wish(exclude=["color"]),
    )
    assert [feature.name for feature in found.features] == ["constant", "size"]
    text = re.sub(r"\s+", " ", understood(found, split(60, 0)))
    assert "constant constant" in text
    assert "counting" not in text
    reasons = (
        "column 1 (the number of the row), name (a different text in most rows), empty (no values), color (excluded)"
    )
    assert reasons in text


def test_numbers_that_count_the_rows_are_mentioned(tmp_path):
    path = table(tmp_path / "x.csv", ("id", "x", "y"), [[i + 1, i % 5, i % 2] for i in range(60)])
    assert "counting  id; --exclude leaves out" in understood(load(path), split(60, 0))
    assert "counting" not in understood(load(path, Wish(exclude=["id"])), split(60, 0))


# the task


@pytest.mark.parametrize(
    ("values", "wish", "task"),
    (
        (["yes", "no"], {}, Classes(("no", "yes"))),
        (["True", "False"], {}, Classes(("False", "True"))),
        ([10, 9, -1], {}, Classes(("-1", "9", "10"))),
        (["1.0", "0.0", "1", "2e3"], {}, Classes(("0", "1", "2000"))),  # as pandas writes integers if some are missing
        (range(40), {}, Numbers),
        (range(20), dict(task="classification"), Classes(tuple(map(str, range(20))))),
        (range(3), dict(task="regression"), Numbers),
        (range(3), dict(loss="squared"), Numbers),
        ([0.5, 1.5], {}, Numbers),
        ([0.5, 1.5], dict(task="classification"), Classes(("0.5", "1.5"))),
        ([0.5, 1.5], dict(loss="pinball"), (0.1, 0.5, 0.9)),
        ([0.5, 1.5], dict(quantiles=[0.8, 0.2, 0.8]), (0.2, 0.8)),
    ),
)
def test_the_task_follows_from_the_target(tmp_path, values, wish, task):
    values = list(values)
    rows = [[i % 7, values[i % len(values)]] for i in range(40)]
    found = load(table(tmp_path / "x.csv", ("x", "y"), rows), Wish(**wish))
    if isinstance(task, Classes):
        assert found.task == task
        assert "classes" in understood(found, split(40, 0))
        return
    assert found.task.quantiles == task if isinstance(task, tuple) else isinstance(found.task, task)
    assert found.y.tolist() == [row[1] for row in rows]
    training = found.y[split(40, 0).train].numpy()
    assert (found.task.mean, found.task.scale) == pytest.approx((training.mean(), training.std()))
    assert "regression with " in understood(found, split(40, 0))


def test_rows_without_a_target_are_dropped(tmp_path):
    rows = [[i, "" if i % 10 == 3 else f"kind {i % 2}"] for i in range(60)]
    found = load(table(tmp_path / "x.csv", ("x", "y"), rows))
    assert found.x[:, 0].tolist() == [row[0] for row in rows if row[1]]
    assert "dropped   6 rows without a target" in understood(found, split(54, 0))


def test_any_column_can_be_the_target(tmp_path):
    path = table(tmp_path / "x.csv", NAMES, ROWS)
    found = load(path, Wish(target="color"))
    assert found.task.classes == tuple(sorted(WORDS))
    assert [feature.name for feature in found.features] == ["size", "kind"]


# invalid tables

HEADER, LINES = "a,b,c\n", "1.5,2,x\n2.5,3,y\n" * 20


@pytest.mark.parametrize(
    ("content", "wish", "complaint"),
    (
        (HEADER, {}, "has no rows below its header"),
        (" \n\n", {}, "has no rows"),
        ("a,b,a\n" + LINES, {}, "columns 1 and 3 have the same name, 'a'"),
        (HEADER + LINES, dict(target="d"), "has no column 'd'; it has 'a', 'b', 'c'"),
        (HEADER + LINES, dict(exclude=["d"]), "has no column 'd'; it has 'a', 'b', 'c'"),
        (HEADER + LINES, dict(exclude=["c"]), "--exclude c: this is the target"),
        (HEADER + LINES, dict(exclude=["a", "b"]), "has no column to learn from (a: excluded; b: excluded)"),
        (HEADER + LINES, dict(loss="squared"), "line 2: 'x' in column 'c' is not a number"),
        (HEADER + LINES, dict(loss="squared", quantiles=[0.5]), "--quantiles requires --loss pinball"),
        (
            HEADER + LINES,
            dict(task="classification", loss="squared"),
            "--loss and --quantiles require --task regression",
        ),
        (HEADER + LINES + "1,2,x,4\n", {}, "line 42: 4 columns instead of 3"),
        (HEADER + LINES + "1,2\n", {}, "line 42: 2 columns instead of 3"),
        (HEADER + '1.5,2,"x\n\ny"\n' + LINES + "\n1,2\n", {}, "line 46: 2 columns instead of 3"),
        (HEADER + LINES + "oops,2,x\n", {}, "line 42: 'oops' in column 'a' is not a number"),
        (HEADER + LINES + "inf,2,x\n", {}, "line 42: inf in column 'a' is not finite"),
        (HEADER + LINES.replace("x", "").replace("y", "NA"), {}, "column 'c', the target, has no values"),
        ("a,c\n" + ",x\n?,y\n" * 20, {}, "has no column to learn from (a: no values)"),
        ("a,c\n" + "1,x\n2,x\n" * 20, {}, "every row is of class 'x'"),
        ("a,c\n" + "".join(f"w{i % 101},{i % 2}\n" for i in range(404)), {}, "has 101 different words, such as 'w0'"),
        ("a,c\n" + "31.12.2024,x\n1.1.2025,y\n" * 20, {}, "line 2: '31.12.2024' in column 'a' is not a date like"),
        ("a,c\n" + "2024-02-30,x\n2024-03-01,y\n" * 20, {}, "line 2: '2024-02-30' in column 'a' is not a date like"),
        ("a,c\n" + "1,2024-03-01\n2,2024-03-02\n" * 20, {}, "the target 'c' is a date"),
        ("a,c\n" + "1,1.5e308\n2,-1.5e308\n" * 20, dict(loss="squared"), "target 'c' are too large"),
        ("a\n1\n2\n", dict(target="a"), "has no column to learn from (the target is the only one)"),
        ('a,c\n"1,x\n' + LINES, {}, "cannot be read: "),
        ("a,c\n1,été\n".encode("latin-1"), {}, "it is not text in UTF-8 (byte 7)"),
        (b"\x89PNG\r\n\x1a\n\0\1", {}, "it is not text in UTF-8 (byte 1)"),
        (b"PK\3\4\0\0", {}, "it is not a text"),
    ),
)
def test_rejects_invalid_tables(tmp_path, content, wish, complaint):
    path = tmp_path / "x.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BadInput, match=re.escape(complaint)) as error:
        load(path, Wish(**wish))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "complaint"),
    (
        ("--quantiles 0.5 1", "'1' is not a number between 0 and 1"),
        ("--quantiles 0", "'0' is not a number between 0 and 1"),
        ("--loss huber", "invalid choice: 'huber'"),
        ("--task clustering", "invalid choice: 'clustering'"),
        ("--target size", "digits has no column 'size'; it has 'x1', 'x2'"),
    ),
)
def test_rejects_invalid_options(tmp_path, capsys, options, complaint):
    command = "train", *options.split(), "--output", tmp_path / "run"
    assert complaint in error_line(capsys, *command)
    assert not (tmp_path / "run").exists()


def test_pandas_is_needed_for_tables_only(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pandas", None)
    numpy.savez(tmp_path / "x.npz", x=numpy.eye(40), y=numpy.arange(40) % 2)
    assert load(tmp_path / "x.npz").x.shape == (40, 40)
    assert load(None).x.shape == (1797, 64)
    with pytest.raises(BadInput, match="this requires pandas"):
        load(table(tmp_path / "x.csv", NAMES, ROWS))


# from train to predict


def mixed(path, n=400, noise=0.0):
    """price = 3 size + 10 (color is red) + 5 if there is no garden"""
    generator = numpy.random.default_rng(0)
    rows = []
    for i in range(n):
        size, garden = generator.uniform(0, 10), ("", 1, 2)[i % 3]
        price = 3 * size + 10 * (WORDS[i % 3 - 1] == "red") + 5 * (garden == "") + noise * generator.normal()
        rows.append((f"id{i}", size, WORDS[i % 3 - 1], garden, f"2024-01-{i % 28 + 1:02d}", price))
    return table(path, ("id", "size", "color", "garden", "day", "price"), rows)


@pytest.fixture(scope="module")
def prices(tmp_path_factory):
    """The output of a training on numbers. Tests must not change it."""
    folder = tmp_path_factory.mktemp("prices")
    path = mixed(folder / "prices.csv")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main(quick("--data", path, "--output", folder, "--epochs", 20, "--lr", 0.01)) == 0
    return SimpleNamespace(folder=folder, path=path, model=folder / "model.pt", printed=printed.getvalue())


def test_predictions_of_numbers_are_in_the_units_of_the_target(prices, capsys):
    (header, *lines), errors = predicted(capsys, prices.model, prices.path)
    truth = [float(row["price"]) for row in csv.DictReader(io.StringIO(prices.path.read_text()))]
    error = numpy.array([float(line[0]) for line in lines]) - truth
    assert header == ["price"]
    assert math.sqrt((error**2).mean()) < 0.15 * numpy.std(truth)
    expected = f"RMSE {quantity(math.sqrt((error**2).mean()))}, MAE {quantity(abs(error).mean())}, R²"
    assert errors.startswith(expected)
    assert "(400 rows)" in errors


def test_columns_are_matched_by_name(prices, tmp_path, capsys):
    """In any order, with and without the target and columns that the network does not use."""
    rows = list(csv.DictReader(io.StringIO(prices.path.read_text())))
    expected, _ = predicted(capsys, prices.model, prices.path)
    for names in (["price", "day", "garden", "color", "size", "id"], ["day", "size", "garden", "color"]):
        path = table(tmp_path / "x.csv", names, [[row[name] for name in names] for row in rows], ";")
        found, errors = predicted(capsys, prices.model, path)
        assert found == expected
        assert bool(errors) == ("price" in names)
    path = table(tmp_path / "x.csv", ["size", "day"], [[row["size"], row["day"]] for row in rows])
    complaint = "x.csv has no column 'color', 'garden'; it has 'size', 'day'"
    assert complaint in error_line(capsys, "predict", prices.model, "--data", path)


def test_columns_are_matched_by_position_in_tables_without_a_header(prices, tmp_path, capsys):
    rows = list(csv.reader(io.StringIO(prices.path.read_text())))[1:]
    expected, _ = predicted(capsys, prices.model, prices.path)
    for width in (6, 5):
        found, errors = predicted(capsys, prices.model, table(tmp_path / "x.csv", (), [row[:width] for row in rows]))
        assert found == expected
        assert bool(errors) == (width == 6)
    path = table(tmp_path / "x.csv", (), [row[:4] for row in rows])
    assert "has 4 columns, but the model expects 5" in error_line(capsys, "predict", prices.model, "--data", path)


@pytest.mark.parametrize("header", ((), ("x", "y")))
def test_decimal_commas_are_understood_again(tmp_path, capsys, header):
    rows = [[f"{i % 9},5", f"{i % 9 + i % 2},5"] for i in range(60)]
    train(table(tmp_path / "x.csv", header, rows, ";"), tmp_path, epochs=1)
    with_points = [[cell.replace(",", ".") for cell in row] for row in rows]
    found = predicted(capsys, tmp_path / "model.pt", tmp_path / "x.csv")
    assert found == predicted(capsys, tmp_path / "model.pt", table(tmp_path / "x.csv", header, with_points))


def test_unknown_words_count_as_the_average(prices, tmp_path, capsys):
    model = load_model(prices.model)
    path = table(tmp_path / "x.csv", ["size", "color", "garden", "day"], [[1.0, "mauve", 2, "2024-01-01"]] * 3)
    (_, *lines), errors = predicted(capsys, prices.model, path)
    assert errors == "color: 3 values are not among those of the training, and count as its average\n"
    x = load_like(path, model.features, model.task)[0].x
    average = torch.where(x.isnan(), model.mean, x)
    output = model.output(average, torch.device("cpu"))
    assert [f"{value:.6g}" for value in model.task.predictions(output)[:, 0].tolist()] == [line[0] for line in lines]


def test_rows_without_a_class_are_predicted_but_not_counted(blobs, tmp_path, capsys):
    train(blobs, tmp_path, epochs=2)
    lines = blobs.read_text().splitlines()
    (tmp_path / "some.csv").write_text(
        "\n".join([lines[0], *(line.rsplit(",", 1)[0] + "," for line in lines[1:11]), *lines[11:]])
    )
    found, errors = predicted(capsys, tmp_path / "model.pt", tmp_path / "some.csv")
    assert len(found) == 151
    right = sum(line[0] == ("ant", "bee", "cat")[i % 3] for i, line in enumerate(found[1:]) if i >= 10)
    assert f"({right} of 140 rows)" in errors


def test_a_single_row_is_enough(prices, tmp_path, capsys):
    path = table(tmp_path / "x.csv", ["size", "color", "garden", "day"], [[1.0, "red", "", "2024-01-01"]])
    assert len(predicted(capsys, prices.model, path)[0]) == 2
    path = table(tmp_path / "x.csv", ["size", "color", "garden", "day", "price"], [[1.0, "red", "", "2024-01-01", 5]])
    assert re.fullmatch(r"RMSE \S+, MAE \S+ \(1 rows\)\n", predicted(capsys, prices.model, path)[1])


def test_npz_files_predict_by_position(tmp_path, capsys):
    x = numpy.random.default_rng(0).normal(size=(60, 3))
    numpy.savez(tmp_path / "x.npz", x=x, y=x.sum(1))
    train(tmp_path / "x.npz", tmp_path, epochs=1)
    for arrays, complaint in (
        ({"x": x}, None),
        ({"x": x, "y": x[:, 0]}, None),
        ({"x": x[:, :2], "y": x[:, 0]}, "2 features"),
    ):
        numpy.savez(tmp_path / "new.npz", **arrays)
        if complaint:
            assert complaint in error_line(capsys, "predict", tmp_path / "model.pt", "--data", tmp_path / "new.npz")
        else:
            assert len(predicted(capsys, tmp_path / "model.pt", tmp_path / "new.npz")[0]) == 61


# how well numbers are learned


@pytest.fixture(scope="module")
def wave(tmp_path_factory):
    """sin(x) with Gaussian noise of a standard deviation of 20, of which 1000 times is added."""
    generator = numpy.random.default_rng(1)
    x = generator.uniform(-3, 3, 4000)
    y = 1000 + 100 * numpy.sin(x) + 20 * generator.normal(size=4000)
    return table(tmp_path_factory.mktemp("wave") / "wave.csv", ("x", "y"), zip(x, y, strict=True))


def test_the_error_of_numbers_is_their_noise(wave, tmp_path):
    """The standard deviation of the estimated noise in 600 rows is 20 / sqrt(1200) = 0.6; three of them, and as much
    again for what the network has not learned."""
    program = train(wave, tmp_path, hidden=[32, 32], epochs=15, batch_size=64, noise=None)
    assert program.options.noise == 0
    results, difference = program.evaluate()
    y = program.rows.y[program.parts.test]
    for result in results:
        found = metrics.metrics(program.task, result.output, y)
        assert 20 - 3 * 0.6 < found["RMSE"] < 20 + 6 * 0.6
        assert found["MAE"] == pytest.approx(found["RMSE"] * math.sqrt(2 / math.pi), rel=0.1)  # of a Gaussian
        assert program.task.shown(result.test_score) == quantity(found["RMSE"])
    assert difference < 1e-5


def test_quantiles_cover_their_share(wave, tmp_path, capsys):
    """Of 4000 rows, 80 % and 50 % have standard deviations of 0.6 and 0.8 %. The bounds are wider, because the network
    varies by some percent from epoch to epoch. In small batches, the noise of batch normalization widens the quantiles.
    """
    options = dict(hidden=[32, 32], epochs=150, batch_size=1024, lr=5e-3, loss="pinball")
    program = train(wave, tmp_path, noise=None, **options)
    assert program.task.quantiles == (0.1, 0.5, 0.9)
    assert program.evaluate()[1] < 1e-5  # our gradients and torch's
    (header, *lines), errors = predicted(capsys, tmp_path / "model.pt", wave)
    assert header == ["y 0.1", "y 0.5", "y 0.9"]
    low, middle, high = numpy.array(lines, float).T
    y = numpy.array([float(row["y"]) for row in csv.DictReader(io.StringIO(wave.read_text()))])
    assert 0.76 < ((low <= y) & (y <= high)).mean() < 0.84
    assert 0.46 < (y <= middle).mean() < 0.54
    assert 2 * 1.2816 * 20 * 0.9 < (high - low).mean() < 2 * 1.2816 * 20 * 1.1  # Φ^-1(0.9) = 1.2816
    assert re.match(r"pinball loss \S+, coverage \S+% \(4000 rows\)", errors)


def test_quantiles_do_not_cross():
    task = Quantiles(10.0, 2.0, (0.1, 0.9))
    output = torch.tensor([[1.0, -1.0], [0.0, 1.0]])
    assert task.predictions(output).tolist() == [[8, 12], [10, 12]]
    assert task.scores(output, torch.tensor([0.0, 2.0])).tolist() == [True, False]


def test_the_losses_of_both_networks_agree():
    y = torch.randn(50, dtype=torch.float64)
    for task in (Numbers(3.0, 2.0), Quantiles(3.0, 2.0, (0.2, 0.7)), Quantiles(3.0, 2.0, (0.5,))):
        output = torch.randn(50, task.outputs, dtype=torch.float64)
        target = task.scaled(y, torch.float64)
        torch.testing.assert_close(task.loss(ours=True)(output, target), task.loss(ours=False)(output, target))
    with pytest.raises(AssertionError):
        torch.testing.assert_close(Pinball((0.2,))(output, y), Pinball((0.3,))(output, y))


def test_metrics_agree_with_scikit_learn():
    from sklearn.metrics import (
        confusion_matrix,
        mean_absolute_error,
        mean_pinball_loss,
        r2_score,
        root_mean_squared_error,
    )

    y, output = 5 + torch.randn(80, dtype=torch.float64), torch.randn(80, 2, dtype=torch.float64)
    task = Numbers(5.0, 2.0)
    found = metrics.metrics(task, output[:, :1], y)
    predictions = task.predictions(output[:, :1])[:, 0]
    assert found == pytest.approx(
        {
            "RMSE": root_mean_squared_error(y, predictions),
            "MAE": mean_absolute_error(y, predictions),
            "R²": r2_score(y, predictions),
        }
    )
    assert task.scores(output[:, :1], task.scaled(y, torch.float64)).mean().sqrt() * 2 == pytest.approx(found["RMSE"])
    task = Quantiles(5.0, 2.0, (0.2, 0.7))
    low, high = task.predictions(output).T
    pinball = (mean_pinball_loss(y, low, alpha=0.2) + mean_pinball_loss(y, high, alpha=0.7)) / 2
    inside = ((y >= low) & (y <= high)).double().mean().item()
    assert metrics.metrics(task, output, y) == pytest.approx({"pinball loss": pinball, "coverage": inside})
    classes, logits = torch.arange(80) % 3, torch.randn(80, 3)
    expected = confusion_matrix(classes, logits.argmax(1))
    assert metrics.confusion(Classes(("a", "b", "c")), logits, classes).tolist() == expected.tolist()


# the report


def results_of(program, output, y):
    return [SimpleNamespace(name="torchnotes", output=output, y=y, task=program.task)]


def test_the_worst_mistakes_are_shown_with_their_rows(blobs, tmp_path):
    """All rows of the test set are taken for a cat; the fifth with the highest probability of those that are none."""
    program = begin(blobs, tmp_path)
    y = program.test[1]
    output = torch.tensor([[0.0, 0.0, 3.0]]).repeat(len(y), 1).double()
    worst = int((y != 2).nonzero()[4])
    output[worst, 2] = 4
    results = results_of(program, output, y)
    text = _classification.text(program, results)
    counts = y.bincount().tolist()
    for name, count, recall in zip(("ant", "bee", "cat"), counts, ("0%", "0%", "100%"), strict=True):
        assert re.search(rf"^{name} +0 +0 +{count} +{recall}$", text, re.MULTILINE)
    line = int(program.parts.test[worst]) + 2  # the first line is the header
    width, height, kind = blobs.read_text().splitlines()[line - 1].split(",")
    probability = math.exp(4) / (math.exp(4) + 2)
    assert (
        f"Worst mistakes:\nline {line}: {kind}, taken for cat with probability {probability:.1%} "
        f"(width {width}; height {height})"
    ) in text
    page = "".join(_classification.html(program, results))
    assert f"<td>line {line}</td><td>{kind}</td><td>cat</td><td>{probability:.1%}</td><td>{width}</td>" in page


def test_names_are_escaped(tmp_path):
    rows = [[i % 5, ("<b>", "&c")[i % 2]] for i in range(40)]
    program = begin(table(tmp_path / "x.csv", ("<i>", "y"), rows), tmp_path / "run")
    y = program.test[1]
    output = torch.nn.functional.one_hot(1 - y, 2).double()
    page = "".join(_classification.html(program, results_of(program, output, y)))
    assert "&lt;b&gt;" in page
    assert "&lt;i&gt;" in page
    assert not re.search("<[bi]>|&c", page)


def test_many_classes_are_listed_by_their_most_frequent_mistakes(tmp_path):
    rows = [[i % 7, f"c{i % 50}"] for i in range(2000)]
    program = begin(table(tmp_path / "x.csv", ("x", "y"), rows), tmp_path / "run")
    y = program.test[1]
    guess = torch.where(y == 3, 4, y)
    results = results_of(program, torch.nn.functional.one_hot(guess, 50).double(), y)
    first, second = program.task.classes[3:5]
    count = int((y == 3).sum())
    assert f"Most frequent mistakes:\n{first} taken for {second}: {count} rows\n" in _classification.text(
        program, results
    )
    page = "".join(_classification.html(program, results))
    assert f"<td>{first}</td><td>0%</td>" in page
    assert f"<td>{second}</td><td>100%</td>" in page


def test_misread_digits_are_shown_as_images(tmp_path):
    from matplotlib.image import imread

    program = begin(None, tmp_path, epochs=1)
    y = program.test[1]
    output = torch.nn.functional.one_hot((y + 1) % 10, 10).double()
    output[7] *= 2
    page = "".join(_classification.html(program, results_of(program, output, y)))
    image = re.search(r'<img alt="([^"]*)"[^>]*base64,([^"]*)"', page)
    row = int(program.parts.test[7])
    assert image[1].startswith(f"row {row + 1}: {y[7]}, taken for {(y[7] + 1) % 10} with probability")
    pixels = torch.from_numpy(imread(io.BytesIO(base64.b64decode(image[2])), format="png"))
    expected = program.rows.x[row].view(8, 8)
    torch.testing.assert_close(pixels.double(), expected / expected.max(), rtol=0, atol=0.5 / 255 + 1e-6)


def test_the_largest_errors_are_shown_with_their_rows(prices):
    page = (prices.folder / "report.html").read_text()
    assert "Errors of price on the test set" in page
    assert "Predicted by true values of price" in page
    line, predicted, true, shown = re.search(
        r"Largest errors:\nline (\d+): (\S+) instead of (\S+) \(size (\S+);", prices.printed
    ).groups()
    row = list(csv.reader(io.StringIO(prices.path.read_text())))[int(line) - 1]
    assert (row[1], quantity(float(row[5]))) == (shown, true)
    assert f"<td>line {line}</td><td>{true}</td><td>{predicted}</td>" in page


def test_the_largest_error_comes_first(prices, tmp_path):
    program = begin(prices.path, tmp_path)
    y = program.test[1]
    output = y.double().clone()
    output[5] += 9 / program.task.scale
    line = int(program.parts.test[5]) + 2
    predicted = quantity(float(program.rows.y[line - 2]) + 9)
    text = _regression.text(program, results_of(program, output, y))
    assert re.search(rf"Largest errors:\nline {line}: {re.escape(predicted)} instead of", text)


@pytest.mark.parametrize(("value", "text"), ((0.0123456, "0.01235"), (69340.4, "69,340"), (-1e-7, "-1e-07"), (0, "0")))
def test_quantities_have_four_digits(value, text):
    assert quantity(value) == text


# saved files


def test_the_preparation_of_a_table_is_saved(prices):
    model = load_model(prices.model)
    size, color, garden, day = model.features
    assert size == Feature("size", "number", False)
    assert color == Feature("color", "category", False, tuple(sorted(WORDS)))
    assert (garden.missing, day.kind) == (True, "date")
    assert model.features.layout == ("id", "size", "color", "garden", "day", "price")
    assert isinstance(model.task, Numbers)


@pytest.mark.parametrize(
    ("options", "complaint"),
    (
        (dict(target="size"), "with --target not given, not size"),
        (dict(exclude=["day"]), "with --exclude not given, not day"),
        (dict(loss="pinball"), "with --loss not given, not pinball"),
        (dict(noise=0.1), "with --noise 0.0, not 0.1"),
    ),
)
def test_rejects_resuming_with_another_task(prices, options, complaint):
    given = dict(epochs=30, lr=0.01, noise=None) | options
    with pytest.raises(BadInput, match=complaint):
        begin(prices.path, prices.folder, resume=True, **given)


def test_resuming_a_regression_gives_the_same_model(wave, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options = dict(noise=None, quantiles=[0.3, 0.6], batch_size=64)
    train(wave, whole, epochs=2, **options)
    for epochs in (1, 2):
        train(wave, parts, epochs=epochs, resume=epochs > 1, **options)
    expected, found = (load_model(folder / "model.pt").state for folder in (whole, parts))
    for name, x in expected.items():
        assert torch.equal(found[name], x)


def test_files_of_older_versions_are_named(prices, tmp_path, capsys):
    content = torch.load(prices.model, weights_only=True)
    torch.save({**content, "format": "torchnotes classifier 1"}, tmp_path / "model.pt")
    assert "older version of torchnotes" in error_line(capsys, "predict", tmp_path / "model.pt")
    torch.save({"format": "torchnotes training 1"}, tmp_path / "training.pt")
    with pytest.raises(BadInput, match="older version of torchnotes"):
        resumption.load(tmp_path / "training.pt", {}, 1)

"""The manners of the command line: help, wrapped text, what is printed before torch is loaded, commands to paste."""

import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import torchnotes
from torchnotes.__main__ import main
from torchnotes._bad_input import PACKAGES, BadInput, extra
from torchnotes._shell import command
from torchnotes.cli import COMMANDS, _parser, summary
from torchnotes.cli._names import selected
from torchnotes.cli._parser import Formatter

ROOT = Path(torchnotes.__file__).parents[1]


# help


def test_without_arguments_help_is_printed_and_the_status_is_that_of_invalid_input(capsys):
    assert main([]) == 2
    without = capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert (stop.value.code, without.err) == (0, "")
    assert without.out == capsys.readouterr().out


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert (stop.value.code, capsys.readouterr().out) == (0, f"torchnotes {torchnotes.__version__}\n")


# The usage, which comes before the first empty line, is wrapped by argparse.


def help_of(command, width, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(width))
    with pytest.raises(SystemExit):
        main([*command, "--help"])
    return capsys.readouterr().out


@pytest.mark.parametrize("width", (50, 80))
@pytest.mark.parametrize("command", ((), *((name,) for name in COMMANDS)))
def test_help_is_wrapped_between_words(monkeypatch, capsys, command, width):
    narrow, wide = (help_of(command, columns, monkeypatch, capsys).split("\n\n", 1)[1] for columns in (width, 10_000))
    assert set(narrow.split()) == set(wide.split())
    examples = re.findall("^  bench .*$", wide, re.MULTILINE)
    too_long = [line for line in narrow.splitlines() if len(line) > width and line not in examples]
    assert all(re.match("  --\\w+ {", line) for line in too_long), too_long  # the choices of an option are one word


LONG = "/a/path/that/is-longer/than/a/line/of/the/narrowest/terminal"


@pytest.mark.parametrize("width", range(20, 60, 3))
def test_paragraphs_and_examples_remain_and_words_are_not_broken(monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    text = f"Use --a-hyphenated-option or {LONG} with-out --breaking-it."
    parser = _parser.Parser(
        description=f"{text}\n\nA paragraph.\n\n  an example   of --its-own", formatter_class=Formatter
    )
    parser.add_argument("--option", help=text)
    shown = parser.format_help()
    for word in text.split():
        assert shown.split().count(word) >= 2, word
    assert "\n\nA paragraph.\n\n  an example   of --its-own\n" in shown


def test_summaries_are_the_first_lines_of_docstrings(capsys, monkeypatch):
    listed = help_of((), 200, monkeypatch, capsys)
    for name in COMMANDS:
        assert summary(name) in listed
        assert summary(name) == sys.modules[f"torchnotes.cli.{name}"].__doc__.splitlines()[0]


# errors


class Terminal:
    """Standard error on a terminal."""

    def __init__(self):
        self.text = ""

    def isatty(self):
        return True

    def write(self, text):
        self.text += text

    def flush(self):
        pass


def test_errors_are_wrapped_on_a_terminal_except_commands(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    message = f"--learning-rate-schedule-of-all requires {'a' * 50}:\npython -m pip install one two three four five six"
    assert _parser.fail("python -m torchnotes train", message) == 2
    assert terminal.text.splitlines() == [
        "python -m torchnotes train: error:",
        "--learning-rate-schedule-of-all requires",
        f"{'a' * 50}:",
        "python -m pip install one two three four five six",
    ]


def test_errors_are_a_line_elsewhere(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "40")
    _parser.fail("program", f"{'word ' * 20}is missing:\na command")
    assert capsys.readouterr().err == f"program: error: {'word ' * 20}is missing: a command\n"


# before torch is loaded


def without_torch(tmp_path, *arguments, **variables):
    """Runs python -m torchnotes with a torch whose import ends the program with status 7."""
    folder = tmp_path / "torch"
    folder.mkdir(exist_ok=True)
    (folder / "__init__.py").write_text("raise SystemExit(7)")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), **variables}
    program = [sys.executable, "-m", "torchnotes", *arguments]
    return subprocess.run(program, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("arguments", "status", "shown"),
    (
        ("", 2, "usage: python -m torchnotes"),
        ("--help", 0, "usage: python -m torchnotes"),
        ("--version", 0, f"torchnotes {torchnotes.__version__}"),
        ("dance", 2, "invalid choice: 'dance'"),
        ("train --epochs 1", 7, "Loading torch ...\n"),
    ),
)
def test_printed_before_torch_is_loaded(tmp_path, arguments, status, shown):
    done = without_torch(tmp_path, *arguments.split())
    assert (done.returncode, shown in done.stdout + done.stderr) == (status, True)


@pytest.mark.parametrize("arguments", ("predict train", "check --json -", "train --help", "info"))
def test_other_commands_print_nothing_before(tmp_path, arguments):
    done = without_torch(tmp_path, *arguments.split())
    assert (done.returncode, done.stdout, done.stderr) == (7, "", "")


def test_only_the_first_rank_announces_the_training(tmp_path):
    assert without_torch(tmp_path, "train", RANK="1").stdout == ""


def test_a_command_imports_no_other(tmp_path):
    code = "import sys, torchnotes.__main__ as m; m.main(['info']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {
        name.removeprefix("torchnotes.cli.") for name in done.stdout.split() if name.startswith("torchnotes.cli.")
    }
    assert loaded & set(COMMANDS) == {"info"}


# missing packages


@pytest.mark.parametrize(
    ("installed", "asked"), ((True, "-m pip install 'torchnotes[tools]'"), (False, "-m pip install scikit-learn"))
)
def test_missing_packages_are_reported_with_the_command_that_installs_them(monkeypatch, installed, asked):
    def version(name):
        if not installed:
            raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(BadInput) as error:
        extra("sklearn.datasets")
    first, second = str(error.value).splitlines()
    assert first == "this requires scikit-learn, which is not installed:"
    assert second.endswith(asked)


def test_extras_contain_the_packages():
    text = (ROOT / "pyproject.toml").read_text()
    extras = text.split("[project.optional-dependencies]")[1].split("[dependency-groups]")[0]
    for package, name in PACKAGES.values():
        assert re.search(rf'^{name} = \[.*"{package}".*\]', extras, re.MULTILINE), package


# commands to paste


@pytest.fixture
def pythons(tmp_path, monkeypatch):
    """Two environments with links to the same Python, in and outside of the current directory."""
    for folder in ("here/.venv/bin", "elsewhere/bin"):
        (tmp_path / folder).mkdir(parents=True)
        for name in ("python", "python3"):
            (tmp_path / folder / name).symlink_to(sys.executable)
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


@pytest.mark.parametrize(
    ("executable", "path", "expected"),
    (
        ("here/.venv/bin/python", "elsewhere/bin", ".venv/bin/python"),
        ("here/.venv/bin/python3", "elsewhere/bin", ".venv/bin/python3"),
        ("here/.venv/bin/python", "here/.venv/bin", "python"),  # the environment is active
        ("here/.venv/bin/python3", "here/.venv/bin", "python"),
        ("elsewhere/bin/python3", "here/.venv/bin", "{}/elsewhere/bin/python3"),
    ),
)
def test_commands_name_this_python(pythons, monkeypatch, executable, path, expected):
    monkeypatch.setattr(sys, "executable", str(pythons / executable))
    monkeypatch.setenv("PATH", str(pythons / path))
    assert command("pip", "install", "a[b]") == f"{expected.format(pythons)} -m pip install 'a[b]'"


def test_the_command_that_train_prints_can_be_pasted(blobs, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    train = ["train", "--data", str(blobs), "--epochs", "2", "--threads", "1", "--output", str(tmp_path / "two words")]
    how = dict(cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    printed = subprocess.run([sys.executable, "-m", "torchnotes", *train], **how).stdout
    (line,) = re.findall(r"^use it  (.*)$", printed, re.MULTILINE)
    predicted = subprocess.run(["sh", "-c", line], **how)
    assert len(predicted.stdout.splitlines()) == 1 + 150
    assert "of 150 rows" in predicted.stderr


# names


def test_operations_are_found_by_their_public_names():
    known = ["adam", "he_normal", "sgd", "sigmoid"]
    assert selected(["SGD", "he_normal_", "sigmoid"], known, "check") == ["he_normal", "sgd", "sigmoid"]
    assert selected([], known, "check") == known

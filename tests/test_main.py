"""The command line in general, and the commands `info` and `bench`."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import torchnotes
from torchnotes.__main__ import main
from torchnotes._bad_input import BadInput, extra
from torchnotes.cli import COMMANDS, bench, info

ROOT = Path(torchnotes.__file__).parents[1]


def error_line(capsys, *arguments, after_output=False):
    """The single line that a rejected command prints to standard error. It must not have printed anything else, unless
    `after_output`."""
    try:
        status = main([str(argument) for argument in arguments])
    except SystemExit as stop:  # raised by argparse
        status = stop.code
    printed = capsys.readouterr()
    assert status == 2
    assert after_output or not printed.out
    (line,) = printed.err.splitlines()
    assert line.startswith("python -m torchnotes")
    assert ": error: " in line
    return line


def test_every_command_is_listed_and_has_help(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    listed = capsys.readouterr().out
    for command in COMMANDS:
        assert f"\n    {command} " in listed
        with pytest.raises(SystemExit) as stop:
            main([command, "--help"])
        assert stop.value.code == 0
        assert f"python -m torchnotes {command}" in capsys.readouterr().out


REJECTED = (
    ("dance", "invalid choice: 'dance'"),
    ("--dance", "required: COMMAND"),
    ("bench sigmoyd", "there is no operation 'sigmoyd' to measure: did you mean sigmoid?"),
    ("bench AdamW", "there is no operation 'AdamW' to measure: did you mean adam?"),
    ("bench zzz", "there is no operation 'zzz' to measure: choose from adam, batch_norm"),
    ("bench sigmoid --json missing/x.json", "missing/x.json is not writable: No such file"),
    ("bench sigmoid --cases dance", "no case is called dance"),
    ("bench sigmoid --sizes 0", "'0' is not an integer of at least 1"),
    ("bench sigmoid --device nowhere", "'nowhere' is not an available device"),
    ("bench sigmoid --csv nowhere/rows.csv", "nowhere/rows.csv is not writable"),
    ("signal --layers 0", "--layers"),
    ("signal --layers -3", "--layers"),
    ("signal --width x", "--width"),
    ("signal --batch 0", "--batch"),
    ("signal --activation gelu", "gelu"),
    ("signal --scheme x", "'x'"),
    ("signal --device cuda:99", "cuda:99"),
    ("signal --seed 1.5", "--seed"),
    ("signal --plot missing/figure.png", "missing/figure.png is not writable"),
    ("signal --plot figure.txt", "figure.txt: the name of a figure must end in"),
    ("signal --plot figure", ".png"),
    ("signal --plot folder.png", "folder.png is not writable"),
    ("signal --json missing/x.json", "missing/x.json is not writable: No such file"),
    (f"signal --layers 2 --width {2**63 - 1}", "not enough memory"),
    (f"signal --layers 2 --batch {10**14}", "not enough memory"),
    ("train --dance", "unrecognized arguments: --dance"),
    ("train --epochs 0", "'0' is not an integer of at least 1"),
    ("train --epochs ten", "'ten' is not"),
    ("train --hidden -3", "'-3' is not"),
    ("train --batch-size 1", "'1' is not an integer of at least 2"),
    ("train --lr nan", "'nan' is not a positive number"),
    ("train --noise 1", "'1' is not a number from 0 to below 1"),
    (f"train --seed {2**64}", "is not an integer"),
    ("train --activation gelu", "invalid choice: 'gelu'"),
    ("train --dtype int8", "invalid choice: 'int8'"),
    ("train --device meta", "'meta' computes nothing"),
    ("train --output /dev/null/run", "is not writable"),
    ("train --threads 0", "'0' is not an integer from 1 to 1024"),
    ("train --threads 1025", "'1025' is not an integer from 1 to 1024"),
    ("train --timeout 0", "'0' is not a number of seconds from 1 to 1000000"),
    ("train --timeout 60", "--timeout requires several processes"),
    ("check sigmoyd", "there is no operation 'sigmoyd' to check: did you mean sigmoid?"),
    ("check zzz", "there is no operation 'zzz' to check: choose from sigmoid, tanh"),
    ("check --device cuda:99", "'cuda:99' is not an available device"),
    ("check --json missing/x.json", "missing/x.json is not writable: No such file"),
    ("check --json folder.png", "folder.png is not writable: Is a directory"),
    ("check --seed x", "'x' is not an integer"),
)


@pytest.mark.parametrize(("arguments", "complaint"), REJECTED)
def test_bad_input_is_reported_in_one_line_before_any_work(capsys, tmp_path, monkeypatch, arguments, complaint):
    monkeypatch.chdir(tmp_path)
    Path("folder.png").mkdir()
    monkeypatch.setattr(torchnotes.signal, "propagation", None)
    assert complaint in error_line(capsys, *arguments.split())
    assert [path.name for path in tmp_path.iterdir()] == ["folder.png"]


@pytest.mark.parametrize("content", (b"x,y\n1,2\n", b"\xff\xfe\x00\n\x00", b"operation\nsigmoid,1\n"))
def test_rows_are_not_merged_into_another_table(tmp_path, capsys, content):
    path = tmp_path / "rows.csv"
    path.write_bytes(content)
    assert "was not written by python -m torchnotes bench" in error_line(capsys, "bench", "sigmoid", "--csv", path)
    assert path.read_bytes() == content


@contextlib.contextmanager
def closed_pipe():
    """A pipe whose reading end is closed, as a file."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as file:
        yield file
        file.flush()  # main has made sure that this does not raise


@contextlib.contextmanager
def full_disk():
    """A file on a full disk."""
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    with open("/dev/full", "w") as file:
        yield file
        file.flush()  # main has made sure that this does not raise


@pytest.mark.parametrize(("to", "status", "error"), ((closed_pipe, 141, ""), (full_disk, 2, "No space left on device")))
@pytest.mark.parametrize(
    "command", ("info", "signal --layers 2 --width 4", "train --epochs 1", "train --help", "--help")
)
def test_output_that_cannot_be_written_ends_a_command(capfd, tmp_path, monkeypatch, command, to, status, error):
    monkeypatch.chdir(tmp_path)
    with to() as file:
        monkeypatch.setattr(sys, "stdout", file)
        assert main(command.split()) == status
    printed = capfd.readouterr()
    assert printed.out == ""
    assert (len(printed.err.splitlines()), error in printed.err) == (bool(error), True)


@pytest.fixture
def failing_info(monkeypatch):
    """Makes the command info raise an error."""

    def fail(error):
        def failing(options):
            print("a line")
            raise error

        monkeypatch.setattr(info, "run", failing)

    return fail


@pytest.mark.parametrize(
    ("error", "line"),
    (
        (MemoryError(), "not enough memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB."), "not enough memory"),
        (FileNotFoundError(2, "No such file or directory", "a.csv"), "a.csv: No such file or directory"),
        (OSError("no number"), "no number"),
    ),
)
def test_missing_resources_are_reported_in_one_line(capsys, failing_info, error, line):
    failing_info(error)
    assert error_line(capsys, "info", after_output=True).endswith(f": error: {line}")


def test_bugs_raise_a_traceback(failing_info):
    failing_info(RuntimeError("the data is not allocated yet"))
    with pytest.raises(RuntimeError, match="not allocated yet"):
        main(["info"])


def test_ctrl_c_ends_a_command_quietly(capfd, failing_info):
    failing_info(KeyboardInterrupt)
    assert main(["info"]) == 130
    assert capfd.readouterr() == ("a line\n", "")


@pytest.mark.parametrize("arguments", ("info", "--help", ""))
def test_a_closed_pipe_ends_a_process_quietly(arguments):
    command = [sys.executable, "-m", "torchnotes", *arguments.split()]
    environment = {**os.environ, "PYTHONUNBUFFERED": ""}  # argparse ignores errors of unbuffered output
    with closed_pipe() as file:
        done = subprocess.run(command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.PIPE, text=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())
    assert (done.returncode, done.stderr) == (141, "")


def test_packages_that_fail_to_import_are_named(monkeypatch, tmp_path):
    (tmp_path / "broken_package.py").write_text("raise ValueError('it is\\nset up wrongly')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BadInput, match="broken_package cannot be imported: it is set up wrongly"):
        extra("broken_package")


def test_info_describes_the_build(capsys):
    assert main(["info"]) == 0
    assert capsys.readouterr().out.strip() == torchnotes.build_info()


def test_bench_measures_and_draws(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)  # subprocesses import the benchmarks from there
    to = [
        f"--{kind}={tmp_path / name}" for kind, name in (("json", "rows.json"), ("csv", "rows.csv"), ("plot", "a.png"))
    ]
    assert main(["bench", "sigmoid", "--cases", "forward+backward", "--sizes", "64", "--repeats", "2", *to]) == 0
    assert "torchnotes" in capsys.readouterr().out
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert {row["contender"] for row in rows} >= {"torchnotes", "eager", "compile"}
    assert all(row["torch"] == torch.__version__ and row["size"] == 64 for row in rows)
    assert len((tmp_path / "rows.csv").read_text().splitlines()) == len(rows) + 1
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_ignores_the_benchmarks_of_another_project(monkeypatch, tmp_path):
    package = tmp_path / "benchmarks"
    package.mkdir()
    (package / "__init__.py").touch()
    for name in [name for name in sys.modules if name.split(".")[0] == "benchmarks"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(BadInput, match="no benchmarks found"):
        bench.part("runner")

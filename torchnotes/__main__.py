"""python -m torchnotes COMMAND

Bad input, too little memory and a full disk print one line and exit with status 2. The status is 130 after Ctrl-C, and
141 if the output is closed early, as in `python -m torchnotes predict model.pt | head`.
"""

import argparse
import importlib
import io
import os
import re
import sys
import time
from collections.abc import Sequence
from typing import NoReturn

from ._bad_input import BadInput
from .classifier.ranks import launched
from .cli import COMMANDS

PROGRAM = "python -m torchnotes"
SECONDS_OF_THE_FIRST = 10  # of torchrun's processes, to say what they all would say


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        sys.exit(refused(self.prog, message))  # without the usage, of many lines


def refused(program: str, message: str) -> int:
    """The exit status of bad input, which has been told."""
    if launched() and os.environ["RANK"] != "0":
        time.sleep(SECONDS_OF_THE_FIRST)  # torchrun ends this process as soon as the first one has ended
    print(f"{program}: error: {message}", file=sys.stderr)
    return 2


def main(arguments: Sequence[str] | None = None) -> int:
    make_output_ready()
    try:
        try:
            return run(arguments)
        finally:
            print(end="", flush=True)  # here rather than when Python ends, which would complain
    except BrokenPipeError:
        discard_output()
        return 141
    except KeyboardInterrupt:
        return 130
    except (OSError, RuntimeError, MemoryError) as error:
        message = lacking(error)
        if message is None:
            raise
        discard_output()
        return refused(PROGRAM, message)


def make_output_ready() -> None:
    """For all that commands print, whatever its encoding, and where the shell has closed standard output or error."""
    while (nothing := os.open(os.devnull, os.O_RDWR)) <= 2:  # takes the place of what is closed, for native code
        pass
    os.close(nothing)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def lacking(error: Exception) -> str | None:
    """What the machine lacks, if that is what has ended a command. Of memory, torch has no error of its own."""
    if isinstance(error, OSError):
        return ": ".join(str(part) for part in (error.filename, error.strerror or error) if part is not None)
    no_memory = isinstance(error, MemoryError) or re.search("[Tt]ried to allocate|Storage size .*overflow", str(error))
    return "there is not enough memory for it" if no_memory else None


def discard_output() -> None:
    """Into nothing goes what is left of it where it cannot be written."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(nothing, stream.fileno())
    os.close(nothing)


def run(arguments: Sequence[str] | None) -> int:
    parser = Parser(prog=PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    modules = {name: importlib.import_module(f"torchnotes.cli.{name}") for name in COMMANDS}
    for name, module in modules.items():
        about = str(module.__doc__)
        of_command = parsers.add_parser(
            name,
            help=about.splitlines()[0],
            description=about,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(of_command)
    options = parser.parse_args(arguments)
    try:
        return modules[options.command].run(options)
    except BadInput as error:
        return refused(f"{PROGRAM} {options.command}", str(error))


def recorded_main() -> int | None:
    """With an error told to torchrun, which shows the first one of all processes."""
    from torch.distributed.elastic.multiprocessing.errors import record

    return record(main)()


if __name__ == "__main__":
    sys.exit(recorded_main() if launched() else main())

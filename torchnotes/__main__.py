"""python -m torchnotes COMMAND

The exit status is 2 after invalid input or if memory or disk space runs out, 130 after Ctrl-C, and 141 if the output is
closed early, as in `python -m torchnotes predict model.pt | head`.
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
DELAY = 10  # seconds, in which torchrun's first process reports an error and ends


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        sys.exit(fail(self.prog, message))  # without the usage, which takes many lines


def fail(program: str, message: str) -> int:
    """Prints an error, and returns the exit status."""
    if launched() and os.environ["RANK"] != "0":
        time.sleep(DELAY)  # torchrun ends this process as soon as the first one has ended
    print(f"{program}: error: {message}", file=sys.stderr)
    return 2


def main(arguments: Sequence[str] | None = None) -> int:
    prepare_output()
    try:
        try:
            return run(arguments)
        finally:
            print(end="", flush=True)  # Python would print a traceback if this failed at exit
    except BrokenPipeError:
        discard_output()
        return 141
    except KeyboardInterrupt:
        return 130
    except (OSError, RuntimeError, MemoryError) as error:
        message = missing_resource(error)
        if message is None:
            raise
        discard_output()
        return fail(PROGRAM, message)


def prepare_output() -> None:
    """Replaces standard streams that the shell has closed, and escapes characters that an encoding lacks."""
    while (devnull := os.open(os.devnull, os.O_RDWR)) <= 2:  # occupies closed file descriptors, for native code
        pass
    os.close(devnull)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def missing_resource(error: Exception) -> str | None:
    """Describes an error of the operating system or of memory allocation, for which torch has no type of its own."""
    if isinstance(error, OSError):
        return ": ".join(str(part) for part in (error.filename, error.strerror or error) if part is not None)
    no_memory = isinstance(error, MemoryError) or re.search("[Tt]ried to allocate|Storage size .*overflow", str(error))
    return "not enough memory" if no_memory else None


def discard_output() -> None:
    """Discards buffered output that cannot be written."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(devnull, stream.fileno())
    os.close(devnull)


def run(arguments: Sequence[str] | None) -> int:
    parser = Parser(prog=PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    modules = {name: importlib.import_module(f"torchnotes.cli.{name}") for name in COMMANDS}
    for name, module in modules.items():
        description = str(module.__doc__)
        help = description.splitlines()[0]
        raw = argparse.RawDescriptionHelpFormatter
        module.add_arguments(parsers.add_parser(name, help=help, description=description, formatter_class=raw))
    options = parser.parse_args(arguments)
    try:
        return modules[options.command].run(options)
    except BadInput as error:
        return fail(f"{PROGRAM} {options.command}", str(error))


def recorded_main() -> int | None:
    """Reports an error to torchrun, which prints the first one of all processes."""
    from torch.distributed.elastic.multiprocessing.errors import record

    return record(main)()


if __name__ == "__main__":
    sys.exit(recorded_main() if launched() else main())

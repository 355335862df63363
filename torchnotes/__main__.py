"""Runs a command of torchnotes. `python -m torchnotes COMMAND --help` explains it.

The exit status is 2 after invalid input or if memory or disk space runs out, 130 after Ctrl-C, and 141 if the output is
closed early, as in `python -m torchnotes predict model.pt | head`.
"""

import importlib
import io
import os
import re
import sys
from collections.abc import Sequence

from ._bad_input import BadInput
from .cli._parser import PROGRAM, fail, parse


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
    options = parse(sys.argv[1:] if arguments is None else arguments, str(__doc__))
    if options is None:
        return 2  # as for other invalid input, so that scripts notice that a command is missing
    try:
        return importlib.import_module(f"torchnotes.cli.{options.command}").run(options)
    except BadInput as error:
        return fail(f"{PROGRAM} {options.command}", str(error))


def recorded_main() -> int | None:
    """Reports an error to torchrun, which prints the first one of all processes."""
    from torch.distributed.elastic.multiprocessing.errors import record

    return record(main)()


if __name__ == "__main__":
    from .classifier.ranks import launched

    sys.exit(recorded_main() if launched() else main())

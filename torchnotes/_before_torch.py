"""What `python -m torchnotes` prints before the import of torch, which takes more than a second.

Python imports the package before torchnotes/__main__.py, and the package imports torch
(docs/decisions/training-command.md).
"""

import contextlib
import os
import sys


def is_program() -> bool:
    """Whether Python is looking for the program of `python -m torchnotes`. Until it has found it, argv[0] is -m."""
    return sys.argv[:1] == ["-m"] and sys.orig_argv[-len(sys.argv)] in ("torchnotes", "-mtorchnotes")


def start(arguments: list[str]) -> None:
    """Completes a call that names no command, such as one with --help. Announces a training."""
    from .cli import COMMANDS

    if not set(arguments) & set(COMMANDS):
        from .__main__ import main

        sys.exit(main())
    if arguments[0] == "train" and os.environ.get("RANK", "0") == "0" and not {"-h", "--help"} & set(arguments):
        with contextlib.suppress(OSError):  # which main reports
            print("Loading torch ...", flush=True)


if is_program():
    start(sys.argv[1:])

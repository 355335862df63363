"""Files that a command will write in the end."""

from pathlib import Path

from . import BadInput


def check_writable(path: Path) -> None:
    """What would keep a file from being written is found before the work; what it holds stays until there is more."""
    try:
        with path.open("ab"):
            pass
        if path.stat().st_size == 0:
            path.unlink()
    except OSError as error:
        raise BadInput(f"{path}: nothing can be written there: {error.strerror}") from error

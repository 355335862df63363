"""Commands that users can paste into their shell, in the directory in which this program runs."""

import os
import shlex
import shutil
import sys
from pathlib import Path


def command(module: str, *arguments: str | Path) -> str:
    """Runs a module with this Python: `.venv/bin/python -m torchnotes info`, for example."""
    return shlex.join((_python(), "-m", module, *map(str, arguments)))


def _python() -> str:
    """The shortest name of this Python. Links stay as they are, because those of an environment lead out of it."""
    path = Path(os.path.abspath(sys.executable))
    for name in dict.fromkeys(("python", path.name)):
        found = shutil.which(name)
        if found and Path(os.path.abspath(found)) in (path, path.with_name(name)):
            return name
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)

"""Builds C++ and CUDA code for the tests with the flags of setup.py."""

import fcntl
import runpy
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
SETUP = runpy.run_path(str(ROOT / "setup.py"))

# The instruction set of the kernels under test: this machine's, unless ATEN_CPU_CAPABILITY lowers it.
CAPABILITY = torch.backends.cpu.get_cpu_capability().lower()
INSTRUCTION_SET = CAPABILITY if CAPABILITY in ("avx2", "avx512") else "default"

INCLUDES = SETUP["INCLUDES"]
COMPILER = [*SETUP["CXX"], *SETUP["COMMON"], *INCLUDES]
# -Bsymbolic lets a library prefer its own functions, such as the more accurate tanhf of cuda_on_cpu.cpp.
LINK = ["-Wl,-Bsymbolic-functions", *SETUP["LIBRARIES"]]


class Build:
    """Objects and libraries in build/NAME."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.ninja = SETUP["Ninja"](ROOT / "build" / name)

    def compile(self, command: Sequence[str], source: Path) -> Path:
        return self.ninja.compile(command, source, self.name)

    def link(self, objects: Sequence[Path], name: str) -> Path:
        return self.ninja.link(objects, self.ninja.folder / name, self.name, LINK)

    def run(self) -> None:
        """Builds what is out of date. Raises RuntimeError with the compiler's messages."""
        self.ninja.folder.mkdir(parents=True, exist_ok=True)
        with (self.ninja.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # of several processes that run tests, one builds
            done = self.ninja.run("-k0", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{shlex.join(done.args)} failed:\n{done.stdout}")

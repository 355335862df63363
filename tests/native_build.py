"""Builds C++ and CUDA code for the tests with the flags of setup.py."""

import fcntl
import os
import runpy
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.utils import cpp_extension

ROOT = Path(__file__).resolve().parents[1]
SETUP = runpy.run_path(str(ROOT / "setup.py"))

# The instruction set of the kernels under test: this machine's, unless ATEN_CPU_CAPABILITY lowers it.
CAPABILITY = torch.backends.cpu.get_cpu_capability().lower()
INSTRUCTION_SET = CAPABILITY if CAPABILITY in ("avx2", "avx512") else "default"

INCLUDES = [word for path in cpp_extension.include_paths() for word in ("-isystem", path)]
COMPILER = [*shlex.split(os.environ.get("CXX", "g++")), "-fPIC", *SETUP["COMMON"], *INCLUDES]
# -Bsymbolic lets a library prefer its own functions, such as the more accurate tanhf of cuda_on_cpu.cpp.
LINK = ["-Wl,-Bsymbolic-functions", f"-L{Path(torch.__file__).parent / 'lib'}", "-ltorch_cpu", "-lc10"]

RULES = """\
rule compile
  command = $tool -MD -MF $out.d -c $in -o $out
  depfile = $out.d
  deps = gcc
rule link
  command = $tool -shared $in -o $out $libraries
"""


class Build:
    """Objects and libraries in build/NAME."""

    def __init__(self, name: str) -> None:
        self.folder = ROOT / "build" / name
        self.statements = [RULES]

    def compile(self, command: Sequence[str], source: Path, variant: str = "") -> Path:
        output = self.folder / f"{source.name}{variant}.o"
        self._add("compile", output, [source], tool=shlex.join(command))
        return output

    def link(self, objects: Sequence[Path], name: str) -> Path:
        output = self.folder / name
        self._add("link", output, objects, tool=COMPILER[0], libraries=shlex.join(LINK))
        return output

    def run(self) -> None:
        """Builds what is out of date. Raises RuntimeError with the compiler's messages."""
        self.folder.mkdir(parents=True, exist_ok=True)
        jobs = os.environ.get("MAX_JOBS")
        command = [sys.executable, "-m", "ninja", "-C", str(self.folder), "-k0", *(["-j", jobs] if jobs else [])]
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # of several processes that run tests, one builds
            (self.folder / "build.ninja").write_text("".join(self.statements))
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{shlex.join(command)} failed:\n{done.stdout}")

    def _add(self, rule: str, output: Path, inputs: Sequence[Path], **variables: str) -> None:
        lines = [f"build {_path(output)}: {rule} {' '.join(map(_path, inputs))}"]
        lines += [f"  {name} = {value.replace('$', '$$')}" for name, value in variables.items()]
        self.statements.append("\n".join(lines) + "\n")


def _path(path: Path) -> str:
    return str(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")

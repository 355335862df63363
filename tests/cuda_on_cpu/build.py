"""Builds the CUDA kernels for the CPU and prints the path of the library:

TORCHNOTES_KERNELS=$(python tests/cuda_on_cpu/build.py) python -m pytest tests
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from native_build import COMPILER, SETUP, Build  # noqa: E402 # after the path is set

# _FORTIFY_SOURCE would reject longjmp between stacks.
FLAGS = ["-DTORCHNOTES_SCALAR_ONLY", f"-I{HERE}", "-U_FORTIFY_SOURCE"]


def library(build: Build, sources: list[Path], name: str, flags: tuple[str, ...] = ()) -> Path:
    """Adds a library of kernels to a build."""
    command = [*COMPILER, *FLAGS, *flags, "-xc++"]
    return build.link([build.compile(command, source) for source in [*sources, HERE / "cuda_on_cpu.cpp"]], name)


if __name__ == "__main__":
    build = Build("cuda_on_cpu")
    path = library(build, SETUP["sources"]("kernels/*.cpp"), "libkernels.so")
    build.run()
    print(path)

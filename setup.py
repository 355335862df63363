"""Builds _C, with the schemas and optional CUDA kernels, and a CPU library per instruction set from the same sources.

ninja compiles all of them at once, so that no core waits for the end of a library. torchnotes/_built.py records the
versions that it was built for. It can be read even if _C cannot be loaded.
"""

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError
from torch.utils import cpp_extension

ROOT = Path(__file__).resolve().parent
CSRC = ROOT / "csrc"
VERSION = re.search(r'^__version__ = "(.+)"$', (ROOT / "torchnotes/__init__.py").read_text(), re.M).group(1)

AVX2 = ["-mavx2", "-mfma", "-mf16c"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq"]
X86 = platform.machine() in ("x86_64", "AMD64")
INSTRUCTION_SETS = {"default": [], **({"avx2": AVX2, "avx512": AVX512} if X86 else {})}
if only := os.environ.get("TORCHNOTES_INSTRUCTION_SETS"):  # a subset; native: that of this machine
    names = only.replace("native", torch.backends.cpu.get_cpu_capability().lower()).split()
    INSTRUCTION_SETS = {name: INSTRUCTION_SETS[name] for name in names if name in INSTRUCTION_SETS} or {"default": []}

STANDARD = "-std=c++20"  # torch 2.11 compiles CUDA as C++17 by default
# Contracts a product and a sum only where a formula says fma, so that every compiler gives the same bits.
COMMON = [
    STANDARD,
    "-O3",
    "-g0",
    "-fPIC",
    "-fvisibility=hidden",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=off",
    "-Wall",
    "-Wno-unknown-pragmas",
    "-Wno-uninitialized",
    "-Wno-maybe-uninitialized",
    "-Wno-psabi",  # would note every SIMD vector that is passed without AVX
]
NVCC = [
    STANDARD,
    "-O3",
    "--compiler-options=-fPIC",
    "--fmad=false",
    "-DTORCHNOTES_SCALAR_ONLY",
    *cpp_extension.COMMON_NVCC_FLAGS,
]
SANITIZE = ["-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"]
LINK = [f"-L{cpp_extension.TORCH_LIB_PATH}", "-ltorch_cpu", "-lc10"]

CORE = ("*.cpp", "python/*.cpp", "ops/*.cpp", "tensors/*.cpp")
KERNELS = ("kernels/*.cpp", "loops/cpu/*.cpp", "cpu/*.cpp")
SLOWEST = ("batch_norm", "cross_entropy", "linear")  # compiled first


def environment(*names: str) -> list[str]:
    return [word for name in names for word in shlex.split(os.environ.get(name, ""))]


def include(paths: Sequence[str]) -> list[str]:
    # Real paths, so that ccache knows the same file in several checkouts whose environment is a link.
    return ["-Icsrc", *(word for path in paths for word in ("-isystem", os.path.realpath(path)))]


CXX = environment("CXX") or ["c++"]
INCLUDES = include(cpp_extension.include_paths())


def cpu_flags(name: str) -> list[str]:
    """The flags with which ATen compiles its own kernels for an instruction set."""
    capability = name.upper()
    return ["-fopenmp", f"-DCPU_CAPABILITY={capability}", f"-DCPU_CAPABILITY_{capability}", *INSTRUCTION_SETS[name]]


def with_cuda() -> bool:
    """TORCHNOTES_CUDA=1 or 0, by default whether there are a CUDA toolkit and a CUDA build of torch."""
    wanted = os.environ.get("TORCHNOTES_CUDA")
    return wanted == "1" if wanted else bool(torch.version.cuda) and shutil.which("nvcc") is not None


def nvcc() -> str:
    return os.environ.get("PYTORCH_NVCC") or f"{cpp_extension.CUDA_HOME}/bin/nvcc"


def sources(*patterns: str) -> list[Path]:
    paths = [path for pattern in patterns for path in sorted(CSRC.glob(pattern))]
    return sorted(paths, key=lambda path: path.stem not in SLOWEST)


def write(path: Path, text: str) -> Path:
    """Leaves a file alone that has this text, because ninja compares times."""
    if not path.exists() or path.read_text() != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return path


def cuda_sources(folder: Path) -> list[Path]:
    """nvcc compiles the sources of the kernels under another name, because it tells languages by the suffix."""
    kernels = sources("kernels/*.cpp")
    generated = [write(folder / f"{path.stem}.cu", f'#include "{path.relative_to(CSRC)}"\n') for path in kernels]
    return [*generated, *sources("cuda/*.cu")]


def ninja_path(path: Path) -> str:
    """Commands run in ROOT."""
    path = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    return str(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


class Ninja:
    """A build.ninja in a folder, which runs compilers."""

    RULES = """\
rule compile
  command = $tool -MD -MF $out.d -c $in -o $out
  depfile = $out.d
  deps = gcc
rule link
  command = $tool -shared $in -o $out $libraries
"""

    def __init__(self, folder: Path, compilers: Sequence[Sequence[str]] = (CXX,)) -> None:
        self.folder = folder.absolute()
        self.compilers = compilers
        self.versions = self.folder / "versions"
        self.statements = [f"builddir = {ninja_path(self.folder)}\n", self.RULES]

    def compile(self, command: Sequence[str], source: Path, label: str) -> Path:
        output = self.folder / label / source.parent.name / f"{source.name}.o"
        self._add("compile", output, [source], f"{label} {source.stem}", tool=shlex.join(command))
        return output

    def link(self, objects: Sequence[Path], output: Path, label: str, libraries: Sequence[str] = LINK) -> Path:
        self._add("link", output, objects, f"{label} link", tool=shlex.join(CXX), libraries=shlex.join(libraries))
        return output

    def run(self, *options: str, **how: Any) -> subprocess.CompletedProcess:
        """Runs the commands whose results are out of date; all, for another torch or compiler."""
        versions = [subprocess.check_output([*compiler, "--version"], text=True) for compiler in self.compilers]
        write(self.versions, "\n".join([torch.__version__, *versions]))
        file = write(self.folder / "build.ninja", "".join(self.statements))
        jobs = os.environ.get("MAX_JOBS")
        command = [sys.executable, "-m", "ninja", "-f", str(file), *(["-j", jobs] if jobs else []), *options]
        return subprocess.run(command, cwd=ROOT, **how)

    def _add(self, rule: str, output: Path, inputs: Sequence[Path], description: str, **variables: str) -> None:
        lines = [
            f"build {ninja_path(output)}: {rule} {' '.join(map(ninja_path, inputs))} | {ninja_path(self.versions)}"
        ]
        for name, value in {**variables, "description": description}.items():
            lines.append(f"  {name} = {value.replace('$', '$$')}")
        self.statements.append("\n".join(lines) + "\n")


def graph(folder: Path, outputs: dict[str, Path]) -> Ninja:
    """The commands that compile in a folder and link each extension to its output."""
    sanitize = SANITIZE if os.environ.get("TORCHNOTES_SANITIZE") == "1" else []
    users = environment("CPPFLAGS", "CFLAGS", "CXXFLAGS")
    command = [*CXX, *COMMON, "-DNDEBUG", *INCLUDES, *sanitize]
    link = [*LINK, *sanitize, *environment("LDFLAGS")]
    cuda = with_cuda()
    ninja = Ninja(folder, [CXX, [nvcc()]] if cuda else [CXX])

    for name in INSTRUCTION_SETS:
        objects = [ninja.compile([*command, *cpu_flags(name), *users], path, name) for path in sources(*KERNELS)]
        ninja.link(objects, outputs[f"torchnotes._cpu_{name}"], name, link)

    facts = {
        "TORCHNOTES_VERSION": VERSION,
        "TORCHNOTES_TORCH": torch.__version__,
        "TORCHNOTES_INSTRUCTION_SETS": " ".join(INSTRUCTION_SETS),
        "TORCHNOTES_CUDA_ARCHITECTURES": os.environ.get("TORCH_CUDA_ARCH_LIST", "native") if cuda else "",
    }
    write(ninja.folder / "build_info.h", "".join(f'#define {name} "{value}"\n' for name, value in facts.items()))
    command += [f"-I{ninja.folder}", "-isystem", sysconfig.get_path("include")]
    link = ["-ltorch_python", *link]
    if cuda:
        command += ["-DTORCHNOTES_WITH_CUDA"]
        compiler = ["-ccbin", os.environ["CC"]] if "CC" in os.environ else []
        includes = include(cpp_extension.include_paths("cuda"))
        device = [nvcc(), *NVCC, *cpp_extension._get_cuda_arch_flags(), *compiler, *includes]
        objects = [ninja.compile(device, path, "cuda") for path in cuda_sources(ninja.folder / "sources")]
        link = [
            *(f"-L{path}" for path in cpp_extension.library_paths("cuda")),
            "-ltorch_cuda",
            "-lc10_cuda",
            "-lcudart",
            *link,
        ]
    else:
        objects = []
    objects += [ninja.compile([*command, *users], path, "_C") for path in sources(*CORE)]
    ninja.link(objects, outputs["torchnotes._C"], "_C", link)
    return ninja


def requirement(version: str) -> str:
    """Compiled code requires the same minor version of torch, whose releases share headers and symbols."""
    major, minor, *_ = version.split(".")
    return f"torch=={major}.{minor}.*"


class Build(build_ext):
    """Builds with ninja instead of setuptools' compilers."""

    def run(self) -> None:
        super().run()
        package = Path(self.get_ext_fullpath("torchnotes._C")).parent
        python = f"{sys.version_info.major}.{sys.version_info.minor}"
        write(package / "_built.py", f'TORCH = "{torch.__version__}"\nPYTHON = "{python}"\n')

    def build_extensions(self) -> None:
        outputs = {ext.name: Path(self.get_ext_fullpath(ext.name)).absolute() for ext in self.extensions}
        ninja = graph(Path(self.build_temp), outputs)
        if "no work to do" in ninja.run("-n", stdout=subprocess.PIPE, text=True).stdout:
            return
        sys.stdout.flush()
        if ninja.run(env={"NINJA_STATUS": "[%f/%t] %w ", **os.environ}).returncode != 0:
            raise CompileError("a compiler failed, see above")


if __name__ == "__main__":  # the tests import the flags
    names = ["torchnotes._C", *(f"torchnotes._cpu_{name}" for name in INSTRUCTION_SETS)]
    setup(
        version=VERSION,
        packages=[*find_packages(include=["torchnotes*"]), "torchnotes.benchmarks"],
        install_requires=[requirement(torch.__version__)],
        ext_modules=[Extension(name, sources=[]) for name in names],
        cmdclass={"build_ext": Build},
    )

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
from collections.abc import Iterable, Sequence
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
    if "avx512" in names:  # which leaves some kernels to AVX2
        names = ["avx2", *names]
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

# Headers of torch that a library parses once instead of once per source, which takes 3 of 5 seconds for an operation
# and 1.2 seconds for a kernel.
OPERATIONS_HEADERS = ("torch/library.h", "ATen/TensorIterator.h")
KERNELS_HEADERS = ("ATen/Parallel.h", "ATen/cpu/vec/functional.h", "ATen/cpu/vec/vec.h")
# Not compiled for AVX-512 (docs/decisions/avx2-is-enough.md)
AVX2_IS_ENOUGH = ("batch_norm", "batch_norm_backward", "rectifiers")
SLOWEST = ("batch_norm_backward", "batch_norm", "cross_entropy", "linear")  # start first


def environment(*names: str) -> list[str]:
    return [word for name in names for word in shlex.split(os.environ.get(name, ""))]


def include(paths: Sequence[str]) -> list[str]:
    # Real paths: with them, ccache shares results between checkouts that link to one environment.
    return ["-Icsrc", *(word for path in paths for word in ("-isystem", os.path.realpath(path)))]


CXX = environment("CXX") or ["c++"]
INCLUDES = include(cpp_extension.include_paths())
LIBRARIES = [f"-L{cpp_extension.TORCH_LIB_PATH}", "-ltorch_cpu", "-lc10"]


def cpu_flags(name: str) -> list[str]:
    """The flags with which ATen compiles its own kernels for an instruction set."""
    capability = name.upper()
    return ["-fopenmp", f"-DCPU_CAPABILITY={capability}", f"-DCPU_CAPABILITY_{capability}", *INSTRUCTION_SETS[name]]


def with_cuda() -> bool:
    """TORCHNOTES_CUDA=1 or 0, by default whether there are a CUDA toolkit and a CUDA build of torch."""
    choice = os.environ.get("TORCHNOTES_CUDA")
    return choice == "1" if choice else bool(torch.version.cuda) and shutil.which("nvcc") is not None


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


def write_includes(path: Path, names: Iterable[str | Path]) -> Path:
    return write(path, "".join(f"#include <{name}>\n" for name in names))


def cuda_sources(folder: Path) -> list[Path]:
    """Includes each source of kernels in one with a name that nvcc compiles as CUDA."""
    kernels = [path.relative_to(CSRC) for path in sources("kernels/*.cpp")]
    return [write_includes(folder / f"{path.stem}.cu", [path]) for path in kernels]


class Ninja:
    """A build.ninja and its objects in a folder. Labels tell the objects of several libraries apart."""

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

    def precompile(self, command: Sequence[str], names: Sequence[str], label: str) -> Path:
        header = write_includes(self.folder / label / "precompiled.h", names)
        self._add("compile", precompiled(header), [header], f"{label} headers", tool=[*command, "-xc++-header"])
        return header

    def compile(self, command: Sequence[str], source: Path, label: str, header: Path | None = None) -> Path:
        output = self.folder / label / source.parent.name / f"{source.name}.o"
        if header is not None:
            command = [*command, "-Winvalid-pch", "-include", short(header)]
        needs = [] if header is None else [precompiled(header)]
        self._add("compile", output, [source], f"{label} {source.stem}", needs, tool=command)
        return output

    def link(self, objects: Sequence[Path], output: Path, label: str, libraries: Sequence[str]) -> Path:
        self._add("link", output, objects, f"{label} link", tool=CXX, libraries=libraries)
        return output

    def run(self, *options: str, **how: Any) -> subprocess.CompletedProcess:
        """Runs the commands whose results are out of date; all, for another torch or compiler."""
        versions = [subprocess.check_output([*compiler, "--version"], text=True) for compiler in self.compilers]
        write(self.versions, "\n".join([torch.__version__, *versions]))
        file = write(self.folder / "build.ninja", "".join(self.statements))
        jobs = ["-j", os.environ["MAX_JOBS"]] if os.environ.get("MAX_JOBS") else []
        # ccache accepts precompiled headers only if it may ignore macros such as __TIME__ in them.
        defaults = {"NINJA_STATUS": "[%f/%t] %w ", "CCACHE_SLOPPINESS": "pch_defines,time_macros"}
        command = [sys.executable, "-m", "ninja", "-f", str(file), *jobs, *options]
        return subprocess.run(command, cwd=ROOT, env={**defaults, **os.environ}, **how)

    def _add(
        self,
        rule: str,
        output: Path,
        inputs: Sequence[Path],
        description: str,
        needs: Sequence[Path] = (),
        **variables: Sequence[str],
    ) -> None:
        out, used, other = (" ".join(map(ninja_path, paths)) for paths in ([output], inputs, [*needs, self.versions]))
        lines = [f"build {out}: {rule} {used} | {other}", f"  description = {description}"]
        lines += [f"  {name} = {shlex.join(words).replace('$', '$$')}" for name, words in variables.items()]
        self.statements.append("\n".join(lines) + "\n")


def short(path: Path) -> str:
    """Commands run in ROOT."""
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def ninja_path(path: Path) -> str:
    return short(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


def precompiled(header: Path) -> Path:
    return header.with_name(f"{header.name}.gch")


def graph(folder: Path, outputs: dict[str, Path]) -> Ninja:
    """Compiles in a folder, and links each extension to its output."""
    cuda = with_cuda()
    ninja = Ninja(folder, [CXX, [nvcc()]] if cuda else [CXX])
    sanitize = SANITIZE if os.environ.get("TORCHNOTES_SANITIZE") == "1" else []
    command = [*CXX, *COMMON, "-DNDEBUG", *INCLUDES, *sanitize, *environment("CPPFLAGS", "CFLAGS", "CXXFLAGS")]
    libraries = [*LIBRARIES, *sanitize, *environment("LDFLAGS")]

    objects, needed = cuda_objects(ninja) if cuda else ([], [])
    objects += core_objects(ninja, command, cuda)
    ninja.link(objects, outputs["torchnotes._C"], "_C", [*needed, "-ltorch_python", *libraries])
    for name in INSTRUCTION_SETS:
        flags = [*command, *cpu_flags(name)]
        header = ninja.precompile(flags, KERNELS_HEADERS, name)
        kernels = sources("kernels/*.cpp", "loops/cpu/*.cpp")
        if name == "avx512":
            kernels = [source for source in kernels if source.stem not in AVX2_IS_ENOUGH]
        objects = [ninja.compile(flags, source, name, header) for source in kernels]
        ninja.link(objects, outputs[f"torchnotes._cpu_{name}"], name, libraries)
    return ninja


def core_objects(ninja: Ninja, command: list[str], cuda: bool) -> list[Path]:
    facts = {
        "VERSION": VERSION,
        "TORCH": torch.__version__,
        "INSTRUCTION_SETS": " ".join(INSTRUCTION_SETS),
        "CUDA_ARCHITECTURES": os.environ.get("TORCH_CUDA_ARCH_LIST", "native") if cuda else "",
    }
    generated = ninja.folder / "generated"
    text = "".join(f'#define TORCHNOTES_{name} "{value}"\n' for name, value in facts.items())
    write(generated / "build_info.h", text)
    command = [*command, f"-I{short(generated)}", "-isystem", sysconfig.get_path("include")]
    if cuda:
        command.append("-DTORCHNOTES_WITH_CUDA")
    # One source includes all that know Python, because each would parse torch's headers for 7 to 10 seconds.
    python = sources("python/*.cpp")
    one = write_includes(generated / "python.cpp", (path.relative_to(CSRC) for path in python))
    others = sources("*.cpp", "ops/*.cpp", "tensors/*.cpp")
    header = ninja.precompile(command, OPERATIONS_HEADERS, "_C")
    return [ninja.compile(command, one, "_C"), *(ninja.compile(command, source, "_C", header) for source in others)]


def cuda_objects(ninja: Ninja) -> tuple[list[Path], list[str]]:
    """The objects, and the libraries that they need."""
    architectures = cpp_extension._get_cuda_arch_flags()
    host = ["-ccbin", os.environ["CC"]] if "CC" in os.environ else []
    command = [nvcc(), *NVCC, *architectures, *host, *include(cpp_extension.include_paths("cuda"))]
    objects = [ninja.compile(command, source, "cuda") for source in cuda_sources(ninja.folder / "generated")]
    folders = [f"-L{path}" for path in cpp_extension.library_paths("cuda")]
    return objects, [*folders, "-ltorch_cuda", "-lc10_cuda", "-lcudart"]


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
        if ninja.run().returncode != 0:
            raise CompileError("a command failed, see above")


if __name__ == "__main__":  # the tests import the flags
    names = ["torchnotes._C", *(f"torchnotes._cpu_{name}" for name in INSTRUCTION_SETS)]
    setup(
        version=VERSION,
        packages=[*find_packages(include=["torchnotes*"]), "torchnotes.benchmarks"],
        install_requires=[requirement(torch.__version__)],
        ext_modules=[Extension(name, sources=[]) for name in names],
        cmdclass={"build_ext": Build},
    )

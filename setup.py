"""Builds _C, with the schemas and optional CUDA kernels, and a CPU library per instruction set from the same sources.

torchnotes/_built.py records the versions that it was built for. It can be read even if _C cannot be loaded.
"""

import os
import platform
import re
import shutil
import sys
from pathlib import Path

import torch
from setuptools import find_packages, setup
from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension

ROOT = Path(__file__).parent
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
NVCC = [STANDARD, "-O3", "--fmad=false", "-DTORCHNOTES_SCALAR_ONLY"]
SANITIZE = ["-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"]


def with_cuda() -> bool:
    """TORCHNOTES_CUDA=1 or 0, by default whether there are a CUDA toolkit and a CUDA build of torch."""
    wanted = os.environ.get("TORCHNOTES_CUDA")
    return wanted == "1" if wanted else bool(torch.version.cuda) and shutil.which("nvcc") is not None


def sources(pattern: str) -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc").glob(pattern))


def cpu_flags(name: str) -> list[str]:
    """The flags with which ATen compiles its own kernels for an instruction set."""
    capability = name.upper()
    return ["-fopenmp", f"-DCPU_CAPABILITY={capability}", f"-DCPU_CAPABILITY_{capability}", *INSTRUCTION_SETS[name]]


def extensions() -> list:
    sanitize = SANITIZE if os.environ.get("TORCHNOTES_SANITIZE") == "1" else []
    headers = sources("**/*.h") + sources("**/*.cuh")
    cpu = [
        CppExtension(
            f"torchnotes._cpu_{name}",
            sources("cpu/*.cpp"),
            depends=headers,
            extra_compile_args=[*COMMON, *cpu_flags(name), *sanitize],
            extra_link_args=sanitize,
        )
        for name in INSTRUCTION_SETS
    ]
    facts = {
        "TORCHNOTES_VERSION": VERSION,
        "TORCHNOTES_TORCH": torch.__version__,
        "TORCHNOTES_INSTRUCTION_SETS": " ".join(INSTRUCTION_SETS),
    }
    defines = [(name, f'"{value}"') for name, value in facts.items()]
    core = dict(name="torchnotes._C", depends=headers, extra_link_args=sanitize)
    if with_cuda():
        defines += [
            ("TORCHNOTES_WITH_CUDA", "1"),
            ("TORCHNOTES_CUDA_ARCHITECTURES", f'"{os.environ.get("TORCH_CUDA_ARCH_LIST", "native")}"'),
        ]
        flags = {"cxx": [*COMMON, *sanitize], "nvcc": NVCC}
        return [
            CUDAExtension(
                sources=sources("*.cpp") + sources("cuda/*.cu"), define_macros=defines, extra_compile_args=flags, **core
            ),
            *cpu,
        ]
    return [
        CppExtension(sources=sources("*.cpp"), define_macros=defines, extra_compile_args=[*COMMON, *sanitize], **core),
        *cpu,
    ]


def requirement(version: str) -> str:
    """Compiled code requires the same minor version of torch, whose releases share headers and symbols."""
    major, minor, *_ = version.split(".")
    return f"torch=={major}.{minor}.*"


class Build(BuildExtension):
    def run(self) -> None:
        self.force = True  # ninja decides what is out of date, because setuptools does not notice a change of torch
        super().run()
        package = Path(self.get_ext_fullpath("torchnotes._C")).parent
        python = f"{sys.version_info.major}.{sys.version_info.minor}"
        (package / "_built.py").write_text(f'TORCH = "{torch.__version__}"\nPYTHON = "{python}"\n')

    def build_extension(self, ext) -> None:
        # The libraries share sources, so that each needs a separate folder for object files.
        base, self.build_temp = self.build_temp, str(Path(self.build_temp) / ext.name)
        super().build_extension(ext)
        self.build_temp = base


if __name__ == "__main__":  # the tests import the flags
    setup(
        version=VERSION,
        packages=[*find_packages(include=["torchnotes*"]), "torchnotes.benchmarks"],
        install_requires=[requirement(torch.__version__)],
        ext_modules=extensions(),
        cmdclass={"build_ext": Build},
    )

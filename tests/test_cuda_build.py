"""Every CUDA source compiles. Requires nvcc, but neither a GPU nor a CUDA build of torch."""

import shutil
import sysconfig
from pathlib import Path

import pytest
from native_build import INCLUDES, ROOT, SETUP, Build

CURE = "no nvcc, neither on the PATH nor in this environment: pip install --group nvcc"

ARCHITECTURE = "arch=compute_80,code=sm_80"  # one is enough, because no source depends on the architecture

# The CPU build of torch includes all CUDA headers except a generated one.
WITHOUT_GENERATED_HEADER = "-DC10_CUDA_NO_CMAKE_CONFIGURE_FILE"


def nvcc() -> str:
    wheels = Path(sysconfig.get_path("purelib")) / "nvidia/cu13/bin"
    return shutil.which("nvcc") or shutil.which("nvcc", path=wheels) or pytest.fail(CURE)


@pytest.mark.nvcc
def test_every_kernel_compiles():
    command = [
        nvcc(),
        "--threads=2",
        "--Werror=all-warnings",
        WITHOUT_GENERATED_HEADER,
        *SETUP["NVCC"],
        f"--generate-code={ARCHITECTURE}",
        *INCLUDES,
    ]
    assert not [path for path in (ROOT / "csrc").rglob("*") if path.is_file() and "__CUDA_ARCH__" in path.read_text()]
    build = Build("cuda")
    for source in SETUP["cuda_sources"](ROOT / "build/cuda/sources"):
        build.compile(command, source)
    build.compile([*command, "-x=cu", "-DNAMESPACE=rows_cuda"], ROOT / "tests/native/rows.cpp")
    build.run()

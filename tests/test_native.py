"""The loader: which library it takes, and what it says when there is none."""

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from native_build import SETUP
from packaging.requirements import Requirement

import torchnotes
import torchnotes._C as _C
from torchnotes import init

PACKAGE = Path(torchnotes.__file__).parent


def python(code: str, package_folder: Path | None = None, **environment: str) -> subprocess.CompletedProcess:
    folder = package_folder or PACKAGE.parent
    env = {k: v for k, v in os.environ.items() if k not in ("TORCHNOTES_KERNELS", "ATEN_CPU_CAPABILITY")}
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**env, "PYTHONPATH": str(folder), **environment},
        cwd=folder,
        capture_output=True,
        text=True,
    )


@pytest.fixture
def copied(tmp_path):
    """A copy of the installed package in a path with spaces, to be broken."""
    package = tmp_path / "a path with spaces" / "torchnotes"
    shutil.copytree(PACKAGE, package)
    return package


@pytest.mark.parametrize("capability", ["default", "avx2", "avx512"])
def test_the_library_follows_the_instruction_set_of_torch(capability):
    code = "import torch, torchnotes; print(torch.backends.cpu.get_cpu_capability()); print(torchnotes.build_info())"
    done = python(code, ATEN_CPU_CAPABILITY=capability)
    assert done.returncode == 0, done.stderr
    used = done.stdout.split("\n")[0].lower()
    expected = used if used in _C.instruction_sets.split() else "default"
    assert f"_cpu_{expected}." in done.stdout


@pytest.mark.parametrize("capability", ["default", "avx2", "avx512"])
def test_every_library_computes(capability):
    code = """
import torch, torchnotes.functional as F
x = torch.randn(999)
print(F.sigmoid(x).sub(torch.sigmoid(x)).abs().max() < 1e-6)
"""
    assert "True" in python(code, ATEN_CPU_CAPABILITY=capability).stdout


def test_build_info_tells_how_it_was_built():
    info = torchnotes.build_info()
    for fact in (torchnotes.__version__, torch.__version__, _C.compiler, "default", "CUDA"):
        assert fact in info


def test_a_missing_kernel_library_names_cause_and_cure(copied):
    for library in copied.glob("_cpu_*"):
        library.unlink()
    done = python("import torchnotes", copied.parent)
    assert "ImportError: torchnotes: the kernel library" in done.stderr
    assert "is missing" in done.stderr
    assert "pip install" in done.stderr


def test_a_broken_kernel_library_names_cause_and_cure(copied):
    for library in copied.glob("_cpu_*"):
        library.write_bytes(b"not a library")
    done = python("import torchnotes", copied.parent)
    assert "cannot be loaded" in done.stderr
    assert "pip install" in done.stderr


@pytest.mark.parametrize(("library", "cause"), (("nonsense", "is missing"), (__file__, "cannot be loaded")))
def test_a_wrong_library_that_is_asked_for_names_the_variable(library, cause):
    code = "import sys, runpy; sys.argv[1:] = ['info']; runpy._run_module_as_main('torchnotes')"
    (line,) = python(code, TORCHNOTES_KERNELS=library).stderr.splitlines()  # as of python -m torchnotes: no traceback
    assert f"torchnotes: the kernel library {library} {cause}" in line
    assert "The variable TORCHNOTES_KERNELS names it: name another one, or unset it" in line


def test_a_missing_core_names_cause_and_cure(copied):
    for library in copied.glob("_C.*"):
        library.unlink()
    done = python("import torchnotes", copied.parent)
    assert "ImportError: torchnotes: its native module _C is missing" in done.stderr
    assert "pip install" in done.stderr


def test_another_torch_than_built_for_names_cause_and_cure():
    """Before anything is missed that another torch lacks."""
    done = python("import torch; torch.__version__ = '2.99.0'; del torch.compiler.is_compiling; import torchnotes")
    assert "but this is torch 2.99.0" in done.stderr
    assert "pip install" in done.stderr


@pytest.mark.parametrize(
    ("torch_version", "python_version"), ((torch.__version__, "3.1"), ("2.1.0", "{}.{}".format(*sys.version_info)))
)
def test_versions_are_compared_before_anything_is_loaded(copied, torch_version, python_version):
    """A library for another torch has undefined symbols, one for another Python is not even found."""
    for library in copied.glob("*.so"):
        library.write_bytes(b"for another version")
    (copied / "_built.py").write_text(f'TORCH = "{torch_version}"\nPYTHON = "{python_version}"\n')
    done = python("import torchnotes", copied.parent)
    last = done.stderr.splitlines()[-1]
    assert last.startswith(
        f"ImportError: torchnotes was built for torch {torch_version} and Python {python_version}, but"
    )
    assert "pip install" in last


@pytest.mark.parametrize("patch", ("0", "7", "1+cu130", "0.dev20260601"))
def test_a_wheel_requires_the_minor_version_of_torch_that_it_is_built_for(patch):
    requirement = Requirement(SETUP["requirement"](f"2.13.{patch}"))
    assert requirement.name == "torch"
    assert requirement.specifier.contains(f"2.13.{patch}", prereleases=True)
    assert not any(
        requirement.specifier.contains(other) for other in ("2.11.0", "2.12.1", "2.130.0", "2.14.0", "3.13.0")
    )


def test_patch_releases_of_torch_are_alike(copied):
    built = copied / "_built.py"
    built.write_text(re.sub(r'(TORCH = "\d+\.\d+)[^"]*', r"\1.99", built.read_text()))
    assert python("import torchnotes", copied.parent).returncode == 0


def test_it_works_from_a_path_with_spaces(copied):
    done = python("import torch, torchnotes.functional as F; print(F.relu(torch.ones(3)).sum().item())", copied.parent)
    assert done.stdout.strip() == "3.0", done.stderr


def test_importing_torchnotes_imports_torch_alone():
    """Nothing but torch and the standard library is needed at run time."""
    code = "import torch, sys; before = set(sys.modules); import torchnotes; print(*set(sys.modules) - before)"
    names = {name.split(".")[0] for name in python(code).stdout.split()}
    assert {"torchnotes"} <= names <= {"torchnotes", "torch"} | set(sys.stdlib_module_names)


def test_a_freed_result_is_used_again_at_once():
    """So that results lie in the cache. glibc's own doing, once it is asked for plain blocks."""
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("another malloc decides otherwise")
    code = """
import torch, torchnotes.functional as F
x = torch.zeros(1_000_000, requires_grad=True)
def addresses():
    y = F.relu(x)
    (dx,) = torch.autograd.grad(y, x, y)
    return y.data_ptr(), dx.data_ptr()
for _ in range(5):
    addresses()  # glibc learns that blocks of this size come again
print(len({addresses() for _ in range(50)}))
"""
    assert int(python(code).stdout) <= 2


@pytest.mark.skipif(sys.platform != "linux", reason="limits its own memory by what Linux tells of it")
def test_too_little_memory_is_an_error():
    code = """
import resource, torch, torchnotes.functional as F
x = torch.zeros(100_000_000)
F.relu(x[:1000])
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 100_000_000, resource.RLIM_INFINITY))
F.relu(x)
"""
    assert "RuntimeError: torchnotes: not enough memory: you tried to allocate 400000000 bytes" in python(code).stderr


def test_large_results_ask_for_huge_pages():
    """Only where the kernel gives huge pages on request, and says how many it gave."""
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not setting.exists() or "[madvise]" not in setting.read_text():
        pytest.skip("this kernel does not give huge pages on request alone")
    code = """
import torch, torchnotes.functional as F
def huge():
    return sum(int(line.split()[1]) for line in open("/proc/self/smaps") if line.startswith("AnonHugePages"))
x = torch.zeros(20_000_000)
before = huge()
y = F.relu(x)
print(huge() - before)
"""
    assert int(python(code).stdout) > 70_000  # KiB, of 78_125


WRITTEN_IN_PLACE = {
    "relu": lambda x: torchnotes.functional.relu(x, inplace=True),
    "leaky_relu": lambda x: torchnotes.functional.leaky_relu(x, 0.1, inplace=True),
    "dropout": lambda x: torchnotes.functional.dropout(x, inplace=True),
    "batch_norm": lambda x: torchnotes.functional.batch_norm(x, None, None, training=True, inplace=True),
    "uniform_": init.uniform_,
    "normal_": init.normal_,
    "trunc_normal_": init.trunc_normal_,
}


@pytest.mark.parametrize("name", WRITTEN_IN_PLACE)
def test_negative_views_are_written_like_others(name):
    numbers = torch.randn(400, 3, dtype=torch.complex64)
    results = []
    for x in (numbers.clone().conj().imag, -numbers.imag):
        torch.manual_seed(0)
        result = WRITTEN_IN_PLACE[name](x)
        assert torch.equal(result, x)
        results.append(x)
    assert results[0].is_neg()
    torch.testing.assert_close(*results)

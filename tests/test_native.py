"""The loader: which library it selects, and its error messages."""

import multiprocessing
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
# Forks a process that has imported torch, to save the time of the import.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["torch"])
RUN = """
import sys, traceback
sys.path.insert(0, folder)
with open(output, "w") as sys.stdout:
    try:
        exec(code, {"__name__": "run"})
    except SystemExit as end:
        print(end)
    except BaseException:
        traceback.print_exc(file=sys.stdout)
"""


@pytest.fixture
def run(tmp_path):
    """The output of code that runs with the package in this folder, including the error that it raises."""

    def run(code: str, folder: Path = PACKAGE.parent) -> str:
        output = tmp_path / "output"
        process = SERVER.Process(target=exec, args=(RUN, {"code": code, "folder": str(folder), "output": str(output)}))
        process.start()
        process.join()
        return output.read_text()

    return run


@pytest.fixture
def copied(tmp_path):
    """A copy of the package to break, in a path with spaces."""
    package = tmp_path / "a path with spaces" / "torchnotes"
    shutil.copytree(PACKAGE, package)
    return package


@pytest.mark.parametrize("capability", _C.instruction_sets.split())
def test_every_instruction_set(capability):
    """Loads the library of torch's instruction set. A result may outlive the interpreter, because freeing its memory
    does not need Python."""
    code = """
import torch, torchnotes, torchnotes.functional as F
x = torch.randn(999)
print(torch.backends.cpu.get_cpu_capability(), F.sigmoid(x).sub(torch.sigmoid(x)).abs().max() < 1e-6)
print(torchnotes.build_info())
torch.left_behind = F.relu(torch.ones(3_000_000))
"""
    env = {k: v for k, v in os.environ.items() if k not in ("TORCHNOTES_KERNELS", "PYTHONPATH")}
    env |= {"ATEN_CPU_CAPABILITY": capability, "PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    used, right = done.stdout.split("\n")[0].lower().split()
    assert right == "tensor(true)"
    assert f"_cpu_{used if used in _C.instruction_sets.split() else 'default'}." in done.stdout


def test_build_info_describes_the_build():
    info = torchnotes.build_info()
    for fact in (torchnotes.__version__, torch.__version__, _C.compiler, _C.instruction_sets, "CUDA"):
        assert fact in info


def built_for(torch_version: str, python_version: str) -> str:
    return f'TORCH = "{torch_version}"\nPYTHON = "{python_version}"\n'


TORCH, PYTHON = torch.__version__, "{}.{}".format(*sys.version_info)
COMPUTE = "import torch, torchnotes.functional as F; print(F.relu(torch.ones(3)).sum().item())"
WITH_LIBRARY = "import os; os.environ['TORCHNOTES_KERNELS'] = {!r}; " + COMPUTE
NAMED = "It was chosen by TORCHNOTES_KERNELS: change or unset this variable"
ERROR, CURE = "^ImportError: torchnotes", ".*pip install"
WITHOUT = "import torch; torch.__version__ = '2.99.0'; del torch.compiler.is_compiling; import torchnotes"
OUTCOMES = {  # the new content of files (None removes them), the code that runs then, and the last line of its output
    "as it is": ({}, COMPUTE, "^3.0$"),
    "a patch release of torch": (
        {"_built.py": built_for(re.sub(r"(\d+\.\d+).*", r"\1.99", TORCH), PYTHON)}, COMPUTE, "^3.0$",
    ),
    "no kernels": ({"_cpu_*": None}, COMPUTE, f"{ERROR}: the kernel library .* is missing{CURE}"),
    "broken kernels": ({"_cpu_*": "no library"}, COMPUTE, f"{ERROR}: the kernel library .* cannot be loaded{CURE}"),
    "no core": ({"_C.*": None}, COMPUTE, f"{ERROR}: the native module _C is missing{CURE}"),
    "another Python, so that nothing is found": (
        {"*.so": None, "_built.py": built_for(TORCH, "3.1")}, COMPUTE,
        f"{ERROR} was built for torch {re.escape(TORCH)} and Python 3.1, but{CURE}",
    ),
    "another torch, so that symbols are undefined": (
        {"*.so": "no library", "_built.py": built_for("2.1.0", PYTHON)}, COMPUTE,
        f"{ERROR} was built for torch 2.1.0 and Python {PYTHON}, but{CURE}",
    ),
    "another torch, which lacks what we need": ({}, WITHOUT, f"but this is torch 2.99.0{CURE}"),
    "a library that is not there": ({}, WITH_LIBRARY.format("nonsense"), f"library nonsense is missing.*{NAMED}"),
    "a library that is none": ({}, WITH_LIBRARY.format(__file__), f"library {__file__} cannot be loaded.*{NAMED}"),
}  # fmt: skip


@pytest.mark.parametrize("name", OUTCOMES)
def test_loader_errors_name_cause_and_remedy(name, copied, run):
    files, code, expected = OUTCOMES[name]
    for pattern, text in files.items():
        for file in copied.glob(pattern):
            file.unlink() if text is None else file.write_text(text)
    last = run(code, copied.parent).splitlines()[-1]
    assert re.search(expected, last), last


def test_command_line_reports_an_incompatible_library_without_a_traceback(run):
    code = "import os, sys, runpy; os.environ['TORCHNOTES_KERNELS'] = 'nonsense'; sys.stderr = sys.stdout\n"
    code += "sys.argv[1:] = ['info']; runpy._run_module_as_main('torchnotes')"
    first = run(code).splitlines()[0]
    assert "torchnotes: the kernel library nonsense is missing" in first
    assert NAMED in first


@pytest.mark.parametrize("patch", ("0", "7", "1+cu130", "0.dev20260601"))
def test_wheels_require_the_minor_version_of_torch_that_they_are_built_for(patch):
    requirement = Requirement(SETUP["requirement"](f"2.13.{patch}"))
    assert requirement.name == "torch"
    assert requirement.specifier.contains(f"2.13.{patch}", prereleases=True)
    assert not any(
        requirement.specifier.contains(other) for other in ("2.11.0", "2.12.1", "2.130.0", "2.14.0", "3.13.0")
    )


def test_import_requires_only_torch(run):
    """At run time only torch and the standard library are required. The import raises no warnings."""
    code = """
import sys, torch, warnings
warnings.simplefilter("error")
before = set(sys.modules)
import torchnotes
print(*set(sys.modules) - before)
"""
    names = {name.split(".")[0] for name in run(code).split()}
    assert {"torchnotes"} <= names <= {"torchnotes", "torch"} | set(sys.stdlib_module_names)


def test_memory_of_a_freed_result_is_reused_immediately(run):
    """Reused memory is still in the cache. glibc does this for plain malloc blocks."""
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("requires glibc's malloc")
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
    assert int(run(code)) <= 2


@pytest.mark.skipif(sys.platform != "linux", reason="limits its memory by figures of Linux")
def test_out_of_memory_raises(run):
    code = """
import resource, torch, torchnotes.functional as F
x = torch.zeros(100_000_000)
F.relu(x[:1000])
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 100_000_000, resource.RLIM_INFINITY))
F.relu(x)
"""
    assert "RuntimeError: torchnotes: not enough memory: you tried to allocate 400000000 bytes" in run(code)


def test_large_results_use_huge_pages(run):
    """Requires a kernel that provides huge pages on request and reports how many."""
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not setting.exists() or "[madvise]" not in setting.read_text():
        pytest.skip("requires a kernel that provides huge pages only on request")
    code = """
import torch, torchnotes.functional as F
def huge():
    return sum(int(line.split()[1]) for line in open("/proc/self/smaps") if line.startswith("AnonHugePages"))
x = torch.zeros(20_000_000)
before = huge()
y = F.relu(x)
print(huge() - before)
"""
    assert int(run(code)) > 70_000  # KiB, of 78_125


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
def test_negated_views_are_written_correctly(name):
    numbers = torch.randn(400, 3, dtype=torch.complex64)
    results = []
    for x in (numbers.clone().conj().imag, -numbers.imag):
        torch.manual_seed(0)
        result = WRITTEN_IN_PLACE[name](x)
        assert torch.equal(result, x)
        results.append(x)
    assert results[0].is_neg()
    torch.testing.assert_close(*results)

"""The devices, dtypes and order of tests, a fixed seed for each test, and a small data set.

Functions import torch, because the process that only distributes tests to workers does without it and starts sooner.
"""

import csv
import gc
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# torch keys its cache of compiled graphs by the names of operators, not by their schemas: an entry may be of an earlier
# build of ours. Set before torch is imported, and inherited by workers and processes.
os.environ.update(TORCHINDUCTOR_FX_GRAPH_CACHE="0", TORCHINDUCTOR_AUTOGRAD_CACHE="0")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    from devices import DEVICES, DTYPES

    if "device" in metafunc.fixturenames:
        metafunc.parametrize("device", DEVICES)
    if "dtype" in metafunc.fixturenames:
        metafunc.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))


# The slowest tests run last, so that most mistakes are found in the first minute.
SLOW = re.compile(r"inductor|compile|export|opcheck|operators|opinfo|by_ranks|rows\.py|test_native")
# Tests of kernels run again for every instruction set. Tests of compilers and of derivatives built from them do not.
OF_KERNELS = re.compile(r"tests/(ops|optim)/(?!test_linear_cross_entropy|test_newton)")
NOT_OF_KERNELS = re.compile(
    r"inductor|compile|export|composition|third|gradcheck|derivatives|descent|vmap|transforms|dual|fake|autocast|hooks"
    r"|opcheck"
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if "TORCHNOTES_KERNELS" in os.environ:  # CUDA on the CPU knows no threads of torch
        items[:] = [item for item in items if "threads" not in item.name]
    items.sort(key=lambda item: bool(SLOW.search(item.nodeid) or "site" in getattr(item, "fixturenames", ())))
    for item in items:
        generic = "check" in getattr(getattr(item, "callspec", None), "params", {})
        if OF_KERNELS.search(item.nodeid) and not generic and not NOT_OF_KERNELS.search(item.nodeid):
            item.add_marker("kernels")


@pytest.fixture(scope="session", autouse=True)
def divide_cores() -> None:
    """Divides the cores among the workers."""
    import torch

    torch.set_num_threads(max(1, torch.get_num_threads() // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))))


@pytest.fixture(autouse=True)
def seed() -> None:
    import torch

    torch.manual_seed(0)


@pytest.fixture
def process_group() -> Iterator[None]:
    """A process group of one process. Freeing a DistributedDataParallel after it can deadlock: torch holds the GIL and
    joins a thread that may need it (github.com/pytorch/pytorch/issues/56297)."""
    from torch import distributed

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    gc.collect()
    distributed.destroy_process_group()


@pytest.fixture(scope="session")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV file with three classes, each scattered around a point."""
    import torch

    generator = torch.Generator().manual_seed(0)
    path = tmp_path_factory.mktemp("blobs") / "blobs.csv"
    with path.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(("width", "height", "kind"))
        for number in range(150):
            x = torch.randn(2, generator=generator) + 6 * torch.tensor([number % 3, (number % 3) ** 2])
            lines.writerow((*x.tolist(), ("ant", "bee", "cat")[number % 3]))
    return path


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation, built without warnings by the first worker that needs it. -n makes dead links warnings."""
    from filelock import FileLock  # torch depends on it

    folder = tmp_path_factory.getbasetemp()
    shared = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    site, built = shared / "documentation/html", shared / "documentation/built"
    with FileLock(shared / "documentation.lock"):
        if not built.exists():
            command = [sys.executable, "-m", "sphinx", "--quiet", "-nW", "--keep-going", "-j", "auto", "-b", "html"]
            run = subprocess.run([*command, "docs", str(site)], capture_output=True, text=True)
            assert run.returncode == 0, run.stderr
            built.touch()
    return site

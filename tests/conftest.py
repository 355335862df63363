"""Which devices and dtypes the tests run on, a fixed seed for each test, and rows to tell apart."""

import csv
from pathlib import Path

import pytest
import torch

import torchnotes._C as _C

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
DEVICES = ("cpu", "cuda") if _C.cuda and torch.cuda.is_available() else ("cpu",)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "device" in metafunc.fixturenames:
        metafunc.parametrize("device", DEVICES)
    if "dtype" in metafunc.fixturenames:
        metafunc.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes around three points, as a CSV file."""
    generator = torch.Generator().manual_seed(0)
    path = tmp_path_factory.mktemp("blobs") / "blobs.csv"
    with path.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(("width", "height", "kind"))
        for number in range(150):
            x = torch.randn(2, generator=generator) + 6 * torch.tensor([number % 3, (number % 3) ** 2])
            lines.writerow((*x.tolist(), ("ant", "bee", "cat")[number % 3]))
    return path

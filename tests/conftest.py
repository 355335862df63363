"""Which devices and dtypes the tests run on, and a fixed seed for each test."""

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

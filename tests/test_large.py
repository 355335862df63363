"""More than 2^31 elements: every index in 64 bits, on the dense, the strided and the in-place way of the driver."""

import pytest
import torch

import torchnotes.functional as F
from philox import KEY, groups_of_words
from torchnotes import init

N = 2**31 + 77
NEEDED = 10 << 30


def free_memory(device: str) -> int:
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    with open("/proc/meminfo") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


@pytest.fixture(autouse=True)
def _enough_memory(device):
    if free_memory(device) < NEEDED:
        pytest.skip(f"needs {NEEDED >> 30} GiB of free memory, this machine has {free_memory(device) >> 30}")


def test_dense_and_in_place(device):
    x = torch.full((N,), -1.0, dtype=torch.bfloat16, device=device)
    x[-5:] = 1.5
    for y in (F.leaky_relu(x, 0.5), F.leaky_relu(x, 0.5, inplace=True)):
        assert torch.equal(y[-7:].cpu(), torch.tensor([-0.5, -0.5, *[1.5] * 5], dtype=torch.bfloat16))
        assert torch.equal(y[[0, 2**31 - 1, 2**31]].cpu(), torch.full((3,), -0.5, dtype=torch.bfloat16))


def test_strided(device):
    x = torch.tensor([-1.0, 1.0, -2.0, 2.0, 3.0], dtype=torch.bfloat16, device=device).expand(N // 5 + 1, 5)
    y = F.leaky_relu(x, 0.5)
    row = torch.tensor([-0.5, 1.0, -1.0, 2.0, 3.0], dtype=torch.bfloat16)
    for i in (0, 1, N // 10, -1):
        assert torch.equal(y[i].cpu(), row)


def test_random_numbers(device):
    """The last whole group of blocks, whose number is beyond 2^31 / 64."""
    x = torch.empty(N, dtype=torch.bfloat16, device=device)
    init.uniform_(x, generator=KEY)
    group = N // 64 - 1
    words = torch.from_numpy(groups_of_words(KEY, group, 1).reshape(-1).astype("int64"))
    assert torch.equal(x[64 * group : 64 * group + 64].cpu(), ((words >> 8).float() * 2.0**-24).bfloat16())
    F.dropout(x.fill_(1), 0.5, inplace=True, generator=KEY)
    kept = words >= 2**31
    assert torch.equal(x[64 * group : 64 * group + 64].cpu(), (2 * kept).bfloat16())

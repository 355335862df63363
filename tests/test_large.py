"""64-bit indices in strided tensors, dense tensors and random numbers."""

import pytest
import torch

import torchnotes.functional as F
from philox import KEY, groups_of_words
from torchnotes import init

N = 2**31 + 77
NEEDED = 6 << 30


def free_memory(device: str) -> int:
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    with open("/proc/meminfo") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


def test_more_than_2_to_the_31_elements(device):
    """Each step reuses the memory of the previous one, because touching 4 GiB for the first time takes longest. Of the
    random numbers, compares the last complete group of blocks, whose index exceeds 2^31 / 64."""
    if free_memory(device) < NEEDED:
        pytest.skip(f"needs {NEEDED >> 30} GiB of free memory, this machine has {free_memory(device) >> 30}")
    row = torch.tensor([-1.0, 1.0, -2.0, 2.0, 3.0], dtype=torch.bfloat16, device=device)
    places = [0, 1, N // 10, 2**31 // 5, -1]
    x = F.leaky_relu(row.expand(N // 5 + 1, 5), 0.5)
    assert torch.equal(x[places], F.leaky_relu(row, 0.5).expand(5, 5))
    F.leaky_relu(x, 0.5, inplace=True)
    assert torch.equal(x[places], F.leaky_relu(row, 0.25).expand(5, 5))
    x = x.view(-1)[:N]
    init.uniform_(x, generator=KEY)
    group = N // 64 - 1
    words = torch.from_numpy(groups_of_words(KEY, group, 1).reshape(-1).astype("int64"))
    expected = ((words >> 8).float() * 2.0**-24).bfloat16()
    assert torch.equal(x[64 * group : 64 * group + 64].cpu(), expected)
    F.dropout(x, 0.5, inplace=True, generator=KEY)
    assert torch.equal(x[64 * group : 64 * group + 64].cpu(), 2 * expected * (words >= 2**31))

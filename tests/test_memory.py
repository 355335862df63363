"""Results in memory of our own allocator (csrc/tensors/allocate.cpp) behave like any other tensor."""

import io

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import torchnotes.functional as F


@pytest.mark.parametrize("n", [1, 3, 1000, 3_000_001])
def test_results_are_aligned_for_vectors(n):
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        assert F.relu(torch.ones(n, dtype=dtype)).data_ptr() % 64 == 0


def test_a_result_can_be_resized_shared_saved_and_viewed():
    x = torch.randn(1000)
    y = F.relu(x)
    y.resize_(5000)
    assert torch.equal(y[:1000], x.clamp(min=0))
    y.share_memory_()
    assert torch.equal(y[:1000], x.clamp(min=0))
    file = io.BytesIO()
    torch.save(y, file)
    file.seek(0)
    assert torch.equal(torch.load(file)[:1000], x.clamp(min=0))
    array = F.relu(x).numpy()
    assert (array >= 0).all()
    assert torch.equal(torch.from_dlpack(F.relu(x)), x.clamp(min=0))


def test_the_profiler_sees_every_byte():
    x = torch.ones(1000)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        y = F.relu(x)
        del y
    assert profiler.profiler is not None
    events = [e.nbytes() for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    assert events == [4000, -4000]

"""Controls the effect of the allocator on measurements, and measures the memory of a call.

The cost of a large result depends on glibc. It maps new memory for every block over 32 MiB, unless there happens to
be room on the heap, and each new page faults on first touch. A measurement therefore has a regime:

    fresh   glibc's defaults, with the heap trimmed before each timed call: large results are always in new pages
    warm    no separate mappings and no trimming: every result reuses memory
"""

import ctypes
import os
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from torchnotes.classifier.memory import peak_bytes as peak_bytes

Regime = Literal["fresh", "warm"]

ALWAYS_MAPPED = 32 << 20  # bytes: glibc's largest threshold between heap and mapping
WARM_BLOCKS = 16
_WARM = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=1099511627776"
_trim: Callable[[int], int] = getattr(ctypes.CDLL(None), "malloc_trim", lambda pad: 0)


def usual_regime(block_bytes: int, device: torch.device) -> Regime:
    """The regime of a block of this size in a training loop. Caching device allocators always reuse memory."""
    return "fresh" if device.type == "cpu" and block_bytes > ALWAYS_MAPPED else "warm"


def environment(regime: Regime) -> dict[str, str]:
    """The environment of a process that follows the regime from the start, and whose profiler is silent."""
    foreign = ("GLIBC_TUNABLES", "MALLOC_")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return inherited | {"KINETO_LOG_LEVEL": "6"} | ({"GLIBC_TUNABLES": _WARM} if regime == "warm" else {})


def prepare(regime: Regime, block_bytes: int) -> None:
    """Touches all memory that a warm heap will need, because otherwise fragmentation makes it grow for a while."""
    if regime == "warm":
        torch.ones(WARM_BLOCKS * block_bytes, dtype=torch.uint8)


def forget(regime: Regime) -> None:
    """Returns free memory to the operating system if the regime requires it."""
    if regime == "fresh":
        _trim(0)


def kept_bytes(call: Callable[[], object]) -> int:
    """The memory that autograd saves between forward and backward."""
    kept: dict[int, Tensor] = {}  # by address; references prevent an address from being reused

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        call()
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())

"""The ways a tensor can lie in memory. Each function returns a tensor equal to x in another layout."""

from collections.abc import Callable

import torch
from torch import Tensor


def contiguous(x: Tensor) -> Tensor:
    return x.clone(memory_format=torch.contiguous_format)


def strided(x: Tensor) -> Tensor:
    return torch.stack((x, x), -1)[..., 0]


def sliced(x: Tensor) -> Tensor:
    """The middle of wider rows."""
    return torch.nn.functional.pad(x, (3, 2))[..., 3:-2] if x.dim() else x.clone()


def offset_by_one(x: Tensor) -> Tensor:
    """Contiguous, but aligned to no more than one element."""
    memory = torch.empty(x.numel() + 1, dtype=x.dtype, device=x.device)
    return memory[1:].view(x.shape).copy_(x)


def transposed(x: Tensor) -> Tensor:
    return x.transpose(0, -1).contiguous().transpose(0, -1) if x.dim() > 1 else x.clone()


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x.clone()


def negated_view(x: Tensor) -> Tensor:
    """The imaginary part of a conjugate, which torch negates lazily (its negative bit is set)."""
    if x.dtype not in (torch.float32, torch.float64):
        return x.clone()
    view = torch.complex(torch.zeros_like(x), -x).conj().imag
    assert view.is_neg()
    return view


LAYOUTS: tuple[Callable[[Tensor], Tensor], ...] = (
    contiguous,
    strided,
    sliced,
    offset_by_one,
    transposed,
    channels_last,
    negated_view,
)


def expanded(x: Tensor) -> Tensor:
    """Unlike the others, not equal to x: its first element along the first dimension everywhere."""
    return x[:1].expand(x.shape) if x.dim() else x.clone()

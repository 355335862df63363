"""Dropout. The formulas and their derivation: csrc/formulas/dropout.h.

y = d x,    d = 0 with probability p, else 1/(1 - p),    dy/dx = d
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import dropout as builtin

from ..autograd.function import show, watched
from ._random import Generator, Noise, draws_natively, noisy, random_key

torch.library.register_fake("torchnotes::dropout", lambda x, key, p, shard=None: torch.empty_like(x))
torch.library.register_fake("torchnotes::dropout_", lambda x, key, p, shard=None: None)


_kernel = torch.ops.torchnotes.dropout.default


class Dropout(Noise):
    """d x"""

    kernel = _kernel

    @staticmethod
    def forward(x: Tensor, key: Tensor, p: float) -> Tensor:
        return _kernel(x, key, p)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple:
        (key,) = ctx.saved_tensors
        return Dropout.apply(g, key, *ctx.numbers), None, None


_dropout = noisy(Dropout, "dropout")


def dropout(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False, *, generator: Generator = None
) -> Tensor:
    """Zeroes random elements and scales the others by 1/(1 - p), like :func:`torch.nn.functional.dropout`.

    Saves only a key of 16 bytes for the backward pass, which regenerates the random choice. The same seed gives other
    numbers than torch's, but the same ones on every machine. A DTensor gets the choice of the full tensor, if all ranks
    have the same seed.

    Args:
        input: A tensor of any shape.
        p: The probability of zeroing an element.
        training: Returns ``input`` unchanged if False.
        inplace: Whether to overwrite ``input`` with the result.
        generator: Draws the key, by default torch's generator for the CPU. A tensor of two int64 is the key itself,
            which gives the same choice every time.

    Returns:
        A tensor of the shape of ``input``.

    Example:
        >>> F.dropout(torch.ones(6), 0.5, generator=torch.tensor([0, 1]))
        tensor([2., 2., 2., 0., 2., 2.])
    """
    if p < 0.0 or p > 1.0:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
    if p != p:
        raise RuntimeError(f"dropout probability has to be between 0 and 1, but got {p}")  # torch's type
    if not draws_natively(input, generator):
        if watched():
            return show(dropout, input, p, training, inplace, generator=generator)
        if generator is None or not isinstance(input, Tensor):
            return builtin(input, p, training, inplace)
        if not training or p == 0:
            return input
        kept = torch.empty_like(input).bernoulli_(1 - p, generator=generator)  # type: ignore[arg-type] # its own error
        kept = kept / (1 - p) if p < 1 else kept
        return input.mul_(kept) if inplace else input * kept
    if training is not True and training is not False:
        return builtin(input, p, training, inplace)  # raises its own error
    if not training or p == 0 or input.numel() == 0:
        return input
    return _dropout(input, random_key(input, generator), float(p), inplace=inplace)

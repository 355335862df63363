"""The length of several vectors as one. The formula: csrc/formulas/gradient_norm.h."""

from collections.abc import Iterable

import torch
from torch import Tensor


@torch.library.register_fake("torchnotes::gradient_norm")
def _(tensors: list[Tensor]) -> Tensor:
    dtype = tensors[0].dtype.to_real()
    return tensors[0].new_empty((), dtype=torch.float32 if dtype.itemsize == 2 else dtype)


_norm = torch.ops.torchnotes.gradient_norm.default


def gradient_norm(tensors: Iterable[Tensor]) -> Tensor:
    """The 2-norm of all numbers in tensors of one device and dtype, in one pass over them.

    As torch.nn.utils.get_total_norm, which computes the norm of their norms; float32 for tensors of 16 bits.
    """
    together = list(tensors)
    return _norm(together) if together else torch.zeros(())

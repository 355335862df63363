"""Activations that write their output over their input."""

from typing import Any

import torch
from torch import Tensor

from .._native import DIRECT, GRAPH, call_mode
from ._activation import Activation


class InplaceActivation(Activation):
    """x <- f(x), keeping the output, which is x itself. `kernel` writes in place."""

    @classmethod
    def forward(cls, x: Tensor, *numbers: float) -> Tensor:
        cls.kernel(x, *numbers)
        return x

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, y: Tensor) -> None:
        Activation.setup_context(ctx, inputs, y)
        ctx.mark_dirty(y)


def can_write(x: Tensor) -> bool:
    """Whether the in-place Function may have x.

    Where not, x.copy_(f(x)) does the same by torch's own rules: under transforms, for views that a gradient flows
    through, and for the leaf that must not be written, for which copy_ raises before it writes.
    """
    if x.is_inference() and not torch.is_inference_mode_enabled():  # copy_ raises too, but only when it has written
        raise RuntimeError("Inplace update to inference tensor outside InferenceMode is not allowed.")
    mode = call_mode(x)
    return mode == DIRECT or (mode == GRAPH and not x.is_leaf and not x._is_view())

"""The leaky rectifier. The formulas and their derivation: csrc/formulas/leaky_relu.h.

y = x for x > 0, else a x,    y' = 1 for x > 0, else a,    y'' = 0
"""

from typing import Any

import torch
from torch import Tensor

from ._activation import Activation, Slope
from ._compiled import CompiledLeakyReLU, worthwhile
from ._function import kernel, native
from ._inplace import InplaceActivation, can_write

torch.library.register_fake("torchnotes::leaky_relu", torch.nn.functional.leaky_relu)
torch.library.register_fake("torchnotes::leaky_relu_", lambda x, a: None)
torch.library.register_fake(
    "torchnotes::leaky_relu_backward", lambda g, r, a: torch.ops.aten.leaky_relu_backward(g, r, a, False)
)


class LeakyReLUBackward(Slope):
    """g where r > 0, else a g"""

    kernel = kernel("leaky_relu_backward")


class LeakyReLU(Activation):
    """Keeps the output; with a negative slope a, whose output does not tell the sign of x, the input in its place."""

    kernel = kernel("leaky_relu")
    slope = LeakyReLUBackward

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, y: Tensor) -> None:
        x, a = inputs
        ctx.save_for_backward(y if a >= 0 else x)
        ctx.numbers = (a,)


class InplaceLeakyReLU(InplaceActivation):
    kernel = kernel("leaky_relu_")
    slope = LeakyReLUBackward


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """input where it is positive, else negative_slope * input, as torch.nn.functional.leaky_relu."""
    if not (native(input) and isinstance(negative_slope, (float, int))):
        if not inplace and worthwhile(input) and isinstance(negative_slope, (float, int)) and negative_slope >= 0:
            return CompiledLeakyReLU.apply(input, negative_slope)
        return torch.nn.functional.leaky_relu(input, negative_slope, inplace)
    if not inplace:
        return LeakyReLU.apply(input, negative_slope)
    if negative_slope < 0:  # the input is kept, and about to be overwritten
        return input.copy_(LeakyReLU.apply(input.clone(), negative_slope))
    if not can_write(input):
        return input.copy_(LeakyReLU.apply(input, negative_slope))
    return InplaceLeakyReLU.apply(input, negative_slope)

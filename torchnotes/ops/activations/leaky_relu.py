"""The leaky rectifier. The formulas and their derivation: csrc/formulas/leaky_relu.h.

y = x for x > 0, else a x,    y' = 1 for x > 0, else a,    y'' = 0
"""

import torch
from torch import Tensor
from torch.nn.functional import leaky_relu as builtin

from ...autograd.compiled import worthwhile
from ...autograd.fake import register_fake
from ...autograd.function import native, show, watched
from ._activation import Activation, Slope, in_place
from ._compiled import CompiledLeakyReLU

register_fake("torchnotes::leaky_relu", builtin)
register_fake("torchnotes::leaky_relu_", lambda x, a: None)


class LeakyReLUBackward(Slope):
    """g where r > 0, else a g"""

    operator = "leaky_relu_backward"

    @staticmethod
    def by_torch(g: Tensor, r: Tensor, a: float) -> Tensor:
        return torch.ops.aten.leaky_relu_backward(g, r, a, False)


class LeakyReLU(Activation):
    operator = "leaky_relu"
    slope = LeakyReLUBackward


class FallingLeakyReLU(Activation):
    """With a negative slope a the output does not determine the sign of x."""

    operator = "leaky_relu"
    slope = LeakyReLUBackward
    keeps_input = True


leaky_relu_, falling_leaky_relu_ = in_place(LeakyReLU), in_place(FallingLeakyReLU)


def leaky_relu_of_saved_input(input: Tensor, negative_slope: float) -> Tensor:
    """leaky_relu that saves its input, like torch's, so that its result may be overwritten."""
    if native(input) and isinstance(negative_slope, (float, int)):
        return FallingLeakyReLU.apply(input, negative_slope)
    return builtin(input, negative_slope)


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """Scales negative elements by a slope, like :func:`torch.nn.functional.leaky_relu`.

    Saves its output for the backward pass, where torch saves the input, unless the slope is negative. Overwriting the
    output is therefore an error in the backward pass. Instead of ``y += r`` write ``y = y + r``.

    Args:
        input: A tensor of any shape.
        negative_slope: The factor for negative elements.
        inplace: Whether to overwrite ``input`` with the result.

    Returns:
        A tensor of the shape of ``input``.

    Example:
        >>> F.leaky_relu(torch.tensor([-2.0, 0.0, 2.0]), 0.1)
        tensor([-0.2000,  0.0000,  2.0000])
    """
    if not (native(input) and isinstance(negative_slope, (float, int))):
        if watched():
            return show(leaky_relu, input, negative_slope, inplace)
        if not inplace and worthwhile(input) and isinstance(negative_slope, (float, int)) and negative_slope >= 0:
            return CompiledLeakyReLU.apply(input, negative_slope)
        return builtin(input, negative_slope, inplace)
    if negative_slope >= 0:
        return (leaky_relu_ if inplace else LeakyReLU.apply)(input, negative_slope)
    return (falling_leaky_relu_ if inplace else FallingLeakyReLU.apply)(input, negative_slope)

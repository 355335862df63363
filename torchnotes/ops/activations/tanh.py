"""The hyperbolic tangent. The formulas and their derivation: csrc/formulas/tanh.h.

y = t(x) = (e^2x - 1) / (e^2x + 1),    t' = 1 - y^2,    t'' = -2 y (1 - y^2)
"""

import torch
from torch import Tensor
from torch import tanh as builtin

from ...autograd.fake import register_fake
from ...autograd.function import native, show, watched
from ._activation import Activation, Curvature, Slope

register_fake("torchnotes::tanh", builtin)


class TanhCurvature(Curvature):
    """v (g (-2y))"""

    operator = "tanh_curvature"

    @staticmethod
    def by_torch(v: Tensor, g: Tensor, y: Tensor) -> Tensor:
        return v * (g * (-2 * y))


class TanhBackward(Slope):
    """g (1 - y^2)"""

    operator = "tanh_backward"
    by_torch = torch.ops.aten.tanh_backward
    curvature = TanhCurvature


class Tanh(Activation):
    operator = "tanh"
    slope = TanhBackward


def tanh(input: Tensor) -> Tensor:
    """Computes the hyperbolic tangent of each element, like :func:`torch.nn.functional.tanh`.

    Saves only its output for the backward pass, as torch does.

    Args:
        input: A tensor of any shape.

    Returns:
        A tensor of the shape of ``input``.

    Example:
        >>> F.tanh(torch.tensor([-2.0, 0.0, 2.0]))
        tensor([-0.9640,  0.0000,  0.9640])
    """
    if not native(input):
        return show(tanh, input) if watched() else builtin(input)
    return Tanh.apply(input)

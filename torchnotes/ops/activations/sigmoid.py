"""The logistic sigmoid. The formulas and their derivation: csrc/formulas/sigmoid.h.

y = s(x) = 1 / (1 + e^-x),    s' = y (1 - y),    s'' = y (1 - y)(1 - 2y)
"""

import torch
from torch import Tensor
from torch import sigmoid as builtin

from ...autograd.fake import register_fake
from ...autograd.function import native, show, watched
from ._activation import Activation, Curvature, Slope

register_fake("torchnotes::sigmoid", builtin)


class SigmoidCurvature(Curvature):
    """v (g (1 - 2y))"""

    operator = "sigmoid_curvature"

    @staticmethod
    def by_torch(v: Tensor, g: Tensor, y: Tensor) -> Tensor:
        return v * (g * (1 - 2 * y))


class SigmoidBackward(Slope):
    """g y (1 - y)"""

    operator = "sigmoid_backward"
    by_torch = torch.ops.aten.sigmoid_backward
    curvature = SigmoidCurvature


class Sigmoid(Activation):
    operator = "sigmoid"
    slope = SigmoidBackward


def sigmoid(input: Tensor) -> Tensor:
    """Computes 1 / (1 + e^-x) for each element, like :func:`torch.nn.functional.sigmoid`.

    Saves only its output for the backward pass, as torch does.

    Args:
        input: The tensor x, of any shape.

    Returns:
        A tensor of the shape of ``input``.

    Example:
        >>> F.sigmoid(torch.tensor([-2.0, 0.0, 2.0]))
        tensor([0.1192, 0.5000, 0.8808])
    """
    if not native(input):
        return show(sigmoid, input) if watched() else builtin(input)
    return Sigmoid.apply(input)

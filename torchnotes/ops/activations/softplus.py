"""The softplus. The formulas and their derivation: csrc/formulas/softplus.h.

y = ln(1 + e^bx) / b,    y' = s(bx),    y'' = b s (1 - s),    y''' = b^2 s (1 - s)(1 - 2s),    s(z) = 1 / (1 + e^-z)
"""

import torch
from torch import Tensor
from torch.nn.functional import softplus as builtin

from ...autograd.fake import register_fake
from ...autograd.function import native, show, watched
from ._activation import Activation, Curvature, Slope

register_fake("torchnotes::softplus", builtin)


class SoftplusCurvature(Curvature):
    """v (g b s (1 - s))"""

    operator = "softplus_curvature"

    @staticmethod
    def by_torch(v: Tensor, g: Tensor, x: Tensor, beta: float, threshold: float) -> Tensor:
        s = torch.sigmoid(beta * x)
        return torch.where(beta * x > threshold, 0, v * (g * (beta * s * (1 - s))))

    @staticmethod
    def third(x: Tensor, beta: float, threshold: float) -> Tensor:
        s = torch.sigmoid(beta * x)
        return torch.where(beta * x > threshold, 0, beta**2 * s * (1 - s) * (1 - 2 * s))


class SoftplusBackward(Slope):
    """g s(bx)"""

    operator = "softplus_backward"
    by_torch = torch.ops.aten.softplus_backward
    curvature = SoftplusCurvature


class Softplus(Activation):
    operator = "softplus"
    slope = SoftplusBackward
    keeps_input = True


class SoftplusOfOutput:
    """The derivatives as functions of y, for operations that end with a softplus of b = 1."""

    @staticmethod
    def apply(g: Tensor, y: Tensor) -> Tensor:
        """g (1 - e^-y)"""
        return torch.where(y > 20, g, g * -torch.expm1(-y))

    @staticmethod
    def curved(v: Tensor, g: Tensor, y: Tensor) -> Tensor:
        """v g e^-y"""
        return torch.where(y > 20, 0, v * (g * torch.exp(-y)))


def scripted_softplus(input: Tensor, beta: int | float = 1.0, threshold: int | float = 20.0) -> Tensor:
    return builtin(input, float(beta), float(threshold))


def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """Computes ln(1 + e^bx) / b for each element, like :func:`torch.nn.functional.softplus`.

    Saves only its input for the backward pass, as torch does.

    Args:
        input: The tensor x, of any shape.
        beta: The sharpness b.
        threshold: Where b x is larger than this, the result is x.

    Returns:
        A tensor of the shape of ``input``.

    Example:
        >>> F.softplus(torch.tensor([-2.0, 0.0, 2.0]))
        tensor([0.1269, 0.6931, 2.1269])
    """
    if not (native(input) and isinstance(beta, (float, int)) and isinstance(threshold, (float, int)) and beta > 0):
        return show(softplus, input, beta, threshold) if watched() else builtin(input, beta, threshold)
    return Softplus.apply(input, beta, threshold)

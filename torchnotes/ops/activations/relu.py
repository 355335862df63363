"""The rectifier. The formulas and their derivation: csrc/formulas/relu.h.

y = max(0, x),    y' = 1 for x > 0, else 0,    y'' = 0
"""

import torch
from torch import Tensor
from torch import relu as torch_relu
from torch.nn.functional import relu as builtin
from torch.overrides import has_torch_function_unary

from ...autograd.compiled import worthwhile
from ...autograd.fake import register_fake
from ...autograd.function import native, show, watched
from ._activation import Activation, Slope, in_place
from ._compiled import CompiledReLU

register_fake("torchnotes::relu", torch_relu)
register_fake("torchnotes::relu_", lambda x: None)


class ReLUBackward(Slope):
    """g where y > 0, else 0"""

    operator = "relu_backward"

    @staticmethod
    def by_torch(g: Tensor, y: Tensor) -> Tensor:
        return torch.ops.aten.threshold_backward(g, y, 0)


class ReLU(Activation):
    operator = "relu"
    slope = ReLUBackward


relu_ = in_place(ReLU)


def _torchs(input: Tensor, inplace: bool) -> Tensor:
    # The builtin looks up torch.relu, which may have been replaced by ours.
    if has_torch_function_unary(input):
        return builtin(input, inplace)
    return torch.relu_(input) if inplace else torch_relu(input)


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """Computes max(0, x) for each element, like :func:`torch.nn.functional.relu`.

    Saves only its output for the backward pass, as torch does.

    Args:
        input: The tensor x, of any shape.
        inplace: Whether to overwrite ``input`` with the result.

    Returns:
        A tensor of the shape of ``input``.

    Example:
        >>> F.relu(torch.tensor([-2.0, 0.0, 2.0]))
        tensor([0., 0., 2.])
    """
    if not native(input):
        if watched():
            return show(relu, input, inplace)
        if not inplace and worthwhile(input):
            return CompiledReLU.apply(input)
        return _torchs(input, inplace)
    return relu_(input) if inplace else ReLU.apply(input)

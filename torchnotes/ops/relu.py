"""The rectifier. The formulas and their derivation: csrc/formulas/relu.h.

y = max(0, x),    y' = 1 for x > 0, else 0,    y'' = 0
"""

import torch
from torch import Tensor

from ._activation import Activation, Slope
from ._compiled import CompiledReLU, worthwhile
from ._function import kernel, native
from ._inplace import InplaceActivation, can_write

torch.library.register_fake("torchnotes::relu", torch.relu)
torch.library.register_fake("torchnotes::relu_", lambda x: None)
torch.library.register_fake("torchnotes::relu_backward", lambda g, y: torch.ops.aten.threshold_backward(g, y, 0))


class ReLUBackward(Slope):
    """g where y > 0, else 0"""

    kernel = kernel("relu_backward")


class ReLU(Activation):
    kernel = kernel("relu")
    slope = ReLUBackward


class InplaceReLU(InplaceActivation):
    kernel = kernel("relu_")
    slope = ReLUBackward


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """max(0, input), as torch.nn.functional.relu."""
    if not native(input):
        if not inplace and worthwhile(input):
            return CompiledReLU.apply(input)
        return torch.nn.functional.relu(input, inplace)
    if not inplace:
        return ReLU.apply(input)
    return InplaceReLU.apply(input) if can_write(input) else input.copy_(ReLU.apply(input))

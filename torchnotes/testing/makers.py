"""Random arguments. Each function makes a float64 tensor for an input of the given shape."""

from collections.abc import Callable

import torch
from torch import Tensor

from .operation import Shape


def normal(shape: Shape) -> Tensor:
    return (2 * torch.randn(shape, dtype=torch.float64)).requires_grad_()


def without_gradient(maker: Callable[[Shape], Tensor]) -> Callable[[Shape], Tensor]:
    return lambda shape: maker(shape).detach()

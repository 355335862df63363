"""Random arguments. Each function makes a float64 tensor for an input of the given shape."""

from collections.abc import Callable

import torch
from torch import Tensor

from .operation import Shape


def normal(shape: Shape) -> Tensor:
    """Makes a tensor with numbers from N(0, 4) that requires a gradient.

    Args:
        shape: The shape of the operation's input.

    Returns:
        A float64 tensor of this shape.

    Example:
        >>> from torchnotes.testing import makers
        >>> makers.normal((2, 3)).requires_grad
        True
    """
    return (2 * torch.randn(shape, dtype=torch.float64)).requires_grad_()


def without_gradient(maker: Callable[[Shape], Tensor]) -> Callable[[Shape], Tensor]:
    """Changes a maker to make tensors that do not require a gradient.

    Args:
        maker: A function of a shape that returns a tensor.

    Returns:
        Such a function.

    Example:
        >>> from torchnotes.testing import makers
        >>> makers.without_gradient(makers.normal)((2, 3)).requires_grad
        False
    """
    return lambda shape: maker(shape).detach()

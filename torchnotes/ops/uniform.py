"""Uniform numbers. The formulas: csrc/formulas/uniform.h.

x = a + (b - a) u,    u uniform in [0, 1)
"""

import torch
from torch import Tensor
from torch.nn.init import uniform_ as builtin

from ._random import Generator, filling

torch.library.register_fake("torchnotes::uniform_", lambda *arguments: None)
_fill = filling("uniform_", builtin)


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0, generator: Generator = None) -> Tensor:
    """Fills a tensor with numbers from U(a, b), like :func:`torch.nn.init.uniform_`.

    The numbers depend neither on the device nor on the number of threads.

    Args:
        tensor: A tensor of any shape.
        a, b: The bounds.
        generator: Draws the key of the random numbers, by default torch's generator for the CPU. A tensor of two int64
            is the key itself, which gives the same numbers every time.

    Returns:
        The tensor.

    Example:
        >>> init.uniform_(torch.empty(3), generator=torch.tensor([0, 1]))
        tensor([0.5167, 0.7910, 0.7733])
    """
    return _fill(tensor, generator, a, b)

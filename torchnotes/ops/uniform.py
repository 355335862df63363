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
    """Fills tensor with numbers from U(a, b), like torch.nn.init.uniform_."""
    return _fill(tensor, generator, a, b)

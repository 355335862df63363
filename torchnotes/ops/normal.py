"""Normal numbers. The formulas: csrc/formulas/normal.h.

x = mean + std n,    n = sqrt(-2 ln u) cos(2 pi v) or sin(2 pi v)
"""

import torch
from torch import Tensor
from torch.nn.init import normal_ as builtin

from ._random import Generator, filling

torch.library.register_fake("torchnotes::normal_", lambda *arguments: None)
_fill = filling("normal_", builtin)


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, generator: Generator = None) -> Tensor:
    """Fills tensor with numbers from N(mean, std^2), like torch.nn.init.normal_."""
    return _fill(tensor, generator, mean, std)

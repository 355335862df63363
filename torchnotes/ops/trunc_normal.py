"""Normal numbers between two bounds. The formulas: csrc/formulas/trunc_normal.h.

x = F^-1(u),    F the distribution of N(mean, std^2) between a and b
"""

import torch
from torch import Tensor
from torch.nn.init import trunc_normal_ as builtin

from ._random import Generator, filling

torch.library.register_fake("torchnotes::trunc_normal_", lambda *arguments: None)
_fill = filling("trunc_normal_", builtin)


def trunc_normal_(
    tensor: Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
    generator: Generator = None,
) -> Tensor:
    """Fills tensor with numbers of N(mean, std^2) that lie in [a, b], as torch.nn.init.trunc_normal_."""
    return _fill(tensor, generator, mean, std, a, b)

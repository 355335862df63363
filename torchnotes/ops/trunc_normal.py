"""Normal numbers between two bounds. The formulas: csrc/formulas/trunc_normal.h.

x = F^-1(u),    F the distribution of N(mean, std^2) between a and b
"""

import warnings

import torch
from torch import Tensor
from torch.nn.init import trunc_normal_ as builtin

from ._random import Generator, filling

torch.library.register_fake("torchnotes::trunc_normal_", lambda *arguments: None)


def _check(mean: float, std: float, a: float, b: float) -> None:
    """Warns and raises like torch."""
    if mean < a - 2 * std or mean > b + 2 * std:
        warnings.warn(
            "mean is more than 2 std from [a, b] in nn.init.trunc_normal_. "
            "The distribution of values may be incorrect.",
            stacklevel=4,
        )
    if std == 0:
        raise ZeroDivisionError("trunc_normal_ expects std > 0, but found std 0")


_fill = filling("trunc_normal_", builtin, _check)


def trunc_normal_(
    tensor: Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
    generator: Generator = None,
) -> Tensor:
    """Fills tensor with numbers from N(mean, std^2) truncated to [a, b], like torch.nn.init.trunc_normal_."""
    return _fill(tensor, generator, mean, std, a, b)

"""Normal numbers between two bounds. The formulas: csrc/formulas/trunc_normal.h.

x = F^-1(u),    F the distribution of N(mean, std^2) between a and b
"""

import warnings

import torch
from torch import Tensor
from torch.nn.init import trunc_normal_ as builtin

from .._docs import arguments_from
from ._random import Generator, filling
from .uniform import uniform_

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


@arguments_from(uniform_)
def trunc_normal_(
    tensor: Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
    generator: Generator = None,
) -> Tensor:
    """Fills a tensor with numbers from a truncated N(mean, std^2), like :func:`torch.nn.init.trunc_normal_`.

    The numbers depend neither on the device nor on the number of threads.

    Args:
        mean, std: The mean and the standard deviation before truncation.
        a, b: The bounds, which do not scale with ``std``.

    Returns:
        The tensor.

    Example:
        >>> init.trunc_normal_(torch.empty(3), generator=torch.tensor([0, 1]))
        tensor([0.0399, 0.7645, 0.7092])
    """
    return _fill(tensor, generator, mean, std, a, b)

"""Normal numbers. The formulas: csrc/formulas/normal.h.

x = mean + std n,    n = sqrt(-2 ln u) cos(2 pi v) or sin(2 pi v)
"""

import torch
from torch import Tensor
from torch.nn.init import normal_ as builtin

from .._docs import arguments_from
from ._random import Generator, filling
from .uniform import uniform_

torch.library.register_fake("torchnotes::normal_", lambda *arguments: None)
_fill = filling("normal_", builtin)


@arguments_from(uniform_)
def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, generator: Generator = None) -> Tensor:
    """Fills a tensor with numbers from N(mean, std^2), like :func:`torch.nn.init.normal_`.

    The numbers depend neither on the device nor on the number of threads.

    Args:
        mean, std: The mean and the standard deviation.

    Returns:
        The tensor.

    Example:
        >>> init.normal_(torch.empty(3), generator=torch.tensor([0, 1]))
        tensor([ 1.0676,  0.4050, -0.0300])
    """
    return _fill(tensor, generator, mean, std)

"""The mean and variance of channels over the batches of all ranks, in plain operations.

They are differentiable to every order; each rank has a loss of its own.

The reasons are in docs/decisions/batch-norm-over-ranks.md.
"""

import torch
from torch import Tensor

from ...distributed.collectives import Group, gathered


def merged(of_ranks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(n, mu, v) of all ranks from (n, mu, v) of each, one rank per row, by Chan's merge. A rank may have n = 0."""
    n, mean, variance = of_ranks.split([1, *[of_ranks.shape[1] // 2] * 2], 1)
    total = n.sum()
    share = n / total
    mean_of_all = (share * mean).sum(0)
    return total, mean_of_all, (share * (variance + (mean - mean_of_all) ** 2)).sum(0)


def of_all_batches(x: Tensor, group: Group) -> tuple[Tensor, Tensor, Tensor]:
    """(n, mu, v) over the batches of all ranks."""
    n = x.numel() // x.shape[1]
    dims = [0, *range(2, x.dim())]
    wide = x.double()
    mean = wide.sum(dims) / max(n, 1)
    variance = ((wide - mean.view(-1, *[1] * (x.dim() - 2))) ** 2).sum(dims) / max(n, 1)
    own = torch.cat((mean.new_full((1,), n), mean, variance))
    return merged(gathered(own, group))

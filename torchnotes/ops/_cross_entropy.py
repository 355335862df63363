"""cross_entropy in plain torch operations, for what no kernel of ours computes: the third derivative, the gradient for
the targets and for the weight. Each function here is differentiable to every order, by every argument.

The logits are of shape (N, C, ...); a loss is that of a row, not reduced. The formulas: csrc/formulas/cross_entropy.h.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ._derivatives import transpose


class Options(NamedTuple):
    """What has no derivative, in the order of the native operators."""

    ignore_index: int
    label_smoothing: float
    z_loss: float
    logit_softcap: float  # 0: none


def has_probabilities(input: Tensor, target: Tensor) -> bool:
    return input.shape == target.shape


def capped(input: Tensor, options: Options) -> Tensor:
    cap = options.logit_softcap
    return cap * torch.tanh(input / cap) if cap else input


def mass(input: Tensor, target: Tensor, weight: Tensor | None, options: Options) -> Tensor:
    """a_j, with 0 for a row that is ignored."""
    eps = options.label_smoothing
    if has_probabilities(input, target):
        q = target
    else:
        classes = torch.arange(input.shape[1], device=input.device).view(-1, *[1] * (input.dim() - 2))
        q = (target.unsqueeze(1) == classes).to(input.dtype)
    a = (1 - eps) * q + eps / input.shape[1]
    if weight is not None:
        a = a * weight.to(input.dtype).view(-1, *[1] * (input.dim() - 2))
    return a if has_probabilities(input, target) else a * (target != options.ignore_index).unsqueeze(1)


def losses(input: Tensor, target: Tensor, weight: Tensor | None, options: Options) -> Tensor:
    u, a = capped(input, options), mass(input, target, weight, options)
    lse = torch.logsumexp(u, 1)
    gap = lse.unsqueeze(1) - u
    nll = (a * torch.where((a == 0) & gap.isinf(), 0, gap)).sum(1)  # the gap is the slope by a, where a = 0 too
    return nll + options.z_loss * a.sum(1) * lse**2


def gradient(g: Tensor, input: Tensor, target: Tensor, weight: Tensor | None, options: Options) -> Tensor:
    """G, the gradient for the logits, with g for the loss of each row."""
    return transpose(lambda x: losses(x, target, weight, options), input)(g)[0]


def curvature(
    v: Tensor, g: Tensor, input: Tensor, target: Tensor, weight: Tensor | None, options: Options
) -> tuple[Tensor, Tensor]:
    """(dG.v/dg, H v)"""
    return transpose(lambda g, x: gradient(g, x, target, weight, options), g, input)(v)


def target_gradient(g: Tensor, input: Tensor, target: Tensor, weight: Tensor | None, options: Options) -> Tensor:
    """For probabilities: g w_j (1 - eps) (lse + z lse^2 - u_j)"""
    return transpose(lambda q: losses(input, q, weight, options), target)(g)[0]

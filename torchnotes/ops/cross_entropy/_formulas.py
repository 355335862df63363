"""cross_entropy in plain torch operations, for the third derivative and the gradients of the targets and the weight.

Each function is differentiable to every order, by every argument. Logits have shape (N, C, ...); a loss is that of a
row, not reduced. The formulas are in csrc/formulas/cross_entropy.h. With 16-bit logits everything is computed in
float32 and rounded once. For large logits lse - u_j is computed as (m - u_j) + ln s, where m is the maximum and
s = sum e^(u_j - m), because the rounding error of lse would dominate the result.

The reasons are in docs/decisions/higher-derivatives.md.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, tanh

from ...autograd.derivatives import transpose
from ...distributed.collectives import Group, collected, reduced
from .._loss import steady_sum

Empty = Literal["nan", "zero"]  # the mean of no losses


class Options(NamedTuple):
    """The non-differentiable options, in the order of the native operators."""

    ignore_index: int
    label_smoothing: float
    z_loss: float
    logit_softcap: float  # 0: none


def checked_cap(logit_softcap: float | None, empty: Empty) -> float:
    """The option of the operators, 0 for none."""
    if logit_softcap is not None and not logit_softcap > 0:
        raise ValueError(f"logit_softcap must be positive or None. Got: {logit_softcap}")
    if empty not in get_args(Empty):
        raise ValueError(f"empty must be 'nan' or 'zero'. Got: {empty!r}")
    return logit_softcap or 0.0


class Split(NamedTuple):
    """How the classes are split: the logits of this rank start with class `first` of `classes`, and the other classes
    are on the other ranks of the group. An index target refers to all classes; a weight holds those of this rank.

    The rows may be split too, with the other rows on the other ranks of the row_groups.
    """

    group: Group
    first: int
    classes: int
    row_groups: Sequence[Group] = ()


def has_probabilities(input: Tensor, target: Tensor) -> bool:
    return input.shape == target.shape


def capped(input: Tensor, options: Options) -> Tensor:
    cap = options.logit_softcap
    return cap * tanh(input / cap) if cap else input


def by_class(input: Tensor, numbers: Tensor) -> Tensor:
    """Per-class numbers, shaped to broadcast with the logits."""
    return numbers.view(-1, *[1] * (input.dim() - 2))


def _weight(input: Tensor, weight: Tensor | None) -> Any:
    return 1 if weight is None else by_class(input, weight.to(input.dtype))


def mass(input: Tensor, target: Tensor, weight: Tensor | None, options: Options, split: Split | None = None) -> Tensor:
    """a_j, which is 0 for an ignored row."""
    _, first, classes, _ = split or (None, 0, input.shape[1], ())
    w = _weight(input, weight)
    slope, shift = w * (1 - options.label_smoothing), w * (options.label_smoothing / classes)
    if has_probabilities(input, target):
        q = target.to(input.dtype)
    else:
        these = torch.arange(first, first + input.shape[1], device=input.device)
        q = (target.unsqueeze(1) == by_class(input, these)).to(input.dtype)
    a = slope * q + shift
    return a if has_probabilities(input, target) else a * (target != options.ignore_index).unsqueeze(1)


def losses(
    input: Tensor, target: Tensor, weight: Tensor | None, options: Options, split: Split | None = None
) -> Tensor:
    u = precise_logits(input, options)
    a = mass(u, target, weight, options, split)
    if split is not None:
        result = _split_losses(u, a, options, split)
    else:
        result = (a * _gap(u, a)).sum(1)
        if options.z_loss:
            greatest, _, rest = _lse(u)
            result = result + options.z_loss * a.sum(1) * (greatest + rest).squeeze(1) ** 2
    if not has_probabilities(input, target):  # these rows ignore even the infinite gradient of a mean of no rows
        result = result.masked_fill(target == options.ignore_index, 0)
    return result if split is not None else result.to(input.dtype)


def precise_logits(input: Tensor, options: Options) -> Tensor:
    return capped(input.to(torch.promote_types(input.dtype, torch.float32)), options)


def _lse(u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """m, u - m and lse - m. torch's own log_softmax and logsumexp have no backward pass for dual numbers."""
    m = u.detach().amax(1, keepdim=True) if u.shape[1] else torch.zeros_like(u.sum(1, keepdim=True))
    shifted = u - m
    return m, shifted, shifted.exp().sum(1, keepdim=True).log()


def _gap(u: Tensor, a: Tensor) -> Tensor:
    """lse - u, the slope of the loss by a, including where a = 0."""
    _, shifted, rest = _lse(u)
    gap = rest - shifted
    return torch.where((a == 0) & gap.isinf(), 0, gap)


def _split_losses(u: Tensor, a: Tensor, options: Options, split: Split) -> Tensor:
    """The losses in double precision."""
    none = (u == -torch.inf).all(1)  # these rows have no logits here, and no derivative
    u = torch.where(none.unsqueeze(1), 0, u)
    rounded = torch.logsumexp(u.detach(), 1)
    rest = torch.logsumexp(u - rounded.unsqueeze(1), 1)
    lse = (rounded.double() + rest.double()).masked_fill(none, -torch.inf)
    of_ranks = collected(torch.stack((lse, a.sum(1).double(), (a * _gap(u, a)).sum(1).double())), split.group)
    return merged(of_ranks, options.z_loss)[0]


def merged(of_ranks: Tensor, z_loss: float) -> tuple[Tensor, Tensor, Tensor]:
    """(losses, lse, m) of the rows from lse, m and sum a_j (lse - u_j) of each rank's own classes:

    lse = ln sum_r e^lse_r,    sum a_j (lse - u_j) = sum_r (nll_r + m_r (lse - lse_r))
    """
    lse_r, mass_r, nll_r = of_ranks.unbind(1)
    lse, mass = torch.logsumexp(lse_r, 0), mass_r.sum(0)
    gap = lse - lse_r
    more = mass_r * torch.where((mass_r == 0) & gap.isinf(), 0, gap)
    alone = torch.where(lse_r == -torch.inf, 0, nll_r)  # 0 for a rank whose logits are all -inf
    losses = (alone + more).sum(0)
    return losses + z_loss * mass * lse**2 if z_loss else losses, lse, mass


def gradient(
    g: Tensor,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    options: Options,
    split: Split | None = None,
) -> Tensor:
    """G, the gradient of the logits, where g is the gradient of the loss of each row."""
    return transpose(lambda x: losses(x, target, weight, options, split), input)(g)[0]


def curvature(
    v: Tensor, g: Tensor, input: Tensor, target: Tensor, weight: Tensor | None, options: Options
) -> tuple[Tensor, Tensor]:
    """(dG.v/dg, H v)"""
    return transpose(lambda g, x: gradient(g, x, target, weight, options), g, input)(v)


def target_gradient(
    g: Tensor,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    options: Options,
    split: Split | None = None,
) -> Tensor:
    """For probabilities: g w_j (1 - eps) (lse - u_j + z lse^2)"""
    if split is not None:
        return transpose(lambda q: losses(input, q, weight, options, split), target)(g)[0]
    u = precise_logits(input, options)
    slope = _gap(u, mass(u, target, weight, options))
    if options.z_loss:
        slope = slope + options.z_loss * torch.logsumexp(u, 1, keepdim=True) ** 2
    return (g.unsqueeze(1) * slope * (_weight(u, weight) * (1 - options.label_smoothing))).to(target.dtype)


def weight_of_rows(input: Tensor, target: Tensor, weight: Tensor | None, options: Options) -> Tensor:
    if has_probabilities(input, target):
        return input.new_ones(input.shape[:1] + input.shape[2:])
    counts = target != options.ignore_index
    if weight is None:
        return counts
    return torch.where(counts, weight[torch.where(counts, target, 0).long()], 0)


def mean_or_sum(losses: Tensor, weights: Tensor | None, zero_if_empty: bool, groups: Sequence[Group] = ()) -> Tensor:
    """The sum of the losses of rows, of which the ranks of the groups have each some, or with weights their mean."""
    total = steady_sum(losses.to(torch.promote_types(losses.dtype, torch.float32)))
    count = None if weights is None else steady_sum(weights.to(total.dtype))
    for group in groups:
        total = reduced(total, group)
        count = None if count is None else reduced(count, group)
    if count is None:
        return total
    empty = count == 0
    return total / (torch.where(empty, 1, count) if zero_if_empty else count)

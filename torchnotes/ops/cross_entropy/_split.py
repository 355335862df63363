"""cross_entropy where every rank of a process group has the logits of some of the classes.

For each row, each rank computes lse_r, the mass m_r of its classes and sum a_j (lse_r - u_j) from its own logits. These
numbers, collected from all ranks, determine lse, m and the loss (_formulas.merged), and then the gradient of the rank's
own logits. The loss is the same on all ranks and counts once.
"""

from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling

from ..._native import TRANSFORM, call_mode
from ...autograd.derivatives import transpose
from ...autograd.function import Function
from ...distributed.collectives import gathered, replicated
from .._loss import MEAN, NONE, SUM, check_in_range
from . import _formulas as plain
from ._formulas import Options, Split, has_probabilities, mean_or_sum, weight_of_rows

_forward = torch.ops.torchnotes.cross_entropy.default
_backward = torch.ops.torchnotes.cross_entropy_backward.default
_backward_ = torch.ops.torchnotes.cross_entropy_backward_.default


def shifted(input: Tensor, target: Tensor, options: Options, split: Split) -> tuple[Tensor, Options]:
    """Target indices, and ignore_index, counted from the first class of this rank."""
    if has_probabilities(input, target):
        return target, options
    return target.long() - split.first, options._replace(ignore_index=options.ignore_index - split.first)


def of_these_classes(weight: Tensor | None, split: Split, count: int) -> Tensor | None:
    """The weight of this rank's classes, given the weight of all classes."""
    if weight is None:
        return None
    if weight.shape != (split.classes,):
        raise RuntimeError(
            f"weight tensor should be defined either for all {split.classes} classes or no classes but got weight "
            f"tensor of shape: {list(weight.shape)}"
        )
    return replicated(weight, split.group).narrow(0, split.first, count)


def losses_and_statistics(
    input: Tensor, target: Tensor, weight: Tensor | None, options: Options, split: Split
) -> tuple[Tensor, Tensor]:
    """The losses of the rows, in double precision, and the statistics that the native backward needs."""
    index, of_rank = shifted(input, target, options, split)
    of_rank = of_rank._replace(z_loss=0.0)  # it is added to the loss of all classes
    nll, statistics, _ = _forward(input, index, weight, NONE, *of_rank, False, split.classes)
    greatest, inverse, mass = statistics.double().unbind(1)
    own = torch.stack((greatest, greatest - inverse.log(), mass, nll.double().flatten()))
    of_ranks = gathered(own, split.group)
    losses, lse, mass = plain.merged(of_ranks[:, 1:], options.z_loss)
    greatest = of_ranks[:, 0].amax(0)
    statistics = torch.stack((greatest, (greatest - lse).exp(), mass), 1).to(statistics.dtype)
    losses = losses.view(input.shape[:1] + input.shape[2:])
    if not has_probabilities(input, target):
        losses = losses.masked_fill(target == options.ignore_index, 0)
        if not target.is_cpu:  # other devices have not raised
            there = (target >= 0) & (target < split.classes) | (target == options.ignore_index)
            losses = losses.masked_fill(~there, torch.nan)
    return losses, statistics


class SplitCrossEntropyBackward(Function):
    """G as a function of (g, input, target, weight, statistics, options, split)"""

    @staticmethod
    def forward(
        g: Tensor, input: Tensor, target: Tensor, weight: Any, statistics: Tensor, options: Options, split: Split
    ) -> Tensor:
        return of_logits(g, input, target, weight, statistics, options, split)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:4])
        ctx.of = inputs[5:]

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple:
        g, input, target, weight = ctx.saved_tensors
        moving = (g, input, target) if ctx.needs_input_grad[2] else (g, input)

        def gradient(g: Tensor, x: Tensor, target: Tensor = target) -> Tensor:
            return plain.gradient(g, x, target, weight, *ctx.of)

        gradients = transpose(gradient, *moving)(v)
        return *gradients, *(None,) * (7 - len(moving))


def of_logits(
    g: Tensor,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    statistics: Tensor,
    options: Options,
    split: Split,
    inplace: bool = False,
) -> Tensor:
    """The gradient of the logits, where g is the gradient of each row's loss; `inplace` overwrites the logits."""
    index, of_rank = shifted(input, target, options, split)
    scale, reduction = None, NONE
    alike = g.numel() > 0 and not any(g.stride())
    if alike:  # as after a sum; avoids rounding g to the dtype of the logits
        scale, reduction = g[(0,) * g.dim()].to(statistics.dtype), SUM
        g = g.new_ones(())
    arguments = g.to(input.dtype), input, index, weight, statistics, scale, reduction, *of_rank, split.classes
    if not inplace:
        return _backward(*arguments)
    _backward_(*arguments)
    return input


class SplitCrossEntropy(Function):
    """(losses, statistics) as a function of (input, target, weight, options, split, inplace_backward)"""

    @staticmethod
    def forward(
        input: Tensor, target: Tensor, weight: Any, options: Options, split: Split, inplace_backward: bool
    ) -> tuple[Tensor, Tensor]:
        return losses_and_statistics(input, target, weight, options, split)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        ctx.save_for_backward(*inputs[:3], output[1])
        ctx.mark_non_differentiable(output[1])
        *ctx.of, ctx.inplace = inputs[3:]

    @staticmethod
    def backward(ctx: Any, g: Tensor, _: Any) -> tuple:
        input, target, weight, statistics = ctx.saved_tensors
        d_q = plain.target_gradient(g, input, target, weight, *ctx.of) if ctx.needs_input_grad[1] else None
        d_x = None
        if ctx.needs_input_grad[0]:
            if ctx.inplace and not torch.is_grad_enabled():
                options, split = ctx.of
                d_x = of_logits(g, input, target, weight, statistics, options, split, inplace=True)
            else:
                d_x = SplitCrossEntropyBackward.apply(g, input, target, weight, statistics, *ctx.of)
        return d_x, d_q, *(None,) * 4


def losses_of_some_classes(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    options: Options,
    split: Split,
    inplace_backward: bool = False,
) -> Tensor:
    """Those of the rows, by the weight of all classes."""
    compiling = is_compiling()
    weight = of_these_classes(weight, split, input.shape[1])
    if not compiling:
        check_in_range(target, split.classes, options.ignore_index)
    transforming = torch._C._are_functorch_transforms_active() if compiling else call_mode(input, target) == TRANSFORM
    if transforming or (weight is not None and weight.requires_grad):
        return plain.losses(input, target, weight, options, split)
    return SplitCrossEntropy.apply(input, target, weight, options, split, inplace_backward)[0]


def reduced_of_some_classes(
    losses: Tensor,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    reduction: int,
    options: Options,
    zero_if_empty: bool,
    split: Split,
) -> Tensor:
    if reduction == NONE:
        return losses
    of_mean = weight_of_rows(input, target, weight, options) if reduction == MEAN else None
    return mean_or_sum(losses, of_mean, zero_if_empty, split.row_groups)

"""Batch normalization over the batches of all ranks of a process group: batch_norm (csrc/formulas/batch_norm.h) of the
joint batch, of which each rank has a part.

If rank r has n_r numbers of a channel, with mean mu_r and variance v_r, all ranks together have

  n = sum n_r,    mu = sum n_r mu_r / n,    v = sum n_r (v_r + (mu_r - mu)^2) / n

where nothing large cancels. Let L be the sum of the losses of the ranks. Each of them depends on every x through mu and
r = 1 / sqrt(v + eps), so that, with d = dL/dz,

  dL/dx = gamma r (d - mean d - x^ mean d x^)

where the means are those over all ranks.

Hence a forward gathers 2 C + 1 numbers from each rank, and a backward adds up 2 C, in double precision. dL/dgamma and
dL/dbeta are those of the rank's own loss, like everything that data parallelism sums or averages.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling

from ..._docs import arguments_from
from ..._native import GRAPH, TRANSFORM, call_mode, check_in_place
from ...autograd.derivatives import of_tensors, transpose
from ...autograd.fake import check_same_device
from ...autograd.function import Function, show, watched
from ...distributed.agreement import agree, constant
from ...distributed.collectives import Group, checked, gathered, summed
from ..activations import Activation
from . import _formulas as plain
from ._formulas import Options
from ._shared import (
    by_channels,
    checked_momentum,
    checked_options,
    existing,
    is_supported,
    needed_gradients,
    refuse_graph,
    update_running,
)
from ._statistics import merged, of_all_batches
from .batch_norm import batch_norm

_forward = torch.ops.torchnotes.batch_norm.default
_forward_ = torch.ops.torchnotes.batch_norm_.default
_moments = torch.ops.torchnotes.batch_norm_moments.default
_totals = torch.ops.torchnotes.batch_norm_totals.default
_gradient = torch.ops.torchnotes.batch_norm_gradient.default


def _of_all(x: Tensor, group: Group, o: Options) -> tuple[Tensor, ...]:
    """(statistics, n, mean, variance) of the batches of all ranks; `statistics` are the mean and r."""
    n = x.numel() // x.shape[1]
    own = x.new_zeros(1 + 2 * x.shape[1], dtype=torch.float64)
    if n > 0:
        own[0] = n
        own[1:] = _moments(x).flatten()
    total, mean, variance = merged(gathered(own, group))
    least = 1 if o.center_only else 2
    if total.is_cpu and total < least:  # on other devices this would synchronize
        raise ValueError(
            f"Expected {'values' if o.center_only else 'more than 1 value per channel'} when training, got input size "
            f"{list(x.shape)}, and {int(total)} values per channel on all ranks"
        )
    r = torch.ones_like(mean) if o.center_only else (variance + o.eps).rsqrt()
    return torch.stack((mean, r)), total, mean, variance


def _totals_of(o: Options, g: Tensor, reference: Tensor, *numbers: Any, from_output: bool = False) -> tuple[Tensor]:
    """(sum d, sum d x^) of each channel on this rank."""
    if reference.numel() == 0:
        return (g.new_zeros((2, g.shape[1]), dtype=torch.float64),)
    return (_totals(g, reference, *numbers, o.activation, o.negative_slope, from_output),)


def _gradient_of(o: Options, g: Tensor, reference: Tensor, *numbers: Any, from_output: bool = False) -> tuple[Tensor]:
    """dL/dx; the last of the `numbers` are mean d and mean d x^ over all ranks."""
    if reference.numel() == 0:
        return (torch.zeros_like(reference),)
    return (_gradient(g, reference, *numbers, o.activation, o.negative_slope, o.center_only, from_output),)


def _of_parameters(totals: Tensor, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """dL/dgamma and dL/dbeta."""
    precise = torch.promote_types(x.dtype, torch.float32)
    of_bias, of_weight = totals
    pairs = (of_weight, weight), (of_bias, bias)
    return tuple(total.to(precise if p is None else p.dtype) for total, p in pairs)


class SyncBatchNormBackward(Function):
    """(dL/dx, dL/dgamma, dL/dbeta) as a function of (dL/dy, x, gamma, beta, statistics, n, group, options)"""

    @staticmethod
    def forward(
        g: Tensor, x: Tensor, weight: Any, bias: Any, statistics: Tensor, n: Tensor, group: Group, options: Options
    ) -> tuple[Tensor, ...]:
        (totals,) = _totals_of(options, g, x, weight, bias, statistics)
        (d_x,) = _gradient_of(options, g, x, weight, bias, statistics, summed(totals, group) / n)
        return d_x, *_of_parameters(totals, x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        ctx.save_for_backward(*inputs[:5])
        ctx.group, ctx.options = inputs[6:]

    @staticmethod
    def backward(ctx: Any, *along: Tensor) -> tuple:
        g, x, weight, bias, statistics = ctx.saved_tensors
        moments = partial(of_all_batches, group=ctx.group)
        gradients_of = partial(plain.gradients, statistics=statistics, options=ctx.options, moments=moments)
        function, primals = of_tensors(gradients_of, (g, x, weight, bias))
        gradients = iter(transpose(function, *primals)(existing(along, weight, bias)))
        return *(None if p is None else next(gradients) for p in (g, x, weight, bias)), *(None,) * 4


class SyncBatchNorm(Function):
    """(y, statistics, n, mean, variance) as a function of (x, gamma, beta, group, options)"""

    @staticmethod
    def forward(input: Tensor, weight: Any, bias: Any, group: Group, options: Options) -> tuple[Tensor, ...]:
        of_all = _of_all(input, group, options)
        if input.numel() == 0:
            return torch.empty_like(input), *of_all
        given = options._replace(training=False)
        return _forward(input, weight, bias, None, None, None, *given, of_all[0])[0], *of_all

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, outputs: tuple) -> None:
        ctx.save_for_backward(*inputs[:3], *outputs[1:3])
        ctx.mark_non_differentiable(*outputs[1:])
        ctx.group, ctx.options = inputs[3:]

    @staticmethod
    def backward(ctx: Any, g: Tensor, *_: Any) -> tuple:
        x, weight, bias, statistics, n = ctx.saved_tensors
        gradients = SyncBatchNormBackward.apply(g, x, weight, bias, statistics, n, ctx.group, ctx.options)
        return *needed_gradients(ctx, gradients), None, None


class SyncBatchNormInPlace(Function):
    """The same with y overwriting x, like BatchNormInPlace."""

    @staticmethod
    def forward(
        input: Tensor, weight: Any, bias: Any, group: Group, options: Options, keep: bool
    ) -> tuple[Tensor, ...]:
        of_all = _of_all(input, group, options)
        channels, kept = input.new_empty(0, dtype=torch.int64), input.new_empty(0)
        if input.numel() > 0:
            given = options._replace(training=False)
            *_, channels, kept = _forward_(input, weight, bias, None, None, None, *given, keep, of_all[0])
        return input, *of_all, channels, kept

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, outputs: tuple) -> None:
        y, statistics, n, _, _, channels, kept = outputs
        ctx.mark_dirty(y)
        ctx.mark_non_differentiable(*outputs[1:])
        ctx.save_for_backward(y, channels, kept, *inputs[1:3], statistics, n)
        ctx.group, ctx.options = inputs[3:5]

    @staticmethod
    def backward(ctx: Any, g: Tensor, *_: Any) -> tuple:
        refuse_graph("sync_batch_norm")
        *in_place, weight, bias, statistics, n = ctx.saved_tensors
        numbers = weight, bias, statistics
        (totals,) = by_channels(partial(_totals_of, ctx.options), (1,), *in_place, g, *numbers)
        means = summed(totals, ctx.group) / n
        (d_x,) = by_channels(partial(_gradient_of, ctx.options), (1,), *in_place, g, *numbers, means)
        return *needed_gradients(ctx, (d_x, *_of_parameters(totals, d_x, weight, bias))), *(None,) * 3


def _composed(input: Tensor, weight: Any, bias: Any, group: Group, o: Options) -> tuple[Tensor, ...]:
    """(y, n, mean, variance) by torch's operations, if our kernels do not support the call."""
    of_all: tuple[Tensor, ...] = ()

    def moments(x: Tensor) -> tuple[Tensor, ...]:
        nonlocal of_all
        of_all = of_all_batches(x, group)
        return of_all

    return plain.output(input, weight, bias, None, o, moments), *(x.detach() for x in of_all)


@arguments_from(batch_norm)
def sync_batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    process_group: Group | None = None,
    *,
    activation: Activation | None = None,
    negative_slope: float = 0.01,
    inplace: bool = False,
    center_only: bool = False,
) -> Tensor:
    """Normalizes each channel over the batches of several ranks.

    All ranks must call it, and run its backward pass, in the same order. Their batches may differ in size or be empty.
    The gradients of ``weight`` and ``bias`` are those of the rank's own loss. Without ``training`` it is
    :func:`~torchnotes.functional.batch_norm`.

    Args:
        process_group: The ranks, by default all.

    Returns:
        A tensor of the shape of ``input``.

    Example:
        >>> import torch.distributed as dist
        >>> dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
        >>> F.sync_batch_norm(torch.tensor([[1.0], [3.0]]), None, None, training=True)
        tensor([[-1.0000],
                [ 1.0000]])
        >>> dist.destroy_process_group()
    """
    numbers = running_mean, running_var, weight, bias
    own: dict[str, Any] = dict(activation=activation, negative_slope=negative_slope, center_only=center_only)
    if watched():
        of_torch = input, *numbers, training, momentum, eps, process_group
        return show(sync_batch_norm, *of_torch, inplace=inplace, **own)
    group = checked("sync_batch_norm", process_group)
    if not training or group.size() == 1:
        return batch_norm(input, *numbers, training, momentum, eps, inplace=inplace, **own)
    if input.dim() < 2:
        raise ValueError(f"expected at least 2D input (got {input.dim()}D input)")
    options = checked_options(running_mean, running_var, training, eps, activation, negative_slope, center_only)
    compiling = is_compiling()
    # torch.compile cannot trace the check that a tensor may be overwritten.
    momentum = checked_momentum("sync_batch_norm", running_mean, running_var, momentum, not compiling, center_only)
    channels = constant(input.shape[1])
    agree("sync_batch_norm", group, input.device, channels=channels, momentum=momentum, eps=eps, **own)
    for name, p in zip(("running_mean", "running_var", "weight", "bias"), numbers, strict=True):
        if p is not None and p.shape != (channels,):  # on every rank, even if its batch is empty
            raise RuntimeError(f"{name} should contain {channels} elements not {p.numel()}")
    check_same_device(input, *numbers)
    if inplace and not compiling:
        check_in_place(input)
    if compiling or call_mode() == TRANSFORM or not is_supported(options, input, weight, bias):
        kept = input.clone() if inplace else input  # the backward pass needs it
        y, *of_all = _composed(kept, weight, bias, group, options)
    elif inplace and not input._is_view() and (mode := call_mode(input, weight, bias)) != TRANSFORM:
        keep = mode == GRAPH
        y, _, *of_all = SyncBatchNormInPlace.apply(input, weight, bias, group, options, keep)[:5]
    else:
        y, _, *of_all = SyncBatchNorm.apply(input, weight, bias, group, options)
    n, mean, variance = of_all
    precise = torch.promote_types(input.dtype, torch.float32)
    of_batch = mean.to(precise), (variance * (n / (n - 1))).to(precise)
    update_running(running_mean, None if center_only else running_var, of_batch, momentum)
    return input.copy_(y) if inplace and y is not input else y

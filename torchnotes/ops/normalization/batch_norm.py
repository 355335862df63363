"""Batch normalization, fused with its activation. The formulas and their derivation: csrc/formulas/batch_norm.h.

x^ = (x - mu) r,    y = f(gamma x^ + beta),    d = f'(z) dL/dy
dL/dx = gamma r (d - mean d - x^ mean d x^),    dL/dgamma = sum d x^,    dL/dbeta = sum d

Higher derivatives are composed of plain operations (_formulas.py).
"""

import functools
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import get_unwrapped, is_batchedtensor, is_functorch_wrapped_tensor, maybe_get_level
from torch.compiler import is_compiling
from torch.nn.functional import _verify_batch_size as verify_batch_size  # type: ignore[attr-defined] # not public
from torch.nn.functional import batch_norm as builtin

from ..._native import GRAPH, TRANSFORM, call_mode, check_in_place
from ...autograd.derivatives import of_tensors, tangent, transpose
from ...autograd.fake import check_same_device, register_fake
from ...autograd.function import Function, batched, differentiable, show, watched
from ..activations import BY_NUMBER, Activation
from . import _formulas as plain
from ._formulas import Options
from ._shared import (
    by_channels,
    checked_momentum,
    checked_options,
    existing,
    is_supported,
    moments_for_running,
    needed_gradients,
    refuse_gradient,
    refuse_graph,
    update_running,
)

_forward = torch.ops.torchnotes.batch_norm.default
_forward_ = torch.ops.torchnotes.batch_norm_.default
_backward = torch.ops.torchnotes.batch_norm_backward.default


def _format(x: Tensor) -> torch.memory_format:
    """The memory format of x if it is dense, otherwise the one that its strides suggest."""
    for format in (torch.contiguous_format, torch.channels_last, torch.channels_last_3d):
        if x.is_contiguous(memory_format=format):
            return format
    return torch._prims_common.suggest_memory_format(x)


def _fake(
    input: Tensor,
    weight: Any,
    bias: Any,
    mean: Any,
    variance: Any,
    momentum: float | None,
    training: bool,
    eps: float,
    activation: int,
    negative_slope: float,
    center_only: bool,
    statistics: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    # torch.batch_norm checks the arguments like the kernel, but gives some results another layout.
    if center_only and variance is None:
        variance = mean
    running_mean, running_var = (None if x is None else x.clone() for x in (mean, variance))
    of_batch = training or statistics is not None
    torch.batch_norm(input, weight, bias, running_mean, running_var, of_batch, 0.0, eps, False)
    return torch.empty_like(input, memory_format=_format(input)), _fake_moments(input)


def _fake_in_place(input: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    *forward, keep = arguments[:11]
    statistics = _fake(input, *forward, *arguments[11:])[1]
    if not keep:
        return statistics, input.new_empty(0, dtype=torch.int64), input.new_empty(0)
    count = torch.library.get_ctx().new_dynamic_size()
    kept = input.new_empty((input.shape[0], count, *input.shape[2:]))
    return statistics, input.new_empty(count, dtype=torch.int64), kept


def _fake_backward(grad: Tensor, reference: Tensor, weight: Any, bias: Any, *options: Any) -> tuple[Tensor, ...]:
    precise = torch.promote_types(reference.dtype, torch.float32)
    channels = reference.shape[1]
    numbers = (
        reference.new_empty(channels, dtype=precise) if p is None else p.new_empty(p.shape) for p in (weight, bias)
    )
    return _fake_gradient(grad, reference), *numbers


def _fake_moments(input: Tensor) -> Tensor:
    return input.new_empty((2, input.shape[1]), dtype=torch.float64)


def _fake_totals(grad: Tensor, reference: Tensor, *arguments: Any) -> Tensor:
    return _fake_moments(reference)


def _fake_gradient(grad: Tensor, reference: Tensor, *arguments: Any) -> Tensor:
    suggested = torch._prims_common.suggest_memory_format(reference)
    alike = torch._prims_common.suggest_memory_format(grad) == suggested
    alike = alike and grad.is_contiguous(memory_format=_format(grad))
    return torch.empty_like(reference, memory_format=_format(reference) if alike else suggested)


register_fake("torchnotes::batch_norm", _fake)
register_fake("torchnotes::batch_norm_moments", _fake_moments)
register_fake("torchnotes::batch_norm_totals", _fake_totals)
register_fake("torchnotes::batch_norm_gradient", _fake_gradient)
register_fake("torchnotes::batch_norm_", _fake_in_place)
register_fake("torchnotes::batch_norm_backward", _fake_backward)


class BatchNormBackward(Function):
    """(dL/dx, dL/dgamma, dL/dbeta) as a function of (dL/dy, x, gamma, beta, statistics, *options)"""

    @staticmethod
    def forward(
        g: Tensor,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        statistics: Tensor,
        training: bool,
        eps: float,
        activation: int,
        negative_slope: float,
        center_only: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        return _backward(g, x, weight, bias, statistics, training, eps, activation, negative_slope, center_only)

    @staticmethod
    def by_torch(g: Tensor, x: Tensor, weight: Any, bias: Any, statistics: Tensor, *options: Any) -> tuple:
        d_x, *rest = plain.gradients(g, x, weight, bias, statistics, Options(*options))
        d_numbers = iter(rest)
        return d_x, *(x.new_zeros(x.shape[1]) if p is None else next(d_numbers) for p in (weight, bias))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        ctx.save_for_backward(*inputs[:5])
        ctx.options = Options(*inputs[5:])

    @staticmethod
    def backward(ctx: Any, *along: Tensor) -> tuple:
        g, x, weight, bias, statistics = ctx.saved_tensors
        gradients_of = functools.partial(plain.gradients, statistics=statistics, options=ctx.options)
        function, primals = of_tensors(gradients_of, (g, x, weight, bias))
        gradients = iter(transpose(function, *primals)(existing(along, weight, bias)))
        return *(None if p is None else next(gradients) for p in (g, x, weight, bias)), *(None,) * 6

    @staticmethod
    def tangent(ctx: Any, *tangents: Any) -> tuple:
        g, x, weight, bias, statistics = ctx.saved_tensors
        along = iter(tangent(plain.gradients, (g, x, weight, bias), tangents[:4], statistics, ctx.options))
        of_numbers = (
            x.new_zeros(x.shape[1], dtype=torch.promote_types(x.dtype, torch.float32)) if p is None else next(along)
            for p in (weight, bias)
        )
        return next(along), *of_numbers

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *args: Any) -> tuple:
        d_x, *d_numbers = BatchNormBackward.apply(*_channels_of_all(info, in_dims, args, (0, 1, 4)))
        numbers = batched(info, in_dims, args)[2:4]
        d_numbers = [
            _split(info, d, 0) if p is None else d.view(p.shape) for d, p in zip(d_numbers, numbers, strict=True)
        ]
        return (_split(info, d_x, 1), *d_numbers), (1, 0, 0)


class BatchNorm(Function):
    """(y, statistics) as a function of (x, gamma, beta, running mean and variance, momentum, *options)

    It updates the running statistics, unless the momentum is None.
    """

    forward = staticmethod(_forward)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, outputs: tuple) -> None:
        for name, wanted in zip(("running_mean", "running_var"), ctx.needs_input_grad[3:5], strict=True):
            if wanted:  # hidden by an inner transform
                refuse_gradient("batch_norm", name)
        ctx.save_for_backward(*inputs[:3], outputs[1])
        ctx.mark_non_differentiable(*outputs[1:])
        ctx.set_materialize_grads(False)
        ctx.options = Options(*inputs[6:])

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, *_: Any) -> tuple:
        if g is None:
            return (None,) * 11
        x, weight, bias, statistics = ctx.saved_tensors
        gradients = BatchNormBackward.apply(g, x, weight, bias, statistics, *ctx.options)
        return *needed_gradients(ctx, gradients), *(None,) * 8

    @staticmethod
    def tangent(ctx: Any, *tangents: Any) -> tuple:
        x, weight, bias, statistics = ctx.saved_tensors
        moving = [t is not None for t in tangents]
        if not any(moving[:3]):
            return torch.zeros_like(x), None
        if not ctx.options.training and any(moving[3:5]):
            raise RuntimeError(
                "batch_norm is not differentiable wrt running_mean and running_var, they cannot have forward grad "
                "defined"
            )
        return tangent(plain.output, (x, weight, bias), tangents[:3], statistics, ctx.options), None

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *args: Any) -> tuple:
        momentum, options = args[5], Options(*args[6:])
        merged = _channels_of_all(info, in_dims, args, (0,))
        merged[5] = None
        y, statistics = (_split(info, x, dim) for x, dim in zip(BatchNorm.apply(*merged), (1, -1), strict=True))
        if momentum is not None and args[3] is not None:  # last, because errors must come before anything is written
            _update_each(info, in_dims, args, momentum, options)
        if in_dims[0] is in_dims[3] is in_dims[4] is None:  # only weights are batched
            return (y, statistics[:, 0]), (1, None)
        return (y, statistics), (1, 1)


_call = differentiable(
    "BatchNorm", "batch_norm", "batch_norm_backward", None, BatchNormBackward.apply, reference="input"
)


class BatchNormInPlace(Function):
    """The same with y overwriting x; the backward recovers x from y.

    If its last argument is true, `forward` also returns the channels of which y does not determine x accurately enough,
    and x for these channels.
    """

    @staticmethod
    def forward(input: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
        return input, *_forward_(input, *arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, outputs: tuple) -> None:
        y, statistics, channels, kept = outputs
        ctx.mark_dirty(y)
        ctx.mark_non_differentiable(*outputs[1:])
        ctx.save_for_backward(y, *inputs[1:3], statistics, channels, kept)
        ctx.options = Options(*inputs[6:-1])

    @staticmethod
    def backward(ctx: Any, g: Tensor, *_: Any) -> tuple:
        refuse_graph("batch_norm")
        y, weight, bias, statistics, *kept = ctx.saved_tensors
        backward = functools.partial(_backward_by, ctx.options)
        gradients = by_channels(backward, (1, 0, 0), y, *kept, g, weight, bias, statistics)
        return *needed_gradients(ctx, gradients), *(None,) * 9


def _backward_by(options: Options, *operands: Any, from_output: bool) -> tuple[Tensor, ...]:
    return _backward(*operands, *options, from_output=from_output)


def _update_each(info: Any, in_dims: tuple, args: tuple, momentum: float, options: Options) -> None:
    """Updates the running statistics of each sample.

    As in torch, an unbatched one stays unchanged if the other is batched, unless there is a single sample.
    """
    x, running, of_input, dims = args[0], args[3:5], in_dims[0], in_dims[3:5]
    for one, dim in zip(running, dims, strict=True):
        if one is not None and ((of_input is not None and dim is None) or _batched_more(x, one)):
            raise RuntimeError(
                "Batch norm got a batched tensor as input while the running_mean or running_var, which will be updated "
                "in place, were not batched."
            )
    moments = functools.partial(moments_for_running, center_only=options.center_only)
    of_batch = moments(x) if of_input is None else torch.vmap(moments, of_input)(x)

    def of_each(one: Tensor | None, dim: int | None) -> Tensor | None:
        if one is None or any(_batched_more(other, one) for other in running if other is not None):
            return None
        if dim is not None:
            return one.movedim(dim, 0)
        if dims == (None, None):
            return one
        return one.unsqueeze(0) if info.batch_size == 1 else None

    mean, variance = map(of_each, running, dims)
    update_running(mean, variance, of_batch, momentum)


def _batched_more(x: Tensor, other: Tensor) -> bool:
    """Whether an enclosing vmap has batched x but not the other."""
    return not _levels(x) <= _levels(other)


def _levels(x: Tensor) -> set[int]:
    """The levels of vmap at which x is batched."""
    levels = set()
    while is_functorch_wrapped_tensor(x):
        if is_batchedtensor(x):
            levels.add(maybe_get_level(x))
        x = get_unwrapped(x)
    return levels


def _channels_of_all(info: Any, in_dims: tuple, args: tuple, channels_second: tuple[int, ...]) -> list:
    """Moves the batch into the channels, which are the second dimension of the arguments in `channels_second`."""
    merged = batched(info, in_dims, args)
    for i, x in enumerate(merged):
        if isinstance(x, Tensor):
            merged[i] = x.movedim(0, 1).flatten(1, 2) if i in channels_second else x.flatten()
    return merged


def _split(info: Any, x: Tensor, dim: int) -> Tensor:
    return x.unflatten(dim, (info.batch_size, x.shape[dim] // info.batch_size))


def _composed(input: Tensor, weight: Any, bias: Any, mean: Any, variance: Any, momentum: float, o: Options) -> Tensor:
    """Computes batch norm in torch's operations if our kernels do not support the call."""
    if not (o.center_only or (is_compiling() and torch._C._are_functorch_transforms_active())):
        z = builtin(input, mean, variance, weight, bias, o.training, momentum, o.eps)
        return BY_NUMBER[o.activation].ours(z, o.negative_slope)
    if o.training and not o.center_only:
        verify_batch_size(input.size())
    if not o.training:
        return plain.output(input, weight, bias, (mean, mean if o.center_only else (variance + o.eps).rsqrt()), o)
    if mean is not None and input.numel() > 0:
        moments = moments_for_running(input, o.center_only)
        update_running(mean, None if o.center_only else variance, moments, momentum)
    return plain.output(input, weight, bias, None, o)


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    activation: Activation | None = None,
    negative_slope: float = 0.01,
    inplace: bool = False,
    center_only: bool = False,
) -> Tensor:
    """Normalizes each channel over the batch, like :func:`torch.nn.functional.batch_norm`.

    Saves the input, the weight, the bias and two numbers per channel for the backward pass.

    Args:
        input: A tensor whose second dimension is that of the channels.
        running_mean, running_var: The running statistics. Training updates them, evaluation normalizes with them.
        weight, bias: The scale and the shift of each channel.
        training: Whether to use the statistics of the batch.
        momentum: The share of the batch in the running statistics.
        eps: Added to the variance.
        activation: The name of an elementwise activation, such as "relu", or None, computed in the same pass.
        negative_slope: The slope of "leaky_relu".
        inplace: Whether to overwrite ``input``, which must be an intermediate result. Only the output is saved then,
            and the input of those channels that cannot be recovered from it, because the weight is small compared to
            the bias or the activation has no inverse. There is no second derivative.
        center_only: Only subtracts the mean, without ``running_var`` and ``eps``.

    Shape:
        ``input`` is ``(N, C)`` or ``(N, C, ...)``, the statistics, ``weight`` and ``bias`` are ``(C)``.

    Returns:
        A tensor of the shape of ``input``.

    Example:
        >>> F.batch_norm(torch.tensor([[1.0], [3.0]]), None, None, training=True, activation="relu")
        tensor([[0.0000],
                [1.0000]])
    """
    options = checked_options(running_mean, running_var, training, eps, activation, negative_slope, center_only)
    numbers = weight, bias, running_mean, running_var
    if inplace and isinstance(input, Tensor) and not is_compiling():
        check_in_place(input)
    if not is_supported(options, input, *numbers) or input.numel() == 0:
        if watched():
            own = dict(activation=activation, negative_slope=negative_slope, inplace=inplace, center_only=center_only)
            return show(batch_norm, input, running_mean, running_var, weight, bias, training, momentum, eps, **own)
        kept = input.clone() if inplace and hasattr(input, "clone") else input  # the backward pass needs it
        y = _composed(kept, *numbers, momentum, options)
        return input.copy_(y) if inplace else y
    if training and not center_only:
        verify_batch_size(input.size())
    momentum = checked_momentum("batch_norm", running_mean, running_var, momentum, training, center_only)
    if center_only:
        check_same_device(input, running_var)
        running_var = None
    arguments = weight, bias, running_mean, running_var, momentum if training else None
    # A Function with several results cannot overwrite a view, nor work in place under a transform.
    if inplace and not input._is_view() and (mode := call_mode(input, weight, bias)) != TRANSFORM:
        weight, bias = (p if p is None or p.dim() == 1 else p.flatten() for p in (weight, bias))
        return BatchNormInPlace.apply(input, weight, bias, *arguments[2:], *options, mode == GRAPH)[0]
    x = input.clone() if inplace else input
    y = BatchNorm.apply(x, *arguments, *options)[0] if call_mode() == TRANSFORM else _call(x, *arguments, *options)
    return input.copy_(y) if inplace else y

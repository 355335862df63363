"""The cross-entropy of a softmax against class indices or probabilities. Its formulas: csrc/formulas/cross_entropy.h.

l = sum_j a_j (lse - u_j) + z m lse^2,    dl/du_j = k p_j - a_j,    d2l/du_idu_j = k p_i ([i = j] - p_j) + 2 z m p_i p_j

The native operators reduce the loss. The Functions return the losses of rows, which plain operations reduce if the C++
call (csrc/python/node.cpp) does not support the whole. Derivatives beyond the second are composed of plain
operations (_formulas.py).
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd import forward_ad
from torch.compiler import is_compiling
from torch.nn.functional import cross_entropy as builtin
from torch.overrides import has_torch_function_variadic

from ..._native import GRAPH, TRANSFORM, call_mode, check_in_place, dense_float
from ...autograd.derivatives import tangent, transpose
from ...autograd.fake import register_fake
from ...autograd.function import Function, autocasts, batched, differentiable, recorded, show, traceable, watched
from ...distributed.collectives import Group
from ...distributed.shards import is_dtensor
from .._loss import MEAN, NONE, Reduction, reduction_enum, widened
from . import _formulas as plain
from ._formulas import Empty, Options, checked_cap, has_probabilities, mean_or_sum, weight_of_rows
from ._shards import described, of_logits, refuse_group, sharded, split_among
from ._split import losses_of_some_classes, reduced_of_some_classes

_forward = torch.ops.torchnotes.cross_entropy.default
_backward = torch.ops.torchnotes.cross_entropy_backward.default
_curvature = torch.ops.torchnotes.cross_entropy_curvature.default


def _classes_first(x: Tensor) -> Tensor:
    return x.movedim(1, 0) if x.dim() > 1 else x


def _fake(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    reduction: int,
    ignore_index: int,
    label_smoothing: float,
    z_loss: float,
    logit_softcap: float,
    zero_if_empty: bool,
    classes_of_all: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    # torch's builtin checks the arguments like the kernel, but it does not accept bytes here, and some sizes differ.
    indices = target.long() if target.dtype == torch.uint8 else target
    builtin(input, indices, weight, ignore_index=ignore_index, label_smoothing=label_smoothing)
    losses = _classes_first(input)[0]
    statistic = torch.promote_types(input.dtype, torch.float32)
    has_mass = classes_of_all > 0 or label_smoothing > 0 or has_probabilities(input, target)
    if reduction == NONE:  # the losses of a shard are still to be added up
        loss = input.new_empty(losses.shape, dtype=statistic if classes_of_all > 0 else input.dtype)
    else:
        loss = input.new_empty(())
    statistics = input.new_empty((losses.numel(), 3 if has_mass else 2), dtype=statistic)
    return loss, statistics, input.new_empty((), dtype=statistic)


def _fake_gradient(input: Tensor) -> Tensor:
    """Laid out as the logits where the kernels read them in place: contiguous, or with the classes last."""
    in_place = input.is_contiguous() or _classes_first(input).movedim(0, -1).is_contiguous()
    return torch.empty_like(input, memory_format=torch.preserve_format if in_place else torch.contiguous_format)


def _fake_curvature(tangent: Tensor, grad: Tensor, input: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return input.new_empty(_classes_first(input)[0].shape), _fake_gradient(input)


register_fake("torchnotes::cross_entropy", _fake)
register_fake("torchnotes::cross_entropy_backward", lambda grad, input, *rest: _fake_gradient(input))
register_fake("torchnotes::cross_entropy_backward_", lambda *arguments: None)
register_fake("torchnotes::cross_entropy_curvature", _fake_curvature)


class CrossEntropyCurvature(Function):
    """(dG.v/dg, H v) as a function of (v, g, input, target, weight, statistics, *options)"""

    @staticmethod
    def forward(
        v: Tensor,
        g: Tensor,
        input: Tensor,
        target: Tensor,
        weight: Tensor | None,
        statistics: Tensor,
        ignore_index: int,
        label_smoothing: float,
        z_loss: float,
        logit_softcap: float,
    ) -> tuple[Tensor, Tensor]:
        options = ignore_index, label_smoothing, z_loss, logit_softcap
        return _curvature(v, g, input, target, weight, statistics, *options)

    @staticmethod
    def by_torch(
        v: Tensor, g: Tensor, x: Tensor, target: Tensor, weight: Any, statistics: Tensor, *options: Any
    ) -> tuple:
        return plain.curvature(v, g, x, target, weight, Options(*options))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        ctx.save_for_backward(*inputs[:6])
        ctx.options = Options(*inputs[6:])

    @staticmethod
    def backward(ctx: Any, to_g: Tensor, to_x: Tensor) -> tuple:
        v, g, input, target, weight, _ = ctx.saved_tensors
        moving = (v, g, input, target) if ctx.needs_input_grad[3] else (v, g, input)

        def curvature(v: Tensor, g: Tensor, x: Tensor, target: Tensor = target) -> tuple[Tensor, Tensor]:
            return plain.curvature(v, g, x, target, weight, ctx.options)

        gradients = transpose(curvature, *moving)((to_g, to_x))
        return *gradients, *(None,) * (10 - len(moving))

    @staticmethod
    def tangent(ctx: Any, *tangents: Any) -> tuple:
        *primals, _ = ctx.saved_tensors  # without the statistics
        return tangent(plain.curvature, tuple(primals), tangents[:5], ctx.options)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *args: Any) -> tuple:
        merged, sizes = _merged(info, in_dims, args, 2)
        d_g, d_x = CrossEntropyCurvature.apply(*merged)
        return (d_g.unflatten(0, sizes), d_x.unflatten(0, sizes)), (0, 0)


class CrossEntropyBackward(Function):
    """G as a function of (g, input, target, weight, statistics, *options)"""

    @staticmethod
    def forward(
        g: Tensor,
        input: Tensor,
        target: Tensor,
        weight: Tensor | None,
        statistics: Tensor,
        ignore_index: int,
        label_smoothing: float,
        z_loss: float,
        logit_softcap: float,
    ) -> Tensor:
        options = ignore_index, label_smoothing, z_loss, logit_softcap
        return _backward(g, input, target, weight, statistics, None, NONE, *options)

    @staticmethod
    def by_torch(g: Tensor, x: Tensor, target: Tensor, weight: Any, _: Tensor, *options: Any) -> Tensor:
        return plain.gradient(g, x, target, weight, Options(*options))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:5])
        ctx.options = Options(*inputs[5:])

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple:
        g, input, target, weight, statistics = ctx.saved_tensors
        d_g, d_x = CrossEntropyCurvature.apply(v, g, input, target, weight, statistics, *ctx.options)
        d_q = None
        if ctx.needs_input_grad[2]:
            (d_q,) = transpose(lambda q: plain.gradient(g, input, q, weight, ctx.options), target)(v)
        return d_g, d_x, d_q, *(None,) * 6

    @staticmethod
    def tangent(ctx: Any, g_t: Any, x_t: Any, q_t: Any, w_t: Any, *others_t: Any) -> Tensor:
        g, input, target, weight, statistics = ctx.saved_tensors
        if x_t is not None and q_t is w_t is None:
            along_x = CrossEntropyCurvature.apply(x_t, g, input, target, weight, statistics, *ctx.options)[1]
            if g_t is None:
                return along_x
            return along_x + CrossEntropyBackward.apply(
                g_t.to(g.dtype), input, target, weight, statistics, *ctx.options
            )
        return tangent(plain.gradient, (g, input, target, weight), (g_t, x_t, q_t, w_t), ctx.options)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *args: Any) -> tuple:
        merged, sizes = _merged(info, in_dims, args, 1)
        return CrossEntropyBackward.apply(*merged).unflatten(0, sizes), 0


class CrossEntropy(Function):
    """(losses, statistics) as a function of (input, target, weight, *options)

    The arguments are spelled out because the compiler requires it of a Function that is called within a backward.
    """

    @staticmethod
    def forward(
        input: Tensor,
        target: Tensor,
        weight: Tensor | None,
        ignore_index: int,
        label_smoothing: float,
        z_loss: float,
        logit_softcap: float,
    ) -> tuple[Tensor, Tensor]:
        options = ignore_index, label_smoothing, z_loss, logit_softcap
        loss, statistics, _ = _forward(input, target, weight, NONE, *options, False)
        return loss, statistics

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        ctx.save_for_backward(*inputs[:3], output[1])
        ctx.mark_non_differentiable(output[1])
        ctx.options = Options(*inputs[3:])

    @staticmethod
    def backward(ctx: Any, g: Tensor, _: Any) -> tuple:
        input, target, weight, statistics = ctx.saved_tensors
        d_x = d_q = None
        if ctx.needs_input_grad[0]:
            d_x = CrossEntropyBackward.apply(g, input, target, weight, statistics, *ctx.options)
        if ctx.needs_input_grad[1]:
            d_q = plain.target_gradient(g, input, target, weight, ctx.options)
        return d_x, d_q, *(None,) * 5

    @staticmethod
    def tangent(ctx: Any, x_t: Any, q_t: Any, w_t: Any, *others_t: Any) -> tuple:
        input, target, weight, statistics = ctx.saved_tensors
        if q_t is not None or w_t is not None:
            along = tangent(plain.losses, (input, target, weight), (x_t, q_t, w_t), ctx.options)
        else:
            one = torch.ones_like(input.select(1, 0))
            along = (CrossEntropyBackward.apply(one, input, target, weight, statistics, *ctx.options) * x_t).sum(1)
        return along, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *args: Any) -> tuple:
        merged, sizes = _merged(info, in_dims, args, 0)
        losses, statistics = CrossEntropy.apply(*merged)
        samples, _ = sizes
        of_sample = statistics.shape[0] // max(samples, 1)
        return (losses.unflatten(0, sizes), statistics.unflatten(0, (samples, of_sample))), (0, 0)


def _merged(info: Any, in_dims: tuple, args: tuple, leading: int) -> tuple[list, tuple[int, int]]:
    """The arguments for the rows of the whole batch at once, and the numbers of samples and of rows per sample.

    The weight is not batched: under transforms, calls with a weight are composed (`_by_rows`).
    """
    options = args[-len(Options._fields) :]
    tensors = batched(info, in_dims, args)[: -len(options)]
    merged = [x.flatten(0, 1) for i, x in enumerate(tensors) if i != leading + 2]
    merged.insert(leading + 2, args[leading + 2])
    samples, rows = tensors[leading].shape[:2]
    return [*merged, *options], (samples, rows)


def _as_one_row(input: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Adds a batch dimension to logits without one."""
    return input.unsqueeze(0), target.unsqueeze(0) if has_probabilities(input, target) else target.reshape(1)


def _by_rows(input: Tensor, target: Tensor, weight: Tensor | None, reduction: int, *options: Any) -> Tensor:
    """Computes the same as the native call with the Functions of rows."""
    *numbers, zero_if_empty = options
    of_rows = Options(*numbers)
    if input.dim() == 1:
        loss = _by_rows(*_as_one_row(input, target), weight, reduction, *options)
        return loss.squeeze(0) if reduction == NONE else loss
    input, target = _autocast(input, target)
    dtype = input.dtype
    if target.requires_grad:  # so that its gradient is rounded only once
        input, target = widened(input), widened(target)
    # Under transforms neither the compiler nor torch.fx sees Functions, and requires_grad of a weight is hidden.
    compiling = is_compiling()
    transforming = torch._C._are_functorch_transforms_active() if compiling else call_mode() == TRANSFORM
    plainly = transforming and (compiling or weight is not None)
    if plainly or recorded(input) or (weight is not None and weight.requires_grad):
        losses = plain.losses(input, target, weight, of_rows)
    else:
        losses = CrossEntropy.apply(input, target, weight, *of_rows)[0]
    if reduction == NONE:
        return losses.to(dtype)
    of_mean = weight_of_rows(input, target, weight, of_rows) if reduction == MEAN else None
    return mean_or_sum(losses, of_mean, zero_if_empty).to(dtype)


def _autocast(input: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    if not (autocasts(input) and input.dtype in (torch.bfloat16, torch.float16)):
        return input, target
    return widened(input), widened(target)


def _of_some_classes(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    process_group: Group | None,
    inplace_backward: bool,
    reduction: int,
    *options: Any,
) -> Tensor:
    """The same with classes, and possibly rows, split among ranks."""
    row_groups: Sequence[Group] = ()
    whole: Callable[[Tensor], Tensor] | None = None
    if is_dtensor(input):
        refuse_group("cross_entropy", process_group)
        (input, target, weight), process_group, row_groups, whole = of_logits(input, target, weight)
    if inplace_backward and not is_compiling() and call_mode(input) == GRAPH:
        check_in_place(input)
    input, target = _autocast(input, target)
    *numbers, zero_if_empty = options
    of_rows = Options(*numbers)
    what = described(input, _classes_first(input).shape[1:], target, weight)
    name = {NONE: "none", MEAN: "mean"}.get(reduction, "sum")
    what |= of_rows._asdict() | dict(reduction=name, empty="zero" if zero_if_empty else "nan")
    split = split_among("cross_entropy", process_group, row_groups, input, int(input.dim() > 1), **what)
    x, t = (input, target) if input.dim() > 1 else _as_one_row(input, target)
    losses = losses_of_some_classes(x, t, weight, of_rows, split, inplace_backward)
    loss = reduced_of_some_classes(losses, x, t, weight, reduction, of_rows, zero_if_empty, split)
    if input.dim() == 1:
        loss = loss.reshape(())
    loss = loss.to(input.dtype)
    return loss if whole is None else whole(loss)


def _differentiable_backward(
    g: Tensor,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    statistics: Tensor,
    scale: Tensor,
    reduction: int,
    *options: Any,
) -> Tensor:
    if input.dim() == 1:
        row = _as_one_row(input, target)
        return _differentiable_backward(g, *row, weight, statistics, scale, reduction, *options).squeeze(0)
    rows = input.select(1, 0)
    if reduction != NONE:
        g = (g * scale if rows.numel() > 0 else g).to(input.dtype)  # the scale of an empty loss is 1 / 0
    return CrossEntropyBackward.apply(g.expand(rows.shape), input, target, weight, statistics, *options)


native_loss, _call_and_give_up_the_logits = (
    differentiable(
        "CrossEntropy", "cross_entropy", backward, _by_rows, _differentiable_backward, respects_autocast=True
    )
    for backward in ("cross_entropy_backward", "cross_entropy_backward_")
)


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
    *,
    z_loss: float = 0.0,
    logit_softcap: float | None = None,
    empty: Empty = "nan",
    inplace_backward: bool = False,
    process_group: Group | None = None,
) -> Tensor:
    """Computes the cross-entropy of logits, like :func:`torch.nn.functional.cross_entropy`.

    Saves the logits for the backward pass, where torch saves the log-probabilities. Overwriting the logits is therefore
    an error in the backward pass. Instead of ``logits -= x`` write ``logits = logits - x``.

    Args:
        input: The logits.
        target: Class indices, or probabilities in the shape of ``input``.
        weight: A weight for each class.
        size_average, reduce: Deprecated by torch in favor of ``reduction``.
        ignore_index: A class index without a loss or gradient.
        reduction: "mean", "sum" or "none".
        label_smoothing: The part of the target that is spread over all classes.
        z_loss: Adds z_loss * lse^2 to each loss, where lse is the log-sum-exp of the logits; weighted like the loss.
        logit_softcap: A bound s, which replaces the logits x by s tanh(x / s).
        empty: The mean if every target is ignored, "nan" (as in torch) or "zero".
        inplace_backward: Lets the gradient overwrite the logits, which must be an intermediate result that nothing else
            saves. Has no effect with ``create_graph``, under torch.func and in torch.compile.
        process_group: The ranks among which the classes are split, in the order of the ranks. ``input`` (and
            ``target``, if it contains probabilities) then has this rank's classes, and everything else refers to all
            classes. A DTensor that is sharded by class needs no process group.

    Shape:
        ``input`` is ``(C)``, ``(N, C)`` or ``(N, C, ...)``, class indices are ``()``, ``(N)`` or ``(N, ...)``,
        ``weight`` is ``(C)``.

    Returns:
        A scalar, or a tensor of the shape of class indices without a reduction. It is the same on all ranks.

    Example:
        >>> F.cross_entropy(torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([0]), z_loss=1e-4)
        tensor(0.1703)
    """
    compiling = is_compiling()
    split = process_group is not None or (is_dtensor(input) and sharded(input, int(input.dim() > 1)))
    plain_tensors = type(target) is Tensor and (weight is None or type(weight) is Tensor)  # the cheap check first
    subclass = not (compiling or plain_tensors) and has_torch_function_variadic(target, weight)
    ours = split or (traceable(input) if compiling else dense_float(input) and not subclass)
    if not (isinstance(target, Tensor) and ours):
        extended = bool(z_loss or logit_softcap is not None or empty != "nan" or inplace_backward)
        transforming = torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
        compiling = isinstance(target, Tensor) and (
            (recorded(input) and (extended or transforming)) or (extended and isinstance(input, FakeTensor))
        )
    if not (isinstance(target, Tensor) and (ours or compiling)):
        if watched() or (extended and subclass and dense_float(input)):
            of_torch = input, target, weight, size_average, ignore_index, reduce, reduction, label_smoothing
            own = dict(z_loss=z_loss, logit_softcap=logit_softcap, empty=empty, inplace_backward=inplace_backward)
            return show(cross_entropy, *of_torch, **own, process_group=process_group)
        if extended:
            raise TypeError(f"cross_entropy: these options need a dense floating-point input, got {_kind(input)}")
        return builtin(input, target, weight, size_average, ignore_index, reduce, reduction, label_smoothing)
    cap = checked_cap(logit_softcap, empty)
    number = reduction_enum(size_average, reduce, reduction)
    differing = target.dtype != input.dtype or weight is not None
    if differing and target.is_floating_point() and has_probabilities(input, target):
        dtype = torch.promote_types(input.dtype, target.dtype)
        if isinstance(weight, Tensor) and not weight.is_complex():
            dtype = torch.promote_types(dtype, weight.dtype)
        elif isinstance(weight, Tensor) and not (split or z_loss or cap or empty != "nan" or inplace_backward):
            return builtin(input, target, weight, size_average, ignore_index, reduce, reduction, label_smoothing)
        input, target = input.to(dtype), target.to(dtype)
    options = number, ignore_index, label_smoothing, z_loss, cap, empty == "zero"
    if split:
        return _of_some_classes(input, target, weight, process_group, inplace_backward, *options)
    if compiling:
        # With dynamic=True the compiler takes default numbers for inputs, and fails at a second loss in one graph.
        smoothing, z = (0.0 if x == 0 else x for x in (label_smoothing, z_loss))
        return _by_rows(input, target, weight, number, ignore_index, smoothing, z, *options[4:])
    try:
        return (_call_and_give_up_the_logits if inplace_backward else native_loss)(input, target, weight, *options)
    except NotImplementedError:
        if target.layout == torch.strided or z_loss or cap or empty != "nan" or inplace_backward:
            raise
        return builtin(input, target, weight, size_average, ignore_index, reduce, reduction, label_smoothing)


def _kind(x: Any) -> str:
    return f"{x.dtype} of layout {x.layout} on {x.device}" if isinstance(x, Tensor) else type(x).__name__

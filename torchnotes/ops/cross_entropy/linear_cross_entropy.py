"""The cross-entropy of the logits X = x W^T + b, of which only a chunk of rows exists at a time.

With G = dL/dX, which is g (k p - a) c for each row (csrc/formulas/cross_entropy.h),

  dL/dx = G W,    dL/dW = G^T x,    dL/db = G^T 1

Let v_x, v_W and v_b be gradients for these three. They enter through V, the derivative of the logits along them, and
with H = dG/dX of each row

  v_x . dL/dx + v_W . dL/dW + v_b . dL/db = G . V,    V = v_x W^T + x v_W^T + 1 v_b^T
  for g: dG/dg . V,    for x: (H V) W + G v_W,    for W: (H V)^T x + G^T v_x,    for b: (H V)^T 1

The gradient of a mean or a sum is computed together with the loss, for dL = 1. That takes three matrix products;
recomputing the chunks in the backward pass would take four. Without a reduction each row has its own g, and it takes
four.

Under transforms, and for the third derivative, the second by the targets and the derivative by the class weight, all
logits are computed at once. A compiler sees one opaque operator, torchnotes::linear_cross_entropy.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling
from torch.nn.functional import cross_entropy as builtin
from torch.nn.functional import nll_loss
from torch.overrides import has_torch_function_variadic

from ..._docs import arguments_from
from ..._native import DIRECT, TRANSFORM, call_mode, dense_float, fits_layer, on_one_device
from ...autograd.fake import check_same_device
from ...autograd.function import Function, autocasts, show, watched
from ...distributed.collectives import Group
from ...distributed.shards import is_dtensor
from .._loss import Reduction, reduction_enum
from ..linear import wide_linear
from ._chunks import (
    Operands,
    Options,
    composed,
    composed_gradients,
    compute,
    compute_second,
    operator,
    pull_back,
    scale,
)
from ._formulas import Empty, checked_cap
from ._formulas import Options as RowOptions
from ._shards import described, of_linear, refuse_group, sharded, split_among
from .cross_entropy import cross_entropy, native_loss

# A chunk has enough rows for efficient matrix products, but takes no more memory than linear_weight or SMALL logits. If
# all logits are that few, they are computed at once, which has less overhead. Measured in
# docs/decisions/linear-cross-entropy.md.
MOST_ROWS = 512
SMALL = 1 << 20
# Layers of this many multiplications, which take less time than all checks (0.1 ms with AMD EPYC), skip most of them.
FEW_MULTIPLICATIONS = 1 << 22


def _compute(operands: Operands, g: Tensor | None, wanted: Sequence[bool], options: Options) -> tuple[Tensor, ...]:
    if is_compiling():
        *numbers, split = options
        of_split: tuple = ()
        if split is not None:
            names = " ".join(group.group_name for group in (split.group, *split.row_groups))
            of_split = split.first, split.classes, names
        return tuple(operator(*operands, g, wanted, *numbers, *of_split))
    if g is not None and _batched(g):
        return g, *composed_gradients(operands, g, wanted, options)
    return tuple(compute(operands, g, wanted, options))


def _batched(*tensors: Tensor) -> bool:
    """Whether these are gradients under torch.vmap, or of autograd's is_grads_batched."""
    return call_mode() == TRANSFORM or any(map(torch._C._functorch.is_legacy_batchedtensor, tensors))


class LinearCrossEntropyBackward(Function):
    """The wanted gradients of x, W, b and the target, where g is the gradient of the losses of the rows."""

    @staticmethod
    def forward(g: Any, x: Any, W: Any, b: Any, target: Any, weight: Any, wanted: Any, options: Any) -> Any:
        return _compute(Operands(x, W, b, target, weight), g, wanted, options._replace(reduction="none"))[1:]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        ctx.save_for_backward(*inputs[:6])
        ctx.wanted, ctx.options = inputs[6:]

    @staticmethod
    def backward(ctx: Any, *v: Tensor) -> tuple:
        g, *operands = ctx.saved_tensors
        composing = torch.is_grad_enabled() or ctx.options.split is not None
        if composing or ctx.needs_input_grad[4] or ctx.wanted[3] or _batched(*v):

            def gradients(g: Tensor, *operands: Any) -> tuple[Tensor, ...]:
                return composed_gradients(Operands(*operands), g, ctx.wanted, ctx.options)

            moving = ctx.needs_input_grad[:5]
            pulled = iter(pull_back(gradients, (g, *operands), moving, v))
            return *(next(pulled) if moves else None for moves in moving), None, None, None
        given = iter(v)
        v_of = [next(given) if want else None for want in ctx.wanted[:3]]
        to = compute_second(Operands(*operands), g, v_of, ctx.needs_input_grad[:4], ctx.options)
        return *to, *(None,) * 4

    @classmethod
    def _under_transform(cls, g: Tensor, *args: Any) -> tuple[Tensor, ...]:
        *tensors, wanted, options = args
        return composed_gradients(Operands(*tensors), g, wanted, options)


class LinearCrossEntropy(Function):
    """The loss and, if it is reduced, the wanted gradients for dL = 1."""

    @staticmethod
    def forward(x: Any, W: Any, b: Any, target: Any, weight: Any, wanted: Any, options: Any) -> Any:
        return _compute(Operands(x, W, b, target, weight), None, wanted, options)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        ctx.save_for_backward(*inputs[:5], *output[1:])
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)  # these outputs need no gradients, which would be as large as they are
        ctx.wanted, ctx.options = inputs[5:]

    @staticmethod
    def backward(ctx: Any, g: Tensor, *_: Any) -> tuple:
        if g is None:
            return (None,) * 7
        saved = ctx.saved_tensors
        operands, gradients = Operands(*saved[:5]), saved[5:]
        wanted = ctx.wanted
        if not gradients or (torch.is_grad_enabled() and not is_compiling()):
            wanted = ctx.needs_input_grad[:4]
            of_rows = (g * scale(operands, ctx.options)).to(g.dtype).expand(operands.shape_of_losses)
            gradients = LinearCrossEntropyBackward.apply(of_rows, *operands, wanted, ctx.options)
        elif is_compiling() or _batched(g) or torch._C._autograd._get_current_graph_task_keep_graph():
            gradients = [d * g for d in gradients]
        elif not (g.is_cpu and g == 1):  # comparing on another device would synchronize
            gradients = [d.mul_(g) for d in gradients]
        of = iter(gradients)
        moving = zip(operands[:4], wanted, strict=True)
        return *(next(of).to(t.dtype) if want and t is not None else None for t, want in moving), *(None,) * 3


def _check_shapes(x: Tensor, W: Tensor, b: Tensor | None, target: Tensor, ignore_index: int | None) -> None:
    """Raises torch's errors."""
    if not 1 <= x.dim() <= 2:
        raise RuntimeError(f"expected input with dimensionality 1 or 2, got {x.dim()}")
    if W.dim() < 2:
        raise RuntimeError(f"expected linear_weight with dimensionality at least 2, got {W.dim()}")
    if x.shape[-1] != W.shape[-1]:
        raise RuntimeError(
            "expected equal input and linear_weight last dimensions (in_features), "
            f"got {x.shape[-1]} and {W.shape[-1]}, respectively"
        )
    if b is not None and b.shape != W.shape[:-1]:
        raise RuntimeError(f"expected linear_bias shape {tuple(W.shape[:-1])}, got {tuple(b.shape)}")
    if x.dim() == 1 and W.dim() > 2:
        raise RuntimeError(
            f"K-dimensional loss defined by linear_weight shape {tuple(W.shape)} requires"
            f" batched input, (N, {x.shape[-1]}), got unbatched input with shape {tuple(x.shape)}"
        )
    of_logits = *x.shape[:-1], *W.shape[:-1]
    if target.shape == of_logits:
        if ignore_index is not None:
            raise RuntimeError("ignore_index cannot be specified when target contains probabilities")
        if not target.is_floating_point():
            _check_dtypes(x, W, b)
            builtin(torch.empty(0, 1), torch.empty(0, 1, dtype=target.dtype))  # raises
        return
    expected = (*x.shape[:-1], *W.shape[1:-1])
    fits = target.shape == expected or (x.dim() == 1 and target.shape == (1,))
    if not (fits and target.dtype in (torch.int64, torch.uint8)):
        _check_dtypes(x, W, b)
        if not isinstance(target, Tensor) or target.is_cpu:
            nll_loss(torch.empty(()).expand(of_logits), target)  # raises
        raise RuntimeError(f"Expected target size {list(expected)}, got {list(target.shape)} of {target.dtype}")


def _check_dtypes(x: Tensor, W: Tensor, b: Tensor | None) -> None:
    alike = x.dtype == W.dtype and (b is None or b.dtype == x.dtype)
    if not (alike or autocasts(x)):
        of = [t.dtype for t in (x, W, b) if t is not None]
        raise RuntimeError(f"expected input, linear_weight and linear_bias to have the same dtype, but got {of}")


@arguments_from(cross_entropy)
def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    options: Any = None,
    z_loss: float = 0.0,
    logit_softcap: float | None = None,
    empty: Empty = "nan",
    process_group: Group | None = None,
) -> Tensor:
    """Computes a linear layer and the cross-entropy of its output, without storing all logits.

    The result is that of :func:`~torchnotes.functional.cross_entropy` after :func:`~torchnotes.functional.linear`. The
    signature is that of :func:`torch.nn.functional.linear_cross_entropy` (torch 2.13), with more options. Sums are
    float32 for 16-bit features, and the graph can be retained. Up to 2^20 logits are computed at once.

    Args:
        input: The features.
        linear_weight, linear_bias: The weight and the bias of the layer that produces the logits.
        target: Class indices, or probabilities.
        ignore_index: A class index without a loss or gradient, by default -100.
        options: torch's ``LinearCrossEntropyOptions``, of which only ``batch_chunk_size`` has an effect.
        process_group: The ranks among which the classes are split, in the order of the ranks. ``linear_weight`` and
            ``linear_bias`` (and ``target``, if it contains probabilities) then have this rank's classes, and everything
            else refers to all classes. A weight that is a DTensor sharded by class needs no process group.

    Shape:
        ``input`` is ``(in_features)`` or ``(N, in_features)``, ``linear_weight`` ``(C, in_features)``, ``target``
        ``()`` or ``(N)``.

    Returns:
        A scalar, or a loss for each target without a reduction.

    Example:
        >>> F.linear_cross_entropy(torch.ones(2, 3), torch.eye(3), torch.tensor([0, 2]))
        tensor(1.0986)
    """
    extras = weight is not None or options is not None or process_group is not None
    if not (is_compiling() or extras) and _is_small(input, linear_weight, linear_bias, target):
        index = -100 if ignore_index is None else ignore_index
        cap, number = checked_cap(logit_softcap, empty), reduction_enum(None, None, reduction)
        X = wide_linear(input, linear_weight, linear_bias)
        loss = native_loss(X, target, None, number, index, label_smoothing, z_loss, cap, empty == "zero")
        return loss if loss.dtype == input.dtype else loss.to(input.dtype)
    tensors = input, linear_weight, target, linear_bias, weight
    if watched() or (not is_compiling() and has_torch_function_variadic(*tensors)):
        of_torch = dict(
            linear_bias=linear_bias,
            weight=weight,
            reduction=reduction,
            ignore_index=ignore_index,
            label_smoothing=label_smoothing,
            options=options,
        )
        own = dict(z_loss=z_loss, logit_softcap=logit_softcap, empty=empty, process_group=process_group)
        return show(linear_cross_entropy, input, linear_weight, target, **of_torch, **own)
    reduction_enum(None, None, reduction)  # raises for an invalid reduction
    cap = checked_cap(logit_softcap, empty)
    _check_shapes(input, linear_weight, linear_bias, target, ignore_index)
    if is_compiling() or not on_one_device(input, linear_weight, linear_bias, target, weight):
        check_same_device(input, linear_weight, linear_bias, target, weight)
    x, W, b = input, linear_weight, linear_bias
    index = -100 if ignore_index is None else ignore_index
    numbers = index, label_smoothing, z_loss, cap
    split, of_all = None, None
    if process_group is not None or (is_dtensor(W) and sharded(W, 0)):
        row_groups: Sequence[Group] = ()
        if is_dtensor(W):
            refuse_group("linear_cross_entropy", process_group)
            (x, W, b, target, weight), process_group, row_groups, of_all = of_linear(x, W, b, target, weight)
        what = described(x, x.shape[:-1], target, weight) | RowOptions(*numbers)._asdict()
        what |= dict(
            reduction=reduction, empty=empty, gradient_for_the_input=x.requires_grad and torch.is_grad_enabled()
        )
        split = split_among("linear_cross_entropy", process_group, row_groups, W, 0, **what)
    chunk = None if options is None else options.batch_chunk_size
    whole = False
    if chunk is None:
        classes = W.shape[0] if split is None else -(-split.classes // split.group.size())  # the same on all ranks
        logits_of_row = classes * W.shape[1:-1].numel()
        chunk = max(SMALL // max(logits_of_row, 1), min(W.shape[-1], MOST_ROWS))
        whole = not is_compiling() and x.shape[:-1].numel() * logits_of_row <= SMALL
    settings = Options(reduction, empty, chunk, *numbers, split)
    if target.dtype == torch.uint8:
        target = target.long()
    if x.dim() == 1:
        x = x.unsqueeze(0)
        target = target.unsqueeze(0) if target.is_floating_point() else target.reshape(1)
    if isinstance(weight, Tensor) and target.is_floating_point() and not weight.is_complex():
        target = target.to(torch.promote_types(target.dtype, weight.dtype))
    dtype = torch.promote_types(x.dtype, target.dtype) if target.is_floating_point() else x.dtype
    if autocasts(x):  # x, W and b are rounded as for linear, the logits are not
        dtype = torch.promote_types(dtype, torch.float32)
        x, W, b = _autocast(x), _autocast(W), None if b is None else _autocast(b)
        with torch.autocast(x.device.type, enabled=False):
            loss = _loss(Operands(x, W, b, target, weight), whole, settings)
    else:
        loss = _loss(Operands(x, W, b, target, weight), whole, settings)
    loss = loss.to(dtype)
    if input.dim() == 1 and reduction == "none":
        loss = loss.squeeze(0)
    return loss if of_all is None else of_all(loss)


def _is_small(x: Tensor, W: Tensor, b: Tensor | None, target: Tensor) -> bool:
    """Whether these are a small layer on the CPU and a class for each row, which need no other check."""
    return (
        fits_layer(x, W, b)
        and x.dim() == 2
        and x.is_cpu
        and type(target) is Tensor
        and target.dtype == torch.int64
        and target.is_cpu
        and target.layout == torch.strided
        and target.shape == x.shape[:1]
        and x.numel() * W.shape[0] <= FEW_MULTIPLICATIONS
        and x.shape[0] * W.shape[0] <= SMALL
        and call_mode(x, W, b) != TRANSFORM
        and not torch.is_autocast_enabled("cpu")
    )


def _autocast(x: Tensor) -> Tensor:
    cast = x.is_floating_point() and x.dtype != torch.float64
    return x.to(torch.get_autocast_dtype(x.device.type)) if cast else x


def _loss(operands: Operands, whole: bool, options: Options) -> Tensor:
    x, W, b, _, weight = operands
    _check_dtypes(x, W, b)
    compiling = is_compiling()
    chunked = all(t is None or (t.layout == torch.strided if compiling else dense_float(t)) for t in (x, W, b))
    if compiling:
        transforming = torch._C._are_functorch_transforms_active()
    else:
        mode = call_mode(*operands)
        transforming = mode == TRANSFORM
    if (
        whole
        or not chunked
        or transforming
        or (weight is not None and weight.requires_grad and torch.is_grad_enabled())
    ):
        return composed(operands, options)
    if not compiling and mode == DIRECT:
        return LinearCrossEntropy.forward(*operands, (), options)[0]
    wanted: tuple[bool, ...] = ()
    if options.reduction != "none" and torch.is_grad_enabled() and not torch.compiler.is_exporting():
        wanted = tuple(t is not None and t.requires_grad for t in operands[:4])
    return LinearCrossEntropy.apply(*operands, wanted, options)[0]

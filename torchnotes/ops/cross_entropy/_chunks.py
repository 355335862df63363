"""linear_cross_entropy in chunks of rows, and as a composition of whole operations.

The derivation and the symbols are those of linear_cross_entropy.py. All chunks share the memory of X, their logits, and
G overwrites X. Logits and sums are float32 for half precision.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear

from ...distributed.collectives import named, reduced, replicated
from .._loss import NONE, Reduction, check_in_range, reduction_enum
from . import _formulas as plain
from ._formulas import Empty, Split, weight_of_rows
from ._split import losses_and_statistics, losses_of_some_classes, of_logits, of_these_classes, reduced_of_some_classes
from .cross_entropy import cross_entropy

_forward = torch.ops.torchnotes.cross_entropy.default
_backward_ = torch.ops.torchnotes.cross_entropy_backward_.default
_curvature = torch.ops.torchnotes.cross_entropy_curvature.default


class Options(NamedTuple):
    """The non-differentiable options."""

    reduction: Reduction
    empty: Empty
    chunk: int  # rows
    ignore_index: int
    label_smoothing: float
    z_loss: float
    logit_softcap: float  # 0: none
    split: Split | None = None  # if W and b belong to some of the classes

    def of_rows(self) -> plain.Options:
        return plain.Options(*self[3:7])


class Operands(NamedTuple):
    """x (N, F), W (C, d1, ..., F) and b (C, d1, ...), to be multiplied, and a target for each row of x."""

    x: Tensor
    W: Tensor
    b: Tensor | None
    target: Tensor  # probabilities if its dtype is floating
    weight: Tensor | None

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the logits and of all sums."""
        if not self.x.is_floating_point():
            return self.x.dtype
        of_target = self.target.dtype if self.target.is_floating_point() else torch.float32
        return torch.promote_types(torch.promote_types(self.x.dtype, of_target), torch.float32)

    @property
    def shape_of_losses(self) -> tuple[int, ...]:
        return self.x.shape[0], *self.W.shape[1:-1]

    @property
    def factor_dtype(self) -> torch.dtype:
        """On CUDA half-precision factors stay as they are, and products are accumulated in float32."""
        return self.x.dtype if self.x.is_cuda else self.dtype

    def flat(self, W: Tensor) -> Tensor:
        return W.flatten(0, -2).to(self.factor_dtype)

    def chunks(self, W: Tensor, rows: int) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
        """Yields (slice of rows, x, X, target) for each chunk; W must be flat."""
        x, _, b, target, _ = self
        memory = x.new_empty((min(rows, x.shape[0]), W.shape[0]), dtype=self.dtype)
        for start in range(0, x.shape[0], rows):
            these = slice(start, start + rows)
            x_c = x[these].to(self.factor_dtype)
            X = memory[: x_c.shape[0]]
            if b is None:
                add_product(X, x_c, W.t(), beta=0)
            else:
                add_product(X.copy_(b.flatten()), x_c, W.t())
            yield these, x_c, X, target[these]


def add_product(out: Tensor, a: Tensor, b: Tensor, beta: int = 1) -> None:
    """out <- beta out + a b"""
    if a.dtype == out.dtype:
        out.addmm_(a, b, beta=beta)
    else:
        torch.addmm(out, a, b, out.dtype, beta=beta, out=out)


def scale(operands: Operands, options: Options) -> Tensor:
    """The factor that the reduction applies to the loss of each row, in float64, where large counts are exact."""
    x, W, _, target, weight = operands
    if options.reduction != "mean":
        return x.new_ones((), dtype=torch.float64)
    like_logits = x.new_empty(()).expand(x.shape[0], *W.shape[:-1])
    count = weight_of_rows(like_logits, target, weight, options.of_rows()).sum(dtype=torch.float64)
    count = added_up(count, options)
    return torch.where(count == 0, 0, 1 / count) if options.empty == "zero" else 1 / count


def added_up(sum_of_rows: Tensor, options: Options) -> Tensor:
    """Adds up over all ranks if the rows are split among them."""
    for group in options.split.row_groups if options.split else ():
        sum_of_rows = reduced(sum_of_rows, group)
    return sum_of_rows


def compute(operands: Operands, g: Tensor | None, wanted: Sequence[bool], options: Options) -> list[Tensor]:
    """Returns the loss, and those gradients for x, W, b and the target that are wanted.

    g is the gradient of the losses of the rows. If it is None, the gradient of the loss is 1.
    """
    x, W, b, target, weight = operands
    dtype, of_rows, split = operands.dtype, options.of_rows(), options.split
    of_classes = weight if split is None else of_these_classes(weight, split, W.shape[0])
    classes = W.shape[0] if split is None else split.classes
    _forward(
        x.new_empty((0, *W.shape[:-1])), target[:0], of_classes, NONE, *of_rows, False
    )  # raises for invalid arguments
    check_in_range(target, classes, options.ignore_index)
    factor = scale(operands, options)
    g = (factor if g is None else g).to(dtype).expand(operands.shape_of_losses)
    losses = torch.empty(g.shape, dtype=dtype, device=x.device)
    W_f = operands.flat(W)
    dx, dW, db, dq = (
        torch.zeros(of.shape, dtype=dtype, device=x.device) if want and of is not None else None
        for of, want in zip((x, W, b, target), wanted or (False,) * 4, strict=True)
    )
    for rows, x_c, X, t in operands.chunks(W_f, options.chunk):
        X_by_class = X.unflatten(1, W.shape[:-1])
        if split is None:
            losses[rows], statistics, _ = _forward(X_by_class, t, weight, NONE, *of_rows, False)
        else:
            losses[rows], statistics = losses_and_statistics(X_by_class, t, of_classes, of_rows, split)
        if dq is not None:
            dq[rows] = plain.target_gradient(g[rows], X_by_class, t.to(dtype), of_classes, of_rows, split)
        if dx is None and dW is None and db is None:
            continue
        if split is None:
            _backward_(g[rows], X_by_class, t, weight, statistics, None, NONE, *of_rows)
        else:
            of_logits(g[rows], X_by_class, t, of_classes, statistics, of_rows, split, inplace=True)
        G = X.to(x_c.dtype)
        if dx is not None:
            add_product(dx[rows], G, W_f)
        if dW is not None:
            add_product(dW.flatten(0, -2), G.t(), x_c)
        if db is not None:
            db.flatten().add_(X.sum(0))
    if split is not None and dx is not None:
        dx = reduced(dx, split.group)
    total = losses.sum(dtype=torch.float64)
    loss = losses if options.reduction == "none" else (added_up(total, options) * factor).to(dtype)
    return [loss, *(d for d in (dx, dW, db, dq) if d is not None)]


def compute_second(
    operands: Operands, g: Tensor, v: Sequence[Tensor | None], wanted: Sequence[bool], options: Options
) -> list[Tensor | None]:
    """The gradients of g, x, W and b that follow from the gradients v of dx, dW and db, if they are wanted."""
    x, W, _, _, weight = operands
    dtype, of_rows = operands.dtype, options.of_rows()
    v_x, v_W, v_b = v
    g = g.to(dtype)
    W_f, v_W_f = operands.flat(W), None if v_W is None else operands.flat(v_W)
    to_g, to_x, to_W, to_b = (
        torch.zeros(shape, dtype=dtype, device=x.device) if want else None
        for shape, want in zip((g.shape, x.shape, W_f.shape, W_f.shape[:1]), wanted, strict=True)
    )
    for rows, x_c, X, t in operands.chunks(W_f, options.chunk):
        V = torch.zeros_like(X)
        if v_x is not None:
            v_x_c = v_x[rows].to(x_c.dtype)
            add_product(V, v_x_c, W_f.t())
        if v_W_f is not None:
            add_product(V, x_c, v_W_f.t())
        if v_b is not None:
            V += v_b.flatten()
        X_by_class = X.unflatten(1, W.shape[:-1])
        _, statistics, _ = _forward(X_by_class, t, weight, NONE, *of_rows, False)
        along_g, HV = _curvature(V.view_as(X_by_class), g[rows], X_by_class, t, weight, statistics, *of_rows)
        _backward_(g[rows], X_by_class, t, weight, statistics, None, NONE, *of_rows)
        HV = HV.view_as(X)
        if to_g is not None:
            to_g[rows] = along_g
        if to_b is not None:
            to_b += HV.sum(0)
        HV, G = HV.to(x_c.dtype), X.to(x_c.dtype)
        if to_x is not None:
            add_product(to_x[rows], HV, W_f)
            if v_W_f is not None:
                add_product(to_x[rows], G, v_W_f)
        if to_W is not None:
            add_product(to_W, HV.t(), x_c)
            if v_x is not None:
                add_product(to_W, G.t(), v_x_c)
    return [to_g, to_x, None if to_W is None else to_W.view_as(W), None if to_b is None else to_b.view(W.shape[:-1])]


def composed(operands: Operands, options: Options) -> Tensor:
    """The loss by whole operations, differentiable in everything, to every order, under every transform."""
    *_, target, weight = operands
    if options.split is not None:
        of_rows, split = options.of_rows(), options.split
        X = logits(operands, split)
        losses = losses_of_some_classes(X, target, weight, of_rows, split)
        how = reduction_enum(None, None, options.reduction), of_rows, options.empty == "zero", split
        return reduced_of_some_classes(losses, X, target, weight, *how).to(operands.dtype)
    return cross_entropy(
        logits(operands),
        target,
        weight,
        ignore_index=options.ignore_index,
        reduction=options.reduction,
        label_smoothing=options.label_smoothing,
        z_loss=options.z_loss,
        logit_softcap=options.logit_softcap or None,
        empty=options.empty,
    )


def composed_gradients(operands: Operands, g: Tensor, wanted: Sequence[bool], options: Options) -> tuple[Tensor, ...]:
    """The wanted gradients of the losses of the rows, by plain operations."""
    split = options.split

    def losses(*operands: Any) -> Tensor:
        now = Operands(*operands)
        weight = now.weight if split is None else of_these_classes(now.weight, split, now.W.shape[0])
        return plain.losses(logits(now, split), now.target, weight, options.of_rows(), split)

    return pull_back(losses, operands, wanted, g.to(operands.dtype))


def pull_back(
    function: Callable[..., Any], arguments: Sequence[Any], wanted: Sequence[bool], g: Any
) -> tuple[Tensor, ...]:
    """The wanted gradients, differentiable in turn if a graph is being built."""
    graph = torch.is_grad_enabled()
    with torch.enable_grad():
        moved = list(arguments)
        moving = [i for i, want in enumerate(wanted) if want]
        for i in moving:
            x = arguments[i]
            moved[i] = x.view_as(x) if graph and x.requires_grad else x.detach().requires_grad_()
        results = function(*moved)
        pairs = zip(results, g, strict=True) if isinstance(results, tuple) else [(results, g)]
        moved_by = [(result, v) for result, v in pairs if result.requires_grad]
        if not moved_by:
            return tuple(torch.zeros_like(arguments[i]) for i in moving)
        results, g = zip(*moved_by, strict=True)
        return torch.autograd.grad(
            results, [moved[i] for i in moving], g, create_graph=graph, allow_unused=True, materialize_grads=True
        )


def logits(operands: Operands, split: Split | None = None) -> Tensor:
    """All logits of this rank."""
    x, W, b, _, _ = operands
    if split is not None:
        x = replicated(x, split.group)
    b = None if b is None else b.flatten().to(operands.dtype)
    X = linear(x.to(operands.dtype), W.flatten(0, -2).to(operands.dtype), b)
    return X if W.dim() == 2 else X.unflatten(1, W.shape[:-1])


@torch.library.custom_op("torchnotes::linear_cross_entropy", mutates_args=())
def operator(
    x: Tensor,
    W: Tensor,
    b: Tensor | None,
    target: Tensor,
    weight: Tensor | None,
    g: Tensor | None,
    wanted: Sequence[bool],
    reduction: str,
    empty: str,
    chunk: int,
    ignore_index: int,
    label_smoothing: float,
    z_loss: float,
    logit_softcap: float,
    first: int = 0,
    classes: int = 0,
    groups: str = "",
) -> list[Tensor]:
    """`compute` as one opaque operator, because a compiler would unroll its loop.

    Groups are passed by name: first that of the classes, then those of the rows.
    """
    split = None
    if groups:
        among, *row_groups = map(named, groups.split())
        split = Split(among, first, classes, row_groups)
    strings: Any = reduction, empty  # a schema has no Literal
    options = Options(strings[0], strings[1], chunk, ignore_index, label_smoothing, z_loss, logit_softcap, split)
    return compute(Operands(x, W, b, target, weight), g, wanted, options)


@operator.register_fake
def _(x: Tensor, W: Tensor, b: Tensor, target: Tensor, weight: Any, g: Any, wanted: Any, *options: Any) -> list[Tensor]:
    operands = Operands(x, W, b, target, weight)
    loss = x.new_empty(operands.shape_of_losses if options[0] == "none" else (), dtype=operands.dtype)
    moving = itertools.compress((x, W, b, target), wanted)
    return [loss, *(of.new_empty(of.shape, dtype=loss.dtype) for of in moving)]

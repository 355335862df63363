"""cross_entropy, and linear_cross_entropy after a product."""

import itertools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as torch_F
from torch import Tensor

from ... import functional as F
from ..accuracy import Bound
from ..makers import normal
from ..operation import Operation, Options, Shape
from .rows import log_softmax, special_rows

SUM: Options = {"reduction": "sum"}
NONE: Options = {"reduction": "none"}
SAVES = ("input", "target", "weight")


def _classes(shape: Shape) -> int:
    return shape[1] if len(shape) > 1 else shape[0]


def _rows(shape: Shape) -> Shape:
    return (*shape[:1], *shape[2:]) if len(shape) > 1 else ()


def indices(shape: Shape) -> Tensor:
    """One row is to be ignored where there are several."""
    target = torch.randint(_classes(shape), _rows(shape))
    if target.numel() > 3:
        target.view(-1)[1] = -100
    return target


def nonnegative(shape: Shape) -> Tensor:
    return indices(shape).clamp(min=0)


def no_class(shape: Shape) -> Tensor:
    return torch.full(_rows(shape), -100)


def probabilities(shape: Shape) -> Tensor:
    return torch.randn(shape, dtype=torch.float64).softmax(1 if len(shape) > 1 else 0)


def probabilities_with_gradient(shape: Shape) -> Tensor:
    return probabilities(shape).requires_grad_()


def per_class(shape: Shape) -> Tensor:
    return torch.rand(_classes(shape), dtype=torch.float64) + 0.1


def reference(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    logit_softcap: float | None = None,
    empty: str = "nan",
    inplace_backward: bool = False,
) -> Tensor:
    """Term by term, as csrc/formulas/cross_entropy.h defines the loss, with classes last."""
    x = input.movedim(1, -1) if input.dim() > 1 else input
    classes = x.shape[-1]
    u = x if logit_softcap is None else logit_softcap * torch.tanh(x / logit_softcap)
    weight = x.new_ones(classes) if weight is None else weight.to(x.dtype)
    if target.is_floating_point():
        q = target.movedim(1, -1) if target.dim() > 1 else target
        counts, row_weight = torch.ones_like(x[..., 0], dtype=torch.bool), torch.ones_like(x[..., 0])
    else:
        target = target.reshape(x.shape[:-1]).long()
        counts = target != ignore_index
        q = torch_F.one_hot(torch.where(counts, target, 0), classes).to(x.dtype)
        row_weight = (q * weight).sum(-1) * counts
    mass = weight * ((1 - label_smoothing) * q + label_smoothing / classes)
    p = log_softmax(u)
    lse = (u - p)[..., 0]
    losses = -(mass * torch.where(mass == 0, 0, p)).sum(-1)
    if z_loss:
        losses = losses + z_loss * mass.sum(-1) * lse**2
    losses = torch.where(counts, losses, 0)
    if reduction == "none":
        return losses
    if empty == "zero" and not bool(counts.any()):
        return losses.sum()  # zeros
    return losses.sum() / (row_weight.sum() if reduction == "mean" else 1)


def _after_product(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def after_product(
        input: Tensor, linear_weight: Tensor, target: Tensor, linear_bias: Any = None, options: Any = None, **rest: Any
    ) -> Tensor:
        bias = None if linear_bias is None else linear_bias.flatten()
        logits = torch_F.linear(input, linear_weight.flatten(0, -2), bias)
        return loss(logits.unflatten(-1, linear_weight.shape[:-1]), target, **rest)

    return after_product


after_product = _after_product(reference)


def _logits(shape: Shape) -> Shape:
    """linear_cross_entropy has twice as many classes as features."""
    return (*shape[:-1], 2 * shape[-1])


def _of_logits(maker: Any) -> Any:
    return lambda shape: maker(_logits(shape))


def layer(shape: Shape) -> Tensor:
    return (torch.randn(2 * shape[-1], shape[-1], dtype=torch.float64) / max(shape[-1], 1) ** 0.5).requires_grad_()


def layer_bias(shape: Shape) -> Tensor:
    return torch.randn(2 * shape[-1], dtype=torch.float64).requires_grad_()


def _several(maker: Any) -> Any:
    """Of layers with three outputs for each class."""
    return lambda shape: maker((*_logits(shape), 3))


def several_layers(shape: Shape) -> Tensor:
    return torch.stack([layer(shape).detach() for _ in range(3)], 1).requires_grad_()


def several_biases(shape: Shape) -> Tensor:
    return torch.randn(2 * shape[-1], 3, dtype=torch.float64).requires_grad_()


def chunks(shape: Shape) -> SimpleNamespace:
    """A quarter of the rows each, as by torch.nn.LinearCrossEntropyOptions, which torch has from 2.13 on."""
    return SimpleNamespace(batch_chunk_size=max(1, -(-shape[0] // 4)))


TORCHS: tuple[Options, ...] = (
    {},
    {"weight": per_class},
    {"label_smoothing": 0.2},
    {"weight": per_class, "label_smoothing": 0.3},
)
OURS: tuple[Options, ...] = (
    {"z_loss": 0.01},
    {"logit_softcap": 4.0},
    {"weight": per_class, "label_smoothing": 0.1, "z_loss": 0.1, "logit_softcap": 3.0},
)
KINDS: tuple[Options, ...] = ({}, {"target": probabilities})

CROSS_ENTROPY = {
    "cross_entropy": Operation(
        F.cross_entropy,
        reference,
        arguments={"input": normal, "target": indices},
        options=(
            *({**each, **kind} for each, kind in itertools.product(TORCHS, KINDS)),
            *({**each, **SUM} for each in OURS),
            *({**each, **NONE, "target": probabilities} for each in OURS),
            {"target": probabilities_with_gradient, "label_smoothing": 0.1},
            {"target": probabilities_with_gradient, "weight": per_class, "z_loss": 0.1, **NONE},
            *({**kind, **reduction} for kind, reduction in itertools.product(KINDS, (SUM, NONE))),
        ),
        more_options=(
            {"weight": per_class, "label_smoothing": 0.1, **SUM},
            {"target": no_class, "empty": "zero"},
            {"target": nonnegative, "ignore_index": 0, **SUM},
        ),
        special=({"input": special_rows},),
        special_shapes=((12, 1), (12, 5), (12, 200)),
        shapes=((1,), (7,), (1, 1), (4, 5), (40, 10), (3, 1000), (2, 5, 6), (3, 70, 4, 5)),
        small=(3, 4),
        laid_out=((2, 5, 3, 4), (6, 35)),
        lengths=tuple(
            (rows, n)
            for n in (*range(1, 70), 127, 128, 129, 1000, 32_771)
            for rows in ((1, 2, 33) if n <= 1000 else (3,))
        ),
        batched=lambda options: ("input", "target") if options.get("reduction") == "none" else (),
        large=((3, 100_000), (500, 333), (9_000, 10), (2, 7, 3_001)),
        many=(300, 200),
        scales=(0.1, 1.0, 10.0, 100.0),
        benchmarked=((128, 10), (64, 1000), (8192, 1000), (1024, 32000)),
        builtin=torch_F.cross_entropy,
        beyond_torch=("z_loss", "logit_softcap", "empty", "inplace_backward"),
        opinfo="nn.functional.cross_entropy",
        fusible=False,  # the kernel is faster than the compiler's
        saves=SAVES,
        saves_besides=lambda shape: 3 * torch.Size(_rows(shape)).numel() + 1,  # and the scale of the mean
        output_strides=False,
        mixes_dtypes=True,
        unchecked={"mismatched_operands": "tests/ops/test_cross_entropy.py"},
        # The largest error is that of one logit among 60,000.
        bound=Bound(mean=1.1, largest=2.5, roundings=1.0, few=2.5, share=0.02),
    ),
    "linear_cross_entropy": Operation(
        F.linear_cross_entropy,
        after_product,
        arguments={
            "input": normal,
            "linear_weight": layer,
            "target": _of_logits(indices),
            "options": chunks,
        },
        options=(
            {"linear_bias": layer_bias},
            {**SUM, "label_smoothing": 0.2},
            NONE,
            {"target": _of_logits(probabilities_with_gradient)},
            {"linear_weight": several_layers, "linear_bias": several_biases, "target": _several(indices)},
            {"z_loss": 0.1},
            {"logit_softcap": 3.0},
        ),
        more_options=(
            {"options": None, "linear_bias": layer_bias},
            {"weight": _of_logits(per_class)},
            {"linear_weight": several_layers, "target": _several(probabilities), **NONE},
            {"target": _of_logits(nonnegative), "ignore_index": 0, **SUM},
            {"target": _of_logits(no_class), "empty": "zero"},
        ),
        shapes=((1, 1), (0, 5), (4, 5), (40, 10), (3, 100), (65, 7)),
        small=(3, 2),
        laid_out=((6, 35),),
        lengths=tuple((rows, n) for n in (1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 64, 65, 129) for rows in (1, 2, 33)),
        large=(),  # products of matrices are ATen's
        many=(200, 30),
        benchmarked=tuple(  # rows, features, classes
            (n, *layer)
            for layer, rows in (((32, 100), (8, 256)), ((64, 1000), (32, 2048)), ((512, 32000), (64, 2048)))
            for n in rows
        ),
        builtin=_after_product(torch_F.cross_entropy),
        beyond_torch=("z_loss", "logit_softcap", "empty"),
        output_strides=False,
        gradient_strides=False,
        mixes_dtypes=True,
        fusible=False,
        unchecked={
            "mismatched_operands": "its operator and its gradients are those of other operations",
            "operators": "its operator and its gradients are those of other operations",
            "traced_operators": "it reads numbers on the CPU",
            "other_dtypes": "it is torch's linear and cross_entropy",
            "bad_arguments": "tests/ops/test_linear_cross_entropy.py",
        },
    ),
}

"""The losses that add up elements."""

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as torch_F
from torch import Tensor

from ... import functional as F
from ..accuracy import CHANCE, Bound
from ..makers import normal, without_gradient
from ..operation import LENGTHS, Operation, Options, Sample, Shape

inf, nan = float("inf"), float("nan")
TENTHS = tuple(i / 10 for i in range(1, 10))
SUM: Options = {"reduction": "sum"}
NONE: Options = {"reduction": "none"}


def positive(shape: Shape) -> Tensor:
    return torch.rand(shape, dtype=torch.float64) + 0.1


def weight_with_gradient(shape: Shape) -> Tensor:
    return positive(shape).requires_grad_()


def per_column(shape: Shape) -> Tensor:
    return 3 * torch.rand(shape[-1:], dtype=torch.float64)


def per_row(shape: Shape) -> Tensor:
    return torch.rand((*shape[:-1], 1) if shape else (), dtype=torch.float64)


def per_sample(shape: Shape) -> Tensor:
    return torch.rand((shape[0], *[1] * (len(shape) - 1)) if shape else (), dtype=torch.float64)


def probabilities(shape: Shape) -> Tensor:
    """Some certain, some not."""
    y = torch.rand(shape, dtype=torch.float64)
    return torch.where(torch.rand(shape) < 0.5, y.round(), y)


def probabilities_with_gradient(shape: Shape) -> Tensor:
    return probabilities(shape).requires_grad_()


def labels(shape: Shape) -> Tensor:
    """0, 1, and -1 for what is ignored; never all of them."""
    y = torch.where(torch.rand(shape) < 0.3, -1.0, probabilities(shape))
    if y.numel():
        y.view(-1)[0] = 1
    return y


def _pairs(*pairs: tuple[float, float]) -> Options:
    """Inputs and targets, repeated to the size that is asked for."""

    def column(i: int) -> Any:
        points = torch.tensor(pairs, dtype=torch.float64)[:, i]
        return lambda shape: points.repeat(shape[0] // len(points) + 1)[: shape[0]].requires_grad_(i == 0)

    return {"input": column(0), "target": column(1)}


def _reduced(loss: Tensor, reduction: str, count: Any) -> Tensor:
    return loss if reduction == "none" else loss.sum() / (count if reduction == "mean" else 1)


def _mse_loss(input: Tensor, target: Tensor, reduction: str = "mean", weight: Tensor | None = None) -> Tensor:
    weight = torch.ones_like(input) if weight is None else weight
    return _reduced(weight * (input - target) ** 2, reduction, weight.sum())


def _binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    reduction: str = "mean",
    weight: Tensor | None = None,
    pos_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    ignore_index: float | None = None,
) -> Tensor:
    counts = torch.ones_like(target, dtype=torch.bool) if ignore_index is None else target != ignore_index
    x, y = torch.where(counts, input, 0), torch.where(counts, target, 0)
    y = y * (1 - label_smoothing) + label_smoothing / 2
    positive, negative = torch_F.logsigmoid(x), torch_F.logsigmoid(-x)
    loss = -(1 if pos_weight is None else pos_weight) * y * positive - (1 - y) * negative
    return _reduced(torch.where(counts, loss * (1 if weight is None else weight), 0), reduction, counts.sum())


def pinball_loss(
    input: Tensor,
    target: Tensor,
    quantiles: Any = 0.5,
    weight: Tensor | None = None,
    reduction: str = "mean",
    smoothing: float = 0.0,
) -> Tensor:
    tau = torch.tensor(quantiles, dtype=input.dtype, device=input.device)
    if tau.dim():
        target, weight = target.unsqueeze(-1), None if weight is None else weight.unsqueeze(-1)
    r = target - input
    loss = torch.where(r >= 0, tau * r, (tau - 1) * r)
    if smoothing:
        inside = r.clamp(-smoothing, smoothing)
        parabola = (tau - 0.5) * inside + (inside**2 + smoothing**2) / (4 * smoothing)
        loss = torch.where(r.abs() < smoothing, parabola, loss)
    weight = (torch.ones_like(loss) if weight is None else weight).expand_as(loss)
    return _reduced(loss * weight, reduction, weight.sum()).to(input.dtype)


def of_quantiles(*taus: float) -> Options:
    return {"input": lambda shape: normal((*shape, len(taus))), "quantiles": taus}


def _away_from_kinks(sample: Sample) -> Sample:
    """At target = input, and at the ends of the window of 0.7, where the second derivative jumps."""
    x, y = sample["input"].detach(), sample["target"].detach()
    y = y if x.dim() == y.dim() else y[..., None]
    r = y - x
    for kink in (0.0, 0.7, -0.7):
        r = torch.where((r - kink).abs() < 0.02, kink + 0.05, r)
    return {**sample, "input": (y - r).requires_grad_()}


def _every_reduction(*options: Options) -> tuple[Options, ...]:
    return tuple({**each, **reduction} for each in options for reduction in ({}, SUM, NONE))


EVERYTHING: Options = {
    "target": labels,
    "ignore_index": -1,
    "weight": positive,
    "pos_weight": per_column,
    "label_smoothing": 0.2,
}
FINITE = (0.0, -0.0, 1e-30, 1e-42, 1.0, -1.0, 17.0, -17.0, 88.0, -88.0, 104.0, -104.0, 710.0, -710.0, 1e4, -1e4)
_LOSS: dict[str, Any] = dict(
    arguments={"input": normal, "target": without_gradient(normal)},
    lengths=tuple((n,) for n in (*LENGTHS[:70], 1023, 1024, 1025, 4097, 33_000)),
    large=((100_003,),),
    many=(64, 1000),
    scales=(0.1, 3.0, 30.0),
    saves=("input", "target", "weight", "pos_weight"),
    saves_besides=lambda shape: 1,  # the scale of the mean
    benchmarked=tuple((n,) for n in (64, 10_000, 100_000, 1_000_000, 10_000_000)),
    output_strides=False,  # torch's gradient of a reduced loss is contiguous, whatever the input is
    # The largest of 200,000 errors is a matter of chance, and so is 0.1 % of their mean.
    bound=Bound(mean=1.03, largest=1.05, roundings=1.0, few=2.5, share=0.02),
)

LOSSES = {
    "mse_loss": Operation(
        F.mse_loss,
        _mse_loss,
        options=_every_reduction({}, {"weight": positive}, {"target": normal}),
        more_options=({"weight": weight_with_gradient}, {"weight": weight_with_gradient, "target": normal}),
        special=(
            _pairs(
                *((a, b) for a in (0.0, -0.0, 1e-30, -3.0, 200.0) for b in (0.0, 1e-42, 1.0, -200.0)),
                *((a, 1.0) for a in (1e19, -1e30, inf, -inf, nan)),
                (1.0, inf),
                (inf, inf),
                (1.0, nan),
            ),
        ),
        builtin=torch_F.mse_loss,
        opinfo="nn.functional.mse_loss",
        **_LOSS,
    ),
    "binary_cross_entropy_with_logits": Operation(
        F.binary_cross_entropy_with_logits,
        _binary_cross_entropy_with_logits,
        options=(
            *_every_reduction({}, {"weight": positive, "pos_weight": positive}),
            {"pos_weight": per_column},
            {"weight": per_row, **SUM},
            {"weight": per_sample, **NONE},
            {"label_smoothing": 0.1, "target": probabilities_with_gradient},
            {"target": probabilities_with_gradient, "pos_weight": per_column},
            {"target": labels, "ignore_index": -1},
            *_every_reduction(EVERYTHING),
        ),
        special=(_pairs(*((x, y) for x in (*FINITE, nan) for y in (0.0, 1.0, 0.25))),),
        builtin=torch_F.binary_cross_entropy_with_logits,
        beyond_torch=("label_smoothing", "ignore_index"),
        opinfo="nn.functional.binary_cross_entropy_with_logits",
        **{**_LOSS, "arguments": {"input": normal, "target": probabilities}},
    ),
    "pinball_loss": Operation(
        F.pinball_loss,
        pinball_loss,
        options=(
            *_every_reduction({}, {**of_quantiles(*TENTHS), "weight": positive}),
            {**of_quantiles(0.1, 0.5, 0.9), **NONE},
            {"quantiles": 0.9, "weight": positive},
            {**of_quantiles(0.3), "smoothing": 0.7, **SUM},
            {"quantiles": 0.2, "smoothing": 0.7, **NONE},
        ),
        more_options=({"target": normal}, {"weight": weight_with_gradient}),
        special=(
            _pairs(
                *((a, b) for a in (0.0, -0.0, 1e-30, 1e-42, 1.0, -1.0, 3e4) for b in (0.0, -0.0, 1.0, -3e4)),
                *((a, b) for a in (inf, -inf) for b in (0.0, 1.0)),
                (0.5, 0.5),
            ),
        ),
        smooth=_away_from_kinks,
        # The composite that stands for torch rounds a weighted gradient once less than the CUDA kernels. All elements
        # share the gradient of the loss, whose product is rounded twice without fused multiply-add.
        **{**_LOSS, "many": (40, 300), "bound": replace(CHANCE, mean=1.75, share=0.1)},
    ),
}

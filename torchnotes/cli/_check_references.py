"""Operations that torch has not, or not with all of the options, as the shortest composition of torch's."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def activated(z: Tensor, activation: str | None, negative_slope: float) -> Tensor:
    if activation is None:
        return z
    return F.leaky_relu(z, negative_slope) if activation == "leaky_relu" else getattr(torch, activation)(z)


def linear(
    input: Tensor, weight: Tensor, bias: Any = None, activation: Any = None, negative_slope: float = 0.01
) -> Any:
    return activated(F.linear(input, weight, bias), activation, negative_slope)


def batch_norm(
    input: Tensor,
    activation: str | None = None,
    negative_slope: float = 0.01,
    inplace: bool = False,
    center_only: bool = False,
    **of_torch: Any,
) -> Tensor:
    if not center_only:
        return activated(F.batch_norm(input, **of_torch), activation, negative_slope)
    mean, shape = of_torch["running_mean"], (1, -1, *[1] * (input.dim() - 2))
    if of_torch["training"]:
        running, mean = mean, input.mean([0, *range(2, input.dim())])
        running.lerp_(mean.detach(), of_torch.get("momentum", 0.1))
    z = (input - mean.view(shape)) * of_torch["weight"].view(shape) + of_torch["bias"].view(shape)
    return activated(z, activation, negative_slope)


def cross_entropy(
    input: Tensor,
    target: Tensor,
    z_loss: float = 0.0,
    logit_softcap: float | None = None,
    empty: str = "nan",
    inplace_backward: bool = False,
    **of_torch: Any,
) -> Tensor:
    if logit_softcap is not None:
        input = logit_softcap * torch.tanh(input / logit_softcap)
    loss = F.cross_entropy(input, target, **of_torch)
    if empty == "zero" and bool((target == -100).all()):
        return 0 * input.sum()
    squares = z_loss * torch.logsumexp(input, 1).square() if z_loss else torch.zeros_like(input[:, 0])
    return loss + (squares if of_torch.get("reduction") == "none" else squares.mean())


def linear_cross_entropy(
    input: Tensor, linear_weight: Tensor, linear_bias: Tensor | None = None, options: Any = None, **rest: Any
) -> Tensor:
    return cross_entropy(F.linear(input, linear_weight, linear_bias), **rest)


def binary_cross_entropy_with_logits(
    input: Tensor, target: Tensor, label_smoothing: float = 0.0, ignore_index: float | None = None, **of_torch: Any
) -> Tensor:
    if ignore_index is not None:
        counts = target != ignore_index
        losses = binary_cross_entropy_with_logits(
            input, torch.where(counts, target, 0), label_smoothing, None, reduction="none"
        )
        return losses[counts].mean()
    if label_smoothing:
        target = target * (1 - label_smoothing) + label_smoothing / 2
    return F.binary_cross_entropy_with_logits(input, target, **of_torch)


def pinball_loss(
    input: Tensor,
    target: Tensor,
    quantiles: Any = 0.5,
    weight: Tensor | None = None,
    reduction: str = "mean",
    smoothing: float = 0.0,
) -> Tensor:
    tau = torch.as_tensor(quantiles, dtype=input.dtype, device=input.device)
    if tau.dim():
        target, weight = target.unsqueeze(-1), None if weight is None else weight.unsqueeze(-1)
    r = target - input
    loss = torch.where(r >= 0, tau * r, (tau - 1) * r)
    if smoothing:
        parabola = (tau - 0.5) * r + (r.square() + smoothing**2) / (4 * smoothing)
        loss = torch.where(r.abs() < smoothing, parabola, loss)
    weight = torch.ones_like(loss) if weight is None else weight.expand_as(loss)
    loss = loss * weight
    return loss if reduction == "none" else loss.sum() / (weight.sum() if reduction == "mean" else 1)


def gaussian_dropout_penalty(input: Tensor, weight: Tensor, sigma: Any) -> Tensor:
    squares = weight.square().view(-1, weight.shape[-1])
    return 0.5 * sigma**2 * torch.einsum("...k,ok->...", input.square(), squares)

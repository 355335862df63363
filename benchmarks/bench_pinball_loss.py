"""pinball_loss, for one quantile and for nine, and what one writes for it in torch, which has none."""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

import torchnotes

from .loss import elementwise_loss

NINE = tuple(i / 10 for i in range(1, 10))


def plain(input: Tensor, target: Tensor, quantiles: float | Sequence[float], reduction: str) -> Tensor:
    tau = quantiles if isinstance(quantiles, float) else torch.tensor(quantiles, dtype=input.dtype, device=input.device)
    r = (target if isinstance(quantiles, float) else target[:, None]) - input
    loss = torch.maximum(tau * r, (tau - 1) * r)
    return loss if reduction == "none" else loss.mean()


def one(input: Tensor, target: Tensor, reduction: str) -> Tensor:
    return plain(input, target, 0.9, reduction)


def nine(input: Tensor, target: Tensor, reduction: str) -> Tensor:
    return plain(input, target, NINE, reduction)


def our_one(input: Tensor, target: Tensor, reduction: str) -> Tensor:
    return torchnotes.functional.pinball_loss(input, target, 0.9, reduction=reduction)


def our_nine(input: Tensor, target: Tensor, reduction: str) -> Tensor:
    return torchnotes.functional.pinball_loss(input, target, NINE, reduction=reduction)


def rows_of_nine(size: int) -> tuple[Tensor, Tensor]:
    return torch.randn(size // 9, 9), torch.randn(size // 9)


CASES = (
    *elementwise_loss(our_one, one, lambda n: (torch.randn(n), torch.randn(n))),
    *(
        dataclasses.replace(case, name=case.name.replace(",", " of 9 quantiles,"))
        for case in elementwise_loss(our_nine, nine, rows_of_nine, (9_000_000,))
    ),
)

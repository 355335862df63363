"""pinball_loss, for one quantile and for nine, against torch operations, because torch has no such function: with where
or, compiled, with maximum.
"""

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

import torchnotes

from .loss import Loss, accuracy, elementwise_loss

Quantiles = float | Tensor
Form = Callable[[Tensor, Quantiles], Tensor]

NINE = tuple(i / 10 for i in range(1, 10))


def choice(r: Tensor, tau: Quantiles) -> Tensor:
    return torch.where(r >= 0, tau * r, (tau - 1) * r)


def maximum(r: Tensor, tau: Quantiles) -> Tensor:
    return torch.maximum(tau * r, (tau - 1) * r)


def one(form: Form) -> Loss:
    def loss(input: Tensor, target: Tensor, reduction: str) -> Tensor:
        rho = form(target - input, 0.9)
        return rho if reduction == "none" else rho.mean()

    return loss


def nine(form: Form) -> Loss:
    def loss(input: Tensor, target: Tensor, reduction: str) -> Tensor:
        rho = form(target[:, None] - input, torch.tensor(NINE, dtype=input.dtype, device=input.device))
        return rho if reduction == "none" else rho.mean()

    return loss


def our_one(input: Tensor, target: Tensor, reduction: str) -> Tensor:
    return torchnotes.functional.pinball_loss(input, target, 0.9, reduction=reduction)


def our_nine(input: Tensor, target: Tensor, reduction: str) -> Tensor:
    return torchnotes.functional.pinball_loss(input, target, NINE, reduction=reduction)


def rows_of_nine(size: int) -> tuple[Tensor, Tensor]:
    return torch.randn(size // 9, 9), torch.randn(size // 9)


CASES = (
    *elementwise_loss(our_one, one(choice), lambda n: (torch.randn(n), torch.randn(n)), maximum=one(maximum)),
    *(
        dataclasses.replace(case, name=case.name.replace(",", " of 9 quantiles,"))
        for case in elementwise_loss(our_nine, nine(choice), rows_of_nine, (9_000_000,), maximum=nine(maximum))
    ),
    accuracy(our_one, one(choice)),
)

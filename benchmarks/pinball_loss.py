"""pinball_loss, for one quantile and for nine, against torch operations, because torch has no such function: with where
or, compiled, with maximum.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from torchnotes.functional import pinball_loss

from .accuracy import Accuracy
from .loss import Loss, accuracy, elementwise_loss, normal, sizes_of
from .timing import Case, against

Quantiles = float | tuple[float, ...]

NINE = tuple(i / 10 for i in range(1, 10))


def choice(r: Tensor, tau: float | Tensor) -> Tensor:
    return torch.where(r >= 0, tau * r, (tau - 1) * r)


def maximum(r: Tensor, tau: float | Tensor) -> Tensor:
    return torch.maximum(tau * r, (tau - 1) * r)


def composed(form: Callable[..., Tensor], quantiles: Quantiles) -> Loss:
    def loss(input: Tensor, target: Tensor, reduction: str) -> Tensor:
        if isinstance(quantiles, tuple):
            tau = torch.tensor(quantiles, dtype=input.dtype, device=input.device)
            losses = form(target[:, None] - input, tau)
        else:
            losses = form(target - input, quantiles)
        return losses if reduction == "none" else losses.mean()

    return loss


def ours(quantiles: Quantiles) -> Loss:
    return lambda input, target, reduction: pinball_loss(input, target, quantiles, reduction=reduction)


def rivals(quantiles: Quantiles) -> dict[str, Loss]:
    return against(ours(quantiles), composed(choice, quantiles), maximum=composed(maximum, quantiles))


def rows_of_nine(size: int) -> tuple[Tensor, Tensor]:
    return torch.randn(size // 9, 9), torch.randn(size // 9)


def cases() -> tuple[Case | Accuracy, ...]:
    return (
        *elementwise_loss("forward+backward", rivals(0.9), normal, sizes_of("pinball_loss")),
        *elementwise_loss("forward+backward of 9 quantiles", rivals(NINE), rows_of_nine, (9_000_000,)),
        accuracy(ours(0.9), composed(choice, 0.9)),
    )

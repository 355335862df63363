"""torch.nn's losses, computed by torchnotes: same constructor, attributes and state_dict; and the pinball loss."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import functional as F


class MSELoss(torch.nn.MSELoss):
    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(input, target, reduction=self.reduction)


class BCEWithLogitsLoss(torch.nn.BCEWithLogitsLoss):
    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
        pos_weight: Tensor | None = None,
        *,
        label_smoothing: float = 0.0,
        ignore_index: float | None = None,
    ) -> None:
        super().__init__(weight, size_average, reduce, reduction, pos_weight)
        self.label_smoothing = label_smoothing
        self.ignore_index = ignore_index

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(
            input,
            target,
            self.weight,
            reduction=self.reduction,
            pos_weight=self.pos_weight,
            label_smoothing=self.label_smoothing,
            ignore_index=self.ignore_index,
        )


class PinballLoss(torch.nn.modules.loss._Loss):
    __constants__ = ("quantiles", "reduction", "smoothing")

    def __init__(
        self, quantiles: float | Sequence[float] = 0.5, *, reduction: str = "mean", smoothing: float = 0.0
    ) -> None:
        super().__init__(reduction=reduction)
        self.quantiles = quantiles
        self.smoothing = smoothing

    def forward(self, input: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        return F.pinball_loss(
            input, target, self.quantiles, weight=weight, reduction=self.reduction, smoothing=self.smoothing
        )

    def extra_repr(self) -> str:
        return f"quantiles={self.quantiles}, smoothing={self.smoothing}"

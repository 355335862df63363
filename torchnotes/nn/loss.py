"""torch.nn's losses, computed by torchnotes: same constructor, attributes and state_dict, and further options."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import functional as F


class MSELoss(torch.nn.MSELoss):
    def forward(self, input: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        return F.mse_loss(input, target, reduction=self.reduction, weight=weight)


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


class CrossEntropyLoss(torch.nn.CrossEntropyLoss):
    """As torch.nn.CrossEntropyLoss; the further options are those of functional.cross_entropy."""

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        ignore_index: int = -100,
        reduce: bool | None = None,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        *,
        z_loss: float = 0.0,
        logit_softcap: float | None = None,
        empty: str = "nan",
        inplace_backward: bool = False,
    ) -> None:
        super().__init__(weight, size_average, ignore_index, reduce, reduction, label_smoothing)
        self.z_loss = z_loss
        self.logit_softcap = logit_softcap
        self.empty = empty
        self.inplace_backward = inplace_backward

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(
            input,
            target,
            self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
            z_loss=self.z_loss,
            logit_softcap=self.logit_softcap,
            empty=self.empty,
            inplace_backward=self.inplace_backward,
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

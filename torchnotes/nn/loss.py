"""torch.nn's losses, computed by torchnotes: same constructor, attributes and state_dict, and what torch's lack."""

import torch
from torch import Tensor

from .. import functional as F


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

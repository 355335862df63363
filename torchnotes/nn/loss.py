"""torch.nn's losses, computed by torchnotes, with the same constructor, attributes and state_dict and more options.

torch.jit reads annotations and knows no Literal, so attributes are plain strings, and what is passed on is not checked.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import functional as F
from .._docs import arguments_from
from ..ops._loss import Reduction
from ..ops.cross_entropy._formulas import Empty
from ..ops.pinball_loss import checked_quantiles


@arguments_from(F.mse_loss)
class MSELoss(torch.nn.MSELoss):
    """Computes :func:`~torchnotes.functional.mse_loss`, like :class:`torch.nn.MSELoss`.

    The call also accepts a ``weight`` for each element.

    Example:
        >>> nn.MSELoss()(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0]))
        tensor(2.)
    """

    def forward(self, input: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        return F.mse_loss(input, target, reduction=self.reduction, weight=weight)  # type: ignore[arg-type]


@arguments_from(F.binary_cross_entropy_with_logits)
class BCEWithLogitsLoss(torch.nn.BCEWithLogitsLoss):
    """Computes :func:`~torchnotes.functional.binary_cross_entropy_with_logits`.

    Example:
        >>> nn.BCEWithLogitsLoss(ignore_index=-1)(torch.tensor([0.0, 3.0]), torch.tensor([1.0, -1.0]))
        tensor(0.6931)
    """

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: Reduction = "mean",
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
            reduction=self.reduction,  # type: ignore[arg-type]
            pos_weight=self.pos_weight,
            label_smoothing=self.label_smoothing,
            ignore_index=self.ignore_index,
        )


@arguments_from(F.cross_entropy)
class CrossEntropyLoss(torch.nn.CrossEntropyLoss):
    """Computes :func:`~torchnotes.functional.cross_entropy`.

    Example:
        >>> nn.CrossEntropyLoss(z_loss=1e-4)(torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([0]))
        tensor(0.1703)
    """

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        ignore_index: int = -100,
        reduce: bool | None = None,
        reduction: Reduction = "mean",
        label_smoothing: float = 0.0,
        *,
        z_loss: float = 0.0,
        logit_softcap: float | None = None,
        empty: Empty = "nan",
        inplace_backward: bool = False,
        process_group: Any = None,
    ) -> None:
        super().__init__(weight, size_average, ignore_index, reduce, reduction, label_smoothing)
        self.z_loss = z_loss
        self.logit_softcap = logit_softcap
        self.empty = empty
        self.inplace_backward = inplace_backward
        self.process_group = process_group

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(
            input,
            target,
            self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,  # type: ignore[arg-type]
            label_smoothing=self.label_smoothing,
            z_loss=self.z_loss,
            logit_softcap=self.logit_softcap,
            empty=self.empty,
            inplace_backward=self.inplace_backward,
            process_group=self.process_group,
        )


@arguments_from(F.linear_cross_entropy)
class LinearCrossEntropyLoss(torch.nn.modules.loss._WeightedLoss):
    """A linear layer and the cross-entropy of its output, without storing all logits.

    It has the constructor of :class:`torch.nn.LinearCrossEntropyLoss` (torch 2.13) with more options, and computes
    :func:`~torchnotes.functional.linear_cross_entropy`.

    Args:
        in_features: The number of features.
        num_classes: The number of classes C.
        out_features: More dimensions of the logits after that of the classes.
        bias, device, dtype: Options of the layer, which is the attribute ``linear``.

    Example:
        >>> loss_function = nn.LinearCrossEntropyLoss(8, 1000)
        >>> loss_function(torch.randn(4, 8), torch.tensor([0, 1, 2, 999])).shape
        torch.Size([])
    """

    __constants__ = ("num_classes", "out_features", "reduction", "ignore_index", "label_smoothing")

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        out_features: tuple[int, ...] = (),
        bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        reduction: Reduction = "mean",
        weight: Tensor | None = None,
        ignore_index: int | None = None,
        label_smoothing: float = 0.0,
        options: Any = None,
        z_loss: float = 0.0,
        logit_softcap: float | None = None,
        empty: Empty = "nan",
        process_group: Any = None,
    ) -> None:
        if weight is not None and weight.shape != (num_classes,) and process_group is None:
            raise RuntimeError(f"expected weight shape to be {(num_classes,)}, got {tuple(weight.shape)}")
        if not 0 <= label_smoothing <= 1:
            raise RuntimeError(f"expected label_smoothing to be in range [0, 1], got {label_smoothing}")
        super().__init__(weight=weight, reduction=reduction)
        self.num_classes = num_classes
        self.out_features = out_features
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing
        self.linear = torch.nn.Linear(
            in_features, math.prod(out_features, start=num_classes), bias=bias, device=device, dtype=dtype
        )
        self.options = options
        self.z_loss = z_loss
        self.logit_softcap = logit_softcap
        self.empty = empty
        self.process_group = process_group

    @torch.jit.ignore  # scripted code calls the Python method
    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        classes = (self.num_classes, *self.out_features)
        bias = self.linear.bias
        return F.linear_cross_entropy(
            input,
            self.linear.weight.unflatten(0, classes),
            target,
            linear_bias=None if bias is None else bias.unflatten(0, classes),
            weight=self.weight,
            reduction=self.reduction,  # type: ignore[arg-type]
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            options=self.options,
            z_loss=self.z_loss,
            logit_softcap=self.logit_softcap,
            empty=self.empty,
            process_group=self.process_group,
        )

    def extra_repr(self) -> str:
        return (
            f"in_features={self.linear.in_features}, num_classes={self.num_classes}, out_features={self.out_features},"
            f" bias={self.linear.bias is not None}, reduction={self.reduction}, ignore_index={self.ignore_index},"
            f" label_smoothing={self.label_smoothing}, options={self.options}"
        )


@arguments_from(F.pinball_loss)
class PinballLoss(torch.nn.modules.loss._Loss):
    """Computes :func:`~torchnotes.functional.pinball_loss`, whose minimizer is a quantile of the target.

    The call also accepts a ``weight`` for each target.

    Example:
        >>> nn.PinballLoss((0.1, 0.9))(torch.tensor([[1.0, 2.0]]), torch.tensor([2.0]))
        tensor(0.0500)
    """

    __constants__ = ("quantiles", "reduction", "smoothing")

    def __init__(
        self, quantiles: float | Sequence[float] = 0.5, *, reduction: Reduction = "mean", smoothing: float = 0.0
    ) -> None:
        super().__init__(reduction=reduction)
        checked_quantiles(quantiles, smoothing)
        self.quantiles = quantiles
        self.smoothing = smoothing

    def forward(self, input: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        return F.pinball_loss(
            input,
            target,
            self.quantiles,
            weight=weight,
            reduction=self.reduction,  # type: ignore[arg-type]
            smoothing=self.smoothing,
        )

    def extra_repr(self) -> str:
        return f"quantiles={self.quantiles}, smoothing={self.smoothing}"

"""The regressor."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.preprocessing import StandardScaler
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import column_or_1d
from torch import Tensor

from .. import nn
from .._docs import arguments_from
from ._network import Network
from ._rows import merged
from .classifier import Classifier


@arguments_from(Classifier)
@dataclass(eq=False, repr=False, kw_only=True)
class Regressor(RegressorMixin, Network):
    """A multilayer perceptron for regression, an estimator of scikit-learn.

    It trains a :class:`~torchnotes.nn.MLP` with the squared error, which predicts the mean, or with the
    :class:`~torchnotes.nn.PinballLoss`, which predicts quantiles. One network predicts all targets and quantiles, which
    ``predict_quantiles`` sorts so that they do not cross; sorting never increases the pinball loss. Features and
    targets are standardized, and losses are those of standardized targets. All else, the attributes included, is as in
    :class:`~torchnotes.sklearn.Classifier`.

    Args:
        loss: "squared_error" or "pinball".
        quantiles: The increasing quantiles of the pinball loss; None is the median. ``predict`` returns the median, so
            several must include 0.5, or the single quantile.

    Attributes:
        quantiles_: The quantiles as a tuple, empty for the squared error.
        target_scaler_: The StandardScaler of the targets.

    Example:
        >>> from torchnotes.sklearn import Regressor
        >>> x = torch.rand(500, 1).numpy()
        >>> regressor = Regressor(loss="pinball", quantiles=(0.1, 0.5, 0.9), random_state=0).fit(x, x[:, 0])
        >>> regressor.predict_quantiles(x).shape
        (500, 3)
    """

    loss: str = "squared_error"
    quantiles: float | Sequence[float] | None = None

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "Regressor":
        """Trains the network.

        Args:
            X: The features, an array or a frame of shape ``(n_samples, n_features)``.
            y: The target, of shape ``(n_samples,)`` or ``(n_samples, n_targets)``.
            sample_weight: A weight for each row.

        Returns:
            The estimator.
        """
        self.quantiles_ = self._checked_quantiles()
        X, y, weight = self._validated(X, y, sample_weight, multi_output=True, y_numeric=True)
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        self._one_target = y.ndim == 1
        X, y, weight = merged(X, y.reshape(len(y), -1), weight)
        self.target_scaler_ = StandardScaler().fit(y, sample_weight=weight)
        y = self.target_scaler_.transform(y).astype(X.dtype)
        squared, pinball = nn.MSELoss(reduction="none"), nn.PinballLoss(self.quantiles_ or 0.5, reduction="none")

        def loss_function(output: Tensor, target: Tensor) -> Tensor:
            if not self.quantiles_:
                return squared(output, target).mean(1)
            return pinball(output.unflatten(1, (y.shape[1], -1)), target).mean((1, 2))

        self._train(X, y, weight, y.shape[1] * max(1, len(self.quantiles_)), loss_function)
        return self

    def _checked_quantiles(self) -> tuple[float, ...]:
        """Empty for the squared error."""
        if self.loss not in ("squared_error", "pinball"):
            raise ValueError(f"loss must be 'squared_error' or 'pinball'. Got: {self.loss!r}")
        if self.loss == "squared_error":
            if self.quantiles is not None:
                raise ValueError(f"quantiles require loss='pinball', got quantiles={self.quantiles!r}")
            return ()
        quantiles = tuple(np.atleast_1d(0.5 if self.quantiles is None else self.quantiles).tolist())
        if list(quantiles) != sorted(set(quantiles)):
            raise ValueError(f"quantiles must increase, got {quantiles}")
        if len(quantiles) > 1 and 0.5 not in quantiles:
            raise ValueError(f"several quantiles must include 0.5, which predict() returns, got {quantiles}")
        return quantiles

    def predict(self, X: Any) -> Any:
        """Predicts the target: its mean, or with the pinball loss its median or single quantile.

        Args:
            X: The features.

        Returns:
            An array of the shape of y.
        """
        return self._predictions(X)[..., self.quantiles_.index(0.5) if len(self.quantiles_) > 1 else 0]

    @available_if(lambda self: self.loss == "pinball")
    def predict_quantiles(self, X: Any) -> Any:
        """Predicts the quantiles of the target. Requires the pinball loss.

        Args:
            X: The features.

        Returns:
            An array of shape ``(n_samples, n_quantiles)``, or ``(n_samples, n_targets, n_quantiles)``.
        """
        return self._predictions(X)

    def _predictions(self, X: Any) -> Any:
        """The predicted quantiles, or the mean as if it were one. Sorting them never increases the pinball loss."""
        output = self._outputs(X).numpy()
        scaler = self.target_scaler_
        output = output.reshape(len(output), len(scaler.mean_), -1)
        y = np.sort(output * scaler.scale_[:, None] + scaler.mean_[:, None]).astype(output.dtype)
        return y[:, 0] if self._one_target else y

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

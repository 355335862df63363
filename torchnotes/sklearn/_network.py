"""What the classifier and the regressor have in common: parameters, validation, standardization and training."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import KW_ONLY, dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, is_classifier
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state, check_scalar
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import Tensor

from .. import nn, optim
from ..nn.linear import Initialization
from ..ops.activations import Activation
from ._rows import Rows, split
from ._training import Training, outputs, seeded

DTYPES = (np.float64, np.float32)
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": optim.AdamW,
    "adam": optim.Adam,
    "rmsprop": optim.RMSprop,
    "sgd": lambda parameters, **options: optim.SGD(parameters, momentum=0.9, **options),
}


@dataclass(eq=False, repr=False)  # as scikit-learn demands, __init__ stores the parameters and nothing else
class Network(BaseEstimator):
    """The parameters, described in Classifier."""

    hidden_layer_sizes: int | Sequence[int] = (100,)
    activation: Activation | None = "relu"
    _: KW_ONLY
    init: Initialization = "glorot"
    batch_norm: bool = False
    dropout: float = 0.0
    gaussian_dropout: float = 0.1
    optimizer: str = "adamw"
    learning_rate_init: float = 0.01
    weight_decay: float | None = None
    batch_size: int | str = "auto"
    max_iter: int = 50
    early_stopping: bool = False
    validation_fraction: float = 0.1
    n_iter_no_change: int = 10
    verbose: bool = False
    device: str | torch.device = "cpu"
    random_state: Any = None

    def _validated(self, X: Any, y: Any, sample_weight: Any, **options: Any) -> tuple[Any, Any, Any]:
        """The rows with a positive weight."""
        X, y = validate_data(self, X, y, dtype=DTYPES, **options)
        weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        kept = weight > 0
        if not kept.any():
            raise ValueError("all sample weights are zero")
        return X[kept], y[kept], weight[kept]

    def _train(self, X: Any, y: Any, weight: Any, size: int, loss_function: Callable[[Tensor, Tensor], Tensor]) -> None:
        """Trains a network with `size` outputs."""
        for name in ("max_iter", "n_iter_no_change"):
            check_scalar(getattr(self, name), name, Integral, min_val=1)
        check_scalar(
            self.validation_fraction, "validation_fraction", Real, min_val=0, max_val=1, include_boundaries="neither"
        )
        hidden = self.hidden_layer_sizes if isinstance(self.hidden_layer_sizes, Iterable) else [self.hidden_layer_sizes]
        hidden = [check_scalar(size, "each of hidden_layer_sizes", Integral, min_val=1) for size in hidden]
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer must be one of {', '.join(map(repr, OPTIMIZERS))}. Got: {self.optimizer!r}")
        self.scaler_ = StandardScaler().fit(X, sample_weight=weight)
        weight = (weight / weight.mean()).astype(X.dtype)
        rows, validation = Rows(*map(torch.from_numpy, (self.scaler_.transform(X), y, weight))), None
        random = check_random_state(self.random_state)
        if self.early_stopping:
            rows, validation = split(rows, self.validation_fraction, random, stratified=is_classifier(self))
            validation = validation.to(self.device)
        with seeded(random.randint(2**31)):
            model = nn.MLP(
                (X.shape[1], *hidden, size),
                self.activation,
                batch_norm=self.batch_norm,
                dropout=self.dropout,
                gaussian_dropout=self.gaussian_dropout,
                init=self.init,
                dtype=rows.x.dtype,
            ).to(self.device)
            decay = self.weight_decay
            if decay is None:
                decay = 0.1 if self.optimizer == "adamw" else 0.0
            training = Training(
                model,
                OPTIMIZERS[self.optimizer](model.parameters(), lr=self.learning_rate_init, weight_decay=decay),
                loss_function,
                self._batch_size(len(rows.x)),
                self.max_iter,
                self.n_iter_no_change,
                self.verbose,
            )
            training.run(rows.to(self.device), validation)
        self._dtype = X.dtype
        self.model_ = model.cpu().eval()
        self.n_iter_ = len(training.losses)
        self.loss_curve_ = training.losses
        self.validation_loss_curve_ = training.validation_losses if self.early_stopping else None

    def _batch_size(self, rows: int) -> int:
        if self.batch_size == "auto":
            return min(200, max(16, rows // 8))
        return check_scalar(self.batch_size, "batch_size", Integral, min_val=1)

    def _outputs(self, X: Any) -> Tensor:
        check_is_fitted(self, "model_")
        X = validate_data(self, X, dtype=self._dtype, reset=False)
        return outputs(self.model_, torch.from_numpy(self.scaler_.transform(X)))

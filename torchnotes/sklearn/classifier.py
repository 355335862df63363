"""The classifier."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets

from .. import functional as F
from .. import nn
from .._docs import arguments_from
from ._network import Network
from ._rows import merged


@arguments_from(nn.MLP)
@dataclass(eq=False, repr=False, kw_only=True)
class Classifier(ClassifierMixin, Network):
    """A multilayer perceptron for classification, an estimator of scikit-learn.

    It trains a :class:`~torchnotes.nn.MLP` with the cross-entropy. Parameters have the names of scikit-learn's
    MLPClassifier or of torchnotes.

    The features are standardized. The learning rate falls to 0 along a cosine over ``max_iter`` epochs, so that all of
    them are run unless ``early_stopping`` ends the training. Rows are computed in float32 if ``fit`` gets float32, else
    in float64. Equal rows are merged and their weights added, so that a weight of 2 is a second copy of the row, to the
    last bit; batch normalization counts each distinct row once.

    Args:
        hidden_layer_sizes: The size of each hidden layer.
        optimizer: "adamw", "adam", "rmsprop" or "sgd" (with a momentum of 0.9).
        learning_rate_init: The learning rate of the first epoch.
        weight_decay: The optimizer's weight decay. None is 0.1 for "adamw", where it is decoupled, else 0.
        batch_size: The number of rows in a batch; "auto" is an eighth of the rows, at least 16 and at most 200.
        max_iter: The number of epochs.
        early_stopping: Whether to stop after ``n_iter_no_change`` epochs without a lower loss of a validation set, and
            to restore the state with the lowest one.
        validation_fraction: The fraction of the rows in the validation set, which are not trained on.
        n_iter_no_change: The patience of ``early_stopping``.
        verbose: Whether to print the loss of each epoch.
        device: Where to train. Predictions are computed on the CPU.
        random_state: An int, a RandomState of NumPy or None. An int gives the same bits every time, for a fixed number
            of threads. torch's generator is not affected.
        class_weight: A factor for each class by its label, or "balanced" to give all classes the same total weight.

    Attributes:
        classes_: The labels.
        model_: The network, which expects standardized features.
        scaler_: The StandardScaler of the features.
        n_iter_: The number of epochs.
        loss_curve_: The training loss of each epoch.
        validation_loss_curve_: The validation loss of each epoch, or None without ``early_stopping``.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> from torchnotes.sklearn import Classifier
        >>> x, y = load_iris(return_X_y=True)
        >>> classifier = Classifier(random_state=0).fit(x[::2], y[::2])
        >>> bool(classifier.score(x[1::2], y[1::2]) > 0.9)
        True
    """

    class_weight: dict[Any, float] | str | None = None

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "Classifier":
        """Trains the network.

        Args:
            X: The features, an array or a frame of shape ``(n_samples, n_features)``.
            y: The labels, numbers or strings.
            sample_weight: A weight for each row.

        Returns:
            The estimator.
        """
        X, y, weight = self._validated(X, y, sample_weight)
        check_classification_targets(y)
        self.classes_, numbers = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"Classifier requires at least 2 classes, got 1 class: {self.classes_[0]}")
        of_class = compute_class_weight(self.class_weight, classes=self.classes_, y=y, sample_weight=weight)
        X, numbers, weight = merged(X, numbers, weight)
        weight = weight * of_class[numbers]
        self._train(X, numbers, weight, len(self.classes_), nn.CrossEntropyLoss(reduction="none"))
        return self

    def predict(self, X: Any) -> Any:
        """Predicts the most probable class.

        Args:
            X: The features.

        Returns:
            A label for each row.
        """
        numbers = self._outputs(X).argmax(1).numpy()
        return self.classes_[numbers]

    def predict_proba(self, X: Any) -> Any:
        """Predicts the probability of each class.

        Args:
            X: The features.

        Returns:
            An array of shape ``(n_samples, n_classes)``, with the classes in the order of ``classes_``.
        """
        return F.softmax(self._outputs(X), 1).numpy()

    def predict_log_proba(self, X: Any) -> Any:
        """Predicts the logarithm of the probability of each class.

        Args:
            X: The features.

        Returns:
            An array of shape ``(n_samples, n_classes)``.
        """
        return F.log_softmax(self._outputs(X), 1).numpy()

"""Compares torchnotes.sklearn with scikit-learn's own networks: scores, and the time to fit.

python -m benchmarks.estimators [--save] [names]

Both have their defaults, and standardized features and targets. A score, the accuracy or R², is the mean of five-fold
cross-validation with three shuffles; the time, that of the processor, the median of a fit and its predictions, with one
thread.
"""

import argparse
import time
import warnings
from collections.abc import Callable
from statistics import mean, median
from typing import Any

import torch
from sklearn import datasets
from sklearn.compose import TransformedTargetRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import RepeatedKFold, RepeatedStratifiedKFold
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from torchnotes.sklearn import Classifier, Regressor

from . import results
from .results import Row

CPU = torch.device("cpu")
KEY = ("data", "machine", "threads")
FIGURES = ("rows", "features", "score", "sklearn_score", "seconds", "sklearn_seconds")
COLUMNS = (*KEY, *FIGURES, *results.ORIGIN)
PATH = results.RESULTS / "estimators.csv"

CLASSES: dict[str, Callable[[], Any]] = {
    "iris": lambda: datasets.load_iris(return_X_y=True),
    "wine": lambda: datasets.load_wine(return_X_y=True),
    "breast cancer": lambda: datasets.load_breast_cancer(return_X_y=True),
    "digits": lambda: datasets.load_digits(return_X_y=True),
    "make_classification": lambda: datasets.make_classification(
        2000, 40, n_informative=10, n_classes=5, random_state=0
    ),
}
NUMBERS: dict[str, Callable[[], Any]] = {
    "diabetes": lambda: datasets.load_diabetes(return_X_y=True),
    "make_friedman1": lambda: datasets.make_friedman1(1000, noise=1.0, random_state=0),
}


def regressor(random_state: int) -> Any:
    """Standardizes the target, as ours does: without it, R² is far lower."""
    return TransformedTargetRegressor(MLPRegressor(random_state=random_state), transformer=StandardScaler())


def measure(name: str) -> Row:
    classes = name in CLASSES
    x, y = (CLASSES if classes else NUMBERS)[name]()
    ours, theirs = (Classifier, MLPClassifier) if classes else (Regressor, regressor)
    folds = (RepeatedStratifiedKFold if classes else RepeatedKFold)(n_splits=5, n_repeats=3, random_state=0)
    scores: dict[Any, list[float]] = {ours: [], theirs: []}
    seconds: dict[Any, list[float]] = {ours: [], theirs: []}
    for training, test in folds.split(x, y):
        for kind in (ours, theirs):
            estimator = kind(random_state=0) if kind is ours else make_pipeline(StandardScaler(), kind(random_state=0))
            start = time.process_time()
            estimator.fit(x[training], y[training])
            scores[kind].append(estimator.score(x[test], y[test]))
            seconds[kind].append(time.process_time() - start)
    found = (mean(scores[ours]), mean(scores[theirs]), median(seconds[ours]), median(seconds[theirs]))
    figures = (round(float(number), 3) for number in found)
    return {"data": name, **dict(zip(FIGURES, (*x.shape, *figures), strict=True))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=", ".join((*CLASSES, *NUMBERS)))
    parser.add_argument("--save", action="store_true", help=f"merge the rows into {PATH.name}")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ConvergenceWarning)  # of scikit-learn's networks, which stop after 200 epochs
    origin = results.origin(CPU, 1) | {"machine": results.processor()}
    origin.pop("device")
    rows = []
    for name in options.names or (*CLASSES, *NUMBERS):
        rows.append(measure(name) | origin)
        print("  ".join(f"{key} {rows[-1][key]}" for key in ("data", *FIGURES)), flush=True)
    if options.save:
        results.merge(PATH, rows, KEY, COLUMNS)


if __name__ == "__main__":
    main()

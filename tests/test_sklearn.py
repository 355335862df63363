"""The estimators pass scikit-learn's own checks, and predict as well as its own networks."""

import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import norm
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris, load_wine, make_friedman1
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression, LogisticRegression, QuantileRegressor
from sklearn.model_selection import GridSearchCV, KFold, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from sklearn.utils.estimator_checks import parametrize_with_checks

from torchnotes.sklearn import Classifier, Regressor
from torchnotes.sklearn._training import Training

QUANTILES = (0.1, 0.5, 0.9)
NOISY = dict(batch_norm=True, dropout=0.1, early_stopping=True)
ESTIMATORS = [
    Classifier(),
    Regressor(),
    Classifier(**NOISY, max_iter=20),
    Regressor(**NOISY, max_iter=20, hidden_layer_sizes=(30, 20), activation="tanh", optimizer="rmsprop"),
    Regressor(loss="pinball", quantiles=QUANTILES, max_iter=20),
]
by_estimator = pytest.mark.parametrize("estimator", ESTIMATORS[2:], ids=str)


@pytest.fixture(autouse=True)
def one_thread():
    """Small networks are fastest with it, and the floors of the scores were measured with it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def wave(rows: int = 200, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.RandomState(seed)
    x = random.rand(rows, 3)
    return x, np.sin(6 * x[:, 0]) + x[:, 1] + 0.1 * random.randn(rows)


def labeled(estimator: Any, y: np.ndarray) -> np.ndarray:
    """Three classes for a classifier."""
    return np.digitize(y, np.quantile(y, (0.3, 0.6))) if isinstance(estimator, Classifier) else y


def results(estimator: Any, x: np.ndarray) -> list[np.ndarray]:
    methods = ("predict", "predict_proba", "predict_log_proba", "predict_quantiles")
    return [getattr(estimator, method)(x) for method in methods if hasattr(estimator, method)]


def assert_equal(one: list[np.ndarray], other: list[np.ndarray]) -> None:
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b, strict=True)


@parametrize_with_checks(ESTIMATORS)
def test_passes_the_checks_of_scikit_learn(estimator, check):
    if "array_api" not in check.func.__name__:  # scikit-learn skips this without SCIPY_ARRAY_API
        check(estimator)


def test_passes_the_check_of_array_api():
    program = f"""
from sklearn.utils.estimator_checks import estimator_checks_generator
from torchnotes.sklearn import Classifier, Regressor
for estimator in {[clone(each).set_params(max_iter=5) for each in ESTIMATORS]}:
    (check,) = (each for _, each in estimator_checks_generator(estimator) if "array_api" in each.func.__name__)
    check(estimator)"""
    subprocess.run([sys.executable, "-c", program], check=True, env={**os.environ, "SCIPY_ARRAY_API": "1"})


@pytest.mark.parametrize(
    ("load", "floor"), ((load_iris, 0.93), (load_wine, 0.96), (load_breast_cancer, 0.96), (load_digits, 0.96))
)
def test_default_classifier_predicts_well(load, floor):
    folds = StratifiedKFold(3, shuffle=True, random_state=0)
    assert cross_val_score(Classifier(random_state=0), *load(return_X_y=True), cv=folds).mean() > floor


def test_default_regressor_predicts_well():
    folds = KFold(3, shuffle=True, random_state=0)
    for data, floor in (
        (load_diabetes(return_X_y=True), 0.43),
        (make_friedman1(600, noise=1.0, random_state=0), 0.85),  # at most about 0.96, because of the noise
    ):
        assert cross_val_score(Regressor(random_state=0), *data, cv=folds).mean() > floor


def test_without_hidden_layers_it_is_the_linear_model():
    x, y = wave()
    options = dict(hidden_layer_sizes=(), weight_decay=0.0, max_iter=200, random_state=0)
    linear = LinearRegression().fit(x, y)
    np.testing.assert_allclose(Regressor(**options).fit(x, y).predict(x), linear.predict(x), atol=1e-3)
    for sample_weight in (None, 1 + 9 * x[:, 2]):
        labels = np.where(y > 1, "high", "low")
        ours = Classifier(**options).fit(x, labels, sample_weight)
        logistic = LogisticRegression(C=np.inf, tol=1e-8).fit(x, labels, sample_weight)
        np.testing.assert_allclose(ours.predict_proba(x), logistic.predict_proba(x), atol=5e-3)
    median = QuantileRegressor(quantile=0.8, alpha=0).fit(x, y).predict(x)
    ours = Regressor(loss="pinball", quantiles=0.8, **options).fit(x, y)
    np.testing.assert_allclose(ours.predict(x), median, atol=2e-2)


def spread(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Normal with a mean of 3 x and a standard deviation of 0.5 + x."""
    random = np.random.RandomState(seed)
    x = random.rand(rows, 1)
    return x, 3 * x[:, 0] + (0.5 + x[:, 0]) * random.randn(rows)


def test_predicts_the_true_quantiles():
    regressor = Regressor(loss="pinball", quantiles=QUANTILES, random_state=0).fit(*spread(4000, 0))
    x, y = spread(4000, 1)
    predicted = regressor.predict_quantiles(x)
    true = 3 * x + (0.5 + x) * norm.ppf(QUANTILES)
    assert np.abs(predicted - true).mean() < 0.1  # a tenth of the standard deviation, on average
    np.testing.assert_allclose((y[:, None] <= predicted).mean(0), QUANTILES, atol=0.03)
    np.testing.assert_array_equal(regressor.predict(x), predicted[:, 1])


def test_quantiles_never_cross():
    x, y = wave(40)
    quantiles = (0.3, 0.4, 0.5, 0.6, 0.7)
    regressor = Regressor(loss="pinball", quantiles=quantiles, random_state=0, max_iter=5).fit(x, y)
    unsorted = regressor.model_(torch.from_numpy(regressor.scaler_.transform(x)))
    assert (unsorted.diff() < 0).any()
    assert (np.diff(regressor.predict_quantiles(x)) >= 0).all()


def test_several_targets():
    x, y = wave()
    both = np.stack((y, -1000 * y), 1)
    predicted = Regressor(random_state=0, max_iter=100).fit(x, both).predict(x)
    assert predicted.shape == both.shape
    assert np.abs((predicted - both) / (1, 1000)).mean() < 0.15
    quantiles = Regressor(loss="pinball", quantiles=QUANTILES, random_state=0).fit(x, both).predict_quantiles(x)
    assert quantiles.shape == (200, 2, 3)
    assert np.abs((both[..., None] <= quantiles).mean(0) - QUANTILES).max() < 0.06


@by_estimator
def test_copies_predict_the_same_bits(estimator):
    x, y = wave()
    fitted = clone(estimator).set_params(random_state=0).fit(x, labeled(estimator, y))
    expected = results(fitted, x)
    assert_equal(results(pickle.loads(pickle.dumps(fitted)), x), expected)
    file = BytesIO()
    joblib.dump(fitted, file)
    file.seek(0)
    assert_equal(results(joblib.load(file), x), expected)
    with pytest.raises(NotFittedError):
        clone(fitted).predict(x)
    assert clone(fitted).get_params() == fitted.get_params()


@by_estimator
def test_random_state_gives_the_same_bits(estimator):
    x, y = wave()
    y = labeled(estimator, y)
    estimator = clone(estimator)
    first, second = (results(estimator.set_params(random_state=seed).fit(x, y), x) for seed in (0, 1))
    assert not np.array_equal(first[-1], second[-1])
    torch.manual_seed(1)
    state = torch.get_rng_state()
    assert_equal(results(clone(estimator).set_params(random_state=0).fit(x, y), x), first)
    assert torch.equal(torch.get_rng_state(), state)
    with ThreadPoolExecutor() as pool:  # the threads share torch's generator
        fits = pool.map(lambda seed: clone(estimator).set_params(random_state=seed).fit(x, y), (0, 1))
        for fitted, expected in zip(fits, (first, second), strict=True):
            assert_equal(results(fitted, x), expected)


@by_estimator
def test_weights_are_repetitions_to_the_last_bit(estimator):
    x, y = wave(60)
    y = labeled(estimator, y)
    estimator = clone(estimator).set_params(random_state=0)
    weight = np.random.RandomState(0).randint(0, 4, len(x))
    order = np.random.RandomState(1).permutation(weight.sum())
    weighted = results(clone(estimator).fit(x, y, weight), x)
    repeated = clone(estimator).fit(x.repeat(weight, 0)[order], y.repeat(weight)[order])
    assert_equal(results(repeated, x), weighted)


def test_early_stopping_restores_the_best_state(monkeypatch):
    seen = []
    run = Training.run
    monkeypatch.setattr(Training, "run", lambda self, *rows: (seen.append((self, *rows)), run(self, *rows))[1])
    x, y = wave()
    regressor = Regressor(early_stopping=True, validation_fraction=0.2, n_iter_no_change=3, max_iter=500)
    regressor.set_params(random_state=0).fit(x, y)
    ((training, rows, validation),) = seen
    assert (len(rows.x), len(validation.x)) == (160, 40)
    curve = regressor.validation_loss_curve_
    assert regressor.n_iter_ == len(curve) == len(regressor.loss_curve_) == np.argmin(curve) + 1 + 3 < 500
    assert training.evaluate(validation) == min(curve) < curve[-1]


def test_validation_rows_have_all_classes(monkeypatch):
    seen = []
    monkeypatch.setattr(Training, "run", lambda self, *rows: seen.append(rows))
    x = np.random.RandomState(0).randn(100, 2)
    Classifier(early_stopping=True, validation_fraction=0.2).fit(x, np.repeat((0, 1, 2), (50, 40, 10)))
    assert np.bincount(seen[0][1].y).tolist() == [10, 8, 2]
    Classifier(early_stopping=True).fit(x, np.repeat((0, 1), (99, 1)))  # too few to have them in both
    assert [len(rows.x) for rows in seen[1]] == [90, 10]


def test_labels_and_class_weights():
    x, y = wave(300)
    labels = np.where(y > 1.6, "rare", "common")
    plain = Classifier(random_state=0, hidden_layer_sizes=()).fit(x, labels)
    assert plain.classes_.tolist() == ["common", "rare"]
    assert set(plain.predict(x)) == {"common", "rare"}
    np.testing.assert_array_equal(plain.predict(x), plain.classes_[plain.predict_proba(x).argmax(1)])
    np.testing.assert_allclose(np.exp(plain.predict_log_proba(x)), plain.predict_proba(x))
    balanced = clone(plain).set_params(class_weight="balanced").fit(x, labels)
    number = labels.size / 2 / np.array([(labels == label).sum() for label in balanced.classes_])
    by_hand = clone(plain).fit(x, labels, np.where(labels == "rare", number[1], number[0]))
    np.testing.assert_allclose(balanced.predict_proba(x), by_hand.predict_proba(x), rtol=1e-6)
    assert (balanced.predict(x) == "rare").sum() > 1.2 * (plain.predict(x) == "rare").sum()
    with pytest.raises(ValueError, match="at least 2 classes, got 1 class: a"):
        Classifier().fit(x, ["a"] * len(x))


def test_dtypes():
    x, y = wave()
    for dtype in (np.float32, np.float64):
        for estimator in (Classifier(max_iter=2), Regressor(max_iter=2, loss="pinball")):
            fitted = estimator.fit(x.astype(dtype), labeled(estimator, y))
            assert next(fitted.model_.parameters()).numpy(force=True).dtype == dtype
            for result in results(fitted, x)[1:]:
                assert result.dtype == dtype


def test_search_in_a_pipeline_of_a_frame():
    random = np.random.RandomState(0)
    frame = pd.DataFrame({"color": random.choice(["red", "green", "blue"], 200), "size": random.rand(200)})
    target = frame["color"].map({"red": 0.0, "green": 1.0, "blue": 2.0}) + frame["size"]
    columns = make_column_transformer((OneHotEncoder(sparse_output=False), ["color"]), remainder="passthrough")
    pipeline = make_pipeline(columns, Regressor(random_state=0))
    search = GridSearchCV(
        pipeline, {"regressor__max_iter": (1, 50), "regressor__hidden_layer_sizes": ((), (20,))}, cv=3
    )
    search.fit(frame, target)
    assert search.best_params_["regressor__max_iter"] == 50
    assert search.score(frame, target) > 0.99

    named = Regressor(max_iter=1).fit(frame[["size"]], target)
    assert named.feature_names_in_.tolist() == ["size"]
    with pytest.raises(ValueError, match="feature names should match"):
        named.predict(frame[["size"]].rename(columns={"size": "length"}))


def test_batch_norm_gets_no_batch_of_one_row():
    x, y = wave(41)
    fitted = Regressor(batch_norm=True, batch_size=20, max_iter=2).fit(x, y)
    assert fitted.model_[1].num_batches_tracked == 4


def test_trains_on_a_device_and_predicts_on_the_cpu(device):
    x, y = wave()
    fitted = Regressor(device=device, early_stopping=True, random_state=0).fit(x, y)
    assert {parameter.device.type for parameter in fitted.model_.parameters()} == {"cpu"}
    assert fitted.score(x, y) > 0.9


def test_prints_the_losses(capsys):
    Regressor(max_iter=2, verbose=True, early_stopping=True).fit(*wave())
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("epoch 2 of 2: loss ")
    assert ", validation loss " in lines[1]


@pytest.mark.parametrize(
    ("options", "message"),
    (
        (dict(optimizer="lbfgs"), "optimizer must be one of 'adamw', 'adam', 'rmsprop', 'sgd'. Got: 'lbfgs'"),
        (dict(activation="gelu"), "activation must be one of"),
        (dict(init="best"), "init must be one of"),
        (dict(batch_size=0), "batch_size == 0, must be >= 1"),
        (dict(max_iter=0), "max_iter == 0, must be >= 1"),
        (dict(hidden_layer_sizes=0), "each of hidden_layer_sizes == 0, must be >= 1"),
        (dict(validation_fraction=1.0), "validation_fraction == 1.0, must be < 1"),
        (dict(n_iter_no_change=0), "n_iter_no_change == 0, must be >= 1"),
        (dict(learning_rate_init=1e30, optimizer="sgd"), "the loss is .* in epoch .: lower learning_rate_init"),
        (dict(loss="absolute"), "loss must be 'squared_error' or 'pinball'. Got: 'absolute'"),
        (dict(quantiles=0.5), "quantiles require loss='pinball', got quantiles=0.5"),
        (dict(loss="pinball", quantiles=(0.1, 0.9)), "several quantiles must include 0.5, which predict"),
        (dict(loss="pinball", quantiles=(0.9, 0.5)), "quantiles must increase, got"),
        (dict(loss="pinball", quantiles=1.5), "quantile"),
    ),
    ids=str,
)
def test_names_what_is_wrong(options, message):
    with pytest.raises(ValueError, match=message):
        Regressor(**options).fit(*wave())


def test_imports_scikit_learn_on_demand():
    program = "import sys, torchnotes; assert 'sklearn' not in sys.modules; sys.modules['sklearn'] = None"
    run = subprocess.run(
        [sys.executable, "-c", f"{program}; import torchnotes.sklearn"], capture_output=True, text=True
    )
    assert run.stderr.endswith(
        "ImportError: torchnotes.sklearn requires scikit-learn: pip install scikit-learn or torchnotes[tools]\n"
    )

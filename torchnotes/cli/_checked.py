"""What `python -m torchnotes check` checks, as data: every public operation, beside torch's own or the shortest
composition of torch's."""

from typing import Any

import torch
import torch.nn.functional as F

from .. import functional, init, optim
from . import _check_arguments as of
from . import _check_references as composed
from ._check_operations import Operation, Record
from ._check_optimizers import GradientNorm, Newton, Stepping
from ._checked_random import RANDOM

ACTIVATIONS: tuple[dict[str, Any], ...] = (
    {"activation": "relu"},
    {"activation": "leaky_relu", "negative_slope": 0.2},
    {"activation": "sigmoid"},
    {"activation": "tanh"},
)
SUM, NONE = {"reduction": "sum"}, {"reduction": "none"}
EVERY_SCALE = (1e-3, 0.1, 1.0, 3.0, 10.0, 30.0)
SPECIAL = {"input": of.special}
EVALUATION = {"training": False}

DIFFERENTIABLE: dict[str, Record] = {
    "sigmoid": Operation(
        torch.sigmoid, {"input": of.rows}, scales=EVERY_SCALE, elementwise=True, beside_torch=(SPECIAL,)
    ),
    "tanh": Operation(torch.tanh, {"input": of.rows}, scales=EVERY_SCALE, elementwise=True, beside_torch=(SPECIAL,)),
    "relu": Operation(F.relu, {"input": of.rows}, ({}, {"inplace": True}), elementwise=True, beside_torch=(SPECIAL,)),
    "leaky_relu": Operation(
        F.leaky_relu,
        {"input": of.rows},
        ({}, {"negative_slope": 0.3, "inplace": True}, {"negative_slope": -0.2}),
        elementwise=True,
        beside_torch=(SPECIAL,),
    ),
    "softmax": Operation(
        F.softmax,
        {"input": of.rows},
        ({"dim": 1}, {"dim": 0}),
        beside_torch=({"input": of.images, "dim": -2}, {"dim": 1, "dtype": torch.float64}),
        scales=(0.1, 3.0, 30.0),
    ),
    "log_softmax": Operation(
        F.log_softmax,
        {"input": of.rows},
        ({"dim": 1}, {"dim": 0}),
        beside_torch=({"input": of.images, "dim": -2}, {"dim": 1, "dtype": torch.float64}),
        scales=(0.1, 3.0, 30.0),
    ),
    "linear": Operation(
        composed.linear,
        {"input": of.rows, "weight": of.layer, "bias": of.bias},
        ({}, *ACTIVATIONS),
        beside_torch=(
            {"input": of.batches, "activation": "tanh"},
            {"bias": None},
            {"activation": "leaky_relu", "negative_slope": -0.3},
        ),
    ),
    "batch_norm": Operation(
        composed.batch_norm,
        {
            "input": of.images,
            "running_mean": of.statistic,
            "running_var": of.statistic,
            "weight": of.per_column,
            "bias": of.per_column,
            "training": True,
        },
        ({"momentum": 0.3, "eps": 1e-3}, *ACTIVATIONS, EVALUATION, {"center_only": True}),
        differentiable_once=({"inplace": True}, {"inplace": True, "activation": "leaky_relu", "negative_slope": 0.2}),
        beside_torch=(
            {"running_mean": None, "running_var": None},
            {"input": of.rows},
            {"weight": None, "bias": None},
            {**EVALUATION, "eps": 0.1, "activation": "tanh"},
            {**EVALUATION, "center_only": True},
        ),
        scales=(1.0, 100.0),
    ),
    "mse_loss": Operation(
        F.mse_loss,
        {"input": of.rows, "target": of.noise},
        ({}, SUM, NONE, {"weight": of.weights}),
        beside_torch=({**SUM, "weight": of.weights},),
        scales=(0.1, 3.0),
    ),
    "binary_cross_entropy_with_logits": Operation(
        composed.binary_cross_entropy_with_logits,
        {"input": of.rows, "target": of.fractions},
        (
            {},
            SUM,
            NONE,
            {"weight": of.per_row, "pos_weight": of.weights_of_columns},
            {"label_smoothing": 0.2},
            {"target": of.labels, "ignore_index": -1},
        ),
        scales=(0.1, 3.0, 30.0),
    ),
    "pinball_loss": Operation(
        composed.pinball_loss,
        {"input": of.rows, "target": of.noise},
        (
            {},
            {**SUM, "quantiles": 0.9},
            {**NONE, "quantiles": 0.3, "smoothing": 0.7},
            {"input": of.quantiles_of_rows, "target": of.some_rows, "quantiles": (0.1, 0.5, 0.9)},
            {"weight": of.weights, "quantiles": 0.2},
        ),
    ),
    "cross_entropy": Operation(
        composed.cross_entropy,
        {"input": of.rows, "target": of.classes},
        (
            {"target": of.some_classes},
            SUM,
            {**NONE, "weight": of.weights_of_columns},
            {"target": of.some_classes, "label_smoothing": 0.2, "weight": of.weights_of_columns},
            {"target": of.probabilities, "label_smoothing": 0.1},
            {"z_loss": 0.1},
            {**NONE, "logit_softcap": 3.0},
        ),
        beside_torch=(
            {"inplace_backward": True},
            {"ignore_index": 0, **SUM},
            {"input": of.pixels, "target": of.classes_of_pixels},
            {"target": of.no_classes, "empty": "zero"},
        ),
        scales=(0.1, 3.0, 30.0),
    ),
    "linear_cross_entropy": Operation(
        composed.linear_cross_entropy,
        {"input": of.rows, "linear_weight": of.layer, "target": of.classes_of_layer, "options": of.chunks},
        (
            {"linear_bias": of.bias},
            {**SUM, "label_smoothing": 0.2},
            NONE,
            {"target": of.probabilities_of_layer},
            {"z_loss": 0.1},
            {"logit_softcap": 3.0},
        ),
        beside_torch=(
            {"options": None, "linear_bias": of.bias},
            {"target": of.some_classes, "weight": of.weights_of_layer},
            {"target": of.no_classes, "empty": "zero"},
            {"ignore_index": 0, **SUM},
        ),
    ),
    "gaussian_dropout_penalty": Operation(
        composed.gaussian_dropout_penalty,
        {"input": of.rows, "weight": of.layer, "sigma": 0.3},
        ({}, {"weight": of.per_column}),
    ),
}


OPTIMIZERS: dict[str, Record] = {
    "SGD": Stepping(
        torch.optim.SGD,
        (
            {},
            {"weight_decay": 0.3, "maximize": True},
            {"momentum": 0.9, "dampening": 0.4},
            {"momentum": 0.9, "nesterov": True},
        ),
    ),
    "RMSprop": Stepping(
        torch.optim.RMSprop,
        (
            {},
            {"alpha": 0.5, "eps": 1e-3, "weight_decay": 0.3},
            {"centered": True, "momentum": 0.8, "maximize": True},
        ),
        decouples=True,
    ),
    "Adam": Stepping(
        torch.optim.Adam,
        (
            {},
            {"betas": (0.5, 0.7), "eps": 1e-3, "weight_decay": 0.3},
            {"amsgrad": True, "maximize": True},
            {"weight_decay": 0.3, "decoupled_weight_decay": True, "fused": True},
        ),
    ),
    "AdamW": Stepping(
        torch.optim.AdamW,
        ({}, {"betas": (0.5, 0.7), "eps": 1e-3, "weight_decay": 0.3}, {"amsgrad": True, "maximize": True}),
    ),
    "Newton": Newton(),
    "gradient_norm": GradientNorm(),
}

CHECKED: dict[str, Record] = {**DIFFERENTIABLE, **RANDOM, **OPTIMIZERS}


def public(name: str) -> Any:
    """The function or class itself."""
    return next(getattr(space, name) for space in (functional, init, optim) if hasattr(space, name))

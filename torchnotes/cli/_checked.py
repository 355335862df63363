"""The records of `python -m torchnotes check`: every public operation as data."""

from typing import Any

import torch

from .. import functional, init, optim
from ..testing.operations import OPERATIONS
from ._check_operations import Differentiable, Record
from ._check_optimizers import GradientNorm, Newton, Stepping
from ._check_random import CHECKED_RANDOM

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

DIFFERENTIABLE: dict[str, Record] = {name: Differentiable(operation) for name, operation in OPERATIONS.items()}
CHECKED = {**DIFFERENTIABLE, **CHECKED_RANDOM, **OPTIMIZERS}


def public(name: str) -> Any:
    """The public function or class of this name."""
    return next(getattr(space, name) for space in (functional, init, optim) if hasattr(space, name))

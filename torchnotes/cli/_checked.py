"""The records of `python -m torchnotes check`: every public operation as data."""

from typing import Any

from .. import functional, init, optim
from ..testing.operations import OPERATIONS
from ..testing.optimizers import OPTIMIZERS
from ._check_operations import Differentiable, Record
from ._check_optimizers import GradientNorm, Newton, Stepping
from ._check_random import CHECKED_RANDOM
from ._names import called

DIFFERENTIABLE: dict[str, Record] = {name: Differentiable(operation) for name, operation in OPERATIONS.items()}
STEPPING: dict[str, Record] = {name: Stepping(optimizer) for name, optimizer in OPTIMIZERS.items()}
PUBLIC = {**DIFFERENTIABLE, **CHECKED_RANDOM, **STEPPING, "Newton": Newton(), "gradient_norm": GradientNorm()}
CHECKED = {called(name): record for name, record in PUBLIC.items()}
PUBLIC_NAMES = {called(name): name for name in PUBLIC}


def public(name: str) -> Any:
    """The public function or class that `check` calls this."""
    public_name = PUBLIC_NAMES[name]
    return next(getattr(space, public_name) for space in (functional, init, optim) if hasattr(space, public_name))

"""Optimizers with the names of torch.optim, and Newton's method."""

import typing as _typing

from .._names import missing as _missing
from ._from_torch import from_torch as from_torch
from ._from_torch import to_torch as to_torch
from .adam import Adam as Adam
from .adamw import AdamW as AdamW
from .gradient_norm import gradient_norm as gradient_norm
from .newton import Newton as Newton
from .rmsprop import RMSprop as RMSprop
from .sgd import SGD as SGD

if not _typing.TYPE_CHECKING:  # which would accept every name
    __getattr__ = _missing(__name__, "torch.optim")

"""Optimizers with the names of torch.optim, and Newton's method."""

from ._from_torch import from_torch as from_torch
from ._from_torch import to_torch as to_torch
from .adam import Adam as Adam
from .adamw import AdamW as AdamW
from .gradient_norm import gradient_norm as gradient_norm
from .newton import Newton as Newton
from .rmsprop import RMSprop as RMSprop
from .sgd import SGD as SGD

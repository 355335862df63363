"""Optimizers under torch.optim's names, and Newton's method."""

from .adam import Adam as Adam
from .adamw import AdamW as AdamW
from .gradient_norm import gradient_norm as gradient_norm
from .newton import Newton as Newton
from .rmsprop import RMSprop as RMSprop
from .sgd import SGD as SGD

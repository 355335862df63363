"""The operations, under the names of torch.nn.functional."""

import typing as _typing

from ._names import missing as _missing
from .ops import _scripted as _scripted
from .ops.activations.leaky_relu import leaky_relu as leaky_relu
from .ops.activations.relu import relu as relu
from .ops.activations.sigmoid import sigmoid as sigmoid
from .ops.activations.softplus import softplus as softplus
from .ops.activations.tanh import tanh as tanh
from .ops.binary_cross_entropy_with_logits import binary_cross_entropy_with_logits as binary_cross_entropy_with_logits
from .ops.cross_entropy.cross_entropy import cross_entropy as cross_entropy
from .ops.cross_entropy.linear_cross_entropy import linear_cross_entropy as linear_cross_entropy
from .ops.dropout import dropout as dropout
from .ops.gaussian_dropout import gaussian_dropout as gaussian_dropout
from .ops.gaussian_dropout import gaussian_dropout_penalty as gaussian_dropout_penalty
from .ops.linear import linear as linear
from .ops.log_softmax import log_softmax as log_softmax
from .ops.mse_loss import mse_loss as mse_loss
from .ops.normalization.batch_norm import batch_norm as batch_norm
from .ops.normalization.sync_batch_norm import sync_batch_norm as sync_batch_norm
from .ops.pinball_loss import pinball_loss as pinball_loss
from .ops.softmax import softmax as softmax

if not _typing.TYPE_CHECKING:  # which would accept every name
    __getattr__ = _missing(__name__, "torch.nn.functional")

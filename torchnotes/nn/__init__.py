"""The modules, under the names of torch.nn."""

import typing as _typing

from .._names import missing as _missing
from . import utils as utils
from .activation import *  # noqa: F403 # it lists its names
from .dropout import Dropout as Dropout
from .dropout import GaussianDropout as GaussianDropout
from .dropout import GaussianDropoutLinear as GaussianDropoutLinear
from .dropout import VariationalDropout as VariationalDropout
from .linear import Linear as Linear
from .loss import BCEWithLogitsLoss as BCEWithLogitsLoss
from .loss import CrossEntropyLoss as CrossEntropyLoss
from .loss import LinearCrossEntropyLoss as LinearCrossEntropyLoss
from .loss import MSELoss as MSELoss
from .loss import PinballLoss as PinballLoss
from .mlp import MLP as MLP
from .normalization import BatchNorm1d as BatchNorm1d
from .normalization import BatchNorm2d as BatchNorm2d
from .normalization import BatchNorm3d as BatchNorm3d
from .normalization import LazyBatchNorm1d as LazyBatchNorm1d
from .normalization import LazyBatchNorm2d as LazyBatchNorm2d
from .normalization import LazyBatchNorm3d as LazyBatchNorm3d
from .normalization import SyncBatchNorm as SyncBatchNorm

if not _typing.TYPE_CHECKING:  # which would accept every name
    __getattr__ = _missing(__name__, "torch.nn")

"""Deep-learning notes made executable: PyTorch operations with hand-written backward passes and fast kernels.

Examples in docstrings assume:

    import torch, torchnotes
    from torchnotes import functional as F, init, nn, optim, signal
"""

__version__ = "0.1.0"

from . import _before_torch as _before_torch
from . import _native as _native  # checks the torch version before anything else can fail because of it
from . import functional as functional
from . import init as init
from . import nn as nn
from . import optim as optim
from . import signal as signal
from ._native import build_info as build_info
from .conversion import Report as Report
from .conversion import convert as convert
from .conversion import revert as revert

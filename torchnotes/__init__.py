"""Deep-learning notes made executable: drop-in PyTorch operations with hand-written backward passes and fast kernels."""

from ._native import build_info as build_info
from . import functional as functional, nn as nn

__version__ = "0.1.0"

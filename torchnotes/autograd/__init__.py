"""What every operation stands on: the base class of autograd Functions, derivatives of compositions, fake kernels."""

from .function import Elementwise as Elementwise
from .function import Function as Function

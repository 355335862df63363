"""What softmax and log_softmax share: Functions along a dimension, and torch's arguments."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..autograd.function import Function, autocasts, batched, differentiable, kernel, native, show, watched

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


class AlongDimension(Function):
    """A Function of one or more tensors of the same shape and a non-negative dimension.

    It saves its tensors, or its output if `keeps_output`.
    """

    operator: str
    keeps_output = False
    _kernel: Callable[..., Tensor]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls._kernel = kernel(cls.operator)

    @classmethod
    def forward(cls, *args: Any) -> Tensor:
        return cls._kernel(*args)

    @classmethod
    def setup_context(cls, ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.save_for_backward(*((output,) if cls.keeps_output else inputs[:-1]))
        ctx.dim = inputs[-1]

    @classmethod
    def vmap(cls, info: Any, in_dims: tuple, *args: Any) -> tuple:
        *tensors, dim = batched(info, in_dims, args)
        return cls.apply(*tensors, dim + 1), 0


def public(cls: type[AlongDimension], slope: type[AlongDimension], builtin: Callable[..., Tensor]) -> Callable:
    """The operation with torch's arguments. Arguments that our kernels do not support go to torch."""

    def fallback(input: Tensor, dim: int) -> Tensor:
        if autocasts(input):
            return builtin(input, dim)
        return cls._under_transform(input, dim)

    call = differentiable(cls.__name__, cls.operator, slope.operator, fallback, slope.apply, respects_autocast=True)

    def operation(input: Tensor, dim: int | None, _stacklevel: int, dtype: torch.dtype | None) -> Tensor:
        if not (native(input) and type(dim) is int and -input.dim() <= dim < input.dim()):
            if watched():
                return show(operation, input, dim, _stacklevel, dtype)
            return builtin(input, dim, _stacklevel + 2 if dim is None else _stacklevel, dtype)
        if dtype is not None:
            if not isinstance(dtype, torch.dtype) or dtype not in _DTYPES:
                return builtin(input, dim, _stacklevel, dtype)
            input = input.to(dtype)
        return call(input, dim % input.dim())

    operation.__name__ = operation.__qualname__ = cls.operator
    return operation

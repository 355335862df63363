"""relu and leaky_relu inside torch.compile on the CPU, with a backward that chooses by integer arithmetic.

Of the builtin the compiler keeps the mask y <= 0 for the backward, a bool being smaller than a float; and storing and
loading vectors of bools is what Inductor's CPU code does worst: it takes many times what all the rest does. Here the
choice is made of the bits of the kept output, in plain operations that fuse with their neighbours. As an integer of its
width, a float is 0 at +0, positive up to infinity's bits where it is positive, above those a NaN, and negative else.

Measured in docs/decisions/compile.md.
"""

from typing import Any

import torch
from torch import Tensor, relu
from torch.nn.functional import leaky_relu

_INTEGER = {  # the integer of a float's width, the place of its sign, the bits of infinity
    torch.float64: (torch.int64, 63, 0x7FF0_0000_0000_0000),
    torch.float32: (torch.int32, 31, 0x7F80_0000),
    torch.bfloat16: (torch.int16, 15, 0x7F80),
    torch.float16: (torch.int16, 15, 0x7C00),
}


class CompiledReLU(torch.autograd.Function):
    """g where y > 0 or y is NaN, else 0: the formula of csrc/formulas/relu.h."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return relu(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, y: Tensor) -> None:
        ctx.save_for_backward(y)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        integer, sign, _ = _INTEGER[y.dtype]
        magnitude = y.view(integer) & ((1 << sign) - 1)
        nonzero = (-magnitude) >> sign  # all bits, or none
        return (g.view(integer) & nonzero).view(g.dtype)


class CompiledLeakyReLU(torch.autograd.Function):
    """g where y > 0, else a g, for a >= 0: the formula of csrc/formulas/leaky_relu.h."""

    @staticmethod
    def forward(x: Tensor, a: float) -> Tensor:
        return leaky_relu(x, a)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, y: Tensor) -> None:
        ctx.save_for_backward(y)
        ctx.a = inputs[1]

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        (y,) = ctx.saved_tensors
        integer, sign, infinity = _INTEGER[y.dtype]
        bits, a_g = y.view(integer), (ctx.a * g).view(integer)
        positive = (-bits & (bits - (infinity + 1))) >> sign  # all bits for 0 < bits <= infinity, else none
        return (a_g ^ ((a_g ^ g.view(integer)) & positive)).view(g.dtype), None

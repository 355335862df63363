"""relu and leaky_relu inside torch.compile on the CPU, with a backward that selects by integer arithmetic.

For the builtin the compiler saves the mask y <= 0 for the backward pass, because a bool is smaller than a float. But
Inductor's CPU code is slowest at storing and loading vectors of bools, which takes many times as long as everything
else. Here the bits of the saved output decide, in plain operations that fuse with their neighbors. Read as an integer
of its width, a float is 0 for +0, positive up to the bits of infinity if it is positive, greater if it is NaN, and
otherwise negative.

Measured in docs/decisions/compile.md.
"""

from typing import Any

import torch
from torch import Tensor, relu
from torch.nn.functional import leaky_relu

_INTEGER = {  # the integer type of a float's width, the position of its sign bit, the bits of infinity
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
        nonzero = (-magnitude) >> sign  # all bits or none
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
        positive = (-bits & (bits - (infinity + 1))) >> sign  # all bits for 0 < bits <= infinity, otherwise none
        return (a_g ^ ((a_g ^ g.view(integer)) & positive)).view(g.dtype), None

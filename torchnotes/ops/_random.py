"""Random numbers that are a function of a key and of an element's index (csrc/formulas/philox.h).

A key is a tensor of two int64, (seed, offset), drawn from torch's generator. It is all that is saved for the backward
pass, which regenerates the numbers. Keys are drawn by a torch operation, so that manual_seed, checkpointing, the
compiler and vmap's randomness treat them like torch's random numbers.

Measured in docs/decisions/random-keys.md.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch._subclasses import FakeTensor
from torch.compiler import is_compiling

from .._native import _C, dense_float, is_recorded
from ..autograd.function import Function, batched, differentiable, recorded, show, traceable, watched
from ..distributed.random import (
    ShardPosition,
    by_parts,
    change_parts_,
    check_in_place,
    make_sure,
    meet,
    without_partial_sums,
)
from ..distributed.shards import is_dtensor

Generator = torch.Generator | Tensor | None  # or the key itself

_END = 2**63 - 1


def random_key(x: Tensor, generator: Generator = None) -> Tensor:
    """The key of the random numbers for x.

    Without a generator the key is drawn on the CPU, whatever the device of x: the same seed gives the same numbers on
    every device, and the key is passed to the kernel by value. A CUDA graph would replay the same key, so there the key
    is drawn on the device.
    """
    if isinstance(generator, Tensor):
        if generator.device not in (x.device, torch.device("cpu")):
            raise RuntimeError(f"Expected a key on '{x.device}' or the CPU, but found one on '{generator.device}'")
        return generator
    if generator is not None:
        return torch.randint(0, _END, (2,), dtype=torch.int64, device=x.device, generator=generator)
    on_device = x.is_meta or (x.is_cuda and (is_compiling() or torch.cuda.is_current_stream_capturing()))
    return torch.randint(0, _END, (2,), dtype=torch.int64, device=x.device if on_device else "cpu")


def draws_natively(x: Any, generator: Generator) -> bool:
    """Whether our kernels multiply x by random numbers. Inside torch.compile they do so on the CPU, where they are many
    times faster than the compiler's code (docs/decisions/compile.md), and if a key is given, which torch does not
    support."""
    if is_compiling():
        return traceable(x) and (x.device.type == "cpu" or isinstance(generator, Tensor))
    if dense_float(x) or (is_dtensor(x) and dense_float(x._local_tensor)):
        return True
    return recorded(x) and not torch.jit.is_tracing()  # torch draws when tracing


class Noise(Function):
    """y = d x for x, a key and numbers, where d does not depend on x: linear, and its own backward and tangent."""

    kernel: ClassVar[Callable[..., Tensor]]

    @classmethod
    def by_torch(cls, x: Tensor, key: Tensor, *numbers: float) -> Tensor:
        return x * cls.kernel(torch.ones_like(x), key, *numbers)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])
        ctx.numbers = inputs[2:]

    @classmethod
    def tangent(cls, ctx: Any, x_t: Tensor, *_: Any) -> Tensor:
        (key,) = ctx.saved_tensors
        return cls.apply(x_t, key, *ctx.numbers)

    @classmethod
    def vmap(cls, info: Any, in_dims: tuple, *args: Any) -> tuple:
        """Accepts a key per example, or one for all."""
        return cls.apply(*batched(info, in_dims, args)), 0


class ShardedNoise(Noise):
    """The same for a DTensor x, a key, the native operator that multiplies each rank's part, and its numbers."""

    by_torch = None  # type: ignore[assignment] # neither torch.fx nor functionalize supports DTensors

    @staticmethod
    def forward(x: Any, key: Tensor, multiply: Callable[..., Tensor], numbers: tuple[float, ...]) -> Any:
        return by_parts(x, lambda part, shard: multiply(part, key, *numbers, shard))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Any) -> None:
        Noise.setup_context(ctx, inputs, output)
        ctx.placements = output.placements

    @staticmethod
    def backward(ctx: Any, g: Any) -> tuple:
        (key,) = ctx.saved_tensors
        g = g.redistribute(placements=ctx.placements)
        return ShardedNoise.apply(g, key, *ctx.numbers), None, None, None


def noisy(noise: type[Noise], operator: str) -> Callable[..., Tensor]:
    """noise.apply as a function of x, its other arguments and `inplace`, at C++ speed outside torch.compile. x may be a
    DTensor."""
    multiply = getattr(torch.ops.torchnotes, operator).default

    @torch.library.register_vmap(multiply)
    def batched_multiply(info: Any, in_dims: tuple, *args: Any) -> tuple:
        return multiply(*batched(info, in_dims, args)), 0

    def traced(x: Tensor, *rest: Any) -> Tensor:
        if torch._C._are_functorch_transforms_active():  # here a traced Function would have a gradient of 0
            return x * multiply(torch.ones_like(x), *rest)
        return noise.apply(x, *rest)

    def written_under_transform(x: Tensor, *rest: Any) -> Tensor:
        return x.copy_(noise.apply(x, *rest))

    name = noise.__name__
    new = differentiable(name, operator, operator, noise.apply, noise.apply)
    written = differentiable(name, operator + "_", operator, written_under_transform, noise.apply)

    def of_shards(x: Any, key: Tensor, *numbers: float) -> Any:
        meet(x, operator, key)
        return ShardedNoise.apply(without_partial_sums(x), key, multiply, numbers)

    def call(x: Tensor, *rest: Any, inplace: bool) -> Tensor:
        if type(x) is not Tensor and is_dtensor(x):
            if inplace:
                check_in_place(x, operator)
            y = of_shards(x, *rest)
            return x.copy_(y) if inplace else y
        if is_compiling() or is_recorded():
            return x.copy_(traced(x, *rest)) if inplace else traced(x, *rest)
        return (written if inplace else new)(x, *rest)

    return call


def fills_natively(x: Any) -> bool:
    """Whether our kernels fill x, which may also be a FakeTensor or a DTensor."""
    if is_compiling() or isinstance(x, FakeTensor):
        return traceable(x)
    return dense_float(x) or (is_dtensor(x) and fills_natively(x._local_tensor))


def filling(
    operator: str, builtin: Callable[..., Tensor], check: Callable[..., None] | None = None
) -> Callable[..., Tensor]:
    """The operator as a function of the tensor to fill, a generator and numbers, which `check` validates.

    It falls back to torch's own function if our kernels do not support the arguments.
    """
    fill = getattr(torch.ops.torchnotes, operator).default

    @torch.library.register_vmap(fill)
    def batched_fill(info: Any, in_dims: tuple, *args: Any) -> tuple:
        if in_dims[0] is None:
            raise RuntimeError(f"vmap: {operator} cannot fill a tensor that is not batched with batched numbers")
        fill(*batched(info, in_dims, args))
        return None, None

    def of_shards(tensor: Any, key: Tensor, *numbers: float) -> Any:
        def filled(part: Tensor, shard: ShardPosition) -> Tensor:
            fill(part, key, *numbers, shard)
            return part

        check_in_place(tensor, operator)
        make_sure(tensor, operator, random_key=key, numbers=numbers)
        return change_parts_(tensor, filled)

    fill_directly = _C.filling(f"torchnotes::{operator}")

    def call(tensor: Tensor, generator: Generator, *numbers: float) -> Tensor:
        if generator is None and check is None and not is_compiling() and fill_directly(tensor, *numbers):
            return tensor
        if not (fills_natively(tensor) and all(isinstance(x, (float, int)) for x in numbers)):
            if watched():
                return show(call, tensor, generator, *numbers)
            return builtin(tensor, *numbers, generator)
        if check is not None:
            check(*numbers)
        if type(tensor) is not Tensor and is_dtensor(tensor):
            return of_shards(tensor, random_key(tensor, generator), *numbers)
        with torch.no_grad():
            fill(tensor, random_key(tensor, generator), *numbers)
        return tensor

    call.__name__ = call.__qualname__ = operator
    return call

"""Batch normalization, alone and followed by leaky ReLU, against torch's."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import leaky_relu

import torchnotes
from torchnotes.testing.operations import OPERATIONS

from .accuracy import Accuracy
from .timing import OURS, Case, Contender, Problem, against, differentiated, suffix

Norm = Callable[..., Tensor]  # called with x, running mean and variance, weight and bias

SLOPE = 0.01
ALLOWED = {torch.float32: 1e-2, torch.bfloat16: 2e-2}  # torch's error: it sums channels last in float32


alone: Norm = partial(torchnotes.functional.batch_norm, training=True)
fused: Norm = partial(alone, activation="leaky_relu", negative_slope=SLOPE)
in_place: Norm = partial(fused, inplace=True)
builtin: Norm = partial(torch.nn.functional.batch_norm, training=True)


def with_leaky_relu(*arguments: Tensor, training: bool = True, inplace: bool = False) -> Tensor:
    return leaky_relu(builtin(*arguments, training=training), SLOPE, inplace)


class _Handed(torch.autograd.Function):
    """Returns x as an intermediate result that may be overwritten, without a copy."""

    @staticmethod
    def forward(ctx: Any, wanted: Tensor, x: Tensor, gradient: list[Tensor]) -> Tensor:
        ctx.gradient = gradient
        return torch.empty(0, dtype=x.dtype, device=x.device).set_(x.untyped_storage(), 0, x.shape, x.stride())

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[None, None, None]:
        ctx.gradient.append(g)
        return None, None, None


def inputs(shape: Sequence[int], format: torch.memory_format, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    """x, the gradient of y, running mean and variance, weight and bias."""
    images = (torch.randn(shape, dtype=dtype, device=device).contiguous(memory_format=format) for _ in range(2))
    channels = shape[1]
    numbers = (torch.zeros(channels), torch.ones(channels), torch.rand(channels) + 0.5, torch.rand(channels) - 0.5)
    return [*images, *(x.to(device) for x in numbers)]


def forward_backward(
    functions: dict[str, Norm],
    reference: Norm,
    overwrites: bool,
    shape: Sequence[int],
    format: torch.memory_format,
    size: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Problem:
    everything = inputs(shape, format, dtype, device)

    def call(function: Norm, x: Tensor, g: Tensor, mean: Tensor, var: Tensor, *parameters: Tensor) -> Contender:
        numbers = mean.clone(), var.clone(), *(p.clone().requires_grad_() for p in parameters)
        if not overwrites:
            return differentiated(function, (x.detach().requires_grad_(), *numbers), g)
        x, wanted = x.clone(), torch.ones((), requires_grad=True)
        of_x: list[Tensor] = []

        def overwriting(wanted: Tensor, *numbers: Tensor) -> Tensor:
            return function(_Handed.apply(wanted, x, of_x), *numbers)

        run = differentiated(overwriting, (wanted, *numbers), g)

        def step() -> Sequence[Tensor]:
            of_x.clear()
            y, _, *of_parameters = run()
            return y, *of_x, *of_parameters

        return step

    contenders = {name: call(function, *everything) for name, function in functions.items()}
    in_double = call(reference, *(x.double() for x in everything))
    return Problem(contenders, in_double, 5 * everything[0].nbytes, ALLOWED[dtype])


def forward_in_eval_mode(
    functions: dict[str, Norm],
    shape: Sequence[int],
    format: torch.memory_format,
    size: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Problem:
    x, _, *numbers = inputs(shape, format, dtype, device)

    def call(function: Norm, x: Tensor, *numbers: Tensor) -> Contender:
        return lambda: (function(x, *numbers),)

    contenders = {name: call(function, x, *numbers) for name, function in functions.items()}
    in_double = call(functions["eager"], x.double(), *(n.double() for n in numbers))
    return Problem(contenders, in_double, 2 * x.nbytes, ALLOWED[dtype])


def case(
    name: str,
    setup: Callable[..., Problem],
    shape: Sequence[int],
    last: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Case:
    kind = " x ".join(map(str, shape)) + (", channels last" if last else "") + suffix(dtype)
    format = torch.channels_last if last else torch.contiguous_format
    return Case(f"{name} {kind}", (math.prod(shape),), partial(setup, shape, format), dtype)


def hard(size: int) -> Tensor:
    """Ordinary channels, channels with a large mean or a small variance, and constant ones."""
    x = torch.randn(size // 10_000, 100, 100, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x[:, 1::4] += 1e4
    x[:, 2::4] = 1 + 1e-4 * x[:, 2::4]
    x[:, 3::4] = 0.7
    return x


def of_input(function: Norm) -> Callable[[Tensor], Tensor]:
    """Shifts outputs to around 6, so that none is close to zero."""
    return lambda x: function(x, None, None, None, torch.full_like(x[0, :, 0], 6))


def normal(y: Tensor) -> Tensor:
    return torch.randn(y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).to(y)


def cases() -> tuple[Case | Accuracy, ...]:
    plain = partial(forward_backward, against(alone, builtin), builtin, False)
    activated = partial(forward_backward, against(fused, with_leaky_relu), with_leaky_relu, False)
    rivals = against(in_place, partial(with_leaky_relu, inplace=True))
    overwriting = partial(forward_backward, rivals, with_leaky_relu, True)
    either = partial(forward_backward, {OURS: in_place, "not in place": fused}, with_leaky_relu, True)
    eval_mode = partial(
        forward_in_eval_mode, against(partial(fused, training=False), partial(with_leaky_relu, training=False))
    )
    shapes = OPERATIONS["batch_norm"].benchmarked
    images, matrices = [s for s in shapes if len(s) == 4], [s for s in shapes if len(s) == 2]
    layouts = [(shape, last) for last in (False, True) for shape in images]
    half = torch.bfloat16
    return (
        *(case("with leaky ReLU", activated, *layout) for layout in layouts),
        *(case("with leaky ReLU", activated, shape) for shape in matrices),
        *(case("alone", plain, *layout) for layout in layouts),
        *(case("in place", overwriting, shape) for shape in images),
        *(case("in place or not", either, *layout) for layout in layouts),
        *(case("in eval mode", eval_mode, *layout) for layout in layouts),
        *(case("with leaky ReLU", activated, *layout, half) for layout in layouts),
        *(case("with leaky ReLU", activated, shape, dtype=half) for shape in matrices),
        *(case("alone", plain, *layout, half) for layout in layouts),
        *(case("in eval mode", eval_mode, shape, dtype=half) for shape in images),
        Accuracy(
            {OURS: of_input(alone), "eager": of_input(builtin)}, of_input(builtin), hard, normal, sizes=(1_000_000,)
        ),
    )

"""Batch normalization, alone and followed by leaky ReLU, against torch's."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import leaky_relu

import torchnotes

from .accuracy import Accuracy
from .activation import compiled
from .timing import OURS, Case, Contender, Problem, suffix

Norm = Callable[..., Tensor]  # called with x, running mean and variance, weight and bias

SLOPE = 0.01
IMAGES = ((32, 64, 56, 56), (32, 256, 28, 28), (64, 32, 112, 112))
ALLOWED = {torch.float32: 1e-2, torch.bfloat16: 2e-2}  # torch's error: it sums channels last in float32


alone: Norm = partial(torchnotes.functional.batch_norm, training=True)
fused: Norm = partial(alone, activation="leaky_relu", negative_slope=SLOPE)
in_place: Norm = partial(fused, inplace=True)
builtin: Norm = partial(torch.nn.functional.batch_norm, training=True)


def with_leaky_relu(*arguments: Tensor, training: bool = True, inplace: bool = False) -> Tensor:
    return leaky_relu(builtin(*arguments, training=training), SLOPE, inplace)


def against(ours: Norm, rival: Norm) -> dict[str, Norm]:
    return {OURS: ours, "eager": rival, "compile": compiled(rival)}


ALONE = against(alone, builtin)
FUSED = against(fused, with_leaky_relu)
IN_PLACE = against(in_place, partial(with_leaky_relu, inplace=True))
IN_PLACE_OR_NOT = {OURS: in_place, "not in place": fused}
EVAL = against(partial(fused, training=False), partial(with_leaky_relu, training=False))


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
    size: int,
    dtype: torch.dtype,
    device: torch.device,
    *,
    functions: dict[str, Norm],
    shape: Sequence[int],
    format: torch.memory_format,
    in_place: bool = False,
) -> Problem:
    everything = inputs(shape, format, dtype, device)

    def call(function: Norm, x: Tensor, g: Tensor, mean: Tensor, var: Tensor, *parameters: Tensor) -> Contender:
        weight, bias = (p.clone().requires_grad_() for p in parameters)
        mean, var, x = mean.clone(), var.clone(), x.clone() if in_place else x.detach().requires_grad_()
        wanted = torch.ones((), requires_grad=True)

        def step() -> tuple[Tensor, ...]:
            given: list[Tensor] = []
            h = _Handed.apply(wanted, x, given) if in_place else x
            y = function(h, mean, var, weight, bias)
            y.backward(g)
            gradients = (given[0] if in_place else x.grad, weight.grad, bias.grad)
            x.grad = weight.grad = bias.grad = None
            return y.detach(), *gradients  # type: ignore[return-value] # backward sets the gradients

        return step

    contenders = {name: call(function, *everything) for name, function in functions.items()}
    in_double = call(with_leaky_relu if functions is not ALONE else ALONE["eager"], *(x.double() for x in everything))
    return Problem(contenders, in_double, 5 * everything[0].nbytes, ALLOWED[dtype])


def forward_in_eval_mode(
    size: int, dtype: torch.dtype, device: torch.device, *, shape: Sequence[int], format: torch.memory_format
) -> Problem:
    x, _, *numbers = inputs(shape, format, dtype, device)

    def call(function: Norm, x: Tensor, *numbers: Tensor) -> Contender:
        return lambda: (function(x, *numbers),)

    contenders = {name: call(function, x, *numbers) for name, function in EVAL.items()}
    in_double = call(EVAL["eager"], x.double(), *(n.double() for n in numbers))
    return Problem(contenders, in_double, 2 * x.nbytes, ALLOWED[dtype])


def case(
    name: str,
    setup: Callable[..., Problem],
    shape: Sequence[int],
    last: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Case:
    kind = " x ".join(map(str, shape)) + (", channels last" if last else "")
    kind += suffix(dtype)
    format = torch.channels_last if last else torch.contiguous_format
    return Case(f"{name} {kind}", (math.prod(shape),), partial(setup, shape=shape, format=format), dtype)


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


of_alone, of_fused = (partial(forward_backward, functions=functions) for functions in (ALONE, FUSED))
of_in_place, of_either = (partial(forward_backward, functions=f, in_place=True) for f in (IN_PLACE, IN_PLACE_OR_NOT))

CASES = (
    *(case("with leaky ReLU", of_fused, shape, last) for last in (False, True) for shape in IMAGES),
    *(case("with leaky ReLU", of_fused, shape) for shape in ((4096, 1024), (256, 512))),
    *(case("alone", of_alone, shape, last) for last in (False, True) for shape in IMAGES),
    *(case("in place", of_in_place, shape) for shape in IMAGES),
    *(case("in place or not", of_either, shape, last) for last in (False, True) for shape in IMAGES),
    *(case("in eval mode", forward_in_eval_mode, shape, last) for last in (False, True) for shape in IMAGES),
    *(case("with leaky ReLU", of_fused, shape, last, torch.bfloat16) for last in (False, True) for shape in IMAGES),
    *(case("with leaky ReLU", of_fused, shape, dtype=torch.bfloat16) for shape in ((4096, 1024), (256, 512))),
    *(case("alone", of_alone, shape, last, torch.bfloat16) for last in (False, True) for shape in IMAGES),
    *(case("in eval mode", forward_in_eval_mode, shape, False, torch.bfloat16) for shape in IMAGES),
    Accuracy(
        {OURS: of_input(alone), "eager": of_input(builtin)},
        of_input(builtin),
        hard,
        normal,
        sizes=(1_000_000,),
    ),
)

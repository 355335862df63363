"""The benchmarks of optimizers: one step, against all implementations of torch.optim, and the norm of all gradients."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from torchnotes import optim

from .timing import OURS, Case, Contender, Problem, suffix

Shapes = Sequence[tuple[int, ...]]
Kind = type[torch.optim.Optimizer]

# Parameters of a ResNet: 3 x 3 convolutions, the weights and biases of normalizations, and the classifier.
WIDTHS = (64,) * 10 + (128,) * 14 + (160,) * 7 + (256,) * 24
NETWORK: Shapes = (*(shape for c in WIDTHS for shape in ((c, c, 3, 3), (c,), (c,))), (1000, 256))
SMALL: Shapes = [(64 * (1 + i % 8),) for i in range(200)]
PERCEPTRON: Shapes = ((128, 64), (128,), (10, 128), (10,))


def total(shapes: Shapes) -> int:
    return sum(torch.Size(shape).numel() for shape in shapes)


def step(
    ours: Kind, theirs: Kind, streams: int, more: dict[str, Any] | None = None, **options: Any
) -> tuple[Case, ...]:
    """`streams`: how many numbers per parameter a step reads or writes. `more`: options that add two each."""

    def case(name: str, shapes: Shapes, options: dict[str, Any], streams: int) -> Case:
        setup = partial(stepped, ours, theirs, shapes, streams, options)
        return Case(f"step, {name}", (total(shapes),), setup, always_warm=True)  # a step allocates nothing

    network = "166 tensors of a network"
    further = (case(f"{network}, {', '.join(more)}", NETWORK, options | more, streams + 2 * len(more)),) if more else ()
    return (
        case(network, NETWORK, options, streams),
        *further,
        case("200 small tensors", SMALL, options, streams),
        case("two layers", PERCEPTRON, options, streams),
        roundings(ours, streams, options),
    )


def stepped(
    ours: Kind,
    theirs: Kind,
    shapes: Shapes,
    streams: int,
    options: dict[str, Any],
    size: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Problem:
    start = [torch.randn(shape, dtype=dtype, device=device) for shape in shapes]
    grads = [torch.randn_like(x) for x in start]
    contenders: dict[str, Contender] = {
        OURS: stepper(ours, start, grads, options),
        "for-loop": stepper(theirs, start, grads, options | {"foreach": False}),
        "foreach": stepper(theirs, start, grads, options | {"foreach": True}),
        "compile": stepper(theirs, start, grads, options, torch.compile),
    }
    # torch has no fused RMSprop, and its fused SGD leaves vectors of 16-bit parameters as they are (pytorch #191763).
    skips = theirs is torch.optim.SGD and dtype.itemsize == 2 and device.type == "cpu"
    if theirs is not torch.optim.RMSprop and not skips:
        contenders["fused"] = stepper(theirs, start, grads, options | {"fused": True})
    exact = stepper(theirs, [x.double() for x in start], [g.double() for g in grads], options)
    return Problem(contenders, exact, streams * size * dtype.itemsize)


def stepper(
    kind: Kind,
    start: list[Tensor],
    grads: list[Tensor],
    options: dict[str, Any],
    wrap: Callable[..., Any] = lambda step: step,
) -> Contender:
    params = [x.clone().requires_grad_() for x in start]
    for p, grad in zip(params, grads, strict=True):
        p.grad = grad
    step = wrap(kind(params, **options).step)

    def call() -> list[Tensor]:
        step()
        return params

    return call


def roundings(ours: Kind, streams: int, options: dict[str, Any]) -> Case:
    """The cost of saving the rounding errors, which are two more streams."""
    return Case(
        f"step with kahan beside nearest{suffix(torch.bfloat16)}",
        (total(NETWORK),),
        partial(rounded, ours, streams, options),
        torch.bfloat16,
        always_warm=True,
    )


def rounded(
    ours: Kind, streams: int, options: dict[str, Any], size: int, dtype: torch.dtype, device: torch.device
) -> Problem:
    start = [torch.randn(shape, dtype=dtype, device=device) for shape in NETWORK]
    grads = [torch.randn_like(x) for x in start]
    names = {OURS: "kahan", "nearest": "nearest", "stochastic": "stochastic"}
    contenders: dict[str, Contender] = {
        name: stepper(ours, start, grads, options | {"rounding": rounding}) for name, rounding in names.items()
    }
    exact = stepper(ours, [x.double() for x in start], [g.double() for g in grads], options)
    return Problem(contenders, exact, (streams + 2) * size * dtype.itemsize, allowed=0.02)


def gradient_norm() -> tuple[Case, ...]:
    return tuple(
        Case(name, (total(shapes),), partial(norms, shapes), always_warm=True)
        for name, shapes in (("166 tensors of a network", NETWORK), ("200 small tensors", SMALL))
    )


def norms(shapes: Shapes, size: int, dtype: torch.dtype, device: torch.device) -> Problem:
    grads = [torch.randn(shape, dtype=dtype, device=device) for shape in shapes]

    def call(norm: Callable[[list[Tensor]], Tensor], tensors: list[Tensor]) -> Contender:
        return lambda: (norm(tensors),)

    contenders = {OURS: call(optim.gradient_norm, grads), "eager": call(torch.nn.utils.get_total_norm, grads)}
    exact = call(torch.nn.utils.get_total_norm, [grad.double() for grad in grads])
    return Problem(contenders, exact, size * dtype.itemsize, allowed=1e-3)  # eager sums in float32


BENCHMARKS: dict[str, Callable[[], Sequence[Case]]] = {
    "adam": partial(step, optim.Adam, torch.optim.Adam, 7),
    "gradient_norm": gradient_norm,
    "rmsprop": partial(step, optim.RMSprop, torch.optim.RMSprop, 5, more={"centered": True, "momentum": 0.9}),
    "sgd": partial(step, optim.SGD, torch.optim.SGD, 5, lr=1e-3, momentum=0.9),
}

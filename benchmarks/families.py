"""What the sweep measures: every operation over its shapes, layouts, dtypes and modes.

A family is an operation and its cases. The shapes are those of small classifiers, attention weights, image networks and
language models, and powers of two in between; none was chosen because it was tuned.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as torch_F
from torch import Tensor

from torchnotes import functional as F
from torchnotes import init, optim
from torchnotes.testing.operations.activations import ACTIVATIONS

from . import noise, optimizers, pinball_loss, timing
from .timing import Problem, against

Shape = tuple[int, ...]
Setup = Callable[[], Problem]
Function = Callable[..., Tensor]

F32, F64, BF16 = torch.float32, torch.float64, torch.bfloat16
CPU = torch.device("cpu")
ALLOWED = {F32: 1e-4, F64: 1e-9, BF16: 3e-2}  # relative to the largest number; torch's own error is of this size
LARGEST = 2**27
SIZES = (*tuple(2**n for n in (4, 8, 12, 14, 16, 18, 20, 22, 23)), LARGEST)
QUICK_SIZES = (2**4, 2**12, 2**16, 2**20, 2**23)


@dataclass(frozen=True)
class SweepCase:
    family: str
    name: str
    elements: int
    dtype: torch.dtype
    setup: Setup
    quick: bool = False  # whether the quick mode measures it


# ---- elementwise operations ----

LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {  # views of twice as many numbers as they show
    "transposed": lambda x: x[: len(x) // 2].view(64, -1).t(),
    "every second": lambda x: x[::2],
    "channels last": lambda x: x[: len(x) // 2].view(16, -1, 8, 8).to(memory_format=torch.channels_last),
}


def evaluation(functions: dict[str, Function], inputs: Sequence[Tensor], moved: int, allowed: float) -> Problem:
    """The forward pass without gradients."""

    def call(function: Function, inputs: Sequence[Tensor]) -> timing.Contender:
        def step() -> Sequence[Tensor]:
            with torch.no_grad():
                return (function(*inputs),)

        return step

    exact = call(functions["eager"], timing.widened(*inputs))
    return Problem({name: call(f, inputs) for name, f in functions.items()}, exact, moved, allowed)


def elementwise(
    ours: Function, eager: Function, training: bool, layout: str | None, size: int, dtype: torch.dtype
) -> Problem:
    x = torch.randn(size if layout is None else 2 * size, dtype=dtype)
    if layout:
        x = LAYOUTS[layout](x)
    functions = against(ours, eager)
    if not training:
        return evaluation(functions, (x,), 2 * size * x.itemsize, ALLOWED[dtype])
    inputs = (x.detach().requires_grad_(),)
    return timing.forward_backward(functions, inputs, torch.randn_like(x), 5 * size * x.itemsize, ALLOWED[dtype])


def activations() -> Iterator[SweepCase]:
    for name, operation in ACTIVATIONS.items():
        builtin: Any = getattr(torch, name, operation.builtin)
        setup = partial(elementwise, operation.function, builtin)

        def case(
            size: int,
            dtype: torch.dtype = F32,
            training: bool = True,
            layout: str | None = None,
            *,
            name: str = name,
            setup: Callable[..., Problem] = setup,
        ) -> SweepCase:
            label = ", ".join(["training" if training else "evaluation", *([layout] if layout else [])])
            quick = layout is None and dtype in (F32, BF16) and size in QUICK_SIZES
            return SweepCase(name, label, size, dtype, partial(setup, training, layout, size, dtype), quick)

        yield from (case(size) for size in SIZES)
        yield from (case(size, training=False) for size in SIZES)
        yield from (case(size, BF16) for size in SIZES[::2])
        yield from (case(size, F64) for size in (2**4, 2**14, 2**20, 2**23))
        yield from (case(size, layout=layout) for layout in LAYOUTS for size in (2**14, 2**20))


def elementwise_loss(name: str, eager: Function, reduction: str, size: int, dtype: torch.dtype) -> Problem:
    x, y = torch.randn(size, dtype=dtype, requires_grad=True), torch.rand(size, dtype=dtype)
    functions = against(*(partial(f, reduction=reduction) for f in (getattr(F, name), eager)))
    g = torch.ones((), dtype=dtype) if reduction == "mean" else torch.randn_like(x)
    copies = 5 if reduction == "mean" else 7  # of x: the losses and their gradients are two more
    return timing.forward_backward(functions, (x, y), g, copies * x.nbytes, ALLOWED[dtype])


def losses() -> Iterator[SweepCase]:
    for name in ("mse_loss", "binary_cross_entropy_with_logits", "pinball_loss"):
        composed = pinball_loss.composed(pinball_loss.choice, 0.5)
        eager = composed if name == "pinball_loss" else getattr(torch_F, name)
        for reduction, dtype, sizes in (
            ("mean", F32, SIZES),
            ("none", F32, SIZES[::2]),
            ("mean", BF16, SIZES[::2]),
            ("mean", F64, (2**14, 2**20)),
        ):
            for size in sizes:
                setup = partial(elementwise_loss, name, eager, reduction, size, dtype)
                quick = size in QUICK_SIZES and dtype != F64 and (name != "pinball_loss" or reduction == "mean")
                yield SweepCase(name, reduction, size, dtype, setup, quick)


# ---- rows ----

LENGTHS = (1, 2, 3, 5, 8, 10, 16, 20, 24, 30, 32, 50, 64, 100, 128, 200, 256, 400, 512, 1000, 4096, 32_000, 262_144)
QUICK_LENGTHS = (2, 5, 10, 16, 20, 30, 64, 100, 200, 1000, 4096)
TOTALS = (2**10, 2**14, 2**17, 2**20, 2**24)
INNER: tuple[tuple[Shape, int], ...] = (
    ((16, 21, 64, 64), 1),
    ((16, 1024, 64), 1),
    ((256, 4096), 0),
    ((64, 10), 0),
    ((8, 3, 32, 32), 1),
    ((2, 150, 128, 128), 1),
    ((4, 1000, 7, 7), 1),
    ((1000, 3), 0),
)
ATTENTION: tuple[tuple[Shape, int], ...] = (((8, 12, 128, 128), -1), ((2, 8, 512, 512), -1), ((4, 4, 49, 49), -1))


def times(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def row_shapes() -> Iterator[tuple[Shape, int, bool]]:
    """Shapes, the dimension of the classes, and whether the quick mode measures them."""
    for length in LENGTHS:
        for total in TOTALS:
            if total >= length:
                shape = (max(1, total // length), length)
                yield shape, -1, length in QUICK_LENGTHS and total in (2**14, 2**20)
    yield from ((shape, dim, True) for shape, dim in INNER + ATTENTION)


def softmax(name: str, training: bool, shape: Shape, dim: int, dtype: torch.dtype) -> Problem:
    functions = against(*(partial(getattr(of, name), dim=dim) for of in (F, torch_F)))
    x = torch.randn(shape, dtype=dtype, requires_grad=training)
    if not training:
        return evaluation(functions, (x,), 2 * x.nbytes, ALLOWED[dtype])
    return timing.forward_backward(functions, (x,), torch.randn_like(x), 5 * x.nbytes, ALLOWED[dtype])


def softmaxes() -> Iterator[SweepCase]:
    for name in ("softmax", "log_softmax"):

        def case(
            shape: Shape, dim: int, dtype: torch.dtype, training: bool, quick: bool, *, name: str = name
        ) -> SweepCase:
            label = f"{times(shape)} over {dim % len(shape)}{'' if training else ', evaluation'}"
            setup = partial(softmax, name, training, shape, dim, dtype)
            return SweepCase(name, label, math.prod(shape), dtype, setup, quick)

        for shape, dim, quick in row_shapes():
            yield case(shape, dim, F32, True, quick)
            size = math.prod(shape)
            if size < 2**24:
                quick_half = quick and name == "softmax" and shape[-1] in (10, 16, 30, 64, 128, 1000)
                yield case(shape, dim, BF16, True, quick_half)
            if 2**13 < size < 2**15 or dim >= 0:
                yield case(shape, dim, F64, True, False)
                yield case(shape, dim, F32, False, False)


def cross_entropy(shape: Shape, smoothing: float, dtype: torch.dtype) -> Problem:
    x = torch.randn(shape, dtype=dtype, requires_grad=True)
    target = torch.randint(shape[1], (shape[0], *shape[2:]))
    functions = against(*(partial(f, label_smoothing=smoothing) for f in (F.cross_entropy, torch_F.cross_entropy)))
    return timing.forward_backward(functions, (x, target), torch.ones((), dtype=dtype), 3 * x.nbytes, ALLOWED[dtype])


def cross_entropies() -> Iterator[SweepCase]:
    def case(shape: Shape, dtype: torch.dtype = F32, smoothing: float = 0.0, quick: bool = False) -> SweepCase:
        label = times(shape) + (f", label smoothing {smoothing}" if smoothing else "")
        setup = partial(cross_entropy, shape, smoothing, dtype)
        return SweepCase("cross_entropy", label, math.prod(shape), dtype, setup, quick)

    pixels = [shape for shape, dim in INNER if dim == 1]
    matrices = [(shape, quick) for shape, dim, quick in row_shapes() if dim == -1 and len(shape) == 2]
    for shape, quick in [*matrices, *((shape, True) for shape in pixels)]:
        size = math.prod(shape)
        yield case(shape, quick=quick)
        if size < 2**24:
            yield case(shape, BF16, quick=quick and shape[1] in (10, 16, 21, 64, 1000))
        if 2**13 < size < 2**15:
            yield case(shape, F64)
        if shape[1] in (10, 100, 1000, 32_000):
            yield case(shape, smoothing=0.1)


# ---- layers ----

IMAGES: tuple[Shape, ...] = (
    (32, 64, 56, 56),
    (32, 256, 28, 28),
    (32, 512, 7, 7),
    (128, 2048, 4, 4),
    (2, 64, 112, 112),
    (8, 32, 14, 14),
    (32, 64, 28, 28),
    (64, 3, 32, 32),
    (2, 16, 8, 8),
)
MATRICES: tuple[Shape, ...] = ((16, 8), (128, 64), (256, 1024), (4096, 256), (32, 4096), (1000, 10))


def batch_norm(shape: Shape, last: bool, training: bool, dtype: torch.dtype) -> Problem:
    channels = shape[1]
    x = torch.randn(shape, dtype=dtype)
    if last:
        x = x.contiguous(memory_format=torch.channels_last)
    mean, var = torch.zeros(channels), torch.ones(channels)
    weight, bias = torch.rand(channels) + 0.5, torch.rand(channels) - 0.5
    if dtype == F64:
        mean, var, weight, bias = (t.double() for t in (mean, var, weight, bias))
    inputs = x.requires_grad_(), mean, var, weight.requires_grad_(), bias.requires_grad_()
    functions = against(*(partial(f, training=training) for f in (F.batch_norm, torch_F.batch_norm)))
    allowed = max(ALLOWED[dtype], 1e-3)  # torch sums channels last in float32
    return timing.forward_backward(functions, inputs, torch.randn_like(x), 5 * x.nbytes, allowed)


def batch_norms() -> Iterator[SweepCase]:
    layouts = [(shape, last) for shape in IMAGES for last in (False, True)] + [(shape, False) for shape in MATRICES]
    for shape, last in layouts:
        for training in (True, False):
            for dtype in (F32, BF16, F64):
                if dtype == F64 and math.prod(shape) > 2**21:
                    continue
                label = f"{times(shape)}{', channels last' if last else ''}, {'training' if training else 'evaluation'}"
                setup = partial(batch_norm, shape, last, training, dtype)
                quick = dtype == F32 or (dtype == BF16 and shape == (32, 512, 7, 7))
                yield SweepCase("batch_norm", label, math.prod(shape), dtype, setup, quick)


PRODUCTS: tuple[Shape, ...] = (  # rows, inputs, outputs
    (1, 16, 16),
    (32, 64, 10),
    (64, 64, 128),
    (128, 784, 256),
    (256, 1024, 1024),
    (8192, 128, 128),
    (1024, 768, 3072),
)


def linear(shape: Shape, activation: Any, dtype: torch.dtype) -> Problem:
    rows, inputs, outputs = shape
    after = {None: lambda z: z, "relu": torch.relu, "sigmoid": torch.sigmoid}[activation]
    functions = against(partial(F.linear, activation=activation), lambda *x: after(torch_F.linear(*x)))
    x = torch.randn(rows, inputs, dtype=dtype).requires_grad_()
    weight = (inputs**-0.5 * torch.randn(outputs, inputs, dtype=dtype)).requires_grad_()
    bias = torch.randn(outputs, dtype=dtype).requires_grad_()
    moved = x.itemsize * (4 * rows * inputs + 6 * rows * outputs + 3 * inputs * outputs)
    g = torch.randn(rows, outputs, dtype=dtype)
    return timing.forward_backward(functions, (x, weight, bias), g, moved, ALLOWED[dtype])


def linears() -> Iterator[SweepCase]:
    for shape in PRODUCTS:
        for activation in (None, "relu", "sigmoid"):
            for dtype in (F32, BF16, F64):
                if dtype == F64 and math.prod(shape) > 2**24:
                    continue
                setup = partial(linear, shape, activation, dtype)
                label = f"{shape[0]} x {shape[1]} -> {shape[2]}, {activation or 'no activation'}"
                quick = dtype == F32 and math.prod(shape) < 2**26
                yield SweepCase("linear", label, shape[0] * shape[2], dtype, setup, quick)


def linear_cross_entropy(rows: int, features: int, classes: int, dtype: torch.dtype) -> Problem:
    x = torch.randn(rows, features, dtype=dtype, requires_grad=True)
    weight = (features**-0.5 * torch.randn(classes, features, dtype=dtype)).requires_grad_()
    target = torch.randint(classes, (rows,))
    functions = against(F.linear_cross_entropy, lambda x, w, t: torch_F.cross_entropy(torch_F.linear(x, w), t))
    moved = 2 * (x.nbytes + weight.nbytes)
    return timing.forward_backward(
        functions, (x, weight, target), torch.ones((), dtype=dtype), moved, max(1e-3, ALLOWED[dtype])
    )


def linear_cross_entropies() -> Iterator[SweepCase]:
    for shape in ((128, 64, 10), (32, 16, 2), (1024, 256, 100), (256, 512, 1000), (512, 256, 32_000), (1, 64, 1000)):
        for dtype in (F32, BF16):
            setup = partial(linear_cross_entropy, *shape, dtype)
            label = f"{shape[0]} rows, {shape[1]} features, {shape[2]} classes"
            yield SweepCase("linear_cross_entropy", label, shape[0] * shape[2], dtype, setup, dtype == F32)


# ---- random numbers ----


def noisy(ours: Function, eager: Function, size: int, dtype: torch.dtype) -> Problem:
    problem = noise.forward_backward(against(ours, eager), size, dtype, CPU)
    # Moments of few numbers are a matter of chance.
    return problem if size >= 2**14 else replace(problem, statistics=lambda results: torch.zeros(()))


NOISES: dict[str, tuple[Function, Function]] = {
    "dropout": (F.dropout, torch_F.dropout),
    "gaussian_dropout": (partial(F.gaussian_dropout, sigma=noise.SIGMA), noise.composed),
}


def noises() -> Iterator[SweepCase]:
    for name, (ours, eager) in NOISES.items():
        for dtype, sizes in ((F32, SIZES), (BF16, SIZES[2:-1:2]), (F64, (2**14, 2**20))):
            for size in sizes:
                setup = partial(noisy, ours, eager, size, dtype)
                yield SweepCase(name, "training", size, dtype, setup, size in QUICK_SIZES and dtype != F64)


def fills() -> Iterator[SweepCase]:
    for name in ("uniform_", "normal_", "trunc_normal_"):
        for dtype in (F32, BF16):
            for size in (2**4, 2**10, 2**14, 2**18, 2**22):
                setup = partial(filled, name, size, dtype)
                yield SweepCase(name.rstrip("_"), "fill", size, dtype, setup, dtype == F32)


def filled(name: str, size: int, dtype: torch.dtype) -> Problem:
    weight = torch.empty(size, dtype=dtype)

    def call(function: Function) -> timing.Contender:
        return lambda: (function(weight),)

    calls = {timing.OURS: call(getattr(init, name)), "eager": call(getattr(torch.nn.init, name))}
    return Problem(calls, calls["eager"], weight.nbytes, 1.0, lambda results: torch.zeros(()))


# ---- optimizers ----

LISTS: dict[str, Sequence[Shape]] = {
    "1 tensor of 16": ((16,),),
    "4 tensors of two layers": optimizers.PERCEPTRON,
    "200 small tensors": optimizers.SMALL,
    "1000 tensors of 10": ((10,),) * 1000,
    "1 tensor of 4M": ((2**22,),),
    "64 tensors of 64k": ((2**16,),) * 64,
    "1 tensor of 32M": ((2**25,),),
}
STEPS: dict[str, tuple[optimizers.Kind, optimizers.Kind, dict[str, Any], int]] = {
    "sgd": (optim.SGD, torch.optim.SGD, {}, 3),
    "sgd, momentum": (optim.SGD, torch.optim.SGD, {"momentum": 0.9}, 5),
    "adam": (optim.Adam, torch.optim.Adam, {}, 7),
    "adamw": (optim.AdamW, torch.optim.AdamW, {}, 7),
    "rmsprop": (optim.RMSprop, torch.optim.RMSprop, {}, 5),
}
# So large that a step which is left out exceeds the tolerance, in bfloat16 as well.
LEARNING_RATE = 1.0


def steps() -> Iterator[SweepCase]:
    for label, (ours, theirs, options, streams) in STEPS.items():
        family = label.split(",")[0]
        for list_name, shapes in LISTS.items():
            for dtype in (F32, BF16):
                size = optimizers.total(shapes)
                chosen = options | {"lr": LEARNING_RATE}
                setup = partial(optimizers.stepped, ours, theirs, shapes, streams, chosen, size, dtype, CPU)
                name = ", ".join([list_name, *label.split(", ")[1:]])
                yield SweepCase(family, name, size, dtype, setup, size <= 2**22)


def norms() -> Iterator[SweepCase]:
    for list_name, shapes in LISTS.items():
        size = optimizers.total(shapes)
        yield SweepCase(
            "gradient_norm", list_name, size, F32, partial(optimizers.norms, shapes, size, F32, CPU), size <= 2**22
        )


FAMILIES: tuple[Callable[[], Iterator[SweepCase]], ...] = (
    activations,
    losses,
    softmaxes,
    cross_entropies,
    batch_norms,
    linears,
    linear_cross_entropies,
    noises,
    fills,
    steps,
    norms,
)


def cases() -> Iterator[SweepCase]:
    for family in FAMILIES:
        yield from family()

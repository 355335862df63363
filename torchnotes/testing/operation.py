"""An operation as data: what it computes, and what the checks call it with."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .accuracy import ALONE, CHANCE, Bound

Options = dict[str, Any]
Sample = dict[str, Any]
Shape = tuple[int, ...]
Layout = Callable[[Tensor], Tensor]
LENGTHS = (*range(1, 130), 1023, 1024, 1025, 4097, 32_771)
BATCHES: tuple[Shape, ...] = tuple((67, n) for n in (1, 2, 5, 8, 10, 16, 30, 33, 64, 100, 1000, 5000))
SHAPES: tuple[Shape, ...] = ((), (0,), (1,), (5,), (3, 0, 2), (7, 33), (2, 3, 5, 4), (2, 1, 3, 1, 9))


@dataclass(frozen=True)
class Operation:
    """A differentiable function, as data: what it computes, and what the checks call it with.

    All arguments are passed by name. An argument, or an option, that is a function is called with a shape and returns a
    float64 tensor of random numbers; the tensor requires a gradient if the function has one for it. Options replace
    arguments of the same name.

    Args:
        function: The function to check.
        reference: The same in plain torch operations; run in float64.
        arguments: What to call it with, by name.
        options: Sets of options, each checked by every check.
        more_options: Sets that are checked for values and first derivatives only.
        special: Arguments with zeros, infinities, NaN and the like.
        builtin: torch's own function, the standard for errors, strides and exceptions.
        beyond_torch: Options that the builtin lacks.
        opinfo: Its name among torch's OpInfos.
        shapes: Shapes of the input.
        small: The shape for numeric derivatives.
        laid_out: Shapes for memory layouts.
        lengths: Shapes that reach every length of a loop's remainder.
        special_shapes: Shapes for special values.
        large: Shapes with enough elements for several threads.
        many: A shape with enough elements for the mean error to be certain.
        scales: Factors of the input, when its error is measured.
        benchmarked: Sizes for the benchmark of its name.
        elementwise: Whether each value has an error of its own.
        batched: The arguments whose first dimension is a batch of independent examples, as a function of the options.
        batches: Shapes of such batches.
        bound: How much larger than torch's the error may be.
        output_bound: The same for the output of an elementwise operation.
        mutates: Arguments that are written to.
        saves: Arguments, or "output", that may be saved for the backward pass. By default any.
        saves_besides: How many elements of other tensors may be saved, as a function of the shape.
        smooth: Moves a sample away from kinks.
        output_strides: Whether the output's strides are the builtin's for every layout of the input.
        gradient_strides: Whether the gradient of the input has its strides, or those of the builtin's.
        stateless: Removes from a sample what vmap cannot write to.
        library: The namespace of its operators.
        fusible: Whether compilers see it as torch's operations, which they can fuse with others.
        unchecked: The names of checks that do not apply, and why.
        random: Whether the numbers depend on the dtype, which the reference then gets as ``drawn_in``.
        products: Results of matrix products, whose bits depend on the number of threads where MKL computes them.
        mixes_dtypes: Whether it accepts tensors of several floating-point types where torch refuses them.

    Example:
        >>> from torchnotes.testing import Operation, makers
        >>> operation = Operation(F.tanh, torch.tanh, {"input": makers.normal}, builtin=torch.tanh, saves=("output",))
    """

    function: Callable[..., Any]
    reference: Callable[..., Any]
    arguments: dict[str, Any]
    options: tuple[Options, ...] = ({},)
    more_options: tuple[Options, ...] = ()
    special: tuple[Options, ...] = ()
    builtin: Callable[..., Any] | None = None
    beyond_torch: tuple[str, ...] = ()
    opinfo: str | None = None
    shapes: tuple[Shape, ...] = SHAPES
    small: Shape = (2, 3)
    laid_out: tuple[Shape, ...] = ((2, 3, 5, 4), (6, 35))
    lengths: tuple[Shape, ...] = tuple((n,) for n in LENGTHS)
    special_shapes: tuple[Shape, ...] = ((1,), (29,), (200,))
    large: tuple[Shape, ...] = ((300_007,),)
    many: Shape = (1000, 30)
    scales: tuple[float, ...] = (1.0,)
    benchmarked: tuple[Shape, ...] = ()
    elementwise: bool = False
    batched: Callable[[Options], tuple[str, ...]] = field(default=lambda options: ())
    batches: tuple[Shape, ...] = BATCHES
    bound: Bound = CHANCE
    output_bound: Bound = ALONE
    mutates: tuple[str, ...] = ()
    saves: tuple[str, ...] | None = None
    saves_besides: Callable[[Shape], int] = field(default=lambda shape: 0)
    smooth: Callable[[Sample], Sample] = field(default=lambda sample: sample)
    output_strides: bool = True
    gradient_strides: bool = True
    stateless: Callable[[Sample], Sample] = field(default=lambda sample: sample)
    library: str = "torchnotes"
    fusible: bool = True
    unchecked: dict[str, str] = field(default_factory=dict)
    random: bool = False
    products: tuple[str, ...] = ()
    mixes_dtypes: bool = False

    def sample(
        self,
        options: Options,
        shape: Shape,
        dtype: torch.dtype = torch.float64,
        device: Any = "cpu",
        layout: Layout = lambda x: x,
        scale: float = 1.0,
    ) -> Sample:
        given = {**self.arguments, **options}
        made = {name: value(shape) if callable(value) else value for name, value in given.items()}
        if scale != 1.0:
            made["input"] = (made["input"].detach() * scale).requires_grad_(made["input"].requires_grad)
        return cast(made, dtype, device, layout)

    def samples(self, shape: Shape, *args: Any, options: tuple[Options, ...] | None = None) -> Iterator[Sample]:
        for each in self.options if options is None else options:
            yield self.sample(each, shape, *args)

    def smooth_sample(self, options: Options, device: Any = "cpu") -> Sample:
        """Small, in float64, and away from kinks: for numeric differentiation."""
        return cast(self.smooth(self.sample(options, self.small)), torch.float64, device)

    def widened(self, sample: Sample) -> Sample:
        """The same sample in float64, for the reference."""
        wide = cast(sample, torch.float64, sample["input"].device)
        return {**wide, "drawn_in": sample["input"].dtype} if self.random else wide

    def torchs(self, options: Options) -> Callable[..., Any] | None:
        """torch's own function, if it has these options."""
        return None if set(options) & set(self.beyond_torch) else self.builtin

    def call(self, function: Callable[..., Any], sample: Sample) -> tuple[Any, Sample]:
        """The output, and the arguments after the call. What the call may write to is a copy."""
        given = dict(sample)
        if sample.get("inplace") or sample.get("inplace_backward"):
            given["input"] = sample["input"].clone()
        for name in self.mutates:
            if sample.get(name) is not None:
                given[name] = sample[name].clone()
        return function(**given), given

    def results(self, function: Callable[..., Any], sample: Sample, g: Tensor | None = None) -> dict[str, Tensor]:
        """The output, its gradients along g, and the arguments that were written to."""
        y, given = self.call(function, sample)
        found = {"output": y.detach()}
        if wanted := variables(sample):
            g = torch.ones_like(y) if g is None else g.to(y.dtype)
            gradients = torch.autograd.grad(y, list(wanted.values()), g, allow_unused=True, materialize_grads=True)
            found |= {f"gradient of {name}": dx for name, dx in zip(wanted, gradients, strict=True)}
        return found | {name: given[name] for name in self.mutates if given.get(name) is not None}

    def of_variables(
        self, function: Callable[..., Any], sample: Sample
    ) -> tuple[Callable[..., Any], tuple[Tensor, ...]]:
        """The operation as a function of the tensors that have a gradient, and these."""
        wanted = variables(sample)

        def of_variables(*given: Tensor) -> Any:
            return self.call(function, {**sample, **dict(zip(wanted, given, strict=True))})[0]

        return of_variables, tuple(wanted.values())


def variables(sample: Sample) -> dict[str, Tensor]:
    return {name: x for name, x in sample.items() if isinstance(x, Tensor) and x.requires_grad}


def tensors(sample: Sample) -> dict[str, Tensor]:
    return {name: x for name, x in sample.items() if isinstance(x, Tensor)}


def cast(sample: Sample, dtype: torch.dtype, device: Any = "cpu", layout: Layout = lambda x: x) -> Sample:
    """The same sample with floating-point tensors of another dtype, in another layout."""

    def one(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        kind = dtype if x.is_floating_point() else x.dtype
        return layout(x.detach().to(device, kind)).detach().requires_grad_(x.requires_grad)

    return {name: one(x) for name, x in sample.items()}


def described(options: Options) -> str:
    named = (f"{name}={getattr(value, '__name__', repr(value))}" for name, value in options.items())
    return ", ".join(named) or "defaults"

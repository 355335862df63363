"""Checks of the numbers: the output and the first derivatives, in every layout, at every length, for special values."""

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .accuracy import TOLERANCE, Figures, assert_accurate, compared, errors, judged
from .layouts import LAYOUTS, expanded
from .operation import Operation, Options, Sample, cast, described, tensors, variables
from .running import for_each_option, naming, threads


def _gradient(y: Tensor) -> Tensor:
    return torch.randn(y.shape, dtype=torch.float64).to(y.device, y.dtype)


def output_of(operation: Operation, sample: Sample) -> Tensor:
    with torch.no_grad():
        return operation.call(operation.reference, sample)[0]


def agree(operation: Operation, options: Options, sample: Sample, g: Tensor | None = None) -> None:
    """Output and gradients are those of the reference in float64; the output's strides are the builtin's."""
    exact_sample = operation.widened(sample)
    if g is None:
        g = _gradient(output_of(operation, exact_sample)).to(sample["input"].dtype)
    ours = operation.results(operation.function, sample, g)
    exact = operation.results(operation.reference, exact_sample, g.double())
    torchs = operation.torchs(options)
    theirs = None if torchs is None else operation.results(torchs, sample, g)
    assert_accurate(ours, exact, sample, g, theirs, operation.elementwise)
    if theirs is not None and operation.output_strides:
        assert ours["output"].stride() == theirs["output"].stride(), "the strides of the output differ from torch's"
    if operation.gradient_strides and "gradient of input" in ours and (theirs is not None or operation.builtin is None):
        dx, like = ours["gradient of input"], [torch.empty_like(sample["input"])]
        like += [theirs["gradient of input"]] if theirs is not None else []
        fits = any(_same_strides(dx, other) for other in like)
        assert fits, f"the gradient has strides {dx.stride()}, the input {sample['input'].stride()}"
    with torch.no_grad():  # where no gradient is wanted, other code runs
        y, given = operation.call(operation.function, sample)
    assert_accurate({"output": y}, {"output": exact["output"]}, sample, g, theirs, operation.elementwise)
    if sample.get("inplace"):
        assert y.data_ptr() == given["input"].data_ptr(), "the output has memory of its own"


def _same_strides(x: Tensor, y: Tensor) -> bool:
    """Strides count only where there is a second element."""
    return x.numel() <= 1 or all(a == b for a, b, n in zip(x.stride(), y.stride(), x.shape, strict=True) if n > 1)


def every(operation: Operation) -> tuple[Options, ...]:
    return (*operation.options, *operation.more_options)


def check_values(operation: Operation, dtype: torch.dtype, device: Any) -> None:
    """Every option at every shape."""
    for shape, options in itertools.product(operation.shapes, every(operation)):
        with naming(f"{shape}, {described(options)}"):
            agree(operation, options, operation.sample(options, shape, dtype, device))


def check_layouts(operation: Operation, dtype: torch.dtype, device: Any) -> None:
    """Every pair of layouts of an argument and of the gradient; every argument alone in each layout."""
    layouts = (*LAYOUTS, expanded)
    for shape in operation.laid_out:
        options = operation.options[0]
        plain = operation.sample(options, shape, dtype, device)
        size = output_of(operation, plain).shape
        for layout, layout_of_g in itertools.product(layouts, layouts):
            g = layout_of_g(torch.randn(size, dtype=torch.float64).to(device, dtype))
            if layout is expanded and len(shape) <= 2 and not operation.elementwise:
                continue  # every row is the same: sums cancel
            with naming(f"{layout.__name__} input, {layout_of_g.__name__} gradient, {shape}"):
                agree(operation, options, cast({"input": plain["input"]}, dtype, device, layout) | _rest(plain), g)
        for options in every(operation):
            plain = operation.sample(options, shape, dtype, device)
            for layout in LAYOUTS:
                for name, x in tensors(plain).items():
                    if x.dim():
                        with naming(f"{layout.__name__} {name}, {shape}, {described(options)}"):
                            agree(operation, options, plain | cast({name: x}, dtype, device, layout))
                with naming(f"all {layout.__name__}, {shape}, {described(options)}"):
                    agree(operation, options, cast(plain, dtype, device, layout))


def _rest(sample: Sample) -> Sample:
    return {name: x for name, x in sample.items() if name != "input"}


def check_every_length(operation: Operation, dtype: torch.dtype, device: Any) -> None:
    """Up to several vectors and a tail, not aligned; the neighbors in memory stay what they are."""
    options = operation.options[-1]
    for shape in operation.lengths:
        sample = operation.sample(options, shape, dtype, device)
        memory = torch.full((sample["input"].numel() + 2,), 77.0, dtype=dtype, device=device)
        inside = memory[1:-1].view(sample["input"].shape).copy_(sample["input"].detach())
        with naming(f"{shape}, {described(options)}"):
            agree(operation, options, sample | {"input": inside.requires_grad_()})
            if sample.get("inplace"):
                operation.function(**(sample | {"input": inside.detach()}))
            assert memory[0] == memory[-1] == 77, "the neighbors were overwritten"


def check_special_values(operation: Operation, dtype: torch.dtype, device: Any) -> None:
    """Zeros, infinities, NaN and extremes, each at every place of a vector and in scalar tails."""
    for special, options in itertools.product(operation.special, every(operation)):
        if set(special) & set(options):
            continue
        for shape in operation.special_shapes:
            sample = operation.sample({**options, **special}, shape, dtype, device)
            for g in (1.0, 0.0, -0.3):
                with naming(f"{shape}, {described(options)}, gradient {g}"):
                    y = output_of(operation, sample)
                    agree(operation, options, sample, torch.full_like(y, g))
            if operation.elementwise and (torchs := operation.torchs(options)):
                _check_signs_of_zero(operation, torchs, sample)
                _check_special_gradients(operation, torchs, sample)


def _check_signs_of_zero(operation: Operation, torchs: Callable[..., Any], sample: Sample) -> None:
    ours, theirs = (operation.call(f, sample)[0].detach() for f in (operation.function, torchs))
    assert torch.equal(ours.signbit() & (ours == 0), theirs.signbit() & (theirs == 0)), "the sign of zero differs"


def _check_special_gradients(operation: Operation, torchs: Callable[..., Any], sample: Sample) -> None:
    for number in (float("inf"), float("-inf"), float("nan"), 3e38, 1e-42):
        y = output_of(operation, sample)
        g = torch.full(y.shape, number, dtype=torch.float64, device=y.device).to(y.dtype)
        ours, theirs = (operation.results(f, sample, g) for f in (operation.function, torchs))
        name = "gradient of input"
        # An infinite gradient tells 0 from the least denormal number.
        same = (ours["output"] == theirs["output"]) | ours["output"].isnan()
        exact = operation.results(operation.reference, operation.widened(sample), g.double())[name].to(g.dtype)
        same &= theirs[name].isfinite() | ~exact.isfinite()  # torch may compute inf - inf
        with naming(f"gradient {number}"):  # 1 - y^2 cancels in the builtin for y near 1
            found, expected = ({name: each[name][same]} for each in (ours, theirs))
            assert_accurate(found, expected, sample, None, None, True, least_rtol=1e-7)


def check_error(operation: Operation, dtype: torch.dtype, device: Any) -> Figures | None:
    """Against float64 on many values of every scale, next to the error of torch's own results."""
    measured = []
    for options in operation.options:
        pairs: dict[str, list[tuple[Tensor, Tensor]]] = {}  # our errors and torch's; those of all scales if elementwise
        with naming(described(options)):
            for scale in operation.scales:
                sample = operation.sample(options, operation.many, dtype, device, scale=scale)
                torchs = operation.torchs(options) or operation.reference
                exact_sample = operation.widened(sample)
                g = _gradient(output_of(operation, exact_sample)).to(dtype)
                exact = operation.results(operation.reference, exact_sample, g.double())
                ours, theirs = (operation.results(f, sample, g) for f in (operation.function, torchs))
                if dtype == torch.float64:  # there is no wider type: each errs by up to 1.5 units of the last place
                    if operation.elementwise:
                        torch.testing.assert_close(ours["output"], theirs["output"], rtol=6.7e-16, atol=0.0)
                    continue
                for name, true in exact.items():
                    alone = operation.elementwise and name == "output"
                    what = f"{name}, {described(options)}" + ("" if alone else f", scale {scale:g}")
                    mine, other = (errors(each[name], true, dtype, alone) for each in (ours, theirs))
                    pairs.setdefault(what, []).append((mine, other))
        for what, found in pairs.items():
            mine, other = (torch.cat([x.flatten() for x in of]) for of in zip(*found, strict=True))
            of_output = operation.elementwise and what.startswith("output")
            bound = operation.output_bound if of_output else operation.bound
            measured.append(compared(what, mine, other, bound))
    return judged(measured) if measured else None


def check_threads(operation: Operation, dtype: torch.dtype, device: Any) -> None:
    """The bits do not depend on the number of threads, except those of products where torch's do, too."""
    cases = [(shape, options) for shape in operation.large for options in (operation.options[0], operation.options[-1])]
    cases += [(shape, options) for shape in operation.large[:1] for options in operation.options[1:-1]]

    def varying(function: Callable[..., Any]) -> set[str]:
        found: list[dict[str, Tensor]] = []
        for n in (1, 2, 3, 5):
            with threads(n):
                found.append(operation.results(function, sample, g))
        return {name for name, x in found[0].items() if not all(torch.equal(x, other[name]) for other in found)}

    for shape, options in cases:
        sample = operation.sample(options, shape, dtype, device)
        g = _gradient(output_of(operation, sample))
        names = varying(operation.function)
        if names & set(operation.products) and operation.builtin is not None:
            names -= varying(operation.builtin) & set(operation.products)
        assert not names, f"{', '.join(names)}, {shape}, {described(options)}"


@for_each_option()
def check_place_in_memory(operation: Operation, options: Options, dtype: torch.dtype, device: Any) -> None:
    """An element's bits do not depend on where it is."""
    if not operation.elementwise:
        return
    sample = operation.sample(options, (300_007,), dtype, device)
    g = _gradient(sample["input"].detach())
    part = {name: x.detach()[1:].requires_grad_(x.requires_grad) for name, x in tensors(sample).items()}
    whole = operation.results(operation.function, sample, g)
    rest = operation.results(operation.function, {**sample, **part}, g[1:])
    for name, x in whole.items():
        assert torch.equal(x[1:], rest[name]), name


@for_each_option()
def check_batch_invariance(operation: Operation, options: Options, dtype: torch.dtype, device: Any) -> None:
    """The bits of an example, and of its gradients, do not depend on the rest of the batch."""
    names = operation.batched(options)
    for shape in operation.batches if names else ():
        sample = operation.sample(options, shape, dtype, device)
        y = output_of(operation, sample)
        g = _gradient(y)
        whole = operation.results(operation.function, sample, g)
        results = {"output", *(f"gradient of {name}" for name in names)}
        for some in (slice(0, 1), slice(1, 2), slice(2, 7), slice(5, None)):
            part = {name: sample[name].detach()[some].requires_grad_(sample[name].requires_grad) for name in names}
            alone = operation.results(operation.function, {**sample, **part}, g[some])
            for name in results & set(whole):
                with naming(f"{name}, {some}, {shape}"):
                    assert torch.equal(whole[name][some], alone[name]), "the bits depend on the rest of the batch"


@for_each_option()
def check_second_derivative_values(operation: Operation, options: Options, dtype: torch.dtype, device: Any) -> None:
    """Against float64, in every layout."""
    for layout in (*LAYOUTS, expanded):
        plain = operation.sample(options, operation.laid_out[0], dtype, device)
        sample = plain | cast({"input": plain["input"]}, dtype, device, layout)
        g = layout(_gradient(output_of(operation, sample)))
        along = [layout(_gradient(x.detach())) for x in variables(sample).values()]
        ours = _second(operation, operation.function, sample, g, along)
        wide = operation.widened(sample)
        exact = _second(operation, operation.reference, wide, g.double(), [v.double() for v in along])
        rtol, atol = TOLERANCE[dtype]  # several kernels in a row round several times
        for name, mine, true in zip(("gradient", *variables(sample)), ours, exact, strict=True):
            with naming(f"by {name}, {layout.__name__}"):
                scale = 1 + true.abs().max().item()
                torch.testing.assert_close(mine.double(), true, rtol=8 * rtol, atol=8 * rtol * scale + atol)


def _second(operation: Operation, function: Any, sample: Sample, g: Tensor, along: list[Tensor]) -> tuple[Tensor, ...]:
    wanted = list(variables(sample).values())
    g = g.detach().requires_grad_()
    first = torch.autograd.grad(operation.call(function, sample)[0], wanted, g, create_graph=True)
    differentiable = [(d, v) for d, v in zip(first, along, strict=True) if d.requires_grad]
    derivatives, directions = zip(*differentiable, strict=True)
    return torch.autograd.grad(derivatives, (g, *wanted), directions, allow_unused=True, materialize_grads=True)

"""Checks under torch.compile and torch.export."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .operation import Operation, Options, Sample, Shape, described, tensors, variables
from .running import naming
from .values import every, output_of


@contextmanager
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    try:
        yield
    finally:
        torch._dynamo.reset()


def _cases(operation: Operation) -> list[tuple[Operation, Options, tuple[Shape, ...]]]:
    ordinary = [(operation, options, (operation.small, operation.laid_out[-1])) for options in every(operation)]
    some = (operation.options[0], operation.options[-1])
    pairs = [(each, options) for each in operation.special for options in some if not set(each) & set(options)]
    return ordinary + [(operation, {**options, **each}, operation.special_shapes[-2:]) for each, options in pairs]


def check_compile(*operations: Operation, backend: str = "inductor", device: Any = "cpu") -> None:
    """All options, and special values, in one compiled graph with dynamic shapes, between operations that may fuse."""
    cases = [case for operation in operations for case in _cases(operation)]

    def of_constants(operation: Operation, constants: Sample) -> Callable[..., Tensor]:
        return lambda given: 3 * operation.call(operation.function, {**constants, **given})[0]

    def samples(number: int) -> list[Sample]:
        return [
            operation.sample(options, shapes[number], torch.float32, device) for operation, options, shapes in cases
        ]

    first = samples(0)
    functions = [
        of_constants(operation, {name: x for name, x in sample.items() if not isinstance(x, Tensor)})
        for (operation, *_), sample in zip(cases, first, strict=True)
    ]

    def outputs(given: list[dict[str, Tensor]]) -> list[Tensor]:
        return [function(each) for function, each in zip(functions, given, strict=True)]

    with _fresh_compiler():
        compiled = torch.compile(outputs, fullgraph=True, backend=backend)
        for x in (x for sample in first for x in tensors(sample).values()):
            torch._dynamo.maybe_mark_dynamic(x, list(range(x.dim())))
        for each in (first, samples(1)):
            ys = compiled([tensors(sample) for sample in each])
            gs = [torch.randn_like(y) for y in ys]
            wanted = [x for sample in each for x in variables(sample).values()]
            gradients = iter(torch.autograd.grad(ys, wanted, gs))
            for (operation, options, _), sample, y, g in zip(cases, each, ys, gs, strict=True):
                found = {f"gradient of {name}": next(gradients) for name in variables(sample)}
                with naming(f"{operation.function.__name__}, {described(options)}"):
                    _compare(operation, options, sample, g, {"output": y.detach(), **found})


def _compare(operation: Operation, options: Options, sample: Sample, g: Tensor, found: dict[str, Tensor]) -> None:
    torchs = operation.torchs(options) or operation.reference
    expected = operation.results(torchs, sample, 3 * g)
    expected["output"] = 3 * expected["output"]
    for name, result in found.items():
        with naming(name):
            torch.testing.assert_close(result, expected[name], rtol=2e-5, atol=2e-5, equal_nan=True)


def check_compiled_transforms(operation: Operation, device: Any) -> None:
    """vmap, grad and forward mode, all in one compiled function."""
    sample = operation.stateless(operation.smooth_sample(operation.options[0], device))
    batch = sample["input"].detach()

    def transformed(function: Callable[..., Any], x: Tensor) -> tuple[Tensor, ...]:
        def scalar(x: Tensor) -> Tensor:
            return function(**{**sample, "input": x}).pow(2).sum()

        pair = torch.stack((x, x + 0.5))
        return torch.vmap(scalar)(pair), torch.vmap(torch.func.grad(scalar))(pair), torch.func.jacfwd(scalar)(x)

    sample = {n: x.detach() if isinstance(x, Tensor) else x for n, x in sample.items()}
    with _fresh_compiler():
        compiled = torch.compile(lambda x: transformed(operation.function, x), fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(batch), transformed(operation.reference, batch))


def check_export(operation: Operation, device: Any) -> None:
    """An exported graph computes the same with another size of the first dimension."""
    for options in operation.options[:2]:
        small, other = (
            operation.sample(options, (n, *operation.laid_out[-1][1:]), torch.float32, device) for n in (6, 4)
        )
        names = [n for n in tensors(small) if n not in operation.mutates]
        constants = {n: x for n, x in small.items() if n not in names}

        class Module(torch.nn.Module):
            def forward(self, given: dict[str, Tensor]) -> Tensor:
                return operation.function(**given, **constants)  # noqa: B023 # called in this iteration

        given, others = ({n: each[n].detach() for n in names} for each in (small, other))
        rows = {n: {0: torch.export.Dim.DYNAMIC} if len(x) != len(others[n]) else None for n, x in given.items()}
        exported = torch.export.export(Module(), (given,), dynamic_shapes=(rows,))
        with naming(described(options)):
            for each in (given, others):
                torch.testing.assert_close(exported.module()(each), operation.function(**each, **constants))
            if operation.fusible:
                targets = [str(node.target) for node in exported.graph.nodes if node.op == "call_function"]
                assert targets
                assert not any(operation.library in target for target in targets), f"the graph holds {targets}"


def check_traced_operators(operation: Operation, device: Any) -> None:
    """make_fx without gradients records an operator of the extension that has one: the kernels, not their parts."""
    from torch.fx.experimental.proxy_tensor import make_fx

    sample = operation.sample(operation.options[0], operation.small, torch.float32, device)
    x = sample["input"].detach()
    with torch.no_grad():
        traced = make_fx(lambda x: operation.call(operation.function, {**sample, "input": x})[0])(x)
    torch.testing.assert_close(traced(x), output_of(operation, sample))
    assert any(operation.library in str(node.target) for node in traced.graph.nodes), "no operator is recorded"

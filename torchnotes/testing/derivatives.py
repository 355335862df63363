"""Checks of derivatives of every order, in forward and reverse mode, and under transforms."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad, gradcheck, gradgradcheck

from .operation import Operation, Sample, described, tensors, variables
from .running import naming
from .values import every

MODES: Any = (torch.func.jacfwd, torch.func.jacrev)
EXACT: dict[str, Any] = dict(rtol=1e-10, atol=1e-11)  # float64 against float64


def check_gradient(operation: Operation, device: Any) -> dict[str, Any]:
    """gradcheck in reverse and forward mode, batched too."""
    for options in every(operation):
        function, wanted = operation.of_variables(operation.function, operation.smooth_sample(options, device))
        with naming(described(options)):
            gradcheck(function, wanted, check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True)
    return {"options": len(every(operation))}


def check_second_derivative(operation: Operation, device: Any) -> dict[str, Any]:
    """gradgradcheck in reverse mode, and in forward over reverse mode."""
    for options in operation.options:
        function, wanted = operation.of_variables(operation.function, operation.smooth_sample(options, device))
        with naming(described(options)):
            gradgradcheck(function, wanted, check_fwd_over_rev=True, check_rev_over_rev=True, check_batched_grad=True)
    return {"options": len(operation.options)}


def check_third_derivative(operation: Operation, device: Any) -> None:
    """Each of the first three derivatives is the reference's."""
    for options in operation.options:
        sample = operation.smooth_sample(options, device)
        found = []
        for f in (operation.function, operation.reference):
            function, wanted = operation.of_variables(f, sample)
            y, orders = function(*wanted).pow(3).sum(), []
            for _ in range(3):
                derivative = torch.autograd.grad(
                    y, wanted, create_graph=True, allow_unused=True, materialize_grads=True
                )
                orders.append(derivative)
                y = sum((d.square().sum() for d in derivative), y.new_zeros(()))
            found.append(orders)
        with naming(described(options)):
            torch.testing.assert_close(*found, **EXACT)


def check_compositions(operation: Operation, device: Any) -> None:
    """Every composition of forward and reverse mode up to the third order."""
    for number, options in enumerate(operation.options):
        sample = operation.smooth_sample(options, device)
        directions = [torch.randn_like(x) for x in variables(sample).values()]
        for order in (1, 2, 3) if number in (0, len(operation.options) - 1) else (2,):
            for modes in itertools.product(MODES, repeat=order):
                found = []
                for f in (operation.function, operation.reference):
                    function, wanted = operation.of_variables(f, sample)
                    pairs = [(x.detach(), d) for x, d in zip(wanted, directions, strict=True)]

                    def composed(t: Tensor, function: Any = function, pairs: Any = pairs) -> Tensor:
                        return function(*(x * (1 + t[0]) + d * t[1] for x, d in pairs)).pow(3).sum()

                    derivative: Any = composed
                    for mode in modes:
                        derivative = mode(derivative)
                    found.append(derivative(torch.zeros(2, dtype=torch.float64, device=directions[0].device)))
                with naming(f"{' of '.join(mode.__name__ for mode in modes)}, {described(options)}"):
                    torch.testing.assert_close(*found, **EXACT)


def _subsets(names: Any) -> Iterator[tuple[str, ...]]:
    names = list(names)
    return itertools.chain.from_iterable(itertools.combinations(names, n) for n in range(1, len(names) + 1))


def check_dual_numbers(operation: Operation, device: Any) -> None:
    """Forward mode along every subset of the arguments, and reverse mode over it."""
    for options in operation.options:
        sample = operation.smooth_sample(options, device)
        for moving in _subsets(variables(sample)):
            tangents = {name: torch.randn_like(sample[name]) for name in moving}
            found = []
            for function in (operation.function, operation.reference):
                with forward_ad.dual_level():
                    duals = {name: forward_ad.make_dual(sample[name], t) for name, t in tangents.items()}
                    out = forward_ad.unpack_dual(operation.call(function, {**sample, **duals})[0])
                    assert out.tangent is not None, "the output has no tangent"
                    wanted = list(variables(sample).values())
                    total = out.tangent.square().sum() + 0 * sum(x.sum() for x in wanted)
                    mixed = torch.autograd.grad(total, wanted)
                found.append((out.primal.detach(), out.tangent.detach(), mixed))
            with naming(f"along {', '.join(moving)}, {described(options)}"):
                torch.testing.assert_close(*found, **EXACT)


def check_wanted_gradients(operation: Operation, device: Any) -> None:
    """Every subset of the arguments may want a gradient, and the gradient one of its own."""
    for options in every(operation):
        sample = operation.smooth_sample(options, device)
        for wanted, g_wanted in itertools.product(_subsets(variables(sample)), (False, True)):
            if g_wanted and options in operation.more_options:
                continue
            found = []
            for function in (operation.function, operation.reference):
                torch.manual_seed(1)
                own = {n: x.detach().requires_grad_(n in wanted) for n, x in variables(sample).items()}
                y = operation.call(function, {**sample, **own})[0]
                g = torch.randn(y.shape, dtype=y.dtype).to(y.device).requires_grad_(g_wanted)
                second_order = options not in operation.more_options
                inputs = [own[n] for n in wanted]
                first = torch.autograd.grad(y, inputs, g, create_graph=second_order)
                found.append([d.detach() for d in first])
                differentiable = [d.square().sum() for d in first if d.requires_grad]
                sought = [*inputs, *([g] if g_wanted else [])]
                if second_order and differentiable:
                    total = torch.stack(differentiable).sum()
                    found[-1] += torch.autograd.grad(total, sought, allow_unused=True, materialize_grads=True)
                else:
                    found[-1] += [torch.zeros_like(x) for x in sought]
            with naming(f"for {', '.join(wanted)}, {described(options)}"):
                torch.testing.assert_close(*found, **EXACT)


def check_vmap(operation: Operation, device: Any) -> None:
    """Values and gradients, batched over every subset of the tensors, in the first and the last dimension; nested."""
    for options in operation.options:
        samples = [operation.stateless(operation.smooth_sample(options, device)) for _ in range(6)]
        names = [name for name in tensors(samples[0]) if name not in operation.mutates]
        for batched in _subsets(names):
            for last in (False, True):
                with naming(f"over {', '.join(batched)}, {described(options)}"):
                    _check_batched(operation, samples[:3], batched, last)
        with naming(f"nested, {described(options)}"):
            _check_nested(operation, samples, names)


def _calls(operation: Operation, function: Callable[..., Any], sample: Sample) -> Callable[..., Any]:
    """The output and its gradients, as a function of named tensors."""
    wanted = list(variables(sample))

    def both(given: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        def scalar(own: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
            y = operation.call(function, {**sample, **given, **own})[0]
            return y.square().sum(), y

        own = {name: given[name] if name in given else sample[name] for name in wanted}
        gradients, y = torch.func.grad(scalar, has_aux=True)(own)
        return y, gradients

    return both


def _held(sample: Sample) -> Sample:
    return {name: x.detach() if isinstance(x, Tensor) else x for name, x in sample.items()}


def _one_by_one(operation: Operation, samples: list[Sample], batched: tuple[str, ...]) -> Any:
    results = []
    for each in samples:
        given = {name: each[name].detach() for name in batched}
        results.append(_calls(operation, operation.reference, samples[0])(given))
    outputs, gradients = zip(*results, strict=True)
    return torch.stack(outputs), {name: torch.stack([g[name] for g in gradients]) for name in gradients[0]}


def _check_batched(operation: Operation, samples: list[Sample], batched: tuple[str, ...], last: bool) -> None:
    dims = {name: samples[0][name].dim() if last else 0 for name in batched}
    given = {name: torch.stack([s[name].detach() for s in samples], dims[name]) for name in batched}
    call = _calls(operation, operation.function, samples[0])
    with torch.no_grad():
        plain = torch.vmap(lambda given: operation.call(operation.function, {**_held(samples[0]), **given})[0], (dims,))
        y = plain(given)
    expected = _one_by_one(operation, samples, batched)
    torch.testing.assert_close(torch.vmap(call, (dims,))(given), expected, **EXACT)
    torch.testing.assert_close(y, expected[0], **EXACT)


def _check_nested(operation: Operation, samples: list[Sample], names: list[str]) -> None:
    given = {n: torch.stack([s[n].detach() for s in samples]).unflatten(0, (2, 3)) for n in names}
    outputs, gradients = torch.vmap(torch.vmap(_calls(operation, operation.function, samples[0])))(given)
    expected = _one_by_one(operation, samples, tuple(names))
    found = outputs.flatten(0, 1), {name: g.flatten(0, 1) for name, g in gradients.items()}
    torch.testing.assert_close(found, expected, **EXACT)


ALL: tuple[Callable[..., Any], ...] = (
    check_gradient,
    check_third_derivative,
    check_wanted_gradients,
    check_vmap,
    check_dual_numbers,
    check_compositions,
    check_second_derivative,
)

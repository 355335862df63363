"""Checks of derivatives of every order, in forward and reverse mode, and under transforms."""

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad, gradcheck, gradgradcheck

from .operation import Operation, Options, Sample, tensors, variables
from .running import for_each_option, naming

EXACT: dict[str, Any] = dict(rtol=1e-10, atol=1e-11)  # float64 against float64


@for_each_option(more=True)
def check_gradient(operation: Operation, options: Options, device: Any) -> None:
    """gradcheck in reverse and forward mode, batched too."""
    function, wanted = operation.of_variables(operation.function, operation.smooth_sample(options, device))
    gradcheck(function, wanted, check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True)


@for_each_option()
def check_second_derivative(operation: Operation, options: Options, device: Any) -> None:
    """gradgradcheck in reverse mode, and in forward over reverse mode."""
    function, wanted = operation.of_variables(operation.function, operation.smooth_sample(options, device))
    gradgradcheck(function, wanted, check_fwd_over_rev=True, check_rev_over_rev=True, check_batched_grad=True)


def _assert_equal(operation: Operation, case: str, compute: Callable[[Callable[..., Any]], Any]) -> None:
    """A computation has the same results with the operation and with its reference."""
    with naming(case):
        torch.testing.assert_close(compute(operation.function), compute(operation.reference), **EXACT)


@for_each_option()
def check_third_derivative(operation: Operation, options: Options, device: Any) -> None:
    """Each of the first three derivatives is the reference's."""
    sample = operation.smooth_sample(options, device)

    def derivatives(function: Callable[..., Any]) -> list[tuple[Tensor, ...]]:
        function, wanted = operation.of_variables(function, sample)
        y, orders = function(*wanted).pow(3).sum(), []
        for _ in range(3):
            gradients = torch.autograd.grad(y, wanted, create_graph=True, allow_unused=True, materialize_grads=True)
            orders.append(gradients)
            y = sum((d.square().sum() for d in gradients), y.new_zeros(()))
        return orders

    _assert_equal(operation, "autograd.grad", derivatives)


@for_each_option()
def check_compositions(operation: Operation, options: Options, device: Any) -> None:
    """Every composition of forward and reverse mode up to the third order."""
    sample = operation.smooth_sample(options, device)
    directions = [torch.randn_like(x) for x in variables(sample).values()]

    def derivative(function: Callable[..., Any], modes: Any) -> Tensor:
        function, wanted = operation.of_variables(function, sample)
        pairs = [(x.detach(), d) for x, d in zip(wanted, directions, strict=True)]

        def scalar(t: Tensor) -> Tensor:
            return function(*(x * (1 + t[0]) + d * t[1] for x, d in pairs)).pow(3).sum()

        composed: Any = scalar
        for mode in modes:
            composed = mode(composed)
        return composed(torch.zeros(2, dtype=torch.float64, device=directions[0].device))

    for order in (1, 2, 3) if options in (operation.options[0], operation.options[-1]) else (2,):
        for modes in itertools.product((torch.func.jacfwd, torch.func.jacrev), repeat=order):
            case = " of ".join(mode.__name__ for mode in modes)
            _assert_equal(operation, case, partial(derivative, modes=modes))


def _subsets(names: Any) -> Iterator[tuple[str, ...]]:
    names = list(names)
    return itertools.chain.from_iterable(itertools.combinations(names, n) for n in range(1, len(names) + 1))


@for_each_option()
def check_dual_numbers(operation: Operation, options: Options, device: Any) -> None:
    """Forward mode along every subset of the arguments, and reverse mode over it."""
    sample = operation.smooth_sample(options, device)

    def derivatives(function: Callable[..., Any], tangents: dict[str, Tensor]) -> Any:
        with forward_ad.dual_level():
            duals = {name: forward_ad.make_dual(sample[name], t) for name, t in tangents.items()}
            out = forward_ad.unpack_dual(operation.call(function, {**sample, **duals})[0])
            assert out.tangent is not None, "the output has no tangent"
            wanted = list(variables(sample).values())
            total = out.tangent.square().sum() + 0 * sum(x.sum() for x in wanted)
            return out.primal.detach(), out.tangent.detach(), torch.autograd.grad(total, wanted)

    for names in _subsets(variables(sample)):
        tangents = {name: torch.randn_like(sample[name]) for name in names}
        _assert_equal(operation, f"along {', '.join(names)}", partial(derivatives, tangents=tangents))


@for_each_option(more=True)
def check_wanted_gradients(operation: Operation, options: Options, device: Any) -> None:
    """Every subset of the arguments may require a gradient, and so may the incoming gradient."""
    sample = operation.smooth_sample(options, device)
    second_order = options not in operation.more_options

    def gradients(function: Callable[..., Any], names: tuple[str, ...], g_wanted: bool) -> list[Tensor]:
        torch.manual_seed(1)
        own = {n: x.detach().requires_grad_(n in names) for n, x in variables(sample).items()}
        y = operation.call(function, {**sample, **own})[0]
        g = torch.randn(y.shape, dtype=y.dtype).to(y.device).requires_grad_(g_wanted)
        inputs = [own[n] for n in names]
        first = torch.autograd.grad(y, inputs, g, create_graph=second_order)
        inputs += [g] if g_wanted else []
        differentiable = [d.square().sum() for d in first if d.requires_grad]
        if not differentiable:
            return [*first, *map(torch.zeros_like, inputs)]
        total = torch.stack(differentiable).sum()
        return [*first, *torch.autograd.grad(total, inputs, allow_unused=True, materialize_grads=True)]

    for names in _subsets(variables(sample)):
        for g_wanted in (False, True) if second_order else (False,):
            _assert_equal(operation, f"for {', '.join(names)}", partial(gradients, names=names, g_wanted=g_wanted))


@for_each_option()
def check_vmap(operation: Operation, options: Options, device: Any) -> None:
    """Values and gradients, batched over every subset of the tensors, in the first and the last dimension; nested."""
    samples = [operation.stateless(operation.smooth_sample(options, device)) for _ in range(6)]
    names = [name for name in tensors(samples[0]) if name not in operation.mutates]
    for batched in _subsets(names):
        for last in (False, True):
            with naming(f"over {', '.join(batched)}"):
                _check_batched(operation, samples[:3], batched, last)
    with naming("nested"):
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
    constants = {name: x.detach() if isinstance(x, Tensor) else x for name, x in samples[0].items()}
    with torch.no_grad():
        y = torch.vmap(lambda given: operation.call(operation.function, {**constants, **given})[0], (dims,))(given)
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

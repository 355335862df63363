"""Every operation under all torch.func transforms, nested in each other and in ordinary autograd.

The arguments of the operation depend on a tensor t of the outer graph. A nesting computes derivatives of the operation.
Their derivatives by t are compared with those of the reference.
"""

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.functional import hvp, vhp
from torch.func import functionalize, grad, hessian, jacfwd, jacrev, jvp, linearize, vjp, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from torchnotes import functional
from torchnotes.testing.operations import OPERATIONS

Variables = tuple[Tensor, ...]
Of = Callable[..., Tensor]  # an operation as a function of its variables

CASES = [
    pytest.param(operation, option, id=f"{name}-{i}")
    for name, operation in OPERATIONS.items()
    for i, option in enumerate(operation.options)
    if not option.get("inplace")
]


def summed(f: Of) -> Of:
    return lambda *v: f(*v).pow(3).sum()


def pulled(f: Of, v: Variables, g: Callable[[Tensor], Tensor]) -> Any:
    """The pullback of f, applied to a function g of its result."""
    y, pull = vjp(f, *v)
    return pull(g(y))


def every(v: Variables) -> tuple[int, ...]:
    return tuple(range(len(v)))


def along(v: Variables, t: Tensor) -> Variables:
    return tuple(x * t[0] + 1 for x in v)


def gradient_of(f: Of, v: Variables) -> Any:
    return grad(f, every(v))(*v)


def along_dual_numbers(f: Of, v: Variables, t: Tensor) -> Tensor:
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(f(*map(forward_ad.make_dual, (x * 1 for x in v), along(v, t)))).tangent


def vjp_twice(f: Of, v: Variables, t: Tensor) -> Any:
    """The pullback of the pullback. Each is called after its level has ended."""
    y, pull = vjp(f, *v)
    gradients, pull_again = vjp(lambda g: pull(g), torch.ones_like(y) * t[0])
    return gradients, pull_again(gradients)


def vjp_of_a_pullback(f: Of, v: Variables, t: Tensor) -> Any:
    gradients, pull = vjp(lambda *v: pulled(f, v, lambda y: torch.ones_like(y) * t[0]), *v)
    return gradients, pull(gradients)


def vmap_of_grad(f: Of, v: Variables, t: Tensor) -> Any:
    first, *others = v
    many = torch.stack([first, first + t[0], first * t[1]])
    return vmap(grad(summed(f)), (0, *[None] * len(others)))(many, *others)


def grad_of_vmap(f: Of, v: Variables, t: Tensor) -> Any:
    *others, last = v
    y, pull = vjp(summed(vmap(lambda last: f(*others, last))), torch.stack([last, last + t[0]]))
    return y, pull(t[1])


def tensors_that_outlive_their_level(f: Of, v: Variables, t: Tensor) -> Any:
    kept: list[Tensor] = []
    gradient_of(lambda *v: kept.extend(v) or f(*v).sum(), v)
    return f(*kept), pulled(f, tuple(kept), lambda y: torch.ones_like(y) * t[0])


def linearized(f: Of, v: Variables, t: Tensor) -> Any:
    y, tangent = linearize(f, *v)
    return y, tangent(*along(v, t))


def linearized_pullback(f: Of, v: Variables, t: Tensor) -> Any:
    y, pull = vjp(f, *v)
    gradients, tangent = linearize(lambda g: pull(g), torch.ones_like(y) * t[0])
    return gradients, tangent(torch.ones_like(y) * t[0] * t[1])


def jacobians_of_a_pullback(f: Of, v: Variables, t: Tensor) -> Any:
    y, pull = vjp(f, *v)
    return [jacobian(lambda g: pull(g * t[1]))(torch.ones_like(y) * t[0]) for jacobian in (jacrev, jacfwd)]


def hessian_of_a_pullback(f: Of, v: Variables, t: Tensor) -> Any:
    def length(s: Tensor) -> Tensor:
        return sum(g.pow(2).sum() for g in pulled(f, tuple(x * s for x in v), lambda y: torch.ones_like(y) * s))

    return hessian(length)(t[0])


def pullback_of_dual_numbers(f: Of, v: Variables, t: Tensor) -> Any:
    with forward_ad.dual_level():
        gradients = pulled(f, v, lambda y: forward_ad.make_dual(torch.ones_like(y) * t[0], torch.ones_like(y) * t[1]))
        return [forward_ad.unpack_dual(g).tangent for g in gradients]


def hooks_of_saved_tensors(f: Of, v: Variables, t: Tensor) -> Any:
    with torch.autograd.graph.save_on_cpu():
        y, dy = jvp(f, v, along(v, t))
        return y, dy, torch.autograd.grad(y.pow(2).sum(), v, create_graph=True)


def batched_gradients(f: Of, v: Variables, t: Tensor) -> Any:
    y = f(*v)
    g = torch.stack([torch.ones_like(y) * t[0], torch.ones_like(y) * t[1]])
    return torch.autograd.grad(y, v, g, is_grads_batched=True, create_graph=True)


def by_checkpoint(f: Of, v: Variables, t: Tensor) -> Any:
    y = checkpoint(f, *v, use_reentrant=False)
    return y, torch.autograd.grad(y.pow(2).sum(), v, create_graph=True)


NESTINGS: dict[str, Callable[[Of, Variables, Tensor], Any]] = {
    "jvp": lambda f, v, t: jvp(f, v, along(v, t)),
    "jvp of grad": lambda f, v, t: jvp(grad(summed(f), every(v)), v, along(v, t)),
    "grad of jvp": lambda f, v, t: gradient_of(lambda *v: jvp(f, v, along(v, t))[1].pow(2).sum(), v),
    "jacfwd": lambda f, v, t: jacfwd(f, every(v))(*v),
    "hessian": lambda f, v, t: hessian(summed(f), every(v))(*v),
    "grad of dual numbers": lambda f, v, t: gradient_of(lambda *v: along_dual_numbers(f, v, t).pow(2).sum(), v),
    "vmap of grad of dual numbers": lambda f, v, t: vmap(
        lambda s: NESTINGS["grad of dual numbers"](f, tuple(x * s for x in v), t)
    )(t),
    "hvp and vhp": lambda f, v, t: [
        product(lambda *v: f(*v).pow(2).sum(), v, v, create_graph=True) for product in (hvp, vhp)
    ],
    "functionalize": lambda f, v, t: functionalize(lambda *v: (f(*v), pulled(f, v, lambda y: torch.ones_like(y) * 2)))(
        *v
    ),
} | {
    f.__name__: f
    for f in (
        *(vjp_twice, vjp_of_a_pullback, vmap_of_grad, grad_of_vmap, tensors_that_outlive_their_level, linearized),
        *(linearized_pullback, jacobians_of_a_pullback, hessian_of_a_pullback, pullback_of_dual_numbers),
        *(hooks_of_saved_tensors, batched_gradients, by_checkpoint),
    )
}


def as_linearized(f: Of, v: Variables, t: Tensor) -> Any:
    return f(*v), jvp(f, tuple(x.detach() for x in v), along(v, t))[1]


def as_linearized_pullback(f: Of, v: Variables, t: Tensor) -> Any:
    (y, pull), (_, pull_of_constants) = vjp(f, *v), vjp(f, *(x.detach() for x in v))
    return pull(torch.ones_like(y) * t[0]), pull_of_constants(torch.ones_like(y) * t[0] * t[1])


# Equivalents of torch.func.linearize, for the reference. linearize traces with everything else as constants, and takes
# as long as all other nestings together.
CHEAPER = {"linearized": as_linearized, "linearized_pullback": as_linearized_pullback}


def derivative(f: Of, v: Variables, nesting: Callable) -> list[Tensor]:
    t = torch.tensor([0.9, 1.1], dtype=torch.float64, requires_grad=True)
    v = tuple(x.detach() * t[i % 2] for i, x in enumerate(v))
    results = torch.utils._pytree.tree_leaves(nesting(f, v, t))
    penalty = sum(((x.cos() * 0.1).sum() for x in results), 0 * t.sum())  # so that constant results have a derivative
    return [x.detach() for x in results] + list(torch.autograd.grad(penalty, t))


def assert_derivatives(ours: Of, theirs: Of, v: Variables, names: Iterable[str]) -> None:
    for name in names:
        found = derivative(ours, v, NESTINGS[name])
        expected = derivative(theirs, v, CHEAPER.get(name, NESTINGS[name]))
        assert_close(found, expected, rtol=1e-9, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node")  # raised by linearize
@pytest.mark.parametrize(("operation", "option"), CASES)
def test_derivatives_of_nested_transforms(operation, option):
    sample = operation.stateless(operation.smooth_sample(option))
    ours, v = operation.of_variables(operation.function, sample)
    theirs, _ = operation.of_variables(operation.reference, sample)
    nestings = [one for one in NESTINGS if one != "linearized_pullback" or option is operation.options[0]]
    assert_derivatives(ours, theirs, v, nestings)


@pytest.mark.parametrize(("operation", "option"), CASES)
def test_a_graph_is_recorded_only_if_gradients_are_required(operation, option):
    f, v = operation.of_variables(operation.function, operation.smooth_sample(option))
    with torch.no_grad():
        results = [*jvp(f, v, v), *jacfwd(f, every(v))(*v), *jacrev(f, every(v))(*v)]
        results += grad(lambda *v: jvp(f, v, v)[1].sum(), every(v))(*v)
    assert not any(x.requires_grad for x in results)
    recorded, direct = (torch.autograd.grad(g(*v).pow(2).sum(), v) for g in (make_fx(f)(*v), f))
    assert_close(recorded, direct)


@pytest.mark.parametrize("name", ("relu", "leaky_relu"))
def test_inputs_after_in_place_operations(name):
    def results(function: Of, **inplace: bool) -> list[Tensor]:
        def left(x: Tensor) -> Tensor:
            y = x * x.sign() * x
            z = function(y, **inplace)
            return y if inplace else z

        def along(x: Tensor) -> Tensor:
            return jvp(left, (x,), (x.cos(),))[1].sum()

        x = torch.tensor([0.5, -2.0], dtype=torch.float64, requires_grad=True)
        dual = along_dual_numbers(left, (x,), x).sum()
        gradients = [grad(along)(x), *torch.autograd.grad(along(x), x), *torch.autograd.grad(dual, x)]
        return [vmap(left)(x), jacrev(left)(x), *gradients]

    assert_close(results(getattr(functional, name), inplace=True), results(getattr(torch.nn.functional, name)))


@pytest.mark.parametrize("option", ({}, {"label_smoothing": 0.1}, {"z_loss": 0.1}), ids=str)
def test_samples_without_a_target_have_zero_gradient(option):
    x, weight = torch.randn(3, 4), torch.rand(4)
    loss = grad(lambda z, t: functional.cross_entropy(z[None], t[None], weight=weight, **option))
    gradients = vmap(loss)(x, torch.tensor([1, -100, 3]))
    assert torch.equal(gradients[1], torch.zeros(4))
    assert gradients[::2].all()


def test_derivatives_of_an_empty_batch():
    x, t = torch.zeros(0, 3, requires_grad=True), torch.zeros(0, dtype=torch.int64)
    assert jacrev(lambda x: functional.cross_entropy(x, t, reduction="none"))(x).shape == (0, 0, 3)
    for name in ("mse_loss", "binary_cross_entropy_with_logits", "cross_entropy"):
        g = torch.ones((), requires_grad=True)
        loss = getattr(functional, name)(x, torch.zeros(0, 3))
        (d_x,) = torch.autograd.grad(loss, x, g, create_graph=True)
        (d_g,) = torch.autograd.grad(d_x, g, torch.zeros(0, 3), materialize_grads=True)
        assert d_g == 0, name

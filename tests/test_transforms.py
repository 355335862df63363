"""Every operation under every torch.func transform, nested in ordinary autograd and in each other.

The arguments of an operation depend on a tensor t of the outer graph. A nesting computes derivatives of the operation,
of which the derivative by t is taken in turn and compared with that of the reference.
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

from checks import activate
from torchnotes import functional
from torchnotes.cli._check_operations import Operation, call, cast
from torchnotes.cli._checked import DIFFERENTIABLE

Variables = tuple[Tensor, ...]
Of = Callable[..., Tensor]  # an operation of its variables

CASES = [
    pytest.param(name, record, option, id=f"{name}-{i}")
    for name, record in DIFFERENTIABLE.items()
    if isinstance(record, Operation)
    for i, option in enumerate(record.options)
    if not option.get("inplace")
]


def batch_norm(
    input, running_mean, running_var, weight, bias, training, momentum=0.1, eps=1e-5, center_only=False, **activation
):
    shape, dims = (1, -1, *[1] * (input.dim() - 2)), [0, *range(2, input.dim())]
    mean = input.mean(dims) if training else running_mean
    z = input - mean.view(shape)
    if not center_only:
        variance = z.square().mean(dims) if training else running_var
        z = z / (variance.view(shape) + eps).sqrt()
    return activated(z * weight.view(shape) + bias.view(shape), **activation)


def activated(z, activation=None, negative_slope=0.01):
    return activate(z, activation, negative_slope)


def mse_loss(input, target, reduction="mean", weight=None):
    loss = (input - target) ** 2 if weight is None else weight * (input - target) ** 2
    if reduction == "none":
        return loss
    return loss.sum() / (1 if reduction == "sum" else loss.numel() if weight is None else weight.sum())


def cross_entropy(
    input,
    target,
    weight=None,
    reduction="mean",
    label_smoothing=0.0,
    z_loss=0.0,
    logit_softcap=None,
    ignore_index=-100,
):
    u = input if logit_softcap is None else logit_softcap * torch.tanh(input / logit_softcap)
    counts = torch.ones(len(u), dtype=u.dtype) if target.shape == u.shape else (target != ignore_index).to(u.dtype)
    q = target if target.shape == u.shape else torch.eye(u.shape[1], dtype=u.dtype)[target.clamp(0)]
    w = torch.ones(u.shape[1], dtype=u.dtype) if weight is None else weight
    of_row = counts if target.shape == u.shape else counts * (w * q).sum(1)
    a = counts[:, None] * w * ((1 - label_smoothing) * q + label_smoothing / u.shape[1])
    lse = u.exp().sum(1).log()
    losses = (a * (lse[:, None] - u)).sum(1) + z_loss * a.sum(1) * lse**2
    return losses if reduction == "none" else losses.sum() / (of_row.sum() if reduction == "mean" else 1)


def linear_cross_entropy(input, linear_weight, target, linear_bias=0.0, options=None, **rest):
    return cross_entropy(input @ linear_weight.T + linear_bias, target, **rest)


# torch's third derivative of batch_norm is wrong, its mse_loss writes results of wrong sizes under vmap, and its
# linearize cannot trace the label smoothing of its cross_entropy.
REFERENCES = {
    "batch_norm": batch_norm,
    "mse_loss": mse_loss,
    "cross_entropy": cross_entropy,
    "linear_cross_entropy": linear_cross_entropy,
}


def summed(f: Of) -> Of:
    return lambda *v: f(*v).pow(3).sum()


def pulled(f: Of, v: Variables, g: Callable[[Tensor], Tensor]) -> Any:
    """The gradients of f along g of its result."""
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
    """The pullback of the pullback, of which each is called when its level has ended."""
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


# torch.func.linearize traces, with what it does not differentiate by as constants, and takes as long as all others.
CHEAPER = {"linearized": as_linearized, "linearized_pullback": as_linearized_pullback}


def sample_of(record: Operation, option: dict) -> dict:
    (sample,) = (cast(one, torch.float64, torch.device("cpu")) for one in record.samples((option,), (2, 3)))
    return sample


def variables_of(function: Of, sample: dict) -> tuple[Of, Variables]:
    """The operation as a function of the tensors that want a gradient, and these."""
    names = [name for name, x in sample.items() if isinstance(x, Tensor) and x.requires_grad]

    def of_variables(*v: Tensor) -> Tensor:
        return call(function, {**sample, **dict(zip(names, v, strict=True))})[0]

    return of_variables, tuple(sample[name] for name in names)


def derivative(function: Of, sample: dict, nesting: Callable) -> list[Tensor]:
    t = torch.tensor([0.9, 1.1], dtype=torch.float64, requires_grad=True)
    of_variables, v = variables_of(function, sample)
    results = torch.utils._pytree.tree_leaves(
        nesting(of_variables, tuple(x.detach() * t[i % 2] for i, x in enumerate(v)), t)
    )
    penalty = sum(((x.cos() * 0.1).sum() for x in results), 0 * t.sum())  # of constants too there is a derivative
    return [x.detach() for x in results] + list(torch.autograd.grad(penalty, t))


def assert_derivatives(ours: Of, theirs: Of, sample: dict, names: Iterable[str]) -> None:
    for name in names:
        found = derivative(ours, sample, NESTINGS[name])
        expected = derivative(theirs, sample, CHEAPER.get(name, NESTINGS[name]))
        assert_close(found, expected, rtol=1e-9, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node")  # of linearize itself
@pytest.mark.parametrize(("name", "record", "option"), CASES)
def test_derivatives_of_nested_transforms(name, record, option):
    sample = sample_of(record, option)
    if sample.get("training"):  # vmap refuses to update them
        sample |= dict(running_mean=None, running_var=None)
    nestings = [one for one in NESTINGS if one != "linearized_pullback" or option is record.options[0]]
    assert_derivatives(getattr(functional, name), REFERENCES.get(name, record.reference), sample, nestings)


@pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node")
@pytest.mark.parametrize("name", ("dropout", "gaussian_dropout"))
def test_derivatives_of_noise(name):
    def noisy(input: Tensor) -> Tensor:
        return getattr(functional, name)(input, 0.4, generator=torch.tensor([7, 9]))

    factor = noisy(torch.ones(2, 3, dtype=torch.float64))
    sample = {"input": torch.randn(2, 3, dtype=torch.float64, requires_grad=True)}
    nestings = [one for one in NESTINGS if "vmap" not in one and "jac" not in one]
    assert_derivatives(noisy, lambda input: factor * input, sample, nestings)


@pytest.mark.parametrize(("name", "record", "option"), CASES)
def test_a_graph_is_recorded_where_gradients_are_wanted_alone(name, record, option):
    f, v = variables_of(getattr(functional, name), sample_of(record, option))
    with torch.no_grad():
        results = [*jvp(f, v, v), *jacfwd(f, every(v))(*v), *jacrev(f, every(v))(*v)]
        results += grad(lambda *v: jvp(f, v, v)[1].sum(), every(v))(*v)
    assert not any(x.requires_grad for x in results)
    recorded, direct = (torch.autograd.grad(g(*v).pow(2).sum(), v) for g in (make_fx(f)(*v), f))
    assert_close(recorded, direct)


@pytest.mark.parametrize("name", ("relu", "leaky_relu"))
def test_what_is_left_of_an_input_that_is_written_over(name):
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
def test_samples_without_a_target_have_a_gradient_of_zero(option):
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

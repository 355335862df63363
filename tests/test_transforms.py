"""Every operation under every torch.func transform, nested in ordinary autograd and in each other.

The arguments of an operation depend on a tensor t of the outer graph. A nesting computes derivatives of the operation,
of which the derivative by t is taken in turn and compared with that of the reference.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.functional import vhp
from torch.func import functionalize, grad, hessian, jacfwd, jacrev, jvp, linearize, vjp, vmap
from torch.fx.experimental.proxy_tensor import make_fx
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


def ones_along(y: Tensor, t: Tensor) -> Tensor:
    return torch.ones_like(y) * t[0]


def every(v: Variables) -> tuple[int, ...]:
    return tuple(range(len(v)))


def by_vjp(f: Of, v: Variables, t: Tensor) -> Any:
    y, pull = vjp(f, *v)
    return y, pull(ones_along(y, t))


def by_vjp_twice(f: Of, v: Variables, t: Tensor) -> Any:
    """The pullback of the pullback, of which each is called when its level has ended."""
    y, pull = vjp(f, *v)
    gradients, pull_again = vjp(lambda g: pull(g), ones_along(y, t))
    return gradients, pull_again(gradients)


def by_vjp_of_a_pullback(f: Of, v: Variables, t: Tensor) -> Any:
    def pulled(*v: Tensor) -> Any:
        y, pull = vjp(f, *v)
        return pull(ones_along(y, t))

    gradients, pull = vjp(pulled, *v)
    return gradients, pull(gradients)


def by_grad(f: Of, v: Variables, t: Tensor) -> Any:
    return grad(summed(f), every(v))(*v)


def by_jvp(f: Of, v: Variables, t: Tensor) -> Any:
    return jvp(f, v, tuple(x * t[0] + 1 for x in v))


def by_linearize(f: Of, v: Variables, t: Tensor) -> Any:
    y, along = linearize(f, *v)
    return y, along(*(x * t[0] + 1 for x in v))


def by_jvp_of_grad(f: Of, v: Variables, t: Tensor) -> Any:
    return jvp(grad(summed(f), every(v)), v, tuple(x * t[0] + 1 for x in v))


def by_grad_of_jvp(f: Of, v: Variables, t: Tensor) -> Any:
    def along(*v: Tensor) -> Tensor:
        return jvp(f, v, tuple(x * t[0] + 1 for x in v))[1].pow(2).sum()

    return grad(along, every(v))(*v)


def by_jacrev(f: Of, v: Variables, t: Tensor) -> Any:
    return jacrev(f, every(v))(*v)


def by_jacfwd(f: Of, v: Variables, t: Tensor) -> Any:
    return jacfwd(f, every(v))(*v)


def by_hessian(f: Of, v: Variables, t: Tensor) -> Any:
    return hessian(summed(f), every(v))(*v)


def by_vmap_of_grad(f: Of, v: Variables, t: Tensor) -> Any:
    first, *others = v
    many = torch.stack([first, first + t[0], first * t[1]])
    return vmap(grad(summed(f)), (0, *[None] * len(others)))(many, *others)


def by_grad_of_vmap(f: Of, v: Variables, t: Tensor) -> Any:
    *others, last = v

    def of_many(many: Tensor) -> Tensor:
        return vmap(lambda last: f(*others, last))(many).pow(3).sum()

    y, pull = vjp(of_many, torch.stack([last, last + t[0]]))
    return y, pull(t[1])


def by_tensors_that_outlive_their_level(f: Of, v: Variables, t: Tensor) -> Any:
    kept: list[Tensor] = []

    def keeping(*v: Tensor) -> Tensor:
        kept.extend(v)
        return f(*v).sum()

    grad(keeping, every(v))(*v)
    y, pull = vjp(f, *kept)
    return f(*kept), y, pull(ones_along(y, t))


def by_linearized_pullback(f: Of, v: Variables, t: Tensor) -> Any:
    y, pull = vjp(f, *v)
    gradients, along = linearize(lambda g: pull(g), ones_along(y, t))
    return gradients, along(ones_along(y, t) * t[1])


def by_jacobians_of_a_pullback(f: Of, v: Variables, t: Tensor) -> Any:
    y, pull = vjp(f, *v)
    return [jacobian(lambda g: pull(g * t[1]))(ones_along(y, t)) for jacobian in (jacrev, jacfwd)]


def by_hessian_of_a_pullback(f: Of, v: Variables, t: Tensor) -> Any:
    def length(s: Tensor) -> Tensor:
        y, pull = vjp(f, *(x * s for x in v))
        return sum(g.pow(2).sum() for g in pull(torch.ones_like(y) * s))

    return hessian(length)(t[0])


def by_pullback_of_dual_numbers(f: Of, v: Variables, t: Tensor) -> Any:
    y, pull = vjp(f, *v)
    with forward_ad.dual_level():
        gradients = pull(forward_ad.make_dual(ones_along(y, t), ones_along(y, t) * t[1]))
        return [forward_ad.unpack_dual(g).tangent for g in gradients]


def along_dual_numbers(f: Of, v: Variables, t: Tensor) -> Tensor:
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(f(*(forward_ad.make_dual(x * 1, x * t[0] + 1) for x in v))).tangent


def by_grad_of_dual_numbers(f: Of, v: Variables, t: Tensor) -> Any:
    return grad(lambda *v: along_dual_numbers(f, v, t).pow(2).sum(), every(v))(*v)


def by_vmap_of_grad_of_dual_numbers(f: Of, v: Variables, t: Tensor) -> Any:
    def gradient(s: Tensor) -> Any:
        return grad(lambda *v: along_dual_numbers(f, v, t).pow(2).sum(), every(v))(*(x * s for x in v))

    return vmap(gradient)(t)


def by_hooks_of_saved_tensors(f: Of, v: Variables, t: Tensor) -> Any:
    with torch.autograd.graph.save_on_cpu():
        y, dy = jvp(f, v, tuple(x * t[0] + 1 for x in v))
        return y, dy, torch.autograd.grad(y.pow(2).sum(), v, create_graph=True)


def by_batched_gradients(f: Of, v: Variables, t: Tensor) -> Any:
    y = f(*v)
    g = torch.stack([ones_along(y, t), torch.ones_like(y) * t[1]])
    return torch.autograd.grad(y, v, g, is_grads_batched=True, create_graph=True)


def by_autograd_functional(f: Of, v: Variables, t: Tensor) -> Any:
    def length(*v: Tensor) -> Tensor:
        return f(*v).pow(2).sum()

    return [product(length, v, v, create_graph=True) for product in (torch.autograd.functional.hvp, vhp)]


def by_functionalize(f: Of, v: Variables, t: Tensor) -> Any:
    def pulled(*v: Tensor) -> Any:
        y, pull = vjp(f, *v)
        return y, pull(torch.ones_like(y) * 2)

    return functionalize(pulled)(*v)


def by_checkpoint(f: Of, v: Variables, t: Tensor) -> Any:
    y = checkpoint(f, *v, use_reentrant=False)
    return y, torch.autograd.grad(y.pow(2).sum(), v, create_graph=True)


NESTINGS = [f for name, f in list(globals().items()) if name.startswith("by_")]


def derivative(function: Of, sample: dict, nesting: Callable) -> list[Tensor]:
    t = torch.tensor([0.9, 1.1], dtype=torch.float64, requires_grad=True)
    names = [name for name, x in sample.items() if isinstance(x, Tensor) and x.requires_grad]

    def of_variables(*v: Tensor) -> Tensor:
        return call(function, {**sample, **dict(zip(names, v, strict=True))})[0]

    variables = tuple(sample[name].detach() * t[i % 2] for i, name in enumerate(names))
    results = torch.utils._pytree.tree_leaves(nesting(of_variables, variables, t))
    penalty = sum(((x.cos() * 0.1).sum() for x in results), 0 * t.sum())  # of constants too there is a derivative
    return [x.detach() for x in results] + list(torch.autograd.grad(penalty, t))


@pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node")  # of linearize itself
@pytest.mark.parametrize("nesting", NESTINGS, ids=lambda f: f.__name__)
@pytest.mark.parametrize(("name", "record", "option"), CASES)
def test_derivatives_of_nested_transforms(name, record, option, nesting):
    (sample,) = (cast(one, torch.float64, torch.device("cpu")) for one in record.samples((option,), (2, 3)))
    if sample.get("training"):  # vmap refuses to update them
        sample |= dict(running_mean=None, running_var=None)
    reference = REFERENCES.get(name, record.reference)
    ours, theirs = (derivative(f, sample, nesting) for f in (getattr(functional, name), reference))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(("name", "record", "option"), CASES)
def test_no_graph_is_recorded_without_grad(name, record, option):
    (sample,) = (cast(one, torch.float64, torch.device("cpu")) for one in record.samples((option,), (2, 3)))
    names = [name for name, x in sample.items() if isinstance(x, Tensor) and x.requires_grad]

    def of_variables(*v: Tensor) -> Tensor:
        return call(getattr(functional, name), {**sample, **dict(zip(names, v, strict=True))})[0]

    v = tuple(sample[name] for name in names)
    with torch.no_grad():
        results = [*jvp(of_variables, v, v), *jacfwd(of_variables, every(v))(*v), *jacrev(of_variables, every(v))(*v)]
        results += grad(lambda *v: jvp(of_variables, v, v)[1].sum(), every(v))(*v)
    assert not any(x.requires_grad for x in results)


@pytest.mark.parametrize("name", ("relu", "leaky_relu"))
def test_reverse_over_forward_mode_in_place(name):
    def gradients(function: Of, **inplace: bool) -> list[Tensor]:
        x = torch.tensor([0.5, -2.0], dtype=torch.float64, requires_grad=True)

        def along(x: Tensor) -> Tensor:
            return jvp(lambda x: function(x * x.sign() * x, **inplace), (x,), (x.cos(),))[1].sum()

        dual = along_dual_numbers(lambda x: function(x * x.sign() * x, **inplace), (x,), x).sum()
        return [grad(along)(x), *torch.autograd.grad(along(x), x), *torch.autograd.grad(dual, x)]

    ours = gradients(getattr(functional, name), inplace=True)
    torch.testing.assert_close(ours, gradients(getattr(torch.nn.functional, name)))


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


@pytest.mark.parametrize(("name", "record", "option"), CASES)
def test_a_graph_of_make_fx_has_derivatives(name, record, option):
    (sample,) = (cast(one, torch.float64, torch.device("cpu")) for one in record.samples((option,), (2, 3)))
    names = [name for name, x in sample.items() if isinstance(x, Tensor) and x.requires_grad]
    v = tuple(sample[name] for name in names)

    def of_variables(*v: Tensor) -> Tensor:
        return call(getattr(functional, name), {**sample, **dict(zip(names, v, strict=True))})[0]

    recorded, direct = (torch.autograd.grad(f(*v).pow(2).sum(), v) for f in (make_fx(of_variables)(*v), of_variables))
    torch.testing.assert_close(recorded, direct)


@pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node")
@pytest.mark.parametrize("nesting", [f for f in NESTINGS if "vmap" not in f.__name__ and "jac" not in f.__name__])
@pytest.mark.parametrize("name", ("dropout", "gaussian_dropout"))
def test_derivatives_of_noise(name, nesting):
    sample = {"input": torch.randn(2, 3, dtype=torch.float64, requires_grad=True)}
    key = torch.tensor([7, 9])

    def noisy(input):
        return getattr(functional, name)(input, 0.4, generator=key)

    factor = noisy(torch.ones(2, 3, dtype=torch.float64))
    ours, theirs = (derivative(f, sample, nesting) for f in (noisy, lambda input: factor * input))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)

"""Newton: row 28 of the notes, regressions compared with scikit-learn, and losses that are hard to minimize."""

import copy
import itertools
import math
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits
from torch import Tensor

import torchnotes.functional as F
from checks import threads
from torchnotes import nn
from torchnotes.optim.newton import Newton

BOTH = pytest.mark.parametrize("method", ("exact", "cg"))


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """The problems are too small for several threads, which would wait for each other on a busy machine."""
    with threads(1), threadpool_limits(1):
        yield


def leaf(*values: float, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(values, dtype=dtype, requires_grad=True)


def trajectory(parameters: list[Tensor], loss: Callable[[], Tensor], changes: int, **options) -> list[Tensor]:
    """The concatenated parameters at the start and after each change, until it stops."""
    optimizer = Newton(parameters, max_iter=1, **options)
    points, losses = [torch.cat([p.detach().flatten() for p in parameters])], [loss().item()]
    for _ in range(changes):
        optimizer.step(loss)
        if optimizer.report.iterations == 0:
            break
        points.append(torch.cat([p.detach().flatten() for p in parameters]))
        losses.append(loss().item())
        assert optimizer.report.loss == losses[-1] <= losses[-2]
    return points


def rosenbrock(x: Tensor) -> Tensor:
    return (1 - x[0]).square() + 100 * (x[1] - x[0].square()).square()


def saddle(x: Tensor) -> Tensor:
    return x[0].square() - x[1].square() + x[1].pow(4) / 4


@BOTH
@pytest.mark.parametrize(
    ("f", "start", "minimum", "step", "C"),
    (
        (lambda x: x.exp() - 2 * x, 1.0, math.log(2), lambda x: (math.exp(x) - 2) / math.exp(x), 1 / 2),
        (lambda x: x - x.log(), 0.8, 1.0, lambda x: (1 - 1 / x) * x**2, 1.0),
        (lambda x: x.square() / 2 - x.sin(), 1.0, 0.7390851332151607, lambda x: (x - math.cos(x)) / (1 + math.sin(x)),
         math.cos(0.7390851332151607) / (1 + math.sin(0.7390851332151607)) / 2),
    ),
    ids=("exponential", "logarithm", "cosine"),
)  # fmt: skip
def test_one_variable(f, start, minimum, step, C, method):
    """Row 28: x <- x - f'/f'', |e_(k+1)| ~ C |e_k|^2 with C = |f''' / (2 f'')| at the minimum."""
    x = leaf(start)
    points = [point.item() for point in trajectory([x], lambda: f(x[0]), 5, method=method, tolerance_grad=0)]
    for before, after in itertools.pairwise(points):
        assert after == pytest.approx(before - step(before), rel=1e-15, abs=1e-15)
        e = abs(before - minimum)
        if e > 1e-5:  # otherwise e^2 is below the rounding error of x
            assert abs(after - minimum) == pytest.approx(C * e**2, rel=2 * e)
    assert abs(points[-1] - minimum) < 1e-15


@BOTH
def test_a_quadratic_function_takes_one_step(method):
    """The Taylor polynomial is exact. Conjugate gradients take one product per distinct eigenvalue of the Hessian.
    Parameters may have any shapes and layouts, and frozen ones stay unchanged."""
    options = dict(dtype=torch.float64)
    parameters = [torch.randn(shape, **options) for shape in ((), (0, 2), (2, 3), (3, 1, 2))]
    parameters[2] = parameters[2].t()
    parameters += [torch.randn(4, 4, **options)[::2, 1::2], torch.randn(5, **options)]
    for p in parameters:
        p.requires_grad_()
    frozen, unused = torch.randn(3, **options), torch.randn(2, **options, requires_grad=True)
    before = frozen.clone(), unused.clone()
    b = torch.randn(22, **options)
    Q = torch.linalg.qr(torch.randn(22, 22, **options))[0]
    A = Q @ torch.diag(torch.tensor([1.0, 9.0], **options).repeat(11)) @ Q.T

    def loss() -> Tensor:
        x = torch.cat([p.reshape(-1) for p in parameters])
        return x @ A @ x / 2 - b @ x + frozen.sum()

    optimizer = Newton([*parameters, frozen, unused], method=method, max_iter=1)
    first = loss().detach()
    returned = optimizer.step(loss)
    assert torch.equal(returned, first)
    assert not returned.requires_grad
    x = torch.cat([p.detach().reshape(-1) for p in parameters])
    torch.testing.assert_close(x, torch.linalg.solve(A, b), rtol=1e-12, atol=1e-12)
    report = optimizer.report
    assert (report.iterations, report.evaluations, report.converged) == (1, 2, True)
    assert report.products == (24 if method == "exact" else 2)
    assert report.damped == (method == "exact")  # H is 0 for unused parameters
    assert torch.equal(frozen, before[0])
    assert torch.equal(unused, before[1])
    assert all(p.grad is None for p in parameters)


def digits() -> tuple[np.ndarray, np.ndarray]:
    features, labels = load_digits(n_class=4, return_X_y=True)
    return features / 16, labels


def random_data(classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Random features and unrelated labels, so that there is a minimum without a penalty."""
    random = np.random.default_rng(0)
    features = random.normal(size=(200, 4))
    return features, np.argmax(features[:, :classes] + 2 * random.gumbel(size=(200, classes)), axis=1)


@BOTH
@pytest.mark.parametrize(
    ("data", "C", "rounding"),
    # scikit-learn's solution has a gradient of at most 1e-10; divided by the least eigenvalue this bounds its error
    ((digits(), 1.0, 1e-6), (random_data(3), math.inf, 1e-8), (random_data(2), 1.0, 1e-8)),
    ids=("digits", "singular", "logistic"),
)
def test_regression(data, C, rounding, method):
    """H is singular, because adding a constant to all biases changes nothing, nor does it for the weights without a
    penalty."""
    features, labels = (torch.as_tensor(numbers) for numbers in data)
    classes = int(labels.max()) + 1
    model = nn.Linear(features.shape[1], classes if classes > 2 else 1, dtype=torch.float64)
    for p in model.parameters():
        torch.nn.init.zeros_(p)

    def loss() -> Tensor:
        logits = model(features)
        penalty = model.weight.square().sum() / (2 * C * len(labels))
        if classes > 2:
            return F.cross_entropy(logits, labels) + penalty
        return F.binary_cross_entropy_with_logits(logits[:, 0], labels.double()) + penalty

    points = trajectory(list(model.parameters()), loss, 12, method=method, tolerance_grad=1e-8)
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss(), list(model.parameters()))])
    assert gradient.norm() <= 1e-8
    errors = [(point - points[-1]).norm().item() for point in points[1:-1]]
    assert errors[-1] < 0.01
    assert all(after <= before**2 for before, after in itertools.pairwise(errors))

    theirs = LogisticRegression(C=C, tol=1e-10, max_iter=1000, solver="newton-cg").fit(*data)
    for p, expected in zip(model.parameters(), (theirs.coef_, theirs.intercept_), strict=True):
        ours = p.detach().numpy()
        if classes > 2:
            assert abs(ours.mean(0)).max() < 1e-12  # no movement along directions without a gradient
        np.testing.assert_allclose(ours, expected - (expected.mean(0) if classes > 2 else 0), rtol=0, atol=rounding)


def barrier(beyond: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """10 x - log x: Newton's step from 5 leads to -240."""
    return lambda x: (10 * x - x.log()).sum() if (x > 0).all() else beyond(x)


INDEFINITE = {  # at the start
    "saddle": (saddle, (1.0, 1e-3), -1.0),
    "flat saddle": (lambda x: saddle(x) / 1000, (1.0, 1e-3), -1e-3),
    "cosines": (lambda x: x.cos().sum(), (0.01, 3.0, -1.0), -3.0),
    "logarithms": (lambda x: (1 + x.square()).log().sum(), (5.0, 3.0), 0.0),
    "product": (lambda x: (x[0] * x[1] - 1).square() + x.square().sum() / 10, (1e-3, 0.0), 0.19),
}
MINIMA: dict[str, tuple[Callable[[Tensor], Tensor], tuple[float, ...], float]] = {
    **INDEFINITE,
    "rosenbrock": (rosenbrock, (-1.2, 1.0), 0.0),
    "barrier of nan": (barrier(lambda x: x.log().sum()), (5.0, 3.0), 2 + 2 * math.log(10)),
    "barrier of inf": (barrier(lambda x: torch.tensor(math.inf)), (5.0, 3.0), 2 + 2 * math.log(10)),
    "barrier of -inf": (barrier(lambda x: x.square().sum() - math.inf), (5.0, 3.0), 2 + 2 * math.log(10)),
    # The curvature 3/4 |x|^-1/2 of |x|^1.5 is infinite at 0.
    "nan curvature": (lambda x: (x.abs().pow(1.5) - x).sum(), (0.0, 2.0), -8 / 27),
    "infinite curvature": (lambda x: (x.pow(1.5) - x).sum(), (0.0, 2.0), -8 / 27),
}


@BOTH
@pytest.mark.parametrize("name", MINIMA)
def test_finds_a_minimum(name, method):
    f, start, least = MINIMA[name]
    x = leaf(*start)
    trajectory([x], lambda: f(x), 100, method=method)
    assert f(x).item() == pytest.approx(least, rel=0, abs=1e-13)  # |g|^2 over twice the least eigenvalue
    with torch.no_grad():
        x.copy_(torch.tensor(start))
    optimizer = Newton([x], max_iter=100, method=method)
    optimizer.step(lambda: f(x))
    assert optimizer.report.converged
    if name in INDEFINITE:
        assert 0 < optimizer.report.damped < optimizer.report.iterations


@BOTH
def test_rosenbrock_in_float32(method):
    x = leaf(-1.2, 1, dtype=torch.float32)
    points = trajectory([x], lambda: rosenbrock(x), 100, method=method)
    assert (points[-1] - 1).norm() < 1e-3  # |g| over the least eigenvalue, 0.4


@BOTH
def test_training_a_network(method):
    model = nn.MLP((3, 8, 2), activation="tanh", dtype=torch.float64)
    x, y = torch.randn(40, 3, dtype=torch.float64), torch.randint(2, (40,))
    points = trajectory(list(model.parameters()), lambda: F.cross_entropy(model(x), y), 15, method=method)
    assert len(points) == 16
    assert F.cross_entropy(model(x), y) < 0.5 * math.log(2)


def kink(place: float) -> Callable[[Tensor], Tensor]:
    return lambda x: torch.maximum(x[0] - place, -2 * (x[0] - place))


NOT_FINITE = "the loss is not finite"
NO_STEP = "no step lowers the loss"
LIMIT = "max_iter is reached"
# The loss, the start, where it stops (None: at the start), after how many changes and evaluations, and why.
STOPS: dict[str, tuple[Callable[[Tensor], Tensor], tuple[float, ...], float | None, int, int, str]] = {
    "nan": (lambda x: x.sum() * math.nan, (1.0, -0.0), None, 0, 1, NOT_FINITE),
    "inf": (lambda x: x.sum() * math.inf, (1.0, -0.0), None, 0, 1, NOT_FINITE),
    "-inf": (lambda x: x.sum() * -math.inf, (1.0, -0.0), None, 0, 1, NOT_FINITE),
    "gradient": (lambda x: x.sqrt().sum(), (0.0,), None, 0, 1, "the gradient is not finite"),
    # A kink is a minimum. The search stops once the step is too short to change x.
    "kink at 0": (kink(-0.0), (-0.0, 7.0), None, 0, 61, NO_STEP),
    "kink at 1": (kink(1.0), (1.0, 7.0), None, 0, 53, NO_STEP),
    # Without curvature the step is gradient descent. The loss may be a view of its parameter.
    "linear": (lambda x: x[0], (3.0,), 2.0, 1, 2, LIMIT),
    # A step is halved if the derivative is NaN where it leads, here 0, or if it lowers the loss by less than Armijo's
    # condition requires: it leads to -x^3, which is lower by 1.4e-5, or to 0, where loss and slope are the same.
    "later": (lambda x: (x.square() + torch.where(x > 0, 0, x.sqrt())).sum(), (2.0,), 1.0, 1, 3, LIMIT),
    "too little": (lambda x: (1 + x[0].square()).sqrt(), (0.99999,), 1e-5, 1, 3, LIMIT),
    "nothing": (lambda x: torch.where(x > 0, x.square() / 2, 0.5 - x).sum(), (1.0,), 0.5, 1, 3, LIMIT),
}


@BOTH
@pytest.mark.parametrize("name", STOPS)
def test_stops(name, method):
    f, start, end, iterations, evaluations, reason = STOPS[name]
    x = leaf(*start)
    optimizer = Newton([x], method=method, max_iter=1)
    returned, first = optimizer.step(lambda: f(x)), f(leaf(*start))
    torch.testing.assert_close(returned, first.detach().reshape(()), rtol=0, atol=0, equal_nan=True)
    if end is None:
        assert str(x.tolist()) == str(list(start))
    else:
        assert x.item() == pytest.approx(end, rel=1e-4)
    report = optimizer.report
    assert (report.iterations, report.evaluations, report.converged) == (iterations, evaluations, False)
    assert report.reason == reason
    assert report.damped == (name == "linear")


@BOTH
@pytest.mark.parametrize("error", (ArithmeticError, KeyboardInterrupt))
@pytest.mark.parametrize("call", range(1, 7))
def test_a_closure_that_raises(call, error, method):
    """The parameters are left at the best point found so far."""
    x = leaf(-1.2, 1)
    seen = []

    def loss() -> Tensor:
        if len(seen) == call:
            raise error
        seen.append((rosenbrock(x).item(), x.tolist()))
        return rosenbrock(x)

    optimizer = Newton([x], method=method)
    optimizer.step(lambda: x.sum() * math.nan)
    assert optimizer.report is not None
    with pytest.raises(error):
        optimizer.step(loss)
    assert x.tolist() == min(seen)[1]
    assert optimizer.report is None


class Slope(torch.autograd.Function):
    """3 x^2, with a backward that does not support vmap."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return 3 * x**2

    @staticmethod
    def backward(ctx, g):
        assert g.sum().item() < math.inf
        return 6 * ctx.saved_tensors[0] * g


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, g):
        return Slope.apply(ctx.saved_tensors[0]) * g


@pytest.mark.parametrize(("cube", "backwards"), ((lambda x: x**3, 4), (Cube.apply, 67)), ids=("batched", "by rows"))
def test_the_hessian(cube, backwards):
    """Computes 64 of the 65 rows at a time, or single rows if an operation lacks vmap, and two gradients."""
    x = torch.linspace(1, 3, 65, dtype=torch.float64, requires_grad=True)
    start, passed = x.detach().clone(), []

    def loss() -> Tensor:
        y = x * 1
        y.register_hook(lambda g: passed.append(g.shape))
        return (cube(y) - 3 * y).sum()

    optimizer = Newton([x], method="exact", max_iter=1)
    optimizer.step(loss)
    torch.testing.assert_close(x.detach(), start - (3 * start**2 - 3) / (6 * start))
    assert optimizer.report.products == 65
    assert len(passed) == backwards


@BOTH
@pytest.mark.parametrize("precise", (torch.float64, torch.float32), ids=str)
def test_rounding_errors_do_not_move_parameters(precise, method):
    """Along singular directions of H the gradient is all rounding errors. A tolerance of 0 cannot be reached."""
    features, labels = (torch.as_tensor(numbers) for numbers in random_data(3))
    for tolerance in (0, 0, 0, 0, None):
        model = nn.Linear(4, 3, dtype=precise)
        before = model.weight.detach().sum(0)
        optimizer = Newton(model.parameters(), tolerance_grad=tolerance, method=method)
        with torch.no_grad():
            optimizer.step(lambda model=model: F.cross_entropy(model(features.to(precise)), labels))
        assert (model.weight.detach().sum(0) - before).abs().max() < 0.1
        assert model.weight.grad is None
    assert optimizer.report.converged
    assert optimizer.report.iterations <= 5 + (precise == torch.float64)  # whose default tolerance is smaller


@pytest.mark.parametrize(
    ("size", "options", "products"),
    ((256, {}, 256), (257, {}, 3), (257, {"method": "exact"}, 257), (256, {"method": "cg", "max_cg": 2}, 2)),
)
def test_method(size, options, products):
    """There are three distinct eigenvalues: conjugate gradients take three products, a Hessian one per parameter."""
    x = torch.ones(size, dtype=torch.float64, requires_grad=True)
    weights = torch.tensor([1e-6, 3e-6, 9e-6], dtype=torch.float64).repeat(86)[:size]
    optimizer = Newton([x])
    optimizer.param_groups[0].update(max_iter=1, tolerance_grad=0, **options)
    optimizer.step(lambda: (weights * x.square()).sum())
    assert optimizer.report.products == products


def test_stopping_criteria():
    x = leaf(1.0)
    for options, iterations in (
        ({"max_iter": 0}, 0), ({"max_iter": 2}, 2), ({"tolerance_grad": 2.0}, 0), ({"tolerance_grad": 0.1}, 1), ({}, 4)
    ):  # fmt: skip
        with torch.no_grad():
            x.fill_(1)
        optimizer = Newton([x], **options)
        optimizer.step(lambda: (x.exp() - 2 * x).sum())
        assert optimizer.report.iterations == iterations
        assert optimizer.report.gradient_norm == pytest.approx(abs(math.exp(x.item()) - 2), rel=1e-6, abs=1e-15)
        assert optimizer.report.converged == (optimizer.report.gradient_norm <= options.get("tolerance_grad", 1e-8))


@pytest.mark.parametrize("copied", (copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair)), "state_dict"))
def test_copies(copied):
    def changed(x: Tensor, optimizer: Newton) -> list[float]:
        optimizer.step(lambda: rosenbrock(x))
        assert optimizer.report.iterations == 3
        return x.tolist()

    x = leaf(-1.2, 1)
    optimizer = Newton([x], max_iter=3, method="cg")
    changed(x, optimizer)
    if copied == "state_dict":
        other = x.detach().clone().requires_grad_()
        its = Newton([other], lr=0.1)
        its.load_state_dict(optimizer.state_dict())
    else:
        other, its = copied((x, optimizer))
        assert its.report is None or its.report == optimizer.report
    assert its.param_groups[0]["params"][0] is other
    assert changed(x, optimizer) == changed(other, its)


@pytest.mark.parametrize("lr", (1.0, torch.tensor(1.0)))
def test_scheduler_and_hooks(lr):
    x, seen = leaf(8.0), []
    optimizer = Newton([x], lr=lr, max_iter=1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: (0.5, 0.25, 0)[epoch])
    optimizer.register_step_pre_hook(lambda *_: seen.append(x.item()))
    optimizer.register_step_post_hook(lambda optimizer, *_: seen.append(optimizer.report.evaluations))
    for _ in range(2):
        optimizer.step(lambda: x.square().sum())
        scheduler.step()
    assert seen == [8, 2, 4, 2]
    optimizer.step(lambda: x.square().sum())
    assert x.item() == 3
    assert optimizer.report.evaluations == 1
    assert optimizer.report.reason == "no step lowers the loss"


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    (
        ([leaf(1)], {"lr": -1.0}, ValueError, "Invalid learning rate: -1.0"),
        ([leaf(1)], {"lr": math.nan}, ValueError, "Invalid learning rate: nan"),
        ([leaf(1)], {"lr": math.inf}, ValueError, "Invalid learning rate: inf"),
        ([leaf(1)], {"lr": torch.ones(2)}, ValueError, "Tensor lr must be 1-element"),
        ([leaf(1)], {"max_iter": -1}, ValueError, "Invalid max_iter value: -1"),
        ([leaf(1)], {"tolerance_grad": -1.0}, ValueError, "Invalid tolerance_grad value: -1.0"),
        ([leaf(1)], {"method": "cholesky"}, ValueError, "Invalid method: cholesky, please use one of"),
        ([leaf(1)], {"max_cg": 0}, ValueError, "Invalid max_cg value: 0"),
        ([], {}, ValueError, "empty parameter list"),
        ([1.0], {}, TypeError, "can only optimize Tensors"),
        ([{"params": [leaf(1)]}, {"params": [leaf(1)]}], {}, ValueError, "per-parameter options"),
        ([leaf(1, dtype=torch.bfloat16)], {}, ValueError, "float64 or float32, but got torch.bfloat16"),
        ([leaf(1, dtype=torch.complex128)], {}, ValueError, "float64 or float32, but got torch.complex128"),
        ([torch.eye(2).to_sparse().requires_grad_()], {}, ValueError, "dense parameters"),
        ([leaf(1), leaf(1, dtype=torch.float32)], {}, ValueError, "of one dtype on one device"),
        ([leaf(1), torch.ones(1, dtype=torch.float64, device="meta")], {}, ValueError, "of one dtype on one device"),
    ),
)
def test_bad_arguments(arguments, options, error, message):
    with pytest.raises(error, match=message):
        Newton(arguments, **options)


def backward_called(x: Tensor) -> Tensor:
    loss = F.binary_cross_entropy_with_logits(x, torch.zeros_like(x))
    loss.backward()
    return loss


@pytest.mark.parametrize(
    ("closure", "message"),
    (
        (lambda x: 1.0, "real scalar tensor, but got 1.0"),
        (lambda x: None, "real scalar tensor, but got None"),
        (lambda x: x * 2, r"real scalar tensor, but got one of shape \(2,\), torch.float64"),
        (lambda x: x.sum() * 1j, "real scalar tensor, but got one of shape"),
        (lambda x: x.detach().sum(), "does not depend on the parameters"),
        (lambda x: leaf(1).sum(), "does not depend on the parameters"),
        (lambda x: x.requires_grad_(False).sum(), "does not depend on the parameters"),
        (backward_called, r"the closure must return it without calling backward\(\)"),
    ),
)
def test_bad_closures(closure, message):
    x = leaf(1, 2)
    with pytest.raises(RuntimeError, match=message):
        Newton([x]).step(lambda: closure(x))
    assert x.tolist() == [1, 2]


def test_only_frozen_parameters():
    with pytest.raises(RuntimeError, match="does not depend on the parameters"):
        Newton([torch.ones(2)]).step(lambda: leaf(1).sum())


def test_no_closure():
    with pytest.raises(TypeError, match="closure"):
        Newton([leaf(1)]).step()


def test_closures_may_use_grad():
    """A closure may zero gradients, or compute them with a retained graph."""
    x = leaf(3.0)
    optimizer = Newton([x], max_iter=1)

    def loss() -> Tensor:
        optimizer.zero_grad()
        loss = x.square().sum()
        loss.backward(retain_graph=True)
        return loss

    optimizer.step(loss)
    assert x.item() == x.grad.item() == 0

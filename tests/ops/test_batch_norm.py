"""batch_norm, and rows 17 and 18 of the notes."""

import itertools
import math
from decimal import Decimal
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as torch_F
from torch import Tensor

import torchnotes.functional as F
from checks import ACTIVATIONS, TOLERANCE, activated, doubled, op_db, outcome, values
from conftest import DTYPES
from generic import checked
from torchnotes.nn import BatchNorm1d
from torchnotes.testing.layouts import LAYOUTS, channels_last
from torchnotes.testing.operations.normalization import NORMALIZATION

KERNELS = ("batch_norm", "batch_norm_", "batch_norm_backward")
PASSES = ("batch_norm_moments", "batch_norm_totals", "batch_norm_gradient")
HALF = (torch.bfloat16, torch.float16)
SLOPE = 0.2
ORDERS = tuple(itertools.permutations(range(4)))
inf, nan = float("inf"), float("nan")


@checked(NORMALIZATION["batch_norm"])
def test_generic(check):
    check()


def builtin(x, mean, var, weight, bias, training=True, momentum=0.1, eps=1e-5, activation=None) -> Tensor:
    return activated(torch_F.batch_norm(x, mean, var, weight, bias, training, momentum, eps), activation, SLOPE)


def ours(*args, **kwargs) -> Tensor:
    return F.batch_norm(*args, **{"training": True, "negative_slope": SLOPE, **kwargs})


reference = partial(NORMALIZATION["batch_norm"].reference, training=True, negative_slope=SLOPE)


def inputs(shape: tuple, dtype: torch.dtype = torch.float64, device: str = "cpu") -> list[Tensor]:
    """x, running mean and variance, weight and bias. All but x are float32 if x has 16 bits."""
    numbers = torch.float32 if dtype in HALF else dtype
    channels = (shape[1],)
    positive = (torch.rand(channels) + 0.5).to(device, numbers)
    more = [
        values(channels, numbers, device),
        positive,
        values(channels, numbers, device),
        values(channels, numbers, device),
    ]
    return [values(shape, dtype, device) + 1, *more]


def run(function, tensors, grad, **keywords) -> tuple[Tensor, ...]:
    """The output, the gradients of x, weight and bias, and the running statistics."""
    x, mean, var, weight, bias = (None if t is None else t.detach() for t in tensors)
    mean, var = (None if t is None else t.clone() for t in (mean, var))
    wanted = [t.requires_grad_() for t in (x, weight, bias) if t is not None]
    y = function(x, mean, var, weight, bias, **keywords)
    return y.detach(), *torch.autograd.grad(y, wanted, grad), *(t for t in (mean, var) if t is not None)


def value_or_error(function, *args) -> Any:
    try:
        return function(*args)
    except Exception as error:
        return f"{type(error).__name__}: {error}".split("\n")[0]


def assert_same(mine, theirs) -> None:
    for one, other in zip(*map(torch.utils._pytree.tree_leaves, (mine, theirs)), strict=True):
        assert one == other if isinstance(one, str) else torch.allclose(one, other)


def assert_agrees(tensors, grad, **keywords) -> None:
    """Compares with float64. Allows a few roundings of the largest value or of the summands, or torch's own error."""
    result, theirs = run(ours, tensors, grad, **keywords), run(builtin, tensors, grad, **keywords)
    exact = run(builtin, doubled(tensors), grad.double(), **keywords)
    for mine, other, true in zip(result, theirs, exact, strict=True):
        assert mine.dtype == other.dtype
        assert mine.shape == other.shape
        rtol, atol = TOLERANCE[mine.dtype]
        scale = grad.double().abs().sum() / len(true) if true.dim() == 1 else true.abs().max()
        allowed = atol + rtol * (true.abs() + scale) + 1.25 * (other.double() - true).abs()
        assert ((mine.double() - true).abs() <= allowed).all(), (mine.double() - true).abs().max()
    assert result[0].stride() == theirs[0].stride()


# values and layouts


@pytest.mark.parametrize("shape", ((2, 3, 40_000), (1, 1, 70_000), (40, 3, 30, 30), (300, 2, 7, 7), (9000, 5)), ids=str)
def test_channels_in_several_chunks(shape, dtype, device):
    for layout in (torch.clone, channels_last):
        x, *numbers = inputs(shape, dtype, device)
        assert_agrees([layout(x), *numbers], layout(values(shape, dtype, device)), activation="leaky_relu")


# In the first image rows are aligned to cache lines, in the others they are not.
LARGE = (((32, 65, 64), torch.float32), *(((33, 65, 63), dtype) for dtype in DTYPES))


@pytest.mark.kernels
@pytest.mark.parametrize(("image", "kind"), LARGE, ids=str)
def test_large_images(image, kind, device):
    """Large enough for stores that bypass the CPU's caches."""
    shape = ((1 << 24) // kind.itemsize // math.prod(image) + 1, *image)
    for layout in (torch.clone, channels_last):
        tensors, grad = inputs(shape, kind, device), layout(values(shape, kind, device))
        assert_agrees([layout(tensors[0]), *tensors[1:]], grad, activation="leaky_relu")


def test_mixed_dtypes_match_torch(device):
    for dtype in HALF:
        x, *numbers = inputs((4, 3, 5), dtype, device)
        for statistics in (torch.float32, dtype):
            parameters = [t.to(statistics) for t in numbers]
            assert_agrees([x, *parameters], values((4, 3, 5), dtype, device), momentum=0.2)


def test_strides_of_dimensions_of_size_one_match_torch(dtype):
    for shape in itertools.product((1, 2), repeat=4):
        x, *numbers = inputs(shape, dtype)
        views = [x.permute(order).contiguous().permute(torch.tensor(order).argsort().tolist()) for order in ORDERS]
        views += [channels_last(torch.cat((x, x), dim)).narrow(dim, 0, size) for dim, size in enumerate(shape)]
        for view, training in itertools.product(views, (x.numel() > shape[1], False)):
            strides = []
            for function in (ours, builtin):
                leaf = view.detach().requires_grad_()
                y = function(leaf, *(t.clone() for t in numbers), training=training)
                gradients = [torch.autograd.grad(y, leaf, g, retain_graph=True)[0] for g in (x, channels_last(x))]
                strides.append([t.stride() for t in (y, *gradients)])
            assert strides[0] == strides[1], (shape, view.stride(), training)
            on_meta = (torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="meta") for t in (view, *numbers))
            assert ours(*on_meta, training=training).stride() == strides[0][0]


@pytest.mark.parametrize("training", (True, False))
def test_weight_and_bias_of_any_shape(training, device):
    """torch also accepts other shapes, but cannot compute gradients for them."""
    x, mean, var, weight, bias = inputs((4, 6, 5), device=device)
    grad = values((4, 6, 5), torch.float64, device)

    def agree(function):
        expected = function(weight, bias)
        for shape in ((1, 6), (6, 1), (3, 2)):
            results = function(weight.view(shape), bias.view(shape).mT.contiguous().mT)
            for result, flat in zip(results, expected, strict=True):
                torch.testing.assert_close(result, flat.view(result.shape))
                assert result.shape == flat.shape or result.shape == (*flat.shape[:-1], *shape)

    def norm(x, weight, bias, **options):
        return ours(x, mean.clone(), var.clone(), weight, bias, training=training, activation="tanh", **options)

    def gradients(weight, bias, **options):
        wanted = [t.detach().requires_grad_() for t in (x, weight, bias)]
        y = norm(wanted[0] * 1, *wanted[1:], **options)
        first = torch.autograd.grad(y, wanted, grad, create_graph=not options)
        if options:
            return y, *first
        total = sum(t.pow(2).sum() for t in first)
        second = torch.autograd.grad(total, wanted, retain_graph=True)
        batched = torch.autograd.grad(y, wanted, torch.stack((grad, 2 * grad)), is_grads_batched=True)
        return y, *first, *second, *batched

    agree(gradients)
    agree(lambda weight, bias: gradients(weight, bias, inplace=True))
    agree(lambda weight, bias: torch.func.jvp(norm, (x, weight, bias), (x, weight, bias)))
    agree(
        lambda weight, bias: torch.vmap(norm, (None, 0, 0))(x, torch.stack((weight, bias)), torch.stack((bias, bias)))
    )


# accuracy


def hard_inputs(shape: tuple) -> dict[str, Tensor]:
    ordinary = torch.randn(shape, dtype=torch.float64)
    spike = ordinary.clone()
    spike[0, :, 0] = 1e6
    return {
        "ordinary": ordinary,
        "large mean": ordinary + 1e4,
        "small variance": 1e-4 * ordinary + 1,
        "tiny": 1e-20 * ordinary,
        "huge": 1e15 * ordinary,
        "constant": torch.full(shape, 0.7, dtype=torch.float64),
        "begins with its greatest": spike,
        "ramp": torch.linspace(0, 1, shape[0], dtype=torch.float64)[:, None, None] + 1e-3 * ordinary,
    }


@pytest.mark.parametrize("columns", (False, True))
def test_error_is_no_larger_than_torchs(columns, dtype, device):
    shape = (64, 20, 100)
    for name, x in hard_inputs(shape).items():
        if not x.to(dtype).isfinite().all():
            continue
        x = x.transpose(1, 2).reshape(-1, 20) if columns else x
        grad = torch.randn_like(x).to(dtype)
        numbers = [t.to(torch.float32 if dtype in HALF else dtype) for t in inputs(x.shape)[1:]]
        tensors = [x.to(dtype), *numbers]
        exact = run(builtin, doubled(tensors), grad.double())
        results = [run(f, [t.to(device) for t in tensors], grad.to(device)) for f in (ours, builtin)]
        if dtype == torch.float64:  # there is no wider reference, and torch is inaccurate for a large mean
            for mine, other in zip(*results, strict=True):
                scale = grad.abs().sum().item() if other.dim() == 1 else other.abs().max().item()
                torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-10 * scale)
            continue
        for i, (mine, other, true) in enumerate(zip(*results, exact, strict=True)):
            error, builtins = ((t.cpu().double() - true).abs() for t in (mine, other))
            # One rounding of the largest value, because some results are a few sums, whose rounding errors are random.
            rounding = torch.finfo(mine.dtype).eps * true.abs().max()
            assert error.max() <= builtins.max() + rounding, (name, i)
            assert error.mean() <= builtins.mean() + 0.5 * rounding, (name, i)


def test_a_constant_channel_has_no_variance(dtype, device):
    x = torch.full((8, 3, 100), 0.3, dtype=dtype, device=device)
    y = ours(x, None, None)
    assert torch.equal(y, torch.zeros_like(y))


@pytest.mark.parametrize("special", (nan, inf, -inf))
def test_special_values_stay_in_their_channel(special, dtype, device):
    for shape, place in (((40, 3), (7, 1)), ((4, 3, 50), (1, 1, 20))):
        for activation, training in itertools.product(ACTIVATIONS, (True, False)):
            tensors, grad = inputs(shape, dtype, device), values(shape, dtype, device)
            for holder in (tensors[0], grad):
                before = holder[place].item()
                holder[place] = special
                results = [run(f, tensors, grad, training=training, activation=activation) for f in (ours, builtin)]
                for mine, other in zip(*results, strict=True):
                    assert torch.equal(mine.isnan(), other.isnan())
                    assert torch.equal(mine.isinf(), other.isinf())
                holder[place] = before


# differentiation


def test_second_derivative_with_a_large_mean(device):
    for dtype, offset in itertools.product((torch.float32, *HALF), (10, 1e3, 1e4)):
        x, _, _, weight, bias = inputs((64, 5, 7), dtype, device)
        tensors, v = [x + offset, weight, bias, values(x.shape, dtype, device)], values(x.shape, dtype, device)
        results = []
        for function, arguments in ((ours, tensors), (reference, doubled(tensors))):
            x, weight, bias, g = (t.detach().requires_grad_() for t in arguments)
            (first,) = torch.autograd.grad(function(x, None, None, weight, bias), x, g, create_graph=True)
            results.append(torch.autograd.grad(first, (x, weight, g), v.to(first.dtype)))
        for mine, exact in zip(*results, strict=True):
            assert (mine.double() - exact).norm() <= (1e-6 + torch.finfo(mine.dtype).eps) * exact.norm()


def test_every_subset_of_requires_grad(device):
    grad = values((4, 3, 5), torch.float64, device)
    for inplace, wanted in itertools.product((False, True), itertools.product((False, True), repeat=3)):
        if not any(wanted):
            continue
        results = []
        for function in (ours, builtin):
            torch.manual_seed(1)
            x, mean, var, weight, bias = inputs((4, 3, 5), device=device)
            tensors = [t.requires_grad_(want) for t, want in zip((x, weight, bias), wanted, strict=True)]
            options = {"inplace": True} if inplace and function is ours else {}
            y = function(x * 1, mean, var, weight, bias, **options)
            y.backward(grad)
            results.append([y, *(t.grad for t in tensors)])
        for mine, other in zip(*results, strict=True):
            assert (mine is None) == (other is None)
            if mine is not None:
                torch.testing.assert_close(mine, other)


def test_vmap():
    """Per-sample gradients with running statistics, and vmap over training batches."""
    x, mean, var, weight, bias = inputs((6, 4, 3, 5))
    mean, var, weight, bias = (t[:3] for t in (mean, var, weight, bias))  # one per channel of a sample
    x = x[:, :, :3]

    def loss(function, weight, bias, x, training):
        statistics = (None, None) if training else (mean, var)
        return function(x, *statistics, weight, bias, training=training, activation="leaky_relu").pow(3).sum()

    weights = torch.stack((weight, weight + 1, weight - 2, bias, mean, var))
    for training, weight_dim in itertools.product((False, True), (None, 0)):
        results = []
        for function in (ours, builtin):
            gradient = torch.func.grad(lambda w, b, x, f=function, t=training: loss(f, w, b, x, t), (0, 1, 2))
            per_sample = torch.vmap(gradient, (weight_dim, None, 0))
            results.append(per_sample(weight if weight_dim is None else weights, bias, x.transpose(1, 2).unsqueeze(1)))
        torch.testing.assert_close(*results)
    for dim in range(4):
        out = torch.vmap(lambda x: ours(x.unsqueeze(0), None, None), in_dims=dim)(x)
        expected = torch.stack([builtin(t.unsqueeze(0), None, None, None, None) for t in x.unbind(dim)])
        torch.testing.assert_close(out, expected)


def test_running_statistics_under_transforms():
    x, mean, var, weight, bias = inputs((4, 3, 5))
    for transform in (torch.func.grad, lambda f: lambda x: torch.func.jvp(f, (x,), (x,))[1]):
        running = [[mean.clone(), var.clone()] for _ in range(2)]
        results = [
            transform(lambda x, f=f, r=r: f(x, *r, weight, bias).pow(3).sum())(x)
            for f, r in zip((ours, builtin), running, strict=True)
        ]
        torch.testing.assert_close(*results)
        torch.testing.assert_close(*running)
    batch, kept = torch.stack((x, x + 1)), mean.clone()
    with pytest.raises(RuntimeError, match="which will be updated in place, were not batched"):
        torch.vmap(lambda x: ours(x, mean, var))(batch)
    assert torch.equal(mean, kept)
    means, variances = torch.stack((mean, mean)), torch.stack((var, var), 1)
    torch.vmap(lambda x, m, v: ours(x, m, v), in_dims=(0, 0, 1))(batch, means, variances)
    for i in range(2):
        expected = [mean.clone(), var.clone()]
        builtin(batch[i], *expected, None, None)
        torch.testing.assert_close([means[i], variances[:, i]], expected)


@pytest.mark.parametrize("training", (True, False))
def test_vmap_over_every_subset_of_the_tensors(training):
    """Like torch, except that torch loses updates of statistics that are not batched in the first dimension."""
    shapes = (4, 2, 3), (2,), (2,), (2,), (2,)
    for batched, last in itertools.product(itertools.product((False, True), repeat=5), (False, True)):
        if not any(batched):
            continue
        torch.manual_seed(0)
        dims = [(len(s) if last else 0) if is_batched else None for is_batched, s in zip(batched, shapes, strict=True)]
        tensors = [torch.rand(s if d is None else (3, *s)).double() for s, d in zip(shapes, dims, strict=True)]

        def gradients(function, x, weight, bias, mean, var):
            def loss(x, weight, bias):
                y = function(x, mean, var, weight, bias, training=training, momentum=0.3)
                return y.pow(3).sum(), y

            return torch.func.grad(loss, (0, 1, 2), has_aux=True)(x, weight, bias)

        results = []
        for function in (ours, builtin):
            of_torch = last and function is builtin
            moved = [
                t.clone() if d is None or of_torch else t.movedim(0, d).contiguous()
                for t, d in zip(tensors, dims, strict=True)
            ]
            used = [d and 0 for d in dims] if of_torch else dims
            result = value_or_error(torch.vmap(partial(gradients, function), tuple(used)), *moved)
            results.append((result, [t if d is None else t.movedim(d, 0) for t, d in zip(moved, used, strict=True)]))
        assert_same(*results)


@pytest.mark.parametrize("training", (True, False))
def test_running_statistics_have_no_gradient_under_a_transform(training):
    x, mean, var, weight, bias = inputs((4, 3))
    for function in (ours, builtin):

        def tangent(mean, function=function):
            return torch.func.jvp(lambda m: function(x, m, var, weight, bias, training=training), (mean,), (mean,))[1]

        with pytest.raises(RuntimeError, match=r"not differentiable with respect to .*running_mean"):
            torch.func.vjp(tangent, mean.clone())


def test_nested_vmap_over_weights():
    x, mean, var, weight, bias = inputs((4, 3, 5))
    results = []
    for function in (ours, builtin):
        running = mean.clone(), var.clone()

        def of_bias(weight, bias, function=function, running=running):
            return function(x, *running, weight, bias)

        of_both = torch.vmap(torch.vmap(of_bias, (None, 0)), (0, None))
        results.append((of_both(torch.stack((weight, bias)), torch.stack((bias, mean, weight))), running))
    torch.testing.assert_close(*results)


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch's lerp_ under vmap
@pytest.mark.parametrize("samples", (1, 3))
def test_nested_vmap_over_every_subset_of_the_tensors(samples):
    """Compares results and running statistics in training."""
    x, mean, var, weight, _ = inputs((4, 3))
    subsets = list(itertools.product((0, None), repeat=4))[:-1]
    for inner, outer in itertools.product(subsets, subsets):

        def many(x, in_dims, n):
            return x if in_dims is None else torch.stack([x * 0.5**i for i in range(n)])

        tensors = [many(t, dim, samples) for t, dim in zip((x, mean, var, weight), inner, strict=True)]
        tensors = [many(t, dim, 2) for t, dim in zip(tensors, outer, strict=True)]
        results = []
        for function in (ours, builtin):

            def of_each(x, mean, var, weight, function=function):
                mean, var = mean.clone(), var.clone()
                return function(x, mean, var, weight, None, training=True), mean, var

            results.append(value_or_error(torch.vmap(torch.vmap(of_each, inner), outer), *tensors))
        found, expected = results
        if isinstance(expected, str):
            assert isinstance(found, str), (inner, outer)
        else:
            torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("training", (True, False))
def test_ensembles(training):
    """Ensembles whose members differ in everything, or only in their weights."""
    x, grads = torch.randn(5, 3, 4).double(), []
    for module in (torch.nn.BatchNorm1d, BatchNorm1d):
        torch.manual_seed(0)
        members = [module(3, dtype=torch.float64).train(training) for _ in range(2)]
        for member in members:
            torch.nn.init.normal_(member.weight)
        for shared in (False, True):
            weights, buffers = torch.func.stack_module_state(members)
            buffers = {k: v[0].clone() for k, v in buffers.items()} if shared else buffers

            def loss(weights, buffers, x, member=members[0]):
                return torch.func.functional_call(member, (weights, buffers), (x,)).pow(3).sum()

            in_dims = (0, None if shared else 0, None)
            grads.append((torch.vmap(torch.func.grad(loss), in_dims)(weights, buffers, x), buffers))
    torch.testing.assert_close(grads[:2], grads[2:])


@pytest.mark.parametrize("training", (True, False))
def test_tangents_of_running_statistics_match_torch(training):
    for moving in itertools.product((False, True), repeat=5):
        if not any(moving):
            continue
        results = []
        for function in (ours, builtin):
            torch.manual_seed(0)
            x, mean, var, weight, bias = inputs((4, 3))
            tensors = [x, weight, bias, mean, var]

            def along(*some, function=function, tensors=tensors, moving=moving):
                given = iter(some)
                x, weight, bias, *running = (next(given) if m else t for m, t in zip(moving, tensors, strict=True))
                return function(x, *running, weight, bias, training=training)

            primals = tuple(t.clone() for m, t in zip(moving, tensors, strict=True) if m)
            results.append((value_or_error(torch.func.jvp, along, primals, primals), tensors[3:], primals))
        assert_same(*results)


# compilation


def test_compiled_in_place_and_transforms():
    torch._dynamo.reset()
    x, mean, var, weight, bias = inputs((4, 3, 5))
    compiled = torch.compile(lambda x, *numbers: ours(x * 1, *numbers, inplace=True), fullgraph=True)
    tensors, grad = [x, mean, var, weight, bias], values((4, 3, 5), torch.float64, "cpu")
    with torch.no_grad():
        torch.testing.assert_close(compiled(x, None, None, *tensors[3:]), builtin(x, None, None, *tensors[3:]))
    torch.testing.assert_close(run(compiled, tensors, grad), run(builtin, tensors, grad))

    def gradient(f):
        return torch.vmap(torch.func.grad(lambda x: f(x.unsqueeze(0), mean, var, weight, bias, False).pow(2).sum()))

    torch.testing.assert_close(
        torch.compile(gradient(lambda *args: ours(*args[:5], training=args[5])), backend="aot_eager")(x),
        gradient(builtin)(x),
    )
    torch._dynamo.reset()


@pytest.mark.parametrize("training", (True, False))
def test_export(training):
    class Module(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mean", torch.zeros(3))
            self.register_buffer("var", torch.ones(3))

        def forward(self, x):
            return ours(x, self.mean, self.var, training=training, activation="relu")

    x = values((4, 3, 5, 6), torch.float32, "cpu")
    dynamic = ({0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC},)
    exported = torch.export.export(Module(), (x,), dynamic_shapes=dynamic).module(check_guards=False)
    other = values((2, 3, 9, 6), torch.float32, "cpu")
    mean, var = torch.zeros(3), torch.ones(3)
    expected = builtin(other, mean, var, None, None, training, activation="relu")
    torch.testing.assert_close(exported(other), expected)
    torch.testing.assert_close([exported.mean, exported.var], [mean, var])


# in place


def kept_bytes(function) -> int:
    """The bytes that a call saves for the backward pass. Counts each storage once."""
    kept: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        function()
    return sum(kept.values())


def test_in_place_with_small_weights_is_exact(dtype, device):
    """Channels whose input cannot be recovered from the output are saved."""
    x, _, _, weight, bias = inputs((6, 5, 9), dtype, device)
    weight[0], weight[1], weight[2] = 0.0, 1e-30, -1e-6
    bias[:3] = torch.tensor([1.0, -2.0, 3.0])
    grad = values((6, 5, 9), dtype, device)
    tensors = [x, None, None, weight, bias]
    result = run(lambda x, *rest: ours(x * 1, *rest, activation="leaky_relu", inplace=True), tensors, grad)
    expected = run(ours, tensors, grad, activation="leaky_relu")
    for mine, other, channels in zip(result, expected, (1, 1, 0, 0), strict=True):
        assert torch.equal(mine.narrow(channels, 0, 3), other.narrow(channels, 0, 3))


def test_in_place_saves_nothing_else(device):
    x, _, _, weight, bias = inputs((16, 4, 1000), torch.float32, device)
    weight, bias = weight.abs() + 0.5, bias.clamp(-1, 1)
    x.requires_grad_()
    mine = kept_bytes(lambda: ours(x * 1, None, None, weight, bias, activation="leaky_relu", inplace=True))
    theirs = kept_bytes(lambda: builtin(x * 1, None, None, weight, bias, activation="leaky_relu"))
    assert x.nbytes <= mine <= x.nbytes + 1000
    assert mine <= 0.55 * theirs


def test_in_place_with_an_expanded_gradient(device):
    x, _, _, weight, bias = (t.requires_grad_() for t in inputs((6, 5, 9), device=device))
    results = []
    for options in ({}, {"inplace": True}):
        y = ours(x * 1, None, None, weight, bias, **options)
        results.append(torch.autograd.grad(y.sum(), (x, weight, bias)))
    torch.testing.assert_close(*results)


def test_in_place_has_no_second_derivative():
    x = inputs((4, 3))[0].requires_grad_()
    y = ours(x * 1, None, None, inplace=True)
    with pytest.raises(RuntimeError, match="inplace=False"):
        torch.autograd.grad(y.sum(), x, create_graph=True)


def test_in_place_raises_if_the_output_was_modified():
    x = inputs((4, 3))[0].requires_grad_()
    y = ours(x * 1, None, None, inplace=True)
    with torch.no_grad():
        y.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_in_place_under_transforms():
    x, mean, var, weight, bias = inputs((4, 3, 5))
    results = [
        torch.func.hessian(lambda w, o=options: ours(x * w, None, None, activation="tanh", **o).pow(3).sum())(weight[0])
        for options in ({}, {"inplace": True})
    ]
    torch.testing.assert_close(*results)
    eval_ = torch.vmap(lambda x: ours(x[None] * 1, mean, var, weight, bias, training=False, inplace=True))
    torch.testing.assert_close(eval_(x)[:, 0], builtin(x, mean, var, weight, bias, False))


def test_in_place_raises_where_torch_does():
    def inference() -> Tensor:
        with torch.inference_mode():
            return torch.randn(3, 4)

    refused = (
        lambda: torch.randn(3, 4, requires_grad=True),  # a leaf
        lambda: torch.randn(4, 4, requires_grad=True)[1:],  # a view of a leaf
        lambda: torch.randn(3, 1).expand(3, 4),  # overlapping elements
        lambda: (torch.randn(3, 1, requires_grad=True) * 1).expand(3, 4),
        inference,
    )
    mean, var = torch.zeros(4), torch.ones(4)
    for make in refused:
        x = make()
        kept = x.detach().clone()
        expected = outcome(torch_F.relu, make(), inplace=True)
        assert outcome(ours, x, mean, var, inplace=True)[0] is expected[0]
        assert torch.equal(x.detach(), kept)
        assert torch.equal(mean, torch.zeros(4))


def test_nothing_is_written_if_a_running_statistic_is_not_writable():
    def inference() -> Tensor:
        with torch.inference_mode():
            return torch.ones(3)

    for make in (inference, lambda: torch._efficientzerotensor((3,)), lambda: torch.ones(1).expand(3)):
        for i, inplace, center_only in itertools.product((0, 1), (False, True), (False, True)):
            if i == 1 and center_only:  # the running variance is not updated
                continue
            running = [torch.zeros(3), torch.ones(3)]
            running[i] = make()
            x = torch.randn(4, 3, requires_grad=True) * 1
            tensors = [x, *running]
            kept = [t.detach().clone() for t in tensors]
            with pytest.raises(RuntimeError, match=r"inference tensor|immutable|single memory location"):
                ours(*tensors, inplace=inplace, center_only=center_only)
            assert all(map(torch.equal, tensors, kept))


# OpInfo samples, registration, errors


def test_opinfo_samples(dtype, device):
    (info,) = (op for op in op_db() if op.name == "nn.functional.batch_norm" and not op.variant_test_name)
    for sample in info.sample_inputs(device, dtype, requires_grad=True):
        results = []
        for function in (F.batch_norm, torch_F.batch_norm):
            args = [t.clone() if isinstance(t, Tensor) and not t.requires_grad else t for t in sample.args]
            y = function(sample.input, *args, **sample.kwargs)
            torch.manual_seed(0)
            wanted = [t for t in (sample.input, *args, *sample.kwargs.values()) if isinstance(t, Tensor)]
            wanted = [t for t in wanted if t.requires_grad]
            results.append([y, *torch.autograd.grad(y, wanted, torch.randn_like(y), allow_unused=True), *args[:2]])
        for mine, other in zip(*results, strict=True):
            if isinstance(other, Tensor):
                tolerance = dict(rtol=2e-2, atol=2e-2) if dtype in HALF else {}  # torch rounds intermediate results
                torch.testing.assert_close(mine, other, equal_nan=True, **tolerance)


def test_empty_tensors_match_torch():
    for shape in ((0, 3, 2), (2, 3, 0), (0, 3)):
        tensors = inputs(shape)
        for training in (True, False):
            results = [run(f, tensors, values(shape, torch.float64, "cpu"), training=training) for f in (ours, builtin)]
            for mine, other in zip(*results, strict=True):
                torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("center_only", (False, True))
@pytest.mark.parametrize("activation", (None, "relu", "tanh"))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_pass(layout, activation, center_only, dtype, device):
    forward = torch.ops.torchnotes.batch_norm.default
    moments, totals, gradient = (getattr(torch.ops.torchnotes, name).default for name in PASSES)
    number = ACTIVATIONS.index(activation)
    for shape in ((6, 35), (3, 4, 5, 6), (2, 3, 600)):
        x, _, _, weight, bias = inputs(shape, dtype, device)
        x, grad = layout(x), layout(values(shape, dtype, device))
        dims, n = [0, *range(2, x.dim())], x.numel() / x.shape[1]
        of_batch = moments(x)
        for mine, exact in zip(of_batch, torch.var_mean(x.double(), dims, correction=0)[::-1], strict=True):
            torch.testing.assert_close(mine, exact, rtol=1e-12, atol=1e-12)
        r = torch.ones_like(of_batch[1]) if center_only else (of_batch[1] + 1e-5).rsqrt()
        statistics = torch.stack((of_batch[0], r))
        y = forward(x, weight, bias, None, None, False, 1e-5, number, SLOPE, center_only, statistics)[0]
        exact = [t.double().requires_grad_() for t in (x, weight, bias)]
        function = partial(reference, activation=activation, center_only=center_only)
        true = function(exact[0], None, None, *exact[1:])
        dx, dw, db = torch.autograd.grad(true, exact, grad.double())
        added = totals(grad, x, weight, bias, statistics, number, SLOPE)
        mine = gradient(grad, x, weight, bias, statistics, added / n, number, SLOPE, center_only)
        rtol = TOLERANCE[dtype][0]
        for result, expected, scale in (
            (y, true, true.abs().max()),
            (mine, dx, dx.abs().max()),
            (added[1], dw, grad.double().abs().sum() / len(dw)),
            (added[0], db, grad.double().abs().sum() / len(db)),
        ):
            assert ((result.double() - expected).abs() <= 4 * rtol * (expected.abs() + scale)).all()


def test_opcheck_of_the_passes(dtype, device):
    tests = ("test_schema", "test_faketensor")
    if dtype == torch.float32:  # tracing does not depend on the dtype
        tests = (*tests, "test_aot_dispatch_static", "test_aot_dispatch_dynamic")
    moments, totals, gradient = (getattr(torch.ops.torchnotes, name).default for name in PASSES)
    x, _, _, weight, bias = inputs((3, 4, 5, 6), dtype, device)
    for layout in (torch.clone, channels_last):
        torch.library.opcheck(moments, (layout(x),), test_utils=tests)
        statistics = moments(x)
        arguments = x.clone(), layout(x), weight, bias, statistics
        torch.library.opcheck(totals, (*arguments, 2, 0.1), test_utils=tests)
        torch.library.opcheck(gradient, (*arguments, statistics, 2, 0.1, False), test_utils=tests)
        given = layout(x), weight, bias, None, None, False, 1e-5, 2, 0.1, False
        torch.library.opcheck(torch.ops.torchnotes.batch_norm.default, (*given, statistics), test_utils=tests)


def test_kernels_reject_mismatched_arguments(device):
    forward, _, backward = (getattr(torch.ops.torchnotes, name).default for name in KERNELS)
    x, mean, var, weight, bias = inputs((4, 3), torch.float32, device)
    options = (True, 1e-5, 0, 0.1, False)
    for bad, message in ((weight[:2], "should contain 3 elements not 2"), (weight.double(), "dtype")):
        for i in range(4):
            numbers: list = [weight, bias, mean, var]
            numbers[i] = bad
            with pytest.raises(RuntimeError, match=message):
                forward(x, *numbers, *options)
    statistics = forward(x, weight, bias, mean, var, *options)[1]
    for bad, message in ((x[:2], "size"), (x.double(), "dtype")):
        with pytest.raises(RuntimeError, match=message):
            backward(bad, x, weight, bias, statistics, True, False, 0, 0.1, False)
    with pytest.raises(RuntimeError, match="statistics"):
        backward(x, x, weight, bias, statistics[:, :2], True, False, 0, 0.1, False)
    moments, totals, gradient = (getattr(torch.ops.torchnotes, name).default for name in PASSES)
    for wrong in (statistics[:, :2], statistics.float()):
        with pytest.raises(RuntimeError, match=r"expected statistics of size \[2, 3\] in double precision"):
            totals(x, x, weight, bias, wrong, 0, 0.1)
        with pytest.raises(RuntimeError, match="expected means"):
            gradient(x, x, weight, bias, statistics, wrong, 0, 0.1, False)
        with pytest.raises(RuntimeError, match="expected statistics"):
            forward(x, weight, bias, None, None, False, 1e-5, 0, 0.1, False, wrong)
    with pytest.raises(RuntimeError, match="expected no statistics in training"):
        forward(x, weight, bias, None, None, True, 1e-5, 0, 0.1, False, statistics)
    for empty in (x[:0], x[0]):
        with pytest.raises(RuntimeError, match=r"nonempty input \(N, C, ...\)"):
            moments(empty)
        with pytest.raises(RuntimeError, match=r"nonempty input \(N, C, ...\)"):
            forward(empty, weight, bias, mean, var, *options)
    with pytest.raises(ValueError, match="activation"):
        forward(x, weight, bias, mean, var, True, 1e-5, 7, 0.1, False)
    for training, given in ((False, (None, var)), (False, (mean, None))):
        with pytest.raises(RuntimeError, match="must be defined in evaluation mode"):
            forward(x, weight, bias, *given, training, 1e-5, 0, 0.1, False)


def test_bad_arguments_raise_torchs_errors():
    x, mean, var, weight, bias = inputs((4, 3, 5), torch.float32)

    def arguments(**changed):
        names = ("input", "running_mean", "running_var", "weight", "bias")
        return {**dict(zip(names, (x, mean, var, weight, bias), strict=True)), **changed}

    longer = torch.ones(4)
    bad = [{"input": v} for v in (None, "x", 1.0, x[0, 0], torch.tensor(1.0), x.double(), torch.randn(4, 2))]
    bad += [
        {name: v}
        for name in ("running_mean", "running_var", "weight", "bias")
        for v in (longer, "x", weight.double(), 1.0)
    ]
    bad += [{"running_mean": None}, {"running_var": None}, {"eps": -1.0}, {"eps": 0.0, "training": True}]
    bad += [{"running_mean": mean.clone().requires_grad_()}, {"weight": weight.to("meta")}]
    bad += [{"training": v} for v in (0, 1, None, "x", 1.0, torch.tensor(True))]
    bad += [{name: mean.view(shape)} for name in ("running_mean", "running_var") for shape in ((1, 3), (3, 1))]
    bad += [
        {"momentum": "x", "training": True},
        {"eps": "x"},
        {"nonsense": 1},
        {"input": x[:1, :, :1], "training": True},
    ]
    numbers = torch.ones(1), np.ones(1), np.array(0.5), Fraction(1, 2), Decimal(1), torch.ones((), requires_grad=True)
    bad += [{name: v, "training": True} for name in ("eps", "momentum") for v in numbers]
    for change in bad:
        for training in (change["training"],) if "training" in change else (False, True):
            given = arguments(**{**change, "training": training})
            kept = mean.clone(), var.clone()
            theirs = {k: v.clone() if isinstance(v, Tensor) else v for k, v in given.items()}
            assert outcome(F.batch_norm, **given)[0] is outcome(torch_F.batch_norm, **theirs)[0], change
            assert torch.equal(mean, kept[0]), "nothing is written"
            assert torch.equal(var, kept[1]), "nothing is written"


def test_momentum_and_eps_accept_any_number_type():
    x = torch.randn(4, 3)
    for name, number in itertools.product(("momentum", "eps"), (1, np.float32(0.3), np.int64(1), torch.tensor(0.3))):
        results = []
        for function in (F.batch_norm, torch_F.batch_norm):
            running = torch.zeros(3), torch.ones(3)
            results.append((function(x, *running, training=True, **{name: number}), running))
        torch.testing.assert_close(*results)


def test_rejects_invalid_additional_options():
    x = torch.randn(4, 3)
    for bad in ("gelu", 3, "ReLU"):
        with pytest.raises(ValueError, match="activation must be one of None, 'relu'"):
            F.batch_norm(x, None, None, training=True, activation=bad)
    for keyword in ("negative_slope", "eps"):
        with pytest.raises((TypeError, ValueError)):
            F.batch_norm(x, None, None, training=True, activation="leaky_relu", **{keyword: "x"})


# the notes


def test_every_channel_has_mean_beta_and_deviation_gamma():
    """Row 17."""
    x, _, _, weight, bias = inputs((50, 4, 30))
    y = ours(5 * x + 3, None, None, weight, bias, eps=1e-12)
    torch.testing.assert_close(y.mean((0, 2)), bias)
    torch.testing.assert_close(y.std((0, 2), correction=0), weight.abs())


def test_noise_of_small_batches():
    """Row 17: a sample's output depends on the other samples of the batch; its variance is O(1/n)."""
    sample, spread = torch.tensor(0.5, dtype=torch.float64), []
    for n in (8, 32, 128):
        others = torch.randn(20_000, n - 1, dtype=torch.float64)
        batches = torch.cat((sample.expand(20_000, 1), others), 1)
        spread.append(ours(batches.t().contiguous(), None, None)[0].var())
    assert spread[0] > 3 * spread[1] > 9 * spread[2]
    # to first order, mu contributes a variance of 1/n and sigma one of x^2/2n
    assert spread[2].item() == pytest.approx((1 + 0.5**2 / 2) / 128, rel=0.05)


def test_mean_only_form():
    """Row 18: dx^_i/dx_j = [i = j] - 1/n."""
    n = 6
    x = torch.randn(n, 1, dtype=torch.float64)
    jacobian = torch.func.jacrev(lambda x: ours(x, None, None, center_only=True))(x).view(n, n)
    torch.testing.assert_close(jacobian, torch.eye(n, dtype=torch.float64) - 1 / n)
    x, _, _, weight, bias = inputs((5, 3, 4))
    grad = values((5, 3, 4), torch.float64, "cpu")
    _, dx, *_ = run(ours, [x, None, None, weight, bias], grad, center_only=True)
    scaled = grad * weight.view(-1, 1)
    torch.testing.assert_close(dx, scaled - scaled.mean((0, 2), keepdim=True))


def test_mean_only_form_of_one_number_is_zero_with_gradient_zero(dtype, device):
    x, mean, var, weight, bias = inputs((1, 3), dtype, device)
    kept = var.clone()
    y, dx, dw, db, *_ = run(ours, [x, mean, var, weight, bias], torch.ones_like(x), center_only=True)
    assert torch.equal(y, bias.to(dtype).view(1, 3))
    assert not dx.any()
    assert not dw.any()
    assert torch.equal(db, torch.ones_like(db))
    assert torch.equal(var, kept)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        ours(x, None, None)


def test_gradient_of_the_mean_only_form_tends_to_that_of_y():
    """Row 18: n -> infinity, for gradients whose mean tends to 0."""
    gap = []
    for n in (10, 1000, 100_000):
        x, grad = torch.randn(n, 1, dtype=torch.float64), torch.randn(n, 1, dtype=torch.float64)
        _, dx, *_ = run(ours, [x, None, None, None, None], grad, center_only=True)
        gap.append((dx - grad).abs().max().item())
    assert gap[2] < 0.02
    assert gap[2] < gap[0]


def test_mean_only_form_updates_only_the_running_mean():
    x, mean, var, weight, bias = inputs((5, 3, 4))
    expected_mean, kept = 0.7 * mean + 0.3 * x.mean((0, 2)), var.clone()
    ours(x, mean, var, weight, bias, momentum=0.3, center_only=True)
    torch.testing.assert_close(mean, expected_mean)
    assert torch.equal(var, kept)
    ours(x, mean, None, center_only=True)
    ours(x, mean, None, center_only=True, training=False)

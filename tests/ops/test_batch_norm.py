"""batch_norm, and rows 17 and 18 of the notes."""

import itertools
import math
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as torch_F
from torch import Tensor

import torchnotes.functional as F
from checks import ACTIVATIONS, activated, outcome, refused_in_place, values
from devices import DTYPES
from generic import checked
from torchnotes.nn import BatchNorm1d, BatchNorm2d
from torchnotes.testing import derivatives
from torchnotes.testing.accuracy import assert_accurate
from torchnotes.testing.compilers import check_compiled_transforms
from torchnotes.testing.layouts import LAYOUTS, channels_last, contiguous, expanded
from torchnotes.testing.operations.normalization import EVALUATION, NORMALIZATION
from torchnotes.testing.running import naming, result_or_error, threads
from torchnotes.testing.values import agree, check_error, every

BATCH_NORM = NORMALIZATION["batch_norm"]
LEAKY = {"activation": "leaky_relu", "negative_slope": 0.2}
KERNELS = torch.ops.torchnotes
HALF = (torch.bfloat16, torch.float16)
ORDERS = tuple(itertools.permutations(range(4)))
nan, inf = math.nan, math.inf


@checked(BATCH_NORM)
def test_generic(check):
    check()


def builtin(x, mean=None, var=None, weight=None, bias=None, training=True, activation=None, **options) -> Tensor:
    return activated(torch_F.batch_norm(x, mean, var, weight, bias, training, **options), activation, 0.2)


def ours(*args, **kwargs) -> Tensor:
    return F.batch_norm(*args, **{"training": True, "negative_slope": 0.2, **kwargs})


def inputs(shape: tuple, dtype: torch.dtype = torch.float64, device: str = "cpu") -> list[Tensor]:
    """x, running mean and variance, weight and bias."""
    return [x.detach() for x in BATCH_NORM.sample({}, shape, dtype, device).values() if isinstance(x, Tensor)]


def assert_same(mine, theirs) -> None:
    """The same numbers, or the same error."""
    for one, other in zip(*map(torch.utils._pytree.tree_leaves, (mine, theirs)), strict=True):
        assert torch.allclose(one, other) if isinstance(other, Tensor) else one == other


# values and layouts

# In the first image rows are aligned to cache lines, in the others they are not.
LARGE = (((32, 65, 64), torch.float32), *(((33, 65, 63), dtype) for dtype in DTYPES))
CHUNKS = [((40, 3, 30, 30), dtype) for dtype in DTYPES]  # several to a channel


@pytest.mark.kernels
@pytest.mark.parametrize(
    ("shape", "kind"),
    [*CHUNKS, *(((2**24 // kind.itemsize // math.prod(image) + 1, *image), kind) for image, kind in LARGE)],
    ids=str,
)
def test_large_images(shape, kind, device):
    """Some are large enough for stores that bypass the CPU's caches."""
    for layout in (contiguous, channels_last):
        sample, g = BATCH_NORM.sample(LEAKY, shape, kind, device, layout), layout(values(shape, kind, device))
        exact = BATCH_NORM.results(
            BATCH_NORM.builtin, BATCH_NORM.widened(sample), g.double()
        )  # faster than the reference
        assert_accurate(BATCH_NORM.results(F.batch_norm, sample, g), exact, sample, g)


@pytest.mark.kernels
@pytest.mark.parametrize("options", ({}, EVALUATION, LEAKY | EVALUATION), ids=str)
@pytest.mark.parametrize("shape", ((40, 3000), (33, 1001), (3, 2056, 2, 3)), ids=str)
def test_many_channels(shape, options, dtype, device):
    """More than one block has, and more than one thread prepares."""
    layout = channels_last if len(shape) == 4 else contiguous
    sample, g = BATCH_NORM.sample(options, shape, dtype, device, layout), layout(values(shape, dtype, device))
    exact = BATCH_NORM.results(BATCH_NORM.builtin, BATCH_NORM.widened(sample), g.double())
    found = []
    for count in (1, 2):
        with threads(count):
            found.append(BATCH_NORM.results(F.batch_norm, sample, g))
    assert_accurate(found[0], exact, sample, g)
    for name, result in found[0].items():
        assert torch.equal(result, found[1][name]), name


def test_numbers_of_16_bit_inputs_may_be_wider(device):
    options_of_any = [options for options in every(BATCH_NORM) if "inplace" not in options]  # which recovers x from y
    for kind, options, shape in itertools.product(HALF, options_of_any, BATCH_NORM.laid_out):
        sample = BATCH_NORM.sample(options, shape, torch.float32, device)
        agree(BATCH_NORM, options, sample | {"input": sample["input"].detach().to(kind).requires_grad_()})


def test_empty_tensors_match_torch(dtype, device):
    for shape, options in itertools.product(((0, 3), (0, 3, 2), (2, 3, 0)), ({}, EVALUATION, {"inplace": True})):
        agree(BATCH_NORM, options, BATCH_NORM.sample(options, shape, dtype, device))


def test_strides_of_dimensions_of_size_one_match_torch():
    for shape in itertools.product((1, 2), repeat=4):
        x, *numbers = inputs(shape, torch.float32)
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
            on_meta = (torch.empty_strided(t.shape, t.stride(), device="meta") for t in (view, *numbers))
            assert ours(*on_meta, training=training).stride() == strides[0][0]


def matrix(shape: tuple) -> Tensor:
    return torch.randn(shape[1] // 3, 3, dtype=torch.float64).mT.requires_grad_()


OF_MATRICES = (derivatives.check_gradient, derivatives.check_wanted_gradients, derivatives.check_vmap)


@pytest.mark.parametrize("check", OF_MATRICES)
def test_weight_and_bias_of_any_shape(check, device):
    """torch also accepts other shapes, but cannot compute gradients for them."""
    given = {"weight": matrix, "bias": matrix, "activation": "tanh"}
    options = given, {**given, **EVALUATION}
    more = tuple({**given, **LEAKY, "inplace": True} for _ in range(5))  # some save some of the channels
    check(replace(BATCH_NORM, options=options, more_options=more, small=(3, 6, 2)), device)


# accuracy


def with_a_spike(x: Tensor) -> Tensor:
    x[0, :, 0] = 1e6
    return x


HARD = {
    "a large mean": lambda x: x + 1e4,
    "a small variance": lambda x: 1e-4 * x + 1,
    "huge": lambda x: 1e15 * x,
    "constant": lambda x: 0 * x + 0.7,
    "begins with its greatest": with_a_spike,
    "a ramp": lambda x: torch.linspace(0, 1, len(x), dtype=x.dtype)[:, None, None] + 1e-3 * x,
}


@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize("columns", (False, True))
def test_error_is_no_larger_than_torchs(name, columns, dtype, device):
    def hard(shape: tuple) -> Tensor:
        x = HARD[name](torch.randn((64, 20, 100), dtype=torch.float64))
        return (x.transpose(1, 2).reshape(shape) if columns else x).requires_grad_()

    if dtype == torch.float16 and name in ("huge", "begins with its greatest"):
        pytest.skip("too large for float16")
    operation = replace(BATCH_NORM, arguments={**BATCH_NORM.arguments, "input": hard}, options=({},), scales=(1.0,))
    operation = replace(operation, many=(6400, 20) if columns else (64, 20, 100))
    check_error(operation, dtype, device)
    if dtype == torch.float64:  # check_error would need a wider type
        sample, g = operation.sample({}, operation.many, dtype, device), values(operation.many, dtype, device)
        found, exact = (operation.results(f, sample, g) for f in (F.batch_norm, BATCH_NORM.reference))
        for name, true in exact.items():
            atol = 1e-10 * max(1.0, true.abs().max().item())
            torch.testing.assert_close(found[name], true, rtol=1e-10, atol=atol)


def test_a_constant_channel_has_no_variance(dtype, device):
    assert not ours(torch.full((8, 3, 100), 0.3, dtype=dtype, device=device), None, None).any()


@pytest.mark.parametrize("special", (nan, inf, -inf))
@pytest.mark.parametrize("where", ("input", "gradient"))
def test_special_values_stay_in_their_channel(special, where, dtype, device):
    places = ((40, 3), (7, 1)), ((4, 3, 50), (1, 1, 20))
    for (shape, place), options in itertools.product(places, filter(BATCH_NORM.torchs, BATCH_NORM.options)):
        sample, g = BATCH_NORM.sample(options, shape, dtype, device), values(shape, dtype, device)
        with torch.no_grad():
            (sample["input"] if where == "input" else g)[place] = special
        found = (BATCH_NORM.results(f, sample, g) for f in (F.batch_norm, BATCH_NORM.builtin))
        for mine, other in zip(*map(dict.values, found), strict=True):
            # Rounding decides whether infinity is multiplied by 0 or subtracted from infinity.
            assert torch.equal(mine.isfinite(), other.isfinite())


# differentiation


def test_second_derivative_with_a_large_mean(device):
    for dtype, offset in itertools.product((torch.float32, *HALF), (10, 1e3, 1e4)):
        x, _, _, weight, bias = inputs((64, 5, 7), dtype, device)
        tensors, v = [x + offset, weight, bias, values(x.shape, dtype, device)], values(x.shape, dtype, device)
        results = []
        exact = partial(BATCH_NORM.reference, training=True)
        for function, arguments in ((ours, tensors), (exact, [t.double() for t in tensors])):
            x, weight, bias, g = (t.detach().requires_grad_() for t in arguments)
            (first,) = torch.autograd.grad(function(x, None, None, weight, bias), x, g, create_graph=True)
            results.append(torch.autograd.grad(first, (x, weight, g), v.to(first.dtype)))
        for mine, true in zip(*results, strict=True):
            assert (mine.double() - true).norm() <= (1e-6 + torch.finfo(mine.dtype).eps) * true.norm()


def vmapped(function, batched, last, training) -> tuple:
    """The output and gradients under vmap over some tensors, and all tensors after the call."""
    torch.manual_seed(0)
    shapes = (4, 2, 3), (2,), (2,), (2,), (2,)
    tensors = [torch.rand((3, *s) if is_batched else s).double() for s, is_batched in zip(shapes, batched, strict=True)]
    # torch loses updates of statistics that are not batched in the first dimension
    dim = -1 if last and function is ours else 0
    moved = [t.movedim(0, dim).contiguous() if one else t for t, one in zip(tensors, batched, strict=True)]

    def gradients(x, weight, bias, mean, var):
        def loss(x, weight, bias):
            y = function(x, mean, var, weight, bias, training=training, momentum=0.3)
            return y.pow(3).sum(), y

        return torch.func.grad(loss, (0, 1, 2), has_aux=True)(x, weight, bias)

    call = torch.vmap(gradients, tuple(dim if one else None for one in batched)) if any(batched) else gradients
    result = result_or_error(call, *moved)
    return result, [t.movedim(dim, 0) if one else t for t, one in zip(moved, batched, strict=True)]


@pytest.mark.parametrize("training", (True, False))
def test_vmap_over_every_subset_of_the_tensors(training):
    for batched, last in itertools.product(itertools.product((False, True), repeat=5), (False, True)):
        assert_same(*(vmapped(function, batched, last, training) for function in (ours, builtin)))


@pytest.mark.parametrize("training", (True, False))
def test_running_statistics_have_no_gradient_under_a_transform(training):
    x, mean, var, weight, bias = inputs((4, 3))
    for function in (ours, builtin):

        def tangent(mean, function=function):
            return torch.func.jvp(lambda m: function(x, m, var, weight, bias, training=training), (mean,), (mean,))[1]

        with pytest.raises(RuntimeError, match=r"not differentiable with respect to .*running_mean"):
            torch.func.vjp(tangent, mean.clone())


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch's lerp_ under vmap
@pytest.mark.parametrize("samples", (1, 3))
def test_nested_vmap_over_every_subset_of_the_tensors(samples):
    """Compares results and running statistics in training."""
    subsets = list(itertools.product((0, None), repeat=4))[:-1]
    for inner, outer in itertools.product(subsets, subsets):
        tensors = inputs((4, 3))[:4]
        for in_dims, n in ((inner, samples), (outer, 2)):
            scales = torch.tensor([0.5**i for i in range(n)], dtype=torch.float64)
            tensors = [
                t if dim is None else torch.stack([t * s for s in scales])
                for t, dim in zip(tensors, in_dims, strict=True)
            ]

        def of_each(function, x, mean, var, weight):
            mean, var = mean.clone(), var.clone()
            return function(x, mean, var, weight, None, training=True), mean, var

        found, expected = (
            result_or_error(torch.vmap(torch.vmap(partial(of_each, function), inner), outer), *tensors)
            for function in (ours, builtin)
        )
        if isinstance(expected[0], type):
            assert isinstance(found[0], type), (inner, outer)
        else:
            torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("training", (True, False))
def test_ensembles(training):
    x, found = torch.randn(5, 3, 4).double(), []
    for module in (torch.nn.BatchNorm1d, BatchNorm1d):
        torch.manual_seed(0)
        members = [module(3, dtype=torch.float64).train(training) for _ in range(2)]
        for member in members:
            torch.nn.init.normal_(member.weight)
        weights, buffers = torch.func.stack_module_state(members)

        def loss(weights, buffers, member=members[0]):
            return torch.func.functional_call(member, (weights, buffers), (x,)).pow(3).sum()

        found.append((torch.vmap(torch.func.grad(loss))(weights, buffers), buffers))
    torch.testing.assert_close(*found)


def tangents(function, moving, training) -> tuple:
    """The tangent along some tensors, and all tensors after the call."""
    torch.manual_seed(0)
    tensors = inputs((4, 3))

    def along(*some):
        given = iter(some)
        return function(*(next(given) if m else t for m, t in zip(moving, tensors, strict=True)), training=training)

    primals = tuple(t.clone() for m, t in zip(moving, tensors, strict=True) if m)
    return result_or_error(torch.func.jvp, along, primals, primals), tensors, primals


@pytest.mark.parametrize("training", (True, False))
def test_tangents_of_running_statistics_match_torch(training):
    for moving in itertools.product((False, True), repeat=5):
        assert_same(*(tangents(function, moving, training) for function in (ours, builtin)))


# compilation


def test_compiled_transforms_in_evaluation(device):
    check_compiled_transforms(replace(BATCH_NORM, options=(EVALUATION,)), device)


@pytest.mark.parametrize("training", (True, False))
def test_compiled_and_exported_modules_update_running_statistics(training):
    x, other = torch.randn(4, 3, 5, 6), torch.randn(2, 3, 9, 6)
    first, second = (BatchNorm2d(3, activation="relu").train(training) for _ in range(2))
    dynamic = ({0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC},)
    exported = torch.export.export(first, (x,), dynamic_shapes=dynamic).module(check_guards=False)
    for ours in (exported, torch.compile(second, fullgraph=True, backend="aot_eager")):
        theirs = torch.nn.BatchNorm2d(3).train(training)
        torch.testing.assert_close(ours(other), theirs(other).relu())
        torch.testing.assert_close(list(ours.buffers()), list(theirs.buffers()))
    torch._dynamo.reset()


# in place


def test_in_place_with_small_weights_is_exact(dtype, device):
    """Channels whose input cannot be recovered from the output are saved."""
    options = {**LEAKY, "inplace": True}
    sample = BATCH_NORM.sample(options, (6, 5, 9), dtype, device)
    sample["weight"].data[:3] = torch.tensor([0.0, 1e-30, -1e-6])
    sample["bias"].data[:3] = torch.tensor([1.0, -2.0, 3.0])
    for layout in (contiguous, expanded):
        g = layout(values((6, 5, 9), dtype, device))
        agree(BATCH_NORM, options, sample, g)
        found, expected = (BATCH_NORM.results(F.batch_norm, sample | {"inplace": own}, g) for own in (True, False))
        for name, x in found.items():
            channels = min(x.dim() - 1, 1)
            assert torch.equal(x.narrow(channels, 0, 3), expected[name].narrow(channels, 0, 3)), name


def test_in_place_saves_nothing_else(device):
    x, _, _, weight, bias = inputs((16, 4, 1000), torch.float32, device)
    saved: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        saved[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        numbers = weight.abs() + 0.5, bias.clamp(-1, 1)
        y = ours(x.requires_grad_() * 1, None, None, *numbers, activation="leaky_relu", inplace=True)
    assert y.nbytes <= sum(saved.values()) <= y.nbytes + 1000


def test_errors_of_the_backward_in_place():
    x = inputs((4, 3))[0].requires_grad_()
    y = ours(x * 1, None, None, inplace=True)
    with pytest.raises(RuntimeError, match="inplace=False"):
        torch.autograd.grad(y.sum(), x, create_graph=True)
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


def test_in_place_raises_where_torch_does(device):
    for make in refused_in_place(torch.float32, device):
        x, running = make(), (torch.zeros(4, device=device), torch.ones(4, device=device))
        kept = x.detach().clone()
        assert outcome(ours, x, *running, inplace=True)[0] is outcome(torch_F.relu, make(), inplace=True)[0]
        assert torch.equal(x.detach(), kept)
        assert not running[0].any()


@pytest.mark.parametrize("inplace", (False, True))
@pytest.mark.parametrize("training", (True, False))
def test_running_statistics_may_be_views_and_only_training_bumps_their_versions(training, inplace):
    x, *running = inputs((4, 3))[:3]
    expected, views = ([torch.stack((numbers, numbers), 1)[:, 0] for numbers in running] for _ in range(2))
    versions = [view._version for view in views]
    ours(x * 1, *views, training=training, inplace=inplace)
    builtin(x, *expected, training=training)
    torch.testing.assert_close([view._base for view in views], [view._base for view in expected])
    assert all((view._version > before) == training for view, before in zip(views, versions, strict=True))


def test_nothing_is_written_if_a_running_statistic_is_not_writable():
    with torch.inference_mode():
        of_inference = torch.ones(3)
    unwritable = of_inference, torch._efficientzerotensor((3,)), torch.ones(1).expand(3)
    for statistic, name, inplace, center_only in itertools.product(
        unwritable, ("running_mean", "running_var"), (False, True), (False, True)
    ):
        if center_only and name == "running_var":  # is not updated
            continue
        x = torch.randn(4, 3, requires_grad=True) * 1
        running = {"running_mean": torch.zeros(3), "running_var": torch.ones(3), name: statistic}
        kept = [t.detach().clone() for t in (x, *running.values())]
        with pytest.raises(RuntimeError, match=r"inference tensor|immutable|single memory location"):
            ours(x, **running, inplace=inplace, center_only=center_only)
        assert all(map(torch.equal, (x, *running.values()), kept))


# operators and arguments


@pytest.mark.parametrize("center_only", (False, True))
@pytest.mark.parametrize("activation", (None, "relu", "tanh"))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_pass(layout, activation, center_only, dtype, device):
    """The operators that sync_batch_norm calls."""
    number = ACTIVATIONS.index(activation), 0.2
    options = {"running_mean": None, "running_var": None, "activation": activation, "center_only": center_only}
    for shape in ((6, 35), (3, 4, 5, 6), (2, 3, 600)):
        sample = BATCH_NORM.sample(options, shape, dtype, device)
        x, g = layout(sample["input"].detach()), layout(values(shape, dtype, device))
        numbers, dims = (sample["weight"], sample["bias"]), [0, *range(2, x.dim())]
        mean, variance = KERNELS.batch_norm_moments(x)
        moments = torch.var_mean(x.double(), dims, correction=0)
        torch.testing.assert_close((variance, mean), moments, rtol=1e-12, atol=1e-12)
        statistics = torch.stack((mean, torch.ones_like(mean) if center_only else (variance + 1e-5).rsqrt()))
        with torch.no_grad():
            y, *_ = KERNELS.batch_norm(x, *numbers, *[None] * 3, False, 1e-5, *number, center_only, statistics)
            totals = KERNELS.batch_norm_totals(g, x, *numbers, statistics, *number)
            means = totals / (x.numel() // x.shape[1])
            d_x = KERNELS.batch_norm_gradient(g, x, *numbers, statistics, means, *number, center_only)
        of_bias, of_weight = totals.to(dtype)
        found = {"output": y, "gradient of input": d_x, "gradient of weight": of_weight, "gradient of bias": of_bias}
        assert_accurate(
            found, BATCH_NORM.results(BATCH_NORM.reference, BATCH_NORM.widened(sample), g.double()), sample, g
        )


def test_opcheck_of_the_passes(dtype, device):
    tests = ("test_schema", "test_faketensor")
    if dtype == torch.float32:  # tracing does not depend on the dtype
        tests = (*tests, "test_aot_dispatch_static", "test_aot_dispatch_dynamic")
    x, mean, var, weight, bias = inputs((3, 4, 5, 6), dtype, device)
    statistics, options = KERNELS.batch_norm_moments(x), (2, 0.1)
    for layout in (contiguous, channels_last):
        of_backward = x, layout(x), weight, bias, statistics
        for name, arguments in (
            ("batch_norm_moments", (layout(x),)),
            ("batch_norm_totals", (*of_backward, *options)),
            ("batch_norm_gradient", (*of_backward, statistics, *options, False)),
            ("batch_norm", (layout(x), weight, bias, None, None, None, False, 1e-5, *options, False, statistics)),
            ("batch_norm", (layout(x), weight, bias, mean, var, 0.1, True, 1e-5, *options, False)),
        ):
            torch.library.opcheck(getattr(KERNELS, name).default, arguments, test_utils=tests)


def test_kernels_reject_mismatched_arguments(device):
    x, mean, var, *numbers = inputs((4, 3), torch.float32, device)
    forward, backward, totals = KERNELS.batch_norm, KERNELS.batch_norm_backward, KERNELS.batch_norm_totals
    of_all, training, evaluation = (*numbers, mean, var), (True, 1e-5, 0, 0.1, False), (False, 1e-5, 0, 0.1, False)
    statistics = forward(x, *of_all, None, *training)[1]
    wrong: list[tuple] = [
        (message, forward, x, *of_all[:i], bad, *of_all[i + 1 :], 0.1, *training)
        for i in range(4)
        for bad, message in ((mean[:2], "should contain 3 elements not 2"), (mean.double(), "dtype"))
    ]
    for bad, message in ((x[:2], "size"), (x.double(), "dtype")):
        wrong.append((message, backward, bad, x, *numbers, statistics, *training))
    wrong.append(("statistics", backward, x, x, *numbers, statistics[:, :2], *training))
    for bad in (statistics[:, :2], statistics.float()):
        double = r"expected statistics of size \[2, 3\] in double precision"
        wrong.append((double, totals, x, x, *numbers, bad, 0, 0.1))
        wrong.append(("expected statistics", forward, x, *numbers, *[None] * 3, *evaluation, bad))
        of_gradient = x, x, *numbers, statistics, bad, 0, 0.1, False
        wrong.append(("expected means", KERNELS.batch_norm_gradient, *of_gradient))
    wrong.append(("expected no statistics in training", forward, x, *numbers, *[None] * 3, *training, statistics))
    for bad in (x[:0], x[0]):
        wrong.append((r"nonempty input \(N, C, ...\)", KERNELS.batch_norm_moments, bad))
        wrong.append((r"nonempty input \(N, C, ...\)", forward, bad, *of_all, 0.1, *training))
    wrong.append(("activation", forward, x, *of_all, 0.1, True, 1e-5, 7, 0.1, False))
    wrong.append(("expected no momentum", forward, x, *of_all, 0.1, *evaluation))
    overlapping = mean[:1].expand(3)
    wrong.append(("more than one element", forward, x, *numbers, overlapping, var, 0.1, *training))
    for running in ((None, var), (mean, None)):
        wrong.append(("must be defined in evaluation mode", forward, x, *numbers, *running, None, *evaluation))
    for message, operator, *arguments in wrong:
        with pytest.raises(ValueError if message == "activation" else RuntimeError, match=message):
            operator(*arguments)


NUMBERS = (1, np.float32(0.3), np.int64(1), torch.tensor(0.3), "x", torch.ones(1), np.ones(1), np.array(0.5))
NUMBERS += (Fraction(1, 2), Decimal(1), torch.ones((), requires_grad=True))


def test_arguments_do_what_they_do_in_torch():
    """The same numbers or the same error, before anything is written. The generic checks pass other wrong types."""
    x, mean, var, weight, bias = inputs((4, 3, 5))
    usual = dict(input=x, running_mean=mean, running_var=var, weight=weight, bias=bias)
    changes = [{"input": v} for v in (x[0, 0], torch.tensor(1.0), torch.randn(4, 2), x[:1, :, :1])]
    changes += [{"eps": -1.0}, {"eps": 0.0}, {"running_mean": mean.clone().requires_grad_()}]
    changes += [{name: mean.view(shape)} for name in ("running_mean", "running_var") for shape in ((1, 3), (3, 1))]
    changes += [{name: number} for name in ("eps", "momentum") for number in NUMBERS]
    cases = [{**change, "training": training} for change in changes for training in (True, False)]
    for case in cases + [{"training": v} for v in (0, 1, None, "x", 1.0, torch.tensor(True))]:
        found = []
        for function in (F.batch_norm, torch_F.batch_norm):
            given = {name: v.clone() if isinstance(v, Tensor) else v for name, v in {**usual, **case}.items()}
            result = result_or_error(function, **given)
            if isinstance(result, tuple):
                result = result[0]
                given = given if function is F.batch_norm else {**usual, **case}  # torch may write before an error
            found.append((result, given["running_mean"], given["running_var"]))
        with naming(str(case)):
            assert_same(*found)


@pytest.mark.parametrize(
    ("options", "message"),
    (
        *(({"activation": wrong}, "activation must be one of None, 'relu'") for wrong in ("gelu", 3, "ReLU")),
        ({"activation": "leaky_relu", "negative_slope": "x"}, "could not convert"),
    ),
)
def test_rejects_invalid_additional_options(options, message):
    with pytest.raises(ValueError, match=message):
        ours(torch.randn(4, 3), None, None, **options)


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
    """Row 18: dx^_i/dx_j = [i = j] - 1/n. For n -> infinity the gradient tends to that of y if its mean tends to 0."""
    n = 6
    x = torch.randn(n, 1, dtype=torch.float64)
    jacobian = torch.func.jacrev(lambda x: ours(x, None, None, center_only=True))(x).view(n, n)
    torch.testing.assert_close(jacobian, torch.eye(n, dtype=torch.float64) - 1 / n)


def test_mean_only_form_of_one_number_is_zero_with_gradient_zero(dtype, device):
    sample = BATCH_NORM.sample({"center_only": True}, (1, 3), dtype, device)
    found = BATCH_NORM.results(F.batch_norm, sample)
    zeros, ones = torch.zeros_like(sample["input"]), torch.ones_like(sample["bias"])
    expected = zeros + sample["bias"], zeros, zeros[0], ones, sample["running_var"]
    names = "output", "gradient of input", "gradient of weight", "gradient of bias", "running_var"
    assert all(torch.equal(found[name], x) for name, x in zip(names, expected, strict=True))
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        ours(sample["input"], None, None)

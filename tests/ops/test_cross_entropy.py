"""cross_entropy, and rows 10, 14 and 15 of the notes."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
import torch.utils.checkpoint
from torch import Tensor
from torch.autograd import gradcheck
from torch.nn.functional import cross_entropy as builtin

import torchnotes.functional as F
from checks import outcome
from generic import checked
from torchnotes import nn
from torchnotes.testing.layouts import channels_last, contiguous, transposed
from torchnotes.testing.operation import Options, Shape, described
from torchnotes.testing.operations.cross_entropy import (
    CROSS_ENTROPY,
    OURS,
    TORCHS,
    probabilities_with_gradient,
    reference,
)
from torchnotes.testing.operations.rows import log_softmax
from torchnotes.testing.running import result_or_error

inf, nan = float("inf"), float("nan")

ROUNDED = dict(rtol=2e-2, atol=2e-2)  # autocast rounds a product's operands to bfloat16
KERNELS = ("cross_entropy", "cross_entropy_backward", "cross_entropy_backward_", "cross_entropy_curvature")


@checked(CROSS_ENTROPY["cross_entropy"])
def test_generic(check):
    check()


def problem(shape: tuple, dtype: torch.dtype, probabilities: bool, scale: float = 5.0) -> tuple[Tensor, Tensor]:
    """Logits and targets. One target is ignored if there are several."""
    x = (scale * torch.randn(shape, dtype=torch.float64)).to(dtype)
    if probabilities:
        return x, torch.randn(shape, dtype=torch.float64).softmax(1 if len(shape) > 1 else 0).to(dtype)
    target = torch.randint(shape[1] if len(shape) > 1 else shape[0], shape[:1] + shape[2:] if len(shape) > 1 else ())
    if target.numel() > 3:
        target.view(-1)[1] = -100
    return x, target


def filled(options: Options, shape: Shape, dtype: torch.dtype) -> dict[str, Any]:
    return {name: x(shape).to(dtype) if callable(x) else x for name, x in options.items()}


@pytest.mark.parametrize(
    "options",
    ({"weight": lambda shape: 0.1 + torch.rand(shape[1]).double()}, {"logit_softcap": 3.0}),
    ids=("weight", "cap"),
)
def test_error_of_the_mean_is_no_larger_than_torchs(options):
    """Compares means over a few seeds, hence the tolerance of twice torch's error or one eps."""
    errors, operation = [], CROSS_ENTROPY["cross_entropy"]
    for seed in range(8):
        torch.manual_seed(seed)
        sample = operation.sample(options, (20_000, 30), torch.float32)
        exact = operation.results(reference, operation.widened(sample))
        found = [operation.results(f, sample) for f in (F.cross_entropy, operation.torchs(options) or _capped)]
        errors.append([[_relative_error(each[name], exact[name]) for each in found] for name in exact])
    (loss, gradient), eps = torch.tensor(errors).square().mean(0).sqrt(), torch.finfo(torch.float32).eps
    assert loss[0] <= max(2 * loss[1], eps)
    assert gradient[0] <= 1.1 * gradient[1] + 0.02 * eps


def _capped(input: Tensor, target: Tensor, logit_softcap: float) -> Tensor:
    return builtin(logit_softcap * torch.tanh(input / logit_softcap), target)


def _relative_error(found: Tensor, exact: Tensor) -> Tensor:
    return (found.double() - exact).square().mean().sqrt() / exact.abs().mean()


def test_uint8_targets():
    x, target = problem((4, 5), torch.float32, False)
    target = target.clamp(min=0)
    assert torch.equal(F.cross_entropy(x, target.byte()), F.cross_entropy(x, target))


def test_mixed_dtypes_match_torch():
    x, q = problem((4, 5), torch.bfloat16, True)
    for other in (q.float(), q.double()):
        ours = F.cross_entropy(x, other)
        assert ours.dtype == builtin(x, other).dtype
        torch.testing.assert_close(ours, reference(x.double(), other.double()), check_dtype=False)
    for of_logits, of_weight in itertools.product((torch.bfloat16, torch.float32), repeat=2):
        for weight in (torch.rand(5).to(of_weight), torch.rand(5).double(), torch.tensor([1 + 1j, 2, 3, 4, 5])):
            ours, theirs = (f(x.to(of_logits), q.to(of_logits), weight) for f in (F.cross_entropy, builtin))
            torch.testing.assert_close(ours, theirs, rtol=8e-3 if of_logits == torch.bfloat16 else 1e-6, atol=0)
    with pytest.raises(RuntimeError):
        F.cross_entropy(x, q, weight, z_loss=0.1)
    weight = torch.rand(5)
    target = torch.tensor((0, 1, 2, 3))
    torch.testing.assert_close(
        F.cross_entropy(x, target, weight), builtin(x.float(), target, weight), check_dtype=False, rtol=8e-3, atol=0
    )


# reductions


@pytest.mark.parametrize("weight", (None, torch.zeros(5)))
def test_mean_over_no_rows(weight):
    x = torch.randn(3, 5, requires_grad=True)
    target = torch.full((3,), -100) if weight is None else torch.tensor([0, 1, 2])
    for empty, expected in (("nan", nan), ("zero", 0.0)):

        def mean(x: Tensor, target: Tensor = target, empty: str = empty) -> Tensor:
            return F.cross_entropy(x, target, weight, empty=empty)

        for loss in (mean(x), torch.func.vmap(mean)(x[None])[0], mean(x[:0], target[:0])):
            torch.testing.assert_close(loss, torch.tensor(expected), equal_nan=True)
        if weight is None or empty == "zero":
            assert not torch.autograd.grad(mean(x), x)[0].any()


# derivatives


@pytest.mark.parametrize("kind", (torch.float32, torch.bfloat16), ids=str)
def test_second_derivative_overflows_no_earlier_than_torchs(kind):
    for probabilities, weighted in itertools.product((False, True), repeat=2):
        x, target = problem((200, 5), kind, probabilities)
        weight = torch.rand(5).to(kind) if weighted else None
        g = (3.3e38 * torch.linspace(-1, 1, 200)).to(kind)
        v = (torch.randn(200, 5) * 10 ** torch.linspace(-2, 2, 200)[:, None]).to(kind)
        results = []
        for function in (F.cross_entropy, builtin):
            leaf = x.detach().requires_grad_()
            loss = function(leaf, target, weight, reduction="none")
            (gradient,) = torch.autograd.grad(loss, leaf, g, create_graph=True)
            results.append(torch.autograd.grad(gradient, leaf, v)[0])
        finite = results[1].isfinite()
        assert 500 < finite.sum() < 900
        ours, theirs = (result[finite].double() / 3.3e38 for result in results)
        torch.testing.assert_close(ours, theirs, rtol=8 * torch.finfo(kind).eps, atol=8 * torch.finfo(kind).eps)


def test_derivatives_of_the_fourth_order():
    def third(x: Tensor) -> Tensor:
        (first,) = torch.autograd.grad(F.cross_entropy(x, target, z_loss=0.1).pow(2), x, create_graph=True)
        return torch.autograd.grad(first.pow(3).sum(), x, create_graph=True)[0]

    x, target = problem((3, 4), torch.float64, False, scale=1)
    assert gradcheck(third, x.requires_grad_())


def test_gradient_of_zero_probabilities():
    """The gradient of q_j is w_j (lse - u_j) even if q_j is zero."""
    x, q = torch.randn(3, 5, dtype=torch.float64), torch.eye(5, dtype=torch.float64)[:3].requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(x, q, reduction="sum"), q)
    torch.testing.assert_close(gradient, -log_softmax(x))


def test_classes_of_zero_probability_have_no_effect():
    x = torch.tensor([[0.0, -inf, 1.0]], requires_grad=True)
    q = torch.tensor([[0.5, 0.0, 0.5]], requires_grad=True)
    for weight in (None, torch.tensor([1.0, 0.0, 2.0])):
        (gradient,) = torch.autograd.grad(F.cross_entropy(x, q, weight), q)
        assert gradient.isfinite().all()
        assert gradient[0, 1] == 0
    assert F.cross_entropy(x, torch.tensor([1]), weight, reduction="sum") == 0


@pytest.mark.parametrize("offset", (0.0, 1e4))
def test_error_of_the_gradient_of_probabilities_is_no_larger_than_torchs(offset, dtype):
    if dtype == torch.float64:  # there is no wider reference
        return
    operation, name = CROSS_ENTROPY["cross_entropy"], "gradient of target"
    for options, reduction in itertools.product(TORCHS, ("mean", "sum", "none")):
        options = {**options, "target": probabilities_with_gradient, "reduction": reduction}
        squares = torch.zeros(2, dtype=torch.float64)
        for _ in range(8):  # a row shares the error of its lse, and all rows that of the sum of the weights
            sample = operation.sample(options, (300, 60), dtype)
            sample["input"] = (5 * torch.randn(300, 60) + offset).to(dtype)
            exact = operation.results(reference, operation.widened(sample))[name]
            found = (operation.results(f, sample)[name].double() for f in (F.cross_entropy, builtin))
            squares += torch.stack([(gradient - exact).square().mean() for gradient in found])
        ours, theirs = squares.sqrt()
        assert ours <= 1.05 * theirs  # 5 % of random variation


def test_gradient_of_probabilities_with_large_logits():
    most = 3e38
    rows = [[most, 0, 1], [most, -most, 0], [most, most, 0], [-most] * 3, [-most, 0, 0], [most, -inf, 0]]
    for x in (torch.tensor(rows), torch.tensor(rows).bfloat16(), torch.tensor(rows).clamp(-6e4, 6e4).half()):
        q = torch.rand(len(rows), 3).to(x.dtype).requires_grad_()
        for keywords in TORCHS[:3]:
            keywords = filled(keywords, (6, 3), x.dtype)
            ours, theirs = (
                torch.autograd.grad(f(x, q, reduction="sum", **keywords), q)[0] for f in (F.cross_entropy, builtin)
            )
            assert not ours.isnan().any()
            finite = theirs.isfinite()  # torch's overflows earlier in half precision
            torch.testing.assert_close(ours[finite], theirs[finite])


def test_vmap_over_single_rows():
    x, q = torch.randn(4, 5), torch.rand(4, 5)
    for target in (q, torch.randint(5, (4,))):
        for transform in (lambda f: f, torch.func.grad, torch.func.hessian):
            ours, theirs = (torch.func.vmap(transform(f))(x, target) for f in (F.cross_entropy, builtin))
            torch.testing.assert_close(ours, theirs)
            ours, theirs = (torch.func.vmap(f, (None, 0))(x[0], target) for f in (F.cross_entropy, builtin))
            torch.testing.assert_close(ours, theirs)


def test_saves_two_numbers_per_row():
    x, target = torch.randn(64, 100, requires_grad=True), torch.randint(100, (64,))
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        F.cross_entropy(x, target)
    extra = {t.data_ptr(): t.numel() for t in saved if t.data_ptr() not in (x.data_ptr(), target.data_ptr())}
    assert sorted(extra.values()) == [1, 2 * 64]  # the normalizer of each row, and the scale of the mean


# in place


@pytest.mark.parametrize("keywords", TORCHS + OURS, ids=described)
def test_inplace_backward(keywords, dtype):
    half = torch.full((), 0.5, dtype=dtype)
    for shape, probabilities in itertools.product(((4, 5), (3, 1000), (2, 5, 3, 4)), (False, True)):
        x, target = problem(shape, dtype, probabilities)
        options = filled(keywords, shape, dtype)
        for layout in (contiguous, channels_last, transposed):
            leaf = layout(x).requires_grad_()
            (expected,) = torch.autograd.grad(F.cross_entropy(leaf, target, **options), leaf, half)
            logits = leaf * 1
            address, version = logits.data_ptr(), logits._version
            loss = F.cross_entropy(logits, target, inplace_backward=True, **options)
            gradients: list[Tensor] = []
            logits.register_hook(gradients.append)
            loss.backward(half)
            assert torch.equal(leaf.grad, expected)
            assert gradients[0].data_ptr() == address
            assert logits._version > version
            assert torch.equal(logits.detach(), expected)


def test_inplace_backward_raises_instead_of_wrong_results():
    x, target = problem((4, 5), torch.float32, False)
    leaf = x.requires_grad_()
    logits = leaf * 1
    loss = F.cross_entropy(logits, target, inplace_backward=True)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    logits = leaf * 1
    other = logits.pow(2).sum()  # saves the logits
    F.cross_entropy(logits, target, inplace_backward=True).backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        other.backward()
    for given in (leaf, leaf.view(4, 5)):
        with pytest.raises(RuntimeError, match="leaf Variable"):
            F.cross_entropy(given, target, inplace_backward=True)
    with pytest.raises(RuntimeError, match="dense"):
        F.cross_entropy((leaf * 1)[:1].expand(4, 5), target, inplace_backward=True)
    with torch.no_grad():  # there is no graph
        assert torch.equal(F.cross_entropy(leaf, target, inplace_backward=True), F.cross_entropy(leaf, target))


def test_inplace_backward_preserves_other_uses_and_hooks():
    x, target = problem((4, 5), torch.float64, False)
    leaf, logits = x.requires_grad_(), x * 1
    expected = torch.func.grad(lambda x: builtin(x, target))(x.detach())

    def loss(logits: Tensor) -> Tensor:
        return F.cross_entropy(logits, target, inplace_backward=True)

    (first,) = torch.autograd.grad(loss(logits), leaf, create_graph=True)
    torch.testing.assert_close(logits, leaf)
    second = torch.func.hessian(lambda x: builtin(x, target))(leaf).sum((0, 1))
    torch.testing.assert_close(torch.autograd.grad(first.sum(), leaf)[0], second)
    with torch.autograd.graph.save_on_cpu():
        saved = loss(leaf * 1)
    torch.testing.assert_close(torch.autograd.grad(saved, leaf)[0], expected)
    torch.testing.assert_close(torch.func.grad(lambda x: loss(x * 1))(leaf.detach()), expected)


# kernels for a subset of the classes, as on one rank


@pytest.mark.parametrize("probabilities", (False, True), ids=("indices", "probabilities"))
@pytest.mark.parametrize("keywords", TORCHS + OURS, ids=described)
def test_kernels_for_a_subset_of_classes(keywords, probabilities, dtype):
    """The statistics of the parts give those of all classes, by which each part computes its gradient."""
    keywords = filled(keywords, (6, 11), torch.float64)
    forward, backward, backward_, _ = (getattr(torch.ops.torchnotes, name).default for name in KERNELS)
    x, target = problem((6, 11, 3), dtype, probabilities)
    exact, g = x.double().requires_grad_(), torch.rand(6, 3).to(dtype)
    wide_target = target.double() if probabilities else target
    true = reference(exact, wide_target, reduction="none", **{**keywords, "z_loss": 0.0})
    with_z = reference(exact, wide_target, reduction="none", **keywords)
    (gradient,) = torch.autograd.grad(with_z, exact, g.double())
    weight = keywords.get("weight")
    eps, z, cap = (keywords.get(name, 0.0) for name in ("label_smoothing", "z_loss", "logit_softcap"))
    parts = []
    for first, last in ((0, 4), (4, 5), (5, 11)):
        these = slice(first, last)
        w = None if weight is None else weight[these].to(torch.promote_types(dtype, torch.float32))
        own = target[:, these] if probabilities else target - first
        parts.append((x[:, these], own, w, -100 if probabilities else -100 - first))
    found = [forward(part, own, w, 0, ignored, eps, 0.0, cap, False, 11)[:2] for part, own, w, ignored in parts]
    statistics = torch.stack([own for _, own in found]).double()
    assert {nll.dtype for nll, _ in found} == {found[0][1].dtype}
    greatest, inverse, mass = statistics.unbind(2)
    lse = greatest - inverse.log()
    of_all = lse.logsumexp(0)
    losses = torch.stack([nll.double().flatten() for nll, _ in found]) + mass * (of_all - lse)
    small = torch.finfo(found[0][0].dtype).eps * 50
    counts = torch.ones_like(true) if probabilities else target != -100
    torch.testing.assert_close(losses.sum(0).view(6, 3) * counts, true.detach(), rtol=small, atol=small)
    whole = torch.stack((greatest.amax(0), (greatest.amax(0) - of_all).exp(), mass.sum(0)), 1).to(found[0][1].dtype)
    results = []
    for part, own, w, ignored in parts:
        rest = own, w, whole, None, 0, ignored, eps, z, cap, 11
        results.append(backward(g, part, *rest))
        part = part.clone()
        backward_(g, part, *rest)
        assert torch.equal(part, results[-1])
    tolerance = 20 * torch.finfo(dtype).eps
    torch.testing.assert_close(torch.cat(results, 1).double(), gradient, rtol=tolerance, atol=tolerance)


# registration


def test_kernels_reject_mismatched_arguments():
    ops, (x, target) = torch.ops.torchnotes, problem((4, 5), torch.float32, False)
    options, g = (-100, 0.0, 0.0, 0.0), torch.ones(4)
    _, statistics, scale = ops.cross_entropy(x, target, None, 0, *options, False)
    for kernel, arguments, message in (
        (ops.cross_entropy_backward, (g[:3], x, target, None, statistics, scale, 0), "gradient for every row"),
        (ops.cross_entropy_backward, (g[0], x, target, None, statistics, None, 1), "gradient for every row"),
        (ops.cross_entropy_backward, (g, x, target, None, statistics[:2], scale, 0), "statistics"),
        (ops.cross_entropy_backward, (g, x, target, None, statistics.double(), scale, 0), "statistics"),
        (ops.cross_entropy_backward, (g.double(), x, target, None, statistics, scale, 0), "dtype"),
        (ops.cross_entropy_curvature, (x[:2], g, x, target, None, statistics), "size"),
    ):
        with pytest.raises(RuntimeError, match=message):
            kernel(*arguments, *options)


# errors


def test_class_out_of_range_is_reported_with_its_position():
    x = torch.randn(2, 5, 3, requires_grad=True)
    target = torch.tensor([[0, 1, 2], [3, 7, -1]])
    with pytest.raises(IndexError, match=r"Target 7 is out of bounds: .* 5 classes or ignore_index = -100 at \[1, 1\]"):
        F.cross_entropy(x, target)
    with pytest.raises(IndexError, match=r"Target -1 is out of bounds: .* at \[1, 2\]"):
        F.cross_entropy(x, target, ignore_index=7)
    with pytest.raises(IndexError, match=r"Target 255 is out of bounds: .* at \[0\]"):
        F.cross_entropy(x[:1, :, 0], torch.tensor([255], dtype=torch.uint8))


class Subclass(Tensor):
    pass


def logits_of(x: Tensor, target: Tensor, weight: Tensor | None = None, **keywords: Any) -> Tensor:
    return F.linear_cross_entropy(x, torch.eye(5), target, weight=weight, **keywords)


BOTH = pytest.mark.parametrize("function", (F.cross_entropy, logits_of), ids=("logits", "linear"))


@BOTH
@pytest.mark.parametrize("keywords", ({}, {"z_loss": 0.1}, {"logit_softcap": 2.0, "reduction": "none"}), ids=str)
def test_tensor_subclasses_are_preserved(function, keywords):
    """The generic checks know torch's options only."""
    x, weight = torch.randn(4, 5, requires_grad=True), torch.rand(5)
    for target in (torch.tensor([0, 1, 2, 3]), torch.rand(4, 5)):
        plain = function(x, target, weight, **keywords)
        for arguments in ((x, target.as_subclass(Subclass), weight), (x, target, weight.as_subclass(Subclass))):
            loss = function(*arguments, **keywords)
            assert type(loss) is Subclass
            torch.testing.assert_close(loss.as_subclass(Tensor), plain)
            assert torch.autograd.grad(loss.sum(), x)[0].shape == x.shape


@pytest.mark.parametrize("shape", ((3,), (4, 3), (2, 3, 5), (0, 3), (1, 3), (1,)), ids=str)
def test_mismatched_sizes_raise_torchs_errors(shape):
    x = torch.rand(shape)
    sizes = ((1,), (4,), (3,), (4, 1), (4, 3), (2, 5), (2, 2), (4, 2), (0, 2), (2, 3, 5), (1, 3))
    for size, dtype in itertools.product(sizes, (torch.int64, torch.float32, torch.int32, torch.bool)):
        target = torch.zeros(size, dtype=dtype)
        for weight in (None, torch.rand(2)):
            ours, theirs = (result_or_error(f, x, target, weight) for f in (F.cross_entropy, builtin))
            if isinstance(theirs, tuple):
                assert ours[0] is theirs[0], (size, dtype, weight)
                assert ours == theirs or weight is not None or theirs[0] is IndexError, (size, dtype)


def test_bad_arguments_raise_torchs_errors():
    x, t = torch.randn(4, 5), torch.tensor([0, 1, 2, 3])
    q, weight = x.softmax(1), torch.rand(5)
    for arguments in (
        (x, t.int()),
        (x, t.float()),
        (x, t[:3]),
        (x, t[:, None]),
        (x, t[0]),
        (torch.tensor(1.0), torch.tensor(0)),
        (torch.tensor(1.0), torch.tensor(1.0)),
        (torch.randn(4, 5, 6), torch.randint(5, (4, 7))),
        (torch.randn(4, 5, 6), torch.randint(5, (4,))),
        (x, t, weight[:3]),
        (x, q, weight[:3]),
        (x, t, weight[None]),
        (x, t, torch.ones(5).long()),
        (x, torch.zeros(4, 5).long()),
        (x[0], t[:2]),
        (x[0], t[:1, None]),
        (x[:, :0], t),
    ):
        assert outcome(F.cross_entropy, *arguments)[0] is outcome(builtin, *arguments)[0], arguments
    for keywords in (
        {"label_smoothing": 1.5},
        {"label_smoothing": "x"},
        {"label_smoothing": None},
        {"ignore_index": 1.5},
        {"ignore_index": None},
        {"reduction": "x"},
        {"reduction": None},
        {"reduction": []},
        {"reduction": 1},
    ):
        assert outcome(F.cross_entropy, x, t, **keywords)[0] is outcome(builtin, x, t, **keywords)[0], keywords
    assert outcome(F.cross_entropy, x, q, ignore_index=1) == outcome(builtin, x, q, ignore_index=1)
    with pytest.raises(RuntimeError, match=r"label_smoothing must be between 0.0 and 1.0. Got: -0.5"):
        F.cross_entropy(x, t, label_smoothing=-0.5)


@BOTH
def test_options_accept_numpy_scalars_and_tensors(function):
    x, t = torch.randn(4, 5), torch.tensor([0, 1, 2, 3])
    for name, numbers in (
        ("label_smoothing", (np.float32(0.1), np.float16(0.1), np.int64(1), torch.tensor(0.1), torch.tensor(1))),
        ("ignore_index", (np.int64(1), np.int8(1), torch.tensor(1))),
    ):
        for number in numbers:
            option, leaf = {name: number}, x.clone().requires_grad_()
            expected = builtin(x, t, **option)
            torch.testing.assert_close(function(x, t, **option), expected)
            torch.testing.assert_close(nn.CrossEntropyLoss(**option)(x, t), expected)
            with torch.autocast("cpu"):
                loss = function(leaf, t, **option)
            (gradient,) = torch.autograd.grad(loss, leaf, create_graph=True)
            by_func = torch.func.grad(lambda x, **kw: function(x, t, **kw))(x, **option)
            torch.testing.assert_close(gradient.detach(), by_func, **({} if function is F.cross_entropy else ROUNDED))
    for name, bad in (
        ("label_smoothing", (torch.tensor([0.1]), torch.tensor(0.1, requires_grad=True), np.array(0.1), "0.1")),
        ("ignore_index", (np.float32(1), torch.tensor(1.0), True, 1.0)),
    ):
        for number in bad:
            assert outcome(function, x, t, **{name: number})[0] is TypeError
            assert outcome(builtin, x, t, **{name: number})[0] is TypeError


@BOTH
def test_rejects_invalid_additional_options(function):
    x, t = torch.randn(4, 5), torch.tensor([0, 1, 2, 3])
    for options, error, message in (
        ({"logit_softcap": 0}, ValueError, "logit_softcap must be positive"),
        ({"logit_softcap": -1.0}, ValueError, "logit_softcap must be positive"),
        ({"empty": "x"}, ValueError, "empty must be 'nan' or 'zero'"),
        ({"z_loss": "x"}, TypeError, None),
    ):
        with pytest.raises(error, match=message):
            function(x, t, **options)
    with pytest.raises(TypeError, match=r"dense floating-point input, got torch\.complex64"):
        F.cross_entropy(x + 0j, t, z_loss=0.1)


@pytest.mark.parametrize(
    "option", ({"z_loss": 0.1}, {"logit_softcap": 3.0}, {"empty": "zero"}, {"inplace_backward": True})
)
def test_sparse_targets_support_only_torchs_options(option):
    x = torch.randn(4, 5)
    target = x.softmax(1).to_sparse()
    torch.testing.assert_close(F.cross_entropy(x, target), builtin(x, target))
    with pytest.raises(NotImplementedError, match="SparseCPU"):
        F.cross_entropy(x, target, **option)


# the notes


def test_gradient_and_hessian_of_the_notes():
    """dL/dz = y^ - y and H = diag(y^) - y^ y^T (rows 14 and 15)"""
    z = torch.randn(6, dtype=torch.float64, requires_grad=True)
    y = torch.zeros(6, dtype=torch.float64)
    y[2] = 1
    predicted = F.softmax(z, 0)
    (gradient,) = torch.autograd.grad(F.cross_entropy(z, torch.tensor(2)), z)
    torch.testing.assert_close(gradient, predicted - y, rtol=1e-14, atol=1e-16)
    hessian = torch.func.hessian(lambda z: F.cross_entropy(z, torch.tensor(2)))(z)
    torch.testing.assert_close(
        hessian, torch.diag(predicted) - torch.outer(predicted, predicted), rtol=1e-13, atol=1e-16
    )


def test_cross_entropy_is_convex():
    """v^T H v = sum y^ v^2 - (sum y^ v)^2 >= 0, and no eigenvalue of H is negative (row 15)."""
    for scale in (0.1, 1.0, 10.0):
        z, v = scale * torch.randn(200, 7, dtype=torch.float64), torch.randn(200, 7, dtype=torch.float64)
        hessians = torch.func.vmap(torch.func.hessian(F.cross_entropy))(z, torch.randint(7, (200,)))
        assert torch.linalg.eigvalsh(hessians).min() > -1e-14
        predicted = F.softmax(z, 1)
        exact = (predicted * v**2).sum(1) - (predicted * v).sum(1) ** 2
        torch.testing.assert_close(torch.einsum("ni,nij,nj->n", v, hessians, v), exact, rtol=1e-10, atol=1e-14)
        assert (exact > -1e-15).all()


def test_two_losses_in_one_dynamic_graph_compile():
    torch._dynamo.reset()
    x, y = (torch.randn(4, 5, requires_grad=True) for _ in range(2))
    target = torch.tensor([0, 1, 2, 3])

    def losses(x, y):
        return F.cross_entropy(x, target) + F.cross_entropy(y, target)

    compiled = torch.compile(losses, fullgraph=True, dynamic=True, backend="aot_eager")
    found, expected = (torch.autograd.grad(f(x, y), (x, y)) for f in (compiled, losses))
    torch.testing.assert_close(found, expected)
    torch._dynamo.reset()

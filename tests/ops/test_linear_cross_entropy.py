"""Compares linear_cross_entropy with torch's cross_entropy(linear(...)) in float64 and with torch's own."""

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as builtin
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import torchnotes
from benchmarks import memory
from checks import outcome, threads
from generic import checked
from torchnotes.functional import linear_cross_entropy
from torchnotes.testing.operations.cross_entropy import CROSS_ENTROPY

TORCHS = getattr(builtin, "linear_cross_entropy", None)
needs_torchs = pytest.mark.skipif(TORCHS is None, reason="new in torch 2.13")
N, F, C = 7, 5, 11
SHAPES = ((), (3,), (2, 3))  # dimensions of the logits after the classes
EXTENSIONS = ({}, dict(z_loss=0.1), dict(logit_softcap=1.5), dict(z_loss=0.1, logit_softcap=1.5))


@checked(CROSS_ENTROPY["linear_cross_entropy"])
def test_generic(check):
    check()


class Chunk:
    """The part of torch's LinearCrossEntropyOptions that we read. Torch 2.12 lacks the class."""

    def __init__(self, rows: int | None):
        self.batch_chunk_size = rows


def reference(x, W, t, *, linear_bias=None, weight=None, reduction="mean", ignore_index=-100, label_smoothing=0.0,
              z_loss=0.0, logit_softcap=None, empty="nan", options=None) -> Tensor:  # fmt: skip
    """Plain torch. Each row weights its z-loss like its cross-entropy."""
    bias = None if linear_bias is None else linear_bias.flatten()
    logits = builtin.linear(x, W.flatten(0, -2), bias).unflatten(-1, W.shape[:-1])
    if logit_softcap:
        logits = logit_softcap * torch.tanh(logits / logit_softcap)
    rest = dict(weight=weight, ignore_index=ignore_index, label_smoothing=label_smoothing)
    losses = builtin.cross_entropy(logits, t, reduction="none", **rest)
    dim = 1 if logits.dim() > 1 else 0
    per_class = [-1 if i == dim else 1 for i in range(logits.dim())]
    w = torch.ones(W.shape[0], dtype=x.dtype) if weight is None else weight
    if t.is_floating_point():
        q, counts, of_rows = t, torch.ones_like(losses), torch.ones_like(losses)
    else:
        counts = (t != ignore_index).to(x.dtype)
        known = torch.where(t == ignore_index, 0, t)
        q = (known.unsqueeze(-1) == torch.arange(W.shape[0])).to(x.dtype).movedim(-1, dim)
        of_rows = counts * w[known]
    mass = (((1 - label_smoothing) * q + label_smoothing / W.shape[0]) * w.view(per_class)).sum(dim)
    losses = losses + z_loss * counts * mass * torch.logsumexp(logits, dim) ** 2
    if reduction == "none":
        return losses
    total = losses.sum()
    if reduction == "mean":
        total = torch.zeros_like(total) if empty == "zero" and of_rows.sum() == 0 else total / of_rows.sum()
    return total


def problem(dtype=torch.float64, n=N, dims=(), probabilities=False, device="cpu") -> tuple[Tensor, ...]:
    """x, W, b and target. All that can require a gradient do."""
    x, W, b = torch.randn(n, F), torch.randn(C, *dims, F), torch.randn(C, *dims)
    t = torch.randn(n, C, *dims).softmax(1) if probabilities else torch.randint(0, C, (n, *dims))
    found = (v.to(device, dtype).requires_grad_() if v.is_floating_point() else v.to(device) for v in (x, W, b, t))
    return tuple(found)


def leaves(tensors: tuple) -> tuple[Tensor, ...]:
    return tuple(t for t in tensors if t is not None and t.requires_grad)


def double(tensors: tuple) -> tuple[Tensor, ...]:
    floating = (t is not None and t.is_floating_point() for t in tensors)
    return tuple(
        t.detach().double().requires_grad_(t.requires_grad) if f else t for t, f in zip(tensors, floating, strict=True)
    )


def call(function, tensors: tuple, **keywords: Any) -> Tensor:
    """Calls with chunks of 3 rows by default."""
    x, W, b, t = tensors
    keywords.setdefault("options", Chunk(3) if function is linear_cross_entropy else None)
    return function(x, W, t, linear_bias=b, **keywords)


def value_and_gradients(function, tensors: tuple, **keywords: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
    loss = call(function, tensors, **keywords)
    g = torch.linspace(0.5, 2, max(loss.numel(), 1), dtype=torch.float64)[: loss.numel()].view(loss.shape)
    return loss.detach(), torch.autograd.grad(loss, leaves(tensors), g.to(loss.dtype))


def assert_agrees(tensors: tuple, rtol: float = 1e-11, **keywords: Any) -> None:
    exact = {k: v.double() if isinstance(v, Tensor) else v for k, v in keywords.items()}
    ours = value_and_gradients(linear_cross_entropy, tensors, **keywords)
    theirs = value_and_gradients(reference, double(tensors), **exact)
    for a, b, of in zip((ours[0], *ours[1]), (theirs[0], *theirs[1]), (tensors[0], *leaves(tensors)), strict=True):
        assert a.dtype == of.dtype
        torch.testing.assert_close(a.double(), b, rtol=rtol, atol=rtol, equal_nan=True)


# values


@pytest.mark.parametrize("rows", (3, None))
@pytest.mark.parametrize("reduction", ("mean", "sum", "none"))
@pytest.mark.parametrize("dims", SHAPES, ids=str)
@pytest.mark.parametrize("probabilities", (False, True))
def test_every_option_agrees_with_float64(probabilities, dims, reduction, rows, device):
    for extension, smoothing, weighted in itertools.product(EXTENSIONS, (0.0, 0.2), (False, True)):
        tensors = problem(dims=dims, probabilities=probabilities, device=device)
        weight = torch.rand(C, dtype=torch.float64, device=device) if weighted else None
        keywords = dict(reduction=reduction, label_smoothing=smoothing, weight=weight, **extension)
        assert_agrees(tensors, options=Chunk(rows), **keywords)


@pytest.mark.parametrize("rows", range(1, N + 2))
@pytest.mark.parametrize("reduction", ("mean", "none"))
def test_chunks_with_every_remainder(rows, reduction):
    tensors = problem()
    tensors[3][2] = -100
    assert_agrees(tensors, reduction=reduction, options=Chunk(rows))


@pytest.mark.parametrize("probabilities", (False, True))
def test_dtypes(probabilities, dtype, device):
    rtol = {torch.float64: 1e-11, torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}[dtype]
    for reduction in ("mean", "sum", "none"):
        tensors = problem(dtype, dims=(2,), probabilities=probabilities, device=device)
        assert_agrees(tensors, rtol, reduction=reduction, options=Chunk(2))


def test_half_precision_is_rounded_once():
    """Gradients are summed over chunks in float32 and rounded once, at the end. A scaled loss scales them before that
    rounding, so that small gradients do not underflow."""
    x = (torch.randn(512, F) * 1e-4).half()
    W = torch.randn(C, F, dtype=torch.float16, requires_grad=True)
    t = torch.randint(0, C, (512,))
    loss = linear_cross_entropy(x, W, t, options=Chunk(4))
    exact = reference(x.double(), W.double(), t)
    (ours,), (theirs,) = (torch.autograd.grad(of * 2.0**14, W) for of in (loss, exact))
    torch.testing.assert_close(ours.double(), theirs.double(), rtol=1e-3, atol=1e-6)


def test_default_chunks():
    """A larger problem is split into 2 chunks: 512 rows and the remainder."""
    x, W = torch.randn(520, 600, dtype=torch.float64), torch.randn(2100, 600, dtype=torch.float64) / 25
    t = torch.randint(0, 2100, (520,))
    assert_agrees((x.requires_grad_(), W.requires_grad_(), None, t), options=None)


def test_one_row_without_a_batch():
    for reduction in ("mean", "sum", "none"):
        W, x = torch.randn(C, F, dtype=torch.float64), torch.randn(F, dtype=torch.float64)
        for t in (torch.tensor(3), torch.randn(C, dtype=torch.float64).softmax(0)):
            loss = linear_cross_entropy(x, W, t, reduction=reduction)
            torch.testing.assert_close(loss, builtin.cross_entropy(W @ x, t, reduction=reduction))
            assert loss.shape == ()


@pytest.mark.parametrize("reduction", ("mean", "sum", "none"))
@pytest.mark.parametrize("probabilities", (False, True))
@pytest.mark.parametrize("empty", ("nan", "zero"))
def test_no_rows(empty, probabilities, reduction):
    tensors = problem(n=0, probabilities=probabilities)
    loss = call(linear_cross_entropy, tensors, reduction=reduction, empty=empty)
    assert loss.shape == ((0,) if reduction == "none" else ())
    if reduction != "none":
        assert loss.isnan() if (reduction, empty) == ("mean", "nan") else loss == 0
    for of, d in zip(leaves(tensors), torch.autograd.grad(loss.sum(), leaves(tensors)), strict=True):
        assert torch.equal(d, torch.zeros_like(of))


@pytest.mark.parametrize("ignore_index", (-100, 4))
def test_ignored_rows(ignore_index):
    tensors = problem()
    tensors[3][:3] = ignore_index
    for reduction, smoothing in itertools.product(("mean", "sum", "none"), (0.0, 0.1)):
        keywords = dict(reduction=reduction, label_smoothing=smoothing, ignore_index=ignore_index)
        assert_agrees(tensors, options=Chunk(2), **keywords)
    tensors[3][:] = ignore_index
    for empty in ("nan", "zero"):
        loss, gradients = value_and_gradients(linear_cross_entropy, tensors, ignore_index=ignore_index, empty=empty)
        assert loss == 0 if empty == "zero" else loss.isnan()
        assert all((d == 0).all() for d in gradients)


def test_uint8_targets_and_the_class_that_wraps_to_ignore_index():
    W = torch.randn(200, F)
    x, t = torch.randn(4, F), torch.tensor([156, 1, 199, 156])
    expected = reference(x, W, t)
    for rows in (2, None):
        torch.testing.assert_close(linear_cross_entropy(x, W, t.to(torch.uint8), options=Chunk(rows)), expected)


def test_gradient_of_zero_probabilities():
    x, W, b, _ = problem()
    q = builtin.one_hot(torch.arange(N), C).double().requires_grad_()
    assert_agrees((x, W, b, q))


def test_probabilities_of_another_dtype():
    x, W, _, q = (t.detach() for t in problem(torch.float32, probabilities=True))
    for of_x, of_q in itertools.product((torch.bfloat16, torch.float32, torch.float64), repeat=2):
        ours = linear_cross_entropy(x.to(of_x), W.to(of_x), q.to(of_q))
        assert ours.dtype == torch.promote_types(of_x, of_q)
        torch.testing.assert_close(ours.float(), reference(x, W, q), rtol=2e-2, atol=2e-2)


def test_a_weight_of_another_dtype():
    x, W, _, q = (t.detach() for t in problem(torch.float32, probabilities=True))
    weight = torch.rand(C, dtype=torch.float64)
    for options in (None, Chunk(3)):
        ours = linear_cross_entropy(x, W, q, weight=weight, options=options)
        assert ours.dtype == torch.float64
        exact = reference(x.double(), W.double(), q.double(), weight=weight)
        torch.testing.assert_close(ours, exact, rtol=1e-5, atol=0)


def test_layouts():
    for layout in (
        lambda t: t.t().contiguous().t(),
        lambda t: t.repeat(2, 2)[::2, : t.shape[1]],
        lambda t: t[:1].expand_as(t),
    ):
        x, W, b, t = problem()
        x, W = (layout(v.detach()).requires_grad_() for v in (x, W))
        assert_agrees((x, W, b, t), options=Chunk(3))


@needs_torchs
def test_agrees_with_torch():
    chunked = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=3)
    for reduction, bias, weighted in itertools.product(("mean", "sum", "none"), (True, False), (True, False)):
        x, W, b, t = problem()
        t[1] = -100
        tensors = x, W, b if bias else None, t
        keywords: dict = dict(reduction=reduction, weight=torch.rand(C, dtype=torch.float64) if weighted else None)
        results = []
        for function, options in ((linear_cross_entropy, chunked), (TORCHS, chunked), (TORCHS, None)):
            loss = call(function, tensors, options=options, **keywords)
            results.append((loss, torch.autograd.grad(loss.sum(), [x, W, *([b] if bias else [])])))
        torch.testing.assert_close(results[0], results[1])
        torch.testing.assert_close(results[0], results[2])


# differentiation


def test_retain_graph():
    for reduction in ("mean", "none"):
        tensors = problem()
        wanted = leaves(tensors)
        loss = call(linear_cross_entropy, tensors, reduction=reduction).sum()
        expected = torch.autograd.grad(call(reference, tensors, reduction=reduction).sum(), wanted)
        first = torch.autograd.grad(loss, wanted, retain_graph=True)
        for d in first:
            d.mul_(7)  # the gradients must not share memory
        torch.testing.assert_close(
            torch.autograd.grad(loss * 3, wanted, retain_graph=True), tuple(3 * d for d in expected)
        )
        torch.testing.assert_close(torch.autograd.grad(loss, wanted), expected)
        with pytest.raises(RuntimeError, match="second time"):
            torch.autograd.grad(loss, wanted)


def test_gradients_accumulate():
    tensors = problem()
    for _ in range(2):
        call(linear_cross_entropy, tensors).backward()
    expected = torch.autograd.grad(call(reference, tensors), leaves(tensors))
    torch.testing.assert_close(tuple(t.grad / 2 for t in leaves(tensors)), expected)


@pytest.mark.parametrize("reduction", ("mean", "none"))
def test_every_subset_of_requires_grad(reduction):
    for wanted in itertools.product((False, True), repeat=4):
        tensors = problem(probabilities=True)
        for t, want in zip(tensors, wanted, strict=True):
            t.requires_grad_(want)
        loss = call(linear_cross_entropy, tensors, reduction=reduction, options=Chunk(3))
        assert loss.requires_grad == any(wanted)
        if not any(wanted):
            continue
        assert_agrees(tensors, reduction=reduction, options=Chunk(3))
        results = []
        for function in (linear_cross_entropy, reference):
            loss = call(function, tensors, reduction=reduction, options=Chunk(3)).pow(2).sum()
            first = torch.autograd.grad(loss, leaves(tensors), create_graph=True)
            second = torch.autograd.grad(sum(d.pow(2).sum() for d in first), leaves(tensors))
            results.append((first, second))
        torch.testing.assert_close(*results)


@pytest.mark.parametrize("reduction", ("mean", "sum", "none"))
@pytest.mark.parametrize("probabilities", (False, True))
@pytest.mark.parametrize("dims", ((), (2,)), ids=str)
def test_gradcheck(dims, probabilities, reduction):
    tensors = problem(n=3, dims=dims, probabilities=probabilities)
    if not probabilities:
        tensors[3].view(-1)[1] = -100
    keywords = dict(reduction=reduction, label_smoothing=0.1, options=Chunk(2), **EXTENSIONS[-1])

    def function(*moving: Tensor) -> Tensor:
        return call(linear_cross_entropy, moving if probabilities else (*moving, tensors[3]), **keywords)

    batched = dict(check_batched_grad=True)
    fast = dict(fast_mode=True)
    assert gradcheck(function, leaves(tensors), check_forward_ad=True, check_batched_forward_grad=True, **batched)
    assert gradgradcheck(function, leaves(tensors), check_fwd_over_rev=True, check_rev_over_rev=True, **fast)
    assert gradgradcheck(function, leaves(tensors), **batched, **fast)


def test_second_derivative_in_every_dtype(dtype):
    """Half precision is compared with float64 at the same rounded inputs."""
    tensors = problem(dtype, dims=(2,))
    results = []
    for function, of in ((linear_cross_entropy, tensors), (reference, double(tensors))):
        loss = call(function, of, reduction="mean", z_loss=0.1, logit_softcap=3.0, options=Chunk(3))
        first = torch.autograd.grad(loss, leaves(of), create_graph=True)
        results.append(torch.autograd.grad(first, leaves(of), [torch.ones_like(d) for d in first]))
    rtol = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 1e-1}[dtype]
    for ours, exact in zip(*results, strict=True):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours.double(), exact, rtol=rtol, atol=rtol * exact.abs().max().item())


def test_gradient_of_the_class_weights():
    x, W, b, t = problem(probabilities=True)
    weight = torch.rand(C, dtype=torch.float64, requires_grad=True)
    losses = [call(f, (x, W, b, t), weight=weight) for f in (linear_cross_entropy, reference)]
    torch.testing.assert_close(*(torch.autograd.grad(loss, (weight, x)) for loss in losses))


def test_batched_gradients():
    x, W, b, t = problem()
    for reduction in ("mean", "none"):
        for create_graph in (False, True):
            results = []
            for function in (linear_cross_entropy, reference):
                loss = call(function, (x, W, b, t), reduction=reduction)
                g = torch.arange(1.0, 1 + 2 * loss.numel(), dtype=torch.float64).view(2, *loss.shape)
                results.append(
                    torch.autograd.grad(loss, (x, W, b), g, is_grads_batched=True, create_graph=create_graph)
                )
            torch.testing.assert_close(*results)


@pytest.mark.parametrize("probabilities", (False, True))
def test_autocast(probabilities, device):
    tensors = problem(torch.float32, probabilities=probabilities, device=device)
    results = []
    for function in (linear_cross_entropy, reference):
        with torch.autocast(device, dtype=torch.bfloat16):
            results.append(call(function, tensors, label_smoothing=0.1))
    assert results[0].dtype == torch.float32
    torch.testing.assert_close(*results, rtol=1e-2, atol=1e-2)
    assert not torch.equal(results[0], call(linear_cross_entropy, tensors, label_smoothing=0.1)), "x and W are rounded"
    ours, theirs = (torch.autograd.grad(loss, leaves(tensors)) for loss in results)
    torch.testing.assert_close(ours, theirs, rtol=2e-2, atol=2e-2)


# compilers


@pytest.mark.parametrize("backend", ("aot_eager", "inductor"))
@pytest.mark.parametrize("reduction", ("mean", "none"))
def test_compiled(reduction, backend):
    torch._dynamo.reset()

    def function(x: Tensor, W: Tensor, b: Tensor, t: Tensor) -> Tensor:
        return call(linear_cross_entropy, (x * 2, W, b, t), reduction=reduction, label_smoothing=0.1, z_loss=0.1) * 3

    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend=backend)
    x, W, b, t = problem(torch.float32, n=9)
    for n in (9, 6, 4):
        tensors = x[:n].detach().requires_grad_(), W, b, t[:n]
        results = []
        for f in (compiled, function):
            loss = f(*tensors)
            results.append((loss.detach(), torch.autograd.grad(loss.sum(), leaves(tensors))))
        torch.testing.assert_close(*results)
    torch._dynamo.reset()


def test_compiled_under_autocast_and_transforms():
    torch._dynamo.reset()
    x, W, b, t = (v.detach() for v in problem(torch.float32))

    def autocasting(x: Tensor, W: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return linear_cross_entropy(x, W, t, linear_bias=b)

    def gradient(x: Tensor, W: Tensor) -> Tensor:
        return torch.func.grad(lambda x: linear_cross_entropy(x, W, t, linear_bias=b))(x)

    for function in (autocasting, gradient):
        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x, W), function(x, W))
    torch._dynamo.reset()


def test_opcheck():
    operator = torch.ops.torchnotes.linear_cross_entropy.default
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_static", "test_aot_dispatch_dynamic")
    x, W, b, t = (v.detach() for v in problem())
    for reduction, wanted in (("mean", [True, True, True, False]), ("sum", [False, True, False, False]), ("none", [])):
        torch.library.opcheck(
            operator, (x, W, b, t, None, None, wanted, reduction, "nan", 3, -100, 0.1, 0.0, 0.0), test_utils=tests
        )


# memory and threads


@pytest.mark.parametrize("reduction", ("mean", "none"))
def test_memory_does_not_grow_with_the_rows(reduction):
    in_features, classes = 8, 5000

    def beyond_what_grows(rows: int) -> int:
        x = torch.randn(rows, in_features, requires_grad=True)
        W = torch.randn(classes, in_features, requires_grad=True)
        t = torch.randint(0, classes, (rows,))

        def step() -> None:
            linear_cross_entropy(x, W, t, reduction=reduction, options=Chunk(16)).sum().backward()
            x.grad = W.grad = None

        step()
        return memory.peak_bytes(step, torch.device("cpu")) - x.nbytes

    few, many = beyond_what_grows(32), beyond_what_grows(1024)
    assert few > 16 * classes * 4
    assert many - few <= 1024 * 64, "a few numbers for each row"


def test_memory_of_the_gradients_and_one_chunk():
    x, W = torch.randn(128, 512, requires_grad=True), torch.randn(2000, 512, requires_grad=True)
    t = torch.randint(0, 2000, (128,))

    def step() -> None:
        linear_cross_entropy(x, W, t, options=Chunk(32)).backward()
        x.grad = W.grad = None

    step()
    assert memory.peak_bytes(step, torch.device("cpu")) < W.nbytes + x.nbytes + 32 * 2000 * 4 + 50_000


def test_memory_of_the_second_derivative():
    rows, classes = 512, 5000
    x, W = torch.randn(rows, 8, requires_grad=True), torch.randn(classes, 8, requires_grad=True)
    t = torch.randint(0, classes, (rows,))

    def step() -> None:
        (dx,) = torch.autograd.grad(linear_cross_entropy(x, W, t, options=Chunk(16)), x, create_graph=True)
        torch.autograd.grad(dx.pow(2).sum(), (x, W))

    step()
    assert memory.peak_bytes(step, torch.device("cpu")) < rows * classes * 4 / 4


def test_bits_do_not_depend_on_threads():
    torch.manual_seed(1)
    x, W = torch.randn(64, 32, requires_grad=True), torch.randn(1000, 32, requires_grad=True)
    t = torch.randint(0, 1000, (64,))
    G, products, results = torch.randn(20, 1000), [], []
    for n in (1, 2, 3):
        with threads(n), torch.no_grad():
            products.append((x[:20] @ W.t(), G @ W, G.t() @ x[:20]))
        with threads(n):
            loss = linear_cross_entropy(x, W, t, options=Chunk(20))
            results.append((loss.detach(), *torch.autograd.grad(loss, (x, W))))
    if not all(map(torch.equal, products[0] * 2, products[1] + products[2])):
        pytest.skip("MKL's matrix products depend on the number of threads on this processor")
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.equal(a, b)


# errors


@pytest.mark.parametrize("rows", (3, 100))
@pytest.mark.parametrize("weighted", (False, True))
def test_class_out_of_range(weighted, rows):
    for bad in (C, -1):
        tensors = problem()
        tensors[3][5] = bad
        weight = torch.rand(C, dtype=torch.float64) if weighted else None
        with pytest.raises(IndexError, match=rf"Target {bad} is out of bounds: .* at \[5\]"):
            call(linear_cross_entropy, tensors, weight=weight, options=Chunk(rows))


@needs_torchs
def test_bad_arguments_raise_torchs_errors():
    x, W, b, t = (v.detach() for v in problem(torch.float32))
    q = torch.rand(N, C)
    for args, keywords in (
        ((x[0, 0], W, t), {}),
        ((x[None], W, t), {}),
        ((x, W[0], t), {}),
        ((x[:, 1:], W, t), {}),
        ((x, W, t), dict(linear_bias=b[1:])),
        ((x[0], W[:, None], t[:1]), {}),
        ((x, W, q), dict(ignore_index=-100)),
        ((x, W, t), dict(reduction="nonsense")),
        ((x, W, t[1:]), {}),
        ((x, W, t.float()), {}),
        ((x, W, t[1:].float()), {}),
        ((x, W, t.int()), {}),
        ((x, W, q.long()), {}),
        ((x, W, q[:, 1:]), {}),
        ((x, W, q[1:]), {}),
        ((x, W, t[:0]), {}),
        ((x, W, q[:0]), {}),
        ((x[:0], W, t), {}),
        ((x[:0], W, t[0]), {}),
        ((x, W, t[0]), {}),
        ((x[0], W, t[:2]), {}),
        ((x[0], W, t[:2].float()), {}),
        ((x, W[:, None].expand(C, 4, F), t), {}),
        ((x, W[:, None].expand(C, 4, F), t[:, None]), {}),
        ((x, W[:, None].expand(C, 4, F), t[1:]), {}),
    ):
        assert outcome(linear_cross_entropy, *args, **keywords) == outcome(TORCHS, *args, **keywords)
    for args, keywords in (  # with other messages
        ((x, W.double(), t), {}),
        ((x, W.double(), t[1:]), {}),
        ((x, W, t), dict(linear_bias=b.double())),
        ((x, W, t), dict(weight=torch.rand(C + 1))),
        ((x, W, t), dict(label_smoothing=2.0)),
        ((x, W, t), dict(nonsense=1)),
        ((None, W, t), {}),
        ((x, W, None), {}),
        ((x, W, t), dict(options=1)),
        ((x.long(), W.long(), t), {}),
    ):
        assert outcome(linear_cross_entropy, *args, **keywords)[0] is outcome(TORCHS, *args, **keywords)[0]


class Subclass(torch.Tensor):
    pass


@pytest.mark.parametrize("keywords", ({}, {"z_loss": 0.1, "reduction": "none"}), ids=str)
def test_tensor_subclasses_are_preserved(keywords):
    x, W, b, t = (v.detach() for v in problem())
    weight = torch.rand(C).to(x.dtype)
    plain = linear_cross_entropy(x, W, t, linear_bias=b, weight=weight, **keywords)
    for i in range(5):
        x_, W_, t_, b_, w_ = (v.as_subclass(Subclass) if i == j else v for j, v in enumerate((x, W, t, b, weight)))
        loss = linear_cross_entropy(x_, W_, t_, linear_bias=b_, weight=w_, **keywords)
        assert type(loss) is Subclass
        torch.testing.assert_close(loss.as_subclass(torch.Tensor), plain)


def test_rejects_invalid_additional_options():
    x, W, _, t = problem()
    for keywords in (dict(empty="one"), dict(logit_softcap=0.0), dict(logit_softcap=-1.0)):
        with pytest.raises(ValueError, match=next(iter(keywords))):
            linear_cross_entropy(x, W, t, **keywords)


# the module


def test_module():
    torch.manual_seed(0)
    weight = torch.rand(C)
    for dims in ((), (2, 3)):
        ours = torchnotes.nn.LinearCrossEntropyLoss(F, C, out_features=dims, bias=True, weight=weight, z_loss=0.1)
        x, t = torch.randn(N, F), torch.randint(0, C, (N, *dims))
        W, b = (p.unflatten(0, (C, *dims)) for p in (ours.linear.weight, ours.linear.bias))
        torch.testing.assert_close(ours(x, t), reference(x, W, t, linear_bias=b, weight=weight, z_loss=0.1))


@needs_torchs
def test_module_matches_torchs():
    theirs = torch.nn.LinearCrossEntropyLoss(F, C, out_features=(2,), bias=True, weight=torch.rand(C), reduction="sum")
    ours = torchnotes.nn.LinearCrossEntropyLoss(
        F, C, out_features=(2,), bias=True, weight=theirs.weight, reduction="sum"
    )
    ours.load_state_dict(theirs.state_dict())
    assert repr(ours) == repr(theirs)
    x, t = torch.randn(N, F), torch.randint(0, C, (N, 2))
    torch.testing.assert_close(ours(x, t), theirs(x, t))
    for keywords in (dict(weight=torch.rand(3)), dict(label_smoothing=-1.0)):
        modules = torchnotes.nn.LinearCrossEntropyLoss, torch.nn.LinearCrossEntropyLoss
        assert outcome(modules[0], F, C, **keywords) == outcome(modules[1], F, C, **keywords)

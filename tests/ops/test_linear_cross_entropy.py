"""Compares linear_cross_entropy with torch's cross_entropy(linear(...)) in float64 and with torch's own."""

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as builtin
from torch import Tensor

import torchnotes
from benchmarks import memory
from checks import outcome, threads
from generic import checked
from torchnotes.functional import linear_cross_entropy
from torchnotes.testing.compilers import check_compile
from torchnotes.testing.operations.cross_entropy import CROSS_ENTROPY, after_product
from torchnotes.testing.values import agree

TORCHS = getattr(builtin, "linear_cross_entropy", None)
needs_torchs = pytest.mark.skipif(TORCHS is None, reason="new in torch 2.13")
OPERATION = CROSS_ENTROPY["linear_cross_entropy"]
N, F, C = 7, 5, 11
EXTENSIONS = ({}, dict(z_loss=0.1), dict(logit_softcap=1.5), dict(z_loss=0.1, logit_softcap=1.5))


@checked(OPERATION)
def test_generic(check):
    check()


def chunks(rows: int | None) -> SimpleNamespace:
    """The part of torch's LinearCrossEntropyOptions that we read. Torch 2.12 lacks the class."""
    return SimpleNamespace(batch_chunk_size=rows)


def problem(dtype=torch.float64, n=N, dims=(), probabilities=False, device="cpu") -> tuple[Tensor, ...]:
    """x, W, b and target. All that can require a gradient do."""
    x, W, b = torch.randn(n, F), torch.randn(C, *dims, F), torch.randn(C, *dims)
    t = torch.randn(n, C, *dims).softmax(1) if probabilities else torch.randint(0, C, (n, *dims))
    found = (v.to(device, dtype).requires_grad_() if v.is_floating_point() else v.to(device) for v in (x, W, b, t))
    return tuple(found)


def call(function, tensors: tuple, **keywords: Any) -> Tensor:
    """Calls with chunks of 3 rows by default."""
    x, W, b, t = tensors
    return function(x, W, t, linear_bias=b, **{"options": chunks(3), **keywords})


def assert_agrees(tensors: tuple, **keywords: Any) -> None:
    x, W, b, t = tensors
    agree(OPERATION, keywords, dict(input=x, linear_weight=W, linear_bias=b, target=t, **keywords))


# values


@pytest.mark.parametrize("reduction", ("mean", "sum", "none"))
@pytest.mark.parametrize("dims", ((), (3,), (2, 3)), ids=str)  # of the logits after the classes
@pytest.mark.parametrize("probabilities", (False, True))
def test_every_option_agrees_with_float64(probabilities, dims, reduction, device):
    for rows, extension, smoothing, weighted in itertools.product((3, None), EXTENSIONS, (0.0, 0.2), (False, True)):
        tensors = problem(dims=dims, probabilities=probabilities, device=device)
        if not probabilities:
            tensors[3].view(-1)[1] = -100
        weight = torch.rand(C, dtype=torch.float64, device=device) if weighted else None
        keywords = dict(reduction=reduction, label_smoothing=smoothing, weight=weight, **extension)
        assert_agrees(tensors, options=chunks(rows), **keywords)


@pytest.mark.parametrize("reduction", ("mean", "none"))
def test_chunks_with_every_remainder(reduction):
    """Rows are ignored in the middle of a chunk, and in whole chunks."""
    for rows, ignored in itertools.product(range(1, N + 2), (slice(2, 3), slice(0, 3), slice(0, N))):
        for ignore_index, empty in ((-100, "nan"), (4, "zero")):
            tensors = problem()
            tensors[3][ignored] = ignore_index
            keywords = dict(reduction=reduction, options=chunks(rows), ignore_index=ignore_index, empty=empty)
            if (ignored, reduction, empty) != (slice(0, N), "mean", "nan"):
                assert_agrees(tensors, **keywords)
                continue
            loss = call(linear_cross_entropy, tensors, **keywords)
            assert loss.isnan()
            assert not any(d.any() for d in torch.autograd.grad(loss, tensors[:3]))


def test_half_precision_is_rounded_once():
    """Gradients are summed over chunks in float32 and rounded once, at the end. A scaled loss scales them before that
    rounding, so that small gradients do not underflow."""
    x = (torch.randn(512, F) * 1e-4).half()
    W = torch.randn(C, F, dtype=torch.float16, requires_grad=True)
    t = torch.randint(0, C, (512,))
    loss = linear_cross_entropy(x, W, t, options=chunks(4))
    exact = after_product(x.double(), W.double(), t)
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


def test_uint8_targets_and_the_class_that_wraps_to_ignore_index():
    W = torch.randn(200, F)
    x, t = torch.randn(4, F), torch.tensor([156, 1, 199, 156])
    for rows in (2, None):
        found = linear_cross_entropy(x, W, t.to(torch.uint8), options=chunks(rows))
        torch.testing.assert_close(found, after_product(x, W, t))


def test_probabilities_and_weights_of_another_dtype():
    x, W, _, q = (t.detach() for t in problem(torch.float32, probabilities=True))
    weight = torch.rand(C, dtype=torch.float64)
    dtypes = (torch.bfloat16, torch.float32, torch.float64)
    for of_x, of_q, weighted, rows in itertools.product(dtypes, dtypes, (False, True), (None, 3)):
        own = dict(weight=weight) if weighted else {}
        ours = linear_cross_entropy(x.to(of_x), W.to(of_x), q.to(of_q), **own, options=chunks(rows))
        assert ours.dtype == (torch.float64 if weighted else torch.promote_types(of_x, of_q))
        rtol = 2e-2 if torch.bfloat16 in (of_x, of_q) else 1e-5
        exact = after_product(x.double(), W.double(), q.double(), **own)
        torch.testing.assert_close(ours.double(), exact, rtol=rtol, atol=0)


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


@pytest.mark.parametrize("reduction", ("mean", "none"))
def test_retain_graph(reduction):
    tensors = problem()
    wanted = tensors[:3]
    loss = call(linear_cross_entropy, tensors, reduction=reduction).sum()
    expected = torch.autograd.grad(call(after_product, tensors, reduction=reduction).sum(), wanted)
    for d in torch.autograd.grad(loss, wanted, retain_graph=True):
        d.mul_(7)  # the gradients must not share memory
    torch.testing.assert_close(torch.autograd.grad(loss * 3, wanted, retain_graph=True), tuple(3 * d for d in expected))
    torch.testing.assert_close(torch.autograd.grad(loss, wanted), expected)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(loss, wanted)


@pytest.mark.parametrize("probabilities", (False, True))
def test_autocast(probabilities, device):
    """The generic checks compare with torch's."""
    tensors = problem(torch.float32, probabilities=probabilities, device=device)
    x, W, b, t = tensors

    def autocasting(x: Tensor, W: Tensor, b: Tensor) -> Tensor:
        with torch.autocast(device, dtype=torch.bfloat16):
            return linear_cross_entropy(x, W, t, linear_bias=b)

    torch._dynamo.reset()
    loss = autocasting(x, W, b)
    assert loss.dtype == torch.float32
    assert not torch.equal(loss, call(linear_cross_entropy, tensors)), "x and W are rounded"
    torch.testing.assert_close(torch.compile(autocasting, fullgraph=True, backend="aot_eager")(x, W, b), loss)
    torch._dynamo.reset()


def test_compiled_with_inductor():
    check_compile(OPERATION)


def test_opcheck():
    operator = torch.ops.torchnotes.linear_cross_entropy.default
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_static", "test_aot_dispatch_dynamic")
    x, W, b, t = (v.detach() for v in problem())
    for reduction, wanted in (("mean", [True, True, True, False]), ("sum", [False, True, False, False]), ("none", [])):
        torch.library.opcheck(
            operator, (x, W, b, t, None, None, wanted, reduction, "nan", 3, -100, 0.1, 0.0, 0.0), test_utils=tests
        )


# memory and threads


def peak_bytes(rows, features, classes, chunk, reduction="mean", second=False) -> int:
    """Of a step, without its arguments."""
    x, W = torch.randn(rows, features, requires_grad=True), torch.randn(classes, features, requires_grad=True)
    t = torch.randint(0, classes, (rows,))

    def step() -> None:
        loss = linear_cross_entropy(x, W, t, reduction=reduction, options=chunks(chunk)).sum()
        gradients = torch.autograd.grad(loss, (x, W)[: 1 if second else 2], create_graph=second)
        if second:
            torch.autograd.grad(gradients[0].pow(2).sum(), (x, W))

    step()
    return memory.peak_bytes(step, torch.device("cpu"))


@pytest.mark.parametrize("reduction", ("mean", "none"))
def test_memory_does_not_grow_with_the_rows(reduction):
    few, many = (peak_bytes(rows, 8, 5000, 16, reduction) - rows * 8 * 4 for rows in (32, 1024))
    assert few > 16 * 5000 * 4
    assert many - few <= 1024 * 64, "a few numbers for each row"


def test_memory_of_the_gradients_and_one_chunk():
    assert peak_bytes(128, 512, 2000, 32) < 4 * (128 * 512 + 2000 * 512 + 32 * 2000) + 50_000


def test_memory_of_the_second_derivative():
    assert peak_bytes(512, 8, 5000, 16, second=True) < 512 * 5000 * 4 / 4


def test_bits_do_not_depend_on_threads():
    torch.manual_seed(1)
    x, W = torch.randn(64, 32, requires_grad=True), torch.randn(1000, 32, requires_grad=True)
    t = torch.randint(0, 1000, (64,))
    G, products, results = torch.randn(20, 1000), [], []
    for n in (1, 2, 3):
        with threads(n), torch.no_grad():
            products.append((x[:20] @ W.t(), G @ W, G.t() @ x[:20]))
        with threads(n):
            loss = linear_cross_entropy(x, W, t, options=chunks(20))
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
            call(linear_cross_entropy, tensors, weight=weight, options=chunks(rows))


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


# the module


def test_module():
    torch.manual_seed(0)
    weight = torch.rand(C)
    for dims in ((), (2, 3)):
        ours = torchnotes.nn.LinearCrossEntropyLoss(F, C, out_features=dims, bias=True, weight=weight, z_loss=0.1)
        x, t = torch.randn(N, F), torch.randint(0, C, (N, *dims))
        W, b = (p.unflatten(0, (C, *dims)) for p in (ours.linear.weight, ours.linear.bias))
        torch.testing.assert_close(ours(x, t), after_product(x, W, t, linear_bias=b, weight=weight, z_loss=0.1))


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

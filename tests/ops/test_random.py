"""Tests of all random operations: those that multiply a tensor by noise and those that fill a tensor.

Their numbers are a function of a key and of the element's index. The generic checks test the derivatives of noise, and
those of torchnotes.testing.random the distributions.
"""

import hashlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.utils.checkpoint
from scipy import stats
from torch import Tensor
from torch._subclasses import FakeTensorMode

import torchnotes.functional as F
from checks import outcome, refused_in_place, threads, values
from devices import DTYPES
from philox import KEY, fractions, fractions_in_double, normals, windows
from torchnotes import init, nn
from torchnotes.ops._random import random_key
from torchnotes.testing.layouts import LAYOUTS, expanded, offset_by_one
from torchnotes.testing.operations.random import RANDOM
from torchnotes.testing.random import check_distribution, check_numbers


@dataclass(frozen=True, eq=False)
class Case:
    function: Callable[..., Tensor]
    builtin: Callable[..., Tensor]
    kernels: tuple[str, ...]  # called with a tensor, a key and the numbers; the last one is in-place
    keywords: dict[str, float]
    numbers: tuple[float, ...]
    exact: Callable[[int, torch.dtype], np.ndarray] | None = None  # the first n numbers for KEY, of what fills
    bits: Sequence[str] = ()  # the start of the hash of 1000 numbers for each of DTYPES

    @property
    def fills(self) -> bool:
        return self.exact is not None

    def __call__(self, x: Tensor, **more: Any) -> Tensor:
        """Multiplies x by noise, or fills a copy of x."""
        return self.function(x.clone() if self.fills else x, **self.keywords, **more)

    def write(self, x: Tensor, **more: Any) -> Tensor:
        """The same, in place."""
        return self.function(x, **self.keywords, **more, **({} if self.fills else {"inplace": True}))

    def native(self, x: Tensor, keys: Tensor, *shard: Any) -> Tensor:
        """Calls the native operator."""
        y = x.clone() if self.fills else x
        result = getattr(torch.ops.torchnotes, self.kernels[0]).default(y, keys, *self.numbers, *shard)
        return y if self.fills else result


def fill(name: str, exact: Callable[[int, torch.dtype], np.ndarray], bits: str, **keywords: float) -> Case:
    numbers = tuple(keywords.values())
    return Case(getattr(init, name), getattr(torch.nn.init, name), (name,), keywords, numbers, exact, bits.split())


DROPOUT = Case(F.dropout, torch.nn.functional.dropout, ("dropout", "dropout_"), {"p": 0.3}, (0.3,))
GAUSSIAN = Case(F.gaussian_dropout, torch.mul, ("gaussian_dropout", "gaussian_dropout_"), {"sigma": 0.7}, (1.0, 0.7))
TRUNCATED = stats.truncnorm((-2 - 0.25) / 1.5, (1 - 0.25) / 1.5, 0.25, 1.5)
FILLS = (
    fill(
        "uniform_",
        lambda n, dtype: -0.5 + 1.75 * fractions(KEY, n, dtype),
        "9b03887cfe1aa1ed 233a4a06074d853f 0ba6474700df47ed e1b76f8d29f04705",
        a=-0.5,
        b=1.25,
    ),
    fill(
        "normal_",
        lambda n, dtype: 0.25 + 1.5 * normals(KEY, n, dtype),
        "0c12c4a22f47e1df 955d7fb7bcd35bee db2cea3ab693bdb4 814ae517a71c4929",
        mean=0.25,
        std=1.5,
    ),
    fill(
        "trunc_normal_",
        lambda n, dtype: TRUNCATED.ppf(fractions_in_double(KEY, n, dtype)),
        "8242652690fc9210 f00fddcd64046a71 8c31977e9ba83e8b 1b5a1959cac2b222",
        mean=0.25,
        std=1.5,
        a=-2.0,
        b=1.0,
    ),
)
NOISES = (DROPOUT, GAUSSIAN)
ALL = pytest.mark.parametrize("op", (*NOISES, *FILLS), ids=lambda op: op.kernels[0])
EACH_NOISE = pytest.mark.parametrize("op", NOISES, ids=lambda op: op.kernels[0])
EACH_FILL = pytest.mark.parametrize("op", FILLS, ids=lambda op: op.kernels[0])


# the key


def test_key_of_a_seed():
    """These numbers are part of the interface: a seed gives the same network in every version."""
    for seed, numbers in (
        (0, [900450186894289456, 3969543146641149121]),
        (1, [7692698082559361259, 4064269471072392265]),
        (7, [1407639518939636932, 5163590386780219895]),
    ):
        torch.manual_seed(seed)
        assert random_key(torch.empty(0)).tolist() == numbers
        assert random_key(torch.empty(0), torch.Generator().manual_seed(seed)).tolist() == numbers
    assert random_key(torch.empty(0), KEY) is KEY


@ALL
def test_every_call_draws_a_key_from_the_seed_or_generator(op, device):
    x = torch.ones(1000, device=device)
    torch.manual_seed(3)
    keys = [random_key(x) for _ in range(2)]
    torch.manual_seed(3)
    numbers = [op(x) for _ in range(2)]
    for number, key in zip(numbers, keys, strict=True):
        assert torch.equal(number, op(x, generator=key))
    assert not torch.equal(*numbers)
    state = torch.get_rng_state()
    generator = torch.Generator(device).manual_seed(3)
    drawn = [op(x, generator=generator) for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(*drawn)
    assert torch.equal(op.write(x, generator=generator.manual_seed(3)), drawn[0])


@EACH_NOISE
def test_no_key_is_drawn_without_noise(op, device):
    state = torch.get_rng_state()
    for x, keywords in ((torch.ones(3), {"training": False}), (torch.ones(3), {"p": 0}), (torch.ones(0, 2), {})):
        x = x.to(device)
        for inplace in (False, True):
            assert op.function(x, **keywords, inplace=inplace) is x
    for dtype in (torch.bool, torch.int64):
        x = torch.ones(4, device=device).to(dtype)
        assert op(x, training=False) is x
    assert torch.equal(torch.get_rng_state(), state)


# the numbers


@pytest.mark.parametrize("name", [case.kernels[0] for case in (*NOISES, *FILLS)])
def test_distribution(name, device):
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        check_distribution(RANDOM[name], dtype, device)
    check_numbers(RANDOM[name], device)


@EACH_FILL
def test_matches_the_formula(op, dtype, device):
    """tests/ops/test_dropout.py and test_gaussian_dropout.py compare noise with its formula."""
    exact = op.exact(10_000, torch.promote_types(dtype, torch.float32))
    got = op(torch.full((10_000,), torch.nan, dtype=dtype, device=device), generator=KEY).cpu()
    # a few roundings of the number, the mean and the standard deviation
    rounding = torch.finfo(dtype).eps * (np.abs(exact) + sum(map(abs, op.keywords.values())))
    assert (np.abs(got.double().numpy() - exact) <= 4 * rounding).all()
    # for every instruction set, every device and every version
    assert hashlib.sha256(got[:1000].view(torch.uint8).numpy()).hexdigest()[:16] == op.bits[DTYPES.index(dtype)]


@ALL
def test_every_length_is_a_prefix_of_a_longer_one_and_writes_nothing_else(op, dtype, device):
    x = values((32_771,), dtype, device)
    longest = op(x, generator=KEY)
    for n in (*range(300), 511, 512, 513, 1023, 1025, 4999, 32_771):
        memory = torch.full((n + 2,), 77.0, dtype=dtype, device=device)
        memory[1:-1] = x[:n]
        assert torch.equal(op(memory[1:-1], generator=KEY), longest[:n])
        op.write(memory[1:-1], generator=KEY)
        assert torch.equal(memory[1:-1], longest[:n])
        assert (memory[[0, -1]] == 77).all()


@ALL
def test_bits_do_not_depend_on_the_layout(op, dtype, device):
    x = values((2, 3, 5, 4), dtype, device)
    expected = op(x, generator=KEY)
    for layout in (*LAYOUTS, expanded):
        laid_out = layout(x)
        numbers = op(layout(x), generator=KEY)
        assert torch.equal(numbers, expected if layout is not expanded else op(laid_out.contiguous(), generator=KEY))
        assert numbers.stride() == torch.empty_like(laid_out).stride()
        if layout is expanded:
            assert issubclass(outcome(op.write, laid_out)[0], RuntimeError)
            assert torch.equal(laid_out, layout(x)), "nothing is written"
        elif not (op.fills and laid_out.is_neg()):  # the filled copy is negated when read
            stride, version = laid_out.stride(), laid_out._version
            assert op.write(laid_out, generator=KEY) is laid_out
            assert torch.equal(laid_out, expected)
            assert laid_out.stride() == stride
            assert laid_out._version > version


@ALL
def test_bits_do_not_depend_on_threads_and_alignment(op, dtype):
    x = values((300_007,), dtype, "cpu")
    with threads(1):
        expected = op(x, generator=KEY)
    for count in (2, 3, 64):
        with threads(count):
            assert torch.equal(op(offset_by_one(x), generator=KEY), expected)


@ALL
def test_shards_get_the_numbers_of_the_full_tensor(op, dtype, device):
    whole = values((1 << 21,), dtype, device)
    for (expected, shard), (x, _) in zip(windows(op.native(whole, KEY)), windows(whole), strict=True):
        memory = torch.full((x.numel() + 2,), 77.0, dtype=dtype, device=device)
        part = memory[1:-1].copy_(x.reshape(-1)).view(x.shape)
        assert torch.equal(op.native(part, KEY, shard), expected), shard
        getattr(torch.ops.torchnotes, op.kernels[-1])(part, KEY, *op.numbers, shard)
        assert torch.equal(part, expected)
        assert (memory[[0, -1]] == 77).all()
    x, keys, shard = values((3, 2, 10), dtype, device), torch.arange(6).view(3, 2), (70, 5, 9)
    together = torch.vmap(lambda x, key: op.native(x, key, shard))(x, keys)
    for i in range(3):
        assert torch.equal(together[i], op.native(x[i], keys[i], shard))
    kept = x.clone()
    for bad in ((3, 7, 7), (-1, 5, 7), (3, 0, 7), (3, -5, 7), (3, 5, -7), (3, 5), ()):
        with pytest.raises(RuntimeError, match="shard"):
            getattr(torch.ops.torchnotes, op.kernels[0])(x, KEY, *op.numbers, bad)
    assert torch.equal(x, kept), "nothing is written"
    assert op.native(torch.empty(0, dtype=dtype, device=device), KEY, (3, 5, 7)).shape == (0,)


@ALL
def test_one_key_per_example(op, dtype, device):
    for shape in ((4, 3, 37), (4, 3), (2, 2, 2000)):
        x, keys = values(shape, dtype, device), torch.randint(2**62, (*shape[:2], 2), device=device)
        together = op.native(x, keys)
        for i, j in itertools.product(range(shape[0]), range(shape[1])):
            assert torch.equal(together[i, j], op.native(x[i, j], keys[i, j]))


# derivatives and transforms


@ALL
def test_randomness_of_vmap(op, device):
    x = torch.ones(3, 50, device=device)

    def gradient(x: Tensor) -> Tensor:
        return torch.func.grad(lambda x: op(x).sum())(x)

    for function in (op, *(() if op.fills else (gradient,))):
        with pytest.raises(RuntimeError, match="randomness"):
            torch.vmap(function)(x)
        same = torch.vmap(function, randomness="same")(x)
        assert torch.equal(same[0], same[1])
        different = torch.vmap(function, randomness="different")(x)
        assert not torch.equal(different[0], different[1])
    nested = torch.vmap(torch.vmap(op, randomness="different"), randomness="same")(x.view(3, 5, 10))
    assert torch.equal(nested[0], nested[1])
    assert not torch.equal(nested[0, 0], nested[0, 1])
    if op.fills:
        with pytest.raises(RuntimeError, match="not batched"):
            torch.vmap(lambda t: op.write(torch.empty(3)), randomness="different")(x)
    else:
        once = torch.vmap(lambda row: op(x[0]), randomness="different")(x)
        assert not torch.equal(once[0], once[1])


@EACH_NOISE
def test_checkpoints_recompute_the_same_noise(op, device):
    x = values((100,), torch.float64, device).requires_grad_()

    def gradient(run: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        torch.manual_seed(7)
        return torch.autograd.grad(run(*args, **kwargs).sum(), x)[0]

    def block(x: Tensor) -> Tensor:
        inner = op(op(x * 2).sin())
        return op.write(inner) * 2

    again = gradient(torch.utils.checkpoint.checkpoint, block, x, use_reentrant=False)
    assert torch.equal(again, gradient(block, x))


@EACH_NOISE
def test_in_place_in_a_graph(op, dtype, device):
    """Intermediate results and views of them. Tensors that torch rejects are rejected before anything is written."""
    leaf, grad = values((3, 4), dtype, device).requires_grad_(), values((3, 4), dtype, device)
    for select in (lambda t: t, lambda t: t[:, 1:]):
        inner = leaf * 1
        op.write(select(inner), generator=KEY)
        for ours, factor in ((inner, leaf), (torch.autograd.grad(inner, leaf, grad)[0], grad)):
            expected = factor.detach().clone()
            select(expected).copy_(op(select(factor.detach()), generator=KEY))
            assert torch.equal(ours, expected)

    for make in refused_in_place(dtype, device):
        x = make()
        kept = x.detach().clone()
        assert outcome(op.write, x)[0] is outcome(DROPOUT.builtin, make(), inplace=True)[0]
        assert torch.equal(x.detach(), kept), "nothing is written"


@EACH_FILL
def test_filling_a_parameter_records_no_graph(op, device):
    x = torch.nn.Parameter(torch.zeros(3, 4, device=device))
    version = x._version
    assert op.write(x) is x
    assert x.is_leaf
    assert x.requires_grad
    assert x._version > version
    inner = x * 1
    y = inner.exp() * inner
    assert op.write(inner).grad_fn is not None
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
    with torch.inference_mode():
        x = op.write(torch.empty(3, device=device))
    with pytest.raises(RuntimeError, match=r"[Ii]nference"):
        op.write(x)


# kinds of tensors, and bad arguments


@ALL
def test_tensors_without_data(op, device):
    state = torch.get_rng_state()
    assert op(torch.empty(3, device="meta")).is_meta
    assert torch.equal(torch.get_rng_state(), state)
    for shape in ((), (0,), (3, 0, 2)):
        assert op(torch.empty(shape, device=device)).shape == shape
    for layout in (*LAYOUTS[:-1], expanded):
        x = layout(torch.ones(2, 3, 5, 4, dtype=torch.bfloat16))
        real = op(x)
        with FakeTensorMode() as mode:
            fake = op(mode.from_tensor(x))
        for abstract in (fake, op(torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta"))):
            assert (abstract.shape, abstract.dtype, abstract.stride()) == (real.shape, real.dtype, real.stride())


@EACH_NOISE
def test_unusual_tensors(op):
    class Subclass(torch.Tensor):
        pass

    x = torch.ones(4, 6)
    generator = torch.Generator().manual_seed(1)
    many = op(torch.ones(10_000).as_subclass(Subclass), generator=torch.Generator().manual_seed(2))
    expected = op(torch.ones(10_000))
    torch.testing.assert_close(many.std().as_subclass(Tensor), expected.std(), rtol=0.05, atol=0)
    assert op is GAUSSIAN or set(many.tolist()) == set(expected.tolist())
    first = op(x.as_subclass(Subclass), generator=generator)
    assert type(first) is Subclass
    assert not torch.equal(op(x.as_subclass(Subclass), generator=generator), first)
    written = x.clone().as_subclass(Subclass)
    assert op.write(written, generator=generator.manual_seed(1)) is written
    assert torch.equal(written, first)
    nested = torch.nested.nested_tensor([x[0], x[1, :2]], layout=torch.jagged)
    assert op(nested).values().shape == (8,)
    assert op(torch.nn.Parameter(x)).requires_grad


@ALL
def test_bad_arguments(op, device):
    x = torch.ones(3, device=device)
    for bad in (None, "x", [1.0, 2.0], 1.0):
        expected = outcome(op.builtin, bad)[0] if op.fills else TypeError
        assert outcome(op.function, bad)[0] is expected
    assert outcome(op.function)[0] is outcome(op.function, x, nonsense=1)[0] is TypeError
    for dtype in (torch.int64, torch.bool):
        error = outcome(op, torch.ones(3, dtype=dtype, device=device))[0]
        assert issubclass(error, RuntimeError)
        assert not op.fills or error is outcome(op.builtin, torch.ones(3, dtype=dtype, device=device))[0]
    for keyword, bad in itertools.product(op.keywords if op.fills else (), ("x", None, [0.1], 1j)):
        assert outcome(op.function, x, **{keyword: bad})[0] is TypeError
    for bad in ("x", [0.1], 3, object()):
        assert outcome(op.write, x, generator=bad)[0] is TypeError
    for key, message in (
        (torch.tensor([1, 2, 3]), "of size"),
        (torch.tensor(1), "of size"),
        (torch.ones(2, 2, dtype=torch.int64), "of size"),
        (torch.tensor([1, 2], dtype=torch.int32), "dtype int64"),
        (torch.tensor([1.0, 2.0]), "dtype int64"),
        (torch.ones(2, dtype=torch.int64, device="meta"), "meta"),
    ):
        with pytest.raises(RuntimeError, match=message):
            op.write(x, generator=key)
    assert (x == 1).all(), "nothing is written"


@ALL
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a second device")
def test_rejects_a_generator_on_another_device(op):
    for device, other in (("cpu", "cuda"), ("cuda", "cpu")):
        x = torch.ones(3, device=device)
        with pytest.raises(RuntimeError, match="generator"):
            op.write(x, generator=torch.Generator(other))
        assert (x == 1).all()


# graphs


@ALL
def test_opcheck(op, device):
    """Runs all checks once. Other dtypes and layouts only affect the fake kernels."""
    for name in op.kernels:
        kernel = getattr(torch.ops.torchnotes, name).default
        for dtype, layout in zip((torch.float32, torch.float64, torch.bfloat16, torch.float16), LAYOUTS, strict=False):
            arguments = (layout(torch.zeros(2, 3, 4, 5, dtype=dtype, device=device)), KEY, *op.numbers)
            in_full = ("test_schema", "test_faketensor", "test_aot_dispatch_static", "test_aot_dispatch_dynamic")
            torch.library.opcheck(kernel, arguments, test_utils=in_full if dtype == torch.float32 else in_full[:2])
            torch.library.opcheck(kernel, (*arguments, (3, 5, 7)), test_utils=("test_faketensor",))


def test_compiled_with_inductor():
    """Compiles all random operations as one function. With a key the results are those of eager mode. With a seed each
    call draws a key. In training the compiler saves the key instead of a mask."""
    layers = torch.nn.Sequential(
        nn.Dropout(0.2), nn.GaussianDropoutLinear(8, 8, p=0.2), nn.GaussianDropout(0.1), nn.VariationalDropout(8)
    )

    def written(op: Case, x: Tensor) -> Tensor:
        op.write(x, generator=KEY)
        return x

    def by_key(x: Tensor) -> list[Tensor]:
        noisy = [op(x * 2 + 1, generator=KEY) * 3 + written(op, x * 2) for op in NOISES]
        return [*noisy, *(op(x * 2, generator=KEY) + 1 for op in FILLS)]

    def step(x: Tensor, ones: Tensor) -> tuple[list[Tensor], ...]:
        of_seed = [[op(ones * 1) for op in (*NOISES, *FILLS)] for _ in range(2)]
        return by_key(x), *of_seed, layers(ones)

    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, dynamic=True)
    saved: list[Tensor] = []
    for shape in ((33, 8), (125, 8)):
        x, ones = torch.randn(shape, requires_grad=True), torch.ones(shape, requires_grad=True)
        torch.manual_seed(5)
        again = compiled(x, ones)
        torch.manual_seed(5)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
            keyed, first, second, of_layers = compiled(x, ones)
        assert torch.bool not in {t.dtype for t in saved}
        torch.testing.assert_close(again, (keyed, first, second, of_layers), rtol=0, atol=0)
        eager = by_key(x)
        torch.testing.assert_close(keyed, eager)
        for ours, others in zip(first, second, strict=True):
            assert not torch.equal(ours, others)
            assert ours.unique().numel() > 1
        noises = [y.detach() for y in (*first[:2], *second[:2])]
        loss = sum(y.square().sum() for y in (*keyed[:2], *first[:2], *second[:2]))
        gradients = torch.autograd.grad(loss + 0 * of_layers.sum(), (x, ones))
        (of_x,) = torch.autograd.grad(sum(y.square().sum() for y in eager[:2]), x)
        torch.testing.assert_close(gradients, (of_x, 2 * sum(d.square() for d in noises)))
    torch._dynamo.reset()


@EACH_NOISE
def test_exported_graphs_contain_our_operator_only_in_training(op):
    """The operator is faster than the compiled code of torch's."""
    from torch.fx.experimental.proxy_tensor import make_fx

    class Module(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return op(x, training=self.training)

    for module in (Module(), Module().eval()):
        exported = torch.export.export(module, (torch.ones(3, 4),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
        targets = [str(node.target) for node in exported.graph.nodes if node.op == "call_function"]
        assert (f"torchnotes.{op.kernels[0]}.default" in targets) == module.training == bool(targets)
        exported.module()(torch.ones(7, 4))
    with torch.no_grad():
        graph = make_fx(op)(torch.ones(3)).graph
    assert any("torchnotes" in str(node.target) for node in graph.nodes)

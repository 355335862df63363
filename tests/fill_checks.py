"""The checks of operations that fill a tensor with random numbers (torchnotes.init)."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from checks import outcome, threads
from layouts import LAYOUTS, expanded
from philox import KEY, windows

MANY = 1 << 21


@dataclass(frozen=True)
class FillCase:
    """An operation that fills a tensor, as data."""

    fill: Callable[..., Tensor]
    builtin: Callable[..., Tensor]
    operator: str  # the native one
    keywords: dict[str, float]  # not the default ones, in the native operator's order
    exact: Callable[[int, torch.dtype], np.ndarray]  # so many numbers for KEY and the keywords, in float64
    distribution: Any  # of them, as scipy has it
    bits: dict[torch.dtype, str]  # the first digits of the hash of 1000 numbers


class FillChecks:
    case: ClassVar[FillCase]

    def filled(self, shape: Any, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Tensor:
        x = torch.full(shape if isinstance(shape, tuple) else (shape,), torch.nan, dtype=dtype, device=device)
        assert self.case.fill(x, generator=KEY, **self.case.keywords) is x
        return x

    # the numbers

    def test_the_numbers_are_those_of_the_words(self, device):
        for dtype in (torch.float32, torch.float64):
            got = self.filled(10_000, dtype, device).double().cpu().numpy()
            exact = self.case.exact(10_000, dtype)
            # a few roundings of the number, and of the mean and deviation that it is made of
            rounding = torch.finfo(dtype).eps * (np.abs(exact) + sum(abs(x) for x in self.case.keywords.values()))
            assert (np.abs(got - exact) <= 4 * rounding).all()

    def test_the_bits_are_the_same_everywhere(self, dtype, device):
        """For every instruction set and device that the tests run on, and from one version to the next."""
        got = self.filled(1000, dtype, device).cpu().view(torch.uint8).numpy().tobytes()
        assert hashlib.sha256(got).hexdigest()[:16] == self.case.bits[dtype]

    def test_small_types_are_rounded_float32(self, device):
        for dtype in (torch.bfloat16, torch.float16):
            assert torch.equal(self.filled(10_000, dtype, device), self.filled(10_000, device=device).to(dtype))

    def test_every_length_is_the_start_of_a_longer_one_and_leaves_the_neighbours_alone(self, dtype, device):
        longest = self.filled(5000, dtype, device)
        for n in (*range(300), 511, 512, 513, 1023, 1025, 4999):
            memory = torch.full((n + 2,), 77.0, dtype=dtype, device=device)
            self.case.fill(memory[1:-1], generator=KEY, **self.case.keywords)
            assert torch.equal(memory[1:-1], longest[:n])
            assert (memory[[0, -1]] == 77).all()

    def test_a_part_gets_the_numbers_of_its_place(self, dtype, device):
        kernel = getattr(torch.ops.torchnotes, self.case.operator).default
        numbers = tuple(self.case.keywords.values())
        for expected, place in windows(self.filled(MANY, dtype, device)):
            memory = torch.full((expected.numel() + 2,), 77.0, dtype=dtype, device=device)
            kernel(memory[1:-1], KEY, *numbers, place)
            assert torch.equal(memory[1:-1].view_as(expected), expected), place
            assert (memory[[0, -1]] == 77).all()
        x = torch.ones(2, 3, 10, dtype=dtype, device=device)
        torch.library.opcheck(kernel, (x, KEY, *numbers, (3, 5, 7)), test_utils=("test_schema", "test_faketensor"))
        x.fill_(77)
        for bad in ((3, 7, 7), (-1, 5, 7), (3, 0, 7), (3, -5, 7), (3, 5, -7), (3, 5), ()):
            with pytest.raises(RuntimeError, match="place"):
                kernel(x, KEY, *numbers, bad)
        assert (x == 77).all(), "nothing is written"
        assert kernel(torch.empty(0, dtype=dtype, device=device), KEY, *numbers, (3, 5, 7)) is None

    def test_the_bits_do_not_depend_on_the_threads(self, dtype):
        n = 300_007
        with threads(1):
            expected = self.filled(n, dtype)
        for count in (2, 3, 64):
            with threads(count):
                assert torch.equal(self.filled(n, dtype), expected)

    def test_the_bits_do_not_depend_on_the_layout(self, dtype, device):
        expected = self.filled((2, 3, 5, 4), dtype, device)
        for layout in LAYOUTS[:-1]:  # the last is a copy that is negated when it is read
            x = layout(torch.zeros(2, 3, 5, 4, dtype=dtype, device=device))
            stride = x.stride()
            self.case.fill(x, generator=KEY, **self.case.keywords)
            assert torch.equal(x, expected)
            assert x.stride() == stride

    def test_the_distribution(self):
        """Kolmogorov and Smirnov; the moments; the tails; neighbours, and streams of neighbouring keys."""
        distribution = self.case.distribution
        x = self.filled(MANY, torch.float64).numpy()
        assert stats.kstest(x[: 1 << 20], distribution.cdf).pvalue > 1e-3
        mean, variance = distribution.stats("mv")
        z = (x - mean) / np.sqrt(variance)
        moments = [distribution.expect(lambda t, k=k: ((t - mean) / np.sqrt(variance)) ** k) for k in range(1, 9)]
        for k in range(1, 5):
            expected, spread = moments[k - 1], np.sqrt((moments[2 * k - 1] - moments[k - 1] ** 2) / MANY)
            assert abs((z**k).mean() - expected) < 4.5 * spread, f"moment {k}"
        for probability in (1e-2, 1e-3, 3e-5):
            for tail in (x < distribution.ppf(probability), x > distribution.isf(probability)):
                assert abs(tail.mean() - probability) < 4.5 * np.sqrt(probability / MANY)
        for lag in (1, 2, 15, 16, 17, 31, 32, 48, 64):
            assert abs((z[lag:] * z[:-lag]).mean()) < 4.5 / np.sqrt(MANY), f"lag {lag}"
        for neighbour in (KEY + torch.tensor([1, 0]), KEY + torch.tensor([0, 1]), KEY.flip(0)):
            other = self.case.fill(torch.empty(MANY, dtype=torch.float64), **self.case.keywords, generator=neighbour)
            assert abs((z * (other.numpy() - mean) / np.sqrt(variance)).mean()) < 4.5 / np.sqrt(MANY)

    def test_the_distribution_of_float32(self):
        x = self.filled(MANY).double().numpy()
        assert stats.kstest(x[: 1 << 20], self.case.distribution.cdf).pvalue > 1e-3

    # as torch.nn.init

    def test_the_defaults_are_torchs(self):
        ours = self.case.fill(torch.empty(MANY), generator=KEY).double()
        torch.manual_seed(1)
        theirs = self.case.builtin(torch.empty(MANY)).double()
        assert stats.ks_2samp(ours.numpy()[:200_000], theirs.numpy()[:200_000]).pvalue > 1e-3
        assert abs(ours.mean() - theirs.mean()) < 4.5 * 2**0.5 * theirs.std() / MANY**0.5

    def test_a_parameter_is_filled_without_a_graph(self, device):
        x = torch.nn.Parameter(torch.zeros(3, 4, device=device))
        version = x._version
        assert self.case.fill(x) is x
        assert x.is_leaf
        assert x.requires_grad
        assert x._version > version
        y = (x * 2).requires_grad_() if not x.requires_grad else x * 2
        self.case.fill(y)
        assert y.grad_fn is not None

    def test_a_changed_tensor_raises_in_backward(self, device):
        x = torch.ones(3, device=device, requires_grad=True)
        inner = x * 1
        y = inner.exp() * inner
        self.case.fill(inner)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()

    def test_seeds_and_generators(self, device):
        def two(generator: torch.Generator | None = None) -> list[Tensor]:
            return [self.case.fill(torch.empty(100, device=device), generator=generator) for _ in range(2)]

        torch.manual_seed(3)
        first, second = two()
        torch.manual_seed(3)
        again = two()
        assert torch.equal(first, again[0])
        assert torch.equal(second, again[1])
        assert not torch.equal(first, second)
        state = torch.get_rng_state()
        generator = torch.Generator(device).manual_seed(3)
        own = two(generator)
        assert torch.equal(own[0], two(generator.manual_seed(3))[0])
        assert torch.equal(torch.get_rng_state(), state)

    def test_empty_meta_and_inference_tensors(self, device):
        for shape in ((0,), (3, 0, 2)):
            assert self.case.fill(torch.empty(shape, device=device)).shape == shape
        state = torch.get_rng_state()
        assert self.case.fill(torch.empty(3, device="meta")).is_meta
        assert torch.equal(torch.get_rng_state(), state)
        with torch.inference_mode():
            x = torch.empty(3, device=device)
            self.case.fill(x)
        with pytest.raises(RuntimeError, match=r"[Ii]nference"):
            self.case.fill(x)
        with torch._subclasses.FakeTensorMode():
            assert self.case.fill(torch.empty(3, 4)).shape == (3, 4)
        assert self.case.fill(torch.empty((), device=device)).shape == ()

    def test_vmap_fills_each_example_by_its_key(self, device):
        def noisy(t: Tensor) -> Tensor:
            return self.case.fill(torch.empty_like(t))

        x = torch.ones(3, 100, device=device)
        different = torch.vmap(noisy, randomness="different")(x)
        same = torch.vmap(noisy, randomness="same")(x)
        assert not torch.equal(different[0], different[1])
        assert torch.equal(same[0], same[1])
        with pytest.raises(RuntimeError, match="not batched"):
            torch.vmap(lambda t: self.case.fill(torch.empty(3)), randomness="different")(x)

    @pytest.mark.parametrize("backend", ("aot_eager", "inductor"))
    def test_compile(self, backend):
        torch._dynamo.reset()
        compiled = torch.compile(lambda x: self.case.fill(x * 1, generator=KEY) + 1, backend=backend, fullgraph=True)
        for n in (1000, 77):
            assert torch.equal(compiled(torch.zeros(n)), self.case.fill(torch.zeros(n), generator=KEY) + 1)
        drawn = torch.compile(lambda x: self.case.fill(x * 1), backend=backend, fullgraph=True)
        assert not torch.equal(drawn(torch.zeros(50)), drawn(torch.zeros(50)))
        torch._dynamo.reset()

    def test_opcheck(self, dtype, device):
        kernel = getattr(torch.ops.torchnotes, self.case.operator).default
        for layout in (torch.clone, *LAYOUTS[1:-1]):
            x = layout(torch.zeros(2, 3, 4, 5, dtype=dtype, device=device))
            torch.library.opcheck(
                kernel, (x, KEY, *self.case.keywords.values()), test_utils=("test_schema", "test_faketensor")
            )

    def test_bad_arguments(self, device):
        x = torch.ones(3, device=device)
        for bad in (None, [1.0], "x", 1.0):
            assert outcome(self.case.fill, bad)[0] is outcome(self.case.builtin, bad)[0]
        for dtype in (torch.int64, torch.bool):
            bad = torch.ones(3, dtype=dtype, device=device)
            assert outcome(self.case.fill, bad)[0] is outcome(self.case.builtin, bad)[0]
        for keyword in self.case.keywords:
            for bad in ("x", None, [0.1], 1j):
                assert outcome(self.case.fill, x, **{keyword: bad})[0] is TypeError
        for bad in ("x", 3, [1]):
            assert outcome(self.case.fill, x, generator=bad)[0] is TypeError
        for key in (torch.tensor([1]), torch.tensor([1.0, 2.0]), torch.ones(2, 2, dtype=torch.int64)):
            with pytest.raises(RuntimeError, match="expected a key"):
                self.case.fill(x, generator=key)
        assert (x == 1).all(), "nothing is written"
        shared = expanded(torch.ones(3, 4, device=device))
        assert issubclass(outcome(self.case.fill, shared)[0], RuntimeError)
        assert (shared == 1).all()

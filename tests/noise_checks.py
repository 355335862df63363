"""The checks of operations that multiply by noise made of a key: those of every operation, with the key given, so that
they are functions; and what random ones have beside."""

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
import torch.utils.checkpoint
from torch import Tensor

from checks import OpCase, outcome, run, values
from inplace_checks import InplaceChecks
from layouts import LAYOUTS, expanded, offset_by_one
from philox import KEY, windows

Factors = Callable[..., Tensor]  # of key, shape, dtype and keywords: what each element is multiplied by, in float64


def noise_case(op: Callable[..., Tensor], factors: Factors, **more: Any) -> OpCase:
    """An operation of an input, keywords and a generator, as the function that it is for a given key."""

    def with_key(x: Tensor, **keywords: Any) -> Tensor:
        return op(x, **keywords, generator=KEY)

    def builtin(x: Tensor, inplace: bool = False, **keywords: Any) -> Tensor:
        if x.numel() == 0:
            return x
        noise = torch.empty_like(x.detach()).copy_(factors(KEY, tuple(x.shape), x.dtype, **keywords).to(x.device))
        return x.mul_(noise) if inplace else x * noise

    return OpCase(op=with_key, builtin=builtin, reference=builtin, opinfo="", inplace=True, **more)


class NoiseChecks(InplaceChecks):
    op: ClassVar[Callable[..., Tensor]]  # with torch's signature, and a generator
    factors: ClassVar[Factors]
    named: ClassVar[str]  # its native operator

    @pytest.fixture(autouse=True)
    def _dtype_of_the_noise(self, request: pytest.FixtureRequest) -> None:
        self.dtype = request.getfixturevalue("dtype") if "dtype" in request.fixturenames else torch.float64

    def functions(self, keywords: dict) -> tuple[Callable, Callable, Callable]:
        """The reference computes in float64, with the noise of the dtype that is tested."""
        op, builtin, _ = super().functions(keywords)
        plain = {k: v for k, v in keywords.items() if k != "inplace"}

        def reference(x: Tensor) -> Tensor:
            return x * type(self).factors(KEY, tuple(x.shape), self.dtype, **plain).to(x.device)

        return op, builtin, reference

    @property
    def drawing(self) -> Callable[..., Tensor]:
        return type(self).op

    # what is different where nothing but a key is kept

    def strides_of_gradient(self, dx_builtin: Tensor, grad: Tensor) -> tuple[int, ...]:
        return torch.empty_like(grad).stride()

    def test_keeps_one_tensor_and_no_memory_of_its_own(self, device):
        for keywords in self.case.keywords:
            for inplace in (False, True):
                kept: list[Tensor] = []

                def pack(t: Tensor, kept: list = kept) -> Tensor:
                    kept.append(t)
                    return t

                x = values((10,), torch.float32, device).requires_grad_() * 1
                with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
                    self.drawing(x, **keywords, inplace=inplace)
                assert [(t.shape, t.dtype) for t in kept] == [((2,), torch.int64)]  # 16 bytes

    def test_forward_mode_with_dual_numbers(self, device):
        """The tangent is that of a linear function: it does not depend on the input."""
        x, tangent = (values((4, 3), torch.float64, device) for _ in range(2))
        op, builtin, _ = self.functions(self.case.keywords[0])
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(x, tangent)
            out = torch.autograd.forward_ad.unpack_dual(op(dual))
        torch.testing.assert_close((out.primal, out.tangent), (builtin(x), builtin(tangent)))

    def test_using_a_changed_output_in_backward_raises(self, device):
        """The output is not needed: to change it is no error."""
        x = values((10,), torch.float32, device).requires_grad_()
        y = self.case.op(x)
        (expected,) = torch.autograd.grad(y.sum(), x, retain_graph=True)
        y.mul_(2)
        assert torch.equal(torch.autograd.grad(y.sum(), x)[0], 2 * expected)

    def test_the_bits_do_not_depend_on_the_place_in_memory(self, dtype):
        x, grad = values((300_007,), dtype, "cpu"), values((300_007,), dtype, "cpu")
        for keywords in self.case.keywords:
            op, _, _ = self.functions(keywords)
            for ours, again in zip(run(op, x, grad), run(op, offset_by_one(x), offset_by_one(grad)), strict=True):
                assert torch.equal(ours, again)

    def test_the_bits_do_not_depend_on_the_layout(self, dtype, device):
        x, grad = values((2, 3, 5, 4), dtype, device), values((2, 3, 5, 4), dtype, device)
        expected = run(self.case.op, x, grad)
        for layout in LAYOUTS:
            for layout_of_grad in LAYOUTS:
                for ours, again in zip(expected, run(self.case.op, layout(x), layout_of_grad(grad)), strict=True):
                    assert torch.equal(ours, again)

    def test_fake_and_meta_tensors(self, dtype):
        for layout in (*LAYOUTS[:-1], expanded):
            x = layout(values((2, 3, 5, 4), dtype, "cpu"))
            real = self.drawing(x)
            meta = self.drawing(torch.empty_strided(x.shape, x.stride(), dtype=dtype, device="meta"))
            with torch._subclasses.FakeTensorMode() as mode:
                fake = self.drawing(mode.from_tensor(x))
            for abstract in (meta, fake):
                assert (abstract.shape, abstract.dtype, abstract.stride()) == (real.shape, real.dtype, real.stride())

    def test_compiled_and_exported_graphs_hold_what_the_compiler_can_fuse(self):
        """In training a graph holds our operator, which is faster than what the compiler makes of torch's."""
        operation = self.drawing

        class Module(torch.nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return operation(x, training=self.training)

        x = values((3, 4), torch.float32, "cpu")
        targets = []
        for module in (Module(), Module().eval()):
            exported = torch.export.export(module, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
            targets.append([str(node.target) for node in exported.graph.nodes if node.op == "call_function"])
            exported.module()(torch.ones(7, 4))
        assert f"torchnotes.{self.named}.default" in targets[0]
        assert not targets[1]

    def test_opinfo_samples(self, device):
        """torch's samples are those of its own random operation: tests of each operation."""

    def test_every_dtype_does_what_it_does_in_torch(self, device):
        for dtype in (torch.bool, torch.uint8, torch.int64):
            x = torch.ones(4, device=device).to(dtype)
            assert issubclass(outcome(self.drawing, x)[0], RuntimeError)
            assert self.drawing(x, training=False) is x

    def test_unusual_tensors_do_what_they_do_in_torch(self):
        class Subclass(torch.Tensor):
            pass

        x = values((4, 6), torch.float32, "cpu")
        y = self.drawing(x.as_subclass(Subclass))
        assert type(y) is Subclass
        assert y.shape == x.shape
        nested = torch.nested.nested_tensor([x[0], x[1, :2]], layout=torch.jagged)
        assert self.drawing(nested).values().shape == (8,)
        assert self.drawing(torch.nn.Parameter(x)).requires_grad

    def test_bad_arguments_raise_what_torch_raises(self):
        x = values((3,), torch.float32, "cpu")
        for bad in (None, "x", [1.0, 2.0], 1.0, object()):
            assert outcome(self.drawing, bad)[0] is TypeError
        assert outcome(self.drawing)[0] is TypeError
        assert outcome(self.drawing, x, nonsense=1)[0] is TypeError
        kept = x.clone()
        for bad in ("x", [0.1], 3, object()):
            assert outcome(self.drawing, x, generator=bad, inplace=True)[0] is TypeError
        for bad, message in (
            (torch.tensor([1, 2, 3]), "of size"),
            (torch.tensor(1), "of size"),
            (torch.tensor([1, 2], dtype=torch.int32), "dtype int64"),
            (torch.ones(2, 2, dtype=torch.int64), "of size"),
            (torch.ones(2, dtype=torch.int64, device="meta"), "meta"),
        ):
            error, text = outcome(self.drawing, x, generator=bad, inplace=True)
            assert issubclass(error, RuntimeError)
            assert message in text
        assert torch.equal(x, kept), "nothing is written"

    # randomness

    def test_a_seed_tells_the_noise_and_every_call_draws_anew(self, device):
        x = torch.ones(1000, device=device)

        def two(seed: int) -> tuple[Tensor, Tensor]:
            torch.manual_seed(seed)
            return self.drawing(x), self.drawing(x)

        first, second = two(3)
        assert not torch.equal(first, second)
        for again, expected in zip(two(3), (first, second), strict=True):
            assert torch.equal(again, expected)
        assert not torch.equal(two(4)[0], first)

    def test_a_generator_of_ones_own(self, device):
        x = torch.ones(1000, device=device)
        state = torch.get_rng_state()
        generator = torch.Generator(device).manual_seed(5)
        first, second = self.drawing(x, generator=generator), self.drawing(x, generator=generator)
        assert torch.equal(torch.get_rng_state(), state)
        assert not torch.equal(first, second)
        assert torch.equal(self.drawing(x, generator=generator.manual_seed(5)), first)

    def test_nothing_is_drawn_where_there_is_no_noise(self, device):
        state = torch.get_rng_state()
        for x, keywords in ((torch.ones(3), {"training": False}), (torch.ones(3), {"p": 0}), (torch.ones(0, 2), {})):
            x = x.to(device)
            assert self.drawing(x, **keywords) is x
            assert self.drawing(x, **keywords, inplace=True) is x
        assert torch.equal(torch.get_rng_state(), state)

    @pytest.mark.parametrize("reentrant", (False, True))
    def test_checkpointing_makes_the_same_noise_again(self, reentrant, device):
        x = values((100,), torch.float64, device).requires_grad_()

        def block(x: Tensor) -> Tensor:
            return self.drawing(self.drawing(x * 2).sin()).pow(2)

        torch.manual_seed(7)
        plain = block(x)
        torch.manual_seed(7)
        again = torch.utils.checkpoint.checkpoint(block, x, use_reentrant=reentrant)
        assert torch.equal(plain, again)
        gradients = [torch.autograd.grad(y.sum(), x)[0] for y in (plain,)]
        again.sum().backward()
        assert torch.equal(gradients[0], x.grad)

    def test_randomness_of_vmap(self, device):
        x = torch.ones(3, 50, device=device)

        def gradient(x: Tensor) -> Tensor:
            return torch.func.grad(lambda x: self.drawing(x).sum())(x)

        for function in (self.drawing, gradient):
            with pytest.raises(RuntimeError, match="randomness"):
                torch.vmap(function)(x)
            same = torch.vmap(function, randomness="same")(x)
            assert torch.equal(same[0], same[1])
            different = torch.vmap(function, randomness="different")(x)
            assert not torch.equal(different[0], different[1])
        once = torch.vmap(lambda row: self.drawing(x[0]), randomness="different")(x)
        assert not torch.equal(once[0], once[1])
        nested = torch.vmap(torch.vmap(self.drawing, randomness="different"), randomness="same")(x.view(3, 5, 10))
        assert torch.equal(nested[0], nested[1])
        assert not torch.equal(nested[0, 0], nested[0, 1])

    def test_a_key_for_each_example_is_that_of_the_example_alone(self, dtype, device):
        kernel = getattr(torch.ops.torchnotes, self.named).default
        for shape in ((4, 3, 37), (4, 3), (2, 2, 2000)):
            x = values(shape, dtype, device)
            keys = torch.randint(2**62, (*shape[:2], 2), device=device)
            together = kernel(x, keys, *self.case.numbers[1:])
            for i in range(shape[0]):
                for j in range(shape[1]):
                    assert torch.equal(together[i, j], kernel(x[i, j], keys[i, j], *self.case.numbers[1:]))

    def test_a_part_gets_the_noise_of_its_place(self, dtype, device):
        kernel, kernel_ = (getattr(torch.ops.torchnotes, self.named + last).default for last in ("", "_"))
        numbers = self.case.numbers[1:]
        whole = values((1 << 21,), dtype, device)
        parts = windows(kernel(whole, KEY, *numbers))
        for (expected, place), (x, _) in zip(parts, windows(whole), strict=True):
            assert torch.equal(kernel(x.clone(), KEY, *numbers, place), expected), place
            kernel_(written := x.clone(), KEY, *numbers, place)
            assert torch.equal(written, expected)
        x, keys, place = values((3, 2, 10), dtype, device), torch.arange(6).view(3, 2), (70, 5, 9)
        together = torch.vmap(lambda x, key: kernel(x, key, *numbers, place))(x, keys)
        for i in range(3):
            assert torch.equal(together[i], kernel(x[i], keys[i], *numbers, place))
        torch.library.opcheck(kernel, (x, KEY, *numbers, place), test_utils=("test_schema", "test_faketensor"))
        for bad in ((3, 7, 7), (-1, 5, 7), (3, 0, 7), (3, -5, 7), (3, 5, -7), (3, 5), ()):
            with pytest.raises(RuntimeError, match="place"):
                kernel(x, KEY, *numbers, bad)

    def test_compiled_noise_follows_the_seed_and_its_gradient_the_noise(self):
        torch._dynamo.reset()
        compiled = torch.compile(lambda x: self.drawing(x) + self.drawing(x), fullgraph=True)
        x = torch.ones(1000, requires_grad=True)
        results = []
        for _ in range(2):
            torch.manual_seed(5)
            results.append((y := compiled(x)).detach())
            (dx,) = torch.autograd.grad(y.sum(), x)
            torch.testing.assert_close(dx, y)
        assert torch.equal(*results)
        assert (results[0] / 2 - self.drawing(x)).abs().max() > 0
        half = results[0] / 2
        assert half.unique().numel() > 2, "the two calls draw two keys"
        torch._dynamo.reset()

    def test_a_generator_of_a_subclass(self):
        """Where torch computes it draws from the generator that is given."""

        class Subclass(torch.Tensor):
            pass

        x = torch.ones(50).as_subclass(Subclass)
        generator = torch.Generator().manual_seed(1)
        first = self.drawing(x, generator=generator)
        assert torch.equal(self.drawing(x, generator=generator.manual_seed(1)), first)
        assert not torch.equal(self.drawing(x, generator=generator), first)
        written = x.clone()
        assert self.drawing(written, inplace=True, generator=generator.manual_seed(1)) is written
        assert torch.equal(written, first)

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="there is one device")
    def test_a_generator_of_another_device_is_refused(self):
        for device, other in (("cpu", "cuda"), ("cuda", "cpu")):
            x = torch.ones(3, device=device)
            with pytest.raises(RuntimeError, match="generator"):
                self.drawing(x, generator=torch.Generator(other), inplace=True)
            assert (x == 1).all()

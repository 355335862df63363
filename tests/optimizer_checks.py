"""The checks of optimizers. tests/optim/test_X.py describes an optimizer as an OptimizerCase and inherits the checks.

The reference is the optimizer of the same name in torch.optim, in float64.
"""

import contextlib
import copy
import gc
import hashlib
import inspect
import io
import itertools
import pickle
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.profiler import ProfilerActivity, profile

from checks import outcome, threads

SHAPES = ((), (0,), (1,), (5,), (7, 33), (2, 3, 5, 4), (1, 1, 4, 1), (9001,))
SIXTEEN_BITS = (torch.bfloat16, torch.float16)
ROUNDINGS = ("nearest", "kahan", "stochastic")
HOW_TORCH_COMPUTES = {"foreach", "fused", "capturable", "differentiable"}  # options that do not change the results

HOOKS: dict[str, Callable] = {  # how to register each on an optimizer
    "before each step": lambda optimizer, hook: optimizer.register_step_pre_hook(hook),
    "after each step": lambda optimizer, hook: optimizer.register_step_post_hook(hook),
    "before each step of any": lambda _, hook: register_optimizer_step_pre_hook(hook),
    "after each step of any": lambda _, hook: register_optimizer_step_post_hook(hook),
    "before saving": lambda optimizer, hook: optimizer.register_state_dict_pre_hook(hook),
    "after saving": lambda optimizer, hook: optimizer.register_state_dict_post_hook(hook),
    "before loading": lambda optimizer, hook: optimizer.register_load_state_dict_pre_hook(hook),
    "after loading": lambda optimizer, hook: optimizer.register_load_state_dict_post_hook(hook),
}

LAYOUTS: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda x: x.clone(memory_format=torch.channels_last),
    lambda x: x.transpose(0, 2),
    lambda x: x[:, ::2],
    lambda x: x.flatten()[1:-1],
    lambda x: x[:1],
    lambda x: x.transpose(0, 3)[:, ::2],
)


@dataclass(frozen=True)
class OptimizerCase:
    """An optimizer, as data."""

    ours: type[torch.optim.Optimizer]
    theirs: type[torch.optim.Optimizer]
    options: tuple[dict[str, Any], ...]  # a sweep over all options that change the results
    base: dict[str, Any]  # options with which each of these changes the results:
    changes: dict[str, Any]
    bad: tuple[dict[str, Any], ...]  # rejected by torch
    bits: dict[torch.dtype, str]  # the start of the hash of 1000 parameters after some steps
    capturable: bool = True


def parameters(shapes: Any, dtype: torch.dtype, device: str = "cpu") -> list[Tensor]:
    return [torch.randn(shape, dtype=torch.float64).to(device, dtype).requires_grad_() for shape in shapes]


def copies(params: list[Tensor], dtype: torch.dtype | None = None) -> list[Tensor]:
    return [p.detach().clone().to(dtype or p.dtype).requires_grad_() for p in params]


def give_gradients(*lists: list[Tensor]) -> None:
    """Sets the same gradients in each list, rounded to its dtype."""
    for same in zip(*lists, strict=True):
        grad = torch.randn_like(same[0])
        for p in same:
            p.grad = grad.to(p.dtype, copy=True)


def run(optimizers: list[torch.optim.Optimizer], *lists: list[Tensor], steps: int = 12) -> None:
    for _ in range(steps):
        give_gradients(*lists)
        for optimizer in optimizers:
            optimizer.step()


def assert_all_close(ours: list[Tensor], theirs: list[Tensor], rtol: float = 1e-12) -> None:
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=rtol)


def states(optimizer: torch.optim.Optimizer) -> list[dict[str, Tensor]]:
    return [optimizer.state[p] for group in optimizer.param_groups for p in group["params"]]


def assert_same_states(ours: torch.optim.Optimizer, theirs: torch.optim.Optimizer) -> None:
    torch.testing.assert_close(states(ours), states(theirs), rtol=1e-12, atol=1e-12)


def contiguous(x: Tensor) -> Tensor:
    return x.clone(memory_format=torch.contiguous_format)


def first_row_for_all(x: Tensor) -> Tensor:
    return x[:1].expand(x.shape) if x.dim() else x


class Subclass(torch.Tensor):
    pass


class OptimizerChecks:
    case: ClassVar[OptimizerCase]

    def pair(self, params: list[Tensor], **options: Any) -> tuple[list[Tensor], Any, Any]:
        """Copies of the parameters for torch, our optimizer of `params`, and torch's of the copies."""
        others = copies(params)
        return others, self.case.ours(params, **options), self.case.theirs(others, **options)

    def ours(self, params: list[Tensor], **options: Any) -> Any:
        return self.case.ours(params, lr=0.01, **options)

    # results

    def test_constructor_has_torchs_defaults(self):
        ours, theirs = (inspect.signature(kind).parameters for kind in (self.case.ours, self.case.theirs))
        assert {name: ours[name].default for name in theirs} == {name: theirs[name].default for name in theirs}

    def test_every_option_gives_torchs_trajectory(self, device):
        """For every shape and layout of parameters, which are updated in place, and of gradients."""
        for options, dtype in itertools.product(self.case.options, (torch.float64, torch.complex128)):
            if dtype.is_complex and options.get("fused"):
                continue  # rejected by torch
            base = torch.randn(6, 8, 5, 4, dtype=dtype, device=device)
            memories = [base.clone() for _ in LAYOUTS]
            params = [layout(m).requires_grad_() for layout, m in zip(LAYOUTS, memories, strict=True)]
            params += parameters(SHAPES, dtype, device)
            places = [(p.data_ptr(), p.stride()) for p in params]
            others, ours, theirs = self.pair(params, lr=0.01, **options)
            for layout_of_gradient in (torch.clone, torch.clone, contiguous, first_row_for_all, torch.clone):
                for p, other in zip(params, others, strict=True):
                    p.grad = layout_of_gradient(torch.randn_like(other))
                    other.grad = torch.empty_like(other).copy_(p.grad)
                ours.step()
                theirs.step()
            assert_all_close(params, others)
            assert_same_states(ours, theirs)
            assert [(p.data_ptr(), p.stride()) for p in params] == places
            for of_ours, of_theirs in zip(states(ours), states(theirs), strict=True):
                for name, state in of_theirs.items():
                    assert of_ours[name].stride() == state.stride(), name
            assert torch.equal(memories[2][:, 1::2], base[:, 1::2])
            assert torch.equal(memories[3].flatten()[[0, -1]], base.flatten()[[0, -1]])

    def test_options_apply_per_group(self):
        """An optimizer with two groups is equivalent to two optimizers."""
        changes = [("lr", 0.02), ("maximize", True), ("rounding", "kahan"), ("rounding", "stochastic")]
        changes += self.case.changes.items()
        options_of_torch = set(inspect.signature(self.case.theirs).parameters) - HOW_TORCH_COMPUTES - {"params"}
        assert {name for name, _ in changes} >= options_of_torch
        for name, value in changes:
            kind = self.case.theirs if name in options_of_torch else self.case.ours
            plain = {"lr": 0.01, **self.case.base}
            usual = {**kind(parameters([(1,)], torch.float32)).defaults, **plain}[name]
            for groups, defaults in (([{name: value}, {}], plain), ([{}, {name: usual}], {**plain, name: value})):
                start = torch.randn(20, dtype=torch.bfloat16 if name == "rounding" else torch.float64)
                params, others = ([start.clone().requires_grad_() for _ in range(2)] for _ in range(2))
                of_groups = [{"params": [p], **group} for p, group in zip(params, groups, strict=True)]
                optimizer = self.case.ours(of_groups, **defaults)
                alone = [
                    kind([p], **{**plain, name: of_group}) for p, of_group in zip(others, (value, usual), strict=True)
                ]
                for step in range(4):
                    grad = torch.randn_like(start) * 10.0**-step  # decreasing, for AMSGrad
                    for p in (*params, *others):
                        p.grad = grad.clone()
                    for each in (optimizer, *alone):
                        each.step()
                assert_all_close(params, others)
                assert not torch.equal(*params), f"{name} changes nothing"

    def test_torchs_implementation_is_an_option_of_the_group(self):
        for name, value in itertools.product(("foreach", "fused", "differentiable"), (True, False)):
            if name not in inspect.signature(self.case.theirs).parameters:
                continue
            params = parameters([(4,), (5,)], torch.float64)
            others = copies(params)
            ours, theirs = (
                kind([{"params": of[:1]}, {"params": of[1:], name: value}], lr=0.01)
                for kind, of in ((self.case.ours, params), (self.case.theirs, others))
            )
            run([ours, theirs], params, others, steps=3)
            assert_all_close(params, others)
            assert_same_states(ours, theirs)

    @pytest.mark.parametrize("short", (torch.float32, *SIXTEEN_BITS), ids=str)
    def test_error_is_no_larger_than_torchs(self, short, device):
        """Compares with a step in float64 from the same state, for parameters that are large compared to the step."""
        for options in self.case.options:
            params = [(3 + torch.rand(4096)).to(device, short).requires_grad_()]
            others, ours, theirs = self.pair(params, lr=0.05, **options)
            run([ours, theirs], params, others, steps=2)
            with torch.no_grad():
                others[0].copy_(params[0])
            theirs.load_state_dict(copy.deepcopy(ours.state_dict()))
            exact = copies(params, torch.float64)
            reference = self.case.theirs(exact, lr=0.05, **options)
            reference.load_state_dict(copy.deepcopy(ours.state_dict()))
            run([ours, theirs, reference], params, others, exact, steps=1)
            error, other_error = ((p.double() - exact[0]).abs().mean().item() for (p,) in (params, others))
            # A rounding has a mean error of a quarter ulp, where an ulp is 2 eps. Over 4096 parameters this estimate is
            # accurate to a few percent, and the ratio of two nearly equal errors to one percent.
            assert error <= max(1.01 * other_error, 1.05 * 0.5 * torch.finfo(short).eps)

    def test_every_length_writes_nothing_else(self, dtype, device):
        for rounding in ROUNDINGS if dtype in SIXTEEN_BITS else ROUNDINGS[:1]:
            memories = [torch.full((n + 2,), 77.0, dtype=dtype, device=device) for n in range(1, 70)]
            params = [m[1:-1].fill_(1).requires_grad_() for m in memories]
            optimizer = self.ours(params, rounding=rounding, **self.case.options[-1])
            grad = torch.randn(70, dtype=dtype, device=device)
            for p in params:
                p.grad = grad[: p.numel()].clone()
            optimizer.step()
            for m, p in zip(memories, params, strict=True):
                assert (m[[0, -1]] == 77).all()
                if rounding != "stochastic":  # which uses other random numbers for each parameter
                    assert torch.equal(p, params[-1][: p.numel()])

    def test_parameters_of_several_dtypes_and_step_counts(self, device):
        """The second parameter of each dtype gets its first gradient later, so that the step counts differ."""
        dtypes = (torch.float64, torch.float32, torch.complex128)
        params = [p for dtype in dtypes for p in parameters([(1 + i % 7,) for i in range(50)], dtype, device)]
        others, ours, theirs = self.pair(params, lr=0.01, **self.case.options[-1])
        for step in range(4):
            give_gradients(params, others)
            for i in range(0, len(params), 50):
                if step < 2:
                    params[i + 1].grad = others[i + 1].grad = None
            ours.step()
            theirs.step()
        for p, other in zip(params, others, strict=True):
            torch.testing.assert_close(p, other, rtol=1e-5, atol=1e-6)

    def test_nan_does_not_spread(self, dtype, device):
        for options in (*self.case.options, {"weight_decay": 0.0}):
            params = parameters([(50,)], dtype, device)
            params[0].data[20:22] = torch.tensor((torch.inf, -torch.inf))
            others, ours, theirs = self.pair(params, lr=0.01, **options)
            for step in range(3):
                give_gradients(params, others)
                for p in (*params, *others):
                    p.grad[3 * step : 3 * step + 3] = torch.tensor((torch.nan, torch.inf, -torch.inf))
                ours.step()
                theirs.step()
            for part in (slice(9), slice(20, 22)):
                assert torch.equal(params[0].isfinite()[part], others[0].isfinite()[part])
                assert torch.equal(params[0].isnan()[part], others[0].isnan()[part])
            for of_ours, of_theirs in zip(states(ours), states(theirs), strict=True):
                for name in set(of_theirs) - {"step"}:
                    assert torch.equal(of_ours[name].isfinite(), of_theirs[name].isfinite()), name

    def test_bits_do_not_depend_on_threads(self, dtype):
        for rounding in ROUNDINGS if dtype in SIXTEEN_BITS else ROUNDINGS[:1]:
            found = []
            for count in (1, 3):
                torch.manual_seed(1)
                params = parameters([(50_003,), (3,), (20_000,)], dtype)
                optimizer = self.ours(params, rounding=rounding, max_grad_norm=1.0)
                with threads(count):
                    run([optimizer], params, steps=2)
                found.append(params)
            assert all(torch.equal(p, q) for p, q in zip(*found, strict=True))

    # 16-bit parameters

    @pytest.mark.parametrize("short", SIXTEEN_BITS, ids=str)
    def test_small_steps_add_up(self, short, device):
        """Steps of 1/64 ulp, which rounding to nearest would lose entirely."""
        n, steps = 4096, 160
        eps = torch.finfo(short).eps
        found = {}
        for rounding in ("float32", *ROUNDINGS):
            (p,) = params = [torch.ones(n, dtype=torch.float32 if rounding == "float32" else short, device=device)]
            p.requires_grad_().grad = -torch.ones_like(p)
            options = {"rounding": rounding} if rounding in ROUNDINGS else {}
            optimizer = self.case.ours(params, lr=eps / 64, **options)
            for _ in range(steps):
                optimizer.step()
            found[rounding] = p.detach().float() - 1
        moved = found["float32"].mean().item()
        assert moved > 2 * eps
        assert (found["nearest"] == 0).all()
        # the moving averages are also rounded, to a few percent
        assert (found["kahan"] - moved).abs().max() <= 0.5 * eps + 0.1 * moved
        # each rounding is a Bernoulli variable of variance at most eps^2 / 4
        error = abs(found["stochastic"].mean().item() - moved)
        assert error < 4.5 * eps / 2 * (steps / n) ** 0.5 + 0.1 * moved
        assert found["stochastic"].unique().numel() > 3

    @pytest.mark.parametrize("short", SIXTEEN_BITS, ids=str)
    def test_bits_of_stochastic_rounding_are_pinned(self, short, device):
        """For every instruction set and device. Small integers make all of them round the same values."""
        (p,) = params = [torch.ones(1000, dtype=short, device=device).requires_grad_()]
        optimizer = self.case.ours(params, lr=torch.finfo(short).eps / 4, rounding="stochastic")
        for _ in range(5):
            p.grad = torch.ones_like(p)
            optimizer.step()
        bits = p.detach().cpu().view(torch.uint8).numpy().tobytes()
        assert hashlib.sha256(bits).hexdigest()[:16] == self.case.bits[short]

    def test_each_group_parameter_and_step_is_rounded_by_other_random_numbers(self):
        """The random numbers depend on each parameter's own step count. One parameter begins later than the others."""
        found = []
        for late in (False, True):
            params = [torch.ones(512, dtype=torch.bfloat16).requires_grad_() for _ in range(4)]
            groups = [{"params": params[:3]}, {"params": params[3:]}]
            optimizer = self.case.ours(groups, lr=torch.finfo(torch.bfloat16).eps / 30, rounding="stochastic")
            for step in range(2):
                for p in params:
                    p.data.fill_(1)
                    p.grad = torch.ones_like(p)
                if late and step == 0:
                    params[1].grad = None
                optimizer.step()
                found.append([(p != 1).tolist() for p in params])
        assert all(a != b for a, b in itertools.combinations((*found[0], *found[1]), 2))
        on_time, one_late = found[1], found[3]
        assert on_time[0] == one_late[0]
        assert on_time[1] != one_late[1]
        assert on_time[2:] == one_late[2:]

    # clipping

    @pytest.mark.parametrize("by", ("kernels", "subclass", "differentiable"))
    def test_each_group_is_clipped_to_its_own_norm(self, by):
        """The norm is that of all gradients, both in our kernels and in torch's step."""
        limits = (0.1, None, 0.3, 1e3)
        params = parameters([(3, 2), (4, 2), (5, 2), (2, 2)], torch.float64)
        others = copies(params)
        options = {**self.case.options[-1], **({"differentiable": True} if by == "differentiable" else {})}
        if by == "subclass":
            params = [p.detach().as_subclass(Subclass).requires_grad_() for p in params]
        params, others = (
            [p * 1 for p in of] if "differentiable" in options else of for of in (params, others)
        )  # torch rejects leaves
        groups = [{"params": [p], "max_grad_norm": limit} for p, limit in zip(params, limits, strict=True)]
        ours, theirs = self.ours(groups, **options), self.case.theirs(others, lr=0.01, **options)
        for scale, found_inf in ((1.0, 0.0), (4.0, 1.0), (4.0, 0.0)):
            before = [p.detach().clone() for p in params]
            for p, other in zip(params, others, strict=True):
                other.grad = torch.randn(other.shape, dtype=torch.float64)
                p.grad = other.grad * scale
            ours.grad_scale, ours.found_inf = torch.tensor(scale), torch.tensor(found_inf)
            norm = torch.nn.utils.get_total_norm([p.grad for p in others])
            for p, limit in zip(others, limits, strict=True):
                if limit is not None:
                    torch.nn.utils.clip_grads_with_norm_([p], limit, norm)
            ours.step()
            if found_inf:
                assert_all_close([p.detach() for p in params], before, 0)
            else:
                theirs.step()
                torch.testing.assert_close(ours.grad_norm, norm)
        assert_all_close([p.detach().as_subclass(Tensor) for p in params], [p.detach() for p in others])
        ours.param_groups[-1]["rounding"] = "kahan"
        with pytest.raises(RuntimeError, match="rounding") if by != "kernels" else contextlib.nullcontext():
            ours.step()

    def test_clipping_at_edge_cases(self):
        """Like torch, adds 1e-6 to the norm. If the norm is NaN all parameters become NaN."""
        for value in (1e-6, torch.nan, torch.inf):
            params = parameters([(3,)], torch.float64)
            others, _, theirs = self.pair(params, lr=0.01)
            ours = self.ours(params, max_grad_norm=1e-6)
            for p in (*params, *others):
                p.grad = torch.tensor([1e-6, value, 1e-6], dtype=torch.float64)
            torch.nn.utils.clip_grad_norm_(others, 1e-6)
            ours.step()
            theirs.step()
            torch.testing.assert_close(params, others, rtol=1e-15, atol=1e-15, equal_nan=True)
            torch.testing.assert_close(states(ours), states(theirs), rtol=1e-10, atol=0, equal_nan=True)

    def test_norm_covers_all_dtypes_groups_and_parameters(self):
        params = [*parameters([(5,)], torch.float32), *parameters([(3, 3)], torch.bfloat16)]
        optimizer = self.ours([{"params": params[:1], "max_grad_norm": 0.5}, {"params": params[1:]}])
        give_gradients(params)
        optimizer.step()
        exact = torch.cat([p.grad.double().flatten() for p in params]).norm()
        torch.testing.assert_close(optimizer.grad_norm.double(), exact)

    # the loss scale

    def test_scaled_gradients(self, device):
        for options in self.case.options:
            params = parameters(SHAPES, torch.float64, device)
            others, ours, theirs = self.pair(params, lr=0.01, **options)
            for found_inf in (1.0, 0.0, 0.0, 1.0, 0.0):
                give_gradients(params, others)
                versions = [p.grad._version for p in params]
                ours.grad_scale = None
                if found_inf or options:
                    for p in params:
                        p.grad *= 3.0
                    ours.grad_scale = torch.tensor(3.0, device=device)
                ours.found_inf = torch.tensor(found_inf, device=device)
                ours.step()
                if not found_inf:
                    theirs.step()
                    assert_all_close([p.grad for p in params], [p.grad for p in others])
                if ours.grad_scale is None:
                    assert versions == [p.grad._version for p in params], "no gradient is written"
                else:
                    assert all(p.grad._version > before for p, before in zip(params, versions, strict=True))
            assert_all_close(params, others)
            if device == "cpu":
                assert_same_states(ours, theirs)

    @pytest.mark.parametrize("fused", (False, True))
    def test_grad_scaler(self, device, fused):
        """A scaler only lets fused steps apply the scale. Lightning clips gradients that a scaler has unscaled."""
        if fused and "fused" not in self.case.theirs.__init__.__annotations__:
            pytest.skip("torch has no fused step")
        model = torch.nn.Linear(3, 2).to(device)
        other = copy.deepcopy(model)
        options = {"fused": True} if fused else {}
        ours, theirs = self.ours(model.parameters(), **options), self.case.theirs(other.parameters(), lr=0.01)
        assert getattr(ours, "_step_supports_amp_scaling", False) == fused  # otherwise Lightning rejects clipping
        scaler, plain = (torch.amp.GradScaler(device, init_scale=2.0**10, growth_interval=2) for _ in range(2))
        x = torch.randn(4, 3, device=device)
        for step in range(6):
            for net, optimizer, scales in ((model, ours, scaler), (other, theirs, plain)):
                optimizer.zero_grad()
                loss = net(x).square().sum() * (torch.inf if step in (0, 3) else 1)
                scales.scale(loss).backward()
                if step > 3:
                    scales.unscale_(optimizer)
                    torch.nn.utils.clip_grad_norm_(net.parameters(), 0.1)
                scales.step(optimizer)
                scales.update()
            assert scaler.get_scale() == plain.get_scale()
        assert_all_close(list(model.parameters()), list(other.parameters()), 1e-6)

    # the state

    def test_state_dicts_are_interchangeable_with_torchs(self, device):
        for options in self.case.options:
            params = parameters(SHAPES, torch.float64, device)
            others, ours, theirs = self.pair(params, lr=0.01, **options)
            run([ours, theirs], params, others, steps=3)
            for _ in range(2):
                file = io.BytesIO()
                torch.save((ours.state_dict(), theirs.state_dict()), file)
                file.seek(0)
                mine, other = torch.load(file, weights_only=True)
                ours, theirs = self.ours(params, **options), self.case.theirs(others, lr=0.01, **options)
                ours.load_state_dict(other)
                theirs.load_state_dict(mine)
                run([ours, theirs], params, others, steps=3)
                for of_ours, of_theirs in zip(states(ours), states(theirs), strict=True):
                    assert {name: x.dtype for name, x in of_ours.items()} == {
                        name: x.dtype for name, x in of_theirs.items()
                    }
            assert_all_close(params, others)

    def test_dtypes_of_states_follow_the_default_dtype_like_torchs(self):
        before = torch.get_default_dtype()
        try:
            torch.set_default_dtype(torch.float64)
            for options in self.case.options:
                params = parameters([(3,)], torch.float32)
                others, ours, theirs = self.pair(params, **options)
                run([ours, theirs], params, others, steps=1)
                dtypes = [{k: x.dtype for k, x in states(optimizer)[0].items()} for optimizer in (ours, theirs)]
                assert dtypes[0] == dtypes[1]
        finally:
            torch.set_default_dtype(before)

    def test_our_options_survive_loading_torchs_state_dict(self):
        params = parameters([(3,)], torch.bfloat16)
        others, _, theirs = self.pair(params, lr=0.01)
        run([theirs], others, steps=1)
        ours = self.ours(params, rounding="kahan", max_grad_norm=2.0)
        ours.load_state_dict(theirs.state_dict())
        assert ours.param_groups[0]["rounding"] == "kahan"
        assert ours.param_groups[0]["max_grad_norm"] == 2.0
        run([ours], params, steps=2)
        assert "compensation" in ours.state[params[0]]

    def test_a_wrong_state_dict_changes_nothing(self):
        params = parameters([(3,), (4,)], torch.float64)
        ours = self.ours(params, **self.case.options[-1])
        run([ours], params, steps=2)
        before, kept = copies(params), copy.deepcopy(ours.state_dict())
        other = parameters([(3,), (5,)], torch.float64)
        of_other_size = self.ours(other, **self.case.options[-1])
        strange = torch.optim.Adagrad(copies(params))
        run([of_other_size], other, steps=1)
        run([strange], strange.param_groups[0]["params"], steps=1)
        for wrong in (of_other_size, strange):
            if wrong is of_other_size or self.case.ours.counts_steps:  # SGD needs no state
                with pytest.raises(ValueError, match="loaded state dict"):
                    ours.load_state_dict(wrong.state_dict())
        with pytest.raises(ValueError, match="parameter group"):
            ours.load_state_dict(self.ours([*params, *other]).state_dict())
        assert_all_close(params, before, 0)
        now = ours.state_dict()
        assert now["param_groups"] == kept["param_groups"]
        for i, of_parameter in kept["state"].items():
            torch.testing.assert_close(now["state"][i], of_parameter, rtol=0, atol=0)

    def test_additional_states_of_other_code_are_loaded(self):
        params = parameters([(3,), (4,)], torch.float64)
        ours = self.ours(params, **self.case.options[-1])
        run([ours], params, steps=1)
        for p in params:
            ours.state[p].update(average=p.detach()[:2].clone(), number=5)
        after = self.ours(params, **self.case.options[-1])
        after.load_state_dict(ours.state_dict())
        torch.testing.assert_close(states(after), states(ours), rtol=0, atol=0)
        run([ours, after], params, steps=1)

    def test_copies_continue_identically(self):
        for through in (copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))):
            params = parameters(SHAPES, torch.float32)
            ours = self.ours(params, max_grad_norm=1.0, **self.case.options[-1])
            run([ours], params, steps=2)
            twin = through(ours)
            others = twin.param_groups[0]["params"]
            run([ours, twin], params, others, steps=2)
            assert_all_close(params, others, 0)

    def test_an_unreferenced_optimizer_is_freed_with_its_parameters_and_states(self):
        """Immediately, without the garbage collector, after a step by our kernels, by torch's, with hooks, compiled."""

        def references(**options: Any) -> list[weakref.ref]:
            params = parameters([(3,), (4,)], torch.float64)
            if options.pop("subclass", False):
                params = [p.detach().as_subclass(Subclass).requires_grad_() for p in params]
            hooked, compiled = options.pop("hooked", False), options.pop("compiled", False)
            optimizer = self.ours(params, **options)
            if hooked:
                optimizer.register_step_pre_hook(lambda *_: None)
            step = torch.compile(optimizer.step) if compiled else optimizer.step
            for _ in range(2):
                give_gradients(params)
                step()
            return [weakref.ref(x) for x in (optimizer, *params, *(x for of in states(optimizer) for x in of.values()))]

        gc.disable()
        try:
            for options in ({}, {"max_grad_norm": 1.0}, {"subclass": True}, {"hooked": True}, {"compiled": True}):
                references(**options)  # the first call imports modules of torch
                left = [reference() for reference in references(**options) if reference() is not None]
                assert not left, options
        finally:
            gc.enable()

    # use

    def test_schedulers_groups_and_frozen_parameters(self):
        params = parameters(SHAPES, torch.float64)
        others = copies(params)
        lists, optimizers, schedulers = (params, others), [], []
        for kind, (a, b, *rest) in zip((self.case.ours, self.case.theirs), lists, strict=True):
            optimizers.append(kind([{"params": [a, b], "lr": 0.1}, {"params": rest[:2], "weight_decay": 0.1}], lr=0.01))
            schedulers.append(torch.optim.lr_scheduler.OneCycleLR(optimizers[-1], [0.1, 0.2], 20, cycle_momentum=False))
        for step in range(12):
            give_gradients(*lists)
            for of, optimizer, scheduler in zip(lists, optimizers, schedulers, strict=True):
                if step == 3:
                    optimizer.add_param_group({"params": of[4:]})
                    scheduler.base_lrs.append(0.01)
                    optimizer.param_groups[-1].update(initial_lr=0.01, max_lr=0.1, min_lr=1e-4)
                if step in (5, 6):
                    of[1].grad = of[3].grad = None
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad(set_to_none=step % 2 == 0)
        assert_all_close(*lists)

    @pytest.mark.parametrize("where", HOOKS)
    def test_each_hook_alone(self, where):
        """It is called once, with torch's arguments, and not again after its removal."""
        seen: list[tuple] = []
        for kind in (self.case.ours, self.case.theirs):
            (p,) = params = [torch.ones(3, dtype=torch.float64, requires_grad=True)]
            optimizer = kind(params, lr=0.5)

            def hook(of: Any, *more: Any, p: Tensor = p, kind: type = kind) -> None:
                assert type(of) is kind
                seen.append((len(more), bool((p != 1).any()), of.param_groups[0]["lr"]))

            handle = HOOKS[where](optimizer, hook)
            for _ in range(2):
                p.grad = torch.ones_like(p)
                optimizer.step()
                saved = copy.deepcopy(optimizer.state_dict())
                saved["param_groups"][0]["lr"] = 0.25
                optimizer.load_state_dict(saved)
                handle.remove()
        assert len(seen) == 2
        assert seen[0] == seen[1]

    def test_hooks_of_a_step_run_in_order_and_can_replace_the_closure(self):
        """Hooks get the closure as a keyword argument, like torch's if it is passed as one."""
        seen: list = []
        for kind in (self.case.ours, self.case.theirs):
            (p,) = params = parameters([(3,)], torch.float64)
            optimizer = kind(params)

            def closure(p: Tensor = p, optimizer: Any = optimizer) -> Tensor:
                seen.append("closure")
                optimizer.zero_grad()
                loss = p.square().sum()
                loss.backward()
                return loss

            start = p.detach().clone()
            optimizer.register_step_pre_hook(lambda of, args, kwargs: seen.append((len(args), list(kwargs))))
            optimizer.register_step_post_hook(lambda of, args, kwargs: seen.append((len(args), list(kwargs))))
            with torch.no_grad():
                loss = optimizer.step(closure=closure)
            torch.testing.assert_close(loss, start.square().sum())
            assert not torch.equal(p, start)
            assert optimizer.step() is None
            optimizer.register_step_pre_hook(lambda of, args, kwargs: (args, {**kwargs, "closure": lambda: 5}))
            assert optimizer.step() == optimizer.step(closure=lambda: 1) == 5
        half = len(seen) // 2
        assert seen[:half] == seen[half:]
        assert seen[1] == "closure"

    def test_groups_of_torchs_optimizer_gain_our_options(self):
        params = parameters([(3,), (4,)], torch.bfloat16)
        (of_torch,) = self.case.theirs(params, **self.case.options[-1]).param_groups
        exchanged, added = (self.ours(params[:1], rounding="kahan") for _ in range(2))
        exchanged.param_groups[:] = [{**of_torch, "params": params}]
        added.param_groups.append({**of_torch, "params": params[1:]})
        for ours in (exchanged, added):
            run([ours], params, steps=1)
            assert all("compensation" in of_parameter for of_parameter in ours.state.values())
            assert len(ours.state) == 2

    def test_a_learning_rate_that_is_a_tensor(self, device):
        params = parameters(SHAPES, torch.float64, device)
        others, _, theirs = self.pair(params, lr=0.01)
        ours = self.case.ours(params, lr=torch.tensor(0.5))
        ours.param_groups[0]["lr"].fill_(0.01)
        run([ours, theirs], params, others, steps=3)
        assert_all_close(params, others, 1e-6)

    def test_a_changed_parameter_raises_in_backward(self):
        params = parameters([(3,)], torch.float64)
        optimizer = self.ours(params)
        loss = params[0].square().sum()
        params[0].grad = torch.ones(3, dtype=torch.float64)
        optimizer.step()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()

    def test_conjugated_and_negated_gradients(self):
        """Also zero and inference tensors. Compares with torch's step on contiguous copies, even where torch rejects
        conjugates."""
        complex_ones = [torch.complex(*torch.randn(2, 5, dtype=torch.float64)) for _ in range(3)]
        with torch.inference_mode():
            inference = torch.randn(5, dtype=torch.float64)
        gradients = (
            torch._neg_view(torch.randn(5, dtype=torch.float64)),
            complex_ones[0].conj().imag,
            torch._efficientzerotensor(5, dtype=torch.float64),
            inference,
            complex_ones[0].conj(),
            torch._neg_view(complex_ones[1]),
            torch._neg_view(complex_ones[2].conj()),
            torch._efficientzerotensor(5, dtype=torch.complex128),
        )
        for options in self.case.options:
            if options.get("fused"):
                continue  # torch rejects it for complex numbers
            for limit in (None, 0.1):
                params = [torch.ones(5, dtype=g.dtype, requires_grad=True) for g in gradients]
                others, ours, theirs = self.pair(params, lr=0.01, **options)
                ours.param_groups[0]["max_grad_norm"] = limit
                for _ in range(2):
                    for p, other, grad in zip(params, others, gradients, strict=True):
                        p.grad, other.grad = grad, torch.zeros_like(other) + grad
                    if limit:
                        torch.nn.utils.clip_grad_norm_(others, limit)
                    ours.step()
                    theirs.step()
                assert_all_close(params, others)

    def test_states_of_another_dtype_match_torch(self):
        for options in self.case.options:
            if options.get("fused"):
                continue  # torch supports a single dtype
            for short, long in ((torch.bfloat16, torch.float32), (torch.float64, torch.float32)):
                for name in set(self.case.ours.states) - {"exp_avg", "grad_avg"}:  # rejected by torch
                    params = parameters([(4,), (5,)], short)
                    others, ours, theirs = self.pair(params, lr=0.01, **options)
                    run([ours, theirs], params, others, steps=1)
                    theirs.load_state_dict(copy.deepcopy(ours.state_dict()))
                    for p, other in zip(params, others, strict=True):
                        other.data.copy_(p.data)
                    if name not in ours.state[params[-1]]:
                        continue
                    for state in (*states(ours), *states(theirs)):
                        state[name] = state[name].to(long)
                    run([ours, theirs], params, others, steps=2)
                    assert_all_close(params, others, 0)
                    assert ours.state[params[-1]][name].dtype == long

    def test_step_counts_of_any_dtype_and_groups_of_any_sequence(self):
        for dtype in (torch.int64, torch.bfloat16):
            params = parameters([(4,), (5,)], torch.float64)
            others, ours, theirs = self.pair(params, lr=0.01)
            run([ours, theirs], params, others, steps=1)
            for optimizer in (ours, theirs):
                optimizer.param_groups[0]["params"] = tuple(optimizer.param_groups[0]["params"])
                for state in optimizer.state.values():
                    state.update((name, x.to(dtype)) for name, x in state.items() if name == "step")
            run([ours, theirs], params, others, steps=2)
            assert_all_close(params, others)

    def test_missing_options_match_torch(self):
        """In the state dict of an older version, which is completed, or in a group."""
        for options, loaded in itertools.product(self.case.options, (True, False)):
            params = parameters([(4,)], torch.float64)
            others, ours, theirs = self.pair(params, lr=0.01, **options)
            run([ours, theirs], params, others, steps=1)
            saved = copy.deepcopy((ours if loaded else theirs).state_dict())
            for name in set(saved["param_groups"][0]) - {"params"}:
                old = copy.deepcopy(saved)
                for optimizer in (ours, theirs):
                    old["param_groups"][0].pop(name, None)
                    optimizer.load_state_dict(copy.deepcopy(old if loaded else saved))
                    if not loaded:
                        del optimizer.param_groups[0][name]
                give_gradients(params, others)
                try:
                    theirs.step()
                except KeyError:
                    assert not loaded or outcome(ours.step) == (KeyError, repr(name))
                else:
                    ours.step()
                assert_all_close(params, others)

    def test_gradients_of_another_dtype_match_torch(self):
        params = [torch.randn(5).requires_grad_()]
        others, ours, theirs = self.pair(params, lr=0.01)
        for (p,) in (params, others):
            p.grad_dtype = torch.float64
            p.grad = torch.arange(5.0, dtype=torch.float64)
        try:
            theirs.step()
        except RuntimeError:
            before = copies(params)
            assert outcome(ours.step)[0] is RuntimeError
            assert_all_close(params, before, 0)
        else:
            ours.step()
            assert_all_close(params, others, 1e-6)

    def test_a_step_allocates_no_memory(self):
        params = parameters([(100_000,)], torch.float32)
        optimizer = self.ours(params, **self.case.options[-1])
        run([optimizer], params, steps=1)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
            optimizer.step()
        assert profiler.profiler is not None
        events = profiler.profiler.kineto_results.events()
        assert f"Optimizer.step#{self.case.ours.__name__}.step" in {e.name() for e in events}
        assert sum(max(e.nbytes(), 0) for e in events if e.name() == "[memory]") < 1000

    def test_a_compiled_step(self):
        params = parameters(SHAPES, torch.float64)
        others, ours, theirs = self.pair(params, lr=0.01, **self.case.options[-1])
        compiled = torch.compile(ours.step)
        for _ in range(3):
            give_gradients(params, others)
            compiled()
            theirs.step()
        assert_all_close(params, others)

    def test_a_differentiable_step(self):
        """Torch's code computes the derivative of the new parameters by the old ones and the gradients."""
        found = []
        for kind in (self.case.ours, self.case.theirs):
            torch.manual_seed(0)
            start = torch.randn(5, dtype=torch.float64, requires_grad=True)
            grad = torch.randn(5, dtype=torch.float64, requires_grad=True)
            p = start.clone()
            p.grad = grad
            kind([p], lr=0.1, differentiable=True).step()
            found.append(torch.autograd.grad(p.square().sum(), (start, grad)))
        torch.testing.assert_close(*found, rtol=0, atol=0)

    def test_fake_and_meta_tensors(self):
        for device, mode in (("cpu", FakeTensorMode()), ("meta", contextlib.nullcontext())):
            with mode:
                params = [torch.nn.Parameter(torch.randn(3, device=device)) for _ in range(2)]
                optimizer = self.ours([{"params": [p]} for p in params], max_grad_norm=1.0)
                for p in params:
                    p.grad = torch.randn(3, device=device)
                optimizer.step()
                assert all(x.shape in ((3,), ()) for of_parameter in states(optimizer) for x in of_parameter.values())

    # bad input

    def test_bad_options_raise_torchs_errors(self):
        params = parameters([(3,)], torch.float32)
        for options in self.case.bad:
            ours, theirs = outcome(self.case.ours, params, **options), outcome(self.case.theirs, params, **options)
            assert ours == theirs, options
            assert ours[0] in (ValueError, RuntimeError), options
        for options in (dict(rounding="up"), dict(rounding=None), dict(max_grad_norm=0.0), dict(max_grad_norm=-1.0)):
            with pytest.raises(ValueError, match="Invalid"):
                self.case.ours(params, **options)
            with pytest.raises(ValueError, match="Invalid"):
                self.case.ours([{"params": params, **options}])
        for bad in ([], torch.ones(3), [1.0], [{"params": params}, {"params": params}]):
            assert outcome(self.case.ours, bad) == outcome(self.case.theirs, bad)

    def test_a_wrong_group_leaves_all_groups_unchanged(self):
        def exchange(change: Callable[[Tensor], Tensor]) -> Callable[[], None]:
            def exchanged() -> None:
                params[-1].data = change(params[-1].data)  # and leaves its gradient unchanged

            return exchanged

        def set_option(**option: Any) -> Callable[[], None]:
            return lambda: optimizer.param_groups[-1].update(option)

        def break_step() -> None:
            optimizer.state[params[-1]]["step"] = torch.zeros(2)

        changes: list[tuple[Callable[[], None], type[Exception], str]] = [
            (exchange(lambda x: x.float()), RuntimeError, "expected the gradient of a parameter to match it, Float"),
            (exchange(lambda x: x[:2]), RuntimeError, r"expected the gradient .* of size \[2\]"),
            (exchange(lambda x: x.expand(2, 5)), RuntimeError, "single memory location"),
            (exchange(lambda x: x[:1].expand(5)), RuntimeError, "single memory location"),
            (set_option(lr="fast"), ValueError, "could not convert"),
            (set_option(lr=torch.ones(2)), ValueError, "only one element tensors"),
            (set_option(rounding="up"), ValueError, "Invalid rounding: up"),
        ]
        if self.case.ours.counts_steps:
            changes.append((break_step, RuntimeError, "expected the step of a parameter"))

        def exchange_state(change: Callable[[Tensor], Any]) -> Callable[[], None]:
            def exchanged() -> None:
                of_parameter = optimizer.state[params[-1]]
                name = next(name for name in reversed(of_parameter) if name != "step")
                of_parameter[name] = change(of_parameter[name])

            return exchanged

        changes += [
            (exchange_state(lambda x: x[:1].expand(5)), RuntimeError, "single memory location"),
            (exchange_state(lambda x: x[:2]), RuntimeError, r"to match it, .* of size \[2\]"),
            (
                exchange_state(lambda x: torch._efficientzerotensor(5, dtype=x.dtype)),
                RuntimeError,
                "ZeroTensors are immutable",
            ),
            (exchange_state(lambda _: "zero"), TypeError, "expected a tensor as state"),
        ]
        for change, error, message in changes:
            params = parameters([(4,), (5,)], torch.float64)
            optimizer = self.ours([{"params": [p]} for p in params], **self.case.options[-1])
            run([optimizer], params, steps=1)
            before, kept = copies(params[:1]), copy.deepcopy(states(optimizer)[0])
            give_gradients(params)
            change()
            with pytest.raises(error, match=message):
                optimizer.step()
            assert_all_close(params[:1], before, 0)
            torch.testing.assert_close(states(optimizer)[0], kept, rtol=0, atol=0)

    def test_a_missing_state_raises_where_torch_does(self):
        """And leaves everything unchanged. SGD restarts the momentum, like torch's."""
        for options in self.case.options:
            for missing in ("step", *self.case.ours.states):
                params = parameters([(4,), (5,)], torch.float64)
                others, ours, theirs = self.pair(params, lr=0.01, **options)
                run([ours, theirs], params, others, steps=2)
                had = missing in ours.state[params[-1]]
                for optimizer, p in ((ours, params[-1]), (theirs, others[-1])):
                    optimizer.state[p].pop(missing, None)
                before, kept = copies(params), copy.deepcopy(states(ours))
                give_gradients(params, others)
                if had and self.case.ours.counts_steps:
                    assert outcome(ours.step) == outcome(theirs.step)
                    assert_all_close(params, before, 0)
                    torch.testing.assert_close(states(ours), kept, rtol=0, atol=0)
                else:
                    ours.step()
                    theirs.step()
                    assert_all_close(params, others)

    def test_rejects_capturable_on_the_cpu(self):
        params = parameters([(3,)], torch.float32)
        if not self.case.capturable:
            assert "capturable" not in self.ours(params).defaults
            return
        give_gradients(params)
        theirs = self.case.theirs(params, capturable=True)
        assert outcome(self.ours(params, capturable=True).step) == outcome(theirs.step)

    @pytest.mark.parametrize("limit", (None, 1e-3))
    @pytest.mark.parametrize("reason", ("sparse", "capturable", "betas"))
    def test_errors_in_torchs_step_leave_gradients_and_other_groups_unchanged(self, reason, limit):
        """If the cause is in a group that our kernels do not support. The scaler's attributes remain, as with torch."""
        params = parameters([(4,), (5,)], torch.float64)
        optimizer = self.ours([{"params": [p]} for p in params], max_grad_norm=limit)
        group = optimizer.param_groups[1]
        if reason not in ("sparse", *group):
            pytest.skip("it has no such option")
        if reason == "sparse" and not self.case.ours.counts_steps:
            group.update(momentum=0.9, nesterov=True)  # otherwise our SGD supports them
        run([optimizer], params, steps=2)
        give_gradients(params)
        if reason == "sparse":
            params[1].grad = params[1].grad.to_sparse()
        else:
            group[reason] = True if reason == "capturable" else (torch.tensor(0.9, device="meta"), 0.9)
        optimizer.grad_scale, optimizer.found_inf = of_scaler = torch.tensor(3.0), torch.tensor(0.0)
        before, kept = copies(params[:1]), copy.deepcopy(states(optimizer)[0])
        grads, groups = [p.grad.clone() for p in params], list(optimizer.param_groups)
        with pytest.raises((RuntimeError, AssertionError)):
            optimizer.step()
        torch.testing.assert_close([p.grad for p in params], grads, rtol=0, atol=0)
        assert optimizer.grad_scale is of_scaler[0]
        assert optimizer.found_inf is of_scaler[1]
        assert all(a is b for a, b in zip(optimizer.param_groups, groups, strict=True))
        assert_all_close(params[:1], before, 0)
        torch.testing.assert_close(states(optimizer)[0], kept, rtol=0, atol=0)

    def test_sparse_gradients(self):
        """Accepted or rejected like torch's, which cannot clip them."""

        def updated(kind: type[torch.optim.Optimizer], **options: float) -> str | list[float]:
            p = torch.ones(3, requires_grad=True)
            p.grad = torch.ones(3).to_sparse()
            try:
                kind([p], lr=0.1, **options).step()
            except RuntimeError as error:
                assert (p == 1).all()
                return str(error)
            return p.tolist()

        assert updated(self.case.ours) == updated(self.case.theirs)
        assert isinstance(updated(self.case.ours, max_grad_norm=1.0), str)

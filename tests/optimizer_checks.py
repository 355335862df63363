"""The checks of optimizers: a class in tests/optim/test_X.py names an optimizer and inherits them.

The reference is torch's optimizer of the same name, in float64.
"""

import contextlib
import copy
import gc
import hashlib
import inspect
import itertools
import pickle
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.profiler import ProfilerActivity, profile
from torch.utils._pytree import tree_flatten_with_path

import optimizer_programs as programs
from checks import outcome, threads
from optimizer_programs import HOOKS, PROGRAMS, Run, numbers
from torchnotes.testing.operation import described
from torchnotes.testing.optimizers import (
    Optimizer,
    check_error,
    check_small_steps,
    check_trajectory,
    copies,
    give_gradients,
    parameters,
    states,
    take_steps,
)
from torchnotes.testing.running import naming

SIXTEEN_BITS = (torch.bfloat16, torch.float16)
ROUNDINGS = ("nearest", "kahan", "stochastic")
HOW_TORCH_COMPUTES = {"foreach", "fused", "capturable", "differentiable"}  # options that do not change the results

# Each of these options changes the results, given the others.
USUAL = {"lr": 0.01, "momentum": 0.5, "weight_decay": 0.1}
CHANGES: tuple[tuple[str, Any], ...] = (
    ("lr", 0.02),
    ("maximize", True),
    ("rounding", "kahan"),
    ("rounding", "stochastic"),
    ("weight_decay", 0.3),
    ("decoupled_weight_decay", True),
    ("momentum", 0.9),
    ("dampening", 0.4),
    ("nesterov", True),
    ("alpha", 0.5),
    ("eps", 0.1),
    ("centered", True),
    ("betas", (0.5, 0.7)),
    ("amsgrad", True),
)

BAD: tuple[dict[str, Any], ...] = (
    dict(lr=-1.0),
    dict(lr=torch.ones(2)),
    dict(lr=torch.tensor(0.1), betas=(0.9, 0.9), foreach=True),
    dict(weight_decay=-1.0),
    dict(momentum=-0.1),
    dict(nesterov=True),
    dict(nesterov=True, momentum=0.9, dampening=0.1),
    dict(alpha=-0.1),
    dict(eps=-1.0),
    dict(betas=(1.0, 0.9)),
    dict(betas=(0.9, -0.1)),
    dict(betas=(0.9, torch.tensor(0.9))),
    dict(fused=True, differentiable=True),
    dict(fused=True, foreach=True),
)


def set_option(**option: Any) -> Callable:
    return lambda optimizer, p: optimizer.param_groups[-1].update(option)


def set_state(change: Callable[[Tensor], Any]) -> Callable:
    def wrong(optimizer: Any, p: Tensor) -> None:
        name = next(name for name in reversed(optimizer.state[p]) if name != "step")
        optimizer.state[p][name] = change(optimizer.state[p][name])

    return wrong


WRONG: dict[str, tuple[Callable, type[Exception], str]] = {
    "parameter of another dtype": (
        lambda _, p: setattr(p, "data", p.data.float()),
        RuntimeError,
        "expected the gradient of a parameter to match it, Float",
    ),
    "short parameter": (lambda _, p: setattr(p, "data", p.data[:2]), RuntimeError, r"the gradient .* of size \[2\]"),
    "larger parameter": (lambda _, p: setattr(p, "data", p.data.expand(2, 5)), RuntimeError, "single memory location"),
    "expanded parameter": (
        lambda _, p: setattr(p, "data", p.data[:1].expand(5)),
        RuntimeError,
        "single memory location",
    ),
    "lr of another type": (set_option(lr="fast"), ValueError, "could not convert"),
    "lr of two numbers": (set_option(lr=torch.ones(2)), ValueError, "only one element tensors"),
    "rounding": (set_option(rounding="up"), ValueError, "Invalid rounding: up"),
    "expanded state": (set_state(lambda x: x[:1].expand(5)), RuntimeError, "single memory location"),
    "short state": (set_state(lambda x: x[:2]), RuntimeError, r"to match it, .* of size \[2\]"),
    "zero state": (
        set_state(lambda x: torch._efficientzerotensor(5, dtype=x.dtype)),
        RuntimeError,
        "ZeroTensors are immutable",
    ),
    "state of another type": (set_state(lambda _: "zero"), TypeError, "expected a tensor as state"),
    "missing states": (lambda optimizer, p: optimizer.state[p].popitem(), KeyError, r"^'\w+'$"),
    "two steps": (
        lambda optimizer, p: optimizer.state[p].update(step=torch.zeros(2)),
        RuntimeError,
        "expected the step of a parameter",
    ),
    # for these torch's step is called
    "sparse": (lambda _, p: setattr(p, "grad", p.grad.to_sparse()), RuntimeError, "[Ss]parse"),
    "capturable": (set_option(capturable=True), AssertionError, "capturable=True"),
    "betas": (set_option(betas=(torch.tensor(0.9, device="meta"), 0.9)), RuntimeError, "meta"),
}


def assert_same(ours: Any, theirs: Any, tolerance: float) -> None:
    of_ours, of_theirs = (dict(tree_flatten_with_path(results)[0]) for results in (ours, theirs))
    assert list(of_ours) == list(of_theirs)
    for path, expected in of_theirs.items():
        with naming("".join(map(str, path))):
            if isinstance(expected, Tensor):
                close = dict(rtol=tolerance, atol=tolerance, equal_nan=True, check_stride=True)
                torch.testing.assert_close(of_ours[path], expected, **close)
            else:
                assert of_ours[path] == expected


class Subclass(torch.Tensor):
    pass


class OptimizerChecks:
    case: ClassVar[Optimizer]
    bits: ClassVar[tuple[str, str]]  # the start of the hash of 1000 parameters after some steps, for SIXTEEN_BITS

    def pair(self, params: list[Tensor], **options: Any) -> tuple[list[Tensor], Any, Any]:
        """Copies of the parameters for torch, our optimizer of `params`, and torch's of the copies."""
        others = copies(params)
        return others, self.case.ours(params, **options), self.case.theirs(others, **options)

    def ours(self, params: Any, **options: Any) -> Any:
        return self.case.ours(params, lr=0.01, **options)

    def compare(
        self,
        program: Callable[[Run], Any],
        *,
        options: tuple[dict, ...] | None = None,
        shapes: tuple = programs.SHAPES,
        dtype: torch.dtype = torch.float64,
        device: str = "cpu",
        tolerance: float = 1e-12,
        errors: tuple[type[Exception], ...] = (),
        change: Callable[[Tensor], Any] = lambda g: g,
    ) -> None:
        """A program has the same results with our optimizer and with torch's, for each of the options."""
        for each in self.case.options if options is None else options:
            found = []
            for kind in (self.case.ours, self.case.theirs):
                values = [numbers(shape, dtype, i + 1).to(device) for i, shape in enumerate(shapes)]
                each_run = Run(kind, values, {"lr": 0.01, **copy.deepcopy(each)}, change)
                try:
                    found.append(program(each_run) or each_run.results())
                except errors as error:
                    found.append({"error": type(error), "message": str(error), **each_run.results()})
            with naming(described(each)):
                assert_same(*found, tolerance)

    # results

    def test_constructor_has_torchs_defaults(self):
        ours, theirs = (inspect.signature(kind).parameters for kind in (self.case.ours, self.case.theirs))
        assert {name: ours[name].default for name in theirs} == {name: theirs[name].default for name in theirs}

    @pytest.mark.parametrize("wide", (torch.float64, torch.complex128), ids=str)
    def test_every_option_gives_torchs_trajectory(self, wide, device):
        check_trajectory(self.case, wide, device)

    @pytest.mark.parametrize("short", (torch.float32, *SIXTEEN_BITS), ids=str)
    def test_error_is_no_larger_than_torchs(self, short, device):
        check_error(self.case, short, device)

    @pytest.mark.parametrize("short", SIXTEEN_BITS, ids=str)
    def test_small_steps_add_up(self, short, device):
        check_small_steps(self.case, short, device)

    @pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
    def test_same_results_as_torch(self, program, device):
        self.compare(program, device=device)

    @pytest.mark.parametrize("where", HOOKS)
    def test_each_hook_alone(self, where):
        self.compare(partial(programs.hooked, register=HOOKS[where]), options=({},))

    def test_options_apply_per_group(self):
        """An optimizer with two groups is equivalent to two optimizers."""
        known = set(inspect.signature(self.case.ours).parameters)
        of_torch = set(inspect.signature(self.case.theirs).parameters) - HOW_TORCH_COMPUTES - {"params"}
        changes = [(name, value) for name, value in CHANGES if name in known]
        assert {name for name, _ in changes} >= of_torch
        plain = {name: value for name, value in USUAL.items() if name in known}
        for name, value in changes:
            kind = self.case.theirs if name in of_torch else self.case.ours
            usual = {**kind(parameters([(1,)], torch.float32)).defaults, **plain}[name]
            for groups, defaults in (([{name: value}, {}], plain), ([{}, {name: usual}], {**plain, name: value})):
                start = torch.randn(20, dtype=torch.bfloat16 if name == "rounding" else torch.float64)
                params, others = ([start.clone().requires_grad_() for _ in range(2)] for _ in range(2))
                of_groups = [{"params": [p], **group} for p, group in zip(params, groups, strict=True)]
                optimizers = [self.case.ours(of_groups, **defaults)]
                optimizers += [kind([p], **{**plain, name: x}) for p, x in zip(others, (value, usual), strict=True)]
                for step in range(4):
                    grad = torch.randn_like(start) * 10.0**-step  # decreasing, for AMSGrad
                    for p in (*params, *others):
                        p.grad = grad.clone()
                    for optimizer in optimizers:
                        optimizer.step()
                torch.testing.assert_close(params, others, rtol=1e-12, atol=1e-12)
                assert not torch.equal(*params), f"{name} changes nothing"

    @pytest.mark.parametrize(
        "option", [{name: value} for name in ("foreach", "fused", "differentiable") for value in (True, False)], ids=str
    )
    def test_torchs_implementation_is_an_option_of_the_group(self, option):
        if set(option) <= set(inspect.signature(self.case.theirs).parameters):
            self.compare(partial(programs.with_option_of_a_group, option=option), options=({},))

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

        def program(run: Run) -> None:
            run.values = [x.to(dtype) for dtype in dtypes for x in run.values]
            run.begin()
            run.step(2, without=(1, 51, 101))
            run.step(2)

        shapes = tuple((1 + i % 7,) for i in range(50))
        self.compare(program, options=self.case.options[-1:], shapes=shapes, device=device, tolerance=1e-5)

    def test_nan_does_not_spread(self, dtype, device):
        special = torch.tensor((torch.nan, torch.inf, -torch.inf))

        def program(run: Run) -> list:
            (p,) = run.params
            p.data[20:22] = special[1:]
            for step in range(3):
                run.give_gradients()
                p.grad[3 * step : 3 * step + 3] = special
                run.optimizer.step()
            values = torch.cat((p.detach()[:9], p.detach()[20:22]))
            found = [x.isfinite() for name, x in run.states()[0].items() if name != "step"]
            return [values.isfinite(), values.isnan(), *found]

        options = (*self.case.options, {"weight_decay": 0.0})
        self.compare(program, options=options, shapes=((50,),), dtype=dtype, device=device)

    def test_bits_do_not_depend_on_threads(self, dtype):
        for rounding in ROUNDINGS if dtype in SIXTEEN_BITS else ROUNDINGS[:1]:
            found = []
            for count in (1, 3):
                torch.manual_seed(1)
                params = parameters([(50_003,), (3,), (20_000,)], dtype)
                optimizer = self.ours(params, rounding=rounding, max_grad_norm=1.0)
                with threads(count):
                    take_steps([optimizer], params, steps=2)
                found.append(params)
            assert all(map(torch.equal, *found))

    @pytest.mark.parametrize("short", SIXTEEN_BITS, ids=str)
    def test_bits_of_stochastic_rounding_are_pinned(self, short, device):
        """For every instruction set and device. Small integers make all of them round the same values."""
        (p,) = params = [torch.ones(1000, dtype=short, device=device).requires_grad_()]
        optimizer = self.case.ours(params, lr=torch.finfo(short).eps / 4, rounding="stochastic")
        for _ in range(5):
            p.grad = torch.ones_like(p)
            optimizer.step()
        bits = p.detach().cpu().view(torch.uint8).numpy().tobytes()
        assert hashlib.sha256(bits).hexdigest()[:16] == self.bits[SIXTEEN_BITS.index(short)]

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
        assert [a == b for a, b in zip(on_time, one_late, strict=True)] == [True, False, True, True]

    # clipping and the loss scale

    @pytest.mark.parametrize("by", ("kernels", "subclass", "differentiable"))
    def test_each_group_is_clipped_to_its_own_norm(self, by):
        """The norm is that of all gradients, both in our kernels and in torch's step. Neither clips `.grad`."""
        limits = (0.1, None, 0.3, 1e3)
        params = parameters([(3, 2), (4, 2), (5, 2), (2, 2)], torch.float64)
        others = copies(params)
        options = {**self.case.options[-1], **({"differentiable": True} if by == "differentiable" else {})}
        if by == "subclass":
            params = [p.detach().as_subclass(Subclass).requires_grad_() for p in params]
        if by == "differentiable":  # torch rejects leaves
            params, others = ([p * 1 for p in of] for of in (params, others))
        groups = [{"params": [p], "max_grad_norm": limit} for p, limit in zip(params, limits, strict=True)]
        ours, theirs = self.ours(groups, **options), self.case.theirs(others, lr=0.01, **options)
        for scale, found_inf in ((None, 0.0), (4.0, 1.0), (4.0, 0.0)):
            before = [p.detach().clone() for p in params]
            grads = [torch.randn(other.shape, dtype=torch.float64) for other in others]
            for p, other, grad in zip(params, others, grads, strict=True):
                p.grad, other.grad = grad * (scale or 1.0), grad.clone()
            ours.grad_scale, ours.found_inf = scale and torch.tensor(scale), torch.tensor(found_inf)
            norm = torch.nn.utils.get_total_norm(grads)
            for other, limit in zip(others, limits, strict=True):
                if limit is not None:
                    torch.nn.utils.clip_grads_with_norm_([other], limit, norm)
            ours.step()
            if found_inf:
                assert all(map(torch.equal, params, before))
            else:
                theirs.step()
                torch.testing.assert_close(ours.grad_norm, norm)
                assert all(map(torch.equal, [p.grad for p in params], grads))
        plain = [p.detach().as_subclass(Tensor) for p in params]
        torch.testing.assert_close(plain, [p.detach() for p in others], rtol=1e-12, atol=1e-12)
        ours.param_groups[-1]["rounding"] = "kahan"
        with pytest.raises(RuntimeError, match="rounding") if by != "kernels" else contextlib.nullcontext():
            ours.step()

    def test_a_gradient_that_cannot_be_unscaled_leaves_everything_unchanged(self):
        """In torch's step, which tensor subclasses take."""
        params = [p.detach().as_subclass(Subclass).requires_grad_() for p in parameters([(4,), (5,)], torch.float64)]
        optimizer = self.ours(params, max_grad_norm=1.0)
        params[0].grad, params[1].grad = torch.ones(4).double(), torch.ones(1).double().expand(5)
        optimizer.grad_scale, optimizer.found_inf = torch.tensor(3.0), torch.tensor(0.0)
        before = [p.detach().clone() for p in params]
        with pytest.raises(RuntimeError, match="more than one element"):
            optimizer.step()
        assert all(map(torch.equal, params, before))
        assert torch.equal(params[0].grad, torch.ones(4).double())

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

    def test_scaled_gradients(self, device):
        for options in self.case.options:
            params = parameters(programs.SHAPES, torch.float64, device)
            others, ours, theirs = self.pair(params, lr=0.01, **options)
            for found_inf in (1.0, 0.0, 0.0, 1.0, 0.0):
                give_gradients(params, others)
                scale = 3.0 if found_inf or options else None
                for p in params if scale else ():
                    p.grad *= scale
                versions = [p.grad._version for p in params]
                ours.grad_scale = None if scale is None else torch.tensor(scale, device=device)
                ours.found_inf = torch.tensor(found_inf, device=device)
                ours.step()
                if not found_inf:
                    theirs.step()
                    torch.testing.assert_close([p.grad for p in params], [p.grad for p in others])
                if not found_inf:
                    written = [p.grad._version > before for p, before in zip(params, versions, strict=True)]
                    assert written == [scale is not None] * len(params)
            torch.testing.assert_close(params, others, rtol=1e-12, atol=1e-12)
            if device == "cpu":
                torch.testing.assert_close(states(ours), states(theirs), rtol=1e-12, atol=1e-12)

    # the state

    def test_states_and_steps_of_another_dtype(self):
        for name in set(self.case.ours.states) - {"exp_avg", "grad_avg"}:  # rejected by torch
            ours = self.ours(parameters([(1,)], torch.float32))
            fits = [each for each in self.case.options if name in ours.state_names(ours.param_groups[0] | each)]
            options = tuple(each for each in fits if not each.get("fused"))  # of which torch supports a single dtype
            for dtype in (torch.bfloat16, torch.float64):
                program = partial(programs.with_state_of, dtype=torch.float32, entry=name)
                self.compare(program, options=options, dtype=dtype, tolerance=0)
        for dtype in (torch.int64, torch.bfloat16):
            self.compare(partial(programs.with_state_of, dtype=dtype, entry="step"), options=({},))

    def test_missing_options_and_states(self):
        """Options of a loaded state dict are completed. SGD restarts the momentum, like torch's."""
        for name in {*self.case.theirs(parameters([(1,)], torch.float32)).param_groups[0]} - {"params"}:
            self.compare(partial(programs.resumed_without, entry=name), errors=(KeyError,))
            if name not in ("foreach", "fused"):  # which only torch reads
                self.compare(partial(programs.without_option, entry=name), errors=(KeyError,))
        for name in ("step", *self.case.ours.states):
            self.compare(partial(programs.without_state, entry=name), errors=(KeyError,))

    def test_our_options_survive_saving_and_copying(self):
        def from_torchs(ours: Any) -> Any:
            theirs = self.case.theirs(copies(ours.param_groups[0]["params"]))
            take_steps([theirs], theirs.param_groups[0]["params"], steps=1)
            ours.load_state_dict(theirs.state_dict())
            return ours

        for changed in (from_torchs, copy.deepcopy, lambda ours: pickle.loads(pickle.dumps(ours))):
            params = parameters([(3,)], torch.bfloat16)
            ours = self.ours(params, rounding="kahan", max_grad_norm=2.0)
            other = changed(ours)
            (group,) = other.param_groups
            assert (group["rounding"], group["max_grad_norm"]) == ("kahan", 2.0)
            take_steps([ours, other] if other is not ours else [ours], params, group["params"], steps=2)
            assert torch.equal(group["params"][0], params[0])
            assert "compensation" in other.state[group["params"][0]]

    def test_a_wrong_state_dict_changes_nothing(self):
        params = parameters([(3,), (4,)], torch.float64)
        ours = self.ours(params, **self.case.options[-1])
        take_steps([ours], params, steps=2)
        other = parameters([(3,), (5,)], torch.float64)
        of_other_size, strange = self.ours(other, **self.case.options[-1]), torch.optim.Adagrad(copies(params))
        take_steps([of_other_size], other, steps=1)
        before = copy.deepcopy((params, ours.state_dict()))
        wrong = {"loaded state dict has": of_other_size, "parameter group": self.ours([*params, *other])}
        if self.case.ours.counts_steps:  # SGD needs no state
            take_steps([strange], strange.param_groups[0]["params"], steps=1)
            wrong["loaded state dict is not one of"] = strange
        for message, optimizer in wrong.items():
            with pytest.raises(ValueError, match=message):
                ours.load_state_dict(optimizer.state_dict())
        assert_same((params, ours.state_dict()), before, 0)

    def test_additional_states_of_other_code_are_loaded(self):
        params = parameters([(3,), (4,)], torch.float64)
        ours, after = (self.ours(params, **self.case.options[-1]) for _ in range(2))
        take_steps([ours], params, steps=1)
        for p in params:
            ours.state[p].update(average=p.detach()[:2].clone(), number=5)
        after.load_state_dict(ours.state_dict())
        torch.testing.assert_close(states(after), states(ours), rtol=0, atol=0)
        take_steps([ours, after], params, steps=1)

    def test_groups_of_torchs_optimizer_gain_our_options(self):
        params = parameters([(3,), (4,)], torch.bfloat16)
        (of_torch,) = self.case.theirs(params, **self.case.options[-1]).param_groups
        exchanged, added = (self.ours(params[:1], rounding="kahan") for _ in range(2))
        exchanged.param_groups[:] = [{**of_torch, "params": params}]
        added.param_groups.append({**of_torch, "params": params[1:]})
        for ours in (exchanged, added):
            take_steps([ours], params, steps=1)
            assert [("compensation" in of_parameter) for of_parameter in ours.state.values()] == [True, True]

    def test_an_unreferenced_optimizer_is_freed_with_its_parameters_and_states(self):
        """Immediately, without the garbage collector, after a step by our kernels, by torch's, with hooks, compiled."""

        def references(how: str) -> list[weakref.ref]:
            params = parameters([(3,), (4,)], torch.float64)
            if how == "subclass":
                params = [p.detach().as_subclass(Subclass).requires_grad_() for p in params]
            optimizer = self.ours(params, max_grad_norm=1.0 if how == "clipped" else None)
            if how == "hooked":
                optimizer.register_step_pre_hook(lambda *_: None)
            step = torch.compile(optimizer.step) if how == "compiled" else optimizer.step
            for _ in range(2):
                give_gradients(params)
                step()
            return [weakref.ref(x) for x in (optimizer, *params, *(x for of in states(optimizer) for x in of.values()))]

        gc.disable()
        try:
            for how in ("plain", "clipped", "subclass", "hooked", "compiled"):
                references(how)  # the first call imports modules of torch
                assert not [reference for reference in references(how) if reference() is not None], how
        finally:
            gc.enable()

    # unusual tensors

    def test_a_changed_parameter_raises_in_backward(self):
        params = parameters([(3,)], torch.float64)
        loss = params[0].square().sum()
        take_steps([self.ours(params)], params, steps=1)
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
        plain = [options for options in self.case.options if not options.get("fused")]  # torch rejects complex numbers
        for options, limit in itertools.product(plain, (None, 0.1)):
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
            torch.testing.assert_close(params, others, rtol=1e-12, atol=1e-12)

    def test_gradients_of_another_dtype(self):
        """Raise like torch's, and change nothing, or give the same results."""

        def program(run: Run) -> list | None:
            (p,) = run.params
            p.grad_dtype = torch.float64
            p.grad = torch.arange(5.0, dtype=torch.float64)
            before = p.detach().clone()
            try:
                run.optimizer.step()
            except RuntimeError:
                assert run.kind is self.case.theirs or torch.equal(p, before)
                return ["RuntimeError"]
            return None

        self.compare(program, options=({},), shapes=((5,),), dtype=torch.float32, tolerance=1e-6)

    def test_sparse_gradients(self):
        """Accepted or rejected like torch's, which cannot clip them."""
        self.compare(programs.steps, options=({},), shapes=((3,),), change=Tensor.to_sparse, errors=(RuntimeError,))
        params = parameters([(3,)], torch.float64)
        params[0].grad = torch.ones(3, dtype=torch.float64).to_sparse()
        with pytest.raises(RuntimeError):
            self.ours(params, max_grad_norm=1.0).step()

    def test_a_step_allocates_no_memory(self):
        params = parameters([(100_000,)], torch.float32)
        optimizer = self.ours(params, **self.case.options[-1])
        take_steps([optimizer], params, steps=1)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
            optimizer.step()
        assert profiler.profiler is not None
        events = profiler.profiler.kineto_results.events()
        assert f"Optimizer.step#{self.case.ours.__name__}.step" in {e.name() for e in events}
        assert sum(max(e.nbytes(), 0) for e in events if e.name() == "[memory]") < 1000

    def test_a_compiled_step(self):
        def program(run: Run) -> None:
            if run.kind is self.case.ours:
                run.optimizer.step = torch.compile(run.optimizer.step)
            run.step(3)

        self.compare(program, options=self.case.options[-1:])

    def test_a_differentiable_step(self):
        """Torch's code computes the derivative of the new parameters by the old ones and the gradients."""

        def program(run: Run) -> list:
            run.give_gradients()
            grads = [p.grad.requires_grad_() for p in run.params]
            run.optimizer.step()
            return [*torch.autograd.grad(sum(p.square().sum() for p in run.params), [*run.leaves, *grads])]

        self.compare(program, options=({"differentiable": True},), tolerance=0)

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
        for options in BAD:
            if set(options) <= set(inspect.signature(self.case.theirs).parameters):
                ours, theirs = outcome(self.case.ours, params, **options), outcome(self.case.theirs, params, **options)
                assert ours == theirs, options
                assert ours[0] in (ValueError, RuntimeError), options
        for options in (dict(rounding="up"), dict(rounding=None), dict(max_grad_norm=0.0), dict(max_grad_norm=-1.0)):
            for of_group, of_all in ((options, {}), ({}, options)):
                with pytest.raises(ValueError, match="Invalid"):
                    self.case.ours([{"params": params, **of_group}], **of_all)
        for bad in ([], torch.ones(3), [1.0], [{"params": params}, {"params": params}]):
            assert outcome(self.case.ours, bad) == outcome(self.case.theirs, bad)

    def test_rejects_capturable_on_the_cpu(self):
        if "capturable" in inspect.signature(self.case.ours).parameters:
            self.compare(programs.steps, options=({"capturable": True},), errors=(AssertionError,))

    @pytest.mark.parametrize("limit", (None, 1e-3))
    @pytest.mark.parametrize("wrong", WRONG)
    def test_a_wrong_group_leaves_everything_unchanged(self, wrong, limit):
        """Our kernels are called after all checks. Torch's step begins with the groups that they do not support."""
        change, error, message = WRONG[wrong]
        params = parameters([(4,), (5,)], torch.float64)
        optimizer = self.ours([{"params": [p]} for p in params], max_grad_norm=limit, **self.case.options[-1])
        if wrong in ("capturable", "betas") and wrong not in optimizer.defaults:
            pytest.skip("it has no such option")
        if wrong in ("missing states", "two steps") and not self.case.ours.counts_steps:
            pytest.skip("it restarts the momentum, and counts no steps")
        take_steps([optimizer], params, steps=2)
        give_gradients(params)
        change(optimizer, params[1])
        optimizer.grad_scale, optimizer.found_inf = of_scaler = torch.tensor(3.0), torch.tensor(0.0)
        groups = list(optimizer.param_groups)

        def observed() -> list:
            return [params[0], states(optimizer)[0], [p.grad for p in params]]

        before = copy.deepcopy(observed())
        before[2] = [p.grad.clone() for p in params]
        with pytest.raises(error, match=message):
            optimizer.step()
        assert_same(observed(), before, 0)
        assert (optimizer.grad_scale, optimizer.found_inf) == of_scaler  # remain, as with torch
        assert all(a is b for a, b in zip(optimizer.param_groups, groups, strict=True))

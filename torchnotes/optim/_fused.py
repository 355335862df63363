"""Optimizers whose step is one native call for all parameters of a group (csrc/ops/optimizers.cpp).

They inherit from torch's optimizers of the same name and share their constructors and the names, shapes and dtypes of
their states, so that state_dicts are interchangeable.

Measured in docs/decisions/optimizer-step.md.
"""

import functools
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from .._native import collect_parameters, norm_of_gradients, update_parameters
from ..distributed.collectives import Group as ProcessGroup
from ..distributed.collectives import checked
from ._builtin import step_as_torch
from ._sharded import any_dtensor, collect_local_parameters, positions_in_full_tensor
from .gradient_norm import gradient_norm, norm_over_ranks

Group = dict[str, Any]
States = dict[Tensor, dict[str, Any]]
NewStates = list[tuple[dict, dict]]  # dicts of states, and the new entries of each
Names = tuple[tuple[str, ...], tuple[str, ...]]  # of the states of a parameter, and of those of a 16-bit parameter

SIXTEEN_BITS = (torch.bfloat16, torch.float16)
Rounding = Literal["nearest", "stochastic", "kahan"]
EXTRA_OPTIONS = ("rounding", "max_grad_norm")


class Bundle(NamedTuple):
    """What one call of the operator updates: parameters of one dtype and device, with their gradients and states."""

    lists: Any  # as update_parameters expects them
    like: Tensor  # one of the parameters
    names: tuple[str, ...]  # of the states
    first: bool = False  # whether they had no states before
    parameters: Sequence[Tensor] = ()  # with DTensors: the parameters whose local tensors these are


class Fused(torch.optim.Optimizer):
    """A torch optimizer with an operator(params, grads, *states, compensations, steps, lr, *numbers, maximize, ...)."""

    operator: ClassVar[str]
    builtin_step: ClassVar[Callable[..., Any]]
    states: ClassVar[tuple[str, ...]]  # torch's names, in the order of the operator
    extra_options: ClassVar[tuple[str, ...]] = EXTRA_OPTIONS  # which torch's optimizer lacks
    counts_steps: ClassVar[bool] = True

    grad_norm: Tensor | None = None  # of the last step, before clipping, if a group has max_grad_norm
    process_group: ProcessGroup | None = None

    _uncompiled_step: ClassVar[Callable[..., Any]]  # the step, disabled for compilers, because it is one kernel
    _hooked_step: ClassVar[Callable[..., Any]]  # the same with its hooks, and visible to the profiler

    def state_names(self, group: Group) -> tuple[str, ...]:
        """The states that a group's options require."""
        raise NotImplementedError

    def numbers(self, group: Group, first: bool) -> tuple:
        """The arguments of the operator between lr and maximize."""
        raise NotImplementedError

    def is_supported(self, group: Group) -> bool:
        """Whether the operator supports all options of a group."""
        return group["differentiable"] is False and self.defaults["differentiable"] is False

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Updates every parameter that has a gradient. A closure, which recomputes the loss, is called first."""
        observed = type(self).step is Fused.step and (  # otherwise torch has wrapped the step of a subclass
            self._optimizer_step_pre_hooks
            or self._optimizer_step_post_hooks
            or _global_optimizer_pre_hooks
            or _global_optimizer_post_hooks
            or torch._C._autograd._profiler_enabled()
        )
        if observed:  # looked up by name, so that a hook can replace it
            return self._hooked_step() if closure is None else self._hooked_step(closure=closure)
        return self._uncompiled_step(closure)

    step.hooked = True  # type: ignore[attr-defined] # keeps torch from wrapping it, which takes as long as the step

    def _step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        new_states: NewStates = []
        found = self.collected(self.param_groups, new_states)
        if found is None:
            with torch.no_grad():
                step_as_torch(self)
        else:
            calls = self._calls(found)
            parameters = [p for _, bundles in found for bundle in bundles for p in bundle.parameters]
            if parameters:
                torch.autograd.graph.increment_version(parameters)
            update_parameters(self.operator, calls, new_states)
        return loss

    def _names(self, group: Group) -> Names:
        names = ("step", *self.state_names(group)) if self.counts_steps else self.state_names(group)
        rounding = check_rounding(group["rounding"])
        if rounding == "nearest":
            return names, names
        if rounding == "kahan":
            return names, (*names, "compensation")
        return names, names if self.counts_steps else (*names, "step")  # the step determines the random numbers

    def collected(self, groups: list[Group], new_states: NewStates) -> list[tuple[Group, list[Bundle]]] | None:
        """What there is to update, or None if some of it requires torch's step.

        New states go to `new_states`. Nothing has changed until `update_parameters` inserts them.
        """
        found = []
        for group in groups:
            if "rounding" not in group:  # the group was created by torch's optimizer
                self._complete(group)
            names = self._names(group)
            self._move_steps(group)
            in_group = self._collect(group["params"], self.state, names) if self.is_supported(group) else None
            if in_group is None:
                return None
            found.append((group, names, *in_group))
        return [
            (group, self._completed(group, names, of_group, incomplete, new_states))
            for group, names, of_group, incomplete in found
        ]

    def _move_steps(self, group: Group) -> None:
        """Moves steps to the device if only the device knows whether a step counts."""
        if getattr(self, "found_inf", None) is None:
            return
        for p in group["params"]:
            step = self.state[p].get("step") if p.is_cuda and p in self.state else None
            if step is not None and step.device != p.device:
                self.state[p]["step"] = step.to(p.device)

    def _completed(
        self, group: Group, names: Names, found: list, incomplete: list[Tensor], new_states: NewStates
    ) -> list[Bundle]:
        """The bundles of a group, with new states for parameters that lack some."""
        if not incomplete:
            return bundles(found, names)
        return self._bundles(group["params"], self._with_new_states(group, incomplete, names, new_states), names)

    def _collect(self, params: list[Tensor], state: States, names: Names) -> Any:
        found = collect_parameters(params, state, *names)
        return collect_local_parameters(params, state, *names) if found is None and any_dtensor(params) else found

    def _bundles(self, params: list[Tensor], state: States, names: Names, first: bool = False) -> list[Bundle]:
        found = self._collect(params, state, names)
        assert found is not None  # an earlier call has succeeded
        return bundles(found[0], names, first)

    def _with_new_states(self, group: Group, params: list[Tensor], names: Names, new_states: NewStates) -> States:
        """Returns all states, including those that these parameters lack. New ones are also added to `new_states`."""
        states = dict(self.state)
        for p in params:
            old = states.get(p)
            new = self._new_states(group, p, names[p.dtype in SIXTEEN_BITS], old or {})
            new_states.append((self.state, {p: new}) if old is None else (old, new))
            states[p] = {**(old or {}), **new}
        return states

    def _new_states(self, group: Group, p: Tensor, names: tuple[str, ...], old: dict[str, Any]) -> dict[str, Tensor]:
        missing = [name for name in names if old.get(name) is None]
        for name in missing:
            if old and self.counts_steps and name != "compensation":
                raise KeyError(name)  # torch raises this once a parameter has states
        on_device = getattr(self, "found_inf", None) is not None
        return {name: zero_step(group, p, on_device) if name == "step" else torch.zeros_like(p) for name in missing}

    def _calls(self, found: list[tuple[Group, list[Bundle]]]) -> list[tuple]:
        """The calls of the operator. Errors in preparing them are raised before the first call."""
        grad_scale, found_inf = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        if [group for group, _ in found if group["max_grad_norm"] is not None]:
            norm = self.norm_over_ranks()
            if norm is None:
                norm = norm_of([bundle for _, bundles in found for bundle in bundles])
            self.grad_norm = norm if grad_scale is None else norm / grad_scale.to(norm.device)
        pairs = [(group, bundle) for group, bundles in found for bundle in bundles]
        return [self._call(*pair, number, grad_scale, found_inf) for number, pair in enumerate(pairs)]

    def norm_over_ranks(self) -> Tensor | None:
        """The norm of all gradients if they are split among ranks. All ranks must call it, even without gradients."""
        if self.process_group is None and not any_dtensor(chain(*(group["params"] for group in self.param_groups))):
            return None
        pairs = ((p, p.grad) for group in self.param_groups for p in group["params"])
        return norm_over_ranks(pairs, self.process_group)

    def _call(
        self, group: Group, bundle: Bundle, number: int, grad_scale: Tensor | None, found_inf: Tensor | None
    ) -> tuple:
        """The arguments of update_parameters for the bundle with this number in the step."""
        like = bundle.like
        lr = group["lr"]
        on_device = isinstance(lr, Tensor) and lr.is_cuda and like.is_cuda and lr.numel() == 1
        device_lr = lr if on_device else None
        max_grad_norm = group["max_grad_norm"]
        stream = number << 32 if group["rounding"] == "stochastic" and like.dtype in SIXTEEN_BITS else None
        return (
            bundle.lists,
            positions_of((*self.states, "compensation", "step"), bundle.names),
            (
                float(lr) if device_lr is None else 0.0,
                *self.numbers(group, bundle.first),
                bool(group["maximize"]),
                stream,
                on_same_device(like, device_lr),
                float(max_grad_norm or 0),
                None if max_grad_norm is None else on_same_device(like, self.grad_norm),
                on_same_device(like, grad_scale),
                on_same_device(like, found_inf),
                () if stream is None else positions_in_full_tensor(bundle.parameters),
            ),
        )

    def _add_options(self, process_group: ProcessGroup | None = None, **options: Any) -> None:
        """Validates the options that torch's constructors lack and adds them to every parameter group.

        The process group is not added, because it could not be saved.
        """
        prepare_steps()
        if process_group is not None:
            self.process_group = checked(type(self).__name__, process_group)
            self._step_supports_amp_scaling = False  # so that a scaler makes the ranks agree to skip a step
        for of_group in (options, *self.param_groups):
            check_rounding(of_group.get("rounding", "nearest"))
            check_max_grad_norm(of_group.get("max_grad_norm"))
        self.defaults.update(options)
        for group in self.param_groups:
            for name, value in options.items():
                group.setdefault(name, value)

    def __getstate__(self) -> dict[str, Any]:
        """Includes the process group, if there is one, so that copying raises."""
        state = super().__getstate__()
        return state if self.process_group is None else {**state, "process_group": self.process_group}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Also called by load_state_dict: our options stay as they are if the state comes from torch's optimizer."""
        self._check_state(state)
        prepare_steps()
        super().__setstate__(state)
        for group in self.param_groups:
            self._complete(group)

    def _complete(self, group: Group) -> None:
        for name in self.extra_options:
            group.setdefault(name, self.defaults[name])

    def _check_state(self, state: dict[str, Any]) -> None:
        """Validates loaded states. Other code may store states of its own next to ours."""
        for p, of_parameter in state["state"].items():
            if not isinstance(p, Tensor):
                continue
            others = of_parameter.keys() - {*self.states, "step", "compensation"}
            if others and self.counts_steps and self.states[0] not in of_parameter:
                raise ValueError(
                    f"loaded state dict is not one of {type(self).__name__}: a parameter has the states "
                    f"{list(of_parameter)} without {self.states[0]!r}"
                )
            for name in (*self.states, "compensation"):
                value = of_parameter.get(name)
                if isinstance(value, Tensor) and value.shape != p.shape:
                    raise ValueError(
                        f"loaded state dict has {name!r} of size {tuple(value.shape)} for a parameter of size "
                        f"{tuple(p.shape)}"
                    )


@functools.cache
def prepare_steps() -> None:
    """Called for the first optimizer, because it imports the compiler, as torch's constructor does."""
    import torch._dynamo

    Fused._uncompiled_step = torch._dynamo.disable(Fused._step)
    Fused._hooked_step = torch.optim.Optimizer.profile_hook_step(Fused._uncompiled_step)


def bundles(found: list[tuple], names: Names, first: bool = False) -> list[Bundle]:
    return [
        Bundle(lists, like, names[like.dtype in SIXTEEN_BITS], first, *parameters) for lists, like, *parameters in found
    ]


@functools.cache
def positions_of(wanted: tuple[str, ...], names: tuple[str, ...]) -> tuple[int, ...]:
    """The positions of the parameters, the gradients and these states among the lists of a bundle; -1 if absent."""
    return (0, 1, *(2 + names.index(name) if name in names else -1 for name in wanted))


def on_same_device(like: Tensor, x: Tensor | None) -> Tensor | None:
    return x if x is None or x.device == like.device else x.to(like.device, non_blocking=True)


def supports_capturable(group: Group) -> bool:
    """Whether `capturable` is supported: torch rejects it on the CPU."""
    return not group["capturable"] or all(p.is_cuda for p in group["params"])


def zero_step(group: Group, p: Tensor, on_device: bool) -> Tensor:
    """A step count with torch's device and dtype."""
    fused = group.get("fused")
    double = torch.get_default_dtype() == torch.float64 and not fused
    device = p.device if on_device or fused or group.get("capturable") else "cpu"
    return torch.zeros((), dtype=torch.float64 if double else torch.float32, device=device)


def norm_of(bundles: list[Bundle]) -> Tensor:
    """The norm of all gradients taken as one vector."""
    norms = [norm_of_gradients(bundle.lists) for bundle in bundles]
    if not norms:
        return torch.zeros(())
    return norms[0] if len(norms) == 1 else gradient_norm(x.to(norms[0].device, torch.float64) for x in norms)


def check_rounding(rounding: Any) -> str:
    if rounding not in get_args(Rounding):
        raise ValueError(f"Invalid rounding: {rounding}")
    return rounding


def check_max_grad_norm(max_grad_norm: Any) -> None:
    if max_grad_norm is not None and not max_grad_norm > 0:
        raise ValueError(f"Invalid max_grad_norm value: {max_grad_norm}")

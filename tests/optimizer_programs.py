"""What training loops do with an optimizer: programs that have the same results with ours and with torch's."""

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

SHAPES = ((3, 4), (), (5,), (0, 2))


def numbers(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    """Random multiples of 1/8 between -1 and 1, without 0, which are exact in every dtype."""
    generator = torch.Generator().manual_seed(seed)
    found = torch.randint(-8, 9, shape, generator=generator)
    found = (found + (found == 0)) / 8
    return torch.complex(found, found / 2 - 1).to(dtype) if dtype.is_complex else found.to(dtype)


class Run:
    """Parameters with an optimizer. Every step has other gradients."""

    def __init__(self, kind: type, values: Any, options: dict, change: Callable[[Tensor], Any] = lambda g: g) -> None:
        self.kind, self.values, self.options, self.change = kind, values, options, change
        self.torchs = getattr(torch.optim, kind.__name__)
        self.steps, self.seen = 0, []  # seen: what else is compared
        self.begin()

    def begin(self, groups: Callable[[list[Tensor]], list] = lambda params: params) -> None:
        self.leaves = [torch.nn.Parameter(x) for x in self.values]
        # The parameters of a differentiable step must not be leaves.
        self.params = [p.clone() for p in self.leaves] if self.options.get("differentiable") else self.leaves
        self.optimizer = self.kind(groups(self.params), **self.options)

    def give_gradients(self, without: tuple[int, ...] = ()) -> None:
        self.steps += 1
        for i, p in enumerate(self.params):
            p.grad = None if i in without else self.change(numbers(p.shape, p.dtype, 10 * self.steps + i).to(p.device))

    def step(self, times: int = 1, without: tuple[int, ...] = ()) -> None:
        for _ in range(times):
            self.give_gradients(without)
            self.optimizer.step()

    def states(self) -> list[dict[str, Any]]:
        return [dict(sorted(self.optimizer.state.get(p, {}).items())) for p in self.params]

    def restart(self, kind: type, change: Callable[[dict], None] = lambda saved: None) -> None:
        """Continues with another optimizer."""
        saved = pickle.loads(pickle.dumps(self.optimizer.state_dict()))
        change(saved)
        self.optimizer = kind(self.params, **self.options)
        self.optimizer.load_state_dict(saved)

    def results(self) -> dict[str, Any]:
        of_torch = self.torchs([torch.nn.Parameter(torch.zeros(1))]).param_groups[0]
        options = [
            {name: group.get(name, "missing") for name in of_torch if name != "params"}
            for group in self.optimizer.param_groups
        ]
        gradients = [p.grad for p in self.params]
        return {
            "parameter": self.params,
            "state": self.states(),
            "options": str(options),
            "gradient": gradients,
            "seen": self.seen,
        }


def steps(run: Run) -> None:
    run.step(3)


def with_closure(run: Run) -> None:
    def closure() -> Tensor:
        run.optimizer.zero_grad()
        loss = sum(p.square().sum() for p in run.params)
        loss.backward()
        return loss

    for _ in range(3):
        run.seen.append(run.optimizer.step(closure) if run.params[0].is_leaf else None)


def resumed(run: Run) -> None:
    run.step()
    run.restart(run.kind)
    run.step()


def resumed_by_torch(run: Run) -> None:
    run.step(2)
    run.restart(run.torchs)
    run.step()


def resumed_from_torch(run: Run) -> None:
    resumed_without(run, "nothing")


def resumed_without(run: Run, entry: str) -> None:
    def change(saved: dict) -> None:
        for holder in (*saved["param_groups"], *saved["state"].values()):
            holder.pop(entry, None)

    run.restart(run.torchs)
    run.step()
    run.restart(run.kind, change)
    run.step()


def without_state(run: Run, entry: str) -> None:
    run.step(2)
    for p in run.params:
        run.optimizer.state[p].pop(entry, None)
    run.step()


def without_option(run: Run, entry: str) -> None:
    run.step()
    del run.optimizer.param_groups[0][entry]
    run.step()


def with_state_of(run: Run, dtype: torch.dtype, entry: str | None = None) -> None:
    """Casts all states but the step, or only one. Sets them directly, because load_state_dict casts them back."""
    run.restart(run.torchs)  # so that the states before are the same
    run.step()
    run.restart(run.kind)
    for of_parameter in run.optimizer.state.values():
        for name, x in of_parameter.items():
            if isinstance(x, Tensor) and (name == entry if entry else name != "step"):
                of_parameter[name] = x.to(dtype)
    run.step()


def copied(run: Run) -> None:
    run.step()
    run.params, run.optimizer = copy.deepcopy((run.params, run.optimizer))
    run.params, run.optimizer = pickle.loads(pickle.dumps((run.params, run.optimizer)))
    run.step()


def with_option_of_a_group(run: Run, option: dict[str, Any]) -> None:
    run.begin(lambda params: [{"params": params[:2]}, {"params": params[2:], **option}])
    run.step(3)


def with_named_groups(run: Run) -> None:
    run.begin(lambda params: [{"params": [("a", params[0]), ("b", params[1])], "lr": 0.5}])
    run.optimizer.add_param_group({"params": [("c", run.params[2]), ("d", run.params[3])], "weight_decay": 0.25})
    run.step(3)
    run.seen += [name for group in run.optimizer.param_groups for name in group["param_names"]]


def with_a_tuple_of_parameters(run: Run) -> None:
    run.step()
    group = run.optimizer.param_groups[0]
    group["params"] = tuple(group["params"])
    run.step()


def with_a_tensor_as_learning_rate(run: Run) -> None:
    run.optimizer.param_groups[0]["lr"] = lr = torch.tensor(0.5, dtype=torch.float64)
    run.step()
    lr.fill_(0.01)
    run.step()


def some_gradients(run: Run) -> None:
    run.step(without=(0,))
    run.optimizer.zero_grad()
    run.optimizer.step()
    run.step(without=(1, 2, 3))
    run.optimizer.zero_grad(set_to_none=False)


def scheduled(run: Run) -> None:
    scheduler = torch.optim.lr_scheduler.ExponentialLR(run.optimizer, 0.5)
    for _ in range(3):
        run.step()
        scheduler.step()


def scaled(run: Run) -> None:
    """By a GradScaler, with one infinite gradient. At the end the gradients are unscaled and clipped first."""
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for step in range(4):
        scaler.scale(torch.zeros((), requires_grad=True))
        run.give_gradients()
        for p in run.params:
            p.grad = p.grad * (math.inf if step == 1 else scaler.get_scale())
        if step == 3:
            scaler.unscale_(run.optimizer)
            torch.nn.utils.clip_grad_norm_(run.params, 0.1)
        scaler.step(run.optimizer)
        scaler.update()
    # Lightning rejects clipping if an optimizer applies the scale.
    run.seen += [scaler.get_scale(), getattr(run.optimizer, "_step_supports_amp_scaling", False)]


def under_inference_mode(run: Run) -> None:
    with torch.inference_mode():
        run.begin()
        run.step(3)


def under_another_default_dtype(run: Run) -> None:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        run.step()
    finally:
        torch.set_default_dtype(before)


def hooked(run: Run, register: Callable) -> None:
    """A hook is called once, and not again after its removal."""

    def hook(of: Any, *rest: Any) -> None:
        run.seen += [type(of) is run.kind, len(rest), of.param_groups[0]["lr"], run.params[0].detach().clone()]

    handle = register(run.optimizer, hook)
    for _ in range(2):
        run.step()
        saved = copy.deepcopy(run.optimizer.state_dict())
        saved["param_groups"][0]["lr"] = 0.25
        run.optimizer.load_state_dict(saved)
        handle.remove()


HOOKS: dict[str, Callable] = {
    "before each step": lambda optimizer, hook: optimizer.register_step_pre_hook(hook),
    "after each step": lambda optimizer, hook: optimizer.register_step_post_hook(hook),
    "before each step of any": lambda _, hook: register_optimizer_step_pre_hook(hook),
    "after each step of any": lambda _, hook: register_optimizer_step_post_hook(hook),
    "before saving": lambda optimizer, hook: optimizer.register_state_dict_pre_hook(hook),
    "after saving": lambda optimizer, hook: optimizer.register_state_dict_post_hook(hook),
    "before loading": lambda optimizer, hook: optimizer.register_load_state_dict_pre_hook(hook),
    "after loading": lambda optimizer, hook: optimizer.register_load_state_dict_post_hook(hook),
}


def with_hooks_around_a_closure(run: Run) -> None:
    """Hooks get the closure as a keyword argument, and may replace it."""

    def closure() -> float:
        run.seen.append("closure" if torch.is_grad_enabled() else "closure without gradients")
        run.give_gradients()
        return 1.5

    def hook(of: Any, args: tuple, kwargs: dict) -> None:
        run.seen += [len(args), list(kwargs)]

    run.optimizer.register_step_pre_hook(hook)
    run.optimizer.register_step_post_hook(hook)
    with torch.no_grad():
        run.seen.append(run.optimizer.step(closure=closure))
    run.seen.append(run.optimizer.step())
    run.optimizer.register_step_pre_hook(lambda of, args, kwargs: (args, {**kwargs, "closure": lambda: 5}))
    run.seen += [run.optimizer.step(), run.optimizer.step(closure=closure)]


PROGRAMS: tuple[Callable[[Run], None], ...] = (
    with_closure,
    resumed,
    resumed_by_torch,
    resumed_from_torch,
    copied,
    with_named_groups,
    with_a_tuple_of_parameters,
    with_a_tensor_as_learning_rate,
    some_gradients,
    scheduled,
    scaled,
    under_inference_mode,
    under_another_default_dtype,
    with_hooks_around_a_closure,
)

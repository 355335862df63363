"""Checks of an optimizer against torch's of the same name, and the optimizers as data."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .. import optim
from .accuracy import Bound, Figures, compared, errors, judged
from .layouts import contiguous, expanded
from .operation import Options, described
from .running import naming

SHAPES = ((), (0,), (1,), (5,), (7, 33), (2, 3, 5, 4), (1, 1, 4, 1), (9001,))
VIEWS: tuple[Callable[[Tensor], Tensor], ...] = (  # parameters that are not contiguous
    lambda x: x.clone(memory_format=torch.channels_last),
    lambda x: x.transpose(0, 2),
    lambda x: x[:, ::2],
    lambda x: x.flatten()[1:-1],
    lambda x: x[:1],
    lambda x: x.transpose(0, 3)[:, ::2],
)
LR = 0.01
# In units of the last place. A correct rounding has a root mean square of 0.29, here estimated from 4096 parameters.
ROUNDED = Bound(mean=1.01, largest=1.0, roundings=0.05, few=0.05, share=0.01)


@dataclass(frozen=True)
class Extension:
    """An option that torch lacks, and how to get the same results from torch."""

    ours: Options
    theirs: Options
    before_step: Callable[[list[Tensor]], Any]


@torch.no_grad()
def _shrink(params: list[Tensor]) -> None:
    torch._foreach_mul_(params, 1 - LR * 0.3)


NONE = Extension({}, {}, lambda params: None)
CLIPPED = Extension({"max_grad_norm": 0.7}, {}, lambda params: torch.nn.utils.clip_grad_norm_(params, 0.7))
DECOUPLED = Extension({"weight_decay": 0.3, "decoupled_weight_decay": True}, {"weight_decay": 0.0}, _shrink)


@dataclass(frozen=True)
class Optimizer:
    """An optimizer with torch's constructor, as data."""

    ours: Callable[..., Any]
    theirs: Callable[..., Any]
    options: tuple[Options, ...]  # all options that change the results, in few combinations
    extensions: tuple[Extension, ...] = (CLIPPED,)


OPTIMIZERS = {
    "SGD": Optimizer(
        optim.SGD,
        torch.optim.SGD,
        (
            {},
            {"weight_decay": 0.3},
            {"momentum": 0.9},
            {"momentum": 0.9, "dampening": 0.4},
            {"momentum": 0.9, "nesterov": True},
            {"momentum": 0.8, "weight_decay": 0.2, "maximize": True},
        ),
    ),
    "RMSprop": Optimizer(
        optim.RMSprop,
        torch.optim.RMSprop,
        (
            {},
            {"alpha": 0.5, "eps": 1e-3, "weight_decay": 0.3},
            {"momentum": 0.9},
            {"centered": True},
            {"centered": True, "momentum": 0.8, "weight_decay": 0.2, "maximize": True},
        ),
        (CLIPPED, DECOUPLED),
    ),
    "Adam": Optimizer(
        optim.Adam,
        torch.optim.Adam,
        (
            {},
            {"betas": (0.5, 0.7), "eps": 1e-3, "weight_decay": 0.3},
            {"betas": (torch.tensor(0.8).double(), torch.tensor(0.9).double()), "foreach": False},
            {"weight_decay": 0.3, "decoupled_weight_decay": True},
            {"fused": True},
            {"amsgrad": True, "weight_decay": 0.2, "maximize": True},
        ),
    ),
    "AdamW": Optimizer(
        optim.AdamW,
        torch.optim.AdamW,
        ({}, {"betas": (0.5, 0.7), "eps": 1e-3, "weight_decay": 0.3}, {"amsgrad": True, "maximize": True}),
    ),
}


def parameters(shapes: Any, dtype: torch.dtype, device: Any = "cpu") -> list[Tensor]:
    return [torch.randn(shape, dtype=torch.float64).to(device, dtype).requires_grad_() for shape in shapes]


def copies(params: list[Tensor], dtype: torch.dtype | None = None) -> list[Tensor]:
    return [p.detach().clone().to(dtype or p.dtype).requires_grad_() for p in params]


def give_gradients(*lists: list[Tensor]) -> None:
    """Sets the same gradients in each list, rounded to its dtype."""
    for same in zip(*lists, strict=True):
        grad = torch.randn_like(same[0])
        for p in same:
            p.grad = grad.to(p.dtype, copy=True)


def take_steps(optimizers: list[torch.optim.Optimizer], *lists: list[Tensor], steps: int) -> None:
    """The same steps with each list of parameters."""
    for _ in range(steps):
        give_gradients(*lists)
        for optimizer in optimizers:
            optimizer.step()


def states(optimizer: torch.optim.Optimizer) -> list[dict[str, Tensor]]:
    return [optimizer.state[p] for group in optimizer.param_groups for p in group["params"]]


def check_trajectory(optimizer: Optimizer, dtype: torch.dtype, device: Any) -> None:
    """Parameters of every shape and layout are updated in place, by gradients of every layout."""
    for extension in (NONE, *optimizer.extensions):
        for options in optimizer.options:
            if dtype.is_complex and options.get("fused"):
                continue  # rejected by torch
            with naming(described({**options, **extension.ours})):
                _check_trajectory(optimizer, options, extension, dtype, device)


def _check_trajectory(
    optimizer: Optimizer, options: Options, extension: Extension, dtype: torch.dtype, device: Any
) -> None:
    base = torch.randn(6, 8, 5, 4, dtype=dtype, device=device)
    memories = [base.clone() for _ in VIEWS]
    params = [view(memory).requires_grad_() for view, memory in zip(VIEWS, memories, strict=True)]
    params += parameters(SHAPES, dtype, device)
    places = [(p.data_ptr(), p.stride()) for p in params]
    others = copies(params)
    ours = optimizer.ours(params, lr=LR, **{**options, **extension.ours})
    theirs = optimizer.theirs(others, lr=LR, **{**options, **extension.theirs})
    for layout in (torch.clone, torch.clone, contiguous, expanded, torch.clone):
        for p, other in zip(params, others, strict=True):
            p.grad = layout(torch.randn_like(other))
            other.grad = torch.empty_like(other).copy_(p.grad)
        extension.before_step(others)
        ours.step()
        theirs.step()
    if dtype in (torch.float64, torch.complex128):
        tolerance: float | None = 1e-12
    else:  # norms and factors differ in the last place, which RMSprop amplifies
        tolerance = None if extension is NONE else 2e-4
    assert_close = partial(torch.testing.assert_close, rtol=tolerance, atol=tolerance)
    assert_close(params, others)
    assert_close(states(ours), states(theirs), check_stride=True)
    assert [(p.data_ptr(), p.stride()) for p in params] == places, "a parameter has moved"
    untouched = ((x[2][:, 1::2], x[3].flatten()[[0, -1]]) for x in (memories, [base] * 4))
    assert all(map(torch.equal, *untouched)), "the neighbors were overwritten"


def check_error(optimizer: Optimizer, dtype: torch.dtype, device: Any) -> Figures:
    """A step against one in float64 from the same state. The parameters are large compared to the step."""
    measured = []
    for options in optimizer.options:
        params = [(3 + torch.rand(4096)).to(device, dtype).requires_grad_()]
        others = copies(params)
        ours, theirs = optimizer.ours(params, lr=0.05, **options), optimizer.theirs(others, lr=0.05, **options)
        take_steps([ours, theirs], params, others, steps=2)
        others[0].data.copy_(params[0].data)
        exact = copies(params, torch.float64)
        reference = optimizer.theirs(exact, lr=0.05, **options)
        for each in (theirs, reference):
            each.load_state_dict(copy.deepcopy(ours.state_dict()))  # torch would share the states
        take_steps([ours, theirs, reference], params, others, exact, steps=1)
        error, other_error = (errors(p[0].detach(), exact[0].detach(), dtype, True) for p in (params, others))
        measured.append(compared(f"a step with {described(options)}", error, other_error, ROUNDED))
    return judged(measured)


def check_small_steps(optimizer: Optimizer, dtype: torch.dtype, device: Any) -> None:
    """Steps of 1/64 ulp, which rounding to nearest loses, add up as in float32 with the other ways of rounding."""
    n, steps, eps = 4096, 160, torch.finfo(dtype).eps
    moved = {}
    for rounding in ("float32", "nearest", "kahan", "stochastic"):
        wide = rounding == "float32"
        p = torch.ones(n, dtype=torch.float32 if wide else dtype, device=device, requires_grad=True)
        ours = optimizer.ours([p], lr=eps / 64, rounding="nearest" if wide else rounding)
        p.grad = -torch.ones_like(p)
        for _ in range(steps):
            ours.step()
        moved[rounding] = p.detach().float() - 1
    exact = moved["float32"].mean().item()
    assert exact > 2 * eps, "float32: small steps do not add up"
    assert (moved["nearest"] == 0).all(), "rounding='nearest' does not round to nearest"
    # The moving averages are also rounded, to a few percent.
    off = (moved["kahan"] - exact).abs().max().item()
    assert off <= 0.5 * eps + 0.1 * exact, f"rounding='kahan' loses small steps in {dtype}"
    # Each rounding is a Bernoulli variable of variance at most eps^2 / 4.
    off = abs(moved["stochastic"].mean().item() - exact)
    assert off < 4.5 * eps / 2 * (steps / n) ** 0.5 + 0.1 * exact, f"rounding='stochastic' is biased in {dtype}"
    assert moved["stochastic"].unique().numel() > 3, "rounding='stochastic' is the same for all parameters"

"""The checks of optimizers: trajectories compared with torch's, and minima."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.nn.utils import get_total_norm

from ..testing.accuracy import Figures, compared, errors, judged
from ..testing.operation import described
from ..testing.running import naming
from ._check_operations import Record, Setup

SHAPES = ((), (1,), (7, 33), (2, 3, 5, 4), (9001,))
STEPS = 6


@dataclass(frozen=True)
class Stepping(Record):
    """An optimizer with torch's constructor, as data."""

    theirs: Callable[..., torch.optim.Optimizer]
    options: tuple[dict[str, Any], ...]
    decouples: bool = False  # whether only ours has decoupled_weight_decay

    def accuracy(self, ours: Callable, setup: Setup, dtype: torch.dtype) -> Figures:
        """Compares a step with one in float64 from the same state. The parameters are large compared to the step."""
        measured = []
        for option in self.options:
            start = (3 + torch.rand(4096)).to(setup.device, dtype)
            params, others = ([start.clone().requires_grad_()] for _ in range(2))
            mine, other = ours(params, lr=0.05, **option), self.theirs(others, lr=0.05, **option)
            _step([mine, other], params, others)
            others[0].data.copy_(params[0].data)
            other.load_state_dict(deepcopy(mine.state_dict()))  # torch would share the states
            exact = [params[0].detach().double().requires_grad_()]
            reference = self.theirs(exact, lr=0.05, **option)
            reference.load_state_dict(deepcopy(mine.state_dict()))
            _step([mine, other, reference], params, others, exact)
            off, other_off = (errors(p.detach(), exact[0].detach(), dtype, True) for p in (params[0], others[0]))
            measured.append(compared(f"a step with {described(option)}", off, other_off))
        return judged(measured)

    def agreement(self, ours: Callable, setup: Setup) -> Figures:
        for dtype in (torch.float64, torch.float32):
            for option in self.options:
                self._assert_trajectory(ours, setup, dtype, option, described(option))
            self._assert_trajectory(ours, setup, dtype, {}, "max_grad_norm", clip=0.7)
            if self.decouples:
                self._assert_trajectory(ours, setup, dtype, {}, "decoupled_weight_decay", decay=0.3)
        for dtype in (torch.bfloat16, torch.float16):
            _assert_small_steps_add_up(ours, setup, dtype)
        return {"options": len(self.options)}

    def _assert_trajectory(
        self,
        ours: Callable,
        setup: Setup,
        dtype: torch.dtype,
        option: dict,
        what: str,
        clip: float | None = None,
        decay: float = 0.0,
    ) -> None:
        params = [torch.randn(shape, dtype=torch.float64).to(setup.device, dtype) for shape in SHAPES]
        others = [p.clone().requires_grad_() for p in params]
        params = [p.requires_grad_() for p in params]
        beyond: dict[str, Any] = {"max_grad_norm": clip}
        if decay:
            beyond.update(decoupled_weight_decay=True, weight_decay=decay)
        mine, theirs = ours(params, lr=0.01, **option, **beyond), self.theirs(others, lr=0.01, **option)
        for _ in range(STEPS):
            _give_gradients(params, others)
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(others, clip)
            with torch.no_grad():
                for p in others:
                    p.mul_(1 - 0.01 * decay)
            mine.step()
            theirs.step()
        found = {"parameters": params, "states": [mine.state[p] for p in params]}
        with naming(what):
            torch.testing.assert_close(found, {"parameters": others, "states": [theirs.state[p] for p in others]})


def _give_gradients(*lists: list[Tensor]) -> None:
    """Sets the same gradients in each list."""
    for same in zip(*lists, strict=True):
        grad = torch.randn(same[0].shape, dtype=torch.float64).to(same[0].device, same[0].dtype)
        for p in same:
            p.grad = grad.to(p.dtype, copy=True)


def _step(optimizers: list[torch.optim.Optimizer], *lists: list[Tensor]) -> None:
    _give_gradients(*lists)
    for optimizer in optimizers:
        optimizer.step()


def _assert_small_steps_add_up(ours: Callable, setup: Setup, dtype: torch.dtype) -> None:
    """Compares steps of 1/64 ulp with rounding="kahan" and "stochastic" with float32."""
    n, steps, eps = 4096, 160, torch.finfo(dtype).eps
    moved = {}
    for rounding in ("float32", "kahan", "stochastic"):
        wide = rounding == "float32"
        p = torch.ones(n, dtype=torch.float32 if wide else dtype, device=setup.device).requires_grad_()
        optimizer = ours([p], lr=eps / 64, rounding="nearest" if wide else rounding)
        for _ in range(steps):
            p.grad = -torch.ones_like(p)
            optimizer.step()
        moved[rounding] = p.detach().float() - 1
    exact = moved["float32"].mean().item()
    if not exact > 2 * eps:
        raise AssertionError("float32: small steps do not add up")
    # The moving averages are also rounded, to a few percent.
    if not (moved["kahan"] - exact).abs().max() <= 0.5 * eps + 0.1 * exact:
        raise AssertionError(f"rounding='kahan' loses small steps in {dtype}")
    # Each rounding is a Bernoulli variable of variance at most eps^2 / 4.
    if not abs(moved["stochastic"].mean().item() - exact) < 4.5 * eps / 2 * (steps / n) ** 0.5 + 0.1 * exact:
        raise AssertionError(f"rounding='stochastic' is not right on average in {dtype}")


class Newton(Record):
    """optim.Newton on a regularized logistic regression, which is convex."""

    def agreement(self, ours: Callable, setup: Setup) -> Figures:
        iterations = {}
        x = torch.randn(200, 6, dtype=torch.float64).to(setup.device)
        y = (torch.rand(200, dtype=torch.float64).to(setup.device) < torch.sigmoid(x.sum(1))).double()
        best, smallest = _minimum(x, y)
        for dtype, tolerance in ((torch.float64, 1e-8), (torch.float32, 1e-4)):
            for method in ("exact", "cg"):
                w = torch.zeros(6, dtype=dtype, device=setup.device, requires_grad=True)
                optimizer = ours([w], method=method)
                optimizer.step(lambda w=w: _loss(w, x.to(w.dtype), y.to(w.dtype)))
                what = f"{method}, {dtype}"
                # |w - w*| <= |gradient| / the least eigenvalue, doubled for the rounding of the gradient in float32
                if not (w.double() - best).norm() <= 2 * tolerance / smallest:
                    raise AssertionError(f"{what}: not at the minimum: {optimizer.report}")
                if not optimizer.report.converged or optimizer.report.iterations > 8:
                    raise AssertionError(f"{what}: no quadratic convergence: {optimizer.report}")
                iterations[what] = optimizer.report.iterations
        return {"iterations": iterations}


def _loss(w: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return binary_cross_entropy_with_logits(x @ w, y) + 0.05 * w.square().sum()


def _minimum(x: Tensor, y: Tensor) -> tuple[Tensor, float]:
    """The minimum, found by torch's LBFGS, and the least eigenvalue of the Hessian there."""
    w = torch.zeros(6, dtype=torch.float64, device=x.device, requires_grad=True)
    options: dict[str, Any] = dict(
        max_iter=200, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
    )
    optimizer = torch.optim.LBFGS([w], **options)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = _loss(w, x, y)
        loss.backward()
        return loss

    optimizer.step(closure)
    hessian = torch.autograd.functional.hessian(lambda w: _loss(w, x, y), w.detach())
    return w.detach(), torch.linalg.eigvalsh(hessian)[0].item()


class GradientNorm(Record):
    """Compares optim.gradient_norm with torch.nn.utils.get_total_norm."""

    def accuracy(self, ours: Callable, setup: Setup, dtype: torch.dtype) -> Figures:
        measured = []
        for tensors in _lists(setup, dtype):
            exact = torch.cat([t.double().flatten() for t in tensors]).norm()
            off, other_off = (errors(norm(tensors), exact, dtype, False) for norm in (ours, get_total_norm))
            measured.append(compared(f"{len(tensors)} tensors", off, other_off))
        return judged(measured)

    def agreement(self, ours: Callable, setup: Setup) -> Figures:
        for dtype in (torch.float64, torch.float32):
            for tensors in _lists(setup, dtype):
                torch.testing.assert_close(ours(tensors), get_total_norm(tensors))
        if ours([]) != 0:
            raise AssertionError("of nothing it is not 0")
        return {"lists": 3}


def _lists(setup: Setup, dtype: torch.dtype) -> Iterator[list[Tensor]]:
    for shapes in (SHAPES, ((0,), (5,)), ((1000, 77),)):
        yield [torch.randn(shape).to(setup.device, dtype) for shape in shapes]

"""The records of optimizers, of Newton's method and of gradient_norm."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.nn.utils import get_total_norm

from ..testing.accuracy import Figures, compared, errors, judged
from ..testing.optimizers import SHAPES, Optimizer, check_error, check_small_steps, check_trajectory
from ._check_operations import Record, Setup


@dataclass(frozen=True)
class Stepping(Record):
    """The checks of torchnotes.testing.optimizers."""

    optimizer: Optimizer

    def accuracy(self, ours: Callable, setup: Setup, dtype: torch.dtype) -> Figures:
        return check_error(replace(self.optimizer, ours=ours), dtype, setup.device)

    def agreement(self, ours: Callable, setup: Setup) -> Figures:
        optimizer = replace(self.optimizer, ours=ours)
        for dtype in (torch.float64, torch.float32):
            check_trajectory(optimizer, dtype, setup.device)
        for dtype in (torch.bfloat16, torch.float16):
            check_small_steps(optimizer, dtype, setup.device)
        return {"options": len(optimizer.options)}


class Newton(Record):
    """optim.Newton on a regularized logistic regression, which is convex: where the gradient is 0 is the minimum."""

    def agreement(self, ours: Callable, setup: Setup) -> Figures:
        iterations = {}
        x = torch.randn(200, 6, dtype=torch.float64).to(setup.device)
        y = (torch.rand(200, dtype=torch.float64).to(setup.device) < torch.sigmoid(x.sum(1))).double()

        def loss(w: Tensor) -> Tensor:
            return binary_cross_entropy_with_logits(x.to(w.dtype) @ w, y.to(w.dtype)) + 0.05 * w.square().sum()

        for dtype, tolerance in ((torch.float64, 1e-8), (torch.float32, 1e-4)):
            for method in ("exact", "cg"):
                w = torch.zeros(6, dtype=dtype, device=setup.device, requires_grad=True)
                optimizer = ours([w], method=method)
                optimizer.step(lambda w=w: loss(w))
                what = f"{method}, {dtype}"
                # doubled for the rounding of the gradient in float32
                if not torch.func.grad(loss)(w.detach().double()).norm() <= 2 * tolerance:
                    raise AssertionError(f"{what}: not at the minimum: {optimizer.report}")
                if not optimizer.report.converged or optimizer.report.iterations > 8:
                    raise AssertionError(f"{what}: no quadratic convergence: {optimizer.report}")
                iterations[what] = optimizer.report.iterations
        return {"iterations": iterations}


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

"""Newton's method. Near x a smooth f is almost its Taylor polynomial of second degree in d,

    f(x + d) = f(x) + g^T d + d^T H d / 2 + O(|d|^3),    g the gradient (Jacobian) of f, H its Hessian,

whose own gradient g + H d vanishes at d = -H^-1 g; in one variable x <- x - f'/f''.

Convergence is quadratic. Let x* be the minimum, f'(x*) = 0, and e = x - x*. Taylor's formula for f' around x gives
0 = f'(x*) = f'(x) - f''(x) e + f'''(xi) e^2 / 2, so that after the step

    e - f'(x) / f''(x) = f'''(xi) / (2 f''(x)) e^2,    |e_(k+1)| ~ C |e_k|^2,    C = |f''' / (2 f'')| at x*

and in several variables C = L / (2 lambda), with L the Lipschitz constant of H and lambda its least eigenvalue.

If H is not positive definite, -H^-1 g may lead up, or not exist. Along an eigenvector of H with eigenvalue lambda_i and
the component g_i of g, -g_i / |lambda_i| always leads down: d = -|H|^-1 g, which is Newton's step if H is positive
definite, and doubles the distance to a saddle. A |lambda_i| up to n eps max |lambda|, the rounding error of all
eigenvalues, cannot be distinguished from 0. It is replaced by the largest one: the step is then that of gradient
descent, 1/L, and if g_i is a rounding error so is the step.

For many parameters H is too large, but H v is the gradient of g^T v. Conjugate gradients (Steihaug) improve d until
|g + H d| <= min(1/10, |g|) |g|: the remainder adds O(|e|^2) to the error, which stays quadratic. Each d on the way
leads down. At a direction p where p^T H p is not positive, beyond rounding errors, they stop with the d reached so far
or, if there is none, with p = -g, scaled as if the curvature were |p^T H p|.

The step is t d for the first t of lr, lr/2, lr/4, ... with f(x + t d) <= f(x) + t g^T d / 10^4 (Armijo). If f is so
flat that the difference is lost in rounding, the same f and a smaller |g| are accepted.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT

from ..distributed.shards import is_dtensor

_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4}  # about sqrt(eps): closer to x*, f looks constant
Method = Literal["auto", "exact", "cg"]
_MAX_EXACT = 256  # parameters; conjugate gradients need at most a few hundred products, a Hessian one per parameter
_ROWS = 64  # of the Hessian, computed at a time
_HALVINGS = 60
_ARMIJO = 1e-4


@dataclass(frozen=True)
class Report:
    """The outcome of a step of :class:`~torchnotes.optim.Newton`.

    Attributes:
        iterations: How many times the parameters were changed.
        damped: In how many of these the Hessian was not positive definite.
        evaluations: How many times the closure was called.
        products: How many Hessian-vector products were computed. A Hessian counts one per parameter.
        loss: The loss at the current parameters.
        gradient_norm: The norm of its gradient.
        converged: Whether ``gradient_norm`` is at most tolerance_grad.
        reason: Why the step stopped.
    """

    iterations: int
    damped: int
    evaluations: int
    products: int
    loss: float
    gradient_norm: float
    converged: bool
    reason: str


class _Objective:
    """A closure as a function of one vector, all parameters concatenated, with first and second derivatives."""

    def __init__(self, closure: Callable[[], Tensor], parameters: list[Tensor]) -> None:
        self.closure, self.parameters = closure, parameters
        self.evaluations = self.products = 0

    def read(self) -> Tensor:
        return torch.cat([p.reshape(-1) for p in self.parameters])

    @torch.no_grad()  # an interrupted closure may have changed the mode
    def write(self, x: Tensor) -> None:
        """In a single call, so that no interrupt can come in between."""
        parts = x.split([p.numel() for p in self.parameters])
        torch._foreach_copy_(self.parameters, [x.view(p.shape) for x, p in zip(parts, self.parameters, strict=True)])

    def loss(self) -> Tensor:
        self.evaluations += 1
        with torch.enable_grad():
            loss: Any = self.closure()
            if not isinstance(loss, Tensor) or loss.numel() != 1 or loss.is_complex():
                got = f"one of shape {tuple(loss.shape)}, {loss.dtype}" if isinstance(loss, Tensor) else repr(loss)
                raise RuntimeError(
                    f"Newton needs a closure that returns the loss as a real scalar tensor, but got {got}"
                )
            return loss.reshape(()).clone()  # it may be a view of a parameter

    def gradient(self, loss: Tensor) -> Tensor:
        try:
            return self._derivative(loss, create_graph=True)
        except RuntimeError as error:
            if "second time" not in str(error):
                raise
            message = "Newton differentiates the loss itself: the closure must return it without calling backward()"
            raise RuntimeError(message) from error

    def product(self, g: Tensor, v: Tensor) -> Tensor:
        """H v"""
        self.products += 1
        return self._derivative(g, v)

    def hessian(self, g: Tensor) -> Tensor:
        identity = torch.eye(len(g), dtype=g.dtype, device=g.device)
        try:
            H = torch.cat([self._derivative(g, rows, is_grads_batched=True) for rows in identity.split(_ROWS)])
        except RuntimeError:  # some operation has no batching rule
            return torch.stack([self.product(g, row) for row in identity])
        self.products += len(g)
        return H

    def _derivative(self, y: Tensor, v: Tensor | None = None, **options: bool) -> Tensor:
        """(dy/dx)^T v, or one row of it per row of v"""
        parts: Any = (None,) * len(self.parameters)
        if y.requires_grad and self.parameters:
            parts = torch.autograd.grad(y, self.parameters, v, retain_graph=True, allow_unused=True, **options)
        if v is None and not [part for part in parts if part is not None]:
            raise RuntimeError("Newton got a loss that does not depend on the parameters")
        batch = () if v is None else v.shape[:-1]
        with torch.enable_grad():
            return torch.cat(
                [
                    p.new_zeros(*batch, p.numel()) if part is None else part.reshape(*batch, p.numel())
                    for part, p in zip(parts, self.parameters, strict=True)
                ],
                dim=-1,
            )


def _exact_step(f: _Objective, g: Tensor) -> tuple[Tensor, bool]:
    """-|H|^-1 g, and whether H is not positive definite"""
    H = f.hessian(g)
    if not H.isfinite().all():
        return -g, True
    lambdas, Q = torch.linalg.eigh(H)
    sizes = lambdas.abs()
    error = len(g) * torch.finfo(H.dtype).eps * sizes.max()
    if error == 0:
        return -g, True
    return -(Q @ (Q.mT @ g / torch.where(sizes > error, sizes, sizes.max()))), bool(lambdas[0] <= error)


def _conjugate_gradients(f: _Objective, g: Tensor, max_cg: int) -> tuple[Tensor, bool]:
    """d with |g + H d| <= min(1/10, |g|) |g|, and whether a direction without positive curvature was met before"""
    d, r, p = torch.zeros_like(g), g, -g  # r = g + H d
    rr = r @ r
    target = rr.sqrt().clamp(max=0.1) * rr.sqrt()
    largest = torch.zeros_like(rr)
    for iteration in range(max_cg):
        Hp = f.product(g, p)
        curvature, pp = p @ Hp, p @ p
        largest = torch.maximum(largest, curvature / pp)
        error = 10 * torch.finfo(g.dtype).eps * largest * pp
        if not curvature > error:
            if iteration == 0:
                length = rr / curvature.abs()
                d = length * p if 0 < length < math.inf else p
            return d, True
        length = rr / curvature
        d = d + length * p
        r = r + length * Hp
        before, rr = rr, r @ r
        if rr.sqrt() <= target:
            break
        p = rr / before * p - r
    return d, False


def _line_search(
    f: _Objective, x: Tensor, loss: Tensor, g: Tensor, d: Tensor, lr: float
) -> tuple[Tensor, Tensor, Tensor] | None:
    """x + t d, its loss and its gradient; or None, with the parameters at x, if there is no such t"""
    slope, t = g @ d, lr
    try:
        for _ in range(_HALVINGS):
            trial = x + t * d
            if torch.equal(trial, x):
                break
            f.write(trial)
            lower = f.loss()
            if lower.isfinite() and (lower <= loss + _ARMIJO * t * slope or lower == loss):
                new = f.gradient(lower)
                norm = new.norm()
                if norm.isfinite() and (lower < loss or norm < g.norm()):
                    return trial, lower, new
            t /= 2
        f.write(x)
    except BaseException:
        f.write(x)
        raise
    return None


class Newton(Optimizer):
    """Newton's method for a smooth loss of float64 or float32 parameters.

    A closure returns the loss. Newton differentiates it twice, so the closure must not call ``backward()``. It must
    return the same loss every time: no dropout, no other batch. The gradients in ``.grad`` are neither used nor
    changed. As in :class:`torch.optim.LBFGS` there are no parameter groups. Frozen parameters stay as they are.

    The loss never increases. The parameters are left at the best point found, even if the closure raises. A loss that
    is not finite counts as too large; at the start it leaves everything unchanged. ``report`` describes the last step
    (:class:`~torchnotes.optim.newton.Report`). It is None before the first step and after one that raised.

    Args:
        params: The parameters, of one dtype on one device.
        lr: The fraction of Newton's step that is tried first. Only 1 makes convergence quadratic.
        max_iter: The maximum number of times that a step changes the parameters.
        tolerance_grad: The norm of the gradient at which to stop, at a minimum or a saddle, by default 1e-8 in float64
            and 1e-4 in float32.
        method: "exact" solves with the Hessian, "cg" needs only Hessian-vector products, and "auto" is "exact" for up
            to 256 parameters.
        max_cg: The maximum number of such products for one change of the parameters.

    Example:
        >>> w = torch.zeros(2, dtype=torch.float64, requires_grad=True)
        >>> optimizer = optim.Newton([w])
        >>> optimizer.step(lambda: (w - 1).square().sum() + w.exp().sum())
        tensor(4., dtype=torch.float64)
        >>> w.detach(), optimizer.report.iterations
        (tensor([0.3149, 0.3149], dtype=torch.float64), 3)
    """

    report: Report | None = None

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1.0,
        max_iter: int = 20,
        tolerance_grad: float | None = None,
        *,
        method: Method = "auto",
        max_cg: int = 1000,
    ) -> None:
        if isinstance(lr, Tensor) and lr.numel() != 1:
            raise ValueError("Tensor lr must be 1-element")
        if not 0.0 <= lr < math.inf:
            raise ValueError(f"Invalid learning rate: {lr}")
        if not max_iter >= 0:
            raise ValueError(f"Invalid max_iter value: {max_iter}")
        if tolerance_grad is not None and not tolerance_grad >= 0.0:
            raise ValueError(f"Invalid tolerance_grad value: {tolerance_grad}")
        if method not in get_args(Method):
            raise ValueError(f"Invalid method: {method}, please use one of {list(get_args(Method))}")
        if not max_cg >= 1:
            raise ValueError(f"Invalid max_cg value: {max_cg}")
        defaults = dict(lr=lr, max_iter=max_iter, tolerance_grad=tolerance_grad, method=method, max_cg=max_cg)
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        if self.param_groups:
            raise ValueError("Newton doesn't support per-parameter options (parameter groups)")
        super().add_param_group(param_group)
        for p in param_group["params"]:
            first = param_group["params"][0]
            if is_dtensor(p):
                raise ValueError("Newton needs plain tensors as parameters, but got a DTensor")
            if p.dtype not in _TOLERANCE or p.layout != torch.strided:
                raise ValueError(f"Newton needs dense parameters of float64 or float32, but got {p.dtype}, {p.layout}")
            if (p.dtype, p.device) != (first.dtype, first.device):
                kinds = f"{first.dtype} on {first.device} and {p.dtype} on {p.device}"
                raise ValueError(f"Newton needs parameters of one dtype on one device, but got {kinds}")

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor]) -> Tensor:  # type: ignore[override] # like LBFGS
        """Changes the parameters up to ``max_iter`` times.

        Args:
            closure: Returns the loss, without calling ``backward()``.

        Returns:
            The loss before the first change.
        """
        group = self.param_groups[0]
        f = _Objective(closure, [p for p in group["params"] if p.requires_grad])
        size = sum(p.numel() for p in f.parameters)
        exact = group["method"] == "exact" or (group["method"] == "auto" and size <= _MAX_EXACT)
        self.report, iterations, damped = None, 0, 0
        loss = f.loss()
        first = loss.detach()
        if not first.isfinite():
            self.report = Report(0, 0, f.evaluations, 0, first.item(), math.nan, False, "the loss is not finite")
            return first
        g, x = f.gradient(loss), f.read()
        tolerance = _TOLERANCE[g.dtype] if group["tolerance_grad"] is None else group["tolerance_grad"]
        while True:
            norm = g.norm().item()
            if norm <= tolerance:
                reason = "the norm of the gradient is at most tolerance_grad"
                break
            if not math.isfinite(norm):
                reason = "the gradient is not finite"
                break
            if iterations >= group["max_iter"]:
                reason = "max_iter is reached"
                break
            d, indefinite = _exact_step(f, g) if exact else _conjugate_gradients(f, g, group["max_cg"])
            loss, g = loss.detach(), g.detach()  # the graph is no longer needed
            found = _line_search(f, x, loss, g, d, float(group["lr"]))
            if found is None:
                reason = "no step lowers the loss"
                break
            x, loss, g = found
            iterations, damped = iterations + 1, damped + indefinite
        self.report = Report(
            iterations, damped, f.evaluations, f.products, loss.item(), norm, norm <= tolerance, reason
        )
        return first

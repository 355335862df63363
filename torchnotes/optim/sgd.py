"""Gradient descent with momentum. The formulas: csrc/formulas/sgd.h.

b' = mu b + (1 - tau) d,    w' = w - eta b'
"""

import math
from typing import Any

import torch
from torch import Tensor

from ._builtin import builtin_step
from ._fused import Bundle, Fused, Group, Names, NewStates, ProcessGroup, Rounding


@torch.library.register_fake("torchnotes::sgd_")
def _(*args: Any, **kwargs: Any) -> None: ...


class SGD(Fused, torch.optim.SGD):
    """Gradient descent with momentum, :class:`torch.optim.SGD` with more options.

    One native call updates all parameters of a group. State dicts are interchangeable with torch's. Parameters may be
    DTensors, such as those of ``fully_shard``: each rank updates its local tensors, clips by the norm of the full
    gradients, and rounds like a single process, bit for bit. To load a checkpoint of torch's optimizer with
    ``torch.distributed.checkpoint``, pass ``DefaultLoadPlanner(allow_partial_load=True)``, because it lacks the options
    below.

    Args:
        params: The parameters, or dicts of parameter groups with options of their own.
        lr: The learning rate eta.
        momentum: The factor mu of the previous steps. 0 needs no state.
        dampening: The part tau of the gradient that the momentum leaves out.
        weight_decay: The factor of the parameters that is added to their gradient.
        nesterov: Whether to take the gradient after the momentum (Nesterov).
        maximize: Whether to maximize the objective.
        differentiable: Whether autograd may differentiate through the step, which torch's code then computes.
        foreach: Whether to use torch's implementation for lists of tensors where torch's code is needed.
        fused: Whether to use torch's fused implementation there.
        rounding: How bfloat16 and float16 parameters are rounded, to the "nearest" number, "stochastic" (up or down,
            right on average) or "kahan" (saves the rounding error, in a state as large as the parameter).
        max_grad_norm: Scales all gradients down together if their norm is larger, without changing them in memory. The
            norm before clipping is in ``grad_norm`` after a step.
        process_group: The ranks among which the parameters are distributed, for a norm of all of them. Needed with
            pipelines, and with ZeroRedundancyOptimizer around ``functools.partial(SGD, process_group=...)``.

    Example:
        >>> w = torch.tensor([3.0, -4.0], requires_grad=True)
        >>> optimizer = optim.SGD([w], lr=0.1, max_grad_norm=1.0)
        >>> (w.square().sum() / 2).backward()
        >>> optimizer.step()
        >>> w.detach(), optimizer.grad_norm
        (tensor([ 2.9400, -3.9200]), tensor(5.))
    """

    operator = "torchnotes::sgd_"
    builtin_step = builtin_step(torch.optim.SGD)
    states = ("momentum_buffer",)
    counts_steps = False

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float | Tensor = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        rounding: Rounding = "nearest",
        max_grad_norm: float | None = None,
        process_group: ProcessGroup | None = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            momentum,
            dampening,
            weight_decay,
            nesterov,
            maximize=maximize,
            foreach=foreach,
            differentiable=differentiable,
            fused=fused,
        )
        self._add_options(process_group, rounding=rounding, max_grad_norm=max_grad_norm)

    def is_supported(self, group: Group) -> bool:
        return self.defaults["differentiable"] is False  # torch ignores that of the group

    def state_names(self, group: Group) -> tuple[str, ...]:
        return self.states if group["momentum"] != 0 else ()

    def numbers(self, group: Group, first: bool) -> tuple:
        momentum, dampening = group["momentum"], group["dampening"]
        return (
            float(momentum),
            float(dampening) if momentum != 0 else 0.0,  # otherwise it may be anything
            float(group["weight_decay"]),
            bool(group["nesterov"]),
            first,
        )

    def _completed(
        self, group: Group, names: Names, found: list, incomplete: list[Tensor], new_states: NewStates
    ) -> list[Bundle]:
        """Handles dampening, which the first step ignores. Without dampening a buffer of zeros is equivalent."""
        differs = incomplete and names[0] and (group["dampening"] or not math.isfinite(group["momentum"]))
        new = {p for p in incomplete if not self._has_momentum(p)} if differs else set()
        if not new:
            return super()._completed(group, names, found, incomplete, new_states)
        found_inf = getattr(self, "found_inf", None)
        # Why this synchronizes: docs/decisions/optimizer-states.md.
        skipped = found_inf is not None and bool(found_inf.item())  # then it was not the first step
        state = self._with_new_states(group, [p for p in incomplete if not (skipped and p in new)], names, new_states)
        first, others = ([p for p in group["params"] if (p in new) == is_new] for is_new in (True, False))
        old = self._bundles(others, state, names)
        return old if skipped else old + self._bundles(first, state, names, first=True)

    def _has_momentum(self, p: Tensor) -> bool:
        return self.state.get(p, {}).get("momentum_buffer") is not None

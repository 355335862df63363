"""Adam. The formulas: csrc/formulas/adam.h.

m' = m + (1 - beta1) (d - m),    v' = beta2 v + (1 - beta2) d^2,    w' = w - eta m^ / (sqrt(v^) + eps)
"""

from typing import Any

import torch
from torch import Tensor

from .._docs import arguments_from
from ._builtin import builtin_step
from ._fused import Fused, Group, ProcessGroup, Rounding, supports_capturable
from .sgd import SGD


@torch.library.register_fake("torchnotes::adam_")
def _(*args: Any, **kwargs: Any) -> None: ...


@arguments_from(SGD)
class Adam(Fused, torch.optim.Adam):
    """Gradient descent with adaptive moments, :class:`torch.optim.Adam` with more options.

    Args:
        betas: The factors beta1 and beta2 of the running means of the gradient and of its square.
        eps: Added to the divisor, the root of the mean square.
        amsgrad: Whether to divide by the root of the largest mean square so far.
        fused: Whether to use torch's fused implementation where torch's code is needed, and to keep step counts on the
            device of the parameters.
        capturable: Whether a CUDA graph may capture the step: step counts are kept on the device.
        decoupled_weight_decay: Makes it :class:`~torchnotes.optim.AdamW`.

    Example:
        >>> w = torch.tensor([3.0, -4.0], requires_grad=True)
        >>> optimizer = optim.Adam([w], lr=0.1)
        >>> (w.square().sum() / 2).backward()
        >>> optimizer.step()
        >>> w.detach()
        tensor([ 2.9000, -3.9000])
    """

    operator = "torchnotes::adam_"
    builtin_step = builtin_step(torch.optim.Adam)
    states = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        rounding: Rounding = "nearest",
        max_grad_norm: float | None = None,
        process_group: ProcessGroup | None = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=decoupled_weight_decay,
        )
        self._add_options(process_group, rounding=rounding, max_grad_norm=max_grad_norm)

    def is_supported(self, group: Group) -> bool:
        beta1, beta2 = group["betas"]
        floats = type(beta1) is type(beta2) is float
        on_device = not floats and any(isinstance(beta, Tensor) and not beta.is_cpu for beta in (beta1, beta2))
        return super().is_supported(group) and supports_capturable(group) and not on_device

    def state_names(self, group: Group) -> tuple[str, ...]:
        return self.states if group["amsgrad"] else self.states[:2]

    def numbers(self, group: Group, first: bool) -> tuple:
        beta1, beta2 = group["betas"]
        return (
            float(beta1),
            float(beta2),
            float(group["eps"]),
            float(group["weight_decay"]),
            bool(group["decoupled_weight_decay"]),
        )

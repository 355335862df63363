"""RMSProp. The formulas: csrc/formulas/rmsprop.h.

v' = alpha v + (1 - alpha) d^2,    w' = w - eta d / (sqrt(v') + eps)
"""

from typing import Any

import torch
from torch import Tensor

from .._docs import arguments_from
from ._builtin import builtin_step
from ._fused import EXTRA_OPTIONS, Fused, Group, ProcessGroup, Rounding, supports_capturable
from .sgd import SGD


@torch.library.register_fake("torchnotes::rmsprop_")
def _(*args: Any, **kwargs: Any) -> None: ...


@arguments_from(SGD)
class RMSprop(Fused, torch.optim.RMSprop):
    """Gradient descent with steps divided by the root mean square of past gradients.

    It is :class:`torch.optim.RMSprop` with more options.

    Args:
        alpha: The factor of the running mean of squared gradients.
        eps: Added to the divisor, the root of the mean square.
        momentum: The factor of the previous steps. 0 needs no state.
        centered: Whether to subtract the square of the mean gradient from the mean square.
        capturable: Whether a CUDA graph may capture the step: step counts are kept on the device.
        decoupled_weight_decay: Whether weight_decay shrinks the parameters by 1 - lr weight_decay instead of adding to
            the gradient.

    Example:
        >>> w = torch.tensor([3.0, -4.0], requires_grad=True)
        >>> optimizer = optim.RMSprop([w], lr=0.01)
        >>> (w.square().sum() / 2).backward()
        >>> optimizer.step()
        >>> w.detach()
        tensor([ 2.9000, -3.9000])
    """

    operator = "torchnotes::rmsprop_"
    builtin_step = builtin_step(torch.optim.RMSprop)
    states = ("square_avg", "grad_avg", "momentum_buffer")
    extra_options = (*EXTRA_OPTIONS, "decoupled_weight_decay")

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        *,
        decoupled_weight_decay: bool = False,
        rounding: Rounding = "nearest",
        max_grad_norm: float | None = None,
        process_group: ProcessGroup | None = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            alpha,
            eps,
            weight_decay,
            momentum,
            centered,
            capturable,
            foreach,
            maximize,
            differentiable,
        )
        self._add_options(
            process_group, decoupled_weight_decay=decoupled_weight_decay, rounding=rounding, max_grad_norm=max_grad_norm
        )

    def is_supported(self, group: Group) -> bool:
        return super().is_supported(group) and supports_capturable(group)

    def state_names(self, group: Group) -> tuple[str, ...]:
        wanted = (True, group["centered"], group["momentum"] > 0)
        return tuple(name for name, needed in zip(self.states, wanted, strict=True) if needed)

    def numbers(self, group: Group, first: bool) -> tuple:
        return (
            float(group["alpha"]),
            float(group["eps"]),
            float(group["weight_decay"]),
            float(group["momentum"]),
            bool(group["decoupled_weight_decay"]),
        )

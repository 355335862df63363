"""Adam with a weight decay that is decoupled from the gradient. The formulas: csrc/formulas/adam.h.

w' = (1 - eta lambda) w - eta m^ / (sqrt(v^) + eps)
"""

from typing import Any

from torch import Tensor

from .._docs import arguments_from
from ._fused import ProcessGroup, Rounding
from .adam import Adam


@arguments_from(Adam)
class AdamW(Adam):
    """Adam with decoupled weight decay, :class:`torch.optim.AdamW` with more options.

    Args:
        weight_decay: The factor lambda. A step shrinks the parameters by 1 - lr weight_decay.

    Example:
        >>> w = torch.tensor([3.0, -4.0], requires_grad=True)
        >>> optimizer = optim.AdamW([w], lr=0.1)
        >>> (w.square().sum() / 2).backward()
        >>> optimizer.step()
        >>> w.detach()
        tensor([ 2.8970, -3.8960])
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
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
            decoupled_weight_decay=True,
            rounding=rounding,
            max_grad_norm=max_grad_norm,
            process_group=process_group,
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:  # like torch's, whatever was loaded
            group["decoupled_weight_decay"] = True

"""What torch.jit.script compiles instead of our functions, which it cannot parse: the same with torch's functions.

Saved models then do not need torchnotes. The losses support only the options that torch has.

The reasons are in docs/decisions/tracing.md.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as torchs
from torch import Tensor
from torch.nn.functional import batch_norm as torch_batch_norm
from torch.nn.functional import binary_cross_entropy_with_logits as torch_bce
from torch.nn.functional import cross_entropy as torch_cross_entropy
from torch.nn.functional import linear as torch_linear

from . import activations
from .binary_cross_entropy_with_logits import binary_cross_entropy_with_logits as our_bce
from .cross_entropy.cross_entropy import cross_entropy as our_cross_entropy
from .dropout import dropout
from .gaussian_dropout import deviation
from .gaussian_dropout import gaussian_dropout as our_gaussian_dropout
from .gaussian_dropout import times_normal as our_times_normal
from .linear import linear as our_linear
from .log_softmax import log_softmax
from .mse_loss import mse_loss
from .normalization.batch_norm import batch_norm as our_batch_norm
from .pinball_loss import pinball_loss as our_pinball_loss
from .softmax import softmax


def unknown(z: Tensor, activation: str, negative_slope: float) -> Tensor:
    raise ValueError("unknown activation: " + activation)


_chosen: Callable[..., Tensor] = unknown


def _or_choose(this: str, info: activations.ActivationInfo, otherwise: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A branch for one activation. torch.jit.script compiles closures over functions; other constants are defaults."""
    function = info.builtin

    def with_slope(z: Tensor, activation: str, negative_slope: float, this: str = this) -> Tensor:
        return function(z, negative_slope) if activation == this else otherwise(z, activation, negative_slope)

    def without(z: Tensor, activation: str, negative_slope: float, this: str = this) -> Tensor:
        return function(z) if activation == this else otherwise(z, activation, negative_slope)

    return with_slope if info.takes_slope else without


for _name, _info in activations.ACTIVATIONS.items():
    _chosen = _or_choose(_name, _info, _chosen)


def activated(z: Tensor, activation: str | None, negative_slope: float) -> Tensor:
    return z if activation is None else _chosen(z, activation, negative_slope)


def linear(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    negative_slope: float = 0.01,
) -> Tensor:
    return activated(torch_linear(input, weight, bias), activation, negative_slope)


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    activation: str | None = None,
    negative_slope: float = 0.01,
    inplace: bool = False,
    center_only: bool = False,
) -> Tensor:
    x = input.clone() if inplace else input  # the backward pass needs it
    if center_only:
        z = _centered(x, running_mean, weight, bias, training, momentum)
    else:
        z = torch_batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
    y = activated(z, activation, negative_slope)
    return input.copy_(y) if inplace else y


def _centered(
    input: Tensor,
    running_mean: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float,
) -> Tensor:
    if training:
        mean = input.transpose(0, 1).flatten(1).mean(1, dtype=torch.promote_types(input.dtype, torch.float32))
        if running_mean is not None:
            running_mean.lerp_(mean.detach().to(running_mean.dtype), momentum)
    else:
        assert running_mean is not None
        mean = running_mean
    z = (input.transpose(1, -1) - mean).transpose(1, -1).to(input.dtype)
    zero, one = torch.zeros_like(mean), torch.ones_like(mean)
    return torch.batch_norm(z, weight, bias, zero, one, False, 0.0, 0.0, False)


def gaussian_dropout(
    input: Tensor,
    p: float | None = None,
    training: bool = True,
    inplace: bool = False,
    sigma: float | None = None,
) -> Tensor:
    return times_normal(input, 1.0, deviation(p, sigma), inplace) if training else input


def times_normal(input: Tensor, mean: float, sigma: float, inplace: bool = False) -> Tensor:
    noise = mean + sigma * torch.randn_like(input)
    return input.mul_(noise) if inplace else input * noise


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    logit_softcap: float | None = None,
    empty: str = "nan",
    inplace_backward: bool = False,
    process_group: None = None,
) -> Tensor:
    if z_loss != 0.0 or logit_softcap is not None or empty != "nan":
        raise RuntimeError("cross_entropy: torch.jit.script supports only the options that torch has")
    return torch_cross_entropy(input, target, weight, size_average, ignore_index, reduce, reduction, label_smoothing)


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    ignore_index: float | None = None,
) -> Tensor:
    if label_smoothing != 0.0 or ignore_index is not None:
        raise RuntimeError(
            "binary_cross_entropy_with_logits: torch.jit.script supports only the options that torch has"
        )
    return torch_bce(input, target, weight, size_average, reduce, reduction, pos_weight)


def pinball_loss(
    input: Tensor,
    target: Tensor,
    quantiles: Any,
    weight: Tensor | None = None,
    reduction: str = "mean",
    smoothing: float = 0.0,
) -> Tensor:
    return _pinball_loss_in_python(input, target, quantiles, weight, reduction, smoothing)


@torch.jit.ignore
def _pinball_loss_in_python(
    input: Tensor, target: Tensor, quantiles: Any, weight: Tensor | None, reduction: Any, smoothing: float
) -> Tensor:
    return our_pinball_loss(input, target, quantiles, weight=weight, reduction=reduction, smoothing=smoothing)


_SCRIPTED: dict[Callable[..., Any], Callable[..., Any]] = {
    activations.activated: activated,
    our_batch_norm: batch_norm,
    our_bce: binary_cross_entropy_with_logits,
    our_cross_entropy: cross_entropy,
    dropout: torchs.dropout,
    our_gaussian_dropout: gaussian_dropout,
    our_linear: linear,
    log_softmax: torchs.log_softmax,
    mse_loss: torchs.mse_loss,
    our_pinball_loss: pinball_loss,
    softmax: torchs.softmax,
    our_times_normal: times_normal,
    **{info.function: info.scripted or getattr(torchs, name) for name, info in activations.ACTIVATIONS.items()},
}


def _prepare(function: Any, scripted: Callable[..., Any]) -> None:
    function.__prepare_scriptable__ = lambda: scripted


for _function, _its_scripted in _SCRIPTED.items():
    _prepare(_function, _its_scripted)

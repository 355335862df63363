"""Measurements at each call of a model's layers."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.utils import _pytree as pytree

from ..init import _arrangement, _fan, normal_
from ..nn.linear import Linear
from ..ops.activations import activated


@dataclass(frozen=True)
class Layer:
    """The measurements of one call of a layer.

    Values are None where a variance would need more numbers, or z has no gradient.

    Attributes:
        name: The name of the layer in the model.
        kind: The name of its class.
        fan_in: The number k of products that an element of z sums up, without padding.
        mean_w: The mean of the weight.
        var_w: The variance of the weight.
        mean_x: The mean of the input x.
        var_x: The variance of x.
        predicted: The variance of z, computed from the values above.
        var_z: The variance of z as measured.
        batch_share: The share of it that is due to the batch.
        var_gradient: The variance of dL/dz.
        squared_gradient: The squared length of dL/dz.
    """

    name: str
    kind: str
    fan_in: int
    mean_w: float
    var_w: float
    mean_x: float
    var_x: float
    predicted: float
    var_z: float | None
    batch_share: float | None
    var_gradient: float | None = None
    squared_gradient: float | None = None

    def with_gradient(self, gradient: Tensor | None) -> "Layer":
        if gradient is None:
            return self
        return replace(self, var_gradient=_variance(gradient), squared_gradient=_square(gradient))


def layers_of(model: torch.nn.Module) -> dict[torch.nn.Module, str]:
    """The layers with a real weight, and their names."""
    kinds = (torch.nn.Linear, _ConvNd)
    modules = {module: name for name, module in model.named_modules() if isinstance(module, kinds)}
    weights = {module: module.weight for module in modules}
    there = {m for m, w in weights.items() if isinstance(w, Tensor) and w.is_floating_point() and w.numel()}
    return {module: name or type(module).__name__ for module, name in modules.items() if module in there}


def record_calls(layer: torch.nn.Module, name: str, calls: list[tuple[Layer, Tensor]]) -> None:
    """Records the calls of a layer, with a z that autograd can differentiate by."""
    activation, slope = None, 0.0
    if isinstance(layer, Linear):  # its forward returns z, and the hook applies the activation
        activation, slope = layer.activation, layer.negative_slope
        layer.activation = None
    times = itertools.count(1)

    def after(layer: torch.nn.Module, arguments: tuple, keywords: dict[str, Any], z: Any) -> Any:
        x = next((value for value in (*arguments, *keywords.values()) if isinstance(value, Tensor)), None)
        if not isinstance(z, Tensor) or x is None:
            return None
        if not z.requires_grad:
            z = z.detach().requires_grad_()
        if x.numel() > 0 and z.numel() > 0:
            time = next(times)
            calls.append((_noted(layer, name if time == 1 else f"{name} #{time}", x.detach(), z.detach()), z))
        return activated(z.clone(), activation, slope)  # later operations may overwrite the clone

    layer.register_forward_hook(after, prepend=True, with_kwargs=True)


def gradients(output: Any, loss: Callable[[Any], Tensor] | None, zs: tuple[Tensor, ...]) -> tuple[Tensor | None, ...]:
    """The gradients of the loss, or of the product of the output with numbers of N(0, 1)."""
    if loss is not None:
        ends = [loss(output)]
        if not isinstance(ends[0], Tensor) or ends[0].numel() != 1:
            raise ValueError("loss must return a tensor of one number")
    else:
        ends = [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]
    ends = [end for end in ends if end.requires_grad]
    if not ends:
        return (None,) * len(zs)
    starts = [
        torch.ones_like(end) if loss else normal_(torch.empty_like(end), generator=torch.tensor([0, number]))
        for number, end in enumerate(ends)
    ]
    return torch.autograd.grad(ends, zs, starts, allow_unused=True)


def changes(sizes: Sequence[tuple[str, float]], limit: float) -> list[tuple[str, str]]:
    """The names whose size differs much from the first one's, and how."""
    changes = []
    for name, size in sizes:
        if not math.isfinite(size):
            changes.append((name, "is not finite"))
        elif size == 0 or size * limit < sizes[0][1]:
            changes.append((name, "vanishes"))
        elif size > sizes[0][1] * limit:
            changes.append((name, "explodes"))
    return changes


def _variance(x: Tensor) -> float | None:
    return _moments(x)[1] if x.numel() > 1 else None


def _square(x: Tensor) -> float:
    return x.detach().double().square().sum().item()


def _moments(x: Tensor) -> tuple[float, float]:
    """Mean and variance in float64, because squares may underflow in float32."""
    x = x.detach().double()
    mean = x.mean()
    return mean.item(), (x - mean).square().mean().item()  # var_mean is a hundred times slower


def _noted(layer: Any, name: str, x: Tensor, z: Tensor) -> Layer:
    weight = layer.weight.detach()
    fan_in = round(_fan(weight, "fan_in", **_arrangement(layer)))
    (mean_w, var_w), (mean_x, var_x) = _moments(weight), _moments(x)
    products, var_products = _products(layer, weight, x)
    of_a_product = (
        var_w * var_x + var_x * (mean_w * mean_w) + var_w * (mean_x * mean_x)
    )  # ** raises instead of returning inf
    of_means = mean_w * mean_x * (mean_w * mean_x)
    of_bias = 0.0 if layer.bias is None else _moments(layer.bias)[1]
    var_z = _variance(z)
    return Layer(
        name,
        type(layer).__name__,
        fan_in,
        mean_w,
        var_w,
        mean_x,
        var_x,
        products * of_a_product + var_products * of_means + of_bias,
        var_z,
        _batch_share(z, 1 - weight.dim(), var_z),
    )


def _products(layer: Any, weight: Tensor, x: Tensor) -> tuple[float, float]:
    """Mean and variance, over the elements of z, of the number of products that each one sums."""
    if isinstance(layer, torch.nn.Linear):
        return weight.size(1), 0.0
    example = torch.ones((1, *x.shape[1 - weight.dim() :]), dtype=torch.double, device=x.device)
    ones = torch.ones_like(weight, dtype=torch.double)
    if isinstance(layer, _ConvTransposeNd):
        geometry: Any = (layer.stride, layer.padding, layer.dilation, True, layer.output_padding, layer.groups)
        return _moments(torch.convolution(example, ones, None, *geometry))
    return _moments(layer._conv_forward(example, ones, None))


def _batch_share(z: Tensor, units: int, var_z: float | None) -> float | None:
    of_unit = [axis for axis in range(-z.dim(), 0) if axis != units]
    if not var_z or not math.isfinite(var_z) or z.numel() == z.size(units):
        return None
    z = z.double()
    return (z - z.mean(of_unit, keepdim=True)).square().mean().item() / var_z

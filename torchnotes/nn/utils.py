"""Model rewriting."""

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import Module, Parameter
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from .._names import missing
from ..ops.activations import ACTIVATIONS
from ..tracing.trace import Trace, Tracer
from . import activation


def fuse_batch_norm(model: Module) -> Module:
    """Folds batch normalizations in eval mode into the Linear or convolution before them.

    The weights absorb the normalization, and its activation, if any, takes its place. A normalization is folded if
    torch.fx shows that nothing else uses the layer's output, the layer is called once, and there are running statistics
    of as many features as the layer has outputs. A BatchNorm1d after a Linear is assumed to normalize the features, as
    for inputs of shape ``(N, C)``.

    Args:
        model: A model of modules of torch or torchnotes, in eval mode.

    Returns:
        A changed copy of the model.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, activation="relu")).eval()
        >>> nn.utils.fuse_batch_norm(model)
        Sequential(
          (0): Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1))
          (1): ReLU()
        )
    """
    model = copy.deepcopy(model)
    for layer, norm_name in list(_pairs(model)):
        norm = model.get_submodule(norm_name)
        assert isinstance(norm, _BatchNorm)
        _fold(layer, norm)
        parent, _, name = norm_name.rpartition(".")
        setattr(model.get_submodule(parent), name, _activation_of(norm))
    return model


def _pairs(model: Module) -> Iterator[tuple[Module, str]]:
    """Layers, and the names of the normalizations that can be folded into them."""
    if isinstance(model, (_BatchNorm, torch.nn.Linear, _ConvNd)):
        return
    names = {module: name for name, module in model.named_modules()}
    for (layer, norm), alone in Trace(Tracer().trace(model), model).successions.items():
        if alone and isinstance(norm, _BatchNorm) and _may_fold(layer, norm):
            yield layer, names[norm]


def _may_fold(layer: Module, norm: _BatchNorm) -> bool:
    if isinstance(layer, torch.nn.Linear):
        outputs = layer.out_features
    elif isinstance(layer, _ConvNd):
        outputs = layer.out_channels
    else:
        return False
    if getattr(layer, "activation", None) is not None:
        return False
    return not norm.training and norm.running_mean is not None and norm.num_features == outputs


def _fold(layer: Any, norm: Any) -> None:
    """W x + b -> gamma r (W x + b - mu) + beta, in double precision."""
    scale = torch.ones_like(norm.running_mean, dtype=torch.float64)
    if not getattr(norm, "center_only", False):
        scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.detach().double()
    shift = -norm.running_mean.double() if layer.bias is None else layer.bias.detach().double() - norm.running_mean
    shift = shift * scale
    if norm.bias is not None:
        shift = shift + norm.bias.detach().double()
    weight = layer.weight.detach().double()
    if isinstance(layer, _ConvTransposeNd):  # (inputs, outputs of a group, ...), with the inputs ordered by group
        grouped = weight.unflatten(0, (layer.groups, -1))
        weight = (grouped * scale.view(layer.groups, 1, -1, *[1] * (weight.dim() - 2))).flatten(0, 1)
    else:
        weight = weight * scale.view(-1, *[1] * (weight.dim() - 1))
    layer.weight = _replaced(layer.weight, weight)
    layer.bias = _replaced(layer.bias if layer.bias is not None else layer.weight, shift)


def _replaced(old: Tensor, new: Tensor) -> Parameter:
    return Parameter(new.to(old.dtype), old.requires_grad)


def _activation_of(norm: Any) -> Module:
    name = getattr(norm, "activation", None)
    if name is None:
        return torch.nn.Identity()
    info = ACTIVATIONS[name]
    kind = getattr(activation, info.module)
    return kind(norm.negative_slope) if info.takes_slope else kind()


if not TYPE_CHECKING:  # which would accept every name
    __getattr__ = missing(__name__, "torch.nn.utils")

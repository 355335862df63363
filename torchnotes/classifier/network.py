"""The notes' network in torchnotes and in torch: dense layers, each followed by batch normalization, an activation and
Gaussian dropout.
"""

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import nn, optim
from ..nn.linear import Initialization
from ..ops.activations import ACTIVATIONS, Activation

SLOPE = 0.1  # the slope of the notes' leaky ReLU
OPTIMIZERS = {"adam": ("Adam", 2e-3), "adamw": ("AdamW", 2e-3), "rmsprop": ("RMSprop", 1e-3), "sgd": ("SGD", 5e-2)}


@dataclass(frozen=True)
class Design:
    """Everything that is needed to create the network again."""

    sizes: tuple[int, ...]
    activation: Activation = "leaky_relu"
    noise: float = 0.1  # the rate of Gaussian dropout
    init: Initialization = "he"
    dtype: str = "float32"


def by_torchnotes(design: Design) -> torch.nn.Module:
    return nn.MLP(
        design.sizes,
        design.activation,
        negative_slope=SLOPE,
        batch_norm=True,
        gaussian_dropout=design.noise,
        init=design.init,
        dtype=getattr(torch, design.dtype),
    )


def by_torch(design: Design) -> torch.nn.Module:
    info = ACTIVATIONS[design.activation]
    activation = getattr(torch.nn, info.module)
    slope = (SLOPE,) if info.takes_slope else ()
    layers: list[torch.nn.Module] = []
    *hidden, (features, classes) = itertools.pairwise(design.sizes)
    for inputs, outputs in hidden:
        layers += [torch.nn.Linear(inputs, outputs, bias=False), torch.nn.BatchNorm1d(outputs), activation(*slope)]
        if design.noise:
            layers.append(GaussianNoise(design.noise))
    layers.append(torch.nn.Linear(features, classes))
    return torch.nn.Sequential(*layers).to(getattr(torch, design.dtype))


class GaussianNoise(torch.nn.Module):
    """Gaussian dropout in torch's operations, because torch has no module for it."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.sigma = (p / (1 - p)) ** 0.5

    def forward(self, input: Tensor) -> Tensor:
        return input * torch.randn_like(input).mul_(self.sigma).add_(1) if self.training else input


def copy_parameters(source: torch.nn.Module, target: torch.nn.Module) -> None:
    """Copies by position, because the networks have the same parameters under different names."""
    target.load_state_dict(dict(zip(target.state_dict(), source.state_dict().values(), strict=True)))


def optimizer(name: str, lr: float, parameters: Any, ours: bool) -> torch.optim.Optimizer:
    kind = getattr(optim if ours else torch.optim, OPTIMIZERS[name][0])
    return kind(parameters, lr=lr, **({"momentum": 0.9} if name == "sgd" else {}))

"""How parameters start: torch.nn.init's initializers, with the same numbers on every device and for every thread.

The variance of z = sum_k w_k x_k over k inputs, with independent factors, is

    Var(w x) = Var w Var x + Var x (E w)^2 + Var w (E x)^2,    at means of 0:  Var(z) = k Var(w) Var(x)

so that of Var(w) = gain^2 / fan

    Glorot   fan = (k + m) / 2, between the k of the forward pass and the m outputs that the backward adds up
    He       fan = k, gain^2 = 2 / (1 + a^2): a rectifier of slope a keeps so much less of E[x^2]
    LeCun    fan = k, gain = 1: Var(z) = Var(x)
    default  U[-1/sqrt k, 1/sqrt k], of variance 1/3k: Var(z) = Var(x)/3, after n layers 1/3^n

Numbers of bfloat16 and half are those of float32, rounded. `generator` may also be a key, a tensor of two int64: a
tensor of one shape then gets the same numbers every time. A DTensor gets those of the whole tensor, however it is
sharded, from ranks of the same seed.
"""

import hashlib
import math
import operator
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.init import calculate_gain as calculate_gain
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from .distributed.random import make_sure
from .distributed.shards import is_dtensor
from .ops._random import Generator, fills_natively, random_key
from .ops.normal import normal_ as normal_
from .ops.trunc_normal import trunc_normal_ as trunc_normal_
from .ops.uniform import uniform_ as uniform_

_MODES = ("fan_in", "fan_out", "fan_avg")


def _fan(tensor: Tensor, mode: str, axes: tuple[int, int], groups: int) -> float:
    """How many products an element of the output, of the gradient of the input, or of either is a sum of.

    axes: the dimensions of the inputs and of the outputs; (1, 0) in Linear and convolutions, (0, 1) in transposed ones
    groups: of a convolution, whose dimension 0 counts the channels of all groups
    """
    if mode.lower() not in _MODES:
        raise ValueError(f"Mode {mode} not supported, please use one of {list(_MODES)}")
    if tensor.dim() < 2:
        raise ValueError("Fan in and fan out can not be computed for tensor with fewer than 2 dimensions")
    for axis in axes:
        if not -tensor.dim() <= axis < tensor.dim():
            raise IndexError(f"axes must be dimensions of the tensor, of which there are {tensor.dim()}. Got: {axes}")
    inputs, outputs = (axis % tensor.dim() for axis in axes)
    if inputs == outputs:
        raise ValueError(f"axes must be those of the inputs and of the outputs, two different ones. Got: {axes}")
    elsewhere = math.prod(size for i, size in enumerate(tensor.shape) if i not in (inputs, outputs))
    fans = [elsewhere * tensor.size(axis) / (groups if axis == 0 else 1) for axis in (inputs, outputs)]
    return {"fan_in": fans[0], "fan_out": fans[1], "fan_avg": sum(fans) / 2}[mode.lower()]


def _filled_(
    distribution: Callable[..., Tensor],
    tensor: Tensor,
    gain: float,
    mode: str,
    axes: tuple[int, int],
    groups: int,
    generator: Generator,
) -> Tensor:
    """Fills tensor with numbers of mean 0 and variance gain^2 / fan."""
    std = gain / math.sqrt(_fan(tensor, mode, axes, groups))
    if distribution is uniform_:
        bound = math.sqrt(3.0) * std
        return uniform_(tensor, -bound, bound, generator)
    return normal_(tensor, 0.0, std, generator)


def _scaled_(distribution: Callable[..., Tensor], tensor: Tensor, *rest: Any) -> Tensor:
    """The same, but nothing where there are no elements, as torch's kaiming_* and unlike its xavier_*."""
    if 0 in tensor.shape:
        warnings.warn("Initializing zero-element tensors is a no-op", stacklevel=3)
        return tensor
    return _filled_(distribution, tensor, *rest)


def glorot_uniform_(
    tensor: Tensor,
    gain: float = 1.0,
    generator: Generator = None,
    *,
    mode: str = "fan_avg",
    axes: tuple[int, int] = (1, 0),
    groups: int = 1,
) -> Tensor:
    """U(-b, b) of variance gain^2 / fan: by default b = gain sqrt(6 / (fan_in + fan_out))."""
    return _filled_(uniform_, tensor, gain, mode, axes, groups, generator)


def glorot_normal_(
    tensor: Tensor,
    gain: float = 1.0,
    generator: Generator = None,
    *,
    mode: str = "fan_avg",
    axes: tuple[int, int] = (1, 0),
    groups: int = 1,
) -> Tensor:
    """N(0, gain^2 / fan): by default gain^2 2 / (fan_in + fan_out)."""
    return _filled_(normal_, tensor, gain, mode, axes, groups, generator)


def he_uniform_(
    tensor: Tensor,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator = None,
    *,
    axes: tuple[int, int] = (1, 0),
    groups: int = 1,
) -> Tensor:
    """U(-b, b) of variance gain^2 / fan, with the gain of a nonlinearity and its slope a."""
    gain = calculate_gain(nonlinearity, a)  # type: ignore[arg-type] # its own error
    return _scaled_(uniform_, tensor, gain, mode, axes, groups, generator)


def he_normal_(
    tensor: Tensor,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator = None,
    *,
    axes: tuple[int, int] = (1, 0),
    groups: int = 1,
) -> Tensor:
    """N(0, gain^2 / fan), with the gain of a nonlinearity and its slope a."""
    gain = calculate_gain(nonlinearity, a)  # type: ignore[arg-type] # its own error
    return _scaled_(normal_, tensor, gain, mode, axes, groups, generator)


def lecun_uniform_(
    tensor: Tensor,
    gain: float = 1.0,
    generator: Generator = None,
    *,
    mode: str = "fan_in",
    axes: tuple[int, int] = (1, 0),
    groups: int = 1,
) -> Tensor:
    """U(-b, b) of variance gain^2 / fan: by default b = gain sqrt(3 / fan_in)."""
    return _scaled_(uniform_, tensor, gain, mode, axes, groups, generator)


def lecun_normal_(
    tensor: Tensor,
    gain: float = 1.0,
    generator: Generator = None,
    *,
    mode: str = "fan_in",
    axes: tuple[int, int] = (1, 0),
    groups: int = 1,
) -> Tensor:
    """N(0, gain^2 / fan): by default gain^2 / fan_in."""
    return _scaled_(normal_, tensor, gain, mode, axes, groups, generator)


def default_uniform_(
    tensor: Tensor,
    generator: Generator = None,
    *,
    mode: str = "fan_in",
    axes: tuple[int, int] = (1, 0),
    groups: int = 1,
) -> Tensor:
    """U(-1/sqrt fan, 1/sqrt fan), as the weights of torch's layers start."""
    return _scaled_(uniform_, tensor, 1 / math.sqrt(3.0), mode, axes, groups, generator)


xavier_uniform_ = glorot_uniform_
xavier_normal_ = glorot_normal_
kaiming_uniform_ = he_uniform_
kaiming_normal_ = he_normal_

SCHEMES: dict[str, Callable[..., Tensor]] = {
    "glorot": glorot_uniform_,
    "glorot_uniform": glorot_uniform_,
    "glorot_normal": glorot_normal_,
    "he": he_normal_,
    "he_uniform": he_uniform_,
    "he_normal": he_normal_,
    "lecun": lecun_normal_,
    "lecun_uniform": lecun_uniform_,
    "lecun_normal": lecun_normal_,
    "default": default_uniform_,
}


def initialize_(
    model: torch.nn.Module, scheme: str = "he", *, seed: int | None = None, **options: Any
) -> torch.nn.Module:
    """Starts the parameters of a whole model, in place, and returns it.

    Weights of two and more dimensions are filled by the scheme, with its `options` (a, mode, gain, nonlinearity), those
    of transposed and grouped convolutions by their true fan; embeddings by N(0, 1), as torch's. Biases become 0, and
    other parameters, as of normalisation, stay. What a parameter gets is a function of the seed, its name and its shape
    (of a shared one the first name in the order of the alphabet), not of the order in which the model was made. Without
    a seed one is drawn from torch's generator. A parameter that is a DTensor gets the numbers that it would get whole.
    """
    if scheme not in SCHEMES:
        raise ValueError(f"scheme must be one of {', '.join(map(repr, SCHEMES))}. Got: {scheme!r}")
    fill = SCHEMES[scheme]
    trial = torch.empty(1, 1, dtype=torch.float64)
    fill(trial, generator=torch.zeros(2, dtype=torch.int64), **options)  # bad options raise before anything is written
    seed = int(random_key(torch.empty(0))[0]) if seed is None else operator.index(seed)
    modules = dict(model.named_modules(remove_duplicate=False))
    names: dict[torch.nn.Parameter, str] = {}
    for name, parameter in sorted(model.named_parameters(remove_duplicate=False), reverse=True):
        if parameter.is_floating_point() and parameter.numel() > 0:
            if not fills_natively(parameter):
                raise TypeError(
                    f"initialize_ takes plain tensors and DTensors. Got: a {type(parameter).__name__} as {name}"
                )
            names[parameter] = name  # the first one comes last
    for one in {p.device_mesh: p for p in names if is_dtensor(p)}.values():
        make_sure(one, "initialize_", seed=seed, scheme=scheme, options=tuple(sorted(options.items())))
    for parameter, name in names.items():
        path, _, last = name.rpartition(".")
        module = modules[path]
        key = torch.tensor([seed, _number(name)])
        if "bias" in last:
            torch.nn.init.zeros_(parameter)
        elif isinstance(module, (torch.nn.Embedding, torch.nn.EmbeddingBag)):
            normal_(parameter, generator=key)
        elif parameter.dim() >= 2:
            fill(parameter, generator=key, **_arrangement(module), **options)
    return model


def _arrangement(module: torch.nn.Module) -> dict[str, Any]:
    """Which dimensions of a layer's weight are its inputs and outputs, and in how many groups."""
    axes = (0, 1) if isinstance(module, _ConvTransposeNd) else (1, 0)
    return dict(axes=axes, groups=module.groups if isinstance(module, _ConvNd) else 1)


def _number(name: str) -> int:
    """64 bits of a name."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little", signed=True)

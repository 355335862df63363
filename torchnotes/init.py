"""The initializers of torch.nn.init, with numbers that depend neither on the device nor on the number of threads.

The variance of z = sum_k w_k x_k over k inputs, with independent factors, is

    Var(w x) = Var w Var x + Var x (E w)^2 + Var w (E x)^2,    at means of 0:  Var(z) = k Var(w) Var(x)

so that with Var(w) = gain^2 / fan

    Glorot   fan = (k + m) / 2, between the k inputs of the forward pass and the m outputs that the backward adds up
    He       fan = k, gain^2 = 2 / (1 + a^2): makes up for the part of E[x^2] that a rectifier of slope a loses
    LeCun    fan = k, gain = 1: Var(z) = Var(x)
    default  U[-1/sqrt k, 1/sqrt k], of variance 1/3k: Var(z) = Var(x)/3, after n layers 1/3^n

Numbers in bfloat16 and half are those of float32, rounded. `generator` may also be a key, a tensor of two int64:
tensors of the same shape then always get the same numbers. A DTensor gets the numbers of the full tensor, however it is
sharded, if all ranks have the same seed.
"""

import hashlib
import math
import operator
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn.init import calculate_gain as calculate_gain
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from ._docs import arguments_from
from ._names import missing
from .distributed.random import make_sure
from .distributed.shards import is_dtensor
from .ops._random import Generator, fills_natively, random_key
from .ops.normal import normal_ as normal_
from .ops.trunc_normal import trunc_normal_ as trunc_normal_
from .ops.uniform import uniform_ as uniform_

Mode = Literal["fan_in", "fan_out", "fan_avg"]
Nonlinearity = Literal[
    "linear",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "sigmoid",
    "tanh",
    "relu",
    "leaky_relu",
    "selu",
]


def _fan(tensor: Tensor, mode: Mode, axes: tuple[int, int], groups: int) -> float:
    """The number of products that sum up to an element of the output, of the input's gradient, or their mean.

    axes: the dimensions of the inputs and outputs: (1, 0) for Linear and convolutions, (0, 1) for transposed ones
    groups: those of a convolution, whose dimension 0 counts the channels of all groups
    """
    if mode.lower() not in get_args(Mode):
        raise ValueError(f"Mode {mode} not supported, please use one of {list(get_args(Mode))}")
    if tensor.dim() < 2:
        raise ValueError("Fan in and fan out can not be computed for tensor with fewer than 2 dimensions")
    for axis in axes:
        if not -tensor.dim() <= axis < tensor.dim():
            raise IndexError(f"axes must be dimensions of a {tensor.dim()}-dimensional tensor, got {axes}")
    inputs, outputs = (axis % tensor.dim() for axis in axes)
    if inputs == outputs:
        raise ValueError(f"axes must be two different dimensions, of the inputs and of the outputs, got {axes}")
    elsewhere = math.prod(size for i, size in enumerate(tensor.shape) if i not in (inputs, outputs))
    fans = [elsewhere * tensor.size(axis) / (groups if axis == 0 else 1) for axis in (inputs, outputs)]
    return {"fan_in": fans[0], "fan_out": fans[1], "fan_avg": sum(fans) / 2}[mode.lower()]


def _filled_(
    distribution: Callable[..., Tensor],
    tensor: Tensor,
    gain: float,
    mode: Mode,
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
    """The same, but accepts tensors without elements, like torch's kaiming_* and unlike its xavier_*."""
    if 0 in tensor.shape:
        warnings.warn("Initializing zero-element tensors is a no-op", stacklevel=3)
        return tensor
    return _filled_(distribution, tensor, *rest)


@arguments_from(uniform_)
def glorot_uniform_(
    tensor: Tensor,
    gain: float = 1.0,
    generator: Generator = None,
    *,
    mode: Mode = "fan_avg",
    axes: tuple[int, int] = (1, 0),
    groups: int = 1,
) -> Tensor:
    """Fills a tensor from U(-b, b), of variance gain^2 / fan, like :func:`torch.nn.init.xavier_uniform_`.

    By default b = gain sqrt(6 / (fan_in + fan_out)).

    Args:
        tensor: The weight of a layer, with at least two dimensions.
        gain: The factor that makes up for the activation.
        mode: The fan, "fan_in" (preserves the variance forward), "fan_out" (backward) or their mean, "fan_avg".
        axes: The dimensions of the inputs and of the outputs, ``(0, 1)`` for transposed convolutions.
        groups: The groups of a convolution.

    Returns:
        The tensor.

    Example:
        >>> init.glorot_uniform_(torch.empty(500, 300), generator=torch.tensor([0, 1])).std()  # sqrt(2 / 800)
        tensor(0.0500)
    """
    return _filled_(uniform_, tensor, gain, mode, axes, groups, generator)


@arguments_from(glorot_uniform_)
def glorot_normal_(
    tensor: Tensor,
    gain: float = 1.0,
    generator: Generator = None,
    *,
    mode: Mode = "fan_avg",
    axes: tuple[int, int] = (1, 0),
    groups: int = 1,
) -> Tensor:
    """Fills a tensor from N(0, gain^2 / fan), like :func:`torch.nn.init.xavier_normal_`.

    Returns:
        The tensor.

    Example:
        >>> init.glorot_normal_(torch.empty(500, 300), generator=torch.tensor([0, 1])).std()  # sqrt(2 / 800)
        tensor(0.0501)
    """
    return _filled_(normal_, tensor, gain, mode, axes, groups, generator)


@arguments_from(glorot_uniform_)
def he_uniform_(
    tensor: Tensor,
    a: float = 0,
    mode: Mode = "fan_in",
    nonlinearity: Nonlinearity = "leaky_relu",
    generator: Generator = None,
    *,
    axes: tuple[int, int] = (1, 0),
    groups: int = 1,
) -> Tensor:
    """Fills a tensor from U(-b, b), of variance gain^2 / fan, like :func:`torch.nn.init.kaiming_uniform_`.

    Args:
        a: The slope of the "leaky_relu" that follows.
        mode: "fan_in", "fan_out" or "fan_avg", which torch lacks.
        nonlinearity: The name that :func:`torch.nn.init.calculate_gain` gets with ``a``.

    Returns:
        The tensor.

    Example:
        >>> init.he_uniform_(torch.empty(500, 300), generator=torch.tensor([0, 1])).std()  # sqrt(2 / 300)
        tensor(0.0817)
    """
    gain = calculate_gain(nonlinearity, a)
    return _scaled_(uniform_, tensor, gain, mode, axes, groups, generator)


@arguments_from(he_uniform_)
def he_normal_(
    tensor: Tensor,
    a: float = 0,
    mode: Mode = "fan_in",
    nonlinearity: Nonlinearity = "leaky_relu",
    generator: Generator = None,
    *,
    axes: tuple[int, int] = (1, 0),
    groups: int = 1,
) -> Tensor:
    """Fills a tensor from N(0, gain^2 / fan), like :func:`torch.nn.init.kaiming_normal_`.

    Returns:
        The tensor.

    Example:
        >>> init.he_normal_(torch.empty(500, 300), generator=torch.tensor([0, 1])).std()  # sqrt(2 / 300)
        tensor(0.0818)
    """
    gain = calculate_gain(nonlinearity, a)
    return _scaled_(normal_, tensor, gain, mode, axes, groups, generator)


@arguments_from(glorot_uniform_)
def lecun_uniform_(
    tensor: Tensor,
    gain: float = 1.0,
    generator: Generator = None,
    *,
    mode: Mode = "fan_in",
    axes: tuple[int, int] = (1, 0),
    groups: int = 1,
) -> Tensor:
    """Fills a tensor from U(-b, b), of variance gain^2 / fan; by default b = gain sqrt(3 / fan_in).

    Returns:
        The tensor.

    Example:
        >>> init.lecun_uniform_(torch.empty(500, 300), generator=torch.tensor([0, 1])).std()  # sqrt(1 / 300)
        tensor(0.0578)
    """
    return _scaled_(uniform_, tensor, gain, mode, axes, groups, generator)


@arguments_from(glorot_uniform_)
def lecun_normal_(
    tensor: Tensor,
    gain: float = 1.0,
    generator: Generator = None,
    *,
    mode: Mode = "fan_in",
    axes: tuple[int, int] = (1, 0),
    groups: int = 1,
) -> Tensor:
    """Fills a tensor from N(0, gain^2 / fan); by default the variance is gain^2 / fan_in.

    Returns:
        The tensor.

    Example:
        >>> init.lecun_normal_(torch.empty(500, 300), generator=torch.tensor([0, 1])).std()  # sqrt(1 / 300)
        tensor(0.0578)
    """
    return _scaled_(normal_, tensor, gain, mode, axes, groups, generator)


@arguments_from(glorot_uniform_)
def default_uniform_(
    tensor: Tensor,
    generator: Generator = None,
    *,
    mode: Mode = "fan_in",
    axes: tuple[int, int] = (1, 0),
    groups: int = 1,
) -> Tensor:
    """Fills a tensor from U(-1/sqrt fan, 1/sqrt fan), like the weights of torch's layers.

    Returns:
        The tensor.

    Example:
        >>> init.default_uniform_(torch.empty(500, 300), generator=torch.tensor([0, 1])).std()  # sqrt(1 / 900)
        tensor(0.0334)
    """
    return _scaled_(uniform_, tensor, 1 / math.sqrt(3.0), mode, axes, groups, generator)


xavier_uniform_ = glorot_uniform_
xavier_normal_ = glorot_normal_
kaiming_uniform_ = he_uniform_
kaiming_normal_ = he_normal_

Scheme = Literal[  # the names below, for type checkers
    "glorot",
    "glorot_uniform",
    "glorot_normal",
    "he",
    "he_uniform",
    "he_normal",
    "lecun",
    "lecun_uniform",
    "lecun_normal",
    "default",
    "xavier",
    "xavier_uniform",
    "xavier_normal",
    "kaiming",
    "kaiming_uniform",
    "kaiming_normal",
]
SCHEMES: dict[Scheme, Callable[..., Tensor]] = {
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
ALIASES: dict[str, Scheme] = {  # torch's names of schemes
    "xavier": "glorot",
    "xavier_uniform": "glorot_uniform",
    "xavier_normal": "glorot_normal",
    "kaiming": "he",
    "kaiming_uniform": "he_uniform",
    "kaiming_normal": "he_normal",
}


def _canonical(scheme: Any, option: str = "scheme", *others: str) -> Scheme:
    """The name of a scheme in SCHEMES. An error lists these, and the other values of an option."""
    for name in (scheme, ALIASES.get(scheme)) if isinstance(scheme, str) else ():
        if name in SCHEMES:
            return name
    names = ", ".join(map(repr, (*others, *SCHEMES, *ALIASES)))
    raise ValueError(f"{option} must be one of {names}. Got: {scheme!r}")


def initialize_(
    model: torch.nn.Module, scheme: Scheme = "he", *, seed: int | None = None, **options: Any
) -> torch.nn.Module:
    """Initializes all parameters of a model in place.

    A scheme fills the weights with two or more dimensions; transposed and grouped convolutions get their true fan.
    Embeddings are filled from N(0, 1), as in torch. Biases become 0. Other parameters, such as those of normalization,
    are left alone. The numbers of a parameter depend on the seed, its name (for shared parameters the alphabetically
    first one) and its shape, not on the order in which the model was built. A DTensor gets the numbers of the full
    parameter.

    Args:
        model: The model.
        scheme: "glorot" (or torch's name for it, "xavier"), "he" (or "kaiming") or "lecun", each with "_uniform" or
            "_normal" appended if desired, or "default". Without it "glorot" is uniform, "he" and "lecun" are normal.
        seed: A number, by default drawn from torch's generator.
        **options: Passed to the scheme: ``a``, ``mode``, ``gain``, ``nonlinearity``.

    Returns:
        The model.

    Example:
        >>> init.initialize_(torch.nn.Linear(2, 2), "he", seed=0).weight.detach()
        tensor([[ 0.3085,  0.4890],
                [-1.2293,  0.3313]])
    """
    name_of_scheme = _canonical(scheme)
    fill = SCHEMES[name_of_scheme]
    trial = torch.empty(1, 1, dtype=torch.float64)
    fill(trial, generator=torch.zeros(2, dtype=torch.int64), **options)  # bad options raise before anything is written
    seed = int(random_key(torch.empty(0))[0]) if seed is None else operator.index(seed)
    modules = dict(model.named_modules(remove_duplicate=False))
    names: dict[torch.nn.Parameter, str] = {}
    for name, parameter in sorted(model.named_parameters(remove_duplicate=False), reverse=True):
        if parameter.is_floating_point() and parameter.numel() > 0:
            if not fills_natively(parameter):
                raise TypeError(
                    f"initialize_ supports plain tensors and DTensors, got a {type(parameter).__name__} as {name}"
                )
            names[parameter] = name  # the alphabetically first name comes last
    for one in {p.device_mesh: p for p in names if is_dtensor(p)}.values():
        make_sure(one, "initialize_", seed=seed, scheme=name_of_scheme, options=tuple(sorted(options.items())))
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
    """The dimensions of the inputs and outputs of a layer's weight, and its groups."""
    axes = (0, 1) if isinstance(module, _ConvTransposeNd) else (1, 0)
    return dict(axes=axes, groups=module.groups if isinstance(module, _ConvNd) else 1)


def _number(name: str) -> int:
    """A 64-bit hash of a name."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little", signed=True)


if not TYPE_CHECKING:  # which would accept every name
    __getattr__ = missing(__name__, "torch.nn.init")

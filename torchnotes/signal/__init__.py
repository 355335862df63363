"""Signal propagation: how the variances of activations and gradients change from layer to layer, as row 20 of the notes
predicts and as measured.

For z = w x + b, of k products with independent factors (torchnotes/init.py),

    Var(z) = k (Var w Var x + Var x (E w)^2 + Var w (E x)^2) + Var b

In the notes weights and inputs are random variables. The units of a layer and the examples are their samples: E and Var
are taken over all elements of a tensor, that is over the batch, units and positions. If elements have different numbers
of products, because of padding or the stride of a transposed convolution, k above is the mean number. Their means,
k E w E x each, differ then, which adds Var(k) (E w E x)^2.

The share of Var(z) that is due to the batch is the average variance of a unit over the batch. The rest is the variance
between units, which does not depend on the input: with sigmoids or biases Var(z) may stay constant while all examples
become alike.

The backward pass multiplies dL/dz by W^T and f'(z) in each layer; for sigmoids f' is at most 1/4 (row 11). For m units

    Var(dL/dx) = m Var(w) Var(dL/dz),    k Var(dL/dx) = k Var(w) * m Var(dL/dz)

if the means are 0. Weights that preserve Var(z) therefore preserve the squared length of the gradient, in layers of any
shape.
"""

import contextlib
import copy
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from .. import _html
from .._table import table
from ..init import Scheme, _canonical, initialize_
from ._layers import Layer as Layer
from ._layers import changes, gradients, layers_of, record_calls
from ._observer import Measurement as Measurement
from ._problems import Problem as Problem
from ._problems import SignalWarning as SignalWarning
from ._watch import Record as Record
from ._watch import Watch as Watch
from ._watch import watch as watch

_NUMBERS = ("var_w", "var_x", "predicted", "var_z", "batch_share", "var_gradient")
_HEADER = ("layer", "kind", "k", "Var(w)", "Var(x)", "predicted", "Var(z)", "of batch", "Var(dL/dz)", "")


class Flag(NamedTuple):
    """Where a variance vanishes or explodes, or the examples become alike.

    Args:
        what: "z", "gradient" or "examples".
        how: What happens to it.
        layer: The name of the layer.

    Example:
        >>> print(signal.Flag("gradient", "vanishes", "3"))
        gradient vanishes
    """

    what: str
    how: str
    layer: str

    def __str__(self) -> str:
        return f"{self.what} {self.how}"


@dataclass(frozen=True)
class Propagation:
    """The result of :func:`~torchnotes.signal.propagation`. ``str()`` formats it as a table.

    Attributes:
        layers: The measurements, in the order of calls.
        unreached: The names of layers that were not called.
        limit: The factor by which a variance has to change to be flagged.
        tried: The schemes that were tried because something was flagged.
        holding: Those that work, the best first, as arguments of :func:`~torchnotes.init.initialize_`.
    """

    layers: tuple[Layer, ...]
    unreached: tuple[str, ...]
    limit: float
    tried: tuple[str, ...] = ()
    holding: tuple[dict[str, Any], ...] = ()

    @property
    def flags(self) -> tuple[Flag, ...]:
        """The first flag for each of z, the gradient and the examples, if there is one.

        z vanishes or explodes if Var(z) is `limit` times smaller or larger than in the first layer, and the gradient if
        its squared length is so compared to the last layer. Examples become alike if the batch's share of Var(z) is
        below 1/limit.
        """
        return tuple(flags[0] for flags in self._flags() if flags)

    def _flags(self) -> tuple[list[Flag], ...]:
        alike = (layer for layer in self.layers if layer.batch_share is not None and layer.batch_share * self.limit < 1)
        return (
            [Flag("z", how, name) for name, how in changes(self._forward(), self.limit)],
            [Flag("gradient", how, name) for name, how in changes(self._backward(), self.limit)],
            [Flag("examples", "become alike", layer.name) for layer in alike],
        )

    def _forward(self) -> list[tuple[str, float]]:
        return [(layer.name, layer.var_z) for layer in self.layers if layer.var_z is not None]

    def _backward(self) -> list[tuple[str, float]]:
        backwards = self.layers[::-1]
        return [(layer.name, layer.squared_gradient) for layer in backwards if layer.squared_gradient is not None]

    @property
    def verdict(self) -> str:
        """One sentence on what was flagged and which initialization would prevent it."""
        if not self.flags:
            return "nothing vanishes or explodes"
        found = ", ".join(f"{flag} at layer {flag.layer}" for flag in self.flags)
        if self.holding:
            best, *others = (_spelled(**held) for held in self.holding)
            so_would = f", and so would {' and '.join(others)}" if others else ""
            return f"{found}: initialize_(model, {best}) would hold it{so_would}"
        if self.tried:
            remedies = "normalize, add skip connections, or replace sigmoids, whose slope is 1/4 at most"
            return f"{found}: none of {', '.join(self.tried)} would hold it; {remedies}"
        return found

    def _rows(self) -> list[tuple[str, ...]]:
        marks: dict[str, list[str]] = {layer.name: [] for layer in self.layers}
        for flag in (flag for flags in self._flags() for flag in flags):
            marks[flag.layer].append(str(flag))
        rows = []
        for layer in self.layers:
            numbers = (getattr(layer, number) for number in _NUMBERS)
            texts = ("-" if number is None else f"{number:.3g}" for number in numbers)
            rows.append((layer.name, layer.kind, str(layer.fan_in), *texts, ", ".join(marks[layer.name])))
        return rows

    def _conclusions(self) -> tuple[str, ...]:
        return (self.verdict, *([f"not called: {', '.join(self.unreached)}"] if self.unreached else []))

    def __str__(self) -> str:
        return "\n".join((table(_HEADER, self._rows()), "", *self._conclusions()))

    def _repr_html_(self) -> str:
        return _html.snippet((_html.table(_HEADER, self._rows()), *map(_html.paragraph, self._conclusions())))

    def plot(self) -> Any:
        """Draws the predicted and measured Var(z) and the gradient's variance in each layer.

        Returns:
            A matplotlib Figure, which a notebook shows below the cell.
        """
        from ._figure import of_layers

        return of_layers(self.layers).shown()


@torch.inference_mode(False)  # also enables gradients
def propagation(
    model: torch.nn.Module,
    batch: Any,
    *,
    loss: Callable[[Any], Tensor] | None = None,
    limit: float = 1e3,
    schemes: Sequence[Scheme] = ("lecun", "glorot", "he"),
) -> Propagation:
    """Measures how a forward and a backward pass change the variance from layer to layer.

    The layers are Linear and the convolutions, including transposed ones, of torch and of torchnotes. z is the output
    before the activation, even if the activation is fused into the layer. Other modules affect the next layer's x. A
    copy of the model runs in its current mode, and torch's generators are restored, so that the model is unchanged.

    Args:
        model: The model.
        batch: A tensor, or the model's arguments as a tuple, list or dict.
        loss: A function of the model's output. By default dL/dy consists of fixed numbers from N(0, 1), for all tensors
            of the output.
        limit: The factor by which a variance has to change over the depth to be flagged.
        schemes: Schemes of ``torchnotes.init``. If anything is flagged, the model is initialized by each of them and
            measured again.

    Returns:
        The measurements, and what was flagged.

    Example:
        >>> found = signal.propagation(nn.MLP([64] * 30, "sigmoid", init="glorot"), torch.randn(32, 64))
        >>> print(found.flags[0])
        gradient vanishes
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model must be a torch.nn.Module. Got: {type(model).__name__}")
    if not limit > 1:
        raise ValueError(f"limit must be above 1. Got: {limit}")
    for scheme in schemes:
        _canonical(scheme, "schemes")
    if any(torch.nn.parameter.is_lazy(parameter) for parameter in model.parameters()):
        raise ValueError("the model is lazy: call it once, so that its layers know their sizes")
    found = _measured(copy.deepcopy(model), batch, loss, limit)
    if not found.flags:
        return found
    holding = []
    for scheme in schemes:  # why they are tried: docs/decisions/signal.md
        options: dict[str, Any] = {"scheme": scheme, **(_slope(model) if _canonical(scheme).startswith("he") else {})}
        trial = _measured(initialize_(copy.deepcopy(model), seed=0, **options), batch, loss, limit)
        if not trial.flags:
            holding.append((_excursion(trial), options))
    holding.sort(key=lambda held: held[0])
    return replace(found, tried=tuple(schemes), holding=tuple(options for _, options in holding))


def _measured(model: torch.nn.Module, batch: Any, loss: Callable[[Any], Tensor] | None, limit: float) -> Propagation:
    """Measures a model, which may be changed."""
    names = layers_of(model)
    if not names:
        raise ValueError("the model has no layer to measure: Linear, Conv1d, ConvTranspose1d, ..., of real numbers")
    calls: list[tuple[Layer, Tensor]] = []
    for layer, name in names.items():
        record_calls(layer, name, calls)
    # Compiled code would not call the layers. There is none unless the compiler is loaded.
    eager = torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else contextlib.nullcontext()
    with eager:
        arguments, keywords = pytree.tree_map_only(Tensor, _copied, _arguments(batch))
        tensors = (*model.parameters(), *model.buffers(), *pytree.tree_leaves((arguments, keywords)))
        gpus = {tensor.device.index for tensor in tensors if isinstance(tensor, Tensor) and tensor.is_cuda}
        with torch.random.fork_rng(sorted(gpus)):
            output = model(*arguments, **keywords)
            if not calls:
                raise ValueError(f"no layer was called, of {', '.join(names.values())}")
            layers, zs = zip(*calls, strict=True)  # a backward pass with checkpoints calls layers again
            found = gradients(output, loss, zs)
    measured = tuple(layer.with_gradient(gradient) for layer, gradient in zip(layers, found, strict=True))
    called = {layer.name for layer in measured}
    return Propagation(measured, tuple(name for name in names.values() if name not in called), limit)


def _arguments(batch: Any) -> tuple[tuple, dict[str, Any]]:
    if isinstance(batch, Mapping):
        return (), dict(batch)
    return tuple(batch) if isinstance(batch, (tuple, list)) else (batch,), {}


def _copied(x: Tensor) -> Tensor:
    return x.detach().clone().requires_grad_(x.requires_grad)


def _excursion(found: Propagation) -> float:
    """The largest logarithmic deviation of sizes from the first one, if none vanishes."""
    ways = (found._forward(), found._backward())
    return max((abs(math.log(size / way[0][1])) for way in ways for _, size in way), default=0.0)


def _spelled(scheme: str, **options: float) -> str:
    return ", ".join((repr(scheme), *(f"{name}={value}" for name, value in options.items())))


def _slope(model: torch.nn.Module) -> dict[str, float]:
    """The slope of the leaky ReLUs, if all have the same."""
    leaky = (
        vars(module)
        for module in model.modules()
        if isinstance(module, torch.nn.LeakyReLU) or vars(module).get("activation") == "leaky_relu"
    )
    slopes = {attributes["negative_slope"] for attributes in leaky if "negative_slope" in attributes}
    return {"a": slopes.pop()} if len(slopes) == 1 else {}

"""How far a signal and its gradient come in a model: what row 20 of the notes predicts, beside what is measured.

For z = w x + b, of k products with independent factors (torchnotes/init.py),

    Var(z) = k (Var w Var x + Var x (E w)^2 + Var w (E x)^2) + Var b

The notes draw weights and inputs at random. The units of a layer and the examples are such draws: E and Var are taken
over all elements of a tensor, batch, units and positions alike. Where padding, or the stride of a transposed
convolution, leaves elements with fewer products, k above is their mean number, and their means, k E w E x each, differ:
Var(k) (E w E x)^2 more.

Of Var(z) the batch makes as much as the units vary in it on average. The rest lies between the units, and is there
without any input: with sigmoids or with biases Var(z) may stay as it is while all examples become alike.

Backwards, from layer to layer, dL/dz is multiplied by W^T and f'(z), of sigmoids at most 1/4 (row 11). For m units

    Var(dL/dx) = m Var(w) Var(dL/dz),    k Var(dL/dx) = k Var(w) * m Var(dL/dz)

at means of 0, so that weights which keep Var(z) keep the squared length of the gradient, in layers of any shape.
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

from .._table import table
from ..init import SCHEMES, initialize_
from ._layers import Layer as Layer
from ._layers import gradients, layers_of, watch

_NUMBERS = ("var_w", "var_x", "predicted", "var_z", "batch_share", "var_gradient")
_HEADER = ("layer", "kind", "k", "Var(w)", "Var(x)", "predicted", "Var(z)", "of batch", "Var(dL/dz)", "")


class Flag(NamedTuple):
    what: str  # z, gradient or examples
    how: str
    layer: str

    def __str__(self) -> str:
        return f"{self.what} {self.how}"


@dataclass(frozen=True)
class Propagation:
    """What `propagation` found; str() of it is a table."""

    layers: tuple[Layer, ...]  # in the order of their calls
    unreached: tuple[str, ...]  # layers that were not called
    limit: float
    tried: tuple[str, ...] = ()  # the schemes that were tried, if anything was flagged,
    holding: tuple[dict[str, Any], ...] = ()  # and those that hold, the best first: initialize_(model, **holding[0])

    @property
    def flags(self) -> tuple[Flag, ...]:
        """Of z, of the gradient and of the examples the first flag on the way, if there is one.

        z vanishes or explodes where Var(z) is `limit` times below or above the first layer's, the gradient where its
        squared length is so beside the last layer's; examples become alike where the batch makes less than 1/limit of
        Var(z).
        """
        return tuple(flags[0] for flags in self._flags() if flags)

    def _flags(self) -> tuple[list[Flag], ...]:
        alike = (layer for layer in self.layers if layer.batch_share is not None and layer.batch_share * self.limit < 1)
        return (
            [Flag("z", how, name) for name, how in _changes(self._forward(), self.limit)],
            [Flag("gradient", how, name) for name, how in _changes(self._backward(), self.limit)],
            [Flag("examples", "become alike", layer.name) for layer in alike],
        )

    def _forward(self) -> list[tuple[str, float]]:
        return [(layer.name, layer.var_z) for layer in self.layers if layer.var_z is not None]

    def _backward(self) -> list[tuple[str, float]]:
        backwards = self.layers[::-1]
        return [(layer.name, layer.squared_gradient) for layer in backwards if layer.squared_gradient is not None]

    @property
    def verdict(self) -> str:
        if not self.flags:
            return "nothing vanishes or explodes"
        found = ", ".join(f"{flag} at layer {flag.layer}" for flag in self.flags)
        if self.holding:
            best, *others = (_spelled(**held) for held in self.holding)
            so_would = f", and so would {' and '.join(others)}" if others else ""
            return f"{found}: initialize_(model, {best}) would hold it{so_would}"
        if self.tried:
            remedies = "normalise, add skip connections, or replace sigmoids, whose slope is 1/4 at most"
            return f"{found}: none of {', '.join(self.tried)} would hold it; {remedies}"
        return found

    def __str__(self) -> str:
        marks: dict[str, list[str]] = {layer.name: [] for layer in self.layers}
        for flag in (flag for flags in self._flags() for flag in flags):
            marks[flag.layer].append(str(flag))
        rows = []
        for layer in self.layers:
            numbers = (getattr(layer, number) for number in _NUMBERS)
            texts = ("-" if number is None else f"{number:.3g}" for number in numbers)
            rows.append((layer.name, layer.kind, str(layer.fan_in), *texts, ", ".join(marks[layer.name])))
        unreached = [f"not called: {', '.join(self.unreached)}"] if self.unreached else []
        return "\n".join((table(_HEADER, rows), "", self.verdict, *unreached))

    def plot(self) -> Any:
        """A matplotlib Figure: Var(z) as predicted and as measured, and the gradient's variance, layer by layer."""
        from ._figure import of_layers

        return of_layers(self.layers)


@torch.inference_mode(False)  # this turns gradients on, too
def propagation(
    model: torch.nn.Module,
    batch: Any,
    *,
    loss: Callable[[Any], Tensor] | None = None,
    limit: float = 1e3,
    schemes: Sequence[str] = ("lecun", "glorot", "he"),
) -> Propagation:
    """Sends a batch through a model and a gradient back, and measures both at every call of a layer with a weight.

    Those are Linear and the convolutions, transposed ones too, torch's and ours. z comes before the activation, where
    that is fused into the layer, too. What lies between them shows in the next layer's x.

    batch    a tensor; or the model's arguments as a tuple, a list or a dict
    loss     a function of the model's output. Without one dL/dy are numbers of N(0, 1), the same every time, for all
             tensors of the output
    limit    how many times a variance has to change over the depth to be flagged
    schemes  of torchnotes.init. If anything is flagged, the model is started by each of them and measured again

    The model runs in the mode that it is in, as a copy, and torch's generators are put back: it stays as it was.
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model must be a torch.nn.Module. Got: {type(model).__name__}")
    if not limit > 1:
        raise ValueError(f"limit must be above 1. Got: {limit}")
    for scheme in schemes:
        if scheme not in SCHEMES:
            raise ValueError(f"schemes must be of {', '.join(map(repr, SCHEMES))}. Got: {scheme!r}")
    if any(torch.nn.parameter.is_lazy(parameter) for parameter in model.parameters()):
        raise ValueError("the model is lazy: call it once, so that its layers know their sizes")
    found = _measured(copy.deepcopy(model), batch, loss, limit)
    if not found.flags:
        return found
    holding = []
    for scheme in schemes:  # why they are tried: docs/decisions/signal.md
        options: dict[str, Any] = {"scheme": scheme, **(_slope(model) if scheme.startswith("he") else {})}
        trial = _measured(initialize_(copy.deepcopy(model), seed=0, **options), batch, loss, limit)
        if not trial.flags:
            holding.append((_excursion(trial), options))
    holding.sort(key=lambda held: held[0])
    return replace(found, tried=tuple(schemes), holding=tuple(options for _, options in holding))


def _measured(model: torch.nn.Module, batch: Any, loss: Callable[[Any], Tensor] | None, limit: float) -> Propagation:
    """Of a model that may be changed."""
    names = layers_of(model)
    if not names:
        raise ValueError("the model has no layer to measure: Linear, Conv1d, ConvTranspose1d, ..., of real numbers")
    calls: list[tuple[Layer, Tensor]] = []
    for layer, name in names.items():
        watch(layer, name, calls)
    # Compiled code would not call the layers. There is none where the compiler is not even loaded.
    eager = torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else contextlib.nullcontext()
    with eager:
        arguments, keywords = pytree.tree_map_only(Tensor, _copied, _arguments(batch))
        tensors = (*model.parameters(), *model.buffers(), *pytree.tree_leaves((arguments, keywords)))
        gpus = {tensor.device.index for tensor in tensors if isinstance(tensor, Tensor) and tensor.is_cuda}
        with torch.random.fork_rng(sorted(gpus)):
            output = model(*arguments, **keywords)
            if not calls:
                raise ValueError(f"no layer was called, of {', '.join(names.values())}")
            layers, zs = zip(*calls, strict=True)  # a backward that computes parts of the model again calls layers, too
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


def _changes(sizes: Sequence[tuple[str, float]], limit: float) -> list[tuple[str, str]]:
    """The names whose size is far from the first one's, and how."""
    changes = []
    for name, size in sizes:
        if not math.isfinite(size):
            changes.append((name, "is not finite"))
        elif size == 0 or size * limit < sizes[0][1]:
            changes.append((name, "vanishes"))
        elif size > sizes[0][1] * limit:
            changes.append((name, "explodes"))
    return changes


def _excursion(found: Propagation) -> float:
    """How far, as a logarithm, sizes of which none vanishes leave the one that they start with."""
    ways = (found._forward(), found._backward())
    return max((abs(math.log(size / way[0][1])) for way in ways for _, size in way), default=0.0)


def _spelled(scheme: str, **options: float) -> str:
    return ", ".join((repr(scheme), *(f"{name}={value}" for name, value in options.items())))


def _slope(model: torch.nn.Module) -> dict[str, float]:
    """That of the leaky ReLUs, if they have one in common."""
    leaky = (
        vars(module)
        for module in model.modules()
        if isinstance(module, torch.nn.LeakyReLU) or vars(module).get("activation") == "leaky_relu"
    )
    slopes = {attributes["negative_slope"] for attributes in leaky if "negative_slope" in attributes}
    return {"a": slopes.pop()} if len(slopes) == 1 else {}

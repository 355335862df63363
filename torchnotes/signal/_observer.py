"""What happens in the layers of a model during one training step, seen by forward hooks that change nothing.

Sums over the calls of a layer are computed at once and read at the end of the step, so that no activation is kept and a
GPU is waited for once. They are in float64, because the squares of small gradients underflow in float32.
"""

import functools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.nn.modules.conv import _ConvNd

from ..conversion._converted import already_in
from ..nn.linear import Linear
from ..nn.normalization import _Options as _Normalization
from ..ops.activations import ACTIVATIONS, ENDINGS

# Middle and reach: s (1 - s) < 0.01 / 4 if |s - 1/2| > sqrt(0.99) / 2, and 1 - t^2 < 0.01 if |t| > sqrt(0.99). Of
# inputs from N(0, 1), 0.3 % saturate a tanh, and none a sigmoid.
_SATURATED = {"sigmoid": (0.5, 0.99**0.5 / 2), "tanh": (0.0, 0.99**0.5)}
_KINDS = {getattr(torch.nn, info.module): name for name, info in ACTIVATIONS.items()} | {torch.nn.ReLU6: "relu"}


@dataclass(frozen=True)
class Measurement:
    """What was measured in a layer during one training step, over all its calls.

    Values are None where there was nothing to measure. z is the output before the activation.

    Attributes:
        name: The name of the layer in the model.
        kind: The name of its class.
        var_z: The variance of z.
        var_gradient: The variance of dL/dz.
        squared_gradient: The squared length of dL/dz.
        weight_gradient: The length of dL/dW.
        update_ratio: The length of the update of W, divided by that of W.
        dead: The share of the units of the ReLUs after the layer that were 0 for the whole batch.
        positions: How many numbers per unit that was concluded from.
        saturated: The share of the outputs of the sigmoids or tanhs after the layer whose derivative is below 1 % of
            its maximum.
    """

    name: str
    kind: str
    var_z: float | None = None
    var_gradient: float | None = None
    squared_gradient: float | None = None
    weight_gradient: float | None = None
    update_ratio: float | None = None
    dead: float | None = None
    positions: int = 0
    saturated: float | None = None


class _Sums:
    def __init__(self) -> None:
        self.count = 0
        self.total: Any = 0.0
        self.squares: Any = 0.0

    def add(self, x: Tensor) -> None:
        self.count += x.numel()
        self.total = self.total + x.detach().sum(dtype=torch.float64)
        self.squares = self.squares + _square(x)


class _Seen:
    """A layer, and what was seen of it in this step."""

    def __init__(self, name: str, module: torch.nn.Module) -> None:
        self.name, self.module = name, module
        self.z, self.gradient = _Sums(), _Sums()
        self.alive: dict[tuple[torch.nn.Module, int], Tensor] = {}  # by the ReLU and its number of units
        self.positions = 0
        self.saturated: Any = 0.0
        self.saturable = 0

    @property
    def unit_axis(self) -> int:
        weight = self.module._parameters.get("weight")
        return 1 - weight.dim() if isinstance(self.module, _ConvNd) and weight is not None else -1

    @functools.cached_property
    def weights(self) -> list[Tensor]:
        """Those of a parametrized layer are not computed again, which may change buffers or consume random numbers."""
        return [p for p in self.module.parameters() if p.dim() > 1 and p.requires_grad and p.is_floating_point()]


class _Hook:
    """A forward hook. Copies of a model, also pickled ones, get one that does nothing."""

    knows_shortcuts = True  # for converted modules: it asks them whether a result includes the next activation

    def __init__(self, see: Callable[..., None]) -> None:
        self.see = see

    def __call__(self, module: torch.nn.Module, arguments: tuple, keywords: dict[str, Any], output: Any) -> None:
        self.see(module, arguments, keywords, output)

    def __reduce__(self) -> tuple:
        return _Hook, (_nothing,)


def _nothing(*arguments: Any) -> None:
    pass


def layers_of_a_run(model: torch.nn.Module) -> dict[torch.nn.Module, str]:
    """The layers that z is measured in: modules with a matrix as their weight, except embeddings."""
    kinds = (torch.nn.Linear, _ConvNd)
    return {
        module: name or type(module).__name__
        for name, module in model.named_modules()
        if isinstance(module, kinds) or _is_a_layer(module)
    }


def _is_a_layer(module: torch.nn.Module) -> bool:
    weight = module._parameters.get("weight")  # also transformers' Conv1D, for example
    of_matrix = weight is not None and weight.is_floating_point() and weight.dim() > 1
    return of_matrix and not module._modules and not isinstance(module, (torch.nn.Embedding, torch.nn.EmbeddingBag))


class Observer:
    """Sees the calls of a model's layers from `start` to `stop`."""

    def __init__(self, model: torch.nn.Module, names: dict[torch.nn.Module, str]) -> None:
        self.model = model
        self.seen = {module: _Seen(name, module) for module, name in names.items()}
        self.order: list[_Seen] = []
        self._before: list[list[Tensor]] = []
        self._handles: list[Any] = []

    def start(self) -> None:
        hook = _Hook(self._see)
        for module in self.model.modules():
            if module in self.seen or _activation(module):
                self._handles.append(module.register_forward_hook(hook, prepend=True, with_kwargs=True))

    def stop(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def before_update(self) -> None:
        self._before = [[weight.detach().clone() for weight in seen.weights] for seen in self.seen.values()]

    def _see(self, module: torch.nn.Module, arguments: tuple, keywords: dict[str, Any], y: Any) -> None:
        if torch.compiler.is_compiling() or not (self.model.training and torch.is_grad_enabled()):
            return
        if not isinstance(y, Tensor) or not y.is_floating_point() or not y.numel() or is_functorch_wrapped_tensor(y):
            return
        seen, fused = self.seen.get(module), already_in(y) or _fused(module)
        if seen is not None:
            if not seen.z.count:
                self.order.append(seen)
            self._last = seen
            with torch.no_grad():
                z = y if fused is None else _before_activation(module, arguments, keywords)
                if z is not None:
                    seen.z.add(z)
            if y.requires_grad:
                y.register_hook(seen.gradient.add if fused is None else _of_gradient(seen.gradient, fused, y.detach()))
        activation = _activation(module)
        if activation and self.order:
            with torch.no_grad():
                _note_units(self._last, module, activation, y.detach())

    @torch.no_grad()
    def measurements(self) -> tuple[tuple[Measurement, ...], float | None]:
        """What was seen, and the length of the gradient of all parameters. To be called after the update."""
        ratios = self._updates()
        parameters: dict[Tensor, Tensor] = {p: _square(p.grad) for p in self.model.parameters() if p.grad is not None}
        rows: list[dict[str, Any]] = [{"square": sum(parameters.values())}]
        for seen in self.order:
            gradients = [parameters[weight] for weight in seen.weights if weight in parameters]
            change, size = ratios.get(seen.module, (None, None))
            rows.append(
                {
                    "z": seen.z.total,
                    "zz": seen.z.squares,
                    "g": seen.gradient.total,
                    "gg": seen.gradient.squares,
                    "weight": sum(gradients) if gradients else None,
                    "change": change,
                    "size": size,
                    "alive": sum(units.sum() for units in seen.alive.values()),
                    "saturated": seen.saturated,
                }
            )
        total, *numbers = _read(rows)
        measured = tuple(_measurement(seen, **row) for seen, row in zip(self.order, numbers, strict=True))
        return measured, total["square"] ** 0.5 if parameters else None

    def _updates(self) -> dict[torch.nn.Module, tuple[Any, Any]]:
        """The squared lengths of the update and of the weights before it."""
        updates = {}
        for seen, before in zip(self.seen.values(), self._before, strict=False):
            pairs = list(zip(seen.weights, before, strict=True))
            if pairs:
                updates[seen.module] = (
                    sum(_square(w - old) for w, old in pairs),
                    sum(_square(old) for _, old in pairs),
                )
        return updates


def _activation(module: torch.nn.Module) -> str | None:
    """The name of the activation that a module is or ends with."""
    if isinstance(module, (Linear, _Normalization)):
        return module.activation
    return next((name for kind, name in _KINDS.items() if isinstance(module, kind)), None)


def _fused(module: torch.nn.Module) -> torch.nn.Module | None:
    return module if isinstance(module, Linear) and module.activation else None


def _before_activation(layer: Any, arguments: tuple, keywords: dict[str, Any]) -> Tensor | None:
    """z of a layer that returns f(z)."""
    x = next((value for value in (*arguments, *keywords.values()) if isinstance(value, Tensor)), None)
    weight, bias = layer._parameters.get("weight"), layer._parameters.get("bias")
    if x is None or weight is None:  # parametrized: see _Seen.weights
        return None
    return torch.nn.functional.linear(x.detach(), weight.detach(), None if bias is None else bias.detach())


def _of_gradient(sums: _Sums, after: Any, y: Tensor) -> Callable[[Tensor], None]:
    """A hook of the output y = f(z), where f is the activation, or that of the layer, `after`.

    The layer has saved y, too, so that nothing overwrites it before.
    """
    backward = ENDINGS[_activation(after)].backward  # type: ignore[index] # scripted attributes are plain str
    slope = getattr(after, "negative_slope", 0.0)

    @torch.no_grad()
    def add(g: Tensor) -> None:
        if backward is not None:
            sums.add(backward(g.detach(), y, slope))

    return add


def _note_units(seen: _Seen, module: torch.nn.Module, activation: str, y: Tensor) -> None:
    axis = 1 if isinstance(module, _Normalization) else seen.unit_axis
    if not -y.dim() <= axis < y.dim():
        axis = -1
    if activation == "relu":
        others = [other for other in range(y.dim()) if other != axis % y.dim()]
        units = y.size(axis)
        alive = (y.amax(others) if others else y) != 0
        old = seen.alive.get((module, units))
        seen.alive[module, units] = alive if old is None else alive | old
        seen.positions += y.numel() // units
    elif activation in _SATURATED:
        middle, reach = _SATURATED[activation]
        seen.saturated = seen.saturated + ((y - middle).abs_() > reach).sum()
        seen.saturable += y.numel()


def _square(x: Tensor) -> Tensor:
    x = x.detach().coalesce().values() if x.is_sparse else x.detach()
    x = torch.view_as_real(x) if x.is_complex() else x
    return torch.linalg.vector_norm(x, dtype=torch.float64).square()  # converts x in its pass


def _read(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Replaces the tensors in dicts by their numbers, waiting for each device once."""
    rows = [dict(row) for row in rows]
    places: dict[torch.device, list[tuple[dict[str, Any], str]]] = {}
    for row in rows:
        for key, value in row.items():
            if isinstance(value, Tensor):
                if hasattr(value, "full_tensor"):  # a DTensor, whose ranks add their parts
                    row[key] = value = value.full_tensor()
                places.setdefault(value.device, []).append((row, key))
    for found in places.values():
        numbers = torch.stack([row[key].double() for row, key in found]).tolist()
        for (row, key), number in zip(found, numbers, strict=True):
            row[key] = number
    return rows


def _measurement(seen: _Seen, **row: Any) -> Measurement:
    units = sum(len(alive) for alive in seen.alive.values())
    return Measurement(
        seen.name,
        type(seen.module).__name__,
        _variance(seen.z.count, row["z"], row["zz"]),
        _variance(seen.gradient.count, row["g"], row["gg"]),
        row["gg"] if seen.gradient.count else None,
        None if row["weight"] is None else row["weight"] ** 0.5,
        (row["change"] / row["size"]) ** 0.5 if row["size"] else None,
        1 - row["alive"] / units if units else None,
        seen.positions // max(1, len(seen.alive)),
        row["saturated"] / seen.saturable if seen.saturable else None,
    )


def _variance(count: int, total: float, squares: float) -> float | None:
    if count < 2:
        return None
    variance = squares / count - (total / count) ** 2
    return variance if math.isnan(variance) else max(0.0, variance)

"""The figures of torchnotes.signal."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ._layers import Layer
from ._observer import Measurement

STYLES: dict[
    str, dict[str, Any]
] = {  # colors for the color-blind; glorot and lecun coincide if there are as many outputs as inputs
    "default": dict(color="#d55e00"),
    "lecun": dict(color="#9ad0f0", linewidth=5.0),
    "glorot": dict(color="#0072b2"),
    "he": dict(color="#009e73"),
}
DOTTED: dict[str, Any] = dict(linestyle=":", linewidth=1.5)
FORWARD, BACKWARD = r"forward: $\mathrm{Var}(z)$", r"backward: $\mathrm{Var}(\partial L/\partial z)$"
OVER_TIME = {
    r"$\mathrm{Var}(z)$": ("var_z",),
    r"$\mathrm{Var}(\partial L/\partial z)$": ("var_gradient",),
    "update / weight": ("update_ratio",),
    "dead units, saturated (dashed)": ("dead", "saturated"),
}
ROUNDING = 1e-28  # upper bound of the variance due to rounding errors, for a mean of 1
# The factors by which a layer with weights of variance 1/3k divides the variances, forward and backward: 3, times the
# attenuation of the activation. The mean of a sigmoid, 1/2, sustains the forward variance.
DIVIDED = {"identity": (3, 3), "tanh": (3, 3), "relu": (6, 6), "sigmoid": (None, 48)}


def comparison(networks: Mapping[tuple[str, str], Sequence[Layer]]) -> Any:
    """Compares networks by activation and scheme: one column per activation, one line per scheme."""
    activations = tuple(dict.fromkeys(activation for activation, _ in networks))
    figure = _figure(max(4.5, 3.0 * len(activations)), 5.8)
    rows = figure.subplots(2, len(activations), sharex=True, sharey="row", squeeze=False)
    for (forward, backward), activation in zip(rows.T, activations, strict=True):
        schemes = {scheme: layers for (of, scheme), layers in networks.items() if of == activation}
        for number, (scheme, layers) in enumerate(schemes.items()):
            style = STYLES.get(scheme, dict(color=f"C{number}"))
            _line(forward, (layer.var_z for layer in layers), label=scheme, **style)
            _line(forward, map(_of_batch, layers), **{**style, **DOTTED})
            _line(backward, (layer.var_gradient for layer in layers), label=scheme, **style)
        if "default" in schemes and activation in DIVIDED:
            depth, (forth, back) = len(schemes["default"]), DIVIDED[activation]
            _power(forward, forth, range(1, depth + 1), (6, 6))
            _power(backward, back, range(depth, 0, -1), (8, -14))
        forward.set_title(activation)
        backward.set_xlabel("layer")
    for axes, label in zip(rows[:, 0], (FORWARD, BACKWARD), strict=True):
        axes.set_ylabel(label)
    for axes in rows[:, 0]:
        _decades(axes)
    entries = {label: line for axes in rows.flat for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    entries["part made by the batch"] = rows[0, 0].plot([], [], color="black", **DOTTED)[0]
    names, lines = list(entries), list(entries.values())
    figure.legend(lines, names, loc="outside upper center", ncols=2 * len(activations), frameon=False)
    return figure


def of_layers(layers: Sequence[Layer]) -> Any:
    """The predicted and measured variances of a network."""
    figure = _figure(9.0, 3.6)
    forward, backward = figure.subplots(1, 2)
    _line(forward, (layer.var_z for layer in layers), label="measured", **STYLES["lecun"])
    _line(forward, (layer.predicted for layer in layers), label="predicted from its input", **STYLES["glorot"])
    _line(forward, map(_of_batch, layers), label="part made by the batch", color="black", **DOTTED)
    _line(backward, (layer.var_gradient for layer in layers), **STYLES["glorot"])
    forward.legend(frameon=False)
    _decades(forward)
    _decades(backward)
    forward.set(title=FORWARD, xlabel="layer")
    backward.set(title=BACKWARD, xlabel="layer")
    return figure


def over_time(steps: Sequence[int], layers: Mapping[str, Sequence[Measurement | None]]) -> Any:
    """What was measured in each layer over the steps of a run, from the first layer (blue) to the last (green).

    On a logarithmic axis zeros leave gaps.
    """
    from matplotlib import colormaps

    figure = _figure(9.0, 6.6)
    for axes, (title, numbers) in zip(figure.subplots(2, 2, sharex=True).flat, OVER_TIME.items(), strict=True):
        shares = numbers[0] == "dead"
        axes.set_yscale("linear" if shares else "log")
        for place, (name, measured) in enumerate(layers.items()):
            color = colormaps["viridis"](0.3 + 0.5 * place / max(1, len(layers) - 1))  # visible on black, too
            for number, style in zip(numbers, ("-", "--"), strict=False):
                points = [getattr(one, number, None) for one in measured]
                line = [math.nan if point is None or (not shares and point <= 0) else point for point in points]
                if not all(map(math.isnan, line)):
                    axes.plot(steps, line, style, color=color, marker=".", linewidth=1, label=name)
        if shares:
            axes.set_ylim(-0.02, 1.02)
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if numbers[0] == "var_z" and len(layers) <= 8:
            axes.legend(frameon=False, fontsize="small")
    return figure


def _figure(width: float, height: float) -> Any:
    try:
        from .._notebook import NotebookFigure
    except ModuleNotFoundError as error:
        raise ImportError("a plot needs matplotlib: pip install matplotlib") from error
    return NotebookFigure(figsize=(width, height), dpi=200, layout="constrained")


def _line(axes: Any, variances: Iterable[float | None], **style: Any) -> None:
    """Plots a variance over the layers. Zero and unknown variances leave gaps."""
    points = [variance or float("nan") for variance in variances]
    axes.plot(range(1, len(points) + 1), points, **style)
    axes.set_yscale("log")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _decades(axes: Any) -> None:
    """Shows at least four decades, so that noise looks small, and a tick every few."""
    from matplotlib.ticker import LogLocator, NullLocator

    low, high = axes.get_ylim()
    middle = math.sqrt(low) * math.sqrt(high)
    low, high = min(low, middle / 100), max(high, middle * 100)
    axes.set_ylim(low, high)
    decades = math.log10(high) - math.log10(low)
    step = next((step for step in (1, 2, 5, 10, 20, 50) if decades < 7 * step), 100)
    axes.yaxis.set_major_locator(LogLocator(10.0**step))
    axes.yaxis.set_minor_locator(NullLocator())


def _of_batch(layer: Layer) -> float | None:
    if layer.batch_share is None or layer.var_z is None or layer.batch_share < ROUNDING:
        return None
    return layer.batch_share * layer.var_z


def _power(axes: Any, divided: float | None, exponents: Sequence[int], offset: tuple[float, float]) -> None:
    if divided is None:
        return
    layers, powers = range(1, len(exponents) + 1), [float(divided) ** -exponent for exponent in exponents]
    axes.plot(layers, powers, color="black", linestyle="--", linewidth=1, label="predicted for default")
    middle = len(powers) // 2
    axes.annotate(rf"$(1/{divided})^n$", (layers[middle], powers[middle]), offset, textcoords="offset points")

"""show how the variance of signals and gradients changes through the layers of a network

Compares activations and initialization schemes in networks of equally wide dense layers, 100 by default. Given one
activation and one scheme, prints the predicted and the measured variance of every layer.
"""

import argparse
import itertools
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from .. import nn, signal
from .._bad_input import BadInput, check_writable, extra
from .._table import table
from ..classifier.threads import threads
from ..init import SCHEMES, initialize_, normal_
from ..ops.activations import ACTIVATIONS, ENDINGS
from ..signal._figure import comparison
from ._arguments import at_least, device
from ._json import add_json, check_json, text_stream, write_json

NAMES = {name or "identity": name for name in ENDINGS}
SLOPE = 0.01  # leaky_relu's


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--layers", type=at_least(1), default=100, metavar="N", help="number of layers (100)")
    add("--width", type=at_least(1), default=256, metavar="N", help="inputs and outputs of a layer (256)")
    add("--batch", type=at_least(1), default=256, metavar="N", help="number of samples from N(0, 1) (256)")
    several(add, "--activation", NAMES, ["sigmoid", "tanh", "relu"])
    several(add, "--scheme", SCHEMES, ["default", "lecun", "glorot", "he"])
    add("--seed", type=at_least(0), default=0, metavar="N", help="seed of the weights and samples (0)")
    add("--device", type=device, default=torch.device("cpu"), help="cpu (the default) or cuda")
    add("--plot", type=Path, metavar="FILE", help="draw a figure: .png, .svg or .pdf")
    add_json(parser, "every layer of every network")


def several(add: Callable[..., Any], option: str, choices: Iterable[str], default: list[str]) -> None:
    """Lists the choices in the help instead of the usage, where they would not fit on a line."""
    text = f"some of {', '.join(choices)} (default: {' '.join(default)})"
    add(option, nargs="+", choices=choices, default=default, metavar="NAME", help=text)


def run(options: argparse.Namespace) -> int:
    check_json(options.json)
    if options.plot is not None:
        _check_plot(options.plot)
    pairs = list(dict.fromkeys(itertools.product(options.activation, options.scheme)))
    single = len(pairs) == 1
    # A second thread hardly speeds up small products, and on a busy machine makes them ten times slower.
    with threads(1 if options.width <= 512 else torch.get_num_threads()):
        networks = {pair: _propagation(*pair, options, suggest=single) for pair in pairs}
    first = networks[pairs[0]]
    write_json(options.json, [_record(*pair, found) for pair, found in networks.items()])
    print(first if single else _summary(networks), file=text_stream(options.json))
    if options.plot is not None:
        figure = first.plot() if single else comparison({pair: found.layers for pair, found in networks.items()})
        figure.savefig(options.plot)
    return 0


def _propagation(activation: str, scheme: str, options: argparse.Namespace, suggest: bool) -> signal.Propagation:
    """Computes in float64, because the square of (1/3)^100 underflows in float32."""
    factory: dict[str, Any] = dict(device=options.device, dtype=torch.float64)
    sizes = (options.width,) * (options.layers + 1)
    model = nn.MLP(sizes, NAMES[activation], negative_slope=SLOPE, **factory)
    leaky = activation in ACTIVATIONS and ACTIVATIONS[activation].takes_slope
    slope = {"a": SLOPE} if leaky and scheme.startswith("he") else {}
    initialize_(model, scheme, seed=options.seed, **slope)
    x = normal_(torch.empty(options.batch, options.width, **factory), generator=torch.tensor([options.seed, 0]))
    schemes = ("lecun", "glorot", "he") if suggest else ()
    return signal.propagation(model, x, schemes=schemes)


def _summary(networks: dict[tuple[str, str], signal.Propagation]) -> str:
    some = next(iter(networks.values()))
    depth, limit = len(some.layers), some.limit
    header = ("activation", "scheme", "Var(z) 1", str(depth), "of batch", f"Var(dL/dz) {depth}", "1", "")
    rows = []
    stable: dict[str, list[str]] = {}
    for (activation, scheme), found in networks.items():
        first, last = found.layers[0], found.layers[-1]
        numbers = (first.var_z, last.var_z, last.batch_share, last.var_gradient, first.var_gradient)
        texts = ("-" if number is None else f"{number:.2g}" for number in numbers)
        rows.append((activation, scheme, *texts, ", ".join(map(str, found.flags)) or "stable"))
        stable.setdefault(activation, []).extend(() if found.flags else (scheme,))
    lines = (f"{activation}: {', '.join(schemes) or 'none'}" for activation, schemes in stable.items())
    title = f"Schemes that keep both variances within a factor of {limit:g}:"
    return "\n".join((table(header, rows), "", title, *lines))


def _record(activation: str, scheme: str, found: signal.Propagation) -> dict[str, Any]:
    layers, flags = [asdict(layer) for layer in found.layers], [flag._asdict() for flag in found.flags]
    return dict(activation=activation, scheme=scheme, flags=flags, holding=found.holding, layers=layers)


def _check_plot(path: Path) -> None:
    """Reports now if the figure cannot be written at the end."""
    formats = extra("matplotlib.backend_bases").FigureCanvasBase.get_supported_filetypes()
    if path.suffix[1:].lower() not in formats:
        raise BadInput(f"{path}: the name of a figure must end in {', '.join('.' + name for name in formats)}")
    check_writable(path)

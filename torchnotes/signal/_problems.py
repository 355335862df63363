"""What can go wrong in a training step, and what the notes recommend."""

import math
from collections.abc import Iterator, Sequence
from statistics import median
from typing import NamedTuple

from ._layers import changes
from ._observer import Measurement

MOST_UNITS = 0.5  # a larger share of dead or saturated units is a problem
FEWEST_POSITIONS = 8  # a unit that is positive half of the time is 0 for 8 examples in a row in 1 of 256 cases
USUAL_UPDATE = 1e-3  # a rule of thumb, not a statement of the notes
LARGEST_UPDATE = 100 * USUAL_UPDATE  # in two measured steps in a row, because Adam's first steps are long
DESTRUCTIVE_UPDATE = 1.0  # in a single step
SMALLEST_UPDATE = USUAL_UPDATE / 1000
PATIENCE = 3  # measured steps until updates are too small, because warm-up begins with small ones


class SignalWarning(UserWarning):
    """Something goes wrong in a training run that :func:`~torchnotes.signal.watch` monitors.

    Example:
        >>> import warnings
        >>> warnings.filterwarnings("ignore", category=signal.SignalWarning)
    """


class Problem(NamedTuple):
    """Something that went wrong in a layer. ``str()`` says what, and quotes what the notes recommend.

    Args:
        kind: "dead units", for example.
        layer: The name of the first such layer.
        value: The number that shows it.

    Example:
        >>> print(signal.Problem("dead units", "3", 0.75))
        dead units: 75 % of the ReLUs after layer 3 are 0 for the whole batch. A ReLU has the derivative 0 where...
    """

    kind: str
    layer: str
    value: float

    def __str__(self) -> str:
        what, advice = ADVICE[self.kind]
        return f"{self.kind}: {what.format(layer=self.layer, value=self.value, percent=100 * self.value)}. {advice}"


# By the kind of problem: what happens, and what to do about it
ADVICE = {
    "signal vanishes": (
        "the standard deviation of z in layer {layer} is {value:.2g} times that of the first layer",
        "A layer multiplies the variance by k Var(w) (row 20 of the notes); torch's default, 1/(3k), divides it by "
        "3 (row 21). Use Var(w) = 1/k, init.initialize_(model, 'glorot'), before rectifiers 2/k, "
        "init.initialize_(model, 'he') (rows 22 and 23), or batch normalization (row 17), and standardize the input",
    ),
    "signal explodes": (
        "the standard deviation of z in layer {layer} is {value:.2g} times that of the first layer",
        "A layer multiplies the variance by k Var(w) (row 20 of the notes). Use Var(w) = 1/k, "
        "init.initialize_(model, 'glorot'), before rectifiers 2/k, init.initialize_(model, 'he') (rows 22 and 23), "
        "batch normalization (row 17) or a lower learning rate",
    ),
    "gradient vanishes": (
        "dL/dz of layer {layer} is {value:.2g} times as long as that of the last layer",
        "Each sigmoid multiplies it by s' <= 1/4: |dy/dx| <= prod |w_i|/4 (row 11 of the notes), and tanh' also tends "
        "to 0 (row 2). Use a rectifier, whose derivative is 1 (row 3), with He's initialization, "
        "init.initialize_(model, 'he') (row 23). Batch normalization (row 17) and skip connections help, too",
    ),
    "gradient explodes": (
        "dL/dz of layer {layer} is {value:.2g} times as long as that of the last layer",
        "A layer of m units multiplies its variance by m Var(w) f'(z)^2 (row 7 of the notes). Use "
        "init.initialize_(model, 'glorot'), which also considers m (row 22), clip the gradient "
        "(max_grad_norm of torchnotes.optim), or lower the learning rate",
    ),
    "not finite": (
        "z or dL/dz of layer {layer} has values that are inf or nan",
        "A step was too long, or a function overflows. Lower the learning rate (on an L-smooth function it is at most "
        "1/L: row 24 of the notes), clip the gradient, and compute losses from logits, as "
        "binary_cross_entropy_with_logits and cross_entropy do (rows 13 and 14). torch.autograd.detect_anomaly finds "
        "the operation",
    ),
    "dead units": (
        "{percent:.0f} % of the ReLUs after layer {layer} are 0 for the whole batch",
        "A ReLU has the derivative 0 where its input is negative (row 3 of the notes), so that these units do not "
        "learn. Use leaky_relu, whose derivative is at least its slope, a lower learning rate, or batch normalization "
        "(row 17) before the ReLU",
    ),
    "saturated units": (
        "{percent:.0f} % of the outputs of the sigmoids or tanhs after layer {layer} have less than 1 % of the largest "
        "derivative",
        "s' and t' tend to 0 at both infinities (rows 1 and 2 of the notes). Use smaller weights, "
        "init.initialize_(model, 'glorot') (row 22), standardize the input, or use batch normalization (row 17) or a "
        "rectifier",
    ),
    "updates too large": (
        "the update of the weight of layer {layer} is {value:.2g} times as long as the weight",
        f"Around {USUAL_UPDATE:g} is usual, which is a rule of thumb and not a statement of the notes. Lower the "
        "learning rate, or raise it slowly in the first steps",
    ),
    "updates too small": (
        "the update of the weight of layer {layer} is {value:.2g} times as long as the weight, more than any other",
        f"Around {USUAL_UPDATE:g} is usual, which is a rule of thumb and not a statement of the notes. Raise the "
        "learning rate, or look for a gradient that vanishes",
    ),
}


def problems(layers: Sequence[Measurement], limit: float) -> Iterator[Problem]:
    """Those of one step. Updates that are too small take several."""
    yield from _not_finite(layers)
    # Zeros are of layers that begin with weights of 0, such as the last ones of residual branches.
    signal = [(layer.name, layer.var_z) for layer in layers if layer.var_z]
    gradient = [(layer.name, layer.squared_gradient) for layer in reversed(layers) if layer.squared_gradient]
    for what, sizes in (("signal", signal), ("gradient", gradient)):
        if sizes and all(math.isfinite(size) for _, size in sizes):
            yield from _over_the_depth(what, sizes, limit)
    for number, layer in enumerate(layers, 1):
        if layer.dead is not None and layer.dead > MOST_UNITS and layer.positions >= FEWEST_POSITIONS:
            yield Problem("dead units", layer.name, layer.dead)
        # The sigmoid of a good classifier saturates.
        if layer.saturated is not None and layer.saturated > MOST_UNITS and number < len(layers):
            yield Problem("saturated units", layer.name, layer.saturated)


def _over_the_depth(what: str, sizes: Sequence[tuple[str, float]], limit: float) -> Iterator[Problem]:
    """If most of the quarter of the layers farthest from the first one given has changed.

    Single layers may differ: in a new transformer the gradient of queries and keys is small in every block.
    """
    far = median(size for _, size in sizes[-math.ceil(len(sizes) / 4) :])
    for _, how in changes([sizes[0], ("", far)], limit):
        name = next(name for name, found in changes(sizes, limit) if found == how)
        yield Problem(f"{what} {how}", name, (dict(sizes)[name] / sizes[0][1]) ** 0.5)


def _not_finite(layers: Sequence[Measurement]) -> Iterator[Problem]:
    for layer in layers:
        for number in (layer.var_z, layer.squared_gradient):
            if number is not None and not math.isfinite(number):
                yield Problem("not finite", layer.name, number)


class Updates:
    """The sizes of updates, over several steps."""

    def __init__(self) -> None:
        self.last: dict[str, float] = {}
        self.long: dict[str, float] = {}  # those that are too large
        self.largest = (0.0, "")
        self.steps = 0

    def see(self, layers: Sequence[Measurement]) -> None:
        ratios = {layer.name: layer.update_ratio for layer in layers if layer.update_ratio is not None}
        allowed = {
            name: LARGEST_UPDATE if self.last.get(name, 0) > LARGEST_UPDATE else DESTRUCTIVE_UPDATE for name in ratios
        }
        self.long = {name: ratio for name, ratio in ratios.items() if ratio > allowed[name]}
        self.last = ratios
        self.largest = max([self.largest, *((ratio, name) for name, ratio in ratios.items())])
        self.steps += bool(ratios)

    def problems(self) -> Iterator[Problem]:
        for name, ratio in self.long.items():
            yield Problem("updates too large", name, ratio)
        ratio, name = self.largest
        if self.steps >= PATIENCE and ratio < SMALLEST_UPDATE:
            yield Problem("updates too small", name, ratio)

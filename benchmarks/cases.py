"""The benchmarks by name. Each is a function, because compiling is slow to import."""

from collections.abc import Callable, Sequence

from . import (
    activation,
    batch_norm,
    cross_entropy,
    fill,
    linear,
    linear_cross_entropy,
    loss,
    network,
    noise,
    optimizers,
    pinball_loss,
    rows,
)
from .accuracy import Accuracy
from .timing import Case

BENCHMARKS: dict[str, Callable[[], Sequence[Case | Accuracy]]] = {
    **activation.BENCHMARKS,
    **fill.BENCHMARKS,
    **loss.BENCHMARKS,
    **noise.BENCHMARKS,
    **optimizers.BENCHMARKS,
    **rows.BENCHMARKS,
    "batch_norm": batch_norm.cases,
    "cross_entropy": cross_entropy.cases,
    "linear": linear.cases,
    "linear_cross_entropy": linear_cross_entropy.cases,
    "network": network.cases,
    "pinball_loss": pinball_loss.cases,
}

"""What torchnotes.signal.watch costs a training run.

python -m benchmarks.watch [--repeats 41] [--direct 5] [--save] [names]

Alternately times two steps without watch, and two of which one is measured, on models with the same weights. The
difference is what a measured step costs, including starting and stopping the hooks. With the cost of the hook of the
optimizer, which every step calls, it gives the overhead at the default interval. --direct compares whole intervals.
Times are those of the processor, with one thread, so that other programs do not count.
"""

import argparse
import copy
import inspect
import random
import time
import warnings
from collections.abc import Callable
from itertools import pairwise
from statistics import median
from typing import Any

import torch
from torch import Tensor

from torchnotes import signal

from . import results
from .conversion import CPU, Inputs, gpt2, resnet
from .results import Row, rounded
from .sweep import reuse_memory

EVERY = inspect.signature(signal.watch).parameters["every"].default
KEY = ("model", "machine", "threads")
FIGURES = ("layers", "step_us", "measured_extra_us", "hook_us", "every", "overhead_percent", "direct_percent")
COLUMNS = (*KEY, *FIGURES, *results.ORIGIN)
PATH = results.RESULTS / "watch.csv"


class Perceptron(torch.nn.Module):
    """64, 128, 128 and 10 units, as in python -m torchnotes train, with the interface of transformers."""

    def __init__(self) -> None:
        super().__init__()
        sizes = (64, 128, 128, 10)
        layers = [torch.nn.Linear(k, m) for k, m in pairwise(sizes)]
        self.layers = torch.nn.Sequential(layers[0], torch.nn.ReLU(), layers[1], torch.nn.ReLU(), layers[2])

    def forward(self, x: Tensor, labels: Tensor) -> "Perceptron.Output":
        return self.Output(torch.nn.functional.cross_entropy(self.layers(x), labels))

    class Output:
        def __init__(self, loss: Tensor) -> None:
            self.loss = loss


def perceptron() -> tuple[torch.nn.Module, Inputs]:
    return Perceptron(), dict(x=torch.randn(64, 64), labels=torch.randint(10, (64,)))


MODELS: dict[str, Callable[[], tuple[torch.nn.Module, Inputs]]] = {
    "MLP": perceptron,
    "ResNet": resnet,
    "GPT-2": gpt2,
}


def compared(plain: Callable[[], None], watched: Callable[[], None], repeats: int) -> tuple[float, float]:
    """The seconds of the first, and how much longer the second takes: medians over alternating calls."""
    samples: dict[Callable[[], None], list[float]] = {plain: [], watched: []}
    for call in (plain, watched):
        call()
    for _ in range(repeats):
        for call in random.sample((plain, watched), 2):
            start = time.process_time()
            call()
            samples[call].append(time.process_time() - start)
    return median(samples[plain]), median(b - a for a, b in zip(samples[plain], samples[watched], strict=True))


def trainer(model: torch.nn.Module, inputs: Inputs) -> tuple[torch.optim.Optimizer, Callable[[int], None]]:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)

    def train(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            model(**inputs).loss.backward()
            optimizer.step()

    return optimizer, train


def of_pairs(model: torch.nn.Module, inputs: Inputs, repeats: int) -> tuple[float, float]:
    """Compares two steps, unwatched, and watched with one measured step."""
    model, other = copy.deepcopy(model), copy.deepcopy(model)
    (_, plain), (optimizer, watched) = trainer(model, inputs), trainer(other, inputs)
    signal.watch(other, optimizer, every=2, log=lambda numbers, step: None)
    return compared(lambda: plain(2), lambda: watched(2), repeats)


def of_intervals(model: torch.nn.Module, inputs: Inputs, repeats: int) -> tuple[float, float]:
    """Compares whole intervals of one model, because the times of two copies differ by some percent.

    Includes what it takes to create a watch.
    """
    model = copy.deepcopy(model)
    optimizer, train = trainer(model, inputs)

    def watched() -> None:
        with signal.watch(model, optimizer, log=lambda numbers, step: None):
            train(EVERY)

    return compared(lambda: train(EVERY), watched, repeats)


def hook_seconds() -> float:
    """What watch adds to a step that is not measured, of an optimizer that has nothing to do."""

    def steps(watched: bool) -> Callable[[], None]:
        model = torch.nn.Linear(1, 1)
        optimizer = torch.optim.SGD(model.parameters())
        if watched:
            signal.watch(model, optimizer, first_step=1, every=2**60)

        def call() -> None:
            for _ in range(1000):
                optimizer.step()

        return call

    return compared(steps(False), steps(True), 51)[1] / 1000


def measure(name: str, repeats: int, direct: int) -> Row:
    torch.manual_seed(0)
    model, inputs = MODELS[name]()
    model.train()
    two, extra = of_pairs(model, inputs, repeats)
    step, hook = two / 2, hook_seconds()
    row: Row = {
        "model": name,
        "layers": len(_layers(model, inputs)),
        "step_us": 1e6 * step,
        "measured_extra_us": 1e6 * extra,
        "hook_us": 1e6 * hook,
        "every": EVERY,
        "overhead_percent": 100 * (extra + EVERY * hook) / (EVERY * step),
    }
    if direct:
        plain, longer = of_intervals(model, inputs, direct)
        row["direct_percent"] = 100 * longer / plain
    return rounded(row)


def _layers(model: Any, inputs: Inputs) -> tuple[signal.Measurement, ...]:
    watch = signal.watch(copied := copy.deepcopy(model))
    copied(**inputs).loss.backward()
    watch.step()
    return watch.records[0].layers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=", ".join(MODELS))
    parser.add_argument("--repeats", type=int, default=41)
    parser.add_argument("--direct", type=int, default=0, help="also compare this many intervals")
    parser.add_argument("--save", action="store_true", help=f"merge the rows into {PATH.name}")
    options = parser.parse_args()
    reuse_memory()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", signal.SignalWarning)  # the same batch over and over
    origin = results.origin(CPU, 1) | {"machine": results.processor()}
    origin.pop("device")
    rows = []
    for name in options.names or MODELS:
        rows.append(measure(name, options.repeats, options.direct) | origin)
        print("  ".join(f"{key} {rows[-1][key]}" for key in ("model", *FIGURES) if key in rows[-1]), flush=True)
    if options.save:
        results.merge(PATH, rows, KEY, COLUMNS)


if __name__ == "__main__":
    main()

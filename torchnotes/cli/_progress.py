"""The progress of a training: bars on a terminal, lines elsewhere."""

import importlib.util
import sys
from typing import Any

from ..classifier.training import Epoch, Progress


def progress(names: list[str], epochs: int, steps: int, done: int = 0) -> Progress:
    """Reports `epochs` epochs of `steps` steps for each network. `done` epochs are already completed."""
    on_terminal = sys.stdout.isatty() and importlib.util.find_spec("rich") is not None
    return Bars(names, epochs * steps, done * steps) if on_terminal else Lines(names, epochs, done)


class Lines(Progress):
    """Prints about ten lines per network."""

    def __init__(self, names: list[str], epochs: int, done: int) -> None:
        self.width = max(map(len, names))
        self.epochs = epochs
        self.done = dict.fromkeys(names, done)

    def epoch(self, name: str, figures: Epoch) -> None:
        self.done[name] += 1
        number = self.done[name]
        if number % max(1, self.epochs // 10) and number not in (1, self.epochs):
            return
        print(
            f"epoch {number:{len(str(self.epochs))}d}  {name:{self.width}}  loss {figures.train_loss:.4f}  "
            f"accuracy {figures.train_accuracy:6.2%}  validation loss {figures.validation_loss:.4f}  "
            f"accuracy {figures.validation_accuracy:6.2%}",
            flush=True,
        )


class Bars(Progress):
    """Shows one bar per network."""

    def __init__(self, names: list[str], steps: int, done: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self.bars = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("loss {task.fields[loss]:.4f}  accuracy {task.fields[accuracy]:6.2%}"),
            TextColumn("validation {task.fields[validation]:6.2%}"),
        )
        self.tasks = {
            name: self.bars.add_task(name, total=steps, completed=done, loss=float("nan"), accuracy=0.0, validation=0.0)
            for name in names
        }

    def __enter__(self) -> "Bars":
        self.bars.start()
        return self

    def __exit__(self, *reason: Any) -> None:
        self.bars.stop()

    def step(self, name: str, loss: float, accuracy: float) -> None:
        self.bars.update(self.tasks[name], advance=1, loss=loss, accuracy=accuracy)

    def epoch(self, name: str, figures: Epoch) -> None:
        self.bars.update(self.tasks[name], validation=figures.validation_accuracy)

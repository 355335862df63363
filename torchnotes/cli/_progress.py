"""The progress of a training: bars on a terminal, lines elsewhere."""

import importlib.util
import sys
from typing import Any

from ..classifier.program import Program
from ..classifier.training import Contender, Progress


def progress(program: Program) -> Progress:
    on_terminal = sys.stdout.isatty() and importlib.util.find_spec("rich") is not None
    return Bars(program) if on_terminal else Lines(program)


class Lines(Progress):
    """Prints about ten lines per network."""

    def __init__(self, program: Program) -> None:
        self.width = max(len(network.name) for network in program.networks)
        self.epochs = program.options.epochs

    def epoch(self, contender: Contender) -> None:
        number, epoch = len(contender.epochs), contender.epochs[-1]
        if number % max(1, self.epochs // 10) and number not in (1, self.epochs):
            return
        print(
            f"epoch {number:{len(str(self.epochs))}d}  {contender.name:{self.width}}  loss {epoch.train_loss:.4f}  "
            f"accuracy {epoch.train_accuracy:6.2%}  validation loss {epoch.validation_loss:.4f}  "
            f"accuracy {epoch.validation_accuracy:6.2%}",
            flush=True,
        )


class Bars(Progress):
    """Shows one bar per network."""

    def __init__(self, program: Program) -> None:
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
        steps = len(list(program.experiment.batches(0)))
        total, completed = program.options.epochs * steps, len(program.networks[0].epochs) * steps
        start = dict(total=total, completed=completed, loss=float("nan"), accuracy=0.0, validation=0.0)
        self.tasks = {network.name: self.bars.add_task(network.name, **start) for network in program.networks}

    def __enter__(self) -> "Bars":
        self.bars.start()
        return self

    def __exit__(self, *reason: Any) -> None:
        self.bars.stop()

    def step(self, name: str, loss: float, accuracy: float) -> None:
        self.bars.update(self.tasks[name], advance=1, loss=loss, accuracy=accuracy)

    def epoch(self, contender: Contender) -> None:
        self.bars.update(self.tasks[contender.name], validation=contender.epochs[-1].validation_accuracy)

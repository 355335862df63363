"""The progress of a training: bars on a terminal, lines elsewhere."""

import importlib.util
import shutil
import statistics
import sys
import time
from typing import Any

from .._units import duration
from ..classifier.program import Program
from ..classifier.training import Contender, Progress
from ._parser import wrapped

RECENT = 50  # steps
WIDE = 120  # columns of a terminal


def progress(program: Program) -> Progress:
    on_terminal = sys.stdout.isatty() and importlib.util.find_spec("rich") is not None
    return Bars(program) if on_terminal else Lines(program)


def speed(program: Program, contender: Contender) -> tuple[str, str]:
    """The time of recent steps, and the rows per second."""
    seconds = statistics.mean(contender.seconds[-RECENT:])
    rows = min(program.options.batch_size, len(program.parts.train))
    return f"{duration(seconds)}/step", f"{rows / seconds:,.0f} rows/s"


class Lines(Progress):
    """Prints about ten lines per network."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.width = max(len(network.name) for network in program.networks)
        self.epochs = program.options.epochs
        self.completed = len(program.networks[0].epochs)

    def __enter__(self) -> "Lines":
        self.start = time.monotonic()
        return self

    def epoch(self, contender: Contender) -> None:
        number, epoch = len(contender.epochs), contender.epochs[-1]
        if number % max(1, self.epochs // 10) and number not in (1, self.epochs):
            return
        task = contender.task
        seconds = (time.monotonic() - self.start) / (number - self.completed) * (self.epochs - number)
        print(
            f"epoch {number:{len(str(self.epochs))}d}  {contender.name:{self.width}}  loss {epoch.train_loss:.4f}  "
            f"{task.metric} {task.shown(epoch.train_score):>6}  validation loss {epoch.validation_loss:.4f}  "
            f"{task.metric} {task.shown(epoch.validation_score):>6}  {'  '.join(speed(self.program, contender))}  "
            f"{seconds:.0f} s left",
            flush=True,
        )

    def warn(self, text: str) -> None:
        print(wrapped(text, shutil.get_terminal_size().columns), flush=True)


class Bars(Progress):
    """Shows one bar per network."""

    def __init__(self, program: Program) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self.program = program
        columns = [
            TextColumn("{task.description}"),
            BarColumn(bar_width=6),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("left  {task.fields[pace]}"),
            TextColumn("validation {task.fields[validation]}"),
            TextColumn("training {task.fields[training]}  loss {task.fields[loss]:.4f}  {task.fields[rate]}"),
        ]
        console = Console()
        self.bars = RichProgress(*(columns if console.width >= WIDE else columns[:-1]), console=console)
        steps = len(list(program.experiment.batches(0)))
        total, completed = program.options.epochs * steps, len(program.networks[0].epochs) * steps
        start = dict(total=total, completed=completed, loss=float("nan"), training="", validation="", pace="", rate="")
        self.tasks = {network.name: self.bars.add_task(network.name, **start) for network in program.networks}

    def __enter__(self) -> "Bars":
        self.bars.start()
        return self

    def __exit__(self, *reason: Any) -> None:
        self.bars.stop()

    def step(self, contender: Contender, loss: float, score: float) -> None:
        shown, (pace, rate) = contender.task.shown(score), speed(self.program, contender)
        self.bars.update(self.tasks[contender.name], advance=1, loss=loss, training=shown, pace=pace, rate=rate)

    def epoch(self, contender: Contender) -> None:
        shown = f"{contender.task.metric} {contender.task.shown(contender.epochs[-1].validation_score)}"
        self.bars.update(self.tasks[contender.name], validation=shown)

    def warn(self, text: str) -> None:
        self.bars.console.print(text, style="yellow", markup=False, highlight=False)

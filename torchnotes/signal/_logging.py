"""Where the numbers of a training run go."""

import os
from collections.abc import Callable
from typing import Any

Log = Callable[[dict[str, float], int], None]


def log_to(target: Any) -> tuple[Log, Callable[[], None]]:
    """A function that writes numbers to the target, and one that closes what the first has opened."""
    if target is None:
        return _nothing, _nothing
    if isinstance(target, (str, os.PathLike)):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ModuleNotFoundError as error:
            raise ImportError("logging to a directory requires tensorboard: pip install tensorboard") from error
        writer: Any = SummaryWriter(os.fspath(target))
        return _to_tensorboard(writer), writer.close
    if hasattr(target, "add_scalar"):
        return _to_tensorboard(target), _nothing
    if hasattr(target, "log_metrics"):  # a logger of Lightning
        return target.log_metrics, _nothing
    if hasattr(target, "define_metric"):  # a run of Weights & Biases
        return _to_wandb(target), _nothing
    if callable(target):
        return target, _nothing
    raise TypeError(
        "log must be a directory, a SummaryWriter, a run of wandb, a logger of Lightning or a function of the numbers "
        f"and the step. Got: {type(target).__name__}"
    )


def _nothing(*arguments: Any) -> None:
    pass


def _to_tensorboard(writer: Any) -> Log:
    def log(numbers: dict[str, float], step: int) -> None:
        for name, number in numbers.items():
            writer.add_scalar(name, number, step)

    return log


def _to_wandb(run: Any) -> Log:
    defined: set[str] = set()

    def log(numbers: dict[str, float], step: int) -> None:
        # wandb's own counter increases with each call of run.log, also with those of the training loop
        for name in numbers.keys() - defined:
            run.define_metric(name, step_metric="watch_step")
        defined.update(numbers)
        run.log({**numbers, "watch_step": step})

    return log

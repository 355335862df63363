"""Monitors the training runs of Lightning. Importing this module imports lightning."""

from typing import Any

try:
    from lightning.pytorch import Callback
except ModuleNotFoundError as error:
    raise ImportError("torchnotes.signal.lightning requires lightning: pip install lightning") from error

from ._watch import Watch, watch


class WatchCallback(Callback):
    """Runs :func:`~torchnotes.signal.watch` while a Trainer of Lightning fits a model with one optimizer.

    Args:
        log: Where to log the numbers, a target of :func:`~torchnotes.signal.watch`. By default the loggers of the
            Trainer get them.
        **options: Further options of :func:`~torchnotes.signal.watch`, such as ``every``.

    The attribute ``watch`` is the :class:`~torchnotes.signal.Watch` of the last run.

    Example:
        >>> from torchnotes.signal.lightning import WatchCallback
        >>> callback = WatchCallback(every=50)  # lightning.Trainer(callbacks=[callback])
    """

    def __init__(self, *, log: Any = None, **options: Any) -> None:
        self.log_target, self.options = log, options
        self.watch: Watch | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if len(trainer.optimizers) != 1:
            raise ValueError(
                f"WatchCallback expects one optimizer, got {len(trainer.optimizers)}: call torchnotes.signal.watch for "
                "each part of the model"
            )

        def log(numbers: dict[str, float], step: int) -> None:
            for logger in trainer.loggers:
                logger.log_metrics(numbers, step)

        target = log if self.log_target is None else self.log_target
        step = trainer.global_step
        self.watch = watch(pl_module, trainer.optimizers[0], log=target, first_step=step, **self.options)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        if self.watch is not None:
            self.watch.close()

"""Monitors the training runs of the transformers library. Importing this module imports transformers."""

from typing import Any

try:
    from transformers import TrainerCallback
    from transformers.trainer_callback import PrinterCallback, ProgressCallback
except ModuleNotFoundError as error:
    raise ImportError("torchnotes.signal.transformers requires transformers: pip install transformers") from error

from ._watch import Watch, watch


class WatchCallback(TrainerCallback):
    """Runs :func:`~torchnotes.signal.watch` while a Trainer of transformers trains.

    Args:
        trainer: The Trainer, whose other callbacks, such as those for TensorBoard and Weights & Biases, get the
            numbers. The console does not.
        log: Where to log the numbers instead, a target of :func:`~torchnotes.signal.watch`.
        **options: Further options of :func:`~torchnotes.signal.watch`, such as ``every``.

    The attribute ``watch`` is the :class:`~torchnotes.signal.Watch` of the last run.

    Example:
        >>> from torchnotes.signal.transformers import WatchCallback
        >>> callback = WatchCallback(every=50)  # trainer.add_callback(WatchCallback(trainer)) to log like the trainer
    """

    def __init__(self, trainer: Any = None, *, log: Any = None, **options: Any) -> None:
        self.trainer, self.log_target, self.options = trainer, log, options
        self.watch: Watch | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **objects: Any) -> None:
        self._close()  # of a run that ended with an exception
        target = self.log_target
        if target is None and self.trainer is not None:
            target = self._report
        model, optimizer = objects["model"], objects["optimizer"]
        self.watch = watch(model, optimizer, log=target, first_step=state.global_step, **self.options)

    def on_train_end(self, args: Any, state: Any, control: Any, **objects: Any) -> None:
        self._close()

    def _close(self) -> None:
        if self.watch is not None:
            self.watch.close()

    def _report(self, numbers: dict[str, float], step: int) -> None:
        trainer = self.trainer
        for callback in trainer.callback_handler.callbacks:
            if callback is not self and not isinstance(callback, (PrinterCallback, ProgressCallback)):
                callback.on_log(trainer.args, trainer.state, trainer.control, logs=dict(numbers), model=trainer.model)

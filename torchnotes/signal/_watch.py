"""Monitors a training run, measuring one step in many. docs/decisions/watch.md has the costs."""

import contextlib
import math
import os
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch._C._dynamo.eval_frame import get_eval_frame_callback
from torch.utils.hooks import RemovableHandle

from .. import _html
from .._docs import arguments_from
from .._table import table
from ._logging import log_to
from ._observer import Measurement, Observer, layers_of_a_run
from ._problems import Problem, SignalWarning, Updates, problems

RECORDS = 1000  # the most that are kept
_HEADER = ("layer", "kind", "Var(z)", "Var(dL/dz)", "|dL/dW|", "|dW|/|W|", "dead", "saturated", "")
_LOGGED = ("var_z", "var_gradient", "weight_gradient", "update_ratio", "dead", "saturated")


@dataclass(frozen=True)
class Record:
    """What was measured in one training step.

    Attributes:
        step: The number of the step.
        layers: The measurements, in the order of the first calls.
        gradient_norm: The length of the gradient of all parameters.
        problems: What went wrong.
    """

    step: int
    layers: tuple[Measurement, ...]
    gradient_norm: float | None
    problems: tuple[Problem, ...] = ()

    @property
    def numbers(self) -> dict[str, float]:
        """What is logged, by names such as "var_z/0", of the measure and the layer."""
        numbers = {} if self.gradient_norm is None else {"gradient_norm": self.gradient_norm}
        for layer in self.layers:
            values = ((name, getattr(layer, name)) for name in _LOGGED)
            numbers |= {f"{name}/{layer.name}": value for name, value in values if value is not None}
        return numbers


class _Eagerly:
    """Runs compiled code eagerly while any watch measures. They may overlap, but a stance is restored only once."""

    def __init__(self) -> None:
        self.watches = 0
        self.stance: Any = None

    def __enter__(self) -> None:
        if not self.watches:
            self.stance = torch.compiler.set_stance("force_eager")
        self.watches += 1

    def __exit__(self, *exception: object) -> None:
        self.watches -= 1
        if not self.watches:
            self.stance.__exit__(None, None, None)


_EAGERLY = _Eagerly()


class Watch:
    """What :func:`~torchnotes.signal.watch` returns: it measures until it is closed, also as a context manager.

    ``str()`` formats the last measurement as a table; Jupyter shows it, too. ``records`` has the measurements, oldest
    first; when there are 1000, every second one is dropped. ``problems`` is a dict of the first problem of each kind,
    ``unreached`` has the names of layers that the last measured step did not call, and ``steps`` is the number of steps
    so far.

    Example:
        >>> watch = signal.watch(model := nn.Linear(3, 2))
        >>> model(torch.randn(4, 3)).square().mean().backward()
        >>> watch.step()
        >>> watch.close()
        >>> [layer.kind for layer in watch.records[0].layers]
        ['Linear']
    """

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer | None,
        *,
        every: int,
        log: Any,
        limit: float,
        first_step: int,
    ) -> None:
        self._model, optimizer = _unwrapped(model), _unwrapped_optimizer(optimizer)
        self._names = _checked_layers(self._model)
        if not isinstance(every, int) or every < 1:
            raise ValueError(f"every must be a positive integer. Got: {every}")
        if not limit > 1:
            raise ValueError(f"limit must be above 1. Got: {limit}")
        self.records: list[Record] = []
        self.problems: dict[str, Problem] = {}
        self.unreached: tuple[str, ...] = ()
        self.steps = first_step
        self._every, self._limit = every, limit
        self._observer: Observer | None = None
        self._active = contextlib.ExitStack()  # what is undone after a measured step
        self._again = False  # whether this step is measured because the one before could not be
        self._warned_of_nothing = False
        self._updates = Updates()
        self._log, self._close_log = log_to(log)
        self._handles: list[RemovableHandle] = []
        self._has_optimizer = optimizer is not None
        if optimizer is not None:
            self._handles = [
                optimizer.register_step_pre_hook(self._before_update),
                optimizer.register_step_post_hook(self._after_update),
            ]
        if self.steps % every == 0:
            self._start()

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Removes all hooks. What was measured remains."""
        self._stop()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._close_log()
        self._log, self._close_log = log_to(None)

    def step(self) -> None:
        """Says that a training step has ended. Only without an optimizer, whose hooks do that otherwise.

        Call it after the update of the parameters and before their gradients are set to None.
        """
        if self._has_optimizer:
            raise RuntimeError("step() is called by the optimizer that was passed to watch")
        self._after_step()

    def _before_update(self, *arguments: Any) -> None:
        if self._observer is not None:
            self._observer.before_update()

    def _after_update(self, *arguments: Any) -> None:
        if torch.compiler.is_compiling() or get_eval_frame_callback() not in (None, False):
            raise RuntimeError(
                "watch cannot see the step of an optimizer in compiled code: call watch(model) without the optimizer, "
                "and watch.step() after each step"
            )
        self._after_step()

    def _after_step(self) -> None:
        again = False
        if self._observer is not None:
            again = self._finish()
            self._stop()
        self._again = again
        self.steps += 1
        if again or self.steps % self._every == 0:
            self._start()

    def _start(self) -> None:
        self._observer = Observer(self._model, self._names)
        self._observer.start()
        self._active.callback(self._observer.stop)
        self._sees_compiled = "torch._dynamo" in sys.modules
        if self._sees_compiled:  # compiled code would not call the hooks
            self._active.enter_context(_EAGERLY)

    def _stop(self) -> None:
        self._active.close()
        self._observer = None

    def _finish(self) -> bool:
        """Records the step. Returns whether to measure the next one instead, once."""
        assert self._observer is not None
        if not self._observer.order:
            if not self._sees_compiled and "torch._dynamo" in sys.modules and not self._again:
                return True  # the model was compiled after this step began
            if not self._warned_of_nothing:
                self._warned_of_nothing = True
                why = "no layer was called in training mode with gradients enabled"
                text = f"watch measured nothing in step {self.steps}: {why}, of {', '.join(self._names.values())}"
                warnings.warn(text, SignalWarning, stacklevel=_level())
            return False
        layers, norm = self._observer.measurements()
        overflown = any(not math.isfinite(layer.squared_gradient or 0) for layer in layers)
        if overflown and norm is not None and math.isfinite(norm) and not self._again:
            return True  # a GradScaler has skipped an update, whose gradients are included
        called = {layer.name for layer in layers}
        self.unreached = tuple(name for name in self._names.values() if name not in called)
        if len(self.records) + 1 == RECORDS:
            del self.records[1::2]
        self._updates.see(layers)
        record = Record(self.steps, layers, norm, (*problems(layers, self._limit), *self._updates.problems()))
        self.records.append(record)
        self._log(record.numbers, self.steps)
        for problem in record.problems:
            if problem.kind not in self.problems:
                self.problems[problem.kind] = problem
                warnings.warn(f"step {self.steps}: {problem}", SignalWarning, stacklevel=_level())
        return False

    def _rows(self) -> list[tuple[str, ...]]:
        if not self.records:
            return []
        record, rows = self.records[-1], []
        marks: dict[str, list[str]] = {}
        for problem in record.problems:
            marks.setdefault(problem.layer, []).append(problem.kind)
        for layer in record.layers:
            numbers = [_number(getattr(layer, name), name in ("dead", "saturated")) for name in _LOGGED]
            rows.append((layer.name, layer.kind, *numbers, ", ".join(marks.get(layer.name, ()))))
        return rows

    def _summary(self) -> str:
        if not self.records:
            return "nothing measured yet"
        last = self.records[-1]
        norm = "" if last.gradient_norm is None else f", gradient norm {last.gradient_norm:.3g}"
        return f"step {last.step}{norm}, {len(self.records)} steps measured"

    def _notes(self) -> list[str]:
        unreached = [f"not called: {', '.join(self.unreached)}"] if self.unreached else []
        return [*map(str, self.problems.values()), *unreached]

    def __str__(self) -> str:
        if not self.records:
            return self._summary()
        return "\n".join((self._summary(), "", table(_HEADER, self._rows()), "", *self._notes())).rstrip()

    def _repr_html_(self) -> str:
        return _html.snippet(self._parts())

    def html_parts(self) -> list[str]:
        """What :meth:`save_html` writes into the page, for a page of your own.

        Returns:
            HTML of paragraphs, a table and a figure.
        """
        return [*self._parts(), self._drawing()]

    def _parts(self) -> list[str]:
        if not self.records:
            return [_html.paragraph(self._summary())]
        notes = [_html.paragraph(note, "warning") for note in map(str, self.problems.values())]
        unreached = [_html.paragraph(note, "quiet") for note in self._notes()[len(self.problems) :]]
        return [_html.paragraph(self._summary()), *notes, _html.table(_HEADER, self._rows()), *unreached]

    def plot(self) -> Any:
        """Draws the measurements over the steps, one line per layer.

        Returns:
            A matplotlib Figure, which a notebook shows below the cell.
        """
        return self._figure().shown()

    def _figure(self) -> Any:
        from ._figure import over_time

        names = dict.fromkeys(layer.name for record in self.records for layer in record.layers)
        by_name = [{layer.name: layer for layer in record.layers} for record in self.records]
        layers = {name: [layers.get(name) for layers in by_name] for name in names}
        return over_time([record.step for record in self.records], layers)

    def save_html(self, path: str | os.PathLike) -> None:
        """Writes a page that needs no network: the problems, the last measurement, and the plot.

        Args:
            path: The file, which is overwritten. Without matplotlib the page has no plot.
        """
        Path(path).write_text(_html.page("Training run", self.html_parts()), encoding="utf-8")

    def _drawing(self) -> str:
        caption = "What was measured over the steps, from the first layer (blue) to the last (green)"
        try:
            import matplotlib
        except ModuleNotFoundError:
            return _html.paragraph("The plot requires matplotlib: pip install matplotlib", "quiet")
        with matplotlib.rc_context(_html.LOOK):
            return _html.figure(_html.image(self._figure(), f"Four plots. {caption}."), caption)


def watch(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    every: int = 200,
    log: Any = None,
    limit: float = 1e6,
    first_step: int = 0,
) -> Watch:
    """Monitors a training run: what happens to the signal, its gradient and the weights in each layer.

    It measures the first step and then one in `every`. Measuring changes no result: the model computes the same bits,
    no random numbers are consumed, and in the other steps no hook is registered. The first time that something goes
    wrong it emits a :class:`~torchnotes.signal.SignalWarning`, which says what the notes recommend, once for each kind
    of problem: vanishing and exploding signals and gradients, dead and saturated units, values that are not finite, and
    updates that are too large or too small.

    The layers are Linear, the convolutions and others with a matrix as their weight, except embeddings. Activations are
    seen if they are modules, or fused into a layer of torchnotes; calls such as ``torch.relu`` are not. A step ends
    with ``optimizer.step()``; everything that ran since the previous one in training mode and with gradients enabled
    belongs to it, as with gradient accumulation. Evaluation is ignored.

    Compiled code runs eagerly in measured steps, because it would not call hooks. A model inside
    DistributedDataParallel is measured on each rank, with its part of the batch.

    Args:
        model: The model. It may be compiled, or in DistributedDataParallel.
        optimizer: The optimizer, whose steps are counted. Without one, call ``watch.step()`` after each step; update
            ratios are not measured then.
        every: Measures one step in this many.
        log: Where to log the numbers: a directory for TensorBoard, a ``SummaryWriter``, a run of wandb, a logger of
            Lightning, or a function of a dict of numbers and the step.
        limit: The factor by which Var(z), or the squared length of dL/dz, has to change over the depth to be a problem.
        first_step: The number of the first step, of a training that is resumed.

    Returns:
        The watch. Close it at the end, or use it in a ``with`` statement.

    Example:
        >>> model = nn.MLP((8, 16, 2))
        >>> optimizer = optim.SGD(model.parameters(), lr=0.1)
        >>> with signal.watch(model, optimizer, every=10) as watch:
        ...     for _ in range(30):
        ...         optimizer.zero_grad()
        ...         model(torch.randn(32, 8)).square().mean().backward()
        ...         optimizer.step()
        >>> [record.step for record in watch.records]
        [0, 10, 20]
        >>> watch.problems
        {}
    """
    return Watch(model, optimizer, every=every, log=log, limit=limit, first_step=first_step)


arguments_from(watch)(Watch)


def _level() -> int:
    """The stack level of the caller of warnings.warn's caller that belongs neither to torch nor to torchnotes."""
    frame, level = sys._getframe(1), 1
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] in ("torch", "torchnotes"):
        frame, level = frame.f_back, level + 1
    return level


def _unwrapped(model: Any) -> Any:
    while True:
        if hasattr(model, "_orig_mod"):  # of torch.compile
            model = model._orig_mod
        elif isinstance(model, (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)):
            model = model.module
        else:
            return model


def _unwrapped_optimizer(optimizer: Any) -> Any:
    while hasattr(optimizer, "optimizer"):  # of accelerate or Lightning
        optimizer = optimizer.optimizer
    if optimizer is not None and not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"optimizer must be a torch.optim.Optimizer. Got: {type(optimizer).__name__}")
    return optimizer


def _checked_layers(model: Any) -> dict[torch.nn.Module, str]:
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model must be a torch.nn.Module. Got: {type(model).__name__}")
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise TypeError("watch cannot see into scripted modules: pass the model that was scripted, and train it")
    if any(torch.nn.parameter.is_lazy(parameter) for parameter in model.parameters()):
        raise ValueError("the model is lazy: call it once, so that its layers know their sizes")
    names = layers_of_a_run(model)
    if not names:
        raise ValueError("the model has no layer to measure: Linear, Conv1d, ConvTranspose1d, ..., of real numbers")
    return names


def _number(value: float | None, share: bool) -> str:
    if value is None:
        return "-"
    return f"{100 * value:.1f} %" if share else f"{value:.3g}"

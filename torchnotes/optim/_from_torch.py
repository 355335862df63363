"""Converts torch's optimizers to ours in place, and back."""

import functools
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer

from ._fused import Fused
from .adam import Adam
from .adamw import AdamW
from .rmsprop import RMSprop
from .sgd import SGD

_OURS: dict[type[Optimizer], type[Fused]] = {getattr(torch.optim, c.__name__): c for c in (SGD, RMSprop, Adam, AdamW)}
_TORCHS = {ours: theirs for theirs, ours in _OURS.items()}
_DEFAULTS = dict(rounding="nearest", max_grad_norm=None, decoupled_weight_decay=False)  # what torch's optimizers do


def from_torch(optimizer: Optimizer) -> Optimizer:
    """Converts an optimizer of ``torch.optim`` to that of torchnotes, in place.

    It remains the same object with the same groups, state and hooks, so that schedulers and trainers keep working. The
    options that torch lacks are in its groups.

    Args:
        optimizer: An SGD, RMSprop, Adam or AdamW, not a subclass of it.

    Returns:
        The optimizer.

    Example:
        >>> optimizer = torch.optim.Adam([torch.zeros(2, requires_grad=True)])
        >>> type(optim.from_torch(optimizer))
        <class 'torchnotes.optim.adam.Adam'>
        >>> optimizer.param_groups[0]["max_grad_norm"] = 1.0
    """
    if type(optimizer) in _TORCHS:
        return optimizer
    ours = _converted_class(optimizer, _OURS, "from_torch expects torch.optim's")
    _change_class(optimizer, ours)
    assert isinstance(optimizer, Fused)
    optimizer._add_options(**{name: _DEFAULTS[name] for name in ours.extra_options})
    return optimizer


def to_torch(optimizer: Optimizer) -> Optimizer:
    """Converts an optimizer of torchnotes back to that of ``torch.optim``, in place.

    Args:
        optimizer: An SGD, RMSprop, Adam or AdamW, not a subclass of it.

    Returns:
        The optimizer.

    Raises:
        ValueError: If an option is in use that torch's optimizer lacks.

    Example:
        >>> type(optim.to_torch(optim.SGD([torch.zeros(2, requires_grad=True)])))
        <class 'torch.optim.sgd.SGD'>
    """
    if type(optimizer) in _OURS:
        return optimizer
    theirs = _converted_class(optimizer, _TORCHS, "to_torch expects torchnotes.optim's")
    assert isinstance(optimizer, Fused)
    own = optimizer.extra_options
    for group in optimizer.param_groups:
        for name in own:
            if group[name] != _DEFAULTS[name]:
                raise ValueError(
                    f"torch.optim.{theirs.__name__} has no {name}, got a group with {name}={group[name]!r}"
                )
    if optimizer.process_group is not None:
        raise ValueError(f"torch.optim.{theirs.__name__} has no process_group")
    _change_class(optimizer, theirs)
    for options in (optimizer.defaults, *optimizer.param_groups):
        for name in own:
            options.pop(name, None)
    vars(optimizer).pop("grad_norm", None)
    return optimizer


def _converted_class(optimizer: Any, classes: dict, expects: str) -> Any:
    if type(optimizer) not in classes:
        names = "SGD, RMSprop, Adam or AdamW"
        raise TypeError(
            f"{expects} {names}, not a subclass, got {type(optimizer).__module__}.{type(optimizer).__name__}"
        )
    step = vars(optimizer).get("step")
    if step is not None and not hasattr(step, "_wrapped_by_lr_sched"):
        raise TypeError(
            f"the step of this {type(optimizer).__name__} has been replaced: convert the optimizer before that"
        )
    return classes[type(optimizer)]


def _change_class(optimizer: Any, cls: type[Optimizer]) -> None:
    optimizer.__class__ = cls
    if "step" in vars(optimizer):
        optimizer.step = _step_seen_by_schedulers(optimizer)


def _step_seen_by_schedulers(optimizer: Optimizer) -> Callable[..., Any]:
    """The step as a learning-rate scheduler wraps it to notice calls; it calls the step of the current class."""
    reference = weakref.ref(optimizer)

    @functools.wraps(type(optimizer).step)
    def step(*args: Any, **kwargs: Any) -> Any:
        of: Any = reference()
        of._opt_called = True
        return type(of).step(of, *args, **kwargs)

    step._wrapped_by_lr_sched = True  # type: ignore[attr-defined] # the mark of torch's schedulers
    return step

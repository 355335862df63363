"""The fake kernels of the native operators, for torch.compile and the meta device: they only compute sizes."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import has_torch_function


def register_fake(name: str, function: Callable[..., Any]) -> None:
    """Registers a fake kernel that raises if the operands are on different devices.

    torch calls the fake kernel as soon as one operand is on the meta device. If another device were accepted, its
    result would be uninitialized memory.
    """

    def fake(*args: Any) -> Any:
        check_same_device(*args)
        return function(*args)

    torch.library.register_fake(name, fake)


def check_same_device(*args: Any) -> None:
    """Raises torch's error if tensors are on different devices. As in torch, 0-d CPU tensors may join any device."""
    tensors = [x for arg in args for x in (arg if isinstance(arg, list) else (arg,)) if isinstance(x, Tensor)]
    if has_torch_function(tensors):
        return  # subclasses decide for themselves
    for x in tensors[1:]:
        if x.device != tensors[0].device and not (x.is_cpu and x.dim() == 0):
            raise RuntimeError(f"Tensor on device {x.device} is not on the expected device {tensors[0].device}!")

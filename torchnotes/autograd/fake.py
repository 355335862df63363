"""The fake kernels of the native operators, which compute nothing but sizes: for torch.compile and the meta device."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import has_torch_function


def register_fake(name: str, function: Callable[..., Any]) -> None:
    """Registers a fake kernel that raises if the operands are on different devices.

    One operand on the meta device is enough for torch to call the fake kernel, whose result on another device would be
    uninitialized memory.
    """

    def fake(*args: Any) -> Any:
        check_same_device(*args)
        return function(*args)

    torch.library.register_fake(name, fake)


def check_same_device(*args: Any) -> None:
    """Raises as torch does if tensors are on different devices. As in torch, numbers on the CPU may join any others."""
    tensors = [x for arg in args for x in (arg if isinstance(arg, list) else (arg,)) if isinstance(x, Tensor)]
    if has_torch_function(tensors):
        return  # subclasses, whose device is their own affair
    for x in tensors[1:]:
        if x.device != tensors[0].device and not (x.is_cpu and x.dim() == 0):
            raise RuntimeError(f"Tensor on device {x.device} is not on the expected device {tensors[0].device}!")

"""What an operation does differently inside torch.compile."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling, is_exporting

_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def worthwhile(x: Any) -> bool:
    """Whether x is being compiled (not exported, not under a transform) on the CPU, and a gradient is wanted.

    is_compiling is a constant to the compiler. The conditions after it are ordered by how often they decide: compiled
    code guards on all Python state that is read here, and checks it on every call.
    """
    return (
        is_compiling()
        and isinstance(x, Tensor)
        and x.requires_grad
        and torch.is_grad_enabled()
        and not is_exporting()
        and x.dtype in _FLOATS
        and x.device.type == "cpu"
        and not torch._C._are_functorch_transforms_active()
    )


def constant_when_compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Does the same as torch.compiler.assume_constant_result, which would import the compiler."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function

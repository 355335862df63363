"""torch.ao.quantization replaces modules by their exact class, so that it would pass over those of torchnotes.

The reasons are in docs/decisions/convert.md.
"""

from typing import Any

import torch


class Unquantized:
    """The attribute ``qconfig``, which torch.ao.quantization sets on every module before it replaces some of them."""

    def __get__(self, module: Any, owner: Any = None) -> Any:
        if module is None:
            return self
        raise AttributeError("qconfig")

    def __set__(self, module: torch.nn.Module, value: Any) -> None:
        if value is None and not isinstance(module, torch.nn.Linear):
            return
        name = type(module).__name__
        raise RuntimeError(
            f"torch.ao.quantization does not quantize torchnotes.nn.{name}, only torch.nn.{name} itself. Call "
            "torchnotes.revert(model) before you quantize a converted model, or build the model from torch.nn"
        )

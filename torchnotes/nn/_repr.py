"""What modules show of the options that torch's modules lack."""

from collections.abc import Mapping
from typing import Any

import torch


def unusual_options(module: torch.nn.Module, defaults: Mapping[str, Any]) -> str:
    """The attributes that differ from their defaults, formatted to be appended to a repr."""
    values = ((name, getattr(module, name)) for name in defaults)
    return "".join(f", {name}={value!r}" for name, value in values if value != defaults[name])

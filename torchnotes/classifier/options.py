"""The options of python -m torchnotes train."""

from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Options:
    data: Path | None  # None: the digits
    hidden: list[int]
    activation: str
    init: str
    noise: float
    optimizer: str
    lr: float
    epochs: int
    batch_size: int
    device: torch.device
    dtype: str
    seed: int
    compile: bool
    output: Path
    resume: bool
    threads: int | None  # None: the fastest number

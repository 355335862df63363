"""A trained classifier in a file, with all that a prediction needs."""

import os
import pickle
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import BadInput
from ._classifier import Design, by_torchnotes

FORMAT = "torchnotes classifier 1"


@dataclass(frozen=True)
class Checkpoint:
    """x is scaled as (x - mean) / scale before it goes into the network."""

    design: Design
    state: dict[str, Tensor]
    mean: Tensor
    scale: Tensor
    classes: tuple[str, ...]
    source: str
    seed: int

    def save(self, path: Path) -> None:
        """Whole or not at all: what was there before stays until all is written."""
        partial = path.with_name(path.name + ".partial")
        torch.save({"format": FORMAT, **asdict(self)}, partial)
        os.replace(partial, path)

    def model(self, device: torch.device) -> torch.nn.Module:
        model = by_torchnotes(self.design)
        model.load_state_dict(self.state)
        return model.to(device).eval()

    def scaled(self, x: Tensor, device: torch.device) -> Tensor:
        return ((x - self.mean) / self.scale).to(device, getattr(torch, self.design.dtype))


def load(path: Path) -> Checkpoint:
    try:
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from error
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError) as error:
        raise BadInput(f"{path} is not a checkpoint of python -m torchnotes train") from error
    if not isinstance(found, dict) or found.pop("format", None) != FORMAT:
        raise BadInput(f"{path} is not a checkpoint of python -m torchnotes train")
    design = found.pop("design")
    return Checkpoint(Design(**design | {"sizes": tuple(design["sizes"])}), **found)

"""Saves a trained classifier with everything that predictions need."""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from .files import read, understood, write
from .network import Design, by_torchnotes

FORMAT = "torchnotes classifier 1"
KIND = "a checkpoint"


@dataclass(frozen=True)
class Checkpoint:
    """The network's input is (x - mean) / scale."""

    design: Design
    state: dict[str, Tensor]
    mean: Tensor
    scale: Tensor
    classes: tuple[str, ...]
    source: str
    seed: int

    def save(self, path: Path) -> None:
        write(path, FORMAT, asdict(self))

    def model(self, device: torch.device) -> torch.nn.Module:
        model = by_torchnotes(self.design)
        model.load_state_dict(self.state)
        return model.to(device).eval()

    def scaled(self, x: Tensor, device: torch.device) -> Tensor:
        return ((x - self.mean) / self.scale).to(device, getattr(torch, self.design.dtype))

    def logits(self, x: Tensor, device: torch.device) -> Tensor:
        with torch.no_grad():
            return self.model(device)(self.scaled(x, device))


def load(path: Path) -> Checkpoint:
    found = read(path, FORMAT, KIND)
    with understood(path, KIND):
        design = found.pop("design")
        checkpoint = Checkpoint(Design(**design | {"sizes": tuple(design["sizes"])}), **found)
        tried = checkpoint.logits(torch.zeros(1, design["sizes"][0], dtype=torch.float64), torch.device("cpu"))
        if tried.shape != (1, len(checkpoint.classes)):
            raise ValueError
        numbers = (checkpoint.mean, *checkpoint.state.values())
        if any(x.isnan().any() for x in numbers) or not (checkpoint.scale > 0).all():
            raise ValueError
    return checkpoint

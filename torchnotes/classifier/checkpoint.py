"""Saves a trained classifier with everything that predictions need."""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from .files import parsing, read, write
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

    def normalized(self, x: Tensor, device: torch.device) -> Tensor:
        return ((x - self.mean) / self.scale).to(device, getattr(torch, self.design.dtype))

    @torch.no_grad()
    def logits(self, x: Tensor, device: torch.device) -> Tensor:
        model = by_torchnotes(self.design)
        model.load_state_dict(self.state)
        return model.to(device).eval()(self.normalized(x, device))


def load(path: Path) -> Checkpoint:
    content = read(path, FORMAT, KIND)
    with parsing(path, KIND):
        design = content.pop("design")
        checkpoint = Checkpoint(Design(**design | {"sizes": tuple(design["sizes"])}), **content)
        logits = checkpoint.logits(torch.zeros(1, design["sizes"][0], dtype=torch.float64), torch.device("cpu"))
        if logits.shape != (1, len(checkpoint.classes)) or not (checkpoint.scale > 0).all():
            raise ValueError
        if any(x.isnan().any() for x in (checkpoint.mean, *checkpoint.state.values())):
            raise ValueError
    return checkpoint

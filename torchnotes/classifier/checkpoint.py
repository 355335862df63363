"""Saves a trained network with everything that predictions need."""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from .features import Feature, Features
from .files import parsing, read, write
from .network import Design, by_torchnotes
from .tasks import Task, restored, saved

FORMAT = "torchnotes model 2"
KIND = "a checkpoint"


@dataclass(frozen=True)
class Checkpoint:
    """The network's input is (x - mean) / scale, or 0 where x is NaN."""

    design: Design
    state: dict[str, Tensor]
    mean: Tensor
    scale: Tensor
    task: Task
    features: Features
    source: str
    seed: int

    def save(self, path: Path) -> None:
        write(path, FORMAT, asdict(self) | {"task": saved(self.task)})

    def normalized(self, x: Tensor, device: torch.device) -> Tensor:
        normalized = ((x - self.mean) / self.scale).nan_to_num(nan=0.0)
        return normalized.to(device, getattr(torch, self.design.dtype))

    @torch.no_grad()
    def output(self, x: Tensor, device: torch.device) -> Tensor:
        model = by_torchnotes(self.design)
        model.load_state_dict(self.state)
        return model.to(device).eval()(self.normalized(x, device))


def load(path: Path) -> Checkpoint:
    content = read(path, FORMAT, KIND)
    with parsing(path, KIND):
        design, features = content.pop("design"), content.pop("features")
        checkpoint = Checkpoint(
            design=Design(**design | {"sizes": tuple(design["sizes"])}),
            task=restored(content.pop("task")),
            features=Features(**features | {"features": tuple(Feature(**one) for one in features["features"])}),
            **content,
        )
        width = sum(feature.width for feature in checkpoint.features)
        output = checkpoint.output(torch.zeros(1, width, dtype=torch.float64), torch.device("cpu"))
        if output.shape != (1, checkpoint.task.outputs) or not (checkpoint.scale > 0).all():
            raise ValueError
        if any(x.isnan().any() for x in (checkpoint.mean, *checkpoint.state.values())):
            raise ValueError
    return checkpoint

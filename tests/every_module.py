"""A network of every module of torchnotes.nn."""

import torch
from torch import Tensor

from torchnotes import nn
from torchnotes.ops.activations import ACTIVATIONS


class EveryModule(torch.nn.Module):
    """Returns the sum of its losses. Its lazy modules are initialized."""

    def __init__(self) -> None:
        super().__init__()
        self.images = torch.nn.Sequential(nn.LazyBatchNorm2d(), torch.nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3))
        self.volumes = torch.nn.Sequential(nn.BatchNorm3d(3), nn.LazyBatchNorm3d())
        self.dense = torch.nn.Sequential(
            nn.Linear(48, 8, activation="sigmoid"),
            nn.LazyBatchNorm1d(),
            *(getattr(nn, info.module)() for info in ACTIVATIONS.values()),
            nn.Dropout(0.3),
            nn.GaussianDropoutLinear(8, 8),
            nn.BatchNorm1d(8),
            nn.GaussianDropout(0.2),
            nn.VariationalDropout(8),
        )
        self.out = nn.MLP((8, 6, 5), batch_norm=True, dropout=0.1)
        self.classes, self.words = nn.CrossEntropyLoss(label_smoothing=0.1), nn.LinearCrossEntropyLoss(8, 5)
        self.bits, self.squares, self.quantiles = nn.BCEWithLogitsLoss(), nn.MSELoss(), nn.PinballLoss((0.1, 0.9))
        self.softmax, self.log_softmax = nn.Softmax(-1), nn.LogSoftmax(-1)
        self.double()(*batch(4))

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        h = self.dense(self.volumes(self.images(images).unflatten(-1, (2, 2))).flatten(1))
        y, expected = self.out(h), torch.nn.functional.one_hot(targets, 5).double()
        losses = (
            self.classes(y, targets),
            self.words(h, targets),
            self.bits(y, expected),
            self.squares(self.softmax(y), expected),
            self.quantiles(self.log_softmax(y)[:, :2], expected[:, 0]),
        )
        return torch.stack(losses).sum()


def batch(n: int) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 2, 6, 6, dtype=torch.float64), torch.randint(5, (n,))

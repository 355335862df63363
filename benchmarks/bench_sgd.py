"""SGD with momentum against torch.optim's."""

import torch

from torchnotes.optim import SGD

from .step import step

CASES = step(SGD, torch.optim.SGD, 5, lr=1e-3, momentum=0.9)

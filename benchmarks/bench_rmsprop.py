"""RMSprop against torch.optim's."""

import torch

from torchnotes.optim import RMSprop

from .step import step

CASES = step(RMSprop, torch.optim.RMSprop, 5, more={"centered": True, "momentum": 0.9})

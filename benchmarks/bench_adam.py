"""Adam against torch.optim's."""

import torch

from torchnotes.optim import Adam

from .step import step

CASES = step(Adam, torch.optim.Adam, 7)

"""mse_loss and what torch has for it."""

import torch

import torchnotes

from .loss import elementwise_loss

CASES = elementwise_loss(
    ours=torchnotes.functional.mse_loss,
    builtin=torch.nn.functional.mse_loss,
    inputs=lambda n: (torch.randn(n), torch.randn(n)),
)

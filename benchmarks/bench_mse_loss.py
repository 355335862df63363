"""mse_loss against torch's."""

import torch

import torchnotes

from .loss import accuracy, elementwise_loss

ours = torchnotes.functional.mse_loss
builtin = torch.nn.functional.mse_loss

CASES = (
    *elementwise_loss(ours, builtin, lambda n: (torch.randn(n), torch.randn(n))),
    accuracy(ours, builtin),
)

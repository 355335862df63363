"""binary_cross_entropy_with_logits against torch's."""

import torch

import torchnotes

from .loss import accuracy, elementwise_loss

ours = torchnotes.functional.binary_cross_entropy_with_logits
builtin = torch.nn.functional.binary_cross_entropy_with_logits

CASES = (
    *elementwise_loss(ours, builtin, lambda n: (3 * torch.randn(n), torch.randint(2, (n,)).float())),
    accuracy(ours, builtin),
)

"""binary_cross_entropy_with_logits and what torch has for it."""

import torch

import torchnotes

from .loss import elementwise_loss

CASES = elementwise_loss(
    ours=torchnotes.functional.binary_cross_entropy_with_logits,
    builtin=torch.nn.functional.binary_cross_entropy_with_logits,
    inputs=lambda n: (3 * torch.randn(n), torch.randint(2, (n,)).float()),
)

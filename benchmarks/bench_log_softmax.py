"""log_softmax against torch's."""

import torch

import torchnotes

from .activation import compiled
from .classes import softmax_like

CASES = softmax_like(
    ours=torchnotes.functional.log_softmax,
    builtin=torch.nn.functional.log_softmax,
    compiled=compiled(torch.nn.functional.log_softmax),
)

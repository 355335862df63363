"""softmax against torch's."""

import torch

import torchnotes

from .activation import compiled
from .classes import softmax_like

CASES = softmax_like(
    ours=torchnotes.functional.softmax,
    builtin=torch.nn.functional.softmax,
    compiled=compiled(torch.nn.functional.softmax),
)

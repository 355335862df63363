"""dropout against torch's."""

import torch

import torchnotes

from .noise import noise

CASES = noise(torchnotes.functional.dropout, torch.nn.functional.dropout, "p = 0.5")

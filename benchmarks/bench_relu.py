"""relu against torch's."""

import torch

import torchnotes

from .activation import activation

CASES = activation(ours=torchnotes.functional.relu, builtin=torch.relu)

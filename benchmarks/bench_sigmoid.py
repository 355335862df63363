"""sigmoid against torch's."""

import torch

import torchnotes

from .activation import activation

CASES = activation(ours=torchnotes.functional.sigmoid, builtin=torch.sigmoid)

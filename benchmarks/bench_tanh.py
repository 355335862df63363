"""tanh against torch's."""

import torch

import torchnotes

from .activation import activation

CASES = activation(ours=torchnotes.functional.tanh, builtin=torch.tanh)

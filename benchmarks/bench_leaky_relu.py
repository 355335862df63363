"""leaky_relu against torch's."""

import torch

import torchnotes

from .activation import activation

CASES = activation(ours=torchnotes.functional.leaky_relu, builtin=torch.nn.functional.leaky_relu)

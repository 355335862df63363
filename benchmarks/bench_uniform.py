"""uniform_ and glorot_uniform_ against torch.nn.init's."""

import torch

from torchnotes import init

from .fill import fill

CASES = (
    *fill("uniform_", init.uniform_, torch.nn.init.uniform_),
    *fill("glorot_uniform_", init.glorot_uniform_, torch.nn.init.xavier_uniform_),
)

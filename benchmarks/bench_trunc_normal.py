"""trunc_normal_ against torch.nn.init's."""

import torch

from torchnotes import init

from .fill import fill

CASES = fill("trunc_normal_", init.trunc_normal_, torch.nn.init.trunc_normal_, size=10_000_000)

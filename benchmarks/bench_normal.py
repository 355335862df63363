"""normal_ and he_normal_ against torch.nn.init's."""

import torch

from torchnotes import init

from .fill import fill

CASES = (
    *fill("normal_", init.normal_, torch.nn.init.normal_),
    *fill("he_normal_", init.he_normal_, torch.nn.init.kaiming_normal_),
)

"""log_softmax."""

import torch

import torchnotes.functional as F
from checks import OpCase
from softmax_checks import SoftmaxChecks


class TestLogSoftmax(SoftmaxChecks):
    case = OpCase(
        op=lambda x, dim=-1, **keywords: F.log_softmax(x, dim, **keywords),
        builtin=lambda x, dim=-1, **keywords: torch.nn.functional.log_softmax(x, dim, **keywords),
        reference=lambda x, dim=-1: x - torch.logsumexp(x, dim, keepdim=True),
        opinfo="log_softmax",
        kernels={"log_softmax": 1, "log_softmax_backward": 2},
        numbers=(1,),
    )

"""log_softmax."""

import torch

import torchnotes.functional as F
from checks import OpCase
from softmax_checks import SoftmaxChecks, log_softmax


class TestLogSoftmax(SoftmaxChecks):
    case = OpCase(
        op=lambda x, dim=-1, **keywords: F.log_softmax(x, dim, **keywords),
        builtin=lambda x, dim=-1, **keywords: torch.nn.functional.log_softmax(x, dim, **keywords),
        reference=log_softmax,
        opinfo="log_softmax",
        kernels={"log_softmax": 1, "log_softmax_backward": 2},
        numbers=(1,),
    )

"""The devices and dtypes that tests run on."""

import torch

import torchnotes._C as _C

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
DEVICES = ("cpu", "cuda") if _C.cuda and torch.cuda.is_available() else ("cpu",)

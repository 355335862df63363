"""linear_cross_entropy against torch's, with all logits at once, in chunks, and compiled."""

from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, linear

from torchnotes.functional import linear_cross_entropy
from torchnotes.testing.operations import OPERATIONS

from . import timing
from .timing import Case, Problem, against


def plain(x: Tensor, W: Tensor, target: Tensor) -> Tensor:
    return cross_entropy(linear(x, W), target)


def forward_backward(in_features: int, classes: int, size: int, dtype: torch.dtype, device: torch.device) -> Problem:
    """The size is the number of logits."""
    rows = size // classes
    x = torch.randn(rows, in_features, dtype=dtype, device=device, requires_grad=True)
    W = (torch.randn(classes, in_features, dtype=dtype, device=device) * in_features**-0.5).requires_grad_()
    target, g = torch.randint(classes, (rows,), device=device), torch.ones((), dtype=dtype, device=device)
    functions = against(linear_cross_entropy, plain)
    if hasattr(torch.nn, "LinearCrossEntropyOptions"):  # new in torch 2.13
        options = torch.nn.LinearCrossEntropyOptions()
        functions["chunked"] = partial(torch.nn.functional.linear_cross_entropy, options=options)
    return timing.forward_backward(functions, (x, W, target), g, 2 * (x.nbytes + W.nbytes))


def cases() -> tuple[Case, ...]:
    rows: dict[tuple[int, int], list[int]] = {}
    for n, features, classes in OPERATIONS["linear_cross_entropy"].benchmarked:
        rows.setdefault((features, classes), []).append(n)
    return tuple(
        Case(
            f"{features} features, {classes} classes",
            tuple(n * classes for n in several),
            partial(forward_backward, features, classes),
        )
        for (features, classes), several in rows.items()
    )

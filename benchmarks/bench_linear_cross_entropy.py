"""linear_cross_entropy against torch's, with all logits at once, in chunks, and compiled."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, linear

import torchnotes

from .timing import OURS, Case, Contender, Problem

Function = Callable[[Tensor, Tensor, Tensor], Tensor]


def plain(x: Tensor, W: Tensor, target: Tensor) -> Tensor:
    return cross_entropy(linear(x, W), target)


def contenders() -> dict[str, Function]:
    found: dict[str, Function] = {OURS: torchnotes.functional.linear_cross_entropy, "eager": plain}
    if hasattr(torch.nn, "LinearCrossEntropyOptions"):  # new in torch 2.13
        options = torch.nn.LinearCrossEntropyOptions()
        found["chunked"] = partial(torch.nn.functional.linear_cross_entropy, options=options)
    return found | {"compile": torch.compile(plain, dynamic=False, fullgraph=True)}


def forward_backward(in_features: int, classes: int, rows: int, dtype: torch.dtype, device: torch.device) -> Problem:
    x = torch.randn(rows, in_features, dtype=dtype, device=device, requires_grad=True)
    W = (torch.randn(classes, in_features, dtype=dtype, device=device) * in_features**-0.5).requires_grad_()
    target = torch.randint(classes, (rows,), device=device)
    bytes_moved = 2 * (x.nbytes + W.nbytes)

    def call(function: Function, x: Tensor, W: Tensor) -> Contender:
        def step() -> tuple[Tensor, Tensor, Tensor]:
            loss = function(x, W, target)
            loss.backward()
            dx, x.grad = x.grad, None
            dW, W.grad = W.grad, None
            assert dx is not None
            assert dW is not None
            return loss, dx, dW

        return step

    in_double = call(plain, *(t.detach().double().requires_grad_() for t in (x, W)))
    return Problem({name: call(f, x, W) for name, f in contenders().items()}, in_double, bytes_moved)


def case(in_features: int, classes: int, rows: tuple[int, ...]) -> Case:
    """The size is the number of logits."""

    def setup(size: int, dtype: torch.dtype, device: torch.device) -> Problem:
        return forward_backward(in_features, classes, size // classes, dtype, device)

    return Case(f"{in_features} features, {classes} classes", tuple(n * classes for n in rows), setup)


CASES = (case(32, 100, (8, 256)), case(64, 1000, (32, 2048)), case(512, 32000, (64, 2048)))

"""Training steps of whole networks: forward, backward and the optimizer.

docs/decisions/convolutional-networks.md explains why convolutional networks gain little.
"""

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

import torchnotes
from torchnotes.classifier.network import Design, by_torch, by_torchnotes, copy_parameters

from .timing import OURS, Case, Contender, Problem

CLASSES = 10
DIGITS = Design((64, 128, 128, CLASSES))  # the default of python -m torchnotes train
ROWS = 64
IMAGES = 64, 32, 56, 56
SLOPE = 0.1


def classifier(size: int, dtype: torch.dtype, device: torch.device) -> Problem:
    ours, theirs = by_torchnotes(DIGITS), by_torch(DIGITS)
    copy_parameters(ours, theirs)
    x = torch.randn(ROWS, DIGITS.sizes[0], dtype=dtype, device=device)
    contenders, exact = steps(ours, theirs, x)
    parameters = sum(p.numel() for p in ours.parameters())
    bytes_moved = dtype.itemsize * (10 * parameters + 20 * ROWS * sum(DIGITS.sizes))  # approximately
    return Problem(contenders, exact, bytes_moved, 0.2, loss_of)  # each network has different noise


def loss_of(results: Sequence[Tensor]) -> Tensor:
    return results[0]


def convolutions(
    size: int, dtype: torch.dtype, device: torch.device, *, kernel: int, memory_format: torch.memory_format
) -> Problem:
    channels = IMAGES[1]
    theirs = torch.nn.Sequential()
    for _ in range(3):
        theirs.append(torch.nn.Conv2d(channels, channels, kernel, padding=kernel // 2, bias=False))
        theirs.append(torch.nn.BatchNorm2d(channels))
        theirs.append(torch.nn.LeakyReLU(SLOPE, inplace=True))
    theirs.extend((torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(channels, CLASSES)))
    torch.nn.utils.convert_conv2d_weight_memory_format(theirs.to(device, dtype), memory_format)
    ours = copy.deepcopy(theirs)
    torchnotes.convert(ours, inplace=True)
    x = torch.randn(IMAGES, dtype=dtype, device=device).contiguous(memory_format=memory_format)
    contenders, exact = steps(ours, theirs, x)
    # In both passes each layer reads and writes its images or gradients. Convolutions read both once more.
    return Problem(contenders, exact, dtype.itemsize * size * 3 * 10, 1e-2)


def steps(ours: torch.nn.Module, theirs: torch.nn.Module, x: Tensor) -> tuple[dict[str, Contender], Contender]:
    """The contenders, and the reference in float64."""
    y = torch.randint(CLASSES, x.shape[:1], device=x.device)
    Loss, Adam = torch.nn.CrossEntropyLoss, torch.optim.Adam

    def step(model: Any, loss_function: torch.nn.Module, kind: Any, x: Tensor, **options: Any) -> Contender:
        model.to(x.device)
        optimizer = kind(model.parameters(), lr=1e-3, **options)

        def call() -> list[Tensor]:
            optimizer.zero_grad()
            loss = loss_function(model(x), y)
            loss.backward()
            optimizer.step()
            return [loss.detach(), *(p.grad for p in model.parameters())]

        return call

    def another() -> torch.nn.Module:
        return copy.deepcopy(theirs)

    contenders = {
        OURS: step(ours, torchnotes.nn.CrossEntropyLoss(), torchnotes.optim.Adam, x),
        "eager": step(another(), Loss(), Adam, x),
        "eager, fused Adam": step(another(), Loss(), Adam, x, fused=True),
        "compile": step(torch.compile(another()), Loss(), Adam, x, fused=True),  # torch's fastest
    }
    return contenders, step(another().double(), Loss(), Adam, x.double())


def of_images(kernel: int, memory_format: torch.memory_format) -> Case:
    layout = ", channels last" if memory_format == torch.channels_last else ""
    name = f"3 convolutions of {kernel} x {kernel}, {' x '.join(map(str, IMAGES))}{layout}"
    setup = partial(convolutions, kernel=kernel, memory_format=memory_format)
    return Case(name, (torch.Size(IMAGES).numel(),), setup)


def cases() -> tuple[Case, ...]:
    layouts = torch.contiguous_format, torch.channels_last
    return (
        Case(f"digits classifier, batch of {ROWS}", (ROWS * DIGITS.sizes[0],), classifier),
        *(of_images(kernel, layout) for kernel in (3, 1) for layout in layouts),
    )

"""Ctrl-C in the middle of a step or of training: it is a KeyboardInterrupt, and the next step works."""

import contextlib
import random
import signal
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
import torch

from torchnotes import functional, nn, optim

NAMES = ("SGD", "RMSprop", "Adam", "AdamW")

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs signal.setitimer")


class Interrupts:
    """Interrupts what runs inside the block after a random time, once."""

    def __init__(self, longest: float) -> None:
        self.longest, self.armed, self.seen = longest, False, Counter[str]()

    def handle(self, *_: object) -> None:
        if self.armed:
            self.armed = False
            raise KeyboardInterrupt

    def repeat(self, function: Callable[[], object]) -> None:
        """Until it is interrupted."""
        try:
            self.armed = True
            signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, self.longest))
            while True:
                function()
        except BaseException as error:
            self.armed = False
            self.seen[repr(error)] += 1


@contextlib.contextmanager
def interrupts(longest: float) -> Iterator[Interrupts]:
    random.seed(0)
    interrupts = Interrupts(longest)
    before = signal.signal(signal.SIGALRM, interrupts.handle)
    try:
        yield interrupts
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("name", NAMES)
def test_an_interrupted_step_raises_keyboard_interrupt(name):
    params = [torch.zeros(3, requires_grad=True) for _ in range(8)]
    optimizer = getattr(optim, name)([{"params": params[:4]}, {"params": params[4:]}])
    for p in params:
        p.grad = torch.ones(3)
    with interrupts(3e-4) as of_steps:
        for _ in range(1000):
            of_steps.repeat(optimizer.step)
    assert of_steps.seen == {"KeyboardInterrupt()": 1000}


def test_interrupted_training_raises_keyboard_interrupt():
    net = torch.nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.1), nn.Linear(8, 2))
    optimizer = optim.AdamW(net.parameters())
    x, y = torch.randn(8, 3), torch.randint(2, (8,))

    def train() -> None:
        optimizer.zero_grad()
        functional.cross_entropy(net(x), y).backward()
        optimizer.step()

    with interrupts(1e-3) as of_training:
        for _ in range(1000):
            of_training.repeat(train)
    assert of_training.seen == {"KeyboardInterrupt()": 1000}

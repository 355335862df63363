"""Ctrl-C during a step or during training raises KeyboardInterrupt, and a step is completed or has no effect."""

import contextlib
import gc
import random
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from torchnotes import functional, nn, optim

CALLS = 300
NAMES = ("SGD", "RMSprop", "Adam", "AdamW")

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs signal.setitimer")


@pytest.fixture(autouse=True)
def _grad_mode() -> Iterator[None]:
    """Restores grad mode, which an interrupt inside torch's context managers may leave changed."""
    with torch.enable_grad():
        yield


@pytest.fixture(autouse=True)
def _no_garbage_collection() -> Iterator[None]:
    """Python ignores interrupts inside callbacks of the garbage collector, and hypothesis installs one."""
    gc.disable()
    yield
    gc.enable()


class Interrupts:
    """Interrupts the block once, after a random time."""

    def __init__(self, longest: float) -> None:
        self.longest, self.armed, self.seen = longest, False, Counter[str]()

    def handle(self, *_: object) -> None:
        if self.armed:
            self.armed = False
            raise KeyboardInterrupt

    def repeat(self, function: Callable[[], object]) -> None:
        """Calls the function until it is interrupted."""
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
        for _ in range(CALLS):
            of_steps.repeat(optimizer.step)
    assert of_steps.seen == {"KeyboardInterrupt()": CALLS}


def test_interrupted_training_raises_keyboard_interrupt():
    net = torch.nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.1), nn.Linear(8, 2))
    optimizer = optim.AdamW(net.parameters())
    x, y = torch.randn(8, 3), torch.randint(2, (8,))

    def train() -> None:
        optimizer.zero_grad()
        functional.cross_entropy(net(x), y).backward()
        optimizer.step()

    with interrupts(1e-3) as of_training:
        for _ in range(CALLS):
            of_training.repeat(train)
    assert of_training.seen == {"KeyboardInterrupt()": CALLS}


def interrupted_at(place: int, function: Callable[[], object]) -> bool:
    """Calls a function and interrupts it before the given bytecode instruction. Returns whether it got there."""
    count = 0

    def trace(frame: Any, *_: object) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        count += 1
        if count == place:
            raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.mark.parametrize("name", NAMES)
def test_an_interrupted_step_updates_everything_or_nothing(name):
    """The first step, which creates the states, and the second. Two groups with two dtypes each."""

    def trained(steps: int) -> tuple[list[torch.Tensor], torch.optim.Optimizer]:
        params = [torch.zeros(3, dtype=d, requires_grad=True) for d in (torch.float32, torch.float64) * 2]
        options = {"momentum": 0.9, "dampening": 0.5} if name == "SGD" else {}
        groups = [{"params": params[:2]}, {"params": params[2:]}]
        optimizer = getattr(optim, name)(groups, max_grad_norm=1.0, **options)
        for p in params:
            p.grad = torch.ones_like(p)
        for _ in range(steps):
            optimizer.step()
        return params, optimizer

    def snapshot(params: list[torch.Tensor], optimizer: torch.optim.Optimizer) -> Any:
        return str(([p.data for p in params], optimizer.state_dict()["state"]))

    states = [snapshot(*trained(steps)) for steps in range(3)]
    for steps in (0, 1):
        outcomes = Counter[bool]()
        params, optimizer = trained(steps)
        while interrupted_at(1 + 23 * outcomes.total(), optimizer.step):
            found = snapshot(params, optimizer)
            updated = found == states[steps + 1]
            assert updated or found == states[steps]
            outcomes[updated] += 1
            if updated:
                params, optimizer = trained(steps)
        assert outcomes[False] > 20


def test_an_interrupted_step_of_newton_leaves_the_best_point_found():
    target = torch.tensor([1.0, -2.0], dtype=torch.float64)
    params = [torch.zeros(1, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    optimizer = optim.Newton(params, method="cg")  # an interrupt may leave torch inside the vmap of "exact"

    def closure() -> torch.Tensor:
        return (torch.cat(params) - target).cosh().sum()

    def loss_after(place: int) -> float | None:
        with torch.no_grad():
            for p in params:
                p.zero_()
        return closure().item() if interrupted_at(place, lambda: optimizer.step(closure)) else None

    trajectory = {closure().item()}
    for iterations in (1, 2, 3):
        optimizer.param_groups[0]["max_iter"] = iterations
        assert loss_after(10**9) is None
        trajectory.add(closure().item())
    place = 1
    while (loss := loss_after(place)) is not None:
        assert loss in trajectory
        place += 97
    assert place > 1000

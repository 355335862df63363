"""The number of threads that torch uses.

Measured in docs/decisions/training-command.md.
"""

import os
import time
from collections.abc import Callable

import torch

from ..testing.running import threads

STEPS = 50  # the most steps to time; at least 3 are timed
SECONDS = 0.1  # for each number of threads
WORTH_IT = 0.9  # largest ratio to the time with half as many threads


def set_by_environment() -> bool:
    return any(os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"))


def fastest(step: Callable[[], object]) -> int:
    """Tries 1, 2, 4, ... threads as long as steps get faster, up to torch's default.

    Threads wait for each other several times per step. On a busy machine all of them may wait for one that is not
    running: a step of the digits classifier took 60.9 ms with two threads and 1.3 ms with one.
    """
    most, number = torch.get_num_threads(), 1
    seconds = time_of(step, number)
    while number < most:
        more = min(2 * number, most)
        seconds_of_more = time_of(step, more)
        if seconds_of_more > WORTH_IT * seconds:
            break
        number, seconds = more, seconds_of_more
    return number


def time_of(step: Callable[[], object], number: int) -> float:
    """The mean time. Unlike a median it includes the steps that had to wait."""
    with threads(number):
        step()  # starts the threads
        count, start = 0, time.perf_counter()
        while count < 3 or (count < STEPS and time.perf_counter() - start < SECONDS):
            step()
            count += 1
        return (time.perf_counter() - start) / count

"""Chooses the number of threads that torch uses.

Measured in docs/decisions/training-command.md.
"""

import time
from collections.abc import Callable

import torch

from ..testing.running import threads

STEPS = 50  # at most, at least 3
SECONDS = 0.1  # for each number of threads
WORTHWHILE = 0.9  # largest ratio to the time with half as many threads


def fastest(step: Callable[[], object]) -> int:
    """Tries 1, 2, 4, ... threads as long as steps get faster, up to torch's default.

    Threads wait for each other several times per step. On a busy machine all of them may wait for one that is not
    running: a step of the digits classifier took 60.9 ms with two threads and 1.3 ms with one.
    """
    number, seconds = 1, mean_time(step, 1)
    while number < torch.get_num_threads():
        more = min(2 * number, torch.get_num_threads())
        seconds_of_more = mean_time(step, more)
        if seconds_of_more > WORTHWHILE * seconds:
            break
        number, seconds = more, seconds_of_more
    return number


def mean_time(step: Callable[[], object], number: int) -> float:
    """Unlike the median, the mean includes the steps that had to wait."""
    with threads(number):
        step()  # starts the threads
        count, start = 0, time.perf_counter()
        while count < 3 or (count < STEPS and time.perf_counter() - start < SECONDS):
            step()
            count += 1
        return (time.perf_counter() - start) / count

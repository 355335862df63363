"""Types of command-line arguments."""

import argparse
import math
from collections.abc import Callable

import torch


def at_least(least: int, most: int = 2**63 - 1) -> Callable[[str], int]:
    def whole(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if not least <= number <= most:
            wanted = f"of at least {least}" if most == 2**63 - 1 else f"from {least} to {most}"
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number {wanted}")
        return number

    return whole


number_of_threads = at_least(1, 1024)


def positive(text: str) -> float:
    number = _number(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return number


def seconds(text: str) -> float:
    number = _number(text)
    if not 1 <= number <= 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 1 to a million")
    return number


def rate(text: str) -> float:
    number = _number(text)
    if not 0 <= number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to below 1")
    return number


def device(text: str) -> torch.device:
    try:
        found = torch.device(text)
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not an available device") from error
    if found.type == "meta":
        raise argparse.ArgumentTypeError("'meta' computes nothing")
    return found


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan

"""Types of command-line arguments."""

import argparse
import math
from collections.abc import Callable
from typing import Any

import torch

from ..init import ALIASES


def _number(kind: type, is_valid: Callable[[Any], bool], description: str) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            number = kind(text)
        except ValueError:
            number = math.nan
        if not is_valid(number):
            raise argparse.ArgumentTypeError(f"{text!r} is not {description}")
        return number

    return parse


def at_least(minimum: int) -> Callable[[str], int]:
    return _number(int, lambda n: minimum <= n < 2**63, f"an integer of at least {minimum}")


number_of_threads = _number(int, lambda n: 1 <= n <= 1024, "an integer from 1 to 1024")
positive = _number(float, lambda x: 0 < x < math.inf, "a positive number")
seconds = _number(float, lambda x: 1 <= x <= 1e6, "a number of seconds from 1 to 1000000")
share = _number(float, lambda x: 0 < x < 1, "a number between 0 and 1")
rate = _number(float, lambda x: 0 <= x < 1, "a number from 0 to below 1")


def scheme_name(text: str) -> str:
    """The name of an initialization scheme, also by torch's name."""
    return ALIASES.get(text, text)


def device(text: str) -> torch.device:
    try:
        device = torch.device(text)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not an available device") from error
    if device.type == "meta":
        raise argparse.ArgumentTypeError("'meta' computes nothing")
    return device

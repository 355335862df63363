"""What several checks need while they run."""

import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch

from .operation import Operation, described


@contextmanager
def naming(what: str) -> Iterator[None]:
    """Puts the case before the message of an error, and gives it random numbers that other cases do not change."""
    try:
        with torch.random.fork_rng(devices=()):
            torch.default_generator.manual_seed(torch.initial_seed() + zlib.crc32(what.encode()))
            yield
    except Exception as error:
        raise AssertionError(f"{what}: {error}") from error


@contextmanager
def threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def result_or_error(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What a call returns; or the type of the exception that it raises, and the first line of its message."""
    try:
        return function(*args, **kwargs)
    except Exception as error:
        return type(error), str(error).split("\n")[0]


def for_each_option(more: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Runs a check of (operation, options, ...) for all combinations of options, with `more` also `more_options`."""

    def decorate(check: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(check)
        def check_all(operation: Operation, *args: Any, **kwargs: Any) -> dict[str, Any]:
            combinations = operation.options + (operation.more_options if more else ())
            for options in combinations:
                with naming(described(options)):
                    check(operation, options, *args, **kwargs)
            return {"options": len(combinations)}

        return check_all

    return decorate

"""The checks of torchnotes.testing as tests: `@checked(operation)` gives a test one check at a time."""

from typing import Any

import pytest

from devices import DEVICES
from torchnotes.testing import Operation, checks


def checked(operation: Operation) -> Any:
    every = [check for device in DEVICES for check in checks(operation, device=device)]
    marks = {True: (pytest.mark.kernels,), False: ()}
    return pytest.mark.parametrize(
        "check", [pytest.param(check, id=f"{check}-{check.device}", marks=marks[check.of_kernels]) for check in every]
    )

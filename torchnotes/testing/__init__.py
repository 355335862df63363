"""Checks of a differentiable function against a reference: numbers, derivatives, transforms, compilers.

    from torchnotes.testing import Operation, check

    check(Operation(softsign, reference=lambda input: input / (1 + input.abs()), arguments={"input": normal}))

`checks` returns the same checks one by one, for pytest.mark.parametrize.
"""

from .checks import Check, check, checks
from .operation import Operation

__all__ = ["Check", "Operation", "check", "checks"]

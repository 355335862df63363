"""The list of all checks: cheap ones that find most mistakes come first.

The reasons are in docs/decisions/tests.md.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from . import compilers, derivatives, dispatcher, modes, values
from .operation import Operation

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

# Of the kernels: they run again for every instruction set.
OF_KERNELS: tuple[Callable[..., Any], ...] = (
    values.check_values,
    values.check_special_values,
    values.check_second_derivative_values,
    values.check_layouts,
    values.check_every_length,
    values.check_error,
    values.check_threads,
    values.check_place_in_memory,
    values.check_batch_invariance,
)
OF_MODES: tuple[Callable[..., Any], ...] = (
    modes.check_saved_tensors,
    modes.check_gradient_modes,
    modes.check_hooks_and_checkpointing,
    modes.check_autocast,
    modes.check_concurrent_calls,
    dispatcher.check_mismatched_operands,
    dispatcher.check_bad_arguments,
    dispatcher.check_subclasses,
    dispatcher.check_other_dtypes,
    compilers.check_traced_operators,
    dispatcher.check_opinfo,
    compilers.check_export,
    compilers.check_compiled_transforms,
)


@dataclass(frozen=True)
class Check:
    """One check of one operation, to be called. It raises an AssertionError if it fails.

    Attributes:
        function: The function that checks.
        operation: The operation.
        dtype: The dtype to check, None if the check chooses itself.
        device: The device of the arguments.
    """

    function: Callable[..., Any]
    operation: Operation
    dtype: torch.dtype | None = None
    device: Any = "cpu"

    def __call__(self) -> Any:
        torch.manual_seed(0)
        dtype = () if self.dtype is None else (self.dtype,)
        return self.function(self.operation, *dtype, device=self.device)

    @property
    def name(self) -> str:
        return self.function.__name__.removeprefix("check_")

    def __str__(self) -> str:
        return self.name if self.dtype is None else f"{self.name}-{str(self.dtype).removeprefix('torch.')}"

    @property
    def of_kernels(self) -> bool:
        return self.function in OF_KERNELS


def checks(operation: Operation, dtypes: tuple[torch.dtype, ...] = DTYPES, device: Any = "cpu") -> list[Check]:
    """Lists all checks of an operation, for ``pytest.mark.parametrize``.

    Args:
        operation: The operation.
        dtypes: The dtypes to check.
        device: The device of the arguments.

    Returns:
        The checks. Cheap ones that find most mistakes come first.

    Example:
        >>> from torchnotes.testing import Operation, checks, makers
        >>> operation = Operation(torch.tanh, torch.tanh, {"input": makers.normal})
        >>> print(checks(operation)[0])
        values-float32
    """
    found = list(_checks(operation, dtypes, device))
    if unknown := set(operation.unchecked) - {check.name for check in found}:
        raise ValueError(f"there are no checks called {', '.join(sorted(unknown))}")
    return [check for check in found if check.name not in operation.unchecked]


def _checks(operation: Operation, dtypes: tuple[torch.dtype, ...], device: Any) -> Iterator[Check]:
    cheap, *others = OF_KERNELS
    for dtype in dtypes:
        yield Check(cheap, operation, dtype, device)
    for function in derivatives.ALL:
        yield Check(function, operation, None, device)
    for function in others:
        for dtype in dtypes:
            yield Check(function, operation, dtype, device)
    for function in OF_MODES:
        yield Check(function, operation, None, device)
    for function in (modes.check_fake_tensors, dispatcher.check_operators):
        for dtype in dtypes:
            yield Check(function, operation, dtype, device)
    yield Check(check_compile, operation, None, device)


def check_compile(operation: Operation, device: Any) -> None:
    compilers.check_compile(operation, backend="aot_eager", device=device)


def check(operation: Operation, dtypes: tuple[torch.dtype, ...] = DTYPES, device: Any = "cpu") -> None:
    """Runs all checks of an operation. The first one that fails raises an AssertionError.

    Args:
        operation: The operation.
        dtypes: The dtypes to check.
        device: The device of the arguments.

    Example:
        >>> from torchnotes.testing import Operation, check, makers
        >>> wrong = Operation(torch.sin, torch.tanh, {"input": makers.normal})
        >>> check(wrong)
        Traceback (most recent call last):
        AssertionError: values-float32: ...
    """
    for each in checks(operation, dtypes, device):
        try:
            each()
        except AssertionError as error:
            raise AssertionError(f"{each}: {error}") from error

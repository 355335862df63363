from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

version: str
torch_version: str
instruction_sets: str
cuda_architectures: str
cuda: bool
compiler: str

DIRECT: int
GRAPH: int
TRANSFORM: int

def call_mode(*args: Any) -> int: ...
def check_in_place(x: Tensor) -> None: ...
def dense_float(x: Any) -> bool: ...
def batch_of(*args: Any) -> tuple[int, int] | None: ...
def on_one_device(*args: Any) -> bool: ...
def is_watched() -> bool: ...
def is_recorded() -> bool: ...
def fits_layer(x: Any, weight: Any, bias: Any) -> bool: ...
def gather(
    params: Sequence[Tensor], state: dict[Tensor, Any], names: tuple[str, ...], names_of_16_bits: tuple[str, ...], /
) -> tuple[list[tuple[Any, Tensor]], list[Tensor]] | None: ...
def call_on(operator: str, bundle: Any, places: tuple[int, ...], rest: tuple, /) -> Tensor: ...
def update(operator: str, calls: list[tuple], new_states: list[tuple[dict, dict]], /) -> None: ...
def differentiable(
    name: str,
    kernel: str,
    backward: str,
    saved_values: list[str],
    respects_autocast: bool,
    results: int,
    fallback: Callable[..., Tensor] | None,
    differentiable_backward: Callable[..., Tensor | tuple[Tensor, ...]],
    /,
) -> Callable[..., Any]: ...

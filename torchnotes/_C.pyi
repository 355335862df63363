from collections.abc import Callable
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
def dense_float(x: Any) -> bool: ...
def activation(
    name: str,
    kernel: str,
    slope: str,
    keeps_input: bool,
    under_transform: Callable[..., Tensor],
    differentiable_slope: Callable[..., Tensor],
    /,
) -> Callable[..., Tensor]: ...

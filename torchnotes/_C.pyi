from typing import Any

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

"""softmax and log_softmax."""

from typing import Any

import torch
import torch.nn.functional as torch_F
from torch import Tensor

from ... import functional as F
from ..accuracy import Bound
from ..makers import normal
from ..operation import Operation, Shape

inf, nan = float("inf"), float("nan")
LENGTHS = (1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 64, 65, 129, 1000, 32_771)


def special_rows(shape: Shape) -> Tensor:
    """Rows with one special number, and rows of nothing else."""
    x = torch.randn(shape, dtype=torch.float64)
    for row, special in enumerate((nan, inf, -inf, 0.0, -0.0, 1e-42)):
        x[row, shape[1] // 2] = special
    x[6], x[7], x[8] = -inf, inf, nan
    return x.requires_grad_()


def log_softmax(input: Tensor, dim: int = -1, dtype: torch.dtype | None = None) -> Tensor:
    x = input if dtype is None else input.to(dtype)
    if x.numel() == 0:
        return x.clone()
    x = x - x.detach().amax(dim, keepdim=True)
    return x - x.exp().sum(dim, keepdim=True).log()


_ROWS: dict[str, Any] = dict(
    arguments={"input": normal, "dim": -1},
    options=({}, {"dim": 0}),
    more_options=({"dtype": torch.float64},),
    special=({"input": special_rows},),
    special_shapes=((12, 1), (12, 5), (12, 200)),
    shapes=((), (1,), (7,), (1, 1), (40, 3), (0, 5), (3, 0, 2), (2, 70, 5), (2, 3, 5, 33), (4, 1000), (3, 1, 129)),
    lengths=tuple((rows, n) for n in LENGTHS for rows in (1, 2, 33)),
    batched=lambda options: () if options.get("dim") == 0 else ("input",),
    large=((300, 1001), (9, 33_001), (30_000, 10)),
    many=(500, 300),
    scales=(1e-30, 0.1, 1.0, 10.0, 100.0, 1e4),
    saves=("output",),
    benchmarked=((128, 10), (8192, 1000), (1024, 32000)),
    # The largest of 150,000 errors is a matter of chance.
    bound=Bound(mean=1.1, largest=1.25, roundings=1.0, few=2.5, share=2e-3),
)

ROWS = {
    "softmax": Operation(
        F.softmax,
        lambda **arguments: log_softmax(**arguments).exp(),
        builtin=torch_F.softmax,
        opinfo="softmax",
        **_ROWS,
    ),
    "log_softmax": Operation(F.log_softmax, log_softmax, builtin=torch_F.log_softmax, opinfo="log_softmax", **_ROWS),
}

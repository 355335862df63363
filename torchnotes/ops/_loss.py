"""What all losses share: the arguments by which torch's say how the elements become one number."""

from torch.nn import _reduction

NONE, MEAN, SUM = (_reduction.get_enum(reduction) for reduction in ("none", "mean", "sum"))
_ENUM = {"none": NONE, "mean": MEAN, "sum": SUM}


def reduction_enum(size_average: bool | None, reduce: bool | None, reduction: str) -> int:
    """The number of a reduction. Torch warns of its deprecated forms, and refuses what is none."""
    if size_average is not None or reduce is not None:
        return _reduction.legacy_get_enum(size_average, reduce)
    return _ENUM[reduction] if reduction in _ENUM else _reduction.get_enum(reduction)

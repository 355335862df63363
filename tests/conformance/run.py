"""Runs all cases of one name in a separate process."""

import time
import traceback
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch

from . import modules, operations, optimizers
from .case import Case

PARTS = {"operations": operations, "modules": modules, "optimizers": optimizers}


@dataclass(frozen=True)
class Difference:
    case: str
    call: str
    what: str  # the kind, a colon, and the details

    @property
    def kind(self) -> str:
        return self.what.split(":")[0]

    def __str__(self) -> str:
        return f"{self.case}: {self.what}"


@dataclass
class Run:
    name: str
    cases: int = 0
    seconds: float = 0.0
    differences: list[Difference] = field(default_factory=list)


def run(part: str, name: str, only: list[str]) -> Run:
    torch.set_num_threads(1)
    torch.set_warn_always(True)
    begin = time.monotonic()
    result = compared(f"{part} {name}", PARTS[part].cases(name), part, only)
    result.seconds = time.monotonic() - begin
    return result


def compared(name: str, cases: Iterable[Case], prefix: str, only: list[str]) -> Run:
    result = Run(name)
    for case in cases:
        full = f"{prefix} {case.name}"
        if only and not any(text in full for text in only):
            continue
        result.cases += 1
        try:
            wrong = case.difference()
        except Exception:
            wrong = f"broken: {' '.join(traceback.format_exc().split())[-400:]}"
        if wrong:
            result.differences.append(Difference(full, case.call, wrong))
    return result

"""A pytest plugin for torch's own tests. It substitutes our functions, selects the relevant tests, and saves their
outcomes.
"""

import inspect
import json
import os
import re
from pathlib import Path
from typing import Any

import torch

from torchnotes import functional, nn, optim

OF_TORCH = ("log_softmax", "relu", "sigmoid", "softmax", "tanh")  # other functions of torch itself have other arguments
PLACES = ((functional, torch.nn.functional), (functional, torch), (nn, torch.nn), (optim, torch.optim))


def _is_public(ours: Any, name: str, theirs: Any) -> bool:
    if name.startswith("_") or inspect.ismodule(getattr(ours, name)) or not hasattr(theirs, name):
        return False
    return theirs is not torch or name in OF_TORCH


# Names that torchnotes and torch share.
SHARED = {name for ours, theirs in PLACES for name in vars(ours) if _is_public(ours, name, theirs)}
RELEVANT = re.compile(rf"(?<![a-z])({'|'.join(sorted(SHARED))})(?![a-z])")
CALLED = re.compile(rf"\.({'|'.join(sorted(SHARED))})\(")
# Tests whose names contain one of these by coincidence, and tests of other devices.
EXCLUDED = re.compile(
    "_refs|alpha|native|feature|mask|sparse|quant|gumbel|update|multi|instance|layer|cuda|mps|meta_device"
)
OUTCOMES: dict[str, str] = {}


def pytest_configure() -> None:
    if os.environ["CONFORMANCE_IN_PLACE"] == "1":
        for ours, theirs in PLACES:
            for name in filter(lambda name: _is_public(ours, name, theirs), vars(ours)):
                setattr(theirs, name, getattr(ours, name))


def pytest_collection_modifyitems(items: list) -> None:
    only = json.loads(os.environ["CONFORMANCE_ONLY"])
    items[:] = [
        item
        for item in items
        if (RELEVANT.search(item.name) or CALLED.search(inspect.getsource(item.function)))
        and not EXCLUDED.search(item.name)
        and (not only or any(text in f"upstream {item.nodeid}" for text in only))
    ]


def pytest_runtest_logreport(report: Any) -> None:
    if report.when == "call" or not report.passed:
        crash = getattr(report.longrepr, "reprcrash", None)
        OUTCOMES[report.nodeid] = report.outcome + (f": {' '.join(crash.message.split())[:200]}" if crash else "")


def pytest_sessionfinish() -> None:
    Path(os.environ["CONFORMANCE_OUTCOMES"]).write_text(json.dumps(OUTCOMES))

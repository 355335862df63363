"""Names of torch that torchnotes does not provide: the error says where to find them."""

import importlib
import inspect

import pytest
import torch

import torchnotes
from torchnotes import functional, init, nn, optim

MODULES = {nn: torch.nn, functional: torch.nn.functional, init: torch.nn.init, optim: torch.optim}
MODULES[nn.utils] = torch.nn.utils
CASES = [
    (nn, "Conv2d", "use torch.nn.Conv2d"),
    (nn, "Module", "use torch.nn.Module"),
    (nn, "functional", "torchnotes.functional has ours, torch.nn.functional torch's"),
    (nn, "init", "torchnotes.init has ours, torch.nn.init torch's"),
    (optim, "LBFGS", "use torch.optim.LBFGS"),
    (optim, "lr_scheduler", "use torch.optim.lr_scheduler"),
    (functional, "conv2d", "use torch.nn.functional.conv2d"),
    (init, "orthogonal_", "use torch.nn.init.orthogonal_"),
    (nn.utils, "clip_grad_norm_", "use torch.nn.utils.clip_grad_norm_"),
    (nn, "Lienar", "Did you mean: torchnotes.nn.Linear?"),
    (nn, "Conv2D", "Did you mean: torch.nn.Conv2d?"),
    (init, "glorot_unifrom_", "Did you mean: torchnotes.init.glorot_uniform_?"),
]


@pytest.mark.parametrize(("module", "name", "hint"), CASES)
def test_the_error_says_where_a_name_is(module, name, hint):
    with pytest.raises(AttributeError) as raised:
        getattr(module, name)
    assert str(raised.value).startswith(f"module {module.__name__!r} has no attribute {name!r}")
    assert hint in str(raised.value)
    assert raised.value.name == name
    assert raised.value.obj is None  # otherwise Python appends a suggestion of its own
    if hint.startswith("use "):
        path, _, last = hint.removeprefix("use ").rpartition(".")
        assert hasattr(importlib.import_module(path), last)
    assert not hasattr(module, name)
    assert getattr(module, name, None) is None
    assert name not in dir(module)


@pytest.mark.parametrize("module", MODULES)
def test_names_without_a_likeness_and_those_that_python_probes(module):
    for name in ("xyzzyx", "__wrapped__", "_ipython_display_"):
        with pytest.raises(AttributeError) as raised:
            getattr(module, name)
        assert str(raised.value) == f"module {module.__name__!r} has no attribute {name!r}"
    inspect.getmembers(module)


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_of_torch_exists_or_is_explained(module):
    theirs = MODULES[module]
    for name in dir(theirs):
        if name.startswith("_") or hasattr(module, name):
            continue
        with pytest.raises(AttributeError, match=rf"{theirs.__name__}\.{name}\b"):
            getattr(module, name)


def test_importing_a_missing_name_fails():
    with pytest.raises(ImportError, match="Conv2d"):
        exec("from torchnotes.nn import Conv2d")
    names: dict = {}
    exec("from torchnotes.nn import *", names)
    assert names["Linear"] is torchnotes.nn.Linear
    assert "Conv2d" not in names

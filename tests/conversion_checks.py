"""Compares a model with its converted copy, for the tests of convert."""

import contextlib
import copy
import linecache
import sys
import textwrap
import unittest.mock
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from torchnotes import Report, convert, revert
from torchnotes.conversion import _converted


def module(forward: str, base: type[nn.Module] = nn.Module, others: str = "a=None, b=None", **children: Any) -> Any:
    """A module whose forward has this source and runs in the caller's namespace."""
    source = f"def forward(self, x, {others}):\n" + textwrap.indent(forward.strip("\n"), "    ")
    file = f"<{forward}>"
    lines = source.splitlines(keepends=True)
    linecache.cache[file] = len(source), None, lines, file  # convert reads the source from there
    members: dict[str, Any] = {}
    exec(compile(source, file, "exec"), sys._getframe(1).f_globals, members)
    made = type("Module", (base,), members)()
    for name, child in children.items():
        setattr(made, name, child)
    return made


def results(model: nn.Module, *inputs: Tensor, second: bool = False, write: Callable | None = None) -> list:
    """The output, the gradients of a loss, the buffers and, with `second`, the gradients of the gradients' norm.

    `write` overwrites the output before the backward pass.
    """
    torch.manual_seed(0)
    first, *others = inputs
    leaf = first.detach().requires_grad_(first.is_floating_point())
    y = model(leaf * 1, *others)
    if write is not None:
        write(y)
    leaves = [x for x in (leaf, *model.parameters()) if x.requires_grad]
    loss = sum(one.square().sum() for one in torch.utils._pytree.tree_leaves(y))
    gradients = torch.autograd.grad(loss, leaves, create_graph=second, allow_unused=True) if loss.requires_grad else ()
    found = [y, *gradients, *(x.clone() for x in model.buffers())]
    if second:
        length = sum(g.square().sum() for g in gradients if g is not None)
        found += torch.autograd.grad(length, leaves, allow_unused=True, materialize_grads=True)
    return torch.utils._pytree.tree_map_only(Tensor, Tensor.detach, found)


def assert_same(ours: nn.Module, model: nn.Module, *inputs: Tensor, **options: Any) -> None:
    """Compares in float64, relative to the largest result, because only the order of some sums differs."""
    found, expected = (results(each, *inputs, **options) for each in (ours, model))
    greatest = max(1.0, *(x.abs().max().item() for x in torch.utils._pytree.tree_leaves(expected) if x is not None))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10 * greatest)


def compare(
    model: nn.Module, *inputs: Tensor, second: bool = False, write: Callable | None = None, **options: bool
) -> Report:
    """Converts a copy, compares it with the model in training and in evaluation, reverts it, and returns the report."""
    model = model.double()
    ours = copy.deepcopy(model)
    report = convert(ours, **options)
    for training in (True, True, False):
        assert_same(ours.train(training), model.train(training), *inputs, second=second, write=write)
    assert ours.state_dict().keys() == model.state_dict().keys()
    revert(ours)
    assert repr(ours) == repr(model)
    for one, other in zip(ours.modules(), model.modules(), strict=True):
        assert type(one) is type(other)
        assert vars(one).keys() == vars(other).keys()
    assert_same(ours, model, *inputs, second=second)
    return report


def fused_in(model: nn.Module, *inputs: Tensor) -> int:
    """How many activations are fused into layers when the model runs."""
    passed_on = []

    def watched(forward: Callable) -> Callable:
        def watching(self: nn.Module, input: Tensor) -> Tensor:
            passed_on.append(self in _converted._running.results)
            return forward(self, input)

        return watching

    with contextlib.ExitStack() as patches:
        for activation in _converted.NAMES:
            patches.enter_context(unittest.mock.patch.object(activation, "forward", watched(activation.forward)))
        model(*inputs)
    return sum(passed_on)

"""Derivatives of compositions of plain torch operations, right in every mode and to every order."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C._autograd import (
    _pop_saved_tensors_default_hooks,
    _push_saved_tensors_default_hooks,
    _top_saved_tensors_default_hooks,
)


def transpose(function: Callable[..., Any], *primals: Tensor) -> Callable[..., Any]:
    """The transposed derivative at the primals, which maps a gradient of the result to gradients of the arguments."""
    return _vjp(function, *primals)[1]


def _vjp(function: Callable[..., Any], *primals: Tensor) -> Any:
    """torch.func.vjp, with saved-tensor hooks suspended, because it refuses to run under them."""
    hooks = []
    try:
        while hook := _top_saved_tensors_default_hooks(True):
            hooks.append(hook)
            _pop_saved_tensors_default_hooks()
        return torch.func.vjp(function, *primals)
    finally:
        for hook in reversed(hooks):
            _push_saved_tensors_default_hooks(*hook)


def of_some(function: Callable[..., Any], arguments: Sequence, places: Sequence[int]) -> Callable[..., Any]:
    """The function of its arguments at these places, with the others fixed."""

    def call(*some: Tensor) -> Any:
        everything = list(arguments)
        for i, x in zip(places, some, strict=True):
            everything[i] = x
        return function(*everything)

    return call


def of_tensors(function: Callable[..., Any], arguments: Sequence) -> tuple[Callable[..., Any], list[Tensor]]:
    """The function of only those arguments that are not None, and these arguments."""
    places = [i for i, x in enumerate(arguments) if x is not None]
    return of_some(function, arguments, places), [arguments[i] for i in places]


def tangent(function: Callable[..., Any], primals: tuple, tangents: tuple, *constants: Any) -> Any:
    """The derivative of function(*primals, *constants) along the tangents, where None means 0.

    It is the transpose of the transpose, because torch does not allow forward mode inside dual numbers.
    """
    moving = [i for i, t in enumerate(tangents) if t is not None]
    of_moving = of_some(function, (*primals, *constants), moving)
    result, pull, *_ = _vjp(of_moving, *(primals[i] for i in moving))
    anywhere = torch.utils._pytree.tree_map(torch.zeros_like, result)  # pull is linear
    return transpose(pull, anywhere)(tuple(tangents[i] for i in moving))[0]

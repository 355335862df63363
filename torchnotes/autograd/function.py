"""The base of every autograd Function here, and the test of whether a call is one for our kernels."""

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch._C._functorch import TransformType, _unwrap_for_grad, _wrap_for_grad, unwrap_if_dead
from torch._functorch.autograd_function import VmapInfo
from torch._functorch.pyfunctorch import retrieve_current_functorch_interpreter
from torch.autograd import forward_ad
from torch.compiler import is_compiling
from torch.overrides import handle_torch_function

from .._native import _C, DIRECT, GRAPH, batch_of, call_mode, dense_float, is_recorded, is_watched


def native(x: Any) -> bool:
    """Whether x is a tensor that our kernels take, in a call that they should take.

    Everything else goes to the torch operation of the same name, which computes it (integer, complex, sparse, nested
    and quantised tensors, tensor subclasses, other devices) or raises its own error. So does a call that is being
    compiled or exported: a kernel of ours would keep the compiler from fusing the operation with its neighbours.
    """
    return not is_compiling() and dense_float(x)


def watched() -> bool:
    """Whether a TorchFunctionMode is active. It is to see the call under our name (`show`), before any kernel does."""
    return not is_compiling() and is_watched()


def show(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What the innermost TorchFunctionMode, or a subclass among the arguments, makes of the call.

    By default it calls the function, itself switched off. The reasons are in docs/decisions/function-modes.md.
    """
    return handle_torch_function(function, (*args, *kwargs.values()), *args, **kwargs)


def recorded(x: Any) -> bool:
    """Whether our kernels would take x, but the call must consist of torch's operations (`is_recorded`).

    This holds under torch.jit.trace, under torch.func.functionalize, and while torch.fx records with gradients enabled
    or under a transform. The reasons are in docs/decisions/tracing.md.
    """
    return not is_compiling() and is_recorded() and traceable(x)


def traceable(x: Any) -> bool:
    """The same question of dtype and layout for a call that is being compiled: an operator of ours may be traced."""
    return isinstance(x, torch.Tensor) and x.is_floating_point() and x.layout == torch.strided


def autocasts(x: torch.Tensor) -> bool:
    """Whether operations on x are under autocast."""
    device = x.device.type
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def kernel(name: str) -> Callable[..., Any]:
    """The native operator torchnotes::name as a C++ callable, without the Python layer that torch.ops puts over it."""
    return getattr(torch.ops.torchnotes, name).default._op


def differentiable(
    name: str,
    operator: str,
    backward: str,
    otherwise: Callable[..., Any] | None,
    differentiable_backward: Callable[..., Any],
    *,
    heeds_autocast: bool = False,
    results: int = 1,
    only_for: Mapping[str, int] = MappingProxyType({}),
    **renamed: str | None,
) -> Callable[..., Any]:
    """The native operator as a function of its arguments (by position) that returns so many of its `results`, in C++.

    The first result is differentiable by as many arguments, from the first on, as the native operator `backward`
    returns gradients. The node hands that operator the gradient and what its further arguments without a default name:
    arguments or results of `operator`, `renamed` where the names differ, to None for nothing; and `wanted`, a list that
    says which gradients are. What is `only_for` one of them (its number) is kept where that is wanted. Where a graph of
    the backward is wanted the node calls `differentiable_backward` instead.

    `otherwise` takes the call over wherever C++ does not do: under a transform, where another argument wants a
    gradient, and under autocast for an operator that heeds it. It is None where whoever calls has asked for all that.
    See csrc/differentiable.cpp.
    """
    arguments = getattr(torch.ops.torchnotes, backward).default._schema.arguments[1:]
    needed = [one.name for one in arguments if not one.has_default_value()]
    kept = [(renamed.get(name, name), only_for.get(name)) for name in needed]
    operators = f"torchnotes::{operator}", f"torchnotes::{backward}"
    return _C.differentiable(name, *operators, kept, heeds_autocast, results, otherwise, differentiable_backward)


class Function(torch.autograd.Function):
    """A torch.autograd.Function with forward, setup_context, backward, `tangent` and vmap, called at C speed.

    `tangent` is the forward-mode rule, written as torch's `jvp` is. It has another name because torch.compile refuses a
    Function that defines jvp: only under a transform does `apply` go to a subclass that has it. Outside of transforms
    `apply` skips torch's Python layer, which binds the arguments anew on every call, and where nothing requires a
    gradient it skips autograd altogether. What setup_context saves for backward is saved for `tangent` too. Measured in
    docs/decisions/autograd-calls.md.
    """

    _apply: ClassVar[Callable[..., Any]]
    by_torch: ClassVar[Callable[..., Any] | None] = None  # forward by torch's operations, for what torch.fx records

    def __init_subclass__(cls) -> None:
        cls._apply = super(torch.autograd.Function, cls).apply  # type: ignore[misc] # the C++ base has no stub

    @staticmethod
    def tangent(ctx: Any, *tangents: Any) -> Any:
        raise NotImplementedError("forward-mode differentiation: the Function defines no tangent")

    @classmethod
    def apply(cls, *args: Any) -> Any:
        if is_compiling():
            return super().apply(*args)
        mode = call_mode(*args)
        if mode == DIRECT:
            return cls.forward(*args)
        if mode == GRAPH:
            return cls._apply(*args)
        return cls._under_transform(*args)

    @classmethod
    def _under_transform(cls, *args: Any) -> Any:
        args = tuple(map(_unwrapped, args))
        if cls.by_torch is not None and is_recorded():
            return cls.by_torch(*args)
        if batch := batch_of(*args):
            return cls._batched(batch, *args)
        return _with_jvp(cls, torch.is_grad_enabled()).apply(*args)

    @classmethod
    def _batched(cls, batch: tuple[int, int], *args: Any) -> Any:
        """By the vmap rule in a torch.autograd.grad of batched gradients, whose own vmap would lose the graph."""
        level, size = batch
        in_dims = tuple(0 if batch_of(x) == batch else None for x in args)

        def unwrap(x: Any, dim: int | None) -> Any:
            return x if dim is None else torch._remove_batch_dim(x, level, size, dim)

        def wrap(x: Any, dim: int | None) -> Any:
            return x if x is None or dim is None else torch._add_batch_dim(x, dim, level)

        results, dims = cls.vmap(VmapInfo(size, "error"), in_dims, *map(unwrap, args, in_dims))
        return tuple(map(wrap, results, dims)) if isinstance(results, tuple) else wrap(results, dims)


def _unwrapped(x: Any) -> Any:
    """The tensor inside wrappers whose torch.func level has ended (csrc/call_mode.h), of which there may be several."""
    while isinstance(x, torch.Tensor) and (inside := unwrap_if_dead(x)) is not x:
        x = inside
    return x


_apply_in_python = vars(torch.autograd.Function)["apply"].__func__


@functools.cache
def _with_jvp(cls: type[Function], graph: bool) -> type[torch.autograd.Function]:
    """The Function with the rule of forward mode. Below each level it records a graph only if the caller wants one."""

    def apply(cls: Any, *args: Any) -> Any:
        with torch.set_grad_enabled(graph and torch.is_grad_enabled()):
            return _apply_in_python(cls, *args)

    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        cls.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*(ctx.to_save or ()))

    def jvp(ctx: Any, *tangents: Any) -> Any:
        if torch._C._are_functorch_transforms_active():
            interpreter = retrieve_current_functorch_interpreter()
            if interpreter.key() == TransformType.Jvp:
                return _one_level_down(cls.tangent, ctx, tangents, interpreter, graph)
        return cls.tangent(ctx, *tangents)  # of dual numbers, which may be inside another transform

    def backward(ctx: Any, *gradients: Any) -> Any:
        living = tuple(map(_unwrapped, ctx.saved_tensors))
        return cls.backward(_Saved(ctx, living), *map(_unwrapped, gradients))

    members = {
        "apply": classmethod(apply),
        "setup_context": staticmethod(setup_context),
        "backward": staticmethod(backward),
        "jvp": staticmethod(jvp),
    }
    return type(cls.__name__, (cls,), members)


class _Saved:
    """What a rule sees of ctx: the same attributes, other saved tensors."""

    def __init__(self, ctx: Any, saved_tensors: tuple):
        self._ctx = ctx
        self.saved_tensors = saved_tensors

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ctx, name)


def _one_level_down(tangent: Callable[..., Any], ctx: Any, tangents: tuple, interpreter: Any, graph: bool) -> Any:
    """Compute a forward-mode rule for the transforms outside of the one that asks for it.

    torch calls jvp with differentiation switched off at every level, so plain operations in a rule lose what an outer
    jvp or grad needs of them, and jvp of jvp comes out wrong. The rule belongs to one level: take that level's wrapping
    off its tensors, switch everything on for the levels below, and wrap the result again. The reasons are in
    docs/decisions/forward-mode.md.
    """
    level = interpreter.level()

    def unwrap(x: Any) -> Any:
        return _unwrap_for_grad(x, level) if isinstance(x, torch.Tensor) else x

    def wrap(x: Any) -> Any:
        return _wrap_for_grad(x, level) if isinstance(x, torch.Tensor) else x

    lowered = _Saved(ctx, tuple(map(unwrap, ctx.saved_tensors)))
    with torch.set_grad_enabled(graph), forward_ad._set_fwd_grad_enabled(True), interpreter.lower():
        result = tangent(lowered, *map(unwrap, tangents))
    return tuple(map(wrap, result)) if isinstance(result, tuple) else wrap(result)


def batched(info: Any, in_dims: tuple, args: tuple) -> list:
    """The arguments of a vmap rule with the batch's dimension first; what is not batched is repeated without a copy."""

    def one(x: Any, dim: int | None) -> Any:
        if not isinstance(x, torch.Tensor):
            return x
        return x.expand(info.batch_size, *x.shape) if dim is None else x.movedim(dim, 0)

    return list(map(one, args, in_dims))


class Elementwise(Function):
    """A Function of one or more tensors of one shape, followed by plain numbers, that works element by element."""

    @classmethod
    def vmap(cls, info: Any, in_dims: tuple, *args: Any) -> tuple:
        return cls.apply(*batched(info, in_dims, args)), 0

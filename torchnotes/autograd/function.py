"""The base class of all autograd Functions here, and the test of whether our kernels support a call."""

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
from torch.overrides import handle_torch_function, has_torch_function_unary

from .._native import _C, DIRECT, GRAPH, batch_of, call_mode, dense_float, is_recorded, is_watched
from .compiled import constant_when_compiled


def native(x: Any) -> bool:
    """Whether our kernels support x in this call.

    Everything else falls back to the torch operation of the same name, which computes it (integer, complex, sparse,
    nested and quantized tensors, tensor subclasses, other devices) or raises its own error. So does a call that is
    being compiled or exported, because an opaque kernel would keep the compiler from fusing the operation.
    """
    return not is_compiling() and dense_float(x)


def watched() -> bool:
    """Whether a TorchFunctionMode is active, which must see the call under our name (`show`) before any kernel runs."""
    return not is_compiling() and is_watched()


def show(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Passes the call to the innermost TorchFunctionMode, or to a subclass among the arguments.

    By default it disables itself and calls the function. The reasons are in docs/decisions/function-modes.md.
    """
    return handle_torch_function(function, (*args, *kwargs.values()), *args, **kwargs)


def has_proxy(*args: Any) -> bool:
    """Whether an argument stands for a tensor, such as a proxy of torch.fx, which records the call (`show`)."""
    return any(not isinstance(x, torch.Tensor) and has_torch_function_unary(x) for x in args)


def recorded(x: Any) -> bool:
    """Whether our kernels would support x, but the call must consist of torch's operations (`is_recorded`).

    This is the case under torch.jit.trace, under torch.func.functionalize, and while torch.fx records with gradients
    enabled or under a transform. The reasons are in docs/decisions/tracing.md.
    """
    return not is_compiling() and is_recorded() and traceable(x)


def traceable(x: Any) -> bool:
    """Like `native`, by dtype and layout only, for calls being compiled, which may contain our operators."""
    return isinstance(x, torch.Tensor) and x.is_floating_point() and x.layout == torch.strided


def autocasts(x: torch.Tensor) -> bool:
    """Whether autocast is enabled for operations on x."""
    device = x.device.type
    return _has_autocast(device) and torch.is_autocast_enabled(device)


@constant_when_compiled  # torch 2.11 cannot trace it
def _has_autocast(device: str) -> bool:
    return torch.amp.is_autocast_available(device)


def kernel(name: str) -> Callable[..., Any]:
    """The native operator torchnotes::name as a C++ callable, without the Python wrapper of torch.ops."""
    return getattr(torch.ops.torchnotes, name).default._op


def differentiable(
    name: str,
    operator: str,
    backward: str,
    fallback: Callable[..., Any] | None,
    differentiable_backward: Callable[..., Any],
    *,
    respects_autocast: bool = False,
    results: int = 1,
    only_for: Mapping[str, int] = MappingProxyType({}),
    **renamed: str | None,
) -> Callable[..., Any]:
    """The native operator as a C++ function with positional arguments that returns its first `results` results.

    The first result is differentiable in as many leading arguments as the native operator `backward` returns gradients.
    The node passes to that operator the gradient and whatever its other arguments without a default are named after:
    arguments or results of `operator` (`renamed` maps names that differ, or maps to None for nothing), or
    `output_mask`, a list that tells which gradients are needed. A value in `only_for` is saved only if the gradient of
    that index is needed. If the backward itself needs a graph, the node calls `differentiable_backward` instead.

    `fallback` is the Python version of the call: under a transform, if another argument requires a gradient, and under
    autocast for operators that respect it. It is None if the caller has already checked this.
    See csrc/python/node.cpp.
    """
    arguments = getattr(torch.ops.torchnotes, backward).default._schema.arguments[1:]
    needed = [one.name for one in arguments if not one.has_default_value()]
    saved_values = [(renamed.get(name, name), only_for.get(name)) for name in needed]
    operators = f"torchnotes::{operator}", f"torchnotes::{backward}"
    return _C.differentiable(
        name, *operators, saved_values, respects_autocast, results, fallback, differentiable_backward
    )


class Function(torch.autograd.Function):
    """A :class:`torch.autograd.Function` that is called at C speed, under every transform.

    A subclass defines ``forward``, ``setup_context`` and ``backward`` as in torch, ``tangent``, and ``vmap`` (or it
    inherits that of :class:`~torchnotes.autograd.Elementwise`). ``tangent`` is the forward-mode rule, written like
    torch's ``jvp``. It has another name because torch.compile rejects a Function that defines jvp; under a transform
    ``apply`` switches to a subclass that has it. What ``setup_context`` saves for ``backward`` is also saved for
    ``tangent``.

    Without transforms ``apply`` skips torch's Python layer, which binds the arguments on every call, and skips autograd
    altogether if nothing requires a gradient (measured in docs/decisions/autograd-calls.md).

    Example:
        >>> from torchnotes.autograd import Function
        >>> class Double(Function):
        ...     @staticmethod
        ...     def forward(x):
        ...         return 2 * x
        ...
        ...     @staticmethod
        ...     def setup_context(ctx, inputs, output):
        ...         pass
        ...
        ...     @staticmethod
        ...     def backward(ctx, g):
        ...         return 2 * g
        ...
        ...     @staticmethod
        ...     def tangent(ctx, x_t):
        ...         return 2 * x_t
        >>> torch.func.jvp(Double.apply, (torch.ones(2),), (torch.ones(2),))
        (tensor([2., 2.]), tensor([2., 2.]))
    """

    _apply: ClassVar[Callable[..., Any]]
    by_torch: ClassVar[Callable[..., Any] | None] = None  # forward in torch's operations, for torch.fx to record

    def __init_subclass__(cls) -> None:
        cls._apply = super(torch.autograd.Function, cls).apply  # type: ignore[misc] # the C++ base has no stub

    @staticmethod
    def tangent(ctx: Any, *tangents: Any) -> Any:
        raise NotImplementedError("the Function does not define a tangent, which forward-mode AD requires")

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
        """Applies the vmap rule under autograd.grad(is_grads_batched=True), whose own vmap would lose the graph."""
        level, size = batch
        in_dims = tuple(0 if batch_of(x) == batch else None for x in args)

        def unwrap(x: Any, dim: int | None) -> Any:
            return x if dim is None else torch._remove_batch_dim(x, level, size, dim)

        def wrap(x: Any, dim: int | None) -> Any:
            return x if x is None or dim is None else torch._add_batch_dim(x, dim, level)

        results, dims = cls.vmap(VmapInfo(size, "error"), in_dims, *map(unwrap, args, in_dims))
        return tuple(map(wrap, results, dims)) if isinstance(results, tuple) else wrap(results, dims)


def _unwrapped(x: Any) -> Any:
    """The tensor inside any wrappers whose torch.func level has ended (csrc/python/call_mode.h)."""
    while isinstance(x, torch.Tensor) and (inside := unwrap_if_dead(x)) is not x:
        x = inside
    return x


_apply_in_python = vars(torch.autograd.Function)["apply"].__func__


@functools.cache
def _with_jvp(cls: type[Function], graph: bool) -> type[torch.autograd.Function]:
    """The Function with its forward-mode rule. Below each level it records a graph only if the caller needs one."""

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

    members = {
        "apply": classmethod(apply),
        "setup_context": staticmethod(setup_context),
        "jvp": staticmethod(jvp),
    }
    return type(cls.__name__, (cls,), members)


class _Saved:
    """The ctx that a rule sees, with other saved tensors."""

    def __init__(self, ctx: Any, saved_tensors: tuple):
        self._ctx = ctx
        self.saved_tensors = saved_tensors

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ctx, name)


def _one_level_down(tangent: Callable[..., Any], ctx: Any, tangents: tuple, interpreter: Any, graph: bool) -> Any:
    """Computes a forward-mode rule with differentiation enabled for the outer transforms.

    torch calls jvp with differentiation disabled at every level, so plain operations in a rule lose what an outer jvp
    or grad needs from them, and jvp of jvp is wrong. The rule belongs to one level: unwrap its tensors at that level,
    enable everything for the levels below, and wrap the result again. The reasons are in
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
    """The arguments of a vmap rule with the batch dimension first; unbatched tensors are expanded without a copy."""

    def one(x: Any, dim: int | None) -> Any:
        if not isinstance(x, torch.Tensor):
            return x
        return x.expand(info.batch_size, *x.shape) if dim is None else x.movedim(dim, 0)

    return list(map(one, args, in_dims))


class Elementwise(Function):
    """A :class:`~torchnotes.autograd.Function` of tensors of the same shape, followed by plain numbers.

    It defines ``vmap``, because an elementwise function is its own batched version.

    Example:
        >>> from torchnotes.autograd import Elementwise
        >>> class Double(Elementwise):
        ...     forward = staticmethod(lambda x: 2 * x)
        ...     setup_context = staticmethod(lambda ctx, inputs, output: None)
        ...     backward = tangent = staticmethod(lambda ctx, g: 2 * g)
        >>> torch.vmap(Double.apply)(torch.ones(2, 3)).shape
        torch.Size([2, 3])
    """

    @classmethod
    def vmap(cls, info: Any, in_dims: tuple, *args: Any) -> tuple:
        return cls.apply(*batched(info, in_dims, args)), 0

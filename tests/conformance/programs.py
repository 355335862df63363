"""Programs that call, differentiate and transform a function.

A program returns results by name. Its random vectors consist of multiples of 1/8, which are exact in every dtype, so
that the same program in float64 is the reference.
"""

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor
from torch.func import functionalize, jvp, linearize, vjp, vmap

from .samples import Sample

Results = dict[str, Any]
Program = Callable[[Callable, Sample], Results]


def noise(x: Tensor, seed: int = 1) -> Tensor:
    numbers = torch.randint(-8, 9, x.shape, generator=torch.Generator().manual_seed(seed))
    return ((numbers + (numbers == 0)) / 8).to(x.dtype)


def subsets(sample: Sample) -> list[tuple[int, ...]]:
    """The sets of arguments to differentiate by: each floating-point tensor, all that torch is differentiable by, and
    all of these but one."""
    usual = sample.differentiable
    most = itertools.combinations(usual, len(usual) - 1) if usual else ()
    return sorted({*((i,) for i in sample.floating()), usual, *most} - {()})


def _function(function: Callable, sample: Sample, variables: tuple[int, ...]) -> tuple[Callable, tuple[Tensor, ...]]:
    """The function of only these tensors, and their values. Buffers and the inputs of in-place calls are copied."""

    def of(*given: Tensor) -> Tensor:
        changed = dict(zip(variables, given, strict=True))
        buffers = {i: x.clone() for i, x in enumerate(sample.leaves) if isinstance(x, Tensor) and i not in changed}
        if sample.kwargs.get("inplace"):
            changed = {i: x.clone() for i, x in changed.items()}
        call = sample.given({**buffers, **changed})
        return function(*call.args, **call.kwargs)

    return of, tuple(sample.leaves[i] for i in variables)


def forward(function: Callable, sample: Sample) -> Results:
    versions = {i: x._version for i, x in enumerate(sample.leaves) if isinstance(x, Tensor) and not x.is_inference()}
    memory = {i: x.untyped_storage()._cdata for i, x in enumerate(sample.leaves) if _has_storage(x)}
    y = function(*sample.args, **sample.kwargs)
    after = {f"argument {i} afterwards": x for i, x in enumerate(sample.leaves) if isinstance(x, Tensor)}
    return {
        "output": y,
        **after,
        "is": str([i for i, x in enumerate(sample.leaves) if x is y]),
        "shares": str(
            [i for i, storage in memory.items() if _has_storage(y) and storage == y.untyped_storage()._cdata]
        ),
        "written": str([i for i, version in versions.items() if sample.leaves[i]._version != version]),
    }


def _has_storage(x: Any) -> bool:
    return isinstance(x, Tensor) and x.layout == torch.strided and not x.is_meta


def backward(function: Callable, sample: Sample, variables: tuple[int, ...]) -> Results:
    leaves = [sample.leaves[i].requires_grad_() for i in variables]
    clones = {i: x.clone() for i, x in zip(variables, leaves, strict=True)} if sample.kwargs.get("inplace") else {}
    call = sample.given(clones)
    y = function(*call.args, **call.kwargs)
    gradients = torch.autograd.grad(y, leaves, noise(y), allow_unused=True)
    return {"output": y, "leaf": y.is_leaf, "gradient": gradients}


def double_backward(function: Callable, sample: Sample, variables: tuple[int, ...]) -> Results:
    of, leaves = _function(function, sample, variables)
    leaves = [x.requires_grad_() for x in leaves]
    y = of(*leaves)
    v = noise(y).requires_grad_()
    first = torch.autograd.grad(y, leaves, v, create_graph=True, allow_unused=True)
    some = [g for g in first if g is not None and g.requires_grad]
    second = torch.autograd.grad(some, [*leaves, v], [noise(g, 2) for g in some], allow_unused=True)
    return {"gradient": first, "second": second}


def dual(function: Callable, sample: Sample, variables: tuple[int, ...]) -> Results:
    of, primals = _function(function, sample, variables)
    with forward_ad.dual_level():
        y = of(*[forward_ad.make_dual(x, noise(x)) for x in primals])
        unpacked = forward_ad.unpack_dual(y)
        return {"output": unpacked.primal, "tangent": unpacked.tangent}


def pushed(function: Callable, sample: Sample, variables: tuple[int, ...]) -> Results:
    of, primals = _function(function, sample, variables)
    return {"jvp": jvp(of, primals, tuple(map(noise, primals)))}


def pulled(function: Callable, sample: Sample, variables: tuple[int, ...]) -> Results:
    of, primals = _function(function, sample, variables)
    return {"vjp": _pull(of, *primals)}


def _pull(of: Callable, *primals: Tensor) -> tuple[Tensor, ...]:
    y, pullback = vjp(of, *primals)
    return pullback(tuple(map(noise, y)) if isinstance(y, tuple) else noise(y))


def linearized(function: Callable, sample: Sample, variables: tuple[int, ...]) -> Results:
    of, primals = _function(function, sample, variables)
    y, push = linearize(of, *primals)
    return {"output": y, "tangent": push(*map(noise, primals))}


def _batch(sample: Sample, variables: tuple[int, ...], dims: tuple[int | None, ...]) -> list[Tensor]:
    copies = ((x, x.flip(-1) if x.dim() else x / 2, x / 4) for x in (sample.leaves[i] for i in variables))
    return [torch.stack(x, dim) if dim is not None else x[0] for x, dim in zip(copies, dims, strict=True)]


def mapped(function: Callable, sample: Sample, variables: tuple[int, ...], dims: tuple[int | None, ...]) -> Results:
    of, _ = _function(function, sample, variables)
    return {"mapped": vmap(of, dims, randomness="different")(*_batch(sample, variables, dims))}


def mapped_inside(
    function: Callable, sample: Sample, variables: tuple[int, ...], dims: tuple[int | None, ...]
) -> Results:
    """The first and second gradient of a mapped function in an ordinary graph."""
    of, _ = _function(function, sample, variables)
    leaves = [x.requires_grad_() for x in _batch(sample, variables, dims)]
    y = vmap(of, dims, randomness="different")(*leaves)
    first = torch.autograd.grad(y, leaves, noise(y), create_graph=True, allow_unused=True)
    some = [g for g in first if g is not None and g.requires_grad]
    second = torch.autograd.grad(some, leaves, [noise(g, 2) for g in some], allow_unused=True) if some else ()
    return {"mapped": y, "gradient": first, "second": second}


def functional(function: Callable, sample: Sample, variables: tuple[int, ...]) -> Results:
    of, primals = _function(function, sample, variables)
    return {"vjp": functionalize(partial(_pull, of))(*primals)}


# Compositions of transforms are tested against references, in tests/test_transforms.py and torchnotes.testing.
TRANSFORMS: tuple[Callable, ...] = (dual, pushed, pulled, functional)


def transforms(sample: Sample) -> Iterator[tuple[str, Program]]:
    for variables in subsets(sample):
        named = ",".join(map(str, variables))
        for program in (*TRANSFORMS, *([linearized] if variables == sample.differentiable else [])):
            yield f"{program.__name__} {named}", partial(program, variables=variables)
    tensors = tuple(i for i, x in enumerate(sample.leaves) if isinstance(x, Tensor))
    last = tuple(-1 if sample.leaves[i].dim() else 0 for i in tensors)
    for dims in (*_dims(tensors), last):
        yield f"vmap {dims}", partial(mapped, variables=tensors, dims=dims)
    for dims in _dims(sample.differentiable):
        yield f"graph of vmap {dims}", partial(mapped_inside, variables=sample.differentiable, dims=dims)


def _dims(variables: tuple[int, ...]) -> list[tuple[int | None, ...]]:
    """Maps over every subset of the tensors."""
    return [dims for dims in itertools.product((0, None), repeat=len(variables)) if 0 in dims]

"""Checks of the modes in which PyTorch runs an operation."""

import threading
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor

from .layouts import LAYOUTS, expanded
from .operation import Operation, Options, Sample, cast, tensors, variables
from .running import for_each_option, naming, result_or_error


def _sample(operation: Operation, device: Any) -> Sample:
    return operation.sample(operation.options[0], operation.laid_out[-1], torch.float32, device)


@for_each_option()
def check_saved_tensors(operation: Operation, options: Options, device: Any) -> None:
    """Saves only what the operation names, and few other elements; overwriting it raises an error."""
    shape = operation.laid_out[-1]
    sample = operation.sample(options, shape, torch.float32, device)
    more_gradients = set(variables(sample)) - set(variables(operation.sample(operation.options[0], shape)))
    if operation.saves is None or more_gradients:  # which require more
        return
    saved: list[Tensor] = []

    def pack(t: Tensor) -> Tensor:
        saved.append(t)
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y, given = operation.call(operation.function, sample)
    places = {given[name].data_ptr(): name for name in tensors(given)} | {y.data_ptr(): "output"}
    others = sorted({t.data_ptr(): t.numel() for t in saved if t.data_ptr() not in places}.values())
    assert sum(others) <= operation.saves_besides(shape), f"also saves tensors of {others} elements"
    names = {places[t.data_ptr()] for t in saved if t.data_ptr() in places}
    assert names <= {*operation.saves}, f"saves {', '.join(sorted(names))}"
    for name in sorted(names - {*operation.mutates}):
        _check_overwritten(operation, sample, name)


def _check_overwritten(operation: Operation, sample: Sample, name: str) -> None:
    own = {n: x * 1 if n in variables(sample) else x.clone() for n, x in tensors(sample).items()}
    y = operation.function(**(sample | own))
    overwritten = y if name == "output" else own[name]
    with torch.no_grad():
        overwritten.add_(0)
    try:
        y.sum().backward()
    except RuntimeError as error:
        if "modified by an inplace operation" not in str(error):
            raise
    else:
        raise AssertionError(f"{name} was overwritten before the backward pass, and no error was raised")


def check_hooks_and_checkpointing(operation: Operation, device: Any) -> None:
    sample = _sample(operation, device)
    function, wanted = operation.of_variables(operation.function, sample)
    plain = torch.autograd.grad(function(*wanted).pow(2).sum(), wanted)
    again = torch.utils.checkpoint.checkpoint(function, *wanted, use_reentrant=False)
    assert all(map(torch.equal, torch.autograd.grad(again.pow(2).sum(), wanted), plain)), "checkpointing"
    with torch.autograd.graph.save_on_cpu():
        y = function(*wanted)
    seen: list[Tensor] = []
    y.register_hook(seen.append)
    assert all(map(torch.equal, torch.autograd.grad(y.pow(2).sum(), wanted), plain)), "save_on_cpu"
    assert len(seen) == 1, "a hook of the output was not called once"


def check_concurrent_calls(operation: Operation, device: Any) -> None:
    samples = [operation.sample(operation.options[0], operation.many, torch.float32, device) for _ in range(4)]
    expected = [operation.results(operation.function, sample) for sample in samples]
    found: list[Any] = [None] * len(samples)

    def work(i: int) -> None:
        found[i] = [operation.results(operation.function, samples[i]) for _ in range(5)]

    workers = [threading.Thread(target=work, args=(i,)) for i in range(len(samples))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for right, runs in zip(expected, found, strict=True):
        assert all(torch.equal(right[name], each[name]) for each in runs for name in right)


def check_gradient_modes(operation: Operation, device: Any) -> None:
    """no_grad and inference_mode leave no graph, and the same numbers."""
    sample = _sample(operation, device)

    def output() -> Tensor:
        return operation.call(operation.function, sample)[0]

    expected = output()
    assert expected.requires_grad
    with torch.no_grad():
        y = output()
    assert not y.requires_grad
    assert torch.equal(y, expected)
    plain = {name: x.detach() if isinstance(x, Tensor) else x for name, x in sample.items()}
    assert not operation.call(operation.function, plain)[0].requires_grad
    with torch.inference_mode():
        y = output()
    assert y.is_inference()
    assert torch.equal(y, expected)


@for_each_option(more=True)
def check_autocast(operation: Operation, options: Options, device: Any) -> None:
    """Under autocast the output is the builtin's, and without further options so are all dtypes."""
    builtin = operation.torchs(options)
    for dtype in (torch.float32, torch.bfloat16, torch.float64) if builtin else ():
        sample = operation.sample(options, operation.laid_out[-1], dtype, device)
        with torch.autocast(torch.device(device).type, dtype=torch.bfloat16):
            ours, theirs = (result_or_error(operation.results, f, sample) for f in (operation.function, builtin))
        with naming(str(dtype)):
            if isinstance(theirs, tuple):
                assert ours == theirs
                continue
            y = ours["output"].to(theirs["output"].dtype)
            torch.testing.assert_close(y, theirs["output"], rtol=2e-2, atol=2e-2)
            if options == operation.options[0]:
                assert {n: x.dtype for n, x in ours.items()} == {n: x.dtype for n, x in theirs.items()}


def _on_meta(x: Tensor) -> Tensor:
    y = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta")
    return y.requires_grad_(x.requires_grad)


@for_each_option()
def check_fake_tensors(operation: Operation, options: Options, dtype: torch.dtype, device: Any) -> None:
    """Meta and fake tensors have the size, dtype and strides of real ones, in every layout."""
    for layout in (*LAYOUTS[:-1], expanded):
        sample = cast(operation.sample(options, operation.laid_out[0], dtype, device), dtype, device, layout)
        real = operation.call(operation.function, sample)[0]
        meta = {n: _on_meta(x) for n, x in tensors(sample).items()}
        abstract = [operation.call(operation.function, sample | meta)[0]]
        with torch._subclasses.FakeTensorMode() as mode:
            fake = {n: mode.from_tensor(x) for n, x in tensors(sample).items()}
            abstract.append(operation.call(operation.function, sample | fake)[0])
        with naming(layout.__name__):
            for each in abstract:
                assert (each.shape, each.dtype) == (real.shape, real.dtype)
                assert each.requires_grad == real.requires_grad
            assert abstract[0].stride() == real.stride()

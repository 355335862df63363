"""Checks of the operators that an operation calls, and of arguments with which it must do what torch does."""

import itertools
import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .layouts import channels_last, expanded, transposed
from .operation import Operation, Options, tensors, variables
from .running import for_each_option, naming, result_or_error
from .values import every


class Call(NamedTuple):
    function: Any
    args: tuple
    in_full: bool  # whether it is the first of its operator, and has all derivatives


class _Recorder(TorchDispatchMode):
    """Keeps the arguments of the first call of each operator of a library, for every combination of options."""

    def __init__(self, library: str) -> None:
        super().__init__()
        self.library = library
        self.calls: dict[Any, Call] = {}
        self.in_full = True

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.namespace == self.library:
            kept = torch.utils._pytree.tree_map_only(Tensor, lambda x: x.detach().clone(), args)
            is_tensor = tuple(isinstance(x, Tensor) for x in args)
            others = tuple(repr(x) for x in args if not isinstance(x, Tensor))
            first = not any(kind[:2] == (function, is_tensor) for kind in self.calls)
            self.calls.setdefault((function, is_tensor, others), Call(function, kept, first and self.in_full))
        return function(*args, **(kwargs or {}))


def recorded_calls(operation: Operation, dtype: torch.dtype, device: Any) -> list[Call]:
    """The operators that forward, backward and double backward passes call."""
    with _Recorder(operation.library) as recorder:
        for options in every(operation):
            recorder.in_full = options in operation.options
            sample = operation.sample(options, operation.laid_out[0], dtype, device)
            operation.results(operation.function, sample)
            if options in operation.options:
                y = operation.call(operation.function, sample)[0]
                wanted = list(variables(sample).values())
                first = torch.autograd.grad(y, wanted, torch.ones_like(y).requires_grad_(), create_graph=True)
                again = [d for d in first if d.requires_grad]
                torch.autograd.grad(again, wanted, [torch.ones_like(d) for d in again], allow_unused=True)
    return list(recorder.calls.values())


def check_operators(operation: Operation, dtype: torch.dtype, device: Any) -> None:
    """torch.library.opcheck of every operator that is called: in full once, and in other layouts for fake tensors."""
    full = ("test_schema", "test_faketensor", "test_aot_dispatch_static", "test_aot_dispatch_dynamic")
    calls = recorded_calls(operation, dtype, device)
    for function, args, in_full in calls:
        with naming(str(function)):
            torch.library.opcheck(function, args, test_utils=full if in_full and dtype == torch.float32 else full[:2])
    for layout in (transposed, channels_last, expanded):
        for function, args, _ in calls:
            if function._schema.is_mutable:
                continue  # expanded tensors cannot be written to, and copies that are kept may have any layout
            laid_out = torch.utils._pytree.tree_map_only(Tensor, layout, args)
            with naming(f"{function}, {layout.__name__}"):
                torch.library.opcheck(function, laid_out, test_utils=full[:2])


def check_mismatched_operands(operation: Operation, device: Any) -> None:
    """An operator refuses operands whose size or dtype is not the first one's."""
    for function, args, _ in recorded_calls(operation, torch.float32, device):
        for i in [i for i, x in enumerate(args) if isinstance(x, Tensor) and x.dim() > 1 and x.shape[-1] > 2][1:]:
            for bad in (args[i][..., :2], args[i].double()):
                with naming(f"{function}, argument {i}"):
                    result = result_or_error(function, *args[:i], bad, *args[i + 1 :])
                    assert _kind(result) is RuntimeError, f"an operand of size {tuple(bad.shape)} and {bad.dtype}"


@for_each_option()
def check_other_dtypes(operation: Operation, options: Options, device: Any) -> None:
    """Integers, complex numbers and 8-bit floats do what they do in torch: the same values, or the same error."""
    builtin = operation.torchs(options)
    if builtin is None:
        return
    sample = operation.sample(options, operation.laid_out[-1], torch.float32, device)
    floats = [n for n, x in tensors(sample).items() if x.is_floating_point()]
    for dtype in (torch.bool, torch.uint8, torch.int64, torch.complex64, torch.complex128, torch.float8_e4m3fn):
        for names in (floats, ["input"]):
            given = sample | {n: torch.ones_like(sample[n].detach()).to(dtype) for n in names}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ours, theirs = (result_or_error(f, **given) for f in (operation.function, builtin))
            with naming(f"{dtype} {', '.join(names)}"):
                if isinstance(theirs, Tensor):
                    torch.testing.assert_close(ours, theirs, equal_nan=True)
                else:
                    assert ours == theirs


@for_each_option()
def check_subclasses(operation: Operation, options: Options, device: Any) -> None:
    """The output of a tensor subclass is one, whichever argument it was."""

    class Subclass(torch.Tensor):
        pass

    if operation.torchs(options) is None:
        return  # a subclass is shown torch's function, which has no such options
    sample = operation.sample(options, operation.laid_out[-1], torch.float32, device)
    expected = operation.call(operation.function, sample)[0]
    for name, x in tensors(sample).items():
        y = operation.call(operation.function, sample | {name: x.as_subclass(Subclass)})[0]
        with naming(name):
            assert type(y) is Subclass
            torch.testing.assert_close(y.as_subclass(Tensor), expected)


@for_each_option()
def check_bad_arguments(operation: Operation, options: Options, device: Any) -> None:
    """Wrong types and sizes raise what the builtin raises, and nothing is written."""
    sample = operation.sample(options, operation.laid_out[-1], torch.float32, device)
    builtin = operation.torchs(options)
    if builtin is None:
        return
    bad: list[tuple[str, Any]] = [("nonsense", 1)]
    for name, x in tensors(sample).items():
        x = x.detach()
        others = (None, "x", [1.0, 2.0], 1.0, object(), x[:2], x.new_ones(11), x.to("meta"))
        bad += [(name, each) for each in others]
        if not operation.mixes_dtypes:
            bad.append((name, x.double() if x.is_floating_point() else x.float()))
    for (name, each), inplace in itertools.product(bad, (False, True) if "inplace" in sample else (False,)):
        given = {**sample, name: each, **({"inplace": True} if inplace else {})}
        before = {n: x.detach().clone() for n, x in tensors(sample).items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ours, theirs = (result_or_error(operation.call, f, given) for f in (operation.function, builtin))
        with naming(f"{name}={each!r:.60}"):
            meta_is_computed_with = isinstance(each, Tensor) and each.is_meta and _kind(theirs) is None
            assert _kind(ours) is _kind(theirs) or meta_is_computed_with, f"got {ours}, torch {theirs}"
            if _kind(ours) is None and not ours[0].is_meta:
                torch.testing.assert_close(ours[0], theirs[0], equal_nan=True)
            unchanged = (torch.equal(x.detach(), before[n]) for n, x in tensors(sample).items())
            assert all(unchanged), "something was written"


def _kind(result: Any) -> Any:
    """The exception of a failed call."""
    return result[0] if isinstance(result, tuple) and isinstance(result[0], type) else None


def check_opinfo(operation: Operation, device: Any) -> None:
    """torch's own samples. Of 16-bit numbers the builtin may round in between: it gets them in float64."""
    torchs = operation.builtin
    if operation.opinfo is None or torchs is None:
        return
    from torch.testing._internal.common_methods_invocations import op_db

    infos = [info for info in op_db if info.name == operation.opinfo]
    for info in infos:
        for dtype in sorted(info.supported_dtypes(device), key=str):
            if dtype.is_complex and info.variant_test_name == "with_dtype":
                continue  # torch warns of what these do
            differentiable = dtype in info.supported_backward_dtypes(device)
            for sample in info.sample_inputs(device, dtype, requires_grad=differentiable):
                with naming(f"{dtype}, {sample.summary()}"), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    _check_opinfo_sample(operation, torchs, sample, dtype)


def _check_opinfo_sample(operation: Operation, torchs: Any, sample: Any, dtype: torch.dtype) -> None:
    small = dtype in (torch.bfloat16, torch.float16)
    tolerance: dict[str, Any] = dict(rtol=2e-2, atol=2e-2, check_dtype=False) if small else {}
    found = []
    for function, kind in ((operation.function, dtype), (torchs, torch.float64 if small else dtype)):

        def own(x: Tensor, kind: torch.dtype = kind) -> Tensor:
            wide = kind if x.dtype == dtype else x.dtype
            return x.detach().to(wide, copy=True).requires_grad_(x.requires_grad)

        args, kwargs = torch.utils._pytree.tree_map_only(Tensor, own, ((sample.input, *sample.args), sample.kwargs))
        y = function(*args, **kwargs)
        leaves = torch.utils._pytree.tree_leaves((args, kwargs))
        wanted = [x for x in leaves if isinstance(x, Tensor) and x.requires_grad]
        torch.manual_seed(0)
        g = torch.randn(y.shape).to(dtype if small else y.dtype).to(y.dtype)
        found.append([y])
        if wanted:
            found[-1] += torch.autograd.grad(y, wanted, g, allow_unused=True, materialize_grads=True)
    torch.testing.assert_close(*found, equal_nan=True, **tolerance)

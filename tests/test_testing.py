"""The checks of torchnotes.testing detect wrong operations."""

import dataclasses
import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import torchnotes.functional as F
from torchnotes.autograd.function import Elementwise
from torchnotes.testing import check, checks
from torchnotes.testing.operations import OPERATIONS
from torchnotes.testing.values import check_error

TANH = OPERATIONS["tanh"]


class Tanh(Elementwise):
    """A Function on the base class of torchnotes, written in torch's operations."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.tanh(x)

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx, g: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return g * (1 - y**2).conj()

    @staticmethod
    def tangent(ctx, x_t: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return x_t * (1 - y**2)


class SavesTheInput(Tanh):
    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx, g: Tensor) -> Tensor:
        return g * (1 - torch.tanh(ctx.saved_tensors[0]) ** 2)


class ConstantSlope(Tanh):
    """The gradient does not depend on the input."""

    @staticmethod
    def backward(ctx, g: Tensor) -> Tensor:
        return g * (1 - ctx.saved_tensors[0].detach() ** 2)


class WrongTangent(Tanh):
    @staticmethod
    def tangent(ctx, x_t: Tensor) -> Tensor:
        return 2 * x_t


class WithoutVmap(torch.autograd.Function):
    forward, setup_context, backward = Tanh.forward, Tanh.setup_context, Tanh.backward


class SavesACopy(Tanh):
    """Takes memory, and does not notice that its output is overwritten."""

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        ctx.save_for_backward(output.detach().clone())


def by(function: type[torch.autograd.Function]) -> Callable[..., Tensor]:
    def applied(input: Tensor) -> Tensor:
        return function.apply(input)

    return applied


def where(condition: Callable[[Tensor], bool], wrong: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """tanh, but wrong for some inputs."""
    return lambda input: wrong(input) if condition(input) else F.tanh(input)


def off(input: Tensor) -> Tensor:
    return F.tanh(input) * 1.01


def transposed_output(input: Tensor) -> Tensor:
    y = F.tanh(input)
    return y.transpose(0, -1).contiguous().transpose(0, -1) if y.dim() == 4 else y


def graph_break(input: Tensor) -> Tensor:
    torch._dynamo.graph_break()
    return F.tanh(input)


def by_torch(input: Tensor) -> Tensor:
    return torch.tanh(input)


@torch.library.custom_op("wrong::tanh", mutates_args=())
def operator(x: Tensor, same: Tensor) -> Tensor:
    """Accepts a second operand of any size and dtype; its fake kernel returns another dtype."""
    return torch.tanh(x)


operator.register_fake(lambda x, same: x.new_empty(x.shape, dtype=torch.int64))
operator.register_autograd(
    lambda ctx, g: (g * (1 - ctx.saved_tensors[0] ** 2), None),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(output),
)


def by_operator(input: Tensor) -> Tensor:
    return operator(input, input.detach())


WRONG: dict[str, tuple[Callable[..., Tensor], ...]] = {
    "values": (off, where(lambda x: x.numel() == 0, lambda x: x[None]), lambda input: F.tanh(input).float()),
    "layouts": (where(lambda x: not x.is_contiguous(), off), transposed_output),
    "every_length": (where(lambda x: x.numel() % 16 == 15, off), where(lambda x: x.numel() == 32_771, off)),
    "special_values": (
        lambda input: F.tanh(input).nan_to_num(),
        lambda input: torch.where(input == 0, 0, F.tanh(input)),
        where(lambda x: bool(x.isinf().any()), lambda x: F.tanh(x.clamp(-3, 3))),
    ),
    "error": (lambda input: F.tanh(input) * (1 + torch.finfo(input.dtype).eps),),
    "threads": (lambda input: F.tanh(input) * (1 + 1e-7 * torch.get_num_threads()),),
    "place_in_memory": (lambda input: F.tanh(input) * (1 + (input.storage_offset() % 2) * 1e-2),),
    "batch_invariance": (where(lambda x: len(x) == 1, lambda x: F.tanh(x) * (1 + 1e-7)),),
    "gradient": (lambda input: F.tanh(0.9 * input + 0.1 * input.detach()), by(WrongTangent)),
    "second_derivative": (by(ConstantSlope),),
    "second_derivative_values": (by(ConstantSlope),),
    "third_derivative": (by(ConstantSlope),),
    "wanted_gradients": (by(ConstantSlope),),
    "dual_numbers": (by(WrongTangent),),
    "compositions": (by(WrongTangent), by(ConstantSlope)),
    "vmap": (by(WithoutVmap),),
    "saved_tensors": (by(SavesTheInput), by(SavesACopy), lambda input: F.tanh(torch.exp(input).log())),
    "gradient_modes": (where(lambda x: not torch.is_grad_enabled(), off), lambda input: F.tanh(input).detach()),
    "hooks_and_checkpointing": (lambda input: F.tanh(input) + torch.rand(()),),
    "autocast": (lambda input: F.tanh(input @ torch.eye(input.shape[-1], dtype=input.dtype)),),
    "mismatched_operands": (by_operator,),
    "bad_arguments": (lambda input: F.tanh(torch.as_tensor(input)), lambda input, nonsense=1: F.tanh(input)),
    "subclasses": (lambda input: F.tanh(input.as_subclass(Tensor)),),
    "other_dtypes": (lambda input: F.tanh(input if input.is_floating_point() else input.abs().double()),),
    "traced_operators": (by_torch,),
    "export": (lambda input: torch.ops.torchnotes.tanh(input),),
    "compile": (graph_break, where(lambda x: torch.compiler.is_compiling(), off)),
    "compiled_transforms": (graph_break,),
    "fake_tensors": (
        where(lambda x: x.is_meta, lambda x: F.tanh(x).double()),
        where(lambda x: x.is_meta, torch.Tensor.t),
    ),
    "operators": (by_operator,),
    "opinfo": (where(lambda x: x.dtype == torch.int64, off),),
    "concurrent_calls": (where(lambda x: threading.current_thread() is not threading.main_thread(), off),),
}


CASES = [pytest.param(name, wrong, id=f"{name}-{i}") for name, of in WRONG.items() for i, wrong in enumerate(of)]


@pytest.mark.parametrize(("name", "wrong"), CASES)
def test_detects_a_wrong_operation(name, wrong):
    assert isinstance(wrong(input=torch.randn(2, 3, 5, 4)), Tensor)

    def all_of_this_name() -> None:
        library = "wrong" if wrong is by_operator else TANH.library
        for each in checks(dataclasses.replace(TANH, function=wrong, library=library)):
            if each.name == name:
                each()

    with pytest.raises(Exception):  # noqa: B017, PT011 # any exception
        all_of_this_name()


def test_every_check_has_a_wrong_operation():
    assert {each.name for each in checks(TANH)} == set(WRONG)
    assert all(WRONG.values())


def test_a_function_of_torchs_operations_passes():
    """Passes all checks that do not require operators."""
    none = dict.fromkeys(("operators", "traced_operators", "mismatched_operands"), "there are no operators")
    check(dataclasses.replace(TANH, function=by(Tanh), unchecked=none), dtypes=(torch.float64,))


def test_a_failure_names_the_check():
    with pytest.raises(AssertionError, match=r"values-float32: \(\), defaults: output: got"):
        check(dataclasses.replace(TANH, function=off))


def test_rejects_unknown_names():
    with pytest.raises(ValueError, match="no checks called speling"):
        checks(dataclasses.replace(TANH, unchecked={"speling": "?"}))


def test_one_more_option_changes_no_other_case():
    leaky, own = OPERATIONS["leaky_relu"], {"negative_slope": 0.3}
    cases = []
    for options in ((own,), ({}, own)):
        torch.manual_seed(0)
        figures = check_error(dataclasses.replace(leaky, options=options), torch.float32, "cpu")
        cases.append([case for case in figures["cases"] if "0.3" in case["of"]])
    assert cases[0] == cases[1] != []

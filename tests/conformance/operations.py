"""Compares every function of torchnotes.functional with torch's of the same name on the samples of torch's op_db."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.opinfo.core import OpInfo

from torchnotes import functional
from torchnotes.testing.operations import OPERATIONS

from .case import Case
from .contexts import contexts
from .programs import Program, backward, double_backward, forward, subsets, transforms
from .samples import FLOATS, OTHERS, Sample, in_layouts, of_opinfo, of_wrong_kinds, with_special_values

# Higher derivatives of torch's batch normalization are wrong: those of the tangent, and mixed ones by weight and input.
REFERENCES = {"batch_norm": OPERATIONS["batch_norm"].reference}
MOST, SOME, FEW = 40, 8, 3  # samples per function


def of_functions() -> dict[str, list[OpInfo]]:
    """The entries of op_db, keyed by function name."""
    found: dict[str, list[OpInfo]] = {}
    for info in op_db:
        name = info.name.removeprefix("nn.functional.")
        if info.dtypes and hasattr(functional, name) and hasattr(torch.nn.functional, name):
            found.setdefault(name, []).append(info)
    return found


def cases(name: str) -> Iterator[Case]:
    ours, theirs = getattr(functional, name), getattr(torch.nn.functional, name)

    def case(sample: Sample, what: str, program: Program) -> Case:
        return Case(f"{sample.name} {what}", sample.words(), ours, theirs, sample, program, REFERENCES.get(name))

    infos = of_functions()[name]
    for info in infos:
        for sample, what, program in _calls(info, len(infos)):
            yield case(sample, what, program)


def _calls(info: OpInfo, entries: int) -> Iterator[tuple[Sample, str, Program]]:
    most, some, few = (-(-n // entries) for n in (MOST, SOME, FEW))
    for dtype in FLOATS:
        for sample in of_opinfo(info, dtype, most):
            yield sample, "forward", forward
            yield from _of_subsets(sample, backward)
            yield from _of_subsets(sample, double_backward)
    if info.variant_test_name.startswith("chunked"):
        return  # torch's chunks support no transforms or modes, and raise errors of their own
    for dtype in (torch.float64, torch.bfloat16):
        for sample in of_opinfo(info, dtype, some):
            for what, program in transforms(sample):
                yield sample, what, program
    for dtype in (torch.float32, torch.bfloat16):
        for sample in of_opinfo(info, dtype, some):
            for laid_out in in_layouts(sample):
                yield laid_out, "forward", forward
                yield from _of_subsets(laid_out, backward, all_alone=True)
    for dtype in FLOATS:
        for sample in of_opinfo(info, dtype, few):
            for special in with_special_values(sample):
                yield from _of_subsets(special, backward, all_alone=True)
    for sample in of_opinfo(info, torch.float32, some):
        for dtype in OTHERS:
            cast = sample.cast(dtype, str(dtype).removeprefix("torch."))
            yield cast, "forward", forward
            yield from _of_subsets(cast, backward, all_alone=True)
        for what, program in contexts(sample).items():
            yield sample, what, program
    for sample in of_opinfo(info, torch.float32, few):
        for wrong in of_wrong_kinds(sample):
            yield wrong, "forward", forward
    if info.error_inputs_func is not None:
        for i, error in enumerate(info.error_inputs("cpu")):
            given = error.sample_input
            yield Sample(f"{info.name} error[{i}]", (given.input, *given.args), given.kwargs), "forward", forward


def _of_subsets(sample: Sample, program: Callable, all_alone: bool = False) -> Iterator[tuple[Sample, str, Program]]:
    for variables in [sample.differentiable] if all_alone else subsets(sample):
        named = ",".join(map(str, variables))
        yield sample, f"{program.__name__} {named}", partial(program, variables=variables)


def names() -> list[str]:
    return list(of_functions())

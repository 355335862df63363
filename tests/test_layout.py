"""Imports point downwards. Every operation has all its files, and every operator its kernels and tests."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import torchnotes
from benchmarks.cases import BENCHMARKS
from torchnotes.ops.activations import ACTIVATIONS
from torchnotes.testing.dispatcher import recorded_calls
from torchnotes.testing.operations import OPERATIONS

ROOT = Path(__file__).parents[1]
SCHEMAS = re.findall(r'^    "([a-z]\w*)\(', (ROOT / "csrc/schemas.cpp").read_text(), re.MULTILINE)
STEMS, OPTIMIZERS = (
    {path.stem: path for path in sorted((ROOT / f"torchnotes/{package}").rglob("[a-z]*.py"))}
    for package in ("ops", "optim")
)
# Composed of other operations
COMPOSITIONS = {
    stem
    for stem, path in (STEMS | OPTIMIZERS).items()
    if not re.search(r'operator = "|"torchnotes::', path.read_text())
}

# Each layer may import from those before it. Packages of one layer do not import each other.
LAYERS = (
    ("_C", "_built", "_native", "_shell", "_table", "_html", "_units", "_docs", "_names", "_notebook", "tracing"),
    ("_bad_input",),
    ("autograd",),
    ("distributed",),
    ("ops",),
    ("functional", "init"),
    ("nn", "optim"),
    ("conversion", "sklearn"),
    ("signal",),
    ("testing",),
    ("classifier",),
    ("cli",),
    ("__main__",),
    ("_before_torch",),
)
# The modules of torchnotes that benchmarks may import
PUBLIC = {"functional", "init", "nn", "optim", "signal", "sklearn", "testing", "classifier"}


def imports(path: Path) -> Iterator[str]:
    """The qualified names that a file imports, such as torchnotes.ops.linear.linear."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            yield from (".".join((*start, *filter(None, [node.module]), alias.name)) for alias in node.names)


def sides(stem: str) -> list[str]:
    """The files of an operation or optimizer other than its Python module."""
    native = [] if stem in COMPOSITIONS else [f"csrc/formulas/{stem}.h"]
    if stem in ACTIVATIONS:  # tests/ops/test_activations.py runs the generic checks
        return native
    folder = {"sync_batch_norm": "distributed"}.get(stem, "ops" if stem in STEMS else "optim")
    return [*native, f"tests/{folder}/test_{ {'adamw': 'adam'}.get(stem, stem) }.py"]


def test_every_operation_has_all_its_files():
    assert STEMS
    assert OPTIMIZERS
    assert not [path for stem in (*STEMS, *OPTIMIZERS) for path in sides(stem) if not (ROOT / path).exists()]


def test_every_file_belongs_to_an_operation():
    whole = {"random", "activations", "rows", "losses", *ACTIVATIONS}  # tests of several operations, or of the notes
    shared = {
        "activations",
        "gradient",
        "philox",
        "portable",
        "rounding",
        "vector_math",
        "vector_tanh",
        "vector_words",
        "weighted",
    }
    expected = {path for stem in (*STEMS, *OPTIMIZERS) for path in sides(stem)}
    for side in ("csrc/formulas/{}.h", "tests/ops/test_{}.py"):
        folder, pattern = (ROOT / side).parent, re.compile(side.split("/")[-1].format(r"(\w+)"))
        for path in folder.iterdir():
            match = pattern.fullmatch(path.name)
            if match and match[1] not in shared | whole:
                assert str(path.relative_to(ROOT)) in expected


def test_every_operation_has_a_benchmark():
    measured_elsewhere = {"sync_batch_norm"}  # by benchmarks/scaling.py, because it requires several processes
    variants = {"adamw", "newton"}  # Adam's kernel, and no kernel
    assert BENCHMARKS.keys() - {"network"} == {*STEMS, *OPTIMIZERS} - measured_elsewhere - variants
    with_sizes = {name for name, operation in OPERATIONS.items() if operation.benchmarked}
    assert with_sizes == OPERATIONS.keys() - {"gaussian_dropout_penalty"}
    for cases in BENCHMARKS.values():
        names = [case.name for case in cases()]
        assert names
        assert len(names) == len(set(names))


def test_every_operator_belongs_to_an_operation_and_has_all_its_kernels():
    assert SCHEMAS
    for name in SCHEMAS:
        stem = max((stem for stem in (*STEMS, *OPTIMIZERS) if name.startswith(stem)), key=len)
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"torchnotes::{name}", "CPU")
        source = (STEMS | OPTIMIZERS)[stem].read_text()
        assert f'"torchnotes::{name}"' in source or f'operator = "{name}"' in source


def test_the_activations_of_both_languages_have_the_same_numbers():
    assert torchnotes._C.activations == ("identity", *ACTIVATIONS)


def test_every_operator_is_tested():
    """By the generic checks, which record the operators that an operation calls, or by a test that names it.

    tests/optim/test_use.py tests the operators of optimizers.
    """
    recorded = {
        str(call.function).split(".")[1]
        for operation in OPERATIONS.values()
        for call in recorded_calls(operation, torch.float32, "cpu")
    }
    named = "".join(path.read_text() for path in (ROOT / "tests/ops").glob("*.py"))
    of_optimizers = {name for name in SCHEMAS if any(name.startswith(stem) for stem in OPTIMIZERS)}
    missing = {name for name in SCHEMAS if f'"{name}"' not in named} - recorded - of_optimizers
    assert not missing


@pytest.mark.skipif(torchnotes._C.cuda, reason="this build has CUDA")
@pytest.mark.parametrize("name", SCHEMAS)
def test_a_cuda_tensor_on_a_cpu_build_says_so(name):
    """Calls the kernel directly, as the dispatcher would for a CUDA tensor."""
    values = {
        "Tensor": torch.ones(2, 2),
        "float": 0.5,
        "bool": True,
        "int": 0,
        "List[int]": [0],
        "List[float]": [0.5],
        "List[bool]": [True] * 3,
        "List[Tensor]": [torch.ones(2, 2)],
    }
    kernel = getattr(torch.ops.torchnotes, name).default
    arguments = (values.get(str(argument.type)) for argument in kernel._schema.arguments)  # None for optional arguments
    with pytest.raises(NotImplementedError, match="built without CUDA"):
        kernel.redispatch(torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA), *arguments)


def test_every_operation_is_public_and_has_torchs_signature():
    """Additional parameters come after torch's and are keyword-only."""
    import inspect

    def parameters(function):
        if inspect.isbuiltin(function):  # its docstring begins with its signature
            function = eval("lambda " + re.search(r"\((.*?)\)", function.__doc__)[1] + ": 0")
        found = inspect.signature(function).parameters.values()
        return [p.replace(annotation=inspect.Parameter.empty) for p in found]

    for stem in STEMS:
        places = (torchnotes.functional, torch.nn.functional), (torchnotes.init, torch.nn.init)
        (functions,) = (pair for pair, name in zip(places, (stem, stem + "_"), strict=True) if hasattr(pair[0], name))
        name = stem if functions is places[0] else stem + "_"
        ours = parameters(getattr(functions[0], name))
        if hasattr(functions[1], name):  # older versions of torch lack some of them
            theirs = parameters(getattr(functions[1], name))
            assert ours[: len(theirs)] == theirs
            assert all(p.kind is p.KEYWORD_ONLY for p in ours[len(theirs) :])


def test_formulas_contain_only_mathematics():
    for header in (ROOT / "csrc/formulas").glob("*.h"):
        code = re.sub(r"//.*", "", header.read_text())
        assert not re.search(r"Tensor|parallel|cuda|scalar_t|\bT\s*\*|float\s*\*", code), header


def test_formulas_begin_with_a_derivation():
    for stem in {*STEMS, *OPTIMIZERS} - COMPOSITIONS:
        text = (ROOT / f"csrc/formulas/{stem}.h").read_text()
        assert re.search(r"^//.*('|d\w+/d\w+).* = ", text.split("#pragma once")[0], re.MULTILINE), stem


def test_imports_point_downwards():
    height = {name: height for height, names in enumerate(LAYERS) for name in names}
    modules = [path for path in (ROOT / "torchnotes").rglob("*.py") if path != ROOT / "torchnotes/__init__.py"]
    assert {path.relative_to(ROOT / "torchnotes").parts[0].removesuffix(".py") for path in modules} <= height.keys()
    for path in modules:
        own = path.relative_to(ROOT / "torchnotes").parts[0].removesuffix(".py")
        for name in imports(path):
            root, _, rest = name.partition(".")
            assert root != "benchmarks", f"{path} imports {name}"
            if root == "torchnotes" and rest:
                target = rest.split(".")[0]
                assert target == own or height[target] < height[own], f"{path} imports {name}"


def test_benchmarks_import_only_public_names():
    for path in (ROOT / "benchmarks").rglob("*.py"):
        for name in imports(path):
            root, *rest = name.split(".")
            if root == "torchnotes":
                assert set(rest[:1]) <= PUBLIC, f"{path} imports {name}"
                assert not any(part.startswith("_") for part in rest), f"{path} imports {name}"
        assert not re.search(r"\btorchnotes(\.\w+)*\._(?!_)", path.read_text()), path

"""python -m torchnotes check passes, and fails if an operation is wrong."""

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

import torchnotes
from benchmarks.runner import OPERATIONS
from torchnotes import functional, init, optim
from torchnotes.__main__ import main
from torchnotes.cli import _checked
from torchnotes.cli._check_operations import Differentiable
from torchnotes.cli._checked import CHECKED

ROOT = Path(torchnotes.__file__).parents[1]
COLUMNS = ("gradcheck", "second order", "float32", "bfloat16", "float16", "agreement")


def strictly(text: str) -> dict:
    """Parses JSON and rejects NaN and infinity, which are not valid JSON."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


# what is checked


def public() -> set:
    """The public operations. Excludes functions of private modules, such as optim.from_torch, and functions of init
    that fill nothing, whose names do not end in an underscore."""

    def ours(space, end=""):
        functions = (f for name, f in vars(space).items() if not name.startswith("_") and name.endswith(end))
        modules = ((f, f.__module__.split(".")) for f in functions if hasattr(f, "__module__"))
        return {f for f, module in modules if module[0] == "torchnotes" and not module[-1].startswith("_")}

    return ours(functional) | ours(init, "_") | set(init.SCHEMES.values()) | ours(optim)


def test_every_operation_has_a_record():
    checked = set(map(_checked.public, CHECKED))
    assert checked == public() - {functional.sync_batch_norm}  # requires several processes: tests/distributed
    assert len(checked) == len(CHECKED)


def test_check_and_bench_call_an_operation_the_same():
    assert set(OPERATIONS) - {"network"} <= CHECKED.keys()
    assert {"adam", "adamw", "normal", "gradient_norm"} <= CHECKED.keys()


@pytest.mark.parametrize("name", [name for name, record in CHECKED.items() if isinstance(record, Differentiable)])
def test_every_option_is_checked(name):
    operation = CHECKED[name].operation
    given = set(operation.arguments).union(*operation.options, *operation.more_options, *operation.special)
    elsewhere = {"size_average", "reduce", "_stacklevel"}  # deprecated or internal
    elsewhere |= {"inplace_backward"}  # has no second derivative: tests/ops/test_cross_entropy.py
    elsewhere |= {"process_group", "out"}  # require several processes, or do not affect the result
    elsewhere |= {"generator"}  # a key, in every call
    assert set(inspect.signature(getattr(functional, name)).parameters) - elsewhere == given


# it passes


def test_everything_passes(tmp_path, capsys, device):
    path = tmp_path / "figures.json"
    assert main(["check", "--device", device, "--json", str(path)]) == 0
    header, _, *rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows[: len(CHECKED)]] == list(CHECKED)
    assert header.split()[0] == "operation"
    assert rows[-1] == f"{len(CHECKED)} operations checked, 0 failures"
    report = strictly(path.read_text())
    assert report["machine"]["torch"] == torch.__version__
    assert report["machine"]["device"] == device
    assert report["machine"]["torchnotes"] == torchnotes.__version__
    assert report["failures"] == 0
    assert [row["operation"] for row in report["operations"]] == list(CHECKED)
    for row in report["operations"]:
        assert set(row["checks"]) <= set(COLUMNS)
        assert "agreement" in row["checks"]
        assert all(check["passed"] for check in row["checks"].values())
        if isinstance(CHECKED[row["operation"]], Differentiable):
            assert set(row["checks"]) == set(COLUMNS)
    sigmoid = report["operations"][0]["checks"]["float32"]["figures"]
    assert len(sigmoid["cases"]) == 1 + 6  # the values, and the gradients at every scale
    assert all(case["rms"] >= 0 and case["torch"] >= case["rms_torch"] for case in sigmoid["cases"])


def test_requires_only_torch_and_can_write_to_a_pipe():
    absent = ["numpy", "scipy", "pytest", "hypothesis", "expecttest", "sklearn", "matplotlib", "rich", "checks"]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({absent}))\n"
        "from torchnotes.__main__ import main\n"
        "sys.exit(main(['check', 'tanh', 'normal_', 'SGD', '--json', '-', '--seed', '7']))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    report = strictly(done.stdout)
    assert [row["operation"] for row in report["operations"]] == ["tanh", "normal", "sgd"]
    assert report["seed"] == 7
    assert "3 operations checked, 0 failures" in done.stderr


def test_seed_determines_the_figures(tmp_path, capsys):
    def figures(seed: int) -> list:
        path = tmp_path / "figures.json"
        assert main(["check", "softmax", "--seed", str(seed), "--json", str(path)]) == 0
        checks = strictly(path.read_text())["operations"][0]["checks"]
        return [checks[column]["figures"] for column in COLUMNS]

    first = figures(3)
    assert figures(3) == first
    assert figures(4) != first


# it fails


class WrongSecondDerivative(torch.autograd.Function):
    """tanh with a gradient that does not depend on the input."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.tanh(x)

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        ctx.save_for_backward(output)
        ctx.save_for_forward(output)

    @staticmethod
    def backward(ctx, g: Tensor) -> Tensor:
        return g * (1 - ctx.saved_tensors[0].detach() ** 2)

    @staticmethod
    def jvp(ctx, x_t: Tensor) -> Tensor:
        return x_t * (1 - ctx.saved_tensors[0].detach() ** 2)


def without(function, *names):
    """The function, but ignoring these options."""
    return lambda *args, **options: function(*args, **{k: v for k, v in options.items() if k not in names})


def raising(*args, **options):
    raise RuntimeError("the first line\nand a second one")


def inaccurate(input: Tensor) -> Tensor:
    """Off by two roundings in float32."""
    return torch.sigmoid(input) * (1 + 2 * torch.finfo(torch.float32).eps * (input.dtype == torch.float32))


def leaking(x: Tensor) -> Tensor:
    """Drops the gradient of a part of the input."""
    return 0.9 * x + 0.1 * x.detach()


class Misclipped(optim.SGD):
    def __init__(self, params, max_grad_norm=None, **options):
        super().__init__(params, max_grad_norm=None if max_grad_norm is None else 2 * max_grad_norm, **options)


class Undecoupled(optim.RMSprop):
    def __init__(self, params, decoupled_weight_decay=False, **options):
        super().__init__(params, **options)


class Coarse(optim.Adam):
    """Rounds to nearest where it should not, or gets the last bit wrong."""

    def __init__(self, params, rounding="nearest", **options):
        super().__init__(params, **options)


class Imprecise(optim.AdamW):
    def step(self):
        super().step()
        with torch.no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    p.mul_(1 + 2 * torch.finfo(p.dtype).eps)


class Slow(optim.Newton):
    def __init__(self, params, **options):
        super().__init__(params, lr=0.5, **options)


f, g, o = functional, init, optim
PLANTED = [
    ("sigmoid", lambda input: torch.sigmoid(leaking(input)), {"gradcheck", "second order", "agreement"}),
    ("tanh", lambda input: WrongSecondDerivative.apply(input), {"second order"}),
    ("sigmoid", inaccurate, {"float32"}),
    ("tanh", lambda input: torch.tanh(input * 0.999) / 0.999, {"float32", "agreement"}),
    ("tanh", lambda input: torch.tanh(input).where(input < 50, torch.nan), {"float32", "bfloat16", "float16"}),
    ("relu", without(f.relu, "inplace"), {"agreement"}),
    ("softmax", raising, set(COLUMNS)),
    ("log_softmax", lambda input, dim, dtype=None: f.softmax(input, dim, dtype=dtype).log(), {"float32"}),
    ("mse_loss", without(f.mse_loss, "weight"), {"agreement"}),
    ("pinball_loss", lambda *a, quantiles=0.5, **k: f.pinball_loss(*a, quantiles=0.5, **k), {"agreement"}),
    ("cross_entropy", without(f.cross_entropy, "empty"), {"agreement"}),
    ("batch_norm", without(f.batch_norm, "momentum"), {"agreement"}),
    ("dropout", lambda x, p=0.5, **k: f.dropout(x, p + 0.02, **k), {"agreement"}),
    ("dropout", lambda x, p=0.5, **k: f.dropout(x, p, **k) * (0.98 + 0.02 * torch.get_num_threads()), {"agreement"}),
    ("gaussian_dropout", without(f.gaussian_dropout, "training"), {"agreement"}),
    ("uniform_", lambda x, **k: g.uniform_(x, **k).mul_(1.1), {"float32", "agreement"}),
    ("normal_", lambda x, **k: g.uniform_(x, -(3**0.5), 3**0.5, k.get("generator")), {"float32", "agreement"}),
    ("trunc_normal_", lambda x, a=-2.0, b=2.0, **k: g.normal_(x, **k), {"float32", "agreement"}),
    ("he_normal_", without(g.he_normal_, "nonlinearity"), {"float32", "agreement"}),
    ("glorot_uniform_", lambda x, **k: x.copy_(g.glorot_uniform_(x.double(), **k)), {"float16"}),
    ("initialize_", lambda m, scheme, seed: g.initialize_(m, "lecun", seed=seed), {"agreement"}),
    ("SGD", Misclipped, {"agreement"}),
    ("RMSprop", Undecoupled, {"agreement"}),
    ("Adam", Coarse, {"agreement"}),
    ("AdamW", Imprecise, {"float32", "bfloat16"}),
    ("Newton", Slow, {"agreement"}),
    (
        "gradient_norm",
        lambda t: torch.stack([x.norm() for x in t] or [torch.zeros(())]).sum(),
        {"float32", "agreement"},
    ),
]
WRONG_IN_ONE_COLUMN = [wrong for _, wrong, _ in PLANTED[1:3]]


@pytest.mark.parametrize(
    ("name", "wrong", "columns"), PLANTED, ids=[f"{name}-{i}" for i, (name, *_) in enumerate(PLANTED)]
)
def test_detects(name, wrong, columns, monkeypatch, tmp_path, capsys):
    (space,) = (space for space in (functional, init, optim) if hasattr(space, name))
    monkeypatch.setattr(space, name, wrong)
    path = tmp_path / "figures.json"
    assert main(["check", name, "--json", str(path)]) == 1
    (row,) = strictly(path.read_text())["operations"]
    failed = {column for column, check in row["checks"].items() if not check["passed"]}
    assert columns <= failed
    assert columns == failed or wrong not in WRONG_IN_ONE_COLUMN
    printed = capsys.readouterr().out
    assert "FAIL" in printed
    for column in failed:
        assert f"{row['operation']}, {column}: {row['checks'][column]['error']}" in printed.splitlines()
    assert f"1 operations checked, {len(failed)} failures" in printed

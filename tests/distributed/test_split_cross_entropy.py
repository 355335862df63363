"""Compares cross_entropy and linear_cross_entropy of logits whose classes are split among the ranks with the reference
on the full logits in one process.
"""

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

import torchnotes
from torchnotes import functional as F
from torchnotes.testing.operations.cross_entropy import after_product, reference

RANK, WORLD = dist.get_rank(), dist.get_world_size()
EVEN, UNEVEN, WITH_NONE = [4] * WORLD, [5, 2, 7, 1][:WORLD], [9, 0, 3, 0][:WORLD]
SIZES = pytest.mark.parametrize("sizes", [EVEN, UNEVEN, WITH_NONE], ids=["even", "uneven", "none"])
GROUP = dist.group.WORLD
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 1e-2, torch.float16: 1e-3}
DIMS = {
    F.cross_entropy: {"input": 1, "target": 1},
    F.linear_cross_entropy: {"linear_weight": 0, "linear_bias": 0, "target": 1},
}
LOSSES = {F.cross_entropy: reference, F.linear_cross_entropy: after_product}
OPTIONS = {
    "plain": {},
    "sum": {"reduction": "sum"},
    "none": {"reduction": "none"},
    "smooth": {"label_smoothing": 0.1},
    "z": {"z_loss": 0.01},
    "smooth_z": {"label_smoothing": 0.2, "z_loss": 0.1, "reduction": "none"},
    "capped": {"logit_softcap": 3.0, "label_smoothing": 0.1},
    "ignore": {"ignore_index": 1, "label_smoothing": 0.1, "z_loss": 0.01},
}


def mine(x: Tensor, sizes: list[int], dim: int = 1) -> Tensor:
    return x.split(sizes, dim)[RANK]


def on_all_ranks(x: Tensor, dim: int = 1) -> Tensor:
    parts: list = [None] * WORLD
    dist.all_gather_object(parts, x.detach())
    return torch.cat(parts, dim)


def leaf(x: Tensor) -> Tensor:
    return x.detach().clone().requires_grad_()


def close(ours: Tensor, theirs: Tensor, dtype: torch.dtype = torch.float64, scale: float = 1.0) -> None:
    assert ours.dtype == dtype
    tolerance = dict(rtol=TOLERANCE[dtype], atol=scale * TOLERANCE[dtype])
    torch.testing.assert_close(ours.double(), theirs.double(), equal_nan=True, **tolerance)


def chunks(rows: int | None) -> SimpleNamespace:
    """The chunk size of torch's LinearCrossEntropyOptions, which is new in torch 2.13."""
    return SimpleNamespace(batch_chunk_size=rows)


def targets(rows, classes, rest, probabilities, ignore_index=-100, **_) -> Tensor:
    if probabilities:
        return torch.rand(rows, classes, *rest, dtype=torch.float64).softmax(1)
    target = torch.randint(classes, (rows, *rest))
    target.flatten()[::3] = ignore_index
    target.flatten()[0] = 0
    target.flatten()[-1] = classes - 1
    return target


def problem(classes, shape=(6,), probabilities=False, **options) -> tuple[Tensor, Tensor]:
    rows, *rest = shape
    x = 4 * torch.randn(rows, classes, *rest, dtype=torch.float64)
    return x, targets(rows, classes, rest, probabilities, **options)


def weight_of(classes: int) -> Tensor:
    return torch.rand(classes, dtype=torch.float64) + 0.5


def logits(classes: int, probabilities: bool = False, weighted: bool = True, **options: Any) -> dict[str, Any]:
    """The arguments of cross_entropy."""
    x, target = problem(classes, (6, 3), probabilities, **options)
    return dict(input=x, target=target, **({"weight": weight_of(classes)} if weighted else {}))


def layer(classes: int, probabilities: bool = False, rows: int = 40, rest: tuple = ()) -> dict[str, Any]:
    """The arguments of linear_cross_entropy."""
    made = (
        torch.randn(n, *shape, dtype=torch.float64) for n, *shape in ((rows, 5), (classes, *rest, 5), (classes, *rest))
    )
    names = ("input", "linear_weight", "linear_bias")
    target = targets(rows, classes, rest, probabilities)
    return dict(zip(names, made, strict=True), target=target, weight=weight_of(classes))


GIVEN = {F.cross_entropy: logits, F.linear_cross_entropy: layer}


class Split:
    """The classes are split among the ranks of a process group."""

    options: ClassVar = {"process_group": GROUP}

    def __init__(self, loss: Callable, sizes: list[int]):
        self.dims, self.sizes = DIMS[loss], sizes

    def part(self, name: str, x: Tensor) -> Tensor:
        return mine(x, self.sizes, self.dims[name]) if name in self.dims and x.is_floating_point() else x

    def whole(self, name: str, x: Tensor) -> Tensor:
        return on_all_ranks(x, self.dims[name]) if name in self.dims else x

    def gradient(self, g: Tensor, loss: Tensor) -> Tensor:
        return g


class Sharded:
    """Some arguments are DTensors."""

    options: ClassVar = {}

    def __init__(self, mesh, **placements):
        self.mesh, self.placements = mesh, placements

    def part(self, name: str, x: Tensor) -> Tensor:
        return distribute_tensor(x, self.mesh, self.placements[name]) if name in self.placements else x

    def whole(self, name: str, x: Any) -> Tensor:
        if name in self.placements:
            assert x.placements == tuple(self.placements[name])
        return x.full_tensor() if isinstance(x, DTensor) else x

    def gradient(self, g: Tensor, loss: Any) -> Tensor:
        return distribute_tensor(g, self.mesh, loss.placements)


def assert_same(
    loss: Callable,
    given: dict[str, Any],
    how: Split | Sharded,
    dtype: torch.dtype = torch.float64,
    second: bool = False,
    function: Callable | None = None,
    fixed: tuple[str, ...] = ("weight",),
    **options: Any,
) -> None:
    """The loss, its gradients and, if wanted, the derivatives of these are those of the full arguments."""
    precise = torch.promote_types(dtype, torch.float32)
    kinds = {n: precise if n == "weight" else dtype for n, x in given.items() if x.is_floating_point()}
    given = {n: x.to(kinds.get(n, x.dtype)) for n, x in given.items()}
    exact = {n: x.double() if n in kinds else x for n, x in given.items()}
    own = {n: how.part(n, x) for n, x in given.items()}
    moving = [n for n in kinds if n not in fixed]
    directions = {n: torch.randn_like(exact[n]) for n in moving}
    promoted = precise if "weight" in kinds and "target" in kinds else dtype  # like torch

    def results(function: Callable, given: dict, directions: dict, gradient: Callable) -> dict[str, Tensor]:
        leaves = {n: leaf(given[n]) for n in moving}
        y = function(**given | leaves, **options)
        g = leaf(gradient(torch.linspace(1, 2, y.numel(), dtype=torch.float64).view(y.shape).to(promoted), y))
        first = torch.autograd.grad(y, list(leaves.values()), g, create_graph=second)
        found = {"loss": y, **dict(zip(moving, first, strict=True))}
        if second:  # each rank has its part of the sum; what is replicated counts once
            total = sum((torch.sin(d) * directions[n]).sum() for n, d in zip(moving, first, strict=True))
            again = torch.autograd.grad(total, [*leaves.values(), g])
            found |= {f"derivative by {n}": d for n, d in zip((*moving, "g"), again, strict=True)}
        return found

    expected = results(LOSSES[loss], exact, directions, lambda g, y: g.double())
    own_directions = {n: how.part(n, v) for n, v in directions.items()}
    found = results(function or partial(loss, **how.options), own, own_directions, how.gradient)
    for result, x in expected.items():
        name = result.split()[-1]
        ours = how.whole(name, found[result].detach())
        close(ours, x.detach(), kinds.get(name, promoted), max(1.0, x.abs().max().item()))


def test_gradient_of_probabilities_with_large_logits():
    x, target = problem(sum(UNEVEN), probabilities=True)
    given = {"input": x + 1e4, "target": target}
    assert_same(F.cross_entropy, given, Split(F.cross_entropy, UNEVEN), torch.float32)


@SIZES
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("probabilities", [False, True])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_cross_entropy(sizes, weighted, probabilities, options, dtype):
    given = logits(sum(sizes), probabilities, weighted, **options)
    how = Split(F.cross_entropy, sizes)
    if "ignore_index" in options and probabilities:
        with pytest.raises(RuntimeError, match="ignore_index is not supported for floating point target"):
            F.cross_entropy(*(how.part(n, given[n]) for n in ("input", "target")), **options, process_group=GROUP)
        return
    second = dtype == torch.float64 and sizes == UNEVEN
    assert_same(F.cross_entropy, given, how, dtype, second=second, **options)


@SIZES
@pytest.mark.parametrize("chunk", [None, 7], ids=["whole", "chunks"])
@pytest.mark.parametrize("rest", [(), (3,)], ids=["", "many"])
@pytest.mark.parametrize("probabilities", [False, True])
@pytest.mark.parametrize(
    "options", [v for k, v in OPTIONS.items() if k != "ignore"], ids=[k for k in OPTIONS if k != "ignore"]
)
def test_linear_cross_entropy(sizes, chunk, rest, probabilities, options):
    for dtype in (torch.float64, torch.float32):
        given = layer(sum(sizes), probabilities, rest=rest)
        how = Split(F.linear_cross_entropy, sizes)
        options = {**options, "options": chunks(chunk)}
        second = dtype == torch.float64 and sizes == UNEVEN
        assert_same(F.linear_cross_entropy, given, how, dtype, second=second, **options)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
def test_gradient_of_the_weight(loss):
    assert_same(loss, GIVEN[loss](sum(UNEVEN)), Split(loss, UNEVEN), fixed=(), label_smoothing=0.1)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
def test_compiled_without_graph_breaks(loss, backend):
    given = GIVEN[loss](sum(UNEVEN))
    options = {"label_smoothing": 0.1, "z_loss": 0.01} | ({} if loss is F.cross_entropy else {"options": chunks(8)})

    @torch.compile(fullgraph=True, backend=backend)
    def compiled(**given: Tensor) -> Tensor:
        return loss(**given, **options, process_group=GROUP) * 1

    def function(**arguments: Any) -> Tensor:
        return compiled(**{name: arguments[name] for name in given})

    assert_same(loss, given, Split(loss, UNEVEN), torch.float32, function=function, **options)
    torch._dynamo.reset()


@pytest.mark.parametrize(
    "options", [OPTIONS["plain"], OPTIONS["none"], OPTIONS["capped"]], ids=["plain", "none", "cap"]
)
def test_inplace_backward(options, dtype):
    x, target = problem(sum(UNEVEN), (6, 3))
    x = x.to(dtype)
    gradients = []
    for inplace in (False, True):
        own = leaf(mine(x, UNEVEN))
        logits = own * 1
        logits.register_hook(lambda g, logits=logits: gradients.append((g, g.data_ptr() == logits.data_ptr())) or None)
        F.cross_entropy(logits, target, **options, process_group=GROUP, inplace_backward=inplace).sum().backward()
    assert torch.equal(gradients[0][0], gradients[1][0])
    assert [same for _, same in gradients] == [False, True]
    with pytest.raises(RuntimeError, match="leaf"):
        F.cross_entropy(leaf(mine(x, UNEVEN)), target, process_group=GROUP, inplace_backward=True)


def test_special_logits():
    """Large logits, and masked ones, including all of a rank."""
    x = torch.tensor([[1e4, -1e4, 3.0, 1e4], [-1e4, -1e4, -1e4, -1e4]]).double().repeat_interleave(WORLD, 1)
    x = torch.cat((x, x + 5))
    x[2, : 2 * WORLD] = -torch.inf
    target = torch.full((4,), 4 * WORLD - 1)
    expected = reference(leaf(x), target, reduction="none")
    sizes = [4] * WORLD
    own = leaf(mine(x, sizes))
    ours = F.cross_entropy(own, target, reduction="none", process_group=GROUP)
    close(ours, expected)
    exact = leaf(x)
    reference(exact, target, reduction="sum").backward()
    ours.sum().backward()
    close(on_all_ranks(own.grad), exact.grad)
    for place in (0, 4 * WORLD - 1):
        x[1, place] = torch.nan
        losses = F.cross_entropy(mine(x, sizes), target, reduction="none", process_group=GROUP)
        assert losses.isnan().tolist() == [False, True, False, False]
        x[1, place] = 0
    masked = torch.full((1, 4 * WORLD), 0.0).double()
    masked[:, 0] = -torch.inf
    loss = F.cross_entropy(mine(masked, sizes), torch.tensor([0]), process_group=GROUP)
    assert loss == torch.inf


def test_transforms():
    x, target = problem(sum(EVEN))
    whole = torch.func.grad(lambda x: reference(x, target, label_smoothing=0.1))(x)
    own = torch.func.grad(lambda x: F.cross_entropy(x, target, label_smoothing=0.1, process_group=GROUP))(mine(x, EVEN))
    close(on_all_ranks(own), whole)
    v = torch.randn_like(x)
    along = torch.func.jvp(lambda x: reference(x, target), (x,), (v,))[1]
    ours = torch.func.jvp(
        lambda x: F.cross_entropy(x, target, process_group=GROUP), (mine(x, EVEN),), (mine(v, EVEN),)
    )[1]
    close(ours, along)  # on every rank


def test_unbatched_and_other_dtypes_of_targets():
    x, _ = problem(sum(UNEVEN), (1,))
    for reduction in ("none", "mean"):
        ours = F.cross_entropy(mine(x, UNEVEN)[0], torch.tensor(2), reduction=reduction, process_group=GROUP)
        close(ours, reference(x[0], torch.tensor(2), reduction=reduction))
    ours = F.cross_entropy(mine(x, UNEVEN), torch.tensor([2], dtype=torch.uint8), process_group=GROUP)
    close(ours, reference(x, torch.tensor([2])))
    empty = F.cross_entropy(mine(x, UNEVEN), torch.tensor([-100]), empty="zero", process_group=GROUP)
    assert empty == 0
    assert F.cross_entropy(mine(x, UNEVEN), torch.tensor([-100]), process_group=GROUP).isnan()


def test_autocast():
    x, target = problem(sum(EVEN))
    x = x.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        ours = F.cross_entropy(mine(x, EVEN), target, process_group=GROUP)
        theirs = torch.nn.functional.cross_entropy(x, target)
    assert ours.dtype == theirs.dtype
    torch.testing.assert_close(ours, theirs)


def meshes():
    yield init_device_mesh("cpu", (WORLD,)), 0
    if WORLD == 4:
        yield init_device_mesh("cpu", (2, 2)), 1


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("probabilities", [False, True])
def test_dtensors_sharded_on_the_classes(options, probabilities):
    if probabilities and "ignore_index" in options:
        return
    for mesh, among in meshes():
        for plain_target in (False, True):
            on_classes = [Shard(1) if i == among else Shard(0) for i in range(mesh.ndim)]
            of_target = {} if plain_target else {"target": [Replicate()] * mesh.ndim}
            how = Sharded(mesh, input=on_classes, **of_target)
            given = logits(13, probabilities, **options)
            assert_same(F.cross_entropy, given, how, fixed=("weight", "target"), **options)


@pytest.mark.parametrize("chunk", [None, 7], ids=["whole", "chunks"])
@pytest.mark.parametrize("probabilities", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_linear_weights_that_are_dtensors(chunk, probabilities, reduction):
    for mesh, among in meshes():
        for plain_input in (False, True):
            on_classes = [Shard(0) if i == among else Replicate() for i in range(mesh.ndim)]
            on_rows = [Replicate() if i == among else Shard(0) for i in range(mesh.ndim)]
            of_input = {} if plain_input else {"input": on_rows}
            how = Sharded(mesh, linear_weight=on_classes, linear_bias=on_classes, **of_input)
            options = dict(label_smoothing=0.1, z_loss=0.01, reduction=reduction, options=chunks(chunk))
            given = layer(13, probabilities, rows=12)
            assert_same(F.linear_cross_entropy, given, how, fixed=("weight", "target"), **options)


def test_dtensors_with_other_placements():
    mesh = init_device_mesh("cpu", (WORLD,))
    x, target = problem(12)
    on_rows = distribute_tensor(x, mesh, [Shard(0)])
    theirs = F.cross_entropy(on_rows, distribute_tensor(target, mesh, [Shard(0)]), reduction="sum")
    close(theirs.full_tensor(), reference(x, target, reduction="sum"))
    with pytest.raises(ValueError, match="expected no process_group"):
        F.cross_entropy(distribute_tensor(x, mesh, [Shard(1)]), target, process_group=GROUP)
    if WORLD == 4:
        mesh = init_device_mesh("cpu", (2, 2))
        with pytest.raises(NotImplementedError, match="one dimension of the mesh"):
            F.cross_entropy(distribute_tensor(x, mesh, [Shard(1), Shard(1)]), target)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
def test_memory_per_rank(loss):
    """Saved for the backward pass: of cross_entropy the logits and a few numbers per row, whatever the total number of
    classes; of linear_cross_entropy the gradients of this rank's classes, and no logits."""
    sizes, rows = [64] * WORLD, 128
    if loss is F.cross_entropy:
        x, target = problem(64 * WORLD, (rows,))
        own, options, most = {"input": mine(x, sizes)}, {"label_smoothing": 0.1}, rows * (64 + 1 + 3 + 1)
    else:
        given = layer(64 * WORLD, rows=rows)
        target, own = (
            given["target"],
            {"input": given["input"], "linear_weight": mine(given["linear_weight"], sizes, 0)},
        )
        options, most = {"options": chunks(16)}, 2 * sum(x.numel() for x in own.values()) + rows
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        loss(**{name: leaf(x) for name, x in own.items()}, target=target, **options, process_group=GROUP)
    assert sum(t.numel() for t in saved) <= most


def test_module():
    x, target = problem(sum(EVEN))
    module = torchnotes.nn.CrossEntropyLoss(label_smoothing=0.1, process_group=GROUP)
    close(module(mine(x, EVEN), target), reference(x, target, label_smoothing=0.1))
    linear = torchnotes.nn.LinearCrossEntropyLoss(5, 4, dtype=torch.float64, process_group=GROUP)
    x = torch.randn(6, 5, dtype=torch.float64)
    W = on_all_ranks(linear.linear.weight, 0)
    close(linear(x, target), reference(x @ W.t(), target))


def different(rank_0, others):
    return rank_0 if RANK == 0 else others


def test_disagreements_are_reported_on_every_rank():
    x, target = problem(sum(EVEN))
    own = mine(x, EVEN)
    for options, message in (
        ({"label_smoothing": different(0.1, 0.2)}, "label smoothing: 0.1 on rank 0, 0.2 on rank 1"),
        ({"z_loss": different(0.1, 0.0)}, "z loss"),
        ({"reduction": different("mean", "none")}, "reduction: mean on rank 0, none on rank 1"),
        ({"ignore_index": different(0, 1)}, "ignore index: 0 on rank 0, 1 on rank 1"),
        ({"weight": different(torch.ones(x.shape[1]).double(), None)}, "weight: given on rank 0, none on rank 1"),
    ):
        F.cross_entropy(own, target, process_group=GROUP)
        with pytest.raises(RuntimeError, match=f"cross_entropy: the ranks disagree on {message}"):
            F.cross_entropy(own, target, **options, process_group=GROUP)
    rows = different(5, 6)
    with pytest.raises(RuntimeError, match=r"rows: \(5,\) on rank 0, \(6,\) on rank 1"):
        F.cross_entropy(own[:rows], target[:rows], process_group=GROUP)
    with pytest.raises(RuntimeError, match="dtype"):
        F.cross_entropy(own.to(different(torch.float32, torch.float64)), target, process_group=GROUP)
    x, W, target = (layer(sum(EVEN))[name] for name in ("input", "linear_weight", "target"))
    with pytest.raises(RuntimeError, match=r"linear_cross_entropy: the ranks disagree on z loss: 1\.0 on rank 0, 0"):
        F.linear_cross_entropy(x, mine(W, EVEN, 0), target, z_loss=different(1.0, 0.0), process_group=GROUP)
    with pytest.raises(RuntimeError, match="gradient for the input: True on rank 0, False on rank 1"):
        F.linear_cross_entropy(x.requires_grad_(RANK == 0), mine(W, EVEN, 0), target, process_group=GROUP)


def test_bad_input():
    x, target = problem(sum(EVEN))
    own = mine(x, EVEN)
    target[1] = x.shape[1]
    with pytest.raises(IndexError, match=rf"Target {x.shape[1]} is out of bounds: .* at \[1\]"):
        F.cross_entropy(own, target, process_group=GROUP)
    target[1] = 0
    with pytest.raises(RuntimeError, match=f"either for all {x.shape[1]} classes"):
        F.cross_entropy(own, target, torch.ones(4 * WORLD + 1), process_group=GROUP)
    with pytest.raises(TypeError, match="process_group must be"):
        F.cross_entropy(own, target, process_group=0)
    with pytest.raises(RuntimeError, match="label_smoothing must be between"):
        F.cross_entropy(own, target, label_smoothing=2.0, process_group=GROUP)
    with pytest.raises(ValueError, match="to match target batch_size"):
        F.cross_entropy(own, target[1:], process_group=GROUP)

"""Compares cross_entropy and linear_cross_entropy of logits whose classes are split among the ranks with torch's on the
full logits in one process.
"""

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

import torchnotes
from torchnotes import functional as F

RANK, WORLD = dist.get_rank(), dist.get_world_size()
EVEN, UNEVEN, WITH_NONE = [4] * WORLD, [5, 2, 7, 1][:WORLD], [9, 0, 3, 0][:WORLD]
GROUP = dist.group.WORLD
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 1e-2, torch.float16: 1e-3}


def mine(x, sizes, dim=1):
    return x.split(sizes, dim)[RANK]


def on_all_ranks(x, dim=1):
    parts = [None] * WORLD
    dist.all_gather_object(parts, x.detach())
    return torch.cat(parts, dim)


def leaf(x):
    return x.detach().clone().requires_grad_()


def close(ours, theirs, dtype=torch.float64, scale=1.0):
    assert ours.dtype == dtype
    torch.testing.assert_close(
        ours.double(), theirs.double(), rtol=TOLERANCE[dtype], atol=scale * TOLERANCE[dtype], equal_nan=True
    )


def reference(x, target, weight=None, z_loss=0.0, logit_softcap=None, **options):
    """Computes the loss with torch."""
    u = x if logit_softcap is None else logit_softcap * torch.tanh(x / logit_softcap)
    loss = torch.nn.functional.cross_entropy(u, target, weight, **options)
    if not z_loss:
        return loss
    one_for_each = u.double() * 0 + u.logsumexp(
        1, keepdim=True
    )  # uniform logits, whose cross-entropy is ln C times the mass of the target
    log_c = torch.log(torch.tensor(float(x.shape[1]), dtype=x.dtype))
    mass = torch.nn.functional.cross_entropy(one_for_each, target, weight, **{**options, "reduction": "none"}) / log_c
    z = z_loss * mass * u.logsumexp(1) ** 2
    reduction = options.get("reduction", "mean")
    if reduction == "none":
        return loss + z
    if reduction == "sum":
        return loss + z.sum()
    without_smoothing = {**options, "reduction": "sum", "label_smoothing": 0.0}
    if target.is_floating_point():
        count = target.numel() / target.shape[1]
    else:  # the sum of the targets' weights, computed as the sum of a cross-entropy of 1
        ones = one_for_each.detach() * 0
        count = torch.nn.functional.cross_entropy(ones, target, weight, **without_smoothing) / log_c
    return loss + z.sum() / count


def problem(classes, shape=(6,), dtype=torch.float64, probabilities=False, ignore_index=-100, **_):
    rows, *rest = shape
    x = (4 * torch.randn(rows, classes, *rest, dtype=torch.float64)).to(dtype)
    if probabilities:
        target = torch.rand(rows, classes, *rest, dtype=torch.float64).softmax(1).to(dtype)
    else:
        target = torch.randint(classes, shape)
        target.flatten()[::3] = ignore_index
        target.flatten()[0] = 0
        target.flatten()[-1] = classes - 1
    return x, target


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


def test_gradient_of_probabilities_with_large_logits():
    x, target = problem(sum(UNEVEN), dtype=torch.float32, probabilities=True)
    x = x + 1e4
    exact = leaf(target.double())
    torch.nn.functional.cross_entropy(x.double(), exact).backward()
    own = leaf(mine(target, UNEVEN))
    F.cross_entropy(mine(x, UNEVEN), own, process_group=GROUP).backward()
    torch.testing.assert_close(on_all_ranks(own.grad).double(), exact.grad, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("sizes", [EVEN, UNEVEN, WITH_NONE], ids=["even", "uneven", "none"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("probabilities", [False, True])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_loss_and_gradients_are_those_of_all_classes(sizes, weighted, probabilities, options, dtype):
    classes = sum(sizes)
    x, target = problem(classes, (6, 3), dtype, probabilities, **options)
    if "ignore_index" in options and probabilities:
        with pytest.raises(RuntimeError, match="ignore_index is not supported for floating point target"):
            F.cross_entropy(mine(x, sizes), mine(target, sizes), **options, process_group=GROUP)
        return
    precise = torch.promote_types(dtype, torch.float32)
    weight = torch.rand(classes, dtype=precise) + 0.5 if weighted else None
    exact = leaf(x.double())
    exact_target = leaf(target.double()) if probabilities else target
    expected = reference(exact, exact_target, None if weight is None else weight.double(), **options)
    own = leaf(mine(x, sizes))
    own_target = leaf(mine(target, sizes)) if probabilities else target
    ours = F.cross_entropy(own, own_target, weight, **options, process_group=GROUP)
    promoted = precise if weighted and probabilities else dtype  # like torch
    g = torch.randn_like(expected).to(promoted)
    close(ours, expected, promoted, 10)
    expected.backward(g.double())
    ours.backward(g)
    close(on_all_ranks(own.grad), exact.grad, dtype)
    if probabilities:
        close(on_all_ranks(own_target.grad), exact_target.grad, dtype, 40)  # values up to 30, rounded to 16 bits


@pytest.mark.parametrize(
    "options", [OPTIONS["plain"], OPTIONS["none"], OPTIONS["capped"]], ids=["plain", "none", "cap"]
)
def test_inplace_backward(options, dtype):
    x, target = problem(sum(UNEVEN), (6, 3), dtype)
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


@pytest.mark.parametrize("probabilities", [False, True])
@pytest.mark.parametrize(
    "options", [OPTIONS["plain"], OPTIONS["smooth_z"], OPTIONS["capped"]], ids=["plain", "z", "cap"]
)
def test_second_derivative(probabilities, options):
    """The derivative of sum (dL/dx . v), of which each rank has a part."""
    classes = sum(UNEVEN)
    x, target = problem(classes, probabilities=probabilities)
    v = torch.randn_like(x)
    weight = torch.rand(classes, dtype=torch.float64) + 0.5

    def second(function, x, target, v):
        x = leaf(x)
        inputs = [x, target] if probabilities else [x]
        if probabilities:
            inputs[1] = target = leaf(target)
        loss = function(x, target)
        g = leaf(torch.linspace(1, 2, loss.numel(), dtype=x.dtype).view_as(loss))
        (first,) = torch.autograd.grad(loss, x, g, create_graph=True)
        return torch.autograd.grad((torch.sin(first) * v).sum(), [*inputs, g])

    whole = second(lambda x, t: reference(x, t, weight, **options), x, target, v)
    own_target = mine(target, UNEVEN) if probabilities else target
    own = second(
        lambda x, t: F.cross_entropy(x, t, weight, **options, process_group=GROUP),
        mine(x, UNEVEN),
        own_target,
        mine(v, UNEVEN),
    )
    close(on_all_ranks(own[0]), whole[0])
    if probabilities:
        close(on_all_ranks(own[1]), whole[1])
    close(own[-1], whole[-1])  # replicated inputs have the full gradient on every rank


def test_gradient_of_the_weight():
    classes = sum(UNEVEN)
    x, target = problem(classes)
    weights = [leaf(torch.linspace(0.5, 1.5, classes, dtype=torch.float64)) for _ in range(2)]
    counts = target != -100  # torch's cross_entropy has no gradient for the weight
    one_hot = torch.nn.functional.one_hot(target.where(counts, 0), classes).double() * counts.unsqueeze(1)
    mass = (0.9 * one_hot + counts.double().unsqueeze(1) * 0.1 / classes) * weights[0]
    (-(mass * x.log_softmax(1)).sum() / (one_hot * weights[0]).sum()).backward()
    F.cross_entropy(mine(x, UNEVEN), target, weights[1], label_smoothing=0.1, process_group=GROUP).backward()
    close(weights[1].grad, weights[0].grad)


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
    parts = ours  # each rank's contribution to the directional derivative
    close(parts, along)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_without_graph_breaks(backend):
    x, target = problem(sum(UNEVEN), dtype=torch.float32)
    exact, own = leaf(x), leaf(mine(x, UNEVEN))
    reference(exact, target, label_smoothing=0.1, z_loss=0.01).backward()

    @torch.compile(fullgraph=True, backend=backend)
    def loss_of(x):
        return F.cross_entropy(x * 1, target, label_smoothing=0.1, z_loss=0.01, process_group=GROUP)

    loss_of(own).backward()
    close(on_all_ranks(own.grad), exact.grad, torch.float32)
    torch._dynamo.reset()


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
    x, target = problem(sum(EVEN), dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        ours = F.cross_entropy(mine(x, EVEN), target, process_group=GROUP)
        theirs = torch.nn.functional.cross_entropy(x, target)
    assert ours.dtype == theirs.dtype
    torch.testing.assert_close(ours, theirs)


def test_memory_per_rank():
    """What is saved for the backward pass, except the logits, does not grow with the total number of classes."""
    x, target = problem(64 * WORLD, (128,), torch.float32)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        F.cross_entropy(leaf(mine(x, [64] * WORLD)), target, label_smoothing=0.1, process_group=GROUP)
    assert sum(t.numel() for t in kept) <= 128 * (64 + 1 + 3 + 1)


def meshes():
    yield init_device_mesh("cpu", (WORLD,)), 0
    if WORLD == 4:
        yield init_device_mesh("cpu", (2, 2)), 1


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("probabilities", [False, True])
def test_dtensors_sharded_on_the_classes(options, probabilities):
    if probabilities and "ignore_index" in options:
        options = {}
    for mesh, among in meshes():
        for plain_target in (False, True):
            x, target = problem(13, (6, 3), probabilities=probabilities, **options)
            weight = torch.rand(13, dtype=torch.float64) + 0.5
            placements = [Shard(1) if i == among else Shard(0) for i in range(mesh.ndim)]
            exact, own = leaf(x), distribute_tensor(x, mesh, placements).requires_grad_()
            expected = reference(exact, target, weight, **options)
            replicated = distribute_tensor(target, mesh, [Replicate()] * mesh.ndim)
            own_target = target if plain_target else replicated
            ours = F.cross_entropy(own, own_target, weight, **options)
            assert isinstance(ours, DTensor)
            close(ours.full_tensor(), expected)
            g = torch.randn_like(expected)
            expected.backward(g)
            ours.backward(distribute_tensor(g, mesh, ours.placements))
            assert own.grad.placements == tuple(placements)
            close(own.grad.full_tensor(), exact.grad)


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


def linear_problem(sizes, rows=40, features=5, rest=(), dtype=torch.float64, probabilities=False, **_):
    classes = sum(sizes)
    x, W = torch.randn(rows, features), torch.randn(classes, *rest, features)
    b, weight = torch.randn(classes, *rest), torch.rand(classes, dtype=torch.float64) + 0.5
    if probabilities:
        target = torch.rand(rows, classes, *rest).softmax(1)
    else:
        target = torch.randint(classes, (rows, *rest))
        target[::3] = -100
    x, W, b = (t.to(dtype) for t in (x, W, b))
    return x, W, b, target.to(dtype) if probabilities else target, weight.to(torch.promote_types(dtype, torch.float32))


def linear_reference(x, W, b, target, weight, **options):
    logits = torch.nn.functional.linear(x, W.flatten(0, -2), b.flatten()).unflatten(1, W.shape[:-1])
    return reference(logits, target, weight, **options)


@pytest.mark.parametrize("sizes", [EVEN, UNEVEN, WITH_NONE], ids=["even", "uneven", "none"])
@pytest.mark.parametrize("chunk", [None, 7], ids=["whole", "chunks"])
@pytest.mark.parametrize("rest", [(), (3,)], ids=["", "many"])
@pytest.mark.parametrize("probabilities", [False, True])
@pytest.mark.parametrize(
    "options", [v for k, v in OPTIONS.items() if k != "ignore"], ids=[k for k in OPTIONS if k != "ignore"]
)
def test_linear_cross_entropy(sizes, chunk, rest, probabilities, options):
    for dtype in (torch.float64, torch.float32):
        x, W, b, target, weight = linear_problem(sizes, rest=rest, dtype=dtype, probabilities=probabilities)
        exact = [leaf(t.double()) for t in (x, W, b)]
        exact_target = leaf(target.double()) if probabilities else target
        expected = linear_reference(*exact, exact_target, weight.double(), **options)
        own = [leaf(x), leaf(mine(W, sizes, 0)), leaf(mine(b, sizes, 0))]
        own_target = leaf(mine(target, sizes)) if probabilities else target
        ours = F.linear_cross_entropy(
            own[0],
            own[1],
            own_target,
            linear_bias=own[2],
            weight=weight,
            options=Chunk(chunk),
            **options,
            process_group=GROUP,
        )
        close(ours, expected, dtype, 20)
        g = torch.randn_like(expected)
        expected.backward(g)
        ours.backward(g.to(dtype))
        close(own[0].grad, exact[0].grad, dtype, 20)
        close(on_all_ranks(own[1].grad, 0), exact[1].grad, dtype, 20)
        close(on_all_ranks(own[2].grad, 0), exact[2].grad, dtype, 20)
        if probabilities:
            close(on_all_ranks(own_target.grad), exact_target.grad, dtype, 20)


class Chunk:
    """The chunk size of torch's LinearCrossEntropyOptions, which is new in torch 2.13."""

    def __init__(self, rows):
        self.batch_chunk_size = rows


def test_second_derivative_of_linear_cross_entropy():
    x, W, b, target, weight = linear_problem(UNEVEN)
    v = torch.randn_like(W)

    def second(function, x, W, b, v):
        leaves = [leaf(t) for t in (x, W, b)]
        dx, dW, db = torch.autograd.grad(function(*leaves), leaves, create_graph=True)
        return torch.autograd.grad(
            (torch.sin(dW) * v).sum() + (db**2).sum() + (dx**3).sum(), leaves
        )  # dx is replicated and counts once

    options = dict(label_smoothing=0.1, z_loss=0.01)
    whole = second(lambda x, W, b: linear_reference(x, W, b, target, weight, **options), x, W, b, v)
    for chunk in (None, 7):
        own = second(
            lambda x, W, b, chunk=chunk: F.linear_cross_entropy(
                x, W, target, linear_bias=b, weight=weight, options=Chunk(chunk), **options, process_group=GROUP
            ),
            x,
            *(mine(t, UNEVEN, 0) for t in (W, b, v)),
        )
        close(on_all_ranks(own[1], 0), whole[1], scale=10)
        close(on_all_ranks(own[2], 0), whole[2], scale=10)
        close(own[0], whole[0], scale=10)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_linear_cross_entropy_compiled(backend):
    x, W, b, target, weight = linear_problem(UNEVEN, dtype=torch.float32)
    exact, own = (leaf(x), leaf(W)), (leaf(x), leaf(mine(W, UNEVEN, 0)))
    linear_reference(*exact, b, target, weight, label_smoothing=0.1).backward()

    @torch.compile(fullgraph=True, backend=backend)
    def loss_of(x, W):
        b_own = mine(b, UNEVEN, 0)
        return F.linear_cross_entropy(
            x, W, target, linear_bias=b_own, weight=weight, label_smoothing=0.1, options=Chunk(8), process_group=GROUP
        )

    loss_of(*own).backward()
    close(own[0].grad, exact[0].grad, torch.float32, 10)
    close(on_all_ranks(own[1].grad, 0), exact[1].grad, torch.float32, 10)
    torch._dynamo.reset()


@pytest.mark.parametrize("chunk", [None, 7], ids=["whole", "chunks"])
@pytest.mark.parametrize("probabilities", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_linear_weights_that_are_dtensors(chunk, probabilities, reduction):
    for mesh, among in meshes():
        for plain_input in (False, True):
            x, W, b, target, weight = linear_problem([13], rows=12, probabilities=probabilities)
            options = dict(label_smoothing=0.1, z_loss=0.01, reduction=reduction)
            exact = [leaf(t) for t in (x, W, b)]
            expected = linear_reference(*exact, target, weight, **options)
            on_classes = [Shard(0) if i == among else Replicate() for i in range(mesh.ndim)]
            on_rows = [Replicate() if i == among else Shard(0) for i in range(mesh.ndim)]
            own_x = leaf(x) if plain_input else distribute_tensor(x, mesh, on_rows).requires_grad_()
            own_W, own_b = (distribute_tensor(t, mesh, on_classes).requires_grad_() for t in (W, b))
            ours = F.linear_cross_entropy(
                own_x, own_W, target, linear_bias=own_b, weight=weight, options=Chunk(chunk), **options
            )
            close(ours.full_tensor(), expected)
            g = torch.randn_like(expected)
            expected.backward(g)
            ours.backward(distribute_tensor(g, mesh, ours.placements))
            for own, true in zip((own_x, own_W, own_b), exact, strict=True):
                grad = own.grad.full_tensor() if isinstance(own.grad, DTensor) else own.grad
                close(grad, true.grad, scale=10)


def test_memory_per_rank_of_linear_cross_entropy():
    """Saves the gradients of this rank's classes, and no logits."""
    x, W, _, target, _ = linear_problem([64] * WORLD, rows=128, dtype=torch.float32)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        own = leaf(x), leaf(mine(W, [64] * WORLD, 0))
        F.linear_cross_entropy(*own, target, options=Chunk(16), process_group=GROUP)
    assert sum(t.numel() for t in kept) <= 2 * (x.numel() + own[1].numel()) + target.numel()


def test_module():
    x, target = problem(sum(EVEN))
    module = torchnotes.nn.CrossEntropyLoss(label_smoothing=0.1, process_group=GROUP)
    close(module(mine(x, EVEN), target), reference(x, target, label_smoothing=0.1))
    linear = torchnotes.nn.LinearCrossEntropyLoss(5, 4, dtype=torch.float64, process_group=GROUP)
    x, *_ = linear_problem(EVEN, rows=6)
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
    x, W, _, target, _ = linear_problem(EVEN)
    with pytest.raises(RuntimeError, match=r"linear_cross_entropy: the ranks disagree on z loss: 1\.0 on rank 0, 0"):
        F.linear_cross_entropy(x, mine(W, EVEN, 0), target, z_loss=different(1.0, 0.0), process_group=GROUP)
    with pytest.raises(RuntimeError, match="gradient for the input: True on rank 0, False on rank 1"):
        F.linear_cross_entropy(x.requires_grad_(RANK == 0), mine(W, EVEN, 0), target, process_group=GROUP)


def test_disagreement_on_dtypes():
    x, target = problem(sum(EVEN))
    own = mine(x, EVEN)
    with pytest.raises(RuntimeError, match="dtype"):
        F.cross_entropy(own.to(different(torch.float32, torch.float64)), target, process_group=GROUP)


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

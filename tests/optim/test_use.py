"""The optimizers with wrappers of models, trainers and CUDA graphs, and their native operators."""

import copy

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from optimizer_checks import SIXTEEN_BITS
from torchnotes import optim
from torchnotes.testing.optimizers import give_gradients, parameters

KINDS = pytest.mark.parametrize("name", ("SGD", "RMSprop", "Adam", "AdamW"))
ON_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def network() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))


@KINDS
def test_external_training_loops(name, process_group):
    """DistributedDataParallel with gradients as views of buckets, averaged models with their scheduler, and closures
    that skip a batch and return None, as in Lightning."""
    averages = []
    for kind in (optim, torch.optim):
        torch.manual_seed(1)
        net = DistributedDataParallel(network(), gradient_as_bucket_view=True)
        optimizer = getattr(kind, name)(net.parameters(), lr=0.01)
        averages.append(torch.optim.swa_utils.AveragedModel(net.module))
        scheduler = torch.optim.swa_utils.SWALR(optimizer, swa_lr=0.05, anneal_epochs=2)
        for skipped in (False, True, False, False):

            def closure(net=net, optimizer=optimizer, skipped=skipped) -> torch.Tensor | None:
                optimizer.zero_grad()
                loss = net(torch.randn(4, 3)).square().sum()
                if skipped:
                    return None
                loss.backward()
                return loss

            assert (optimizer.step(closure) is None) == skipped
            averages[-1].update_parameters(net.module)
            scheduler.step()
    of_ours, of_theirs = (average.state_dict() for average in averages)
    torch.testing.assert_close(of_ours, of_theirs, rtol=1e-5, atol=1e-6)


@KINDS
def test_hooks_of_a_subclass_with_its_own_step_run_once(name):
    class Own(getattr(optim, name)):
        def step(self, closure=None):
            return super().step(closure)

    params = parameters([(3,)], torch.float32)
    optimizer, seen = Own(params, lr=0.01), []
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    give_gradients(params)
    optimizer.step()
    assert seen == ["before", "after"]


RULES = pytest.mark.parametrize("name", ("SGD", "RMSprop", "Adam"))


def operator_of(name: str) -> tuple:
    """The operator, its number of state lists, and its arguments after the step counts."""
    numbers = [0.5, 0.6, 0.7, False, False] if name == "SGD" else [0.9, 0.99, 0.1, 0.5, False]
    kind = getattr(optim, name)
    return getattr(torch.ops.torchnotes, name.lower() + "_").default, len(kind.states), (0.1, *numbers, False)


@RULES
def test_the_operator_obeys_its_schema(name):
    operator, states, rest = operator_of(name)
    for dtype in (torch.float64, torch.bfloat16):
        lists = [[torch.rand(shape, dtype=dtype) for shape in ((3,), (2, 2))] for _ in range(2 + states)]
        steps = [torch.zeros(()) for _ in range(2)]
        torch.library.opcheck(operator, (*lists, [], steps, *rest), test_utils=("test_schema", "test_faketensor"))


@RULES
def test_shards_are_rounded_by_the_random_numbers_of_the_full_tensor(name, device):
    operator, states, rest = operator_of(name)

    def updated(w: torch.Tensor, grad: torch.Tensor, shards: tuple = ()) -> torch.Tensor:
        lists = [[w.clone()], [grad.clone()], *([torch.zeros_like(w)] for _ in range(states))]
        operator(*lists, [], [torch.zeros(())], *rest, stream=7 << 32, shards=shards)
        return lists[0][0]

    for dtype in SIXTEEN_BITS:
        w, grad = (torch.randn(40, 300, device=device).to(dtype) for _ in range(2))
        whole = updated(w, grad)
        for rows, columns in ((slice(3, 40), slice(0, 300)), (slice(0, 40), slice(17, 90)), (slice(5, 9), slice(1, 2))):
            shard = rows.start * 300 + columns.start, columns.stop - columns.start, 300
            part = updated(w[rows, columns].contiguous(), grad[rows, columns].contiguous(), shard)
            assert torch.equal(part, whole[rows, columns])


@RULES
def test_the_operator_rejects_mismatched_arguments(name):
    operator, states, rest = operator_of(name)

    def rejects(message, grad=None, state=None, compensations=(), step=None, **options) -> None:
        w, like = torch.ones(3), torch.zeros(3)
        lists = [
            [w],
            [like if grad is None else grad],
            *([like.clone() if state is None else state] for _ in range(states)),
        ]
        steps = [torch.zeros(()) if step is None else step]
        with pytest.raises(RuntimeError, match=message):
            operator(*lists, list(compensations), steps, *rest, **options)
        assert (w == 1).all()

    for wrong in (torch.ones(4), torch.ones(3, dtype=torch.float64)):
        rejects("expected the gradient of a parameter to match it", grad=wrong)
        rejects("expected the state of a parameter to match it", state=wrong)
    rejects("Sparse", grad=torch.ones(3).to_sparse())
    for step in (torch.zeros(2), torch.zeros((), dtype=torch.int64)):
        rejects("expected the step of a parameter", step=step)
    rejects("require float16 or bfloat16", compensations=[torch.zeros(3)])
    rejects("require float16 or bfloat16", stream=1)
    for shards in ((0, 3), (0, 0, 0), (-1, 3, 0), (0, 3, -3)):
        rejects("expected a non-negative shard", shards=shards)
    for number in ("device_lr", "grad_norm", "grad_scale", "found_inf"):
        rejects("expected one number", **{number: torch.ones(2)})
    integers = [[torch.ones(3, dtype=torch.int64)] for _ in range(2 + states)]
    with pytest.raises(NotImplementedError, match="not implemented for 'Long'"):
        operator(*integers, [], [torch.zeros(())], *rest)
    without_buffers = [[torch.ones(3)], [torch.ones(3)], *([] for _ in range(states))]
    with pytest.raises(RuntimeError, match=r"expected a momentum buffer|for each of 1 parameters"):
        operator(*without_buffers, [], [torch.zeros(())], *rest)


@ON_CUDA
@KINDS
def test_a_cuda_graph(name):
    options = {"capturable": True} if name != "SGD" else {"momentum": 0.9}
    net = network().cuda()
    other = copy.deepcopy(net)
    ours, theirs = (
        getattr(kind, name)(of.parameters(), lr=0.01, **options) for kind, of in ((optim, net), (torch.optim, other))
    )
    ours.param_groups[0]["lr"] = torch.tensor(0.01, device="cuda")
    x = torch.randn(8, 3, device="cuda")

    def gradients(module: torch.nn.Module) -> None:
        for p in module.parameters():
            p.grad = None
        module(x).square().sum().backward()

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        gradients(net)
        ours.step()
        graph = torch.cuda.CUDAGraph()
        gradients(net)
        with torch.cuda.graph(graph, stream=stream):
            ours.step()
    torch.cuda.synchronize()
    gradients(other)
    theirs.step()
    captured = [p.grad for p in net.parameters()]
    for lr in (0.01, 0.02, 0.005):
        ours.param_groups[0]["lr"].fill_(lr)
        theirs.param_groups[0]["lr"] = lr
        computed = torch.autograd.grad(net(x).square().sum(), list(net.parameters()))
        for p, grad, new in zip(net.parameters(), captured, computed, strict=True):
            p.grad = grad
            grad.copy_(new)
        graph.replay()
        gradients(other)
        theirs.step()
        torch.cuda.synchronize()
        torch.testing.assert_close(net.state_dict(), other.state_dict(), rtol=1e-5, atol=1e-6)


@ON_CUDA
def test_steps_do_not_synchronize():
    params = [torch.randn(5, device="cuda", requires_grad=True) for _ in range(3)]
    for name in ("SGD", "RMSprop", "Adam"):
        optimizer = getattr(optim, name)(params, lr=torch.tensor(0.1, device="cuda"), max_grad_norm=1.0)
        for p in params:
            p.grad = torch.randn(5, device="cuda")
        optimizer.grad_scale = torch.tensor(2.0, device="cuda")
        optimizer.found_inf = torch.tensor(0.0, device="cuda")
        torch.cuda.set_sync_debug_mode("error")
        try:
            optimizer.step()
            optimizer.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")

"""The positions of a shard's elements in the full tensor. tests/distributed compares them with torch."""

import hypothesis
import hypothesis.strategies as st
import torch

from torchnotes.distributed.shards import runs_of


@st.composite
def parts(draw):
    """A shape and, in each dimension, a subset of its indices as consecutive ranges."""
    shape = draw(st.lists(st.integers(0, 9), max_size=4))
    ends = [sorted(draw(st.lists(st.integers(0, n), max_size=6, unique=True))) for n in shape]
    ours = [[range(*pair) for pair in zip(e[::2], e[1::2], strict=False)] for e in ends]
    return tuple(shape), [draw(st.sampled_from(([range(n)], some))) for n, some in zip(shape, ours, strict=True)]


@hypothesis.settings(deadline=None, max_examples=500, derandomize=True)
@hypothesis.given(parts())
def test_runs_are_the_elements_in_order(part):
    shape, ours = part
    expected = torch.arange(torch.Size(shape).numel()).view(shape)
    for dim, ranges in enumerate(ours):
        expected = expected.index_select(dim, torch.tensor([i for one in ranges for i in one], dtype=torch.int64))
    found, start = [], 0
    for run in runs_of(shape, ours):
        assert run.start == start
        start += run.rows * run.length
        found += [run.first + i * run.pitch + j for i in range(run.rows) for j in range(run.length)]
    assert found == expected.flatten().tolist()


def test_usual_shards_are_one_run():
    """Blocks of two dimensions, and a dimension that is split into several blocks."""
    for shape, ours in (
        ((8, 6), [[range(2, 5)], [range(6)]]),
        ((8, 6), [[range(8)], [range(2, 4)]]),
        ((8, 6), [[range(2, 5)], [range(2, 4)]]),
        ((8, 3, 6, 2), [[range(4, 8)], [range(3)], [range(2, 4)], [range(2)]]),
        ((5, 8, 6), [[range(5)], [range(2), range(4, 6)], [range(6)]]),
        ((), []),
    ):
        assert len(runs_of(shape, ours)) == 1
    assert runs_of((4, 0), [[range(4)], [range(0)]]) == []

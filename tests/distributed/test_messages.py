"""The messages between ranks: decisions of the first rank, and the sizes that docs/howto/processes.md assumes."""

import pytest
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import scaling
from torchnotes._bad_input import BadInput
from torchnotes.classifier.ranks import Ranks


class Messages(TorchDispatchMode):
    """Records the bytes that this rank sends in each collective, assuming ring algorithms."""

    def __init__(self):
        super().__init__()
        self.sent = []

    def __torch_dispatch__(self, operator, types, arguments=(), options=None):
        count = {"all_gather_into_tensor": scaling.gathered, "all_reduce": scaling.reduced}
        name = operator.name().removeprefix("_c10d_functional::")
        if name in count:
            self.sent.append(count[name](arguments[0].nbytes, dist.get_world_size()))
        return operator(*arguments, **(options or {}))


@pytest.mark.parametrize("setup", (scaling.normalized, scaling.split_classes))
def test_messages_have_the_documented_sizes(setup):
    (work,) = (work for work in scaling.WORKS if work.setup is setup)
    size = dist.get_world_size()
    call = setup(Ranks(dist.get_rank(), size))
    with Messages() as messages:
        call()
    assert messages.sent == list(work.messages(size))


def test_results_and_errors_of_the_first_rank_reach_all():
    ranks = Ranks(dist.get_rank(), dist.get_world_size())
    assert ranks.from_first(lambda: [ranks.rank]) == [0]

    def refuse():
        raise BadInput(f"by rank {ranks.rank}")

    with pytest.raises(BadInput, match="by rank 0"):
        ranks.from_first(refuse)

"""The processes of a training: those that torchrun has started, or a single one.

A process that stops on its own would leave the others waiting. Everything that may end the training early is therefore
decided by all of them together.

The reasons are in docs/decisions/training-command.md.
"""

import datetime
import gc
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from .._bad_input import BadInput

T = TypeVar("T")


def launched() -> bool:
    """Whether torchrun has started this process and set its rank."""
    variables = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    numbered = all(os.environ.get(name, "").isdecimal() for name in variables)
    return numbered and dist.is_available() and dist.is_torchelastic_launched()


class Ranks:
    """This process, one of `size`. The first one does all input and output."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank = rank
        self.size = size
        self.first = rank == 0
        self._interrupted = False

    def part(self, rows: Tensor) -> Tensor:
        """This rank's part of a batch. Parts have similar sizes. They may be empty, but never consist of a single row,
        which has no variance for batch normalization."""
        parts = rows.tensor_split(max(1, min(self.size, len(rows) // 2)))
        return parts[self.rank] if self.rank < len(parts) else rows[:0]

    def total(self, numbers: Tensor) -> Tensor:
        """The sum over the ranks. Raises KeyboardInterrupt on all ranks if one was interrupted."""
        if self.size == 1:
            return numbers
        message = torch.cat((numbers.flatten(), numbers.new_tensor([self._interrupted])))
        dist.all_reduce(message)
        if message[-1] > 0:
            raise KeyboardInterrupt
        return message[:-1].view_as(numbers)

    def from_first(self, make: Callable[[], T]) -> T:
        """Calls `make` on the first rank, and returns its result, or raises its BadInput, on all ranks."""
        if self.size == 1:
            return make()
        result: list[Any] = [None]
        if self.first:
            try:
                result = [make()]
            except BadInput as error:
                result = [error]
        dist.broadcast_object_list(result)
        if isinstance(result[0], BadInput):
            raise result[0]
        return result[0]

    @contextmanager
    def interrupted_together(self) -> Iterator[None]:
        """Ctrl-C does not end this rank immediately, but all ranks at their next call of `total`."""
        if self.size == 1:
            yield
            return

        def note(*_: Any) -> None:
            self._interrupted = True

        before = signal.signal(signal.SIGINT, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


@contextmanager
def ranks_on(device: torch.device, timeout: float) -> Iterator[Ranks]:
    """The processes, which wait for each other for at most `timeout` seconds."""
    size = int(os.environ["WORLD_SIZE"]) if launched() else 1
    if size == 1:
        yield Ranks()
        return
    backend = "gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=datetime.timedelta(seconds=timeout))
    yield Ranks(dist.get_rank(), size)
    dist.barrier()  # torchrun ends all processes once one fails; the first one must write its report before
    gc.collect()  # a network that outlives the group can deadlock (github.com/pytorch/pytorch/issues/56297)
    dist.destroy_process_group()


def device_of_rank(device: torch.device) -> torch.device:
    """The device of this process."""
    local_size = int(os.environ["LOCAL_WORLD_SIZE"]) if launched() else 1
    if local_size == 1 or device.type == "cpu":
        return device
    if device != torch.device("cuda"):
        raise BadInput(f"--device {device}: several processes require cpu, or cuda with one GPU for each")
    if local_size > torch.cuda.device_count():
        raise BadInput(f"--device {device}: {local_size} processes, but {torch.cuda.device_count()} GPUs")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    return device

"""Measures steps that several processes share: `python -m benchmarks.scaling`.

torchrun starts this program for each number of processes, on one machine, with one thread per process and gloo. The
total work is constant. The rows go to results/scaling.csv, and benchmarks.publish writes them to
docs/howto/processes.md.
"""

import itertools
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from torchnotes import functional as F
from torchnotes import nn, optim
from torchnotes.classifier.comparison import parallel
from torchnotes.classifier.network import Design, by_torchnotes
from torchnotes.classifier.ranks import Ranks, launched, ranks_on

from . import results
from .results import Row
from .timing import Contender, percentiles, time_calls

PROCESSES = (1, 2, 4)
REPEATS = 20
SAMPLE_SECONDS = 0.02
TIMEOUT = 600  # seconds
CPU = torch.device("cpu")
PATH = results.RESULTS / "scaling.csv"
KEY = ("case", "processes", "machine")
COLUMNS = ("case", "processes", "median_us", "p20_us", "p80_us", "messages", "sent_bytes", "cores", "machine")

DIGITS = Design((64, 128, 128, 10), noise=0.0)  # the default of python -m torchnotes train
LARGER = (1024, 2048, 2048, 1000)
ROWS_OF_DIGITS, ROWS = 64, 256
IMAGES = 32, 64, 28, 28
CLASSES = 32000
SMALLEST, LARGEST = 8, 1 << 24  # sizes of messages in bytes


def reduced(size: float, processes: int) -> float:
    """The bytes that a process sends in an all-reduce of `size` bytes."""
    return 2 * scattered(size, processes)


def scattered(size: float, processes: int) -> float:
    """The same for a reduce-scatter, or an all-gather whose result has `size` bytes."""
    return size * (processes - 1) / processes


def gathered(size: float, processes: int) -> float:
    """The same for an all-gather of `size` bytes per process."""
    return size * (processes - 1)


@dataclass(frozen=True)
class Work:
    """`messages`: the bytes that a process sends in each message, for a number of processes."""

    name: str
    setup: Callable[[Ranks], Contender]
    messages: Callable[[int], Sequence[float]]


def all_reduce(size: int) -> Work:
    def setup(ranks: Ranks) -> Contender:
        numbers = torch.zeros(size // 4)

        def call() -> list[Tensor]:
            dist.all_reduce(numbers)
            return [numbers[0]]

        return call

    return Work(f"all-reduce of {size:,} bytes", setup, lambda n: [reduced(size, n)])


def stepped(model: torch.nn.Module, features: int, classes: int, rows: int, ranks: Ranks) -> Contender:
    """A training step with this rank's part of the rows."""
    part = ranks.part(torch.arange(rows))
    x, y = torch.randn(rows, features)[part], torch.randint(classes, (rows,))[part]
    optimizer, loss_of = optim.Adam(model.parameters(), lr=1e-4), nn.CrossEntropyLoss()

    def call() -> list[Tensor]:
        optimizer.zero_grad()
        loss = loss_of(model(x), y)
        loss.backward()
        optimizer.step()
        return [loss.detach()]

    return call


def digits(ranks: Ranks) -> Contender:
    model = parallel(by_torchnotes(DIGITS), ranks)
    return stepped(model, DIGITS.sizes[0], DIGITS.sizes[-1], ROWS_OF_DIGITS, ranks)


def larger(ranks: Ranks) -> Contender:
    return stepped(parallel(nn.MLP(LARGER), ranks), LARGER[0], LARGER[-1], ROWS, ranks)


def fully_sharded(ranks: Ranks) -> Contender:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model, mesh = nn.MLP(LARGER), init_device_mesh("cpu", (ranks.size,))
    for layer in model:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return stepped(model, LARGER[0], LARGER[-1], ROWS, ranks)


def normalized(ranks: Ranks) -> Contender:
    norm = nn.BatchNorm2d(IMAGES[1]) if ranks.size == 1 else nn.SyncBatchNorm(IMAGES[1])
    part = ranks.part(torch.arange(IMAGES[0]))
    x, g = torch.randn(IMAGES)[part].requires_grad_(), torch.randn(IMAGES)[part]

    def call() -> list[Tensor]:
        x.grad = None
        loss = (norm(x) * g).mean()
        loss.backward()
        return [loss.detach()]

    return call


def split_classes(ranks: Ranks) -> Contender:
    """Each process has the logits of all rows for a part of the classes."""
    logits = torch.randn(ROWS, CLASSES).chunk(ranks.size, 1)[ranks.rank].contiguous().requires_grad_()
    target = torch.randint(CLASSES, (ROWS,))
    group = None if ranks.size == 1 else dist.group.WORLD

    def call() -> list[Tensor]:
        logits.grad = None
        loss = F.cross_entropy(logits, target, process_group=group)
        loss.backward()
        return [loss.detach()]

    return call


def of_normalization(channels: int, processes: int) -> list[float]:
    """The messages: the check that ranks agree, the statistics, and the sums of the backward pass."""
    return [
        gathered(16, processes),
        gathered(8 * (2 * channels + 1), processes),
        reduced(8 * 2 * channels, processes),
    ]


def of_digits(processes: int) -> list[float]:
    hidden = DIGITS.sizes[1:-1]
    parameters = sum(p.numel() for p in by_torchnotes(DIGITS).parameters())
    of_layers = [size for channels in hidden for size in of_normalization(channels, processes)]
    return [*of_layers, reduced(4 * parameters, processes)]


def sizes_of_layers() -> list[int]:
    """The sizes of the layers' parameters in bytes."""
    return [4 * (inputs + 1) * outputs for inputs, outputs in itertools.pairwise(LARGER)]


STEPS = (
    Work(f"DistributedDataParallel, digits classifier, {ROWS_OF_DIGITS} rows", digits, of_digits),
    Work(
        f"DistributedDataParallel, {'-'.join(map(str, LARGER))}, {ROWS} rows",
        larger,
        lambda n: [reduced(size, n) for size in sizes_of_layers()],
    ),
    Work(
        f"fully_shard, {'-'.join(map(str, LARGER))}, {ROWS} rows",
        fully_sharded,
        lambda n: [scattered(size, n) for size in sizes_of_layers() for _ in range(3)],
    ),
    Work(
        f"SyncBatchNorm, {' x '.join(map(str, IMAGES))}, forward and backward",
        normalized,
        partial(of_normalization, IMAGES[1]),
    ),
    Work(
        f"cross_entropy, {ROWS} rows of {CLASSES} classes divided, forward and backward",
        split_classes,
        lambda n: [gathered(16, n), gathered(4 * 8 * ROWS, n)],
    ),
)
WORKS = (*(all_reduce(size) for size in (SMALLEST, 1 << 16, 1 << 20, LARGEST)), *STEPS)


def main() -> None:
    """Starts the processes, and saves their measurements."""
    rows: list[Row] = []
    for processes in PROCESSES:
        rows += measured_by(processes)
    check(rows)
    origin = {name: value for name, value in results.origin(CPU, 1).items() if name in results.ORIGIN}
    for row in rows:
        row.update(origin, machine=results.processor(), cores=os.cpu_count())
    results.merge(PATH, rows, KEY, (*COLUMNS, *results.ORIGIN))


def measured_by(processes: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.json"
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run([*torchrun, "-m", __spec__.name, str(path)], env=environment, check=True)
        return json.loads(path.read_text())


def check(rows: list[Row]) -> None:
    """Refuses to time a wrong result: the losses of the first step must be those of one process."""
    alone = {row["case"]: row["loss"] for row in rows if row["processes"] == 1}
    for row in rows:
        if not math.isclose(row.pop("loss"), alone[row["case"]], rel_tol=1e-5):
            raise AssertionError(f"{row['case']}: {row['processes']} processes compute something else than one")


def worker(path: Path) -> None:
    with ranks_on(CPU, TIMEOUT) as ranks:
        if ranks.size == 1:  # collectives also need a group in a single process
            dist.init_process_group("gloo")
        rows = [measured(work, ranks) for work in WORKS]
        if ranks.first:
            path.write_text(json.dumps(rows))


def measured(work: Work, ranks: Ranks) -> Row:
    torch.manual_seed(0)
    call = work.setup(ranks)
    loss = call()[0].double()
    dist.all_reduce(loss)
    seconds = torch.tensor(min(time_calls(call, 1, CPU) for _ in range(3)))
    dist.all_reduce(seconds, dist.ReduceOp.MAX)
    count = math.ceil(SAMPLE_SECONDS / seconds.item())
    samples = []
    for _ in range(REPEATS):
        dist.barrier()
        samples.append(time_calls(call, count, CPU))
    slowest = torch.tensor(samples, dtype=torch.float64)  # of each sample
    dist.all_reduce(slowest, dist.ReduceOp.MAX)
    p20, median, p80 = percentiles(slowest.tolist(), 0.2, 0.5, 0.8)
    sent = work.messages(ranks.size)
    return results.rounded(
        {
            "case": work.name,
            "processes": ranks.size,
            "median_us": 1e6 * median,
            "p20_us": 1e6 * p20,
            "p80_us": 1e6 * p80,
            "messages": len(sent) if ranks.size > 1 else 0,
            "sent_bytes": round(sum(sent)),
        }
    ) | {"loss": loss.item() / ranks.size}


if __name__ == "__main__":
    worker(Path(sys.argv[1])) if launched() else main()

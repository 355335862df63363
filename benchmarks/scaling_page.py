"""The tables of docs/howto/processes.md: the measurements of results/scaling.csv, and the predictions of its model.

t(N) = t(1) / min(N, cores) + messages latency(N) + bytes sent / bandwidth(N)
"""

from collections.abc import Callable
from dataclasses import dataclass

from .results import Row
from .scaling import LARGEST, PROCESSES, SMALLEST, STEPS, Work, all_reduce

FURTHER = (2, 4, 8, 16, 64)  # numbers of processes, each on a separate core
Table = Callable[[list[str], list[list[str]]], str]


@dataclass(frozen=True)
class Machine:
    rows: dict[tuple[str, int], Row]  # by work and number of processes

    def us(self, work: Work, processes: int) -> float:
        return float(self.rows[work.name, processes]["median_us"])

    def latency(self, processes: int) -> float:
        """Of one message, in µs."""
        return self.us(all_reduce(SMALLEST), processes)

    def bandwidth(self, processes: int) -> float:
        """The bytes per µs that each process sends."""
        work = all_reduce(LARGEST)
        return sum(work.messages(processes)) / (self.us(work, processes) - self.latency(processes))

    @property
    def cores(self) -> int:
        return int(next(iter(self.rows.values()))["cores"])

    def by_the_model(self, work: Work, processes: int) -> float:
        sent = work.messages(processes)
        of_messages = len(sent) * self.latency(processes) + sum(sent) / self.bandwidth(processes)
        return self.us(work, 1) / min(processes, self.cores) + of_messages

    def on_cores_of_their_own(self, work: Work, processes: int) -> float:
        """Assumes that every hop of a message takes as long as a message between two processes."""
        sent = work.messages(processes)
        of_messages = len(sent) * (processes - 1) * self.latency(2) + sum(sent) / self.bandwidth(2)
        return self.us(work, 1) / processes + of_messages


def section(rows: list[Row], table: Table) -> str:
    machine = Machine({(row["case"], int(row["processes"])): row for row in rows})
    several = [processes for processes in PROCESSES if processes > 1]
    links = [[str(n), f"{machine.latency(n):,.0f} µs", f"{machine.bandwidth(n) / 1e3:.2g} GB/s"] for n in several]
    measured = [
        [
            work.name,
            milliseconds(machine.us(work, 1)),
            *(f"{milliseconds(machine.us(work, n))} ({milliseconds(machine.by_the_model(work, n))})" for n in several),
        ]
        for work in STEPS
    ]
    further = [
        [
            work.name,
            *(f"{machine.us(work, 1) / machine.on_cores_of_their_own(work, n):.2g}" for n in FURTHER),
        ]
        for work in STEPS
    ]
    versions, commits = (", ".join(dict.fromkeys(row[column] for row in rows)) for column in ("torch", "commit"))
    return f"""
### {rows[0]["machine"]}, {machine.cores} cores

torch {versions}; commits {commits}; gloo. Latency is the time of an all-reduce of {SMALLEST} bytes; bandwidth is what
each process sends per second in an all-reduce of {LARGEST >> 20} MB.

{table(["processes", "latency", "bandwidth"], links)}
Measured milliseconds, and in parentheses the prediction of the model:

{table(["the same work on", "1 process", *(f"{n} processes" for n in several)], measured)}
The speedup over one process that the model predicts if every process has a core of its own, and if each of the N - 1
hops of a message takes as long as the one between two processes here:

{table(["processes", *map(str, FURTHER)], further)}
"""


def milliseconds(us: float) -> str:
    return f"{us / 1e3:,.3g}"

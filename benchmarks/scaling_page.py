"""The tables of docs/scaling.md, from results/scaling.csv: what was measured, and what the model of that page says.

t(N) = t(1) / min(N, cores) + messages latency(N) + bytes sent / bandwidth(N)
"""

from collections.abc import Callable
from dataclasses import dataclass

from .results import Row
from .scaling import LARGEST, PROCESSES, SMALLEST, STEPS, Work, all_reduce

FURTHER = (2, 4, 8, 16, 64)  # processes on cores of their own
Table = Callable[[list[str], list[list[str]]], str]


@dataclass(frozen=True)
class Machine:
    rows: dict[tuple[str, int], Row]  # by the work and the number of processes

    def us(self, work: Work, processes: int) -> float:
        return float(self.rows[work.name, processes]["median_us"])

    def latency(self, processes: int) -> float:
        """In µs."""
        return self.us(all_reduce(SMALLEST), processes)

    def bandwidth(self, processes: int) -> float:
        """In bytes per µs, of what each process sends meanwhile."""
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
        """With messages that pass from one process to the next as two processes have been measured to pass them."""
        sent = work.messages(processes)
        of_messages = len(sent) * (processes - 1) * self.latency(2) + sum(sent) / self.bandwidth(2)
        return self.us(work, 1) / processes + of_messages


def section(rows: list[Row], table: Table) -> str:
    """Of one machine."""
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

torch {versions}; commits {commits}; gloo. Latency: an all-reduce of {SMALLEST} bytes. Bandwidth: of what each process
sends in one of {LARGEST >> 20} MB.

{table(["processes", "latency", "bandwidth"], links)}
Milliseconds, and in parentheses those of the model.

{table(["the same work by", "1 process", *(f"{n} processes" for n in several)], measured)}
How many times as fast as one process, by the model alone, if each process had a core of its own, and if a message took
as long from one process to the next, on N - 1 ways, as it does here between two:

{table(["processes", *map(str, FURTHER)], further)}
"""


def milliseconds(us: float) -> str:
    return f"{us / 1e3:,.3g}"

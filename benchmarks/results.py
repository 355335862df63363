"""Measurements as rows of a CSV file, with the machine, the versions and the commit."""

import csv
import datetime
import platform
import re
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

import torchnotes

Row = dict[str, Any]

RESULTS = Path(__file__).with_name("results")
KEY = ("operation", "case", "size", "dtype", "device", "regime", "contender", "threads", "machine")
TIMES = ("median_us", "p20_us", "p80_us", "gbps", "copy_fraction", "ratio_to_best_rival", "kept_bytes", "peak_bytes")
ERRORS = ("max_error", "mean_error")
ORIGIN = ("torch", "commit", "date")
COLUMNS = (*KEY[:7], *TIMES, *ERRORS, *KEY[7:], *ORIGIN)


def read(path: Path) -> list[Row]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def can_take_rows(path: Path) -> bool:
    try:
        return all(set(KEY) <= set(row) <= set(COLUMNS) for row in read(path))
    except (OSError, UnicodeDecodeError, csv.Error):
        return False


def merge(path: Path, rows: Iterable[Row], key: Sequence[str] = KEY, columns: Sequence[str] = COLUMNS) -> None:
    """Writes rows to the file. They replace rows with the same key."""
    old = read(path) if path.exists() else []
    merged = {tuple(str(row[column]) for column in key): row for row in (*old, *rows)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(merged.values())


def rounded(row: Row) -> Row:
    """Rounds to the significant digits of a measurement."""
    return {name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in row.items()}


def origin(device: torch.device, threads: int) -> Row:
    return {
        "device": device.type,
        "threads": threads,
        "machine": machine(device, threads),
        "torch": torch.__version__,
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
    }


def machine(device: torch.device, threads: int) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{processor()}, {threads} threads"


def processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    named = re.search(r"^model name\s*: *(.+)$", cpuinfo.read_text() if cpuinfo.exists() else "", re.MULTILINE)
    name = named[1] if named else platform.processor() or platform.machine()
    return re.sub(r"\(\w+\)| Processor$", "", name)


def commit() -> str:
    describe = ["git", "describe", "--always", "--dirty"]
    try:
        return subprocess.check_output(describe, cwd=RESULTS.parent, text=True, stderr=subprocess.DEVNULL).strip()
    except (OSError, subprocess.CalledProcessError):  # not in a checkout
        return torchnotes.__version__


def default_path(device: torch.device, threads: int) -> Path:
    """The file of this machine's results."""
    slug = re.sub(r"[^a-z0-9]+", "-", machine(device, threads).lower()).strip("-")
    return RESULTS / f"{slug}.csv"

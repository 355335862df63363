"""Checks that the ranks of a process group agree, and raises on every rank if they do not.

Measured in docs/decisions/agreement.md.
"""

import hashlib
from collections.abc import Hashable, Sequence
from typing import Any

import torch
import torch.distributed as dist

from ..autograd.compiled import constant_when_compiled
from .collectives import Group, all_gather, named


def agree(operation: str, group: Group, device: torch.device, own: int = 0, **what: Hashable) -> list[int]:
    """Raises on every rank unless all ranks of the group have the same values. Returns each rank's `own` number.

    This takes a message of 16 bytes. On other devices than the CPU, where it would synchronize, the same values are
    checked only once. Compiled code checks when it is compiled.
    """
    return _agreed(operation, group.group_name, device.type, constant(own), tuple(what.items()))


def constant(size: int) -> int:
    """The size as a plain integer, even if a compiler represents it by a symbol."""
    return range(size).stop


_known: dict[tuple, list[int]] = {}


@constant_when_compiled
def _agreed(operation: str, group_name: str, device: str, own: int, what: tuple) -> list[int]:
    key = operation, group_name, own, what
    if device != "cpu" and key in _known:
        return _known[key]
    group = named(group_name)
    message = torch.tensor((_fingerprint(operation, what), own), device=device)
    fingerprints, numbers = all_gather(message, group).t().tolist()
    if any(fingerprint != fingerprints[0] for fingerprint in fingerprints):
        of_ranks: list[Any] = [None] * group.size()
        dist.all_gather_object(of_ranks, dict(what), group=group)
        ranks = dist.get_process_group_ranks(group)
        raise RuntimeError(_disagreement(operation, dict(zip(ranks, of_ranks, strict=True))))
    if device != "cpu":
        _known[key] = numbers
    return numbers


def agree_on_mesh(operation: str, groups: Sequence[Group], device: torch.device, hint: str, **what: Hashable) -> None:
    """The same check for all ranks of a mesh, given by the groups of its dimensions. It communicates in every call and
    does not support compiled code."""
    fingerprint = torch.tensor(_fingerprint(operation, tuple(what.items())), device=device)
    fingerprints = fingerprint
    for group in groups:
        fingerprints = all_gather(fingerprints, group)
    if (fingerprints != fingerprint).any():
        of_ranks = {dist.get_rank(): what}
        for group in groups:
            parts: list[Any] = [None] * group.size()
            dist.all_gather_object(parts, of_ranks, group=group)
            of_ranks = {rank: theirs for part in parts for rank, theirs in part.items()}
        raise RuntimeError(f"{_disagreement(operation, of_ranks)}. {hint}")


def _fingerprint(operation: str, what: tuple) -> int:
    digest = hashlib.blake2b(repr((operation, what)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def _disagreement(operation: str, of_ranks: dict[int, dict[str, Any]]) -> str:
    def value_of(name: str) -> dict[int, Any]:
        return {rank: theirs.get(name) for rank, theirs in sorted(of_ranks.items())}

    names = dict.fromkeys(name for theirs in of_ranks.values() for name in theirs)
    differing = "; ".join(
        f"{name.replace('_', ' ')}: " + ", ".join(f"{value} on rank {rank}" for rank, value in value_of(name).items())
        for name in names
        if len(set(map(repr, value_of(name).values()))) > 1
    )
    return f"{operation}: the ranks disagree on {differing}"

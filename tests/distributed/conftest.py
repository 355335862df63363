"""Tests that run on every rank of a process group: `torchrun --nproc-per-node 2 -m pytest tests/distributed`.

tests/test_distributed.py runs them. If a test fails on one rank all ranks stop, because they would wait for each other.
"""

import datetime
import os

import pytest
import torch
import torch.distributed as dist

TIMEOUT = datetime.timedelta(seconds=60)

if "TORCHELASTIC_RUN_ID" not in os.environ:
    collect_ignore_glob = ["test_*.py"]


def pytest_sessionstart(session):
    if "TORCHELASTIC_RUN_ID" in os.environ:
        dist.init_process_group("gloo", timeout=TIMEOUT)


def pytest_sessionfinish(session):
    if dist.is_initialized():
        dist.destroy_process_group()


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item, nextitem):
    before = item.session.testsfailed
    result = yield
    if dist.is_initialized():
        failed = item.session.testsfailed > before
        key = f"outcome of test {item.session.items.index(item)} on rank "
        store = dist.distributed_c10d._get_default_store()
        store.set(f"{key}{dist.get_rank()}", "failed" if failed else "passed")
        if failed:  # the other ranks would wait for this one
            item.session.shouldfail = f"{item.nodeid} failed on rank {dist.get_rank()}"
            return result
        outcomes = [store.get(f"{key}{rank}") for rank in range(dist.get_world_size())]
        if b"failed" in outcomes:
            item.session.shouldfail = f"{item.nodeid} failed on rank {outcomes.index(b'failed')}"
    return result

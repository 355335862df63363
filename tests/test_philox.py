"""The stream of random words: the known answers of Philox's authors, and arbitrary counters."""

import ctypes

import numpy as np
import pytest
import torch
from native_build import COMPILER, INSTRUCTION_SET, ROOT, SETUP, Build

import philox

# From kat_vectors of Random123: counter, key, words
KNOWN = (
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
)


pytestmark = pytest.mark.kernels


@pytest.fixture(scope="session")
def library() -> ctypes.CDLL:
    build = Build(f"philox_{INSTRUCTION_SET}")
    command = [*COMPILER, *SETUP["cpu_flags"](INSTRUCTION_SET)]
    path = build.link([build.compile(command, ROOT / "tests/native/philox.cpp")], "philox.so")
    build.run()
    return ctypes.CDLL(str(path))


def joined(low: int, high: int) -> ctypes.c_uint64:
    return ctypes.c_uint64(low | high << 32)


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_known_answers(library, counter, key, words):
    assert tuple(int(x) for x in philox.philox(list(counter), list(key))) == words
    out = np.zeros(4, np.uint32)
    library.write_block(out.ctypes, joined(*key), joined(*counter[2:]), joined(*counter[:2]))
    assert tuple(int(x) for x in out) == words


@pytest.mark.parametrize(
    "group", (0, 1, 2**28 - 1, 2**28, 2**40 + 12345)
)  # 2^28 - 1: the low word of the counter overflows after it
def test_groups_of_blocks(library, group):
    key = torch.tensor([-3, 2**62 + 11])
    seed, offset = (ctypes.c_uint64(int(x) % 2**64) for x in key)
    expected = philox.groups_of_words(key, group, 5).reshape(-1)
    out = np.zeros(5 * 64, np.uint32)
    library.write_groups(out.ctypes, seed, offset, ctypes.c_int64(group), ctypes.c_int64(5))
    assert (out == expected).all()

"""Philox4x32-10 and the numbers derived from it, in numpy, after the paper and csrc/formulas/philox.h."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

MASK = np.uint64(0xFFFFFFFF)
KEY = torch.tensor([0x0123_4567_89AB_CDEF, -0x0FED_CBA9_8765_4321])  # uses the upper halves and the sign


def philox(counter: list, key: list[int]) -> list[np.ndarray]:
    """The four words of each block. The counters are given as four arrays of 32-bit words."""
    c0, c1, c2, c3 = (np.asarray(c, np.uint64) for c in counter)
    k0, k1 = (np.uint64(k) for k in key)
    for _ in range(10):
        p, q = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (q >> np.uint64(32)) ^ c1 ^ k0, q & MASK, (p >> np.uint64(32)) ^ c3 ^ k1, p & MASK
        k0, k1 = (k0 + np.uint64(0x9E3779B9)) & MASK, (k1 + np.uint64(0xBB67AE85)) & MASK
    return [c0, c1, c2, c3]


def halves(x: int) -> tuple[int, int]:
    return x & 0xFFFFFFFF, x >> 32 & 0xFFFFFFFF


def groups_of_words(key: Tensor, first: int, count: int) -> np.ndarray:
    """Shape (count, 4, 16): word i of each of the 16 blocks of a group."""
    numbers = np.arange(16 * first, 16 * (first + count), dtype=np.uint64)
    seed, offset = (halves(int(x)) for x in key)
    words = philox([numbers & MASK, numbers >> np.uint64(32), *offset], list(seed))
    return np.stack(words).reshape(4, count, 16).transpose(1, 0, 2)


def element_bits(key: Tensor, n: int, dtype: torch.dtype, first: int = 0) -> tuple[np.ndarray, ...]:
    """The one or two words of each of n elements from `first` on."""
    in_group = 32 if dtype == torch.float64 else 64
    group, before = divmod(first, in_group)
    words = groups_of_words(key, group, -(-(before + n) // in_group))
    if dtype != torch.float64:
        return (words.reshape(-1)[before : before + n],)
    pairs = words.reshape(-1, 2, 16)
    return pairs[:, 0].reshape(-1)[before : before + n], pairs[:, 1].reshape(-1)[before : before + n]


def fractions(key: Tensor, n: int, dtype: torch.dtype, first: int = 0) -> np.ndarray:
    """Uniform numbers in [0, 1), exact."""
    bits = element_bits(key, n, dtype, first)
    if dtype != torch.float64:
        return (bits[0] >> np.uint64(8)).astype(np.float64) * 2.0**-24
    high, low = bits[0] >> np.uint64(5), bits[1] >> np.uint64(6)
    return (high.astype(np.float64) * 2.0**26 + low.astype(np.float64)) * 2.0**-53


def fractions_in_double(key: Tensor, n: int, dtype: torch.dtype) -> np.ndarray:
    """Uniform numbers in (0, 1). For float32 they use all 32 bits of a random word."""
    if dtype == torch.float64:
        return fractions(key, n, dtype) + 2.0**-54
    return (element_bits(key, n, dtype)[0].astype(np.float64) + 0.5) * 2.0**-32


def normals(key: Tensor, n: int, dtype: torch.dtype) -> np.ndarray:
    """Box-Muller in float64, on pairs of elements that are 16 apart. Multiples of a quarter turn are exact."""
    whole = -(-n // 32) * 32
    v = fractions(key, whole, dtype)
    if dtype == torch.float64:
        u = v + 2.0**-54
    else:
        (words,) = element_bits(key, whole, dtype)
        u = (((words >> np.uint64(1)).astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-31)).astype(np.float64)
    u, v = u.reshape(-1, 2, 16)[:, 0], v.reshape(-1, 2, 16)[:, 1]
    radius, quarters = np.sqrt(-2 * np.log(u)), np.rint(4 * v)
    turned = np.exp(0.5j * np.pi * (4 * v - quarters)) * np.array((1, 1j, -1, -1j))[quarters.astype(int) % 4]
    return np.stack((radius * turned.real, radius * turned.imag), 1).reshape(-1)[:n]


def factors_of_dropout(key: Tensor, shape: tuple, dtype: torch.dtype, p: float) -> Tensor:
    """0 or 1/(1 - p) for each element, in float64."""
    n = int(np.prod(shape, dtype=np.int64))
    if dtype == torch.float64:
        dropped = fractions(key, n, dtype) < p
    else:
        dropped = element_bits(key, n, dtype)[0] < int(p * 2.0**32)
    scale = 1 / (1 - p) if p < 1 else 0.0
    return torch.from_numpy(np.where(dropped, 0.0, scale)).reshape(shape)


STARTS = (*range(131), 2**20 + 17)


def windows(whole: Tensor) -> Iterator[tuple[Tensor, tuple[int, int, int]]]:
    """Parts of a vector of at least 2^21 elements, each with its position in the full tensor (csrc/tensors/keys.h)."""
    for first in STARTS:
        for rows, length, pitch in (
            (1, 1, 0),
            (1, 301, 0),
            (1, 600, 7),
            (5, 3, 11),
            (2, 37, 64),
            (3, 120, 131),
            (3, 250, 251),
        ):
            yield torch.as_strided(whole, (rows, length), (pitch, 1), first), (first, length, pitch)
    for first in (64, 77):  # uses several threads
        yield torch.as_strided(whole, (2, 300_007), (400_000, 1), first), (first, 300_007, 400_000)

"""Random permutations of up to 2^62 numbers with random access: the i-th element without the others.

A Feistel network on the smallest even number of bits that holds ``n`` numbers; results beyond ``n`` are sent through
again until they fit ("cycle walking"), at most four times on average.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import ArrayLike, NDArray

_ROUNDS = 6
_MIX = np.uint64(0x9E3779B97F4A7C15)


class Permutation:
    """A permutation of ``range(n)``, determined by the key.

    Args:
        n: how many numbers.
        key: strings and numbers that the permutation depends on.
    """

    def __init__(self, n: int, *key: str | int) -> None:
        if not 0 < n <= 2**62:
            raise ValueError(f"A permutation is of 1 to 2^62 numbers, got {n}.")
        self._n = np.uint64(n)
        half = (max(2, (n - 1).bit_length()) + 1) // 2
        self._half, self._mask = np.uint64(half), np.uint64(2**half - 1)
        self._keys = np.random.Generator(np.random.PCG64(key_seed(*key))).integers(0, 2**64, _ROUNDS, dtype=np.uint64)

    def __call__(self, index: ArrayLike) -> NDArray[np.int64]:
        """The elements at these places, ``(m,) -> (m,)``."""
        result = self._encrypt(np.atleast_1d(np.asarray(index, dtype=np.uint64)))
        while (outside := result >= self._n).any():
            result[outside] = self._encrypt(result[outside])
        return result.astype(np.int64)

    def _encrypt(self, values: NDArray[np.uint64]) -> NDArray[np.uint64]:
        left, right = values >> self._half, values & self._mask
        for key in self._keys:
            mixed = (right + key) * _MIX
            mixed ^= mixed >> np.uint64(29)
            mixed *= np.uint64(0xBF58476D1CE4E5B9)
            mixed ^= mixed >> np.uint64(32)
            left, right = right, left ^ (mixed & self._mask)
        return (left << self._half) | right


def key_seed(*key: str | int) -> int:
    """A 128-bit seed from strings and numbers, the same on every machine."""
    text = "\0".join(f"{type(part).__name__}:{part}" for part in key)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")

"""The index next to the tokens of Megatron: of which width they are, and where documents begin.

``.idx`` holds, little-endian: a magic word, the version (8 bytes), a code of the dtype (1), the number of sequences
``n`` (8) and of borders of documents ``k`` (8); the ``n`` lengths of the sequences in tokens (``int32``); where each
begins in the ``.bin``, in bytes (``int64``); and the ``k`` numbers of the sequences that documents begin with, of which
the last one is ``n`` (``int64``).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

MAGIC = b"MMIDIDX\0\0"
_DTYPES = {1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float64", 7: "float32", 8: "uint16"}
_HEAD = len(MAGIC) + 25


@dataclass(frozen=True, kw_only=True)
class MegatronIndex:
    """What an index says.

    Args:
        dtype: of the tokens, as NumPy calls it, or "unknown numbers".
        tokens: number of tokens.
        borders: tokens before each document, and all of them, ``(n_documents + 1,)``.
    """

    dtype: str
    tokens: int
    borders: NDArray[np.int64]


def read_index(path: Path) -> MegatronIndex:
    """Reads an index.

    Args:
        path: of the ``.idx``.

    Raises:
        ValueError: if the file is none, ends early, or contradicts itself.
    """
    data = path.with_suffix(".bin").name
    with path.open("rb") as file:
        head = file.read(_HEAD)
        if not head.startswith(MAGIC) or len(head) < _HEAD:
            raise ValueError(f"{path} has the name of an index of Megatron and is none: move it away from {data}.")
        dtype, n = _DTYPES.get(head[17], "unknown numbers"), int.from_bytes(head[18:26], "little")
        n_borders, found = int.from_bytes(head[26:34], "little"), path.stat().st_size
        promised = _HEAD + (4 + 8) * n + 8 * n_borders
        if found < promised:
            raise ValueError(
                f"{path} ends early: it promises {n} sequences in {n_borders} documents, {promised} bytes; it has "
                f"{found}. Copy it again, with {data}."
            )
        lengths, places = np.fromfile(file, "<i4", n), np.fromfile(file, "<i8", n)
        firsts = np.fromfile(file, "<i8", n_borders)
    ends = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    width = np.dtype(dtype).itemsize if dtype in _DTYPES.values() else 1
    if (lengths < 0).any() or (width > 1 and not np.array_equal(places, ends[:-1] * width)):
        raise ValueError(f"{path} has sequences that do not follow one another in {data}: write both again.")
    if not n_borders or firsts[0] != 0 or firsts[-1] != n or (np.diff(firsts) < 0).any():
        raise ValueError(f"{path} has documents that do not begin with its sequences, in order: write it again.")
    return MegatronIndex(dtype=dtype, tokens=int(ends[-1]), borders=ends[firsts])

"""Which documents are for validation: near-duplicates go together, across files, domains and workers.

A document goes where one of its passages goes: that with the smallest hash among all its passages of 32 bytes, case and
white space aside (a MinHash of one function). Two documents that have the share ``J`` of all their different passages
in common (their Jaccard similarity) have the same smallest one with probability ``J``, and are then on one side. So of
pairs that are alike to ``J``, the share ``2 v (1 - v) (1 - J)`` ends up on both sides, with ``v`` the share for
validation: 1% for ``J`` of 0.9 and ``v`` of 5%, and none of those that differ in case or white space alone.

No document need be remembered for that, and none is left out. The price: documents with much in common, a licence of a
page at the top of short files for instance, go together, too, which makes the share for validation less even.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

_PASSAGE = 32  # bytes; a power of 2. About five words
_FACTOR = np.uint32(0x9E3779B1)  # odd: every byte of a passage counts
_STIR = np.uint32(0x85EBCA6B)
_BYTES: NDArray[np.uint32] = np.random.Generator(np.random.PCG64(32)).integers(0, 2**32, 256, dtype=np.uint32)


def is_held_out(text: str, share: float, seed: int) -> bool:
    """Whether a document is for validation.

    Args:
        text: of the document.
        share: of documents for validation, between 0 and 1.
        seed: of the choice.
    """
    digest = hashlib.blake2b(b"%d:%b" % (seed, passage(text, seed)), digest_size=8)
    return int.from_bytes(digest.digest(), "little") < share * 2**64


def passage(text: str, seed: int = 0) -> bytes:
    """The passage that stands for a document; of a shorter one all of it, case and white space aside."""
    content = " ".join(text.lower().split()).encode("utf-8", "replace")
    if len(content) < _PASSAGE:
        return content
    hashes, width = _BYTES[np.frombuffer(content, np.uint8)], 1
    factor = int(_FACTOR)
    while width < _PASSAGE:  # the hash of two neighbours: (h, g) -> h * factor^width + g
        doubled = hashes[:-width] * np.uint32(factor)
        doubled += hashes[width:]
        hashes, width, factor = doubled, 2 * width, factor * factor % 2**32
    hashes ^= np.uint32(seed % 2**32)  # another seed, another passage
    hashes ^= hashes >> np.uint32(16)
    hashes *= _STIR
    hashes ^= hashes >> np.uint32(15)
    place = int(hashes.argmin())
    return content[place : place + _PASSAGE]

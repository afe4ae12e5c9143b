"""Token shards on disk: told apart by their first bytes, checked against the manifest, memory-mapped."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ray_mixopt.pretraining.data.manifest import SPLITS, Manifest, Shard

Tokens = NDArray[np.unsignedinteger]

CHUNK = 8 * 2**20  # tokens looked at or hashed at a time
_PEEK = 65536  # tokens of each shard whose ids are checked when it is opened
_OPEN_SHARDS = 64  # of a stream at a time: each holds a file descriptor

_NPY_MAGIC = b"\x93NUMPY"
_LLMC_MAGIC, _LLMC_HEADER = 20240520, 1024  # llm.c's and modded-nanogpt's .bin: 256 int32, then uint16 tokens


@dataclass(frozen=True, kw_only=True)
class ShardFile:
    """Where the tokens lie in a file.

    Args:
        offset: bytes before the first token.
        tokens: number of tokens.
        dtype: "uint16" or "uint32".
    """

    offset: int
    tokens: int
    dtype: str


def inspect(path: Path, dtype: str) -> ShardFile:
    """The layout of a shard made elsewhere: true NPY, llm.c's, or headerless as OLMo's .npy and nanoGPT's .bin.

    Args:
        path: of the file.
        dtype: of a headerless file, which does not say itself.

    Raises:
        ValueError: if the file is no whole number of tokens, or its header says that it is something else.
    """
    if not path.is_file():
        raise ValueError(f"There is no shard {path}.")
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
    if head.startswith(_NPY_MAGIC):
        return _inspect_npy(path, size)
    if len(head) == 8 and int.from_bytes(head[:4], "little") == _LLMC_MAGIC and size >= _LLMC_HEADER:
        return ShardFile(offset=_LLMC_HEADER, tokens=(size - _LLMC_HEADER) // 2, dtype="uint16")
    width = np.dtype(dtype).itemsize
    if size % width:
        raise ValueError(f"{path} has {size} bytes, which is no whole number of {dtype} tokens.")
    return ShardFile(offset=0, tokens=size // width, dtype=dtype)


def _inspect_npy(path: Path, size: int) -> ShardFile:
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
        offset = file.tell()
    if len(shape) != 1 or dtype.name not in ("uint16", "uint32") or not dtype.isnative:
        raise ValueError(f"{path} holds {dtype.name} of shape {shape}: a shard is one row of uint16 or uint32.")
    if size < offset + shape[0] * dtype.itemsize:
        raise ValueError(f"{path} ends early: its header promises {shape[0]} tokens.")
    return ShardFile(offset=offset, tokens=shape[0], dtype=dtype.name)


def locate(folder: Path, shard: Shard) -> Path:
    """The file of a shard.

    Raises:
        ValueError: if it lies outside the folder, for instance behind a link.
    """
    path = (folder / shard.path).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ValueError(f"The shard {shard.path} of {folder} leads out of the folder, to {path}.")
    return path


def tokens_of(folder: Path, shard: Shard, dtype: str) -> Tokens:
    """The tokens of a shard, memory-mapped, ``(n_tokens,)``.

    Raises:
        ValueError: if the file is missing or too short for what the manifest says.
    """
    path = locate(folder, shard)
    if not path.is_file():
        raise ValueError(f"The shard {shard.path} of {folder} is missing.")
    kind = np.dtype(dtype).newbyteorder("<")
    size, promised = path.stat().st_size, shard.offset + shard.tokens * kind.itemsize
    if size < promised:
        raise ValueError(
            f"The shard {shard.path} of {folder} has {size} bytes; the manifest promises {promised}, "
            f"{shard.tokens} {dtype} tokens."
        )
    return np.memmap(path, dtype=kind, mode="r", offset=shard.offset, shape=(shard.tokens,))


class Stream:
    """The tokens of several shards as one row. Only the shards that were read last are open.

    Args:
        lengths: number of tokens of each shard.
        open_shard: gives the tokens of a shard, by its number.

    Attributes:
        tokens: number of tokens.
    """

    def __init__(self, lengths: Sequence[int], open_shard: Callable[[int], Tokens]) -> None:
        self._open = lru_cache(maxsize=_OPEN_SHARDS)(open_shard)
        self._starts = np.cumsum([0, *lengths])
        self.tokens = int(self._starts[-1])

    def read(self, start: int, n: int) -> NDArray[np.int64]:
        """Tokens ``start`` to ``start + n``, ``(n,)``; a window may cross from one shard to the next."""
        if start < 0 or start + n > self.tokens:
            raise IndexError(f"Tokens {start} to {start + n} of {self.tokens} do not exist.")
        window = np.empty(n, dtype=np.int64)
        filled = 0
        number = int(np.searchsorted(self._starts, start, side="right")) - 1
        while filled < n:
            inside = start + filled - int(self._starts[number])
            piece = self._open(number)[inside : inside + n - filled]
            window[filled : filled + len(piece)] = piece
            filled += len(piece)
            number += 1
        return window


class Corpus:
    """The streams of a folder of shards, checked against its manifest: files, sizes, and the ids at their beginning.

    Args:
        folder: holds ``manifest.json``.

    Raises:
        ValueError: if something does not fit; the message names the shard.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = Manifest.read(folder)
        self._streams: dict[tuple[str, str], Stream] = {}
        for name, domain in self.manifest.domains.items():
            for label in SPLITS:
                shards = getattr(domain, label).shards
                for shard in shards:
                    tokens = tokens_of(folder, shard, self.manifest.dtype)
                    check_ids(tokens[:_PEEK], self.manifest.tokenizer.vocab_size, f"The shard {shard.path} of {folder}")
                self._streams[name, label] = Stream([shard.tokens for shard in shards], self._opener(shards))

    def _opener(self, shards: Sequence[Shard]) -> Callable[[int], Tokens]:
        return lambda number: tokens_of(self.folder, shards[number], self.manifest.dtype)

    def stream(self, domain: str, split: str) -> Stream:
        """The tokens of a domain, ``split`` "train" or "val".

        Raises:
            ValueError: if there is no such domain.
        """
        try:
            return self._streams[domain, split]
        except KeyError:
            known = ", ".join(self.manifest.domains)
            raise ValueError(f"{self.folder} has no domain {domain!r}: it has {known}.") from None


def checksum(tokens: Tokens, vocab_size: int, what: str) -> str:
    """SHA-256 of the bytes of ``(n,)`` tokens, whose ids are checked on the way."""
    digest = hashlib.sha256()
    for start in range(0, len(tokens), CHUNK):
        chunk = np.ascontiguousarray(tokens[start : start + CHUNK])
        check_ids(chunk, vocab_size, what)
        digest.update(chunk.data)
    return digest.hexdigest()


def check_ids(tokens: NDArray[np.integer], vocab_size: int, what: str) -> None:
    """Checks that all token ids lie in the vocabulary.

    Raises:
        ValueError: naming the largest one and ``what`` holds it.
    """
    largest = int(tokens.max(initial=0))
    if largest >= vocab_size:
        raise ValueError(f"{what} holds the token id {largest}, beyond the vocabulary of {vocab_size} tokens.")

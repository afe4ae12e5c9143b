"""Token shards on disk: told apart by their first bytes, checked against the manifest, memory-mapped."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ray_mixopt.pretraining.data import megatron
from ray_mixopt.pretraining.data.manifest import SPLITS, Manifest, Shard

Tokens = NDArray[np.unsignedinteger]

CHUNK = 8 * 2**20  # tokens looked at or hashed at a time
_PEEK = 65536  # tokens of each shard whose ids are checked when it is opened
_PIECES = 16  # of a shard, as many tokens together, which are to be those that it was made of
_OPEN_SHARDS = 64  # of a stream at a time: each holds a file descriptor

_NPY_MAGIC = b"\x93NUMPY"
_LLMC_HEADER = 1024  # bytes of llm.c's and modded-nanogpt's .bin: 256 int32, of which the third is the number of tokens
_LLMC = {(20240520, 1): "uint16", (20240801, 7): "uint32"}  # GPT-2's and Llama 3's tokens, by magic and version
_LLMC_OTHERS = (20240522,)  # questions of a test
_READ_AS = {"uint16": "uint16", "uint32": "uint32", "int32": "uint32"}  # ids are not negative: the bytes are the same
_FEWEST = 64  # tokens that tell a wrong width
_UNLIKE = 64  # times: the lower half of a wide id has numbers up to 2^16, its upper half those below vocabulary / 2^16


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
    """The layout of a shard made elsewhere: true NPY, llm.c's, Megatron's, or headerless as OLMo's and nanoGPT's.

    Args:
        path: of the file.
        dtype: of a headerless file, which does not say itself; Megatron's index next to it does.

    Raises:
        ValueError: if the file is no whole number of tokens, or not what its header or its index promises.
    """
    if not path.is_file():
        raise ValueError(f"There is no shard {path}.")
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
    if head.startswith(_NPY_MAGIC):
        return _inspect_npy(path, size)
    if head.startswith(megatron.MAGIC):
        raise ValueError(f"{path} is an index of Megatron: name the .bin next to it.")
    magic, version = (int.from_bytes(head[place : place + 4], "little") for place in (0, 4))
    if len(head) == 12 and magic in (*_LLMC_OTHERS, *(known for known, _ in _LLMC)):
        if (magic, version) not in _LLMC:
            raise ValueError(f"{path} is a file of llm.c of kind {magic}, version {version}, which holds no shard.")
        tokens = int.from_bytes(head[8:12], "little", signed=True)
        return _whole(path, size, _LLMC_HEADER, tokens, _LLMC[magic, version], "its header")
    if (index := megatron_index(path)) is not None:
        source = f"the index {path.with_suffix('.idx').name}"
        return _whole(path, size, 0, index.tokens, index.dtype, source)
    width = np.dtype(dtype).itemsize
    if size % width:
        raise ValueError(f"{path} has {size} bytes, which is no whole number of {dtype} tokens.")
    return ShardFile(offset=0, tokens=size // width, dtype=dtype)


def megatron_index(path: Path) -> megatron.MegatronIndex | None:
    """The index of Megatron next to a ``.bin``, if there is one.

    Raises:
        ValueError: if it is damaged.
    """
    index = path.with_suffix(".idx")
    return megatron.read_index(index) if path.suffix == ".bin" and index.is_file() else None


def _inspect_npy(path: Path, size: int) -> ShardFile:
    with path.open("rb") as file:
        try:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
        except Exception as error:  # whatever the parsers raise that NumPy uses
            raise ValueError(f"{path} is a damaged NPY file: {' '.join(str(error).split())}.") from error
        offset = file.tell()
    if len(shape) != 1 or dtype.name not in _READ_AS or not dtype.isnative:
        order = "" if dtype.isnative else ", big-endian"
        raise ValueError(
            f"{path} holds {dtype.name} of shape {shape}{order}: a shard is one row of {', '.join(_READ_AS)}."
        )
    return _whole(path, size, offset, shape[0], dtype.name, "its header")


def _whole(path: Path, size: int, offset: int, tokens: int, dtype: str, source: str) -> ShardFile:
    """The layout that a header or an index promises, if the file has it."""
    if dtype not in _READ_AS:
        raise ValueError(f"{path} holds {dtype} by {source}: a shard holds {', '.join(_READ_AS)}.")
    promised = offset + tokens * np.dtype(dtype).itemsize
    if tokens < 0 or size != promised:
        what = "ends early" if size < promised else "has more than it should"
        raise ValueError(f"{path} {what}: {source} promises {tokens} {dtype} tokens, {promised} bytes; it has {size}.")
    return ShardFile(offset=offset, tokens=tokens, dtype=_READ_AS[dtype])


def inside(folder: Path, path: str) -> Path:
    """A file that a manifest names.

    Raises:
        ValueError: if it lies outside the folder, for instance behind a link.
    """
    place = (folder / path).resolve()
    if not place.is_relative_to(folder.resolve()):
        raise ValueError(f"{path} of {folder} leads out of the folder, to {place}.")
    return place


def tokens_of(folder: Path, shard: Shard, dtype: str) -> Tokens:
    """The tokens of a shard, memory-mapped, ``(n_tokens,)``.

    Raises:
        ValueError: if the file is missing or too short for what the manifest says.
    """
    path = inside(folder, shard.path)
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
    """The streams of a folder of shards, checked against its manifest: files, sizes, first ids, and samples.

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
                    tokens, what = tokens_of(folder, shard, self.manifest.dtype), f"The shard {shard.path} of {folder}"
                    check_ids(tokens[:_PEEK], self.manifest.tokenizer.vocab_size, what)
                    if self.manifest.tokenizer.kind == "unknown":
                        check_width(tokens[:_PEEK], what)
                    if shard.sample is not None and sample(tokens) != shard.sample:
                        raise ValueError(
                            f"{what} holds other tokens than those that the manifest was made of: put the file back, "
                            "or prepare the data again."
                        )
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


def sample(tokens: Tokens) -> str:
    """SHA-256 of pieces of ``(n,)`` tokens at even distances, those at both ends among them; of all if they are few."""
    size = _PEEK // _PIECES
    starts = np.linspace(0, max(0, len(tokens) - size), _PIECES).astype(np.int64)
    digest = hashlib.sha256()
    for start, end in zip(starts, [*starts[1:], len(tokens)], strict=True):
        digest.update(np.ascontiguousarray(tokens[start : min(start + size, end)]).data)
    return digest.hexdigest()


def check_ids(tokens: NDArray[np.integer], vocab_size: int, what: str) -> None:
    """Checks that all token ids lie in the vocabulary.

    Raises:
        ValueError: naming the largest one and ``what`` holds it.
    """
    largest = int(tokens.max(initial=0))
    if largest >= vocab_size:
        raise ValueError(
            f"{what} holds the token id {largest}, beyond the vocabulary of {vocab_size} tokens. Tokens of another "
            "width (--dtype) look so, too."
        )


def check_width(tokens: Tokens, what: str) -> None:
    """Checks that the numbers are not halves of wider ones, and not pairs of narrower ones.

    The halves of a wide id are unlike each other: the upper one is 0 or a small number. Neighbours in a text are not.

    Args:
        tokens: some of a file, ``(n,)``.
        what: holds them.

    Raises:
        ValueError: if they are.
    """
    if len(tokens) < _FEWEST:
        return
    kind = tokens.dtype.name
    if _unlike(tokens[::2], tokens[1::2]):
        raise ValueError(
            f"{what} holds wider numbers than {kind}, of which every second one would be the upper half: say --dtype "
            "uint32, or convert it if these are wider still."
        )
    if kind == "uint32" and tokens.any() and not _unlike(tokens & 0xFFFF, tokens >> 16):
        raise ValueError(
            f"{what} holds narrower numbers than {kind}, of which each one would be two: say --dtype uint16."
        )


def _unlike(one: NDArray[np.integer], other: NDArray[np.integer]) -> bool:
    """Whether one row has much larger numbers than the other."""
    less, more = sorted((int(one.max()), int(other.max())))
    return less * _UNLIKE < more

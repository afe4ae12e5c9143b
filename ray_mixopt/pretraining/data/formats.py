"""What a file of documents is: its first bytes say it, and its name where they do not.

Text of any kind is taken; what is neither that nor a known table is refused by name, rather than read as text.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import json
import lzma
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import zstandard

from ray_mixopt.core.safety import Unpacked

TEXT_NAMES = (".txt", ".md")
_JSONL_NAMES = (".jsonl", ".ndjson", ".jsonlines", ".json")
_CSV_NAMES = {".csv": ",", ".tsv": "\t"}
_TABLE_NAMES = (".parquet", ".arrow")
_PACKED_NAMES = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd", ".bz2": "bzip2", ".xz": "xz"}
_TOKEN_NAMES = (".bin", ".idx", ".npy", ".npz", ".ds")
_PICKLE_NAMES = (".pkl", ".pickle", ".pt", ".pth")  # old ones are text
_HEAD = 2**16  # bytes looked at
_PIECE = 2**11  # bytes of zstd unpacked together: at the very most they become 64 MiB
_NUL_HEAD = 8000  # of them, where a NUL means that it is no text, as Git has it
_MOST_WRONG = 0.01  # of the head's bytes may be no UTF-8; more is another encoding
_CONVERT = "convert it to JSONL, Parquet or text"
_FOREIGN = (
    (b"\x93NUMPY", "an array of NumPy", "token files are taken with --in-place"),
    (b"MMIDIDX\0", "an index of Megatron", "token files are taken with --in-place"),
    (b"PK\x03\x04", "a zip archive", "unpack it"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it"),
    (b"Rar!", "a rar archive", "unpack it"),
    (b"\x04\x22\x4d\x18", "lz4", "unpack it"),
    (b"\xff\x06\0\0sNaPpY", "snappy", "unpack it"),
    (b"\x1f\x9d", "the output of compress", "unpack it"),
    (b"%PDF", "a PDF", _CONVERT),
    (b"WARC/", "a WARC archive", _CONVERT),
)
_BOMS = (  # longer ones first: one begins like another
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_OBJECT = re.compile(r"\{\s*\"")
_ARRAY = re.compile(r"\[\s*\{\s*\"")

Kind = Literal["jsonl", "csv", "parquet", "arrow stream", "arrow file", "text"]


@dataclass(frozen=True, kw_only=True)
class Format:
    """How to read a file.

    Args:
        kind: of its contents.
        packed: how it is compressed, if it is.
        encoding: of its text.
        delimiter: between the cells of a CSV file.
    """

    kind: Kind
    packed: str | None = None
    encoding: str = "utf-8"
    delimiter: str = ","


def is_known(path: Path) -> bool:
    """Whether the name is that of a file of documents; other text is taken only where it is named itself."""
    return _suffix(path) in (*_JSONL_NAMES, *_CSV_NAMES, *_TABLE_NAMES, *TEXT_NAMES)


def is_table(path: Path) -> bool:
    """Whether the name is that of a file with many documents, rather than of one text."""
    return is_known(path) and _suffix(path) not in TEXT_NAMES


def stem(path: Path) -> str:
    """The name without its ends, in small letters."""
    return _plain(path).stem.lower()


def recognise(path: Path) -> Format:
    """How to read a file.

    Args:
        path: of the file.

    Raises:
        ValueError: if it holds something else than documents, or is not what its name says.
        OSError: if it cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD)
    packed, named = _packed(head), _PACKED_NAMES.get(path.suffix.lower())
    if named is not None and packed != named:
        raise ValueError(f"{path} cannot be read: its name says {named}, its first bytes do not.")
    if packed is not None:
        with unpacked(path, packed) as file:
            head = file.read(_HEAD)
    suffix = _suffix(path)
    if head.startswith(b"PAR1") or suffix == ".parquet":
        kind: Kind = "parquet"
    elif head.startswith(b"ARROW1") or suffix == ".arrow":
        kind = "arrow file" if head.startswith(b"ARROW1") else "arrow stream"
    else:
        encoding = _encoding(path, head)
        is_json = suffix in _JSONL_NAMES
        if suffix not in (*_JSONL_NAMES, *TEXT_NAMES, *_CSV_NAMES):
            is_json = _begins_as_json(head.decode(encoding, "ignore"), whole=len(head) < _HEAD)
        if is_json:
            return Format(kind="jsonl", packed=packed, encoding=encoding)
        kind = "csv" if suffix in _CSV_NAMES else "text"
        return Format(kind=kind, packed=packed, encoding=encoding, delimiter=_CSV_NAMES.get(suffix, ","))
    if packed is not None:
        raise ValueError(f"{path} holds a table within {packed}: unpack it.")
    return Format(kind=kind)


def unpacked(path: Path, packed: str | None) -> IO[bytes]:
    """The bytes of a file; reading one that ends early raises ``EOFError``."""
    file = path.open("rb")
    if packed is None:
        return file
    openers: dict[str, Callable[[Any], Any]] = {"gzip": _gzip, "bzip2": _bzip2, "xz": _xz, "zstd": _Zstd}
    return io.BufferedReader(Unpacked(path, openers[packed](file), file), _HEAD)


def _gzip(file: IO[bytes]) -> gzip.GzipFile:
    return gzip.GzipFile(fileobj=file)


def _bzip2(file: IO[bytes]) -> io.RawIOBase:
    return _Streams(file, bz2.BZ2Decompressor)


def _xz(file: IO[bytes]) -> io.RawIOBase:
    return _Streams(file, lzma.LZMADecompressor)


class _Streams(io.RawIOBase):
    """All streams of a bzip2 or xz file. The library's own readers take what stands behind one for its end."""

    def __init__(self, file: IO[bytes], make: Callable[[], Any]) -> None:
        self._file, self._make = file, make
        self._stream, self._begun = make(), False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while True:
            packed = b""
            if self._stream.eof:
                packed = self._stream.unused_data
                self._stream, self._begun = self._make(), False
            if not self._begun and self._make is lzma.LZMADecompressor:
                packed = packed.lstrip(b"\0")  # streams of xz may be padded
            if not packed and self._stream.needs_input:
                packed = self._file.read(_PIECE)
                if not packed and self._begun:
                    raise EOFError("it ends within a stream")
                if not packed:
                    return 0
                if not self._begun and self._make is lzma.LZMADecompressor and not (packed := packed.lstrip(b"\0")):
                    continue
            unpacked = self._stream.decompress(packed, len(buffer))
            self._begun = True
            if unpacked:
                buffer[: len(unpacked)] = unpacked
                return len(unpacked)

    def close(self) -> None:
        self._file.close()
        super().close()


class _Zstd(io.RawIOBase):
    """All frames of a zstd file. The library's own reader takes one that ends early for a whole one."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._begun = False
        self._waiting = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._waiting:
            packed = self._frame.unused_data if self._frame.eof else b""
            if self._frame.eof:
                self._frame, self._begun = zstandard.ZstdDecompressor().decompressobj(), False
            packed = packed or self._file.read(_PIECE)
            if not packed:
                if self._begun:
                    raise EOFError("it ends within a frame")
                return 0
            self._waiting, self._begun = memoryview(self._frame.decompress(packed)), True
        n = min(len(buffer), len(self._waiting))
        buffer[:n], self._waiting = self._waiting[:n], self._waiting[n:]
        return n

    def close(self) -> None:
        self._file.close()
        super().close()


def _plain(path: Path) -> Path:
    """The path without the end of its name that says how it is compressed."""
    return path.with_suffix("") if path.suffix.lower() in _PACKED_NAMES else path


def _suffix(path: Path) -> str:
    """The end of the name that says what the contents are, in small letters."""
    return _plain(path).suffix.lower()


def _packed(head: bytes) -> str | None:
    if head.startswith(b"\x1f\x8b"):
        return "gzip"
    if head.startswith(b"\x28\xb5\x2f\xfd") or re.match(rb"[\x50-\x5f]\x2a\x4d\x18", head):  # a frame to skip
        return "zstd"
    if re.match(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)", head):
        return "bzip2"
    return "xz" if head.startswith(b"\xfd7zXZ\0") else None


def _encoding(path: Path, head: bytes) -> str:
    """The encoding of text that begins so.

    Raises:
        ValueError: if it is no text.
    """
    for magic, what, remedy in _FOREIGN:
        if head.startswith(magic):
            raise ValueError(f"{path} holds {what}, no documents: {remedy}.")
    if _suffix(path) in _TOKEN_NAMES:
        raise ValueError(f"{path} holds tokens by its name, no documents: token files are taken with --in-place.")
    if _suffix(path) in _PICKLE_NAMES:
        raise ValueError(f"{path} is a pickle by its name, no documents: {_CONVERT}.")
    for mark, encoding in _BOMS:
        if head.startswith(mark):
            return encoding
    if b"\0" in head[:_NUL_HEAD]:
        raise ValueError(
            f"{path} holds binary data, or UTF-16 without its mark, but no text: {_CONVERT}. Compressed files end with "
            f"{', '.join(_PACKED_NAMES)}; token files are taken with --in-place."
        )
    begun = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode(head)
    wrong = sum("\udc80" <= character <= "\udcff" for character in begun) if not begun.isascii() else 0
    if wrong > _MOST_WRONG * len(head):
        raise ValueError(
            f"{path} is not UTF-8, which {wrong / len(head):.0%} of its first bytes do not fit: convert it, for "
            "instance with iconv."
        )
    return "utf-8"


def _begins_as_json(text: str, *, whole: bool) -> bool:
    """Whether a file is JSON lines, or an array, as those of Spark, whose names do not say; which rows, is not asked.

    An object alone does not tell, where something else follows: text may begin with one, and a program with a brace.

    Args:
        text: its beginning.
        whole: whether that is all of it.
    """
    text = text.lstrip("\ufeff \t\r\n")
    if _ARRAY.match(text):
        return True
    first, _, rest = text.partition("\n")
    if not _OBJECT.match(first):
        return False
    if not rest and not whole:  # a line longer than what is looked at
        return True
    second = rest.lstrip("\ufeff \t\r\n")
    if second:
        return _OBJECT.match(second) is not None
    try:
        return isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False

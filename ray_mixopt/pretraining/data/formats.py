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
_SHORT = 2**10  # bytes of a file that only says where another one is, at most
_FOREIGN = (  # what no text begins with
    (rb"\x93NUMPY", "an array of NumPy", "token files are taken with --in-place"),
    (rb"MMIDIDX\0", "an index of Megatron", "token files are taken with --in-place"),
    (rb"PK\x03\x04", "a zip archive", "unpack it"),
    (rb"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it"),
    (rb"Rar!\x1a\x07", "a rar archive", "unpack it"),
    (rb"\x1f\x8b\x08", "gzip", "unpack it"),
    (rb"\x28\xb5\x2f\xfd", "zstd", "unpack it"),
    (rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)", "bzip2", "unpack it"),
    (rb"\xfd7zXZ\0", "xz", "unpack it"),
    (rb"\x04\x22\x4d\x18", "lz4", "unpack it"),
    (rb"\xff\x06\0\0sNaPpY", "snappy", "unpack it"),
    (rb"\x1f\x9d", "the output of compress", "unpack it"),
    (rb"%PDF-", "a PDF", _CONVERT),
    (rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old document of Office", _CONVERT),
    (rb"SQLite format 3\0", "a database of SQLite", _CONVERT),
    (rb"\x89HDF\r\n", "HDF5", _CONVERT),
    (rb"Obj\x01", "Avro", _CONVERT),
    (rb"ORC[\0-\x1f]", "ORC", _CONVERT),
    (rb"\x89PNG\r\n|\xff\xd8\xff|GIF8[79]a|RIFF.{4}WEBP|BM.{4}\0{4}|II\x2a\0|MM\0\x2a", "an image", "leave it out"),
    (rb"RIFF.{4}WAVE|OggS\0|fLaC\0|ID3[\x02-\x04]\0|\0\0\0.ftyp", "sound or a film", "leave it out"),
    (rb"\x7fELF|MZ.\0", "a program", "leave it out"),
)
_FOREIGN_TEXT = (  # a file that begins so holds no documents, though one of its documents may
    (rb"WARC/\d", "a WARC archive", _CONVERT),
    (rb"\{\\rtf\d", "RTF, a format of word processors", _CONVERT),
    (rb"%!PS-", "PostScript", _CONVERT),
)
_POINTER = re.compile(
    rb"version https://[\w.-]+/spec/v\d+\n(?:ext-.*\n)*oid sha256:|(?:\.\./)*\.?/?(?:git/)?annex/objects/"
)
_ESCAPES = re.compile(rb"\x1b(?:\$[@AB]|\$\([CD]|\$\)[ACG]|\([IJ])")  # of ISO 2022: "from here on, two bytes each"
_SHIFTS = re.compile(rb"\+[A-Za-z0-9+/]{3,}")  # of UTF-7: "from here on, UTF-16 in base64"
_MANY_SHIFTS = 3
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
    if len(head) <= _SHORT and _POINTER.match(head):
        raise ValueError(
            f"{path} holds no documents, but says where they are, as Git LFS or git-annex has it: fetch the file "
            "itself with `git lfs pull` or `git annex get`."
        )
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
    _refuse_foreign(f"{path}", head, (*_FOREIGN, *_FOREIGN_TEXT))
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
    if (wrong := _wrong(head)) > _MOST_WRONG:
        raise ValueError(
            f"{path} is not UTF-8, which {wrong:.0%} of its first bytes do not fit: convert it, for instance with "
            "iconv."
        )
    if (other := _seven_bits(head)) is not None:
        raise ValueError(f"{path} is {other}, not UTF-8: convert it, for instance with iconv.")
    return "utf-8"


class Cells:
    """Looks at the first cells of a column of text, or bytes, as ``recognise`` does at a file.

    Args:
        column: its name, to begin an error with.
    """

    def __init__(self, column: str) -> None:
        self._column, self._head, self._looks = column, bytearray(), True

    def look(self, cell: bytes) -> None:
        """Takes the next cell. Raises ValueError if there is no text in this one or in those so far."""
        if self._looks:
            _refuse_foreign(self._column, cell, _FOREIGN)
            self._head += cell[:_HEAD]
            if len(self._head) >= _HEAD:
                self.end()

    def end(self) -> None:
        """There are no more. Raises ValueError if they hold no UTF-8."""
        head, self._looks = bytes(self._head), False
        wrong = _wrong(head) + head.count(b"\0") / max(len(head), 1)
        if wrong > _MOST_WRONG:
            raise ValueError(
                f"{self._column} holds bytes that are not UTF-8, which {wrong:.0%} of the first ones do not fit: "
                "write the column as text."
            )
        if (other := _seven_bits(head)) is not None:
            raise ValueError(f"{self._column} is {other}, not UTF-8: write the column as text.")


def _refuse_foreign(name: str, head: bytes, kinds: tuple[tuple[bytes, str, str], ...]) -> None:
    """Raises ValueError if bytes begin as those of something else than text."""
    for magic, what, remedy in kinds:
        if re.match(magic, head, re.DOTALL):
            raise ValueError(f"{name} holds {what}, no documents: {remedy}.")


def _wrong(head: bytes) -> float:
    """The share of bytes that are no UTF-8."""
    begun = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode(head)
    wrong = sum("\udc80" <= character <= "\udcff" for character in begun) if not begun.isascii() else 0
    return wrong / max(len(head), 1)


def _seven_bits(head: bytes) -> str | None:
    """The encoding of bytes that look like ASCII, and write other characters with it; None where it is none."""
    if not head.isascii():
        return None
    if _ESCAPES.search(head):
        return "ISO 2022 (as ISO-2022-JP)"
    if len(_SHIFTS.findall(head)) >= _MANY_SHIFTS:
        try:  # hardly any other text is: "a+b" is not
            codecs.getincrementaldecoder("utf-7")().decode(head)
        except UnicodeDecodeError:
            return None
        return "UTF-7"
    return None


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

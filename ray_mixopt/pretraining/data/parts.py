"""Parts of large files of documents, so that several workers can read one file.

What the parts are follows from the file and the wanted size alone: their documents one after another are those of the
file, whoever reads them.
"""

from __future__ import annotations

import contextlib
import csv
import io
import lzma
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from ray_mixopt.pretraining.data.formats import Format, recognise

DAMAGE = (OSError, EOFError, pa.ArrowException, csv.Error, zstandard.ZstdError, lzma.LZMAError, zlib.error)
"""What reading a damaged file raises."""

_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"  # of Arrow's streams
_PIECE = 2**20  # bytes of a long line that are looked at together


@dataclass(frozen=True, kw_only=True)
class Part:
    """A file, or a part of it.

    Args:
        path: of the file.
        size: of the part, in bytes; of a table about that.
        start: where the part begins: a byte of JSON lines, a row group of Parquet, a batch of Arrow.
        stop: where it ends; None at the end of the file.
    """

    path: Path
    size: int
    start: int = 0
    stop: int | None = None

    @classmethod
    def whole(cls, path: Path) -> Part:
        """All of a file."""
        return cls(path=path, size=path.stat().st_size)


def cut(path: Path, most_bytes: int) -> list[Part]:
    """A file in parts of about ``most_bytes``, whose documents one after another are those of the file.

    JSON lines in UTF-8 are cut between lines, Parquet between row groups, Arrow between batches. What is compressed,
    CSV, whose cells may hold ends of lines, and text stay whole; so do files that ``read`` will have to refuse.
    """
    whole = Part.whole(path)
    if whole.size <= most_bytes:
        return [whole]
    try:
        borders = _borders(path, recognise(path), most_bytes)
    except (ValueError, *DAMAGE):
        return [whole]
    ends: list[tuple[int | None, int]] = [*borders[1:], (None, whole.size)]
    return [
        Part(path=path, size=after - before, start=start, stop=stop)
        for (start, before), (stop, after) in zip(borders, ends, strict=True)
    ]


def _borders(path: Path, form: Format, most_bytes: int) -> list[tuple[int, int]]:
    """Where the parts of a file begin: the place as ``Part.start`` has it, and the bytes before it, about."""
    size, borders = path.stat().st_size, [(0, 0)]
    if form.kind == "jsonl" and form.packed is None and form.encoding == "utf-8":
        with path.open("rb") as file:
            while (ahead := borders[-1][1] + most_bytes) < size:
                file.seek(ahead)
                while (piece := file.readline(_PIECE)) and not piece.endswith(b"\n"):
                    pass
                if (place := file.tell()) >= size:
                    break
                borders.append((place, place))
        return borders
    if form.kind == "parquet":
        metadata = pq.read_metadata(path)
        groups = (metadata.row_group(number) for number in range(metadata.num_row_groups))
        weights = [sum(group.column(k).total_compressed_size for k in range(group.num_columns)) for group in groups]
    elif form.kind.startswith("arrow"):
        with arrow_batches(path, stream=form.kind == "arrow stream") as (_, batches):
            weights = [batch.nbytes for batch in batches]
    else:
        return [(0, 0)]
    before, total = 0.0, max(sum(weights), 1)
    for number, weight in enumerate(weights):
        if before - borders[-1][1] >= most_bytes:
            borders.append((number, round(before)))
        before += size * weight / total
    return borders


class Stretch(io.RawIOBase):
    """Some of the bytes of a file, which it closes.

    Args:
        file: that can be sought in.
        start: the first byte.
        stop: the first one that is not read; None for all.
    """

    def __init__(self, file: IO[bytes], start: int, stop: int | None) -> None:
        self._file, self._left = file, stop - start if stop is not None else None
        file.seek(start)

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Reads into a buffer, and returns how many bytes."""
        content = self._file.read(len(buffer) if self._left is None else min(len(buffer), self._left))
        buffer[: len(content)] = content
        if self._left is not None:
            self._left -= len(content)
        return len(content)

    def close(self) -> None:
        """Closes the file, too."""
        self._file.close()
        super().close()


@contextlib.contextmanager
def arrow_batches(path: Path, *, stream: bool) -> Iterator[tuple[pa.Schema, Iterable[pa.RecordBatch]]]:
    """The schema and the batches of a file, which stay on the disk until their bytes are looked at."""
    with pa.memory_map(str(path)) as source:
        if stream:
            ends = source.size() >= len(_END_OF_STREAM) and source.read_at(len(_END_OF_STREAM), source.size() - 8)
            if ends != _END_OF_STREAM:
                raise EOFError("it lacks the end of a stream of Arrow")
        with (pa.ipc.open_stream if stream else pa.ipc.open_file)(source) as table:
            yield table.schema, table if stream else map(table.get_batch, range(table.num_record_batches))

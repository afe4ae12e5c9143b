"""Documents from files: JSON lines (plain, .gz, .zst), Parquet, Arrow as Hugging Face ``datasets`` writes it, text."""

from __future__ import annotations

import glob
import gzip
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

MAX_TEXT = 2**20  # characters; longer text files become several documents
MAX_LINE = 2**28  # characters of one line of JSON

_JSONL = (".jsonl", ".ndjson", ".json")
_PACKED = (".gz", ".zst")
_TABLES = (".parquet", ".arrow")


def find(sources: Sequence[str]) -> list[Path]:
    """The files that hold documents, sorted, each once.

    Args:
        sources: files, patterns such as ``data/*.jsonl``, and folders, which are searched all through; of a folder
            only files of the formats above are taken, and of those that end otherwise only ``.txt`` and ``.md``.

    Raises:
        ValueError: if a source has no files.
    """
    files: set[Path] = set()
    for source in sources:
        path = Path(source)
        if path.is_dir():
            found = [file for file in path.rglob("*") if file.is_file() and _is_known(file)]
        else:
            found = [path] if path.is_file() else [Path(name) for name in glob.glob(source, recursive=True)]
            found = [file for file in found if file.is_file()]
        if not found:
            raise ValueError(
                f"{source} has no documents: give JSONL (.gz, .zst), Parquet, text, or a saved `datasets` folder."
            )
        files.update(found)
    return sorted(files)


def read(path: Path, field: str = "text") -> Iterator[str]:
    """The documents of a file that are not blank.

    Args:
        path: of the file; its name says the format, anything unknown is text.
        field: of a JSON object, or column of a table, that holds the text.

    Raises:
        ValueError: if the file cannot be read as what it seems to be, with the line where that helps.
    """
    kind = path.with_suffix("").suffix if path.suffix in _PACKED else path.suffix
    try:
        if path.suffix in _TABLES:
            documents = _read_table(path, field)
        elif kind in _JSONL:
            documents = _read_jsonl(path, field)
        else:
            documents = _read_text(path)
        for document in documents:
            if document.strip():
                yield document
    except (OSError, EOFError, pa.ArrowException, zstandard.ZstdError) as error:
        raise ValueError(f"{path} cannot be read: {error}.") from error


def _is_known(path: Path) -> bool:
    kind = path.with_suffix("").suffix if path.suffix in _PACKED else path.suffix
    helper = path.name.startswith(("cache-", ".", "_")) or path.name in ("dataset_info.json", "dataset_dict.json")
    return not helper and path.name != "state.json" and kind in (*_JSONL, *_TABLES, ".txt", ".md")


def _open(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", errors="replace")
    if path.suffix == ".zst":
        stream = zstandard.ZstdDecompressor().stream_reader(path.open("rb"), closefd=True, read_across_frames=True)
        return io.TextIOWrapper(stream, encoding="utf-8", errors="replace")
    return path.open(encoding="utf-8", errors="replace")


def _read_text(path: Path) -> Iterator[str]:
    with _open(path) as file:
        while text := file.read(MAX_TEXT):
            yield text + file.readline(MAX_TEXT)


def _read_jsonl(path: Path, field: str) -> Iterator[str]:
    with _open(path) as file:
        number = 0
        while line := file.readline(MAX_LINE):
            number += 1
            if not line.strip():
                continue
            try:
                row: Any = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{path}, line {number}, is not JSON: {error}.") from error
            if not isinstance(row, dict) or not isinstance(row.get(field), str):
                found = sorted(row)[:10] if isinstance(row, dict) else type(row).__name__
                raise ValueError(f"{path}, line {number}, has no text under {field!r}: it has {found}; see --field.")
            yield row[field]


def _read_table(path: Path, field: str) -> Iterator[str]:
    batches: Iterator[pa.RecordBatch]
    if path.suffix == ".parquet":
        with pq.ParquetFile(path) as table:
            _check_column(path, field, table.schema_arrow.names)
            batches = table.iter_batches(batch_size=1024, columns=[field])
            yield from _rows(batches, field)
    else:
        with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as stream:
            _check_column(path, field, stream.schema.names)
            yield from _rows(iter(stream), field)


def _rows(batches: Iterator[pa.RecordBatch], field: str) -> Iterator[str]:
    for batch in batches:
        for value in batch.column(batch.schema.names.index(field)):
            text = value.as_py()
            if text is not None:
                yield str(text)


def _check_column(path: Path, field: str, names: list[str]) -> None:
    if field not in names:
        raise ValueError(f"{path} has no column {field!r}: it has {', '.join(names)}; see --field.")

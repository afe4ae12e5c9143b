"""Documents from files: JSON lines, CSV, Parquet, Arrow as Hugging Face ``datasets`` writes it, text; also compressed.

What is odd about documents is counted, and put right, left out or refused: see ``OnError`` and ``ODDITIES``.
"""

from __future__ import annotations

import csv
import glob
import io
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ray_mixopt.core.safety import check_count, check_unpacked
from ray_mixopt.pretraining.data.formats import Cells, Format, is_known, is_table, recognise, stem, unpacked
from ray_mixopt.pretraining.data.parts import DAMAGE, Part, Stretch, arrow_batches

MAX_TEXT = 2**20  # characters; longer text files become several documents
MAX_LINE = 2**28  # characters of one line of JSON, or cell of a CSV file
_COUNTED = 2**20  # bytes in which ends of lines are counted together

OnError = Literal["stop", "skip", "strict"]
"""What becomes of documents and files that cannot be used as they are.

"stop" refuses what cannot be read, and puts right what is only odd; "skip" leaves out both, unless nothing is lost by
putting it right; "strict" refuses both. All is counted.
"""

ODDITIES = {
    "broken": "that cannot be read, such as lines that are no JSON or end early: left out",
    "empty": "without text (null or blank): left out",
    "stray": "with bytes that are not UTF-8, or halves of characters: left out",
    "replaced": "with bytes that are not UTF-8, or halves of characters: each replaced by U+FFFD",
    "marks": "with byte order marks (U+FEFF) in the text: taken out",
}
"""What ``read`` counts documents by, and what it does with them."""

SURROGATE = re.compile("[\ud800-\udfff]")
_HELD_OUT = "(test|validation|valid|val|dev|eval)"
_SPLIT = re.compile(rf"{_HELD_OUT}(?![a-z])")  # of a DatasetDict: also "test_unseen"
_SHARD = re.compile(rf"(?:.*[-_.])?{_HELD_OUT}(?:[-_.]\d+)?(?:[-_.]of[-_.]\d+)?")


def find(sources: Sequence[str]) -> tuple[list[Path], list[str]]:
    """The files that hold documents, sorted, each once; and a sentence about each kind of file that was left out.

    Args:
        sources: files, patterns such as ``data/*.jsonl``, and folders, which are searched all through. Of a folder
            only files with the names of known formats are taken, and of those that end otherwise only ``.txt`` and
            ``.md``; parts of a published dataset that are for testing or validation stay out.

    Raises:
        ValueError: if a source has no files.
    """
    files: set[Path] = set()
    remarks: list[str] = []
    for source in sources:
        path = Path(source)
        if path.is_dir():
            found = _of_folder(path, remarks)
        else:
            found = [path] if path.is_file() else [Path(name) for name in glob.glob(source, recursive=True)]
            found = [file for file in found if file.is_file()]
        if not found:
            raise ValueError(
                f"{source} has no documents: give JSONL, CSV, Parquet or text, plain or as .gz, .zst, .bz2 or .xz, or "
                f"a saved `datasets` folder.{' ' if remarks else ''}{' '.join(remarks)}"
            )
        files.update(found)
    return sorted(files), remarks


def read(
    source: Path | Part,
    field: str = "text",
    oddities: Counter[str] | None = None,
    *,
    on_error: OnError = "stop",
    broken: list[str] | None = None,
) -> Iterator[str]:
    """The documents of a file, or of a part of it, that are not blank, as text that can be encoded.

    Args:
        source: what to read; see ``formats.recognise``.
        field: of a JSON object, or column of a table, that holds the text.
        oddities: counts documents by the keys of ``ODDITIES``.
        on_error: what becomes of what cannot be used as it is.
        broken: takes a sentence about a file that cannot be read, or only up to some place, if such are left out.

    Raises:
        ValueError: if the file cannot be read as what it seems to be, with the line where that helps.
    """
    counts: Counter[str] = Counter() if oddities is None else oddities
    part = source if isinstance(source, Part) else Part.whole(source)
    try:
        yield from _read(part, field, counts, on_error)
    except ValueError as error:
        if on_error != "skip":
            raise
        if broken is not None:
            broken.append(str(error))


def _read(part: Part, field: str, counts: Counter[str], on_error: OnError) -> Iterator[str]:
    path, n_read = part.path, 0
    try:
        form = recognise(path)
        packs_rows = form.kind == "parquet" or form.kind.startswith("arrow")  # any number of rows may have one text
        for number, document in enumerate(_documents(part, form, field), start=1):
            if isinstance(document, _Broken):
                if on_error != "skip":
                    raise ValueError(document.why)
                counts["broken"] += 1
                continue
            n_read += len(document or "")
            if packs_rows:
                check_unpacked(path, n_read, path.stat().st_size)
            text = _put_right(document or "", found := set(), on_error)
            if not text.strip() and "stray" not in found:
                found.add("empty")
            if found and on_error == "strict":
                after = f" after {part.start:,}" if part.start else ""
                what = ODDITIES[min(found)].partition(":")[0]
                raise ValueError(
                    f"{path} has, as number {number:,}{after}, a document {what}: mend it, or drop --on-error strict."
                )
            counts.update(found)
            if not found & {"empty", "stray"}:
                yield text
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} cannot be read: its {error.encoding} ends early or is damaged.") from error
    except DAMAGE as error:
        raise ValueError(f"{path} cannot be read: {' '.join(str(error).split()).rstrip('.')}.") from error


def _of_folder(folder: Path, remarks: list[str]) -> list[Path]:
    """Files of documents below a folder."""
    found: list[Path] = []
    splits: Counter[str] = Counter()
    others: Counter[str] = Counter()
    for file in folder.rglob("*"):
        inner = file.relative_to(folder)
        if not file.is_file() or _is_helper(inner):
            continue
        if not is_known(file):
            others[file.suffix.lower() or "no suffix"] += 1
        elif (split := _held_out(file, inner)) is not None:
            splits[split] += 1
        else:
            found.append(file)
    for counts, what in ((splits, "parts of published data to test or validate with"), (others, "other formats")):
        if counts:
            shown = ", ".join(f"{name} ({n})" for name, n in counts.most_common(10))
            remarks.append(f"{folder}: files left out as {what}: {shown}; name those to take.")
    return found


def _is_helper(inner: Path) -> bool:
    hidden = any(part.startswith(".") for part in inner.parts)
    names = ("dataset_info.json", "dataset_dict.json", "state.json")
    return hidden or inner.name.startswith(("cache-", "_")) or inner.name in names


def _held_out(file: Path, inner: Path) -> str | None:
    """The split that a file of a dataset is of, if that is none to train on."""
    if not is_table(file):
        return None
    for name, folder in zip(inner.parts[:-1], reversed(file.parents[: len(inner.parts) - 1]), strict=True):
        is_dict = (folder.parent / "dataset_dict.json").is_file()
        if match := _SPLIT.match(name) if is_dict else re.fullmatch(_HELD_OUT, name):
            return match[1]
    shard = _SHARD.fullmatch(stem(file))
    return shard and shard[1]


@dataclass(frozen=True)
class _Broken:
    """Stands in the place of a document that cannot be read; ``why`` is a sentence."""

    why: str


_Document = str | None | _Broken


def _documents(part: Part, form: Format, field: str) -> Iterator[_Document]:
    """What stands in the place of each document."""
    path = part.path
    if form.kind == "parquet":
        yield from _read_parquet(part, field)
    elif form.kind.startswith("arrow"):
        yield from _read_arrow(part, field, stream=form.kind == "arrow stream")
    else:
        # Bytes that are not UTF-8 come as halves of characters, which are counted where they are replaced.
        errors = "surrogateescape" if form.encoding == "utf-8" else "surrogatepass"
        newline = "" if form.kind == "csv" else None
        content: IO[bytes] = unpacked(path, form.packed)
        if part.start or part.stop is not None:
            content = io.BufferedReader(Stretch(content, part.start, part.stop))
        with io.TextIOWrapper(content, form.encoding, errors, newline) as file:
            if form.kind == "jsonl":
                yield from _read_jsonl(part, file, field)
            elif form.kind == "csv":
                yield from _read_csv(path, file, field, form.delimiter)
            else:
                while text := file.read(MAX_TEXT):
                    yield text + file.readline(MAX_TEXT)


def _read_jsonl(part: Part, file: io.TextIOWrapper, field: str) -> Iterator[_Document]:
    number = n_rows = 0

    def broken(what: str) -> _Broken:
        with part.path.open("rb") as whole:  # only now, since it takes time
            before = sum(
                whole.read(min(_COUNTED, part.start - at)).count(b"\n") for at in range(0, part.start, _COUNTED)
            )
        return _Broken(f"{part.path}, line {before + number}, {what}.")

    while line := file.readline(MAX_LINE):
        number += 1
        line = line.strip("\ufeff \t\r\n")  # files that were put together have marks in mid-file
        if not line:
            continue
        n_rows += 1
        if n_rows == 1 and part.start == 0 and line[0] == "[":
            raise ValueError(f"{part.path} holds a JSON array: write one object a line.")
        try:
            row: Any = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield broken(f"is not JSON: {error}")
            continue
        if not isinstance(row, dict) or field not in row:
            found = sorted(row)[:10] if isinstance(row, dict) else type(row).__name__
            yield broken(f"has no text under {field!r}: it has {found}; see --field")
        elif not isinstance(row[field], str | None):
            yield broken(f"has {type(row[field]).__name__} under {field!r}, no text; see --field")
        else:
            yield row[field]


def _read_csv(path: Path, file: io.TextIOWrapper, field: str, delimiter: str) -> Iterator[_Document]:
    csv.field_size_limit(MAX_LINE)
    rows = csv.reader(file, delimiter=delimiter, strict=True)
    names = [name.strip("\ufeff ") for name in next(rows, [])]
    _check_column(path, field, names)
    place = names.index(field)
    for row in rows:
        if row and len(row) != len(names):
            yield _Broken(f"{path}, line {rows.line_num}, has {len(row)} cells, and the header {len(names)}.")
        elif row:
            yield row[place]


def _read_parquet(part: Part, field: str) -> Iterator[str | None]:
    path, schema = part.path, pq.read_schema(part.path)
    _check_column(path, field, schema.names)
    _check_type(path, field, schema.field(field).type)
    with pq.ParquetFile(path, read_dictionary=[field]) as table:
        # Rows of less than a byte hold the same text again and again, or none.
        check_count(path, table.metadata.num_rows, max(2**20, path.stat().st_size), "rows")
        cells = Cells(f"The column {field!r} of {path}")
        stop = table.num_row_groups if part.stop is None else part.stop
        groups = range(part.start, stop) if stop else None
        for batch in table.iter_batches(batch_size=1024, columns=[field], row_groups=groups):
            yield from _texts(batch.column(0), cells)
        cells.end()


def _read_arrow(part: Part, field: str, *, stream: bool) -> Iterator[str | None]:
    path = part.path
    with arrow_batches(path, stream=stream) as (schema, batches):
        _check_column(path, field, schema.names)
        _check_type(path, field, schema.field(field).type)
        n_rows, cells = 0, Cells(f"The column {field!r} of {path}")
        for batch in itertools.islice(batches, part.start, part.stop):
            n_rows += batch.num_rows
            check_count(path, n_rows, max(2**20, path.stat().st_size), "rows")
            yield from _texts(batch.column(batch.schema.names.index(field)), cells)
        cells.end()


def _texts(column: pa.Array, cells: Cells) -> Iterator[str | None]:
    """The text of each row: as bytes, since what is written as text may be no UTF-8 after all."""
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = column.view(pa.binary() if pa.types.is_string(column.type) else pa.large_binary())
    if pa.types.is_dictionary(column.type):
        words, places = list(_texts(column.dictionary, cells)), column.indices
        places.validate(full=True)
        if len(places) > places.null_count and not 0 <= pc.min(places).as_py() <= pc.max(places).as_py() < len(words):
            raise pa.ArrowInvalid("a row has the number of a text that is not there")
        yield from (None if place is None else words[place] for place in places.to_pylist())
        return
    column.validate(full=True)  # a damaged file may say that a text lies beyond the memory it has
    for value in column.cast(pa.large_binary()).to_pylist():
        if value is not None:
            cells.look(value)
        yield None if value is None else value.decode("utf-8", "surrogateescape")


def _check_column(path: Path, field: str, names: list[str]) -> None:
    if field not in names:
        raise ValueError(f"{path} has no column {field!r}: it has {', '.join(names) or 'none'}; see --field.")
    if names.count(field) > 1:
        raise ValueError(f"{path} has the column {field!r} twice.")


def _check_type(path: Path, field: str, kind: pa.DataType) -> None:
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    checks = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    views = (pa.types.is_string_view, pa.types.is_binary_view, pa.types.is_null)
    if not any(check(plain) for check in (*checks, *views)):
        raise ValueError(f"The column {field!r} of {path} holds {kind}, no text; see --field.")


def _put_right(text: str, found: set[str], on_error: OnError) -> str:
    """The text without what no tokenizer can take, or should; ``found`` takes the keys of ``ODDITIES``."""
    if text.isascii():
        return text
    if "\ufeff" in text.removeprefix("\ufeff"):
        found.add("marks")
    text = text.replace("\ufeff", "")  # one at the beginning is an encoding's mark, no text
    try:
        text.encode()
    except UnicodeEncodeError:
        found.add("replaced" if on_error == "stop" else "stray")
        text = SURROGATE.sub("\ufffd", text)
    return text

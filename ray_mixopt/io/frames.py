"""Tables in files as data frames of cells, with limits on how much is read: the files may be anyone's.

CSV with any delimiter, JSON lines or a JSON list of objects, each of them packed with gzip or not, and Parquet.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ray_mixopt.core.safety import MiB, TooMuchError, Unpacked, check_count, check_size, parse_json
from ray_mixopt.core.words import counted
from ray_mixopt.io.cells import unguarded
from ray_mixopt.io.numerals import Notation, is_missing, notation
from ray_mixopt.io.table import NoRowsError, Table

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

MOST_BYTES = 256 * MiB
MOST_ROWS = 200_000  # ten times what searches are tried with
MOST_CELLS = 10_000_000
CSV, LINES, PARQUET = (".csv", ".tsv", ".txt"), (".jsonl", ".ndjson", ".json"), (".parquet",)
_DELIMITERS = ",\t;|"  # a comma, if nothing speaks against it
_SAMPLE = 2**16  # characters, of which the delimiter is told
_QUOTES = "A cell that holds the sign between cells, or a quote, is to be in quotes, and these are to be closed"
_SEP_LINE = re.compile(r"sep=(.)\r?\n", re.IGNORECASE)  # what Excel puts on top of a file, and reads
_GZIP = b"\x1f\x8b"
_NO_INDEX = re.compile(r"__index_level_\d+__")  # one without a name, which only counts
_COUNTS = re.compile(r"Unnamed: \d+|")  # the first column, if it does
_NAMES = ("run", "run_id", "name", "scale", "index")  # columns of text


def table_of(path: Path) -> Table:
    """The file as it is. The cells of a CSV file stay text.

    Raises:
        TooMuchError: for more bytes, rows or cells than are read; it is known within a second.
        ValueError: for a file that is empty, malformed or has a column twice.
    """
    check_size(path.name, path.stat().st_size, MOST_BYTES)
    kind = suffix(path)
    try:
        if kind in PARQUET:
            frame = _read_parquet(path)
        elif kind in LINES:
            frame = _read_json(path.name, _text(path))
        else:
            frame = _read_csv(path.name, _text(path))
    except TooMuchError:
        raise
    except (UnicodeDecodeError, OSError, ValueError) as error:
        raise ValueError(f"{path.name} is empty or malformed: {str(error).strip().rstrip('.')}.") from error
    return as_table(path.name, frame, is_csv=kind not in (*PARQUET, *LINES))


def as_table(name: str, frame: pd.DataFrame, *, is_csv: bool = False) -> Table:
    """The table of a frame: without rows that say nothing, and columns that only count.

    Raises:
        ValueError: if nothing is left, or a column is there twice.
    """
    blank = [all(map(is_missing, cells)) for cells in frame.to_numpy(dtype=object)]
    frame = frame.loc[~np.array(blank, dtype=bool)]
    if not len(frame):
        raise NoRowsError(f"{name} has no rows.")
    frame.columns = [str(column).strip() for column in frame.columns]
    if len(frame.columns) and _COUNTS.fullmatch(frame.columns[0]):
        frame = frame.iloc[:, 1:]
    if is_csv:
        frame = frame.rename(columns=unguarded)
    repeated = frame.columns[frame.columns.duplicated()]
    if len(repeated):
        raise ValueError(f"{name} has the column {repeated[0]!r} twice.")
    written = Notation()
    if is_csv:
        names = [column for column in _NAMES if column in frame.columns]
        frame = frame.assign(**{column: [unguarded(str(cell)) for cell in frame[column]] for column in names})
        try:
            written = notation((column, frame[column]) for column in frame.columns if column not in names)
        except ValueError as error:
            raise ValueError(f"{name} is malformed: {error}.") from error
    else:  # numbers are what they are, and of texts only those that may be in thousands matter
        texts = {column: [cell for cell in frame[column] if isinstance(cell, str)] for column in frame.columns}
        written = Notation(doubtful=frozenset(c for c, cells in texts.items() if notation([(c, cells)]).comma is None))
    return Table(name=name, frame=frame, comma=written.comma, doubtful=written.doubtful)


def suffix(path: Path) -> str:
    """What the name of a file ends with, in small letters, without that of a packed one."""
    name = path.name.lower().removesuffix(".gz")
    return Path(name).suffix


def _text(path: Path) -> str:
    """The text of a file, unpacked."""
    with path.open("rb") as file:
        packed = file.read(2) == _GZIP
        file.seek(0)
        if not packed:
            content = file.read()
        else:
            try:
                with io.BufferedReader(Unpacked(path.name, gzip.open(file), file)) as stream:  # type: ignore[arg-type]
                    content = stream.read(MOST_BYTES + 1)
            except (EOFError, zlib.error) as error:
                raise ValueError(f"the packed file ends early or is damaged: {error}") from error
            check_size(f"{path.name}, unpacked,", len(content), MOST_BYTES)
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):  # as Excel writes "Unicode text"
        return content.decode("utf-16")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8, as CSV files are to be saved: {error}") from error


# -- CSV


def _read_csv(name: str, text: str) -> pd.DataFrame:
    import pandas as pd

    first, told = 1, _SEP_LINE.match(text)
    if told:
        text, first = text[told.end() :], 2
    delimiter = told[1] if told else _delimiter(text)
    check_count(name, max(text.count("\n"), text.count("\r")), MOST_ROWS, "rows")
    check_count(name, text.count(delimiter), MOST_CELLS, "cells")
    # The header is read as a row, or pandas would rename repeated columns.
    _check_even(text, delimiter, first)
    try:
        lines = pd.read_csv(
            io.StringIO(text), sep=delimiter, header=None, dtype=str, keep_default_na=False, skip_blank_lines=False
        )
    except pd.errors.EmptyDataError:
        raise ValueError("there is nothing in it") from None
    except pd.errors.ParserError as error:
        raise ValueError(f"{error}. {_QUOTES}") from error
    frame = lines.iloc[1:].set_axis(lines.iloc[0].to_list(), axis=1)
    return frame.set_axis(pd.RangeIndex(first + 1, first + 1 + len(frame)))


def _check_even(text: str, delimiter: str, first: int) -> None:
    """Checks that each row has as many cells as the header: in one that lacks a cell the others have moved.

    Args:
        text: of the file.
        delimiter: between the cells.
        first: number of the header's row.

    Raises:
        ValueError: naming the first row that has more or fewer.
    """
    rows, header = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), 0
    try:
        for row, cells in enumerate(rows, first):
            header = header or len(cells)
            if len(cells) != header and any(cell.strip() for cell in cells):
                raise ValueError(
                    f"row {row} has {counted(len(cells), 'cell')}, and the header {header}. Every cell is to be "
                    f"written, empty ones, too. {_QUOTES}"
                )
    except csv.Error:
        return  # a cell that is too long for this reader


def _delimiter(text: str) -> str:
    """What separates the cells: of what gives the most lines the cells that the header has, what gives most of them."""
    sample = text[:_SAMPLE]
    if len(text) > _SAMPLE:
        sample = sample[: sample.rfind("\n") + 1]

    def score(candidate: str) -> tuple[int, int]:
        try:
            rows = [row for row in csv.reader(io.StringIO(sample, newline=""), delimiter=candidate) if any(row)]
        except csv.Error:
            return 0, 0
        if not rows or len(rows[0]) < 2:
            return 0, 0
        return sum(len(row) == len(rows[0]) for row in rows[1:]), len(rows[0])

    return max(_DELIMITERS, key=score)


# -- JSON


def _read_json(name: str, text: str) -> pd.DataFrame:
    """Objects, one a line or in a list; what is nested in them has names with slashes."""
    import pandas as pd

    rows: list[int] = []
    records: list[dict[str, Any]] = []
    if text.lstrip().startswith("["):
        found = parse_json(text)
        check_count(name, len(found), MOST_ROWS, "rows")
        for row, record in enumerate(found, 1):
            rows.append(row)
            records.append(flat(record, f"item {row}"))
    else:
        lines = text.splitlines() if "\r" in text else text.split("\n")
        check_count(name, len(lines), MOST_ROWS, "rows")
        for row, line in enumerate(lines, 1):
            if line.strip():
                try:
                    record = parse_json(line)
                except ValueError as error:
                    raise ValueError(f"line {row}: {error}") from error
                records.append(flat(record, f"line {row}"))
                rows.append(row)
    return frame_of(name, records).set_axis(pd.Index(rows), axis=0)


def flat(record: object, what: str) -> dict[str, Any]:
    """The single values of a nested object, by their names with slashes between the levels; lists are left out.

    Raises:
        ValueError: if it is no object, or two of its values have one name and differ; the error calls it ``what``.
    """
    if not isinstance(record, Mapping):
        raise ValueError(f"{what} is of type {type(record).__name__}, not a JSON object")
    found: dict[str, Any] = {}
    ahead = [("", record)]
    while ahead:
        before, inner = ahead.pop()
        for key, value in inner.items():
            if isinstance(value, Mapping):
                ahead.append((f"{before}{key}/", value))
            elif not isinstance(value, list):
                name = f"{before}{key}"
                if name in found and found[name] != value:
                    raise ValueError(
                        f"{what} says {name!r} twice, {found[name]!r} and {value!r}: once with a slash, and once as an "
                        "object in another"
                    )
                found[name] = value
    return found


def frame_of(name: str, records: list[dict[str, Any]]) -> pd.DataFrame:
    """Records as rows of cells, None where a record lacks a column.

    Raises:
        TooMuchError: for more rows or cells than are read.
    """
    import pandas as pd

    columns = list(dict.fromkeys(column for record in records for column in record))
    check_count(name, len(records), MOST_ROWS, "rows")
    check_count(name, len(records) * len(columns), MOST_CELLS, "cells")
    cells = {column: pd.Series([record.get(column) for record in records], dtype=object) for column in columns}
    return pd.DataFrame(cells, index=pd.RangeIndex(1, 1 + len(records)) if not columns else None)


# -- Parquet


def _read_parquet(path: Path) -> pd.DataFrame:
    """The columns of a Parquet file that hold one value a row.

    A small file may hold any number of rows, and a long text that is repeated in each of them: what it says of itself
    is looked at first, and texts are counted before they are copied.
    """
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        about, schema = file.metadata, file.schema_arrow
        leaves = [(field.name, leaf) for field in schema for leaf in _leaves(field)]
        check_count(path.name, about.num_rows, MOST_ROWS, "rows")
        check_count(path.name, about.num_rows * len(leaves), MOST_CELLS, "cells")
        groups = [about.row_group(i) for i in range(about.num_row_groups)]
        check_size(f"{path.name}, unpacked,", sum(group.total_byte_size for group in groups), MOST_BYTES)
    twice = [name for name, n in Counter(name for _, (name, _) in leaves).items() if n > 1]
    if twice := twice or [name for name, n in Counter(schema.names).items() if n > 1]:
        raise ValueError(f"it has the column {twice[0]!r} twice")
    names = list(dict.fromkeys(name for name, _ in leaves))
    texts = [name for name in names if _is_text(schema.field(name).type)]
    with pq.ParquetFile(path, read_dictionary=texts) as file:
        batches, n_rows, n_bytes = [], 0, 0
        for batch in file.iter_batches(batch_size=8192, columns=names):
            n_rows, n_bytes = n_rows + batch.num_rows, n_bytes + sum(map(_n_bytes, batch.columns))
            check_count(path.name, n_rows, MOST_ROWS, "rows")
            check_size(f"{path.name}, unpacked,", n_bytes, MOST_BYTES)
            batches.append(batch)
    if not batches:
        raise ValueError("it has no rows")
    # What pandas wrote about its types and its index is anyone's, and takes columns away: the index is a column here.
    table = pa.Table.from_batches(batches).replace_schema_metadata()
    columns = {name: cells for top in table.column_names for name, cells in _parts(top, table[top])}
    frame: pd.DataFrame = pa.table(columns).to_pandas()
    frame = frame.drop(columns=[name for name in frame.columns if _NO_INDEX.fullmatch(name)])
    # An empty cell is none that says NaN, which a data frame of floats cannot tell apart.
    apart = {
        name: pd.Series(_texts_of(name, cells) if _is_text(cells.type) else cells.to_pylist(), dtype=object)
        for name, cells in columns.items()
        if name in frame.columns and (_is_text(cells.type) or (pa.types.is_floating(cells.type) and cells.null_count))
    }
    return frame.assign(**apart).set_axis(pd.RangeIndex(2, 2 + len(frame)))


def _leaves(field: pa.Field, before: str = "") -> Iterator[tuple[str, pa.DataType]]:
    """The columns of single values in one, by their names with slashes between the levels; lists are left out."""
    import pyarrow as pa

    name = f"{before}{field.name}"
    if pa.types.is_struct(field.type):
        for inner in field.type:
            yield from _leaves(inner, f"{name}/")
    elif not pa.types.is_nested(field.type):
        yield name, field.type


def _parts(name: str, cells: pa.ChunkedArray) -> Iterator[tuple[str, pa.ChunkedArray]]:
    """The cells of the columns that ``_leaves`` names."""
    import pyarrow as pa

    if pa.types.is_struct(cells.type):
        for inner, part in zip(cells.type, cells.flatten(), strict=True):
            yield from _parts(f"{name}/{inner.name}", part)
    elif not pa.types.is_nested(cells.type):
        yield name, cells


def _texts_of(name: str, cells: pa.ChunkedArray) -> list[str | None]:
    """The texts of a column, be they kept as bytes; the same text is one object."""
    known: dict[bytes | str, str] = {}
    found: list[str | None] = []
    for cell in cells.to_pylist():
        if cell is not None and cell not in known:
            try:
                known[cell] = cell.decode() if isinstance(cell, bytes) else cell
            except UnicodeDecodeError:
                raise ValueError(f"{name} has bytes that are no text in UTF-8, {cell[:20]!r}") from None
        found.append(None if cell is None else known[cell])
    return found


def _n_bytes(column: pa.Array) -> int:
    """Size of a column once every row has its own copy of a text."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_dictionary(column.type) or not _is_text(column.type.value_type):
        return int(column.nbytes)
    lengths = pc.take(pc.binary_length(column.dictionary), column.indices)
    return int(pc.sum(lengths.cast(pa.int64())).as_py() or 0)


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow as pa

    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    types = pa.types
    texts = [types.is_string, types.is_large_string, types.is_string_view]
    texts += [types.is_binary, types.is_large_binary, types.is_binary_view, types.is_fixed_size_binary]
    return any(is_kind(kind) for is_kind in texts)

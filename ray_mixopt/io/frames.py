"""Tables in files as data frames of cells, with limits on how much is read: the files may be anyone's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ray_mixopt.core.safety import MiB, TooMuchError, check_count, check_size
from ray_mixopt.io.cells import MISSING, unguarded

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

MOST_BYTES = 256 * MiB
MOST_ROWS = 200_000  # ten times what searches are tried with
MOST_CELLS = 10_000_000
_NO_INDEX = re.compile(r"__index_level_\d+__")  # one without a name, which only counts
_NAMES = ("run", "run_id", "name", "scale", "index")  # columns of text


def frame_of(path: Path) -> pd.DataFrame:
    """The file as it is, indexed by row as an editor counts: the header is row 1. A CSV's cells stay text.

    Raises:
        TooMuchError: for more bytes, rows or cells than are read; it is known within a second.
        ValueError: for a file that is empty, malformed or has a column twice.
    """
    import pandas as pd

    check_size(path.name, path.stat().st_size, MOST_BYTES)
    try:
        if path.suffix.lower() == ".parquet":
            frame = _read_parquet(path)
        else:
            _check_lines(path)
            # The header is read as a row, or pandas would rename repeated columns.
            lines = pd.read_csv(path, header=None, dtype=str, keep_default_na=False, skip_blank_lines=False)
            frame = lines.iloc[1:].set_axis(lines.iloc[0].to_list(), axis=1)
    except TooMuchError:
        raise
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError, OSError, ValueError) as error:
        raise ValueError(f"{path.name} is empty or malformed: {str(error).strip()}") from error
    frame.index = pd.RangeIndex(2, 2 + len(frame))
    blank = [all(is_missing(cell) for cell in cells) for cells in frame.itertuples(index=False)]
    frame = frame.loc[~np.array(blank, dtype=bool)]
    if not len(frame):
        raise ValueError(f"{path.name} has no rows.")
    frame.columns = [str(name).strip() for name in frame.columns]
    if is_csv := path.suffix.lower() == ".csv":
        frame = frame.rename(columns=unguarded)
    repeated = frame.columns[frame.columns.duplicated()]
    if len(repeated):
        raise ValueError(f"{path.name} has the column {repeated[0]!r} twice.")
    names = [name for name in _NAMES if is_csv and name in frame.columns]
    return frame.assign(**{name: [unguarded(str(cell)) for cell in frame[name]] for name in names})


def _check_lines(path: Path) -> None:
    """Raises TooMuchError for a CSV file of too many rows or cells, without reading them into memory."""
    n_lines = n_cells = 0
    with path.open("rb") as file:
        while chunk := file.read(MiB):
            n_lines += max(chunk.count(b"\n"), chunk.count(b"\r"))
            n_cells += chunk.count(b",")
            check_count(path.name, n_lines, MOST_ROWS, "rows")
            check_count(path.name, n_cells, MOST_CELLS, "cells")


def _read_parquet(path: Path) -> pd.DataFrame:
    """The columns of a Parquet file that hold one value a row.

    A small file may hold any number of rows, and a long text that is repeated in each of them: what it says of itself
    is looked at first, and texts are counted before they are copied.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        about, schema = file.metadata, file.schema_arrow
        plain = [field for field in schema if not pa.types.is_nested(field.type)]
        check_count(path.name, about.num_rows, MOST_ROWS, "rows")
        check_count(path.name, about.num_rows * len(plain), MOST_CELLS, "cells")
        groups = [about.row_group(i) for i in range(about.num_row_groups)]
        check_size(f"{path.name}, unpacked,", sum(group.total_byte_size for group in groups), MOST_BYTES)
    texts = [field.name for field in plain if _is_text(field.type)]
    with pq.ParquetFile(path, read_dictionary=texts) as file:
        batches, n_rows, n_bytes = [], 0, 0
        for batch in file.iter_batches(batch_size=8192, columns=[field.name for field in plain]):
            n_rows, n_bytes = n_rows + batch.num_rows, n_bytes + sum(map(_n_bytes, batch.columns))
            check_count(path.name, n_rows, MOST_ROWS, "rows")
            check_size(f"{path.name}, unpacked,", n_bytes, MOST_BYTES)
            batches.append(batch)
    if not batches:
        raise ValueError("it has no rows")
    # What pandas wrote about its types and its index is anyone's, and takes columns away: the index is a column here.
    frame: pd.DataFrame = pa.Table.from_batches(batches).replace_schema_metadata().to_pandas()
    frame = frame.drop(columns=[name for name in frame.columns if _NO_INDEX.fullmatch(name)])
    return frame.astype({name: object for name in texts if name in frame.columns})


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

    return any(is_kind(kind) for is_kind in (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary))


def is_missing(cell: object) -> bool:
    """Whether a cell says nothing."""
    return cell is None or str(cell).strip().lower() in MISSING

"""Tables that hold too much are refused within a second or two, whatever their size on disk."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_mixopt.core.safety import TooMuchError
from ray_mixopt.io import frames
from ray_mixopt.io.runs import Source, read_runs
from ray_mixopt.simulators import RunTable, run_table

TIDY = {"scale": "S", "step": 10, "mixture/a": 0.5, "mixture/b": 0.5, "cost_per_step": 1.0, "loss": 2.0}


def rows(n: int, **other: object) -> pa.Table:
    """The same row of a tidy table, again and again: a few bytes."""
    index = pa.array(np.zeros(n, dtype=np.int32))
    return pa.table({name: pa.DictionaryArray.from_arrays(index, [value]) for name, value in (TIDY | other).items()})


def many_rows(path: Path) -> Path:
    pq.write_table(rows(2_000_000), path)
    return path


def many_columns(path: Path) -> Path:
    pq.write_table(rows(60_000, **{f"m{i}": 1.0 for i in range(200)}), path)
    return path


def large_text(path: Path) -> Path:
    """More text than is read, which packs to little."""
    texts = pa.DictionaryArray.from_arrays(np.arange(68, dtype=np.int32), [f"{i:010d}" * 100_000 for i in range(68)])
    pq.write_table(rows(68).append_column("note", texts), path, compression="zstd")
    return path


def repeated_text(path: Path) -> Path:
    """A megabyte, in the file once, in a thousand rows."""
    pq.write_table(rows(1000, note="x" * 2**20), path)
    return path


def million_lines(path: Path) -> Path:
    path = path.with_suffix(".csv")
    path.write_text(",".join(TIDY) + "\n" + (",".join(map(str, TIDY.values())) + "\n") * 1_000_000)
    return path


def wide_lines(path: Path) -> Path:
    path = path.with_suffix(".csv")
    path.write_text(("," * 100_000 + "\n") * 120)
    return path


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (many_rows, "has 2,000,000 rows, which is more than the 200,000 that are read"),
        (many_columns, "has 12,360,000 cells, which is more than the 10,000,000 that are read"),
        (large_text, "unpacked, has .* MiB, which is more than the 64 MiB that are read"),
        (repeated_text, "unpacked, has .* MiB, which is more than the 64 MiB that are read"),
        (million_lines, "rows, which is more than the 200,000 that are read"),
        (wide_lines, "cells, which is more than the 10,000,000 that are read"),
    ],
)
def test_what_is_too_much_is_refused_at_once(
    make: Callable[[Path], Path], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames, "MOST_BYTES", 64 * 2**20)  # a quarter, for the sake of time
    path = make(tmp_path / "runs.parquet")
    assert path.stat().st_size < 64 * 2**20
    start = time.process_time()
    with pytest.raises(TooMuchError, match=f"^{re.escape(path.name)}.*{sentence}"):
        read_runs(path, Source())
    assert time.process_time() - start < 1


def test_lists_in_cells_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "runs.parquet"
    table = pa.table({name: [value] * 2 for name, value in TIDY.items()} | {"curve": [[1.0] * 1000, None]})
    pq.write_table(table, path)
    assert frames.table_of(path).columns == list(TIDY)


def test_a_table_of_empty_cells_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every run at a step of its own: few rows, and a square of them in a table."""
    monkeypatch.setattr(run_table, "MOST_CELLS", 100_000)
    n = 1000
    shares = np.random.default_rng(0).dirichlet([1, 1], n)
    path = tmp_path / "runs.csv"
    lines = [f"S,{i + 1},{a},{b},1,2" for i, (a, b) in enumerate(shares)]
    path.write_text("\n".join([",".join(TIDY), *lines]))
    with pytest.raises(TooMuchError, match="mixtures x scales x steps x metrics, which is more than the 100,000"):
        RunTable.read(path)

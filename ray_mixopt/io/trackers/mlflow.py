"""MLflow's stores on disk: the folder ``mlruns``, and the SQLite file. Both are read without MLflow.

A run that was deleted is left out. Runs are called by their names, or by their ids where two have one name.
"""

from __future__ import annotations

import re
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ray_mixopt.core.safety import MiB, check_count, check_size
from ray_mixopt.io.frames import MOST_BYTES, MOST_CELLS, MOST_ROWS

DATABASES = (".db", ".sqlite", ".sqlite3")
_META = "meta.yaml"
_MOST_SMALL = MiB
_FIELD = re.compile(r"^(run_name|lifecycle_stage):\s*(.*?)\s*$", re.MULTILINE)


def is_store(path: Path) -> bool:
    """Whether a folder is a store, or one experiment of it."""
    return any((run / _META).is_file() for runs in ("*/*/metrics", "*/metrics") for run in _parents(path, runs))


def _parents(path: Path, pattern: str) -> Iterator[Path]:
    return (found.parent for found in path.glob(pattern))


def store(path: Path) -> list[dict[str, Any]]:
    """The records of a store's folder, or of one experiment's.

    Raises:
        ValueError: if there is more than is read.
    """
    runs = sorted({*_parents(path, "*/*/metrics"), *_parents(path, "*/metrics")})
    params: list[tuple[str, str, str]] = []
    metrics: list[tuple[str, str, int, float]] = []
    names: dict[str, str] = {}
    n_bytes = 0
    for run in runs:
        about = dict(_FIELD.findall(_small(run / _META))) if (run / _META).is_file() else {"lifecycle_stage": "deleted"}
        if about.get("lifecycle_stage") == "deleted":
            continue
        names[run.name] = about.get("run_name", "").strip("'\"") or run.name
        params += [(run.name, key, _small(file)) for key, file in _files(run / "params")]
        for key, file in _files(run / "metrics"):
            n_bytes += file.stat().st_size
            check_size(path.name, n_bytes, MOST_BYTES)
            for line in file.read_text("utf-8").splitlines():
                _, value, step = (line.split() + ["0", "0"])[:3]
                metrics.append((run.name, key, *_numbers(step, value, f"{path.name}, run {run.name}, {key}")))
        check_count(path.name, len(metrics), MOST_CELLS, "values")
    return _records(names, params, metrics)


def _numbers(step: Any, value: Any, what: str) -> tuple[int, float]:
    try:
        return int(step), float(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what}: {value!r} at step {step!r} is no measurement.") from error


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """The files below a folder, by their keys, whose parts are folders."""
    if folder.is_dir():
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                yield file.relative_to(folder).as_posix(), file


def _small(file: Path) -> str:
    check_size(file.name, file.stat().st_size, _MOST_SMALL)
    return file.read_text("utf-8", errors="replace")


def database(path: Path) -> list[dict[str, Any]]:
    """The records of a store in a SQLite file, which is not written to.

    Raises:
        ValueError: if it is none, or holds more than is read.
    """
    check_size(path.name, path.stat().st_size, 4 * MOST_BYTES)
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path.resolve()))}?mode=ro", uri=True)) as connection:
            connection.execute("PRAGMA trusted_schema = OFF")
            connection.execute("PRAGMA cell_size_check = ON")
            runs = _rows(
                connection, path, "SELECT run_uuid, name FROM runs WHERE lifecycle_stage = 'active'", MOST_ROWS
            )
            params = _rows(connection, path, "SELECT run_uuid, key, value FROM params", MOST_CELLS)
            metrics = _rows(connection, path, "SELECT run_uuid, key, step, value, is_nan FROM metrics", MOST_CELLS)
    except sqlite3.Error as error:
        raise ValueError(f"{path.name} is no store of MLflow: {error}.") from error
    names = {str(run): str(name or run) for run, name in runs}
    return _records(
        names,
        ((str(run), str(key), str(value)) for run, key, value in params),
        (
            (str(run), str(key), *_numbers(step, "nan" if is_nan else value, f"{path.name}, run {run}, {key}"))
            for run, key, step, value, is_nan in metrics
        ),
    )


def _rows(connection: sqlite3.Connection, path: Path, query: str, most: int) -> list[tuple[Any, ...]]:
    rows = connection.execute(f"{query} LIMIT {most + 1}").fetchall()
    check_count(path.name, len(rows), most, "rows in a table")
    return rows


def _records(
    names: dict[str, str], params: Iterable[tuple[str, str, str]], metrics: Iterable[tuple[str, str, int, float]]
) -> list[dict[str, Any]]:
    """Records of parameters ``(run, key, value)`` and metrics ``(run, key, step, value)``, the last one of each."""
    repeated = {name for name, n in Counter(names.values()).items() if n > 1}
    told: dict[str, dict[str, Any]] = {run: {"run": run if name in repeated else name} for run, name in names.items()}
    for run, key, text in params:
        if run in told:
            told[run][f"config/{key}"] = text
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    for run, key, step, value in metrics:
        if run in told:
            rows.setdefault((run, step), {})[f"metrics.{key}"] = value
    return [told[run] | {"step": step} | values for (run, step), values in sorted(rows.items())]

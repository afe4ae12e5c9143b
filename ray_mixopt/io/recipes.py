"""The runs that data-recipes published, ``data_mixing_runs.pkl``: a pickle, and so read with great care.

Unpickling runs whatever the file says. Here it may only rebuild pandas and numpy objects: every name that a pickle can
look up is on a list of those that frames and arrays need, none of which executes what it is given. It is still off
unless asked for.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ray_mixopt.io.read import Rows

DOMAINS = ("wikipedia", "stackexchange", "github", "arxiv", "book")  # of ``token_probabilities``
_METRIC = re.compile(r"eval/RedPajama(?P<domain>\w+)/CrossEntropyLoss")
_MOST_BYTES = 256 * 2**20

# By the names under which numpy 1 and 2, pandas 2 and 3 write them.
_ARRAYS = ("numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric", "numpy._core.numeric")
_ALLOWED = {
    *((module, name) for module in _ARRAYS for name in ("_reconstruct", "scalar", "_frombuffer")),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("builtins", "slice"),
    ("pandas.core.frame", "DataFrame"),
    ("pandas.core.series", "Series"),
    ("pandas.core.internals.managers", "BlockManager"),
    ("pandas.core.internals.managers", "SingleBlockManager"),
    ("pandas._libs.internals", "_unpickle_block"),
    ("pandas.core.indexes.base", "_new_Index"),
    ("pandas.core.indexes.base", "Index"),
    ("pandas.core.indexes.range", "RangeIndex"),
    ("pandas", "DataFrame"),
    ("pandas", "Index"),
    ("pandas", "RangeIndex"),
}

_Unpickler: Any = pickle._Unpickler


class RestrictedUnpickler(_Unpickler):
    """Rebuilds frames and arrays and nothing else.

    It is the one written in Python: the one in C reserves memory for whatever index a file names.
    """

    def find_class(self, module: str, name: str) -> Any:
        """The object of that name, if it is on the list.

        Raises:
            UnpicklingError: if it is not.
        """
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no table of runs needs")
        return super().find_class(module, name)

    def load_build(self) -> None:
        """Sets the state of an object; never that of a class, which would change pandas itself."""
        if isinstance(self.stack[-2], type):
            raise pickle.UnpicklingError("it changes a class")
        super().load_build()

    dispatch = {**_Unpickler.dispatch, pickle.BUILD[0]: load_build}


def read_recipes(path: Path, *, unpickle: bool) -> Rows:
    """The runs in a pickle of data-recipes: a data frame with ``group``, ``token_probabilities`` and ``history``.

    Args:
        path: of the file.
        unpickle: whether the user has asked for a pickle to be read.

    Raises:
        ValueError: if not, if the file holds anything but pandas and numpy objects, or other columns.
    """
    if not unpickle:
        raise ValueError(
            f"{path.name} is a pickle, which can run code when it is read. If you trust where it comes from, ask for "
            "it (--unpickle, unpickle=True): then only pandas and numpy objects are rebuilt, and anything else refused."
        )
    if path.stat().st_size > _MOST_BYTES:
        raise ValueError(f"{path.name} has more than {_MOST_BYTES >> 20} MiB: a table of runs is smaller.")
    try:
        with path.open("rb") as stream:
            frame = RestrictedUnpickler(stream).load()
        rows = list(_rows(frame))
    except RecursionError as error:
        raise ValueError(f"{path.name} was refused: it is nested too deep.") from error
    except Exception as error:  # whatever pandas and numpy raise for a damaged file
        raise ValueError(f"{path.name} was refused: {str(error) or type(error).__name__}.") from error
    if not rows:
        raise ValueError(f"{path.name} has no run with a loss.")
    names = tuple(dict.fromkeys(name for *_, metrics in rows for name in metrics))
    return Rows(
        domains=DOMAINS,
        mixtures=np.array([mixture for _, mixture, *_ in rows]),
        scale=[scale for _, _, scale, *_ in rows],
        steps=np.array([step for *_, step, _ in rows], dtype=np.int64),
        metrics=names,
        values=np.array([[metrics.get(name, np.nan) for name in names] for *_, metrics in rows]),
        parameters={},
        cost={},
        run=[run for run, *_ in rows],
    )


def _rows(frame: Any) -> Iterator[tuple[str, np.ndarray, str, int, dict[str, float]]]:
    """Run, mixture, scale, step and metrics of each report with a loss."""
    for column in ("group", "token_probabilities", "history"):
        if column not in frame.columns:
            raise ValueError(f"it has no column {column!r}")
    columns = zip(frame["group"], frame["token_probabilities"], frame["history"], strict=True)
    for number, (group, shares, history) in enumerate(columns):
        mixture = np.asarray(shares, dtype=np.float64)
        if mixture.shape != (len(DOMAINS),) or not abs(mixture.sum() - 1) < 0.01 or mixture.min() < 0:
            raise ValueError(f"row {number}: token_probabilities is no mixture of {len(DOMAINS)} domains")
        if not len(history):  # a run that left nothing
            continue
        found = {name: _METRIC.fullmatch(str(name)) for name in history.columns}
        names = {name: f"val_loss/{_snake(match['domain'])}" for name, match in found.items() if match}
        for _, report in history.iterrows():
            metrics = {metric: float(report[name]) for name, metric in names.items() if np.isfinite(report[name])}
            if metrics and report["_step"] >= 1:
                yield f"run_{number:04d}", mixture / mixture.sum(), str(group), int(report["_step"]), metrics


def _snake(name: str) -> str:
    known = {"commoncrawl": "common_crawl"}
    return known.get(name.lower(), name.lower())

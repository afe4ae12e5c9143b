"""Files of logged runs, read and checked row by row.

A tidy table (CSV or Parquet) has one row per (mixture, scale, step):

============================  =====================================================================================
column                        content
============================  =====================================================================================
``scale``                     name of the model scale
``step`` (or ``steps``)       training steps at which the row was measured
``mixture/<domain>``          share of training tokens of each domain; a row's shares sum to 1
``cost_per_step``             optional: price of one step of that scale in any one unit, also under the name
                              ``relative_flops_per_step``; without it ``RunTable.read`` needs ``scale_cost``
``parameters``                optional: number of model parameters of that scale
``run``                       optional: name of the run; rows of one run are one learning curve
all other columns of numbers  metrics; an empty cell or "nan" is a metric that was not measured; ``metric/step`` and
                              the like are metrics that have the name of a column above
============================  =====================================================================================

RegMix tables are pairs of CSV files joined on ``index``: ``<part>_mixture_<scale>.csv`` with the columns
``train_the_pile_<domain>``, and ``<part>_pile_loss_<scale>.csv`` with ``metric/the_pile_<domain>_val_loss``. They log
one length, called step 1 here unless told otherwise, and no costs. A ``<part>`` that begins with ``step<N>`` says the
steps, and then the same index at the same scale is the same run.

An olmix folder has ``ratios.csv`` and ``metrics.csv``, joined on ``run`` or ``run_id``; every other column but ``name``
is a domain or a metric. It logs one scale and length, unless ``name`` reads ``scale=S step=N`` or
``scale=S step=N run=R``, as our own export writes it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ray_mixopt.io.cells import MISSING, MIXTURE, metric_of
from ray_mixopt.io.frames import frame_of, is_missing

if TYPE_CHECKING:
    import pandas as pd

DERIVED_METRIC = "loss"  # the mean of all val_loss/*

_SUM_TOLERANCE = 0.01  # published shares are rounded, to three digits in RegMix
_COST_COLUMNS = ("cost_per_step", "relative_flops_per_step")
_STEP_COLUMNS = ("step", "steps")
TIDY_COLUMNS = frozenset({"scale", "run", "parameters", *_STEP_COLUMNS, *_COST_COLUMNS})
PICKLES = (".pkl", ".pickle")
OLMIX_RATIOS, OLMIX_METRICS = "ratios.csv", "metrics.csv"
OLMIX_COLUMNS = frozenset({"run", "run_id", "name"})
OLMIX_NAME = re.compile(r"(?s)scale=(?P<scale>.+?) step=(?P<step>\d+)(?: run=(?P<run>.+))?")
REGMIX_SHARE = "train_the_pile_"
_STEP_PART = re.compile(r"step(?P<step>\d+)(?!\d).*")
_REGMIX_FILE = re.compile(r"(?P<part>.+)_(?P<kind>mixture|pile_loss)_(?P<scale>[^_]+)\.csv")


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Checked rows of one or several files: ``k`` measurements."""

    domains: tuple[str, ...]
    mixtures: np.ndarray  # (k, d), rows sum to 1
    scale: list[str]  # (k,)
    steps: np.ndarray  # (k,)
    metrics: tuple[str, ...]
    values: np.ndarray  # (k, n_metrics)
    parameters: dict[str, float]  # by scale
    cost: dict[str, float]  # by scale
    run: list[str] | None = None  # (k,), the run that each row belongs to, where the files say

    @classmethod
    def concatenate(cls, parts: list[Rows]) -> Rows:
        """The rows of all parts, with the domains in the order of the first.

        Raises:
            ValueError: if the parts do not have the same domains.
        """
        first = parts[0]
        names = tuple(dict.fromkeys(name for part in parts for name in part.metrics))
        blocks = []
        for part in parts:
            if set(part.domains) != set(first.domains):
                odd = sorted(set(part.domains) ^ set(first.domains))
                raise ValueError(f"Runs of scale {part.scale[0]!r} have other domains than the rest: {odd}.")
            block = np.full((len(part.values), len(names)), np.nan)
            block[:, [names.index(name) for name in part.metrics]] = part.values
            blocks.append(block)
        orders = [[part.domains.index(name) for name in first.domains] for part in parts]
        return cls(
            domains=first.domains,
            mixtures=np.concatenate([part.mixtures[:, order] for part, order in zip(parts, orders, strict=True)]),
            scale=[name for part in parts for name in part.scale],
            steps=np.concatenate([part.steps for part in parts]),
            metrics=names,
            values=np.concatenate(blocks),
            parameters={name: value for part in parts for name, value in part.parameters.items()},
            cost={name: value for part in parts for name, value in part.cost.items()},
            run=None if any(part.run is None for part in parts) else [r for part in parts for r in part.run or ()],
        )

    def with_loss(self) -> Rows:
        """These rows, with the metric ``loss`` derived if there is none."""
        parts = [i for i, name in enumerate(self.metrics) if name.startswith("val_loss/")]
        if DERIVED_METRIC in self.metrics or not parts:
            return self
        loss = self.values[:, parts].mean(axis=1)
        return replace(self, metrics=(*self.metrics, DERIVED_METRIC), values=np.column_stack([self.values, loss]))

    def keeping(self, metrics: Sequence[str] | None) -> Rows:
        """These rows with some of their metrics, or all for None.

        Raises:
            ValueError: for a metric that they do not have, or none at all.
        """
        if metrics is None:
            return self
        unknown = [name for name in metrics if name not in self.metrics]
        if unknown or not metrics:
            raise ValueError(f"No metric {unknown} in the runs: they have {', '.join(self.metrics)}.")
        return replace(self, metrics=tuple(metrics), values=self.values[:, [self.metrics.index(n) for n in metrics]])


def read_rows(path: Path, *, scale: str = "model", steps: int = 1) -> Rows:
    """All rows of a tidy file, of olmix's or a RegMix folder, or of the pair that one file belongs to.

    Args:
        path: of the file or folder.
        scale: the model scale of an olmix folder, which does not say.
        steps: the training steps of olmix's and RegMix's runs, which do not say either.

    Raises:
        ValueError: if the files are not as described above; names the row (the header is row 1).
    """
    if path.is_dir() and (path / OLMIX_RATIOS).exists():
        return _olmix_rows(path, scale, steps)
    if path.is_dir() or _REGMIX_FILE.fullmatch(path.name):
        return Rows.concatenate([_regmix_rows(*pair, steps) for pair in _regmix_pairs(path)])
    if not path.exists():
        raise ValueError(f"There is no runs file {str(path)!r}.")
    if path.suffix.lower() in PICKLES:
        raise ValueError(
            f"{path.name} is a pickle, which can run code when it is read, and is not: the table that data-recipes "
            "published becomes a CSV file with experiments/convert_data_recipes.py."
        )
    if path.suffix.lower() not in (".csv", ".parquet"):
        raise ValueError(
            f"Unknown type of runs file {path.name!r}: use .csv, .parquet, or a folder of RegMix pairs or of olmix."
        )
    return _tidy_rows(path)


# -- tidy files


def _tidy_rows(path: Path) -> Rows:
    frame = frame_of(path)
    mixture_columns = [name for name in frame.columns if name.startswith(MIXTURE)]
    if not mixture_columns:
        raise ValueError(f"{path.name} has no mixture columns: name them mixture/<domain>.")
    step_columns = [name for name in _STEP_COLUMNS if name in frame.columns]
    if "scale" not in frame.columns or len(step_columns) != 1:
        raise ValueError(f"{path.name} needs a column 'scale' and a column 'step'; it has {', '.join(frame.columns)}.")
    scale = [str(value).strip() for value in frame["scale"]]
    for row, value in zip(frame.index, scale, strict=True):
        if value.lower() in MISSING:
            raise ValueError(f"{path.name}, row {row}: the scale is missing.")
    steps = _numbers(path, frame, step_columns[0])
    for row, value in zip(frame.index, steps.tolist(), strict=True):
        if not (value > 0 and float(value).is_integer()):
            raise ValueError(f"{path.name}, row {row}: step must be a whole number above 0, got {value!r}.")
    cost_columns = [name for name in _COST_COLUMNS if name in frame.columns]
    taken = {*TIDY_COLUMNS, *mixture_columns}
    metrics = [name for name in frame.columns if name not in taken and _holds_numbers(frame[name])]
    if not metrics:
        raise ValueError(
            f"{path.name} has no metric: every column but {', '.join(sorted(taken))} that holds numbers is one."
        )
    domains = tuple(name.removeprefix(MIXTURE) for name in mixture_columns)
    return Rows(
        domains=domains,
        mixtures=_shares(path, frame, mixture_columns),
        scale=scale,
        steps=steps.astype(np.int64),
        metrics=tuple(metric_of(name, TIDY_COLUMNS) for name in metrics),
        values=np.column_stack([_numbers(path, frame, name, may_miss=True) for name in metrics]),
        parameters=_by_scale(path, frame, "parameters", scale) if "parameters" in frame.columns else {},
        cost=_by_scale(path, frame, cost_columns[0], scale) if cost_columns else {},
        run=[str(name).strip() for name in frame["run"]] if "run" in frame.columns else None,
    )


def _by_scale(path: Path, frame: pd.DataFrame, column: str, scale: list[str]) -> dict[str, float]:
    """A column that must hold one value a scale."""
    found: dict[str, float] = {}
    for row, name, value in zip(frame.index, scale, _numbers(path, frame, column).tolist(), strict=True):
        if value <= 0:
            raise ValueError(f"{path.name}, row {row}: {column} must be above 0, got {value!r}.")
        if found.setdefault(name, value) != value:
            raise ValueError(
                f"{path.name}, row {row}: {column} of scale {name!r} is {value!r}, but {found[name]!r} above."
            )
    return found


# -- RegMix pairs


def _regmix_pairs(path: Path) -> list[tuple[Path, Path, str, str]]:
    """``(mixtures, losses, scale, part)`` of each pair in a folder, or of the one that a file belongs to."""
    candidates = sorted(path.glob("*.csv")) if path.is_dir() else [path]
    found = {}
    for file in candidates:
        match = _REGMIX_FILE.fullmatch(file.name)
        if match:
            part, scale = match["part"], match["scale"]
            pair = tuple(file.with_name(f"{part}_{kind}_{scale}.csv") for kind in ("mixture", "pile_loss"))
            for member in pair:
                if not member.exists():
                    raise ValueError(f"{file.name} has no partner {member.name} in {str(file.parent)!r}.")
            found[pair[0].name] = (pair[0], pair[1], scale, part)
    if not found:
        raise ValueError(f"No RegMix pair <part>_mixture_<scale>.csv, <part>_pile_loss_<scale>.csv in {str(path)!r}.")
    return list(found.values())


def _regmix_rows(mixture_path: Path, loss_path: Path, scale: str, part: str, steps: int) -> Rows:
    mixtures, losses = frame_of(mixture_path), frame_of(loss_path)
    for path, frame in ((mixture_path, mixtures), (loss_path, losses)):
        if "index" not in frame.columns:
            raise ValueError(f"{path.name} needs the column 'index'.")
        repeats = frame["index"][frame["index"].duplicated()]
        if len(repeats):
            raise ValueError(f"{path.name}, row {repeats.index[0]}: index {repeats.iloc[0]!r} is repeated.")
    for path, frame, other_path, other in (
        (mixture_path, mixtures, loss_path, losses),
        (loss_path, losses, mixture_path, mixtures),
    ):
        alone = frame["index"][~frame["index"].isin(other["index"])]
        if len(alone):
            raise ValueError(f"{path.name}, row {alone.index[0]}: index {alone.iloc[0]!r} is not in {other_path.name}.")
    shares = {name: name.removeprefix(REGMIX_SHARE) for name in mixtures.columns if name != "index"}
    metrics = {name: regmix_metric(name) for name in losses.columns if name != "index"}
    if len(shares) < 2 or not metrics:
        raise ValueError(f"{mixture_path.name} has no mixture columns or {loss_path.name} has no losses.")
    values = np.column_stack([_numbers(loss_path, losses, name, may_miss=True) for name in metrics])
    position = {index: i for i, index in enumerate(losses["index"])}
    said = _STEP_PART.fullmatch(part)
    return Rows(
        domains=tuple(shares.values()),
        mixtures=_shares(mixture_path, mixtures, list(shares)),
        scale=[scale] * len(mixtures),
        steps=np.full(len(mixtures), int(said["step"]) if said else steps, dtype=np.int64),
        metrics=tuple(metrics.values()),
        values=values[[position[index] for index in mixtures["index"]]],
        parameters={},
        cost={},
        run=[f"{index}" if said else f"{part}_{scale}_{index}" for index in mixtures["index"]],
    )


def regmix_metric(column: str) -> str:
    """The metric that a column of RegMix's losses holds."""
    match = re.fullmatch(r"metric/the_pile_(.+)_val_loss", column)
    return f"val_loss/{match[1]}" if match else column.removeprefix("metric/")


# -- olmix


def _olmix_rows(folder: Path, scale: str, steps: int) -> Rows:
    ratios, metrics = (_read_olmix(folder / name) for name in (OLMIX_RATIOS, OLMIX_METRICS))
    common = ratios.index[ratios["run"].isin(metrics["run"])]
    if not len(common):
        raise ValueError(f"{OLMIX_RATIOS} and {OLMIX_METRICS} in {str(folder)!r} have no run in common.")
    ratios = ratios.loc[common]
    position = {run: i for i, run in enumerate(metrics["run"])}
    rows = [position[run] for run in ratios["run"]]
    columns = [name for name in ratios.columns if name not in ("run", "name")]
    names = [name for name in metrics.columns if name not in ("run", "name") and _holds_numbers(metrics[name])]
    if len(columns) < 2 or not names:
        raise ValueError(f"{str(folder)!r} needs two domains or more in {OLMIX_RATIOS}, and a metric.")
    told = [OLMIX_NAME.fullmatch(str(name)) for name in ratios["name"]] if "name" in ratios.columns else []
    said = [match for match in told if match is not None]
    full = len(said) == len(ratios)
    path = folder / OLMIX_METRICS
    values = np.column_stack([_numbers(path, metrics, name, may_miss=True) for name in names])
    return Rows(
        domains=tuple(columns),
        mixtures=_shares(folder / OLMIX_RATIOS, ratios, columns),
        scale=[match["scale"] for match in said] if full else [scale] * len(ratios),
        steps=np.array([int(m["step"]) for m in said] if full else [steps] * len(ratios), dtype=np.int64),
        metrics=tuple(metric_of(name, OLMIX_COLUMNS) for name in names),
        values=values[rows],
        parameters={},
        cost={},
        run=[m["run"] or r for m, r in zip(said, ratios["run"], strict=True)] if full else list(ratios["run"]),
    )


def _read_olmix(path: Path) -> pd.DataFrame:
    if not path.exists():
        raise ValueError(f"There is no {path.name} in {str(path.parent)!r}: olmix needs {OLMIX_RATIOS} and the other.")
    frame = frame_of(path)
    ids = [name for name in ("run", "run_id") if name in frame.columns]
    if len(ids) != 1:
        raise ValueError(f"{path.name} needs a column 'run' or 'run_id'; it has {', '.join(frame.columns)}.")
    frame = frame.rename(columns={ids[0]: "run"})
    frame["run"] = [str(run).strip() for run in frame["run"]]
    repeats = frame["run"][frame["run"].duplicated()]
    if len(repeats):
        raise ValueError(f"{path.name}, row {repeats.index[0]}: run {repeats.iloc[0]!r} is repeated.")
    return frame


# -- cells


def _parse(cell: object) -> float | None:
    """The number in a cell, NaN for an empty one, None for anything else."""
    if is_missing(cell):
        return np.nan
    try:
        return float(str(cell))
    except ValueError:
        return None


def _holds_numbers(column: pd.Series) -> bool:
    return any(value is not None and not np.isnan(value) for value in map(_parse, column))


def _numbers(path: Path, frame: pd.DataFrame, column: str, *, may_miss: bool = False) -> np.ndarray:
    """A column as numbers ``(k,)``; says which row is malformed."""
    values = np.empty(len(frame))
    for i, (row, cell) in enumerate(frame[column].items()):
        value = _parse(cell)
        if value is None or np.isinf(value) or (np.isnan(value) and not may_miss):
            raise ValueError(
                f"{path.name}, row {row}: {column} must be a finite number"
                f"{' or empty' if may_miss else ''}, got {str(cell)!r}."
            )
        values[i] = value
    return values


def _shares(path: Path, frame: pd.DataFrame, columns: list[str]) -> np.ndarray:
    """Mixtures ``(k, d)``, normalised; says which row is no mixture."""
    shares = np.column_stack([_numbers(path, frame, name) for name in columns])
    sums = shares.sum(axis=1)
    for row, mixture, total in zip(frame.index, shares, sums, strict=True):
        if mixture.min() < 0:
            name = columns[int(mixture.argmin())]
            raise ValueError(f"{path.name}, row {row}: {name} is negative, {mixture.min():g}.")
        if abs(total - 1) > _SUM_TOLERANCE:
            raise ValueError(f"{path.name}, row {row}: the mixture sums to {total:g} instead of 1.")
    # What is exact but for rounding stays, so that exported shares come back as they were.
    normalised: np.ndarray = np.where(np.abs(sums - 1)[:, None] < 1e-12, shares, shares / sums[:, None])
    return normalised

"""A history as files that others read: tidy CSV or Parquet, olmix's two tables, RegMix pairs, blends of its runs.

Shares and metrics are written with all their digits, so that ``read_runs`` gives the same runs back. What a run
reported nothing of is an empty cell, and what it diverged in an infinity, see ``divergences``; a report without any
metric is left out, and so is that a run failed, for which these formats have no place. Names that a format or a
spreadsheet would take for something else are written as ``cells`` says, or refused. No file is written over.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ray_mixopt.core.history import History
from ray_mixopt.core.safety import check_file_names, write_atomically
from ray_mixopt.io.blends import BLENDS, NO_SOURCES, Sources, blend, parts
from ray_mixopt.io.cells import MIXTURE, beside, check_distinct, guarded, kept
from ray_mixopt.io.columns import TIDY_COLUMNS
from ray_mixopt.io.olmix import COLUMNS as OLMIX_COLUMNS
from ray_mixopt.io.olmix import METRICS as OLMIX_METRICS
from ray_mixopt.io.olmix import NAME as OLMIX_NAME
from ray_mixopt.io.olmix import RATIOS as OLMIX_RATIOS
from ray_mixopt.io.olmix import column_of
from ray_mixopt.io.regmix import SHARE as REGMIX_SHARE
from ray_mixopt.io.regmix import file_part
from ray_mixopt.io.regmix import metric_of as regmix_metric

if TYPE_CHECKING:
    import pandas as pd

_MOST_NAMED = 10  # runs in an error
_REGMIX = ("mixture", "pile_loss")  # the files of a pair


def divergences(history: History) -> dict[str, tuple[int, tuple[str, ...]]]:
    """Where a table says of each run that diverged that it did: the step, and the metrics that are infinite there.

    A history does not keep what was no number. It was in the last report that lacks a metric the run has elsewhere, or
    that others have. Where no report lacks any, a metric stands for it that no run reports.
    """
    others = history.metrics
    mark = "diverged"
    while mark in others:
        mark += "_"
    found: dict[str, tuple[int, tuple[str, ...]]] = {}
    for trial in history:
        if trial.status == "diverged":
            reports = list(reversed(trial.observations.items()))
            own = dict.fromkeys(name for _, values in reports for name in values)
            gaps = (
                (step, tuple(n for n in names if n not in values))
                for names in (own, others)
                for step, values in reports
            )
            found[trial.trial_id] = next((gap for gap in gaps if gap[1]), (trial.reached, (mark,)))
    return found


def tidy(history: History) -> pd.DataFrame:
    """One row a report: run, scale, step, cost per step, parameters, shares and metrics.

    Raises:
        ValueError: if there is nothing to export, or names could not be told apart in a table.
    """
    import pandas as pd

    check_distinct(history.space.domains, "The domain")
    check_distinct(dict.fromkeys(trial.scale for trial in history), "The scale")
    check_distinct((trial.trial_id for trial in history), "The run")
    diverged, phases = divergences(history), history.space.phase_names
    names = [f"{phase}/{domain}" for phase in phases for domain in history.space.domains] or history.space.domains
    columns = {name: beside(name, TIDY_COLUMNS) for name in _metrics(history)}
    check_distinct(columns.values(), "The metric")
    rows = []
    for trial in history:
        scale = history.space.scale(trial.scale)
        end, lost = diverged.get(trial.trial_id, (0, ()))
        for step, reported in trial.observations.items():
            if metrics := reported | dict.fromkeys(lost if step == end else (), math.inf):
                shares = {MIXTURE + name: share for name, share in zip(names, trial.mixture, strict=True)}
                about = {"run": trial.trial_id, "scale": scale.name, "step": step, "cost_per_step": scale.cost_per_step}
                size = {} if scale.parameters is None else {"parameters": scale.parameters}
                rows.append(about | size | shares | {columns[name]: value for name, value in metrics.items()})
    if not rows:
        raise ValueError("The history has no report with a metric: there is nothing to export.")
    return pd.DataFrame(rows)


def without_reports(history: History) -> list[str]:
    """Names of the runs that no table has a row of: no report of theirs has a metric, nor do they diverge in one."""
    return [
        trial.trial_id
        for trial in history
        if not (any(trial.observations.values()) or (trial.status == "diverged" and trial.observations))
    ]


def _metrics(history: History) -> list[str]:
    """The metrics of a table, in order: those reported, and those that only say of runs that they diverged."""
    return list(dict.fromkeys([*history.metrics, *(n for _, names in divergences(history).values() for n in names)]))


def write_csv(history: History, folder: Path) -> list[Path]:
    """``runs.csv``, tidy."""
    return _written({folder / name: tidy(history) for name in FILES["csv"]})


def write_parquet(history: History, folder: Path) -> list[Path]:
    """``runs.parquet``, tidy."""
    path = folder / FILES["parquet"][0]
    check_free([path])
    table = tidy(history)
    names = {column: [kept(name) for name in table[column]] for column in ("run", "scale")}
    table.assign(**names).to_parquet(path, index=False)
    return [path]


def write_olmix(history: History, folder: Path) -> list[Path]:
    """``ratios.csv`` and ``metrics.csv``: a row a report, whose ``name`` says scale, step and run.

    For olmix every row is a run; give it the rows of one scale and step, since it knows of no fidelity.

    Raises:
        ValueError: for a scale that its ``name`` cannot tell.
    """
    history.space.check_one_mixture("olmix has")
    domains = history.space.domains
    table = tidy(history)
    name = [f"scale={s} step={z} run={r}" for s, z, r in zip(table["scale"], table["step"], table["run"], strict=True)]
    for scale, run, text in zip(table["scale"], table["run"], name, strict=True):
        if (match := OLMIX_NAME.fullmatch(text)) is None or (match["scale"], match["run"]) != (scale, run):
            raise ValueError(f"olmix's names could not tell the scale {scale!r} from the rest: rename it.")
    head = table[["run"]].assign(run=[f"{run}@{step}" for run, step in zip(table["run"], table["step"], strict=True)])
    head = head.assign(name=name)
    shares = table[[MIXTURE + domain for domain in domains]].set_axis([column_of(d) for d in domains], axis=1)
    columns = {beside(metric, TIDY_COLUMNS): beside(metric, OLMIX_COLUMNS) for metric in _metrics(history)}
    metrics = table[list(columns)].rename(columns=columns)
    return _written({folder / OLMIX_RATIOS: head.join(shares), folder / OLMIX_METRICS: head.join(metrics)})


def write_regmix(history: History, folder: Path) -> list[Path]:
    """A pair ``step<N>_mixture_<scale>.csv`` and ``step<N>_pile_loss_<scale>.csv`` for every scale and step.

    Raises:
        ValueError: for scales that file names cannot tell apart, or a metric that has the name of another one there.
    """
    scales = list(dict.fromkeys(trial.scale for trial in history))
    check_file_names(map(file_part, scales), "A scale")
    metrics = _metrics(history)
    losses = {beside(name, TIDY_COLUMNS): _regmix_column(name) for name in metrics}
    for name, column in zip(metrics, losses.values(), strict=True):
        if regmix_metric(column) != name:
            raise ValueError(f"RegMix would read the metric {name!r} as {regmix_metric(column)!r}: rename it.")
    cells = dict.fromkeys((trial.scale, step) for trial in history for step in trial.observations)
    check_free(folder / _regmix_file(step, kind, scale) for scale, step in cells for kind in _REGMIX)
    table, parts = tidy(history), {}
    history.space.check_one_mixture("RegMix has")
    shares = {MIXTURE + domain: REGMIX_SHARE + domain for domain in history.space.domains}
    for (scale, step), rows in table.groupby(["scale", "step"], sort=False):
        for kind, columns in zip(_REGMIX, (shares, losses), strict=True):
            part = rows[["run", *columns]].rename(columns={"run": "index"} | columns).dropna(axis=1, how="all")
            parts[folder / _regmix_file(step, kind, scale)] = part
    return _written(parts)


def write_blends(
    history: History, folder: Path, kind: str, *, runs: Sequence[str] = (), sources: Sources = NO_SOURCES
) -> list[Path]:
    """The mixture of each run in a file that has the name of the run; of several phases one for each, if need be.

    Args:
        history: the runs.
        folder: to write to.
        kind: format of the blends, one of ``BLENDS``.
        runs: which runs; all where none is named.
        sources: what the blends say of data.

    Raises:
        ValueError: for a run that there is not, or whose name no file can have, and what ``blend`` raises.
    """
    known = {trial.trial_id: trial for trial in history}
    if unknown := [run for run in runs if run not in known]:
        some = ", ".join([*known][:_MOST_NAMED]) + (", ..." if len(known) > _MOST_NAMED else "")
        raise ValueError(f"There is no run {unknown[0]!r}: there are {some or 'none'}.")
    chosen = dict.fromkeys(runs or known)
    if not chosen:
        raise ValueError("There is no run: there is nothing to export.")
    check_file_names(chosen, "The name of a run")
    each = parts(kind, history.space)
    names = {(run, part): f"{run}.{part}" if part else run for run in chosen for part in each}
    check_file_names(names.values(), "The name of a run, or of a run and a phase,")
    paths = {of: folder / f"{name}{BLENDS[kind].suffix}" for of, name in names.items()}
    check_free(paths.values())
    texts = {}
    for (run, part), path in paths.items():
        mixture = history.space.named(known[run].mixture)
        texts[path] = blend(kind, mixture, history.space, sources, phase=part, steps=known[run].steps)
    for path, text in texts.items():
        write_atomically(path, text)
    return list(texts)


def _regmix_file(step: int, kind: str, scale: str) -> str:
    return f"step{step}_{kind}_{file_part(scale)}.csv"


def _regmix_column(metric: str) -> str:
    part = metric.removeprefix("val_loss/")
    return f"metric/the_pile_{part}_val_loss" if part != metric else f"metric/{metric}"


def check_free(paths: Iterable[Path]) -> None:
    """Raises ValueError if a file is there already: it may be anyone's, also the very one that the runs are from."""
    if taken := [path for path in paths if path.exists()]:
        raise ValueError(
            f"{taken[0]} is there already, and nothing is written over: choose another folder, with --out."
        )


def _written(tables: Mapping[Path, pd.DataFrame]) -> list[Path]:
    """Writes CSV files, in which no name is a formula: all of them, or none where one is there already."""
    check_free(tables)
    for path, table in tables.items():
        safe = table.rename(columns=guarded)
        texts = [column for column in safe.columns if safe[column].dtype.kind not in "fiu"]
        safe.assign(**{column: [guarded(kept(text)) for text in safe[column]] for column in texts}).to_csv(
            path, index=False
        )
    return list(tables)


WRITERS: dict[str, Callable[[History, Path], list[Path]]] = {
    "csv": write_csv,
    "parquet": write_parquet,
    "olmix": write_olmix,
    "regmix": write_regmix,
}
FILES = {"csv": ("runs.csv",), "parquet": ("runs.parquet",), "olmix": (OLMIX_RATIOS, OLMIX_METRICS)}
"""What is written, where that does not depend on the runs."""

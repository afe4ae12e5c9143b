"""A history as files that others read: tidy CSV or Parquet, olmix's two tables, RegMix pairs.

Shares and metrics are written with all their digits, so that ``read_runs`` gives the same runs back. What a run
reported nothing of is an empty cell; a report without any metric is left out, and so is the end of a run (diverged,
failed), for which these formats have no place.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ray_mixopt.core.history import History
from ray_mixopt.io.read import OLMIX_METRICS, OLMIX_RATIOS

if TYPE_CHECKING:
    import pandas as pd


def tidy(history: History) -> pd.DataFrame:
    """One row a report: run, scale, step, cost per step, parameters, shares and metrics."""
    import pandas as pd

    rows = []
    for trial in history:
        scale = history.space.scale(trial.scale)
        for step, metrics in trial.observations.items():
            if metrics:
                shares = {f"mixture/{name}": share for name, share in history.space.named(trial.mixture).items()}
                about = {"run": trial.trial_id, "scale": scale.name, "step": step, "cost_per_step": scale.cost_per_step}
                size = {} if scale.parameters is None else {"parameters": scale.parameters}
                rows.append(about | size | shares | metrics)
    if not rows:
        raise ValueError("The history has no report with a metric: there is nothing to export.")
    return pd.DataFrame(rows)


def write_csv(history: History, folder: Path) -> list[Path]:
    """``runs.csv``, tidy."""
    path = folder / "runs.csv"
    tidy(history).to_csv(path, index=False)
    return [path]


def write_parquet(history: History, folder: Path) -> list[Path]:
    """``runs.parquet``, tidy."""
    path = folder / "runs.parquet"
    tidy(history).to_parquet(path, index=False)
    return [path]


def write_olmix(history: History, folder: Path) -> list[Path]:
    """``ratios.csv`` and ``metrics.csv``: a row a report, whose ``name`` says scale, step and run.

    For olmix every row is a run; give it the rows of one scale and step, since it knows of no fidelity.
    """
    table = tidy(history)
    name = [f"scale={s} step={z} run={r}" for s, z, r in zip(table["scale"], table["step"], table["run"], strict=True)]
    head = table[["run"]].assign(run=[f"{run}@{step}" for run, step in zip(table["run"], table["step"], strict=True)])
    head = head.assign(name=name)
    shares = table[[f"mixture/{domain}" for domain in history.space.domains]].set_axis(history.space.domains, axis=1)
    paths = [folder / OLMIX_RATIOS, folder / OLMIX_METRICS]
    for path, part in zip(paths, (shares, table[list(history.metrics)]), strict=True):
        head.join(part).to_csv(path, index=False)
    return paths


def write_regmix(history: History, folder: Path) -> list[Path]:
    """A pair ``step<N>_mixture_<scale>.csv`` and ``step<N>_pile_loss_<scale>.csv`` for every scale and step.

    Raises:
        ValueError: for a scale whose name has an underscore, which RegMix's file names could not tell apart.
    """
    odd = [scale.name for scale in history.space.scales if "_" in scale.name]
    if odd:
        raise ValueError(f"RegMix's file names leave no room for an underscore in the scale {odd[0]!r}: rename it.")
    table, paths = tidy(history), []
    shares = {f"mixture/{domain}": f"train_the_pile_{domain}" for domain in history.space.domains}
    losses = {name: _regmix_metric(name) for name in history.metrics}
    for (scale, step), rows in table.groupby(["scale", "step"], sort=False):
        for kind, columns in (("mixture", shares), ("pile_loss", losses)):
            part = rows[["run", *columns]].rename(columns={"run": "index"} | columns)
            paths.append(folder / f"step{step}_{kind}_{scale}.csv")
            part.dropna(axis=1, how="all").to_csv(paths[-1], index=False)
    return paths


def _regmix_metric(name: str) -> str:
    part = name.removeprefix("val_loss/")
    return f"metric/the_pile_{part}_val_loss" if part != name else f"metric/{name}"


WRITERS: dict[str, Callable[[History, Path], list[Path]]] = {
    "csv": write_csv,
    "parquet": write_parquet,
    "olmix": write_olmix,
    "regmix": write_regmix,
}

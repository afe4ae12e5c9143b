"""RegMix's tables: pairs of CSV files joined on ``index``.

``<part>_mixture_<scale>.csv`` has the columns ``train_the_pile_<domain>``, ``<part>_pile_loss_<scale>.csv`` has
``metric/the_pile_<domain>_val_loss``. They log one length, called step 1 here unless told otherwise, and no costs. A
``<part>`` that begins with ``step<N>`` says the steps, and then the same index at the same scale is the same run.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote, unquote

import numpy as np

from ray_mixopt.io.cells import unkept
from ray_mixopt.io.columns import values_of
from ray_mixopt.io.frames import table_of
from ray_mixopt.io.rows import Rows
from ray_mixopt.io.shares import mixtures as mixtures_of

SHARE = "train_the_pile_"
FILE = re.compile(r"(?P<part>.+)_(?P<kind>mixture|pile_loss)_(?P<scale>[^_]+)\.csv")
_STEP_PART = re.compile(r"step(?P<step>\d+)(?!\d).*")


def pairs(path: Path) -> list[tuple[Path, Path, str, str]]:
    """``(mixtures, losses, scale, part)`` of each pair in a folder, or of the one that a file belongs to."""
    candidates = sorted(path.glob("*.csv")) if path.is_dir() else [path]
    found = {}
    for file in candidates:
        match = FILE.fullmatch(file.name)
        if match:
            part, scale = match["part"], match["scale"]
            pair = tuple(file.with_name(f"{part}_{kind}_{scale}.csv") for kind in ("mixture", "pile_loss"))
            for member in pair:
                if not member.exists():
                    raise ValueError(f"{file.name} has no partner {member.name} in {str(file.parent)!r}.")
            found[pair[0].name] = (pair[0], pair[1], _pair_scale(scale), part)
    if not found:
        raise ValueError(f"No RegMix pair <part>_mixture_<scale>.csv, <part>_pile_loss_<scale>.csv in {str(path)!r}.")
    return list(found.values())


def rows_of(path: Path, steps: int) -> Rows:
    """The rows of all pairs of a folder, or of the one that a file belongs to.

    Args:
        path: of the folder or the file.
        steps: of runs that do not say them.

    Raises:
        ValueError: if a pair is not complete, or malformed; names the row.
    """
    return Rows.concatenate([_pair(*pair, steps) for pair in pairs(path)])


def _pair(mixture_path: Path, loss_path: Path, scale: str, part: str, steps: int) -> Rows:
    tables = table_of(mixture_path), table_of(loss_path)
    mixtures, losses = (table.frame for table in tables)
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
    shares = {name: name.removeprefix(SHARE) for name in mixtures.columns if name != "index"}
    metrics = {name: metric_of(name) for name in losses.columns if name != "index"}
    if len(shares) < 2 or not metrics:
        raise ValueError(f"{mixture_path.name} has no mixture columns or {loss_path.name} has no losses.")
    values = values_of(tables[1], list(metrics))
    position = {index: i for i, index in enumerate(losses["index"])}
    said = _STEP_PART.fullmatch(part)
    return Rows(
        domains=tuple(shares.values()),
        mixtures=mixtures_of(tables[0], list(shares)),
        scale=[scale] * len(mixtures),
        steps=np.full(len(mixtures), int(said["step"]) if said else steps, dtype=np.int64),
        metrics=tuple(metrics.values()),
        values=values[[position[index] for index in mixtures["index"]]],
        parameters={},
        cost={},
        run=[unkept(f"{index}") if said else f"{part}_{scale}_{index}" for index in mixtures["index"]],
    )


def file_part(scale: str) -> str:
    """A scale as a part of a file's name, where slashes, underscores and the like have codes, as in an address."""
    part = quote(scale, safe=" !#$&'()+,;=@[]{}").replace("_", "%5F")
    return f"%2E{part[1:]}" if part.startswith(".") else part


def _pair_scale(part: str) -> str:
    """What ``file_part`` was given."""
    return unquote(part, errors="strict") if re.search(r"%[0-9A-F]{2}", part) else part


def metric_of(column: str) -> str:
    """The metric that a column of RegMix's losses holds."""
    match = re.fullmatch(r"metric/the_pile_(.+)_val_loss", column)
    return f"val_loss/{match[1]}" if match else column.removeprefix("metric/")

"""olmix's folders: ``ratios.csv`` and ``metrics.csv``, joined on ``run`` or ``run_id``, and perhaps ``meta.json``.

Every other column but ``name`` is a domain or a metric. They log one scale and length, unless ``name`` reads ``scale=S
step=N`` or ``scale=S step=N run=R``, as our own export writes it. ``token_counts`` in ``meta.json``, or else
``relative_sizes``, say how much there is of each domain.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ray_mixopt.core.safety import MiB, check_size, named_numbers, parse_json
from ray_mixopt.io.cells import MIXTURE, metric_of, unkept
from ray_mixopt.io.columns import metric_columns, values_of
from ray_mixopt.io.frames import table_of
from ray_mixopt.io.rows import Rows
from ray_mixopt.io.shares import mixtures
from ray_mixopt.io.table import Table

logger = logging.getLogger(__name__)

RATIOS, METRICS, META = "ratios.csv", "metrics.csv", "meta.json"
COLUMNS = frozenset({"run", "run_id", "name"})
NAME = re.compile(r"(?s)scale=(?P<scale>.+?) step=(?P<step>\d+)(?: run=(?P<run>.+))?")
_SIZES = ("token_counts", "relative_sizes")
_MOST_META = 16 * MiB


def rows_of(folder: Path, scale: str, steps: int) -> Rows:
    """The rows of a folder.

    Args:
        folder: with the tables.
        scale: of runs that do not say it.
        steps: of runs that do not say them.

    Raises:
        ValueError: if the tables do not go together, or are malformed; names the row.
    """
    tables = [_read(folder / name) for name in (RATIOS, METRICS)]
    ratios, metrics = (table.frame for table in tables)
    common = ratios.index[ratios["run"].isin(metrics["run"])]
    if not len(common):
        raise ValueError(f"{RATIOS} and {METRICS} in {str(folder)!r} have no run in common.")
    ratios = ratios.loc[common]
    tables[0] = replace(tables[0], frame=ratios)
    position = {run: i for i, run in enumerate(metrics["run"])}
    rows = [position[run] for run in ratios["run"]]
    columns = [name for name in ratios.columns if name not in ("run", "name")]
    names = metric_columns(tables[1], [name for name in metrics.columns if name not in ("run", "name")])
    domains = tuple(domain_of(name) for name in columns)
    if len(columns) < 2 or not names:
        raise ValueError(f"{str(folder)!r} needs two domains or more in {RATIOS}, and a metric.")
    told = [NAME.fullmatch(str(name)) for name in ratios["name"]] if "name" in ratios.columns else []
    said = [match for match in told if match is not None]
    full = len(said) == len(ratios)
    values = values_of(tables[1], names)
    return Rows(
        domains=domains,
        mixtures=mixtures(tables[0], columns),
        scale=[match["scale"] for match in said] if full else [scale] * len(ratios),
        steps=np.array([int(m["step"]) for m in said] if full else [steps] * len(ratios), dtype=np.int64),
        metrics=tuple(metric_of(name, COLUMNS) for name in names),
        values=values[rows],
        parameters={},
        cost={},
        run=[m["run"] or r for m, r in zip(said, ratios["run"], strict=True)] if full else list(ratios["run"]),
        supply=_supply(folder / META, domains),
    )


def column_of(domain: str) -> str:
    """The column of a domain: ``mixture/<domain>`` if olmix has a column of that name."""
    return MIXTURE + domain if domain.strip().lower() in COLUMNS else domain


def domain_of(column: str) -> str:
    """What ``column_of`` was given."""
    rest = column.removeprefix(MIXTURE)
    return rest if rest.strip().lower() in COLUMNS else column


def _read(path: Path) -> Table:
    if not path.exists():
        raise ValueError(f"There is no {path.name} in {str(path.parent)!r}: olmix needs {RATIOS} and the other.")
    table = table_of(path)
    frame = table.frame
    ids = [name for name in ("run", "run_id") if name in frame.columns]
    if len(ids) != 1:
        raise ValueError(f"{path.name} needs a column 'run' or 'run_id'; it has {', '.join(frame.columns)}.")
    frame = frame.rename(columns={ids[0]: "run"})
    frame["run"] = [unkept(str(run).strip()) for run in frame["run"]]
    repeats = frame["run"][frame["run"].duplicated()]
    if len(repeats):
        raise ValueError(f"{path.name}, row {repeats.index[0]}: run {repeats.iloc[0]!r} is repeated.")
    return replace(table, frame=frame)


def _supply(path: Path, domains: Sequence[str]) -> dict[str, float]:
    """Tokens by domain, or relative sizes, as ``meta.json`` says them; empty where there is none."""
    if not path.exists():
        return {}
    check_size(path.name, path.stat().st_size, _MOST_META)
    try:
        meta = parse_json(path.read_bytes())
        inner = meta.get("priors", meta) if isinstance(meta, Mapping) else {}
        key = next((key for key in _SIZES if isinstance(inner, Mapping) and inner.get(key)), None)
        known = {} if key is None else named_numbers(inner[key], key)
        if wrong := [name for name, value in known.items() if not value >= 0]:
            raise ValueError(f"{key} of {wrong[0]!r} is negative")
    except ValueError as error:
        raise ValueError(f"{path.name} is no description of olmix's data: {error}.") from error
    found = {name: known[name] for name in domains if name in known}
    if known and set(known) != set(domains):
        logger.warning(
            "%s: %s says nothing of %s, and names %s, which no run has.",
            *(path.name, key, ", ".join(sorted(set(domains) - set(known))) or "no domain"),
            ", ".join(sorted(set(known) - set(domains))) or "none",
        )
    if key == "relative_sizes" and math.isclose(sum(known.values()), 1, abs_tol=0.01):
        logger.warning(
            "%s: the sizes are relative, so that they say what is proportional, but cap nothing: --supply "
            "DOMAIN=TOKENS does, with --target-tokens.",
            path.name,
        )
    return found

"""Which column of a table of runs is what: by our own names, by those of trackers, or as the user says."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ray_mixopt.core.words import counted
from ray_mixopt.io.cells import MIXTURE, metric_of
from ray_mixopt.io.numerals import begins_with_digits, is_missing, is_unread, is_unsound, unsigned
from ray_mixopt.io.rows import VALIDATION
from ray_mixopt.io.table import Table

logger = logging.getLogger(__name__)

Unit = Literal["shares", "percent", "weights"]

COST_COLUMNS = ("cost_per_step", "relative_flops_per_step")
STEP_COLUMNS = ("step", "steps")
TIDY_COLUMNS = frozenset({"scale", "run", "parameters", *STEP_COLUMNS, *COST_COLUMNS})

# What trackers call them, in small letters, the likelier first; each may also stand behind "config/" and the like.
_SCALES = ("scale", "model_scale", "model_size", "model_name", "model", "size")
_STEPS = ("step", "steps", "_step", "global_step", "trainer/global_step", "train/global_step", "iteration", "iter")
_LAST_STEPS = ("training_iteration",)  # of Tune, which counts reports
_TOKENS = ("tokens", "n_tokens", "num_tokens", "tokens_seen", "train_tokens", "train/tokens", "consumed_tokens")
_RUNS = ("run", "run_name", "run_id", "trial_id", "name", "id")
_PARAMETERS = ("parameters", "n_parameters", "num_parameters", "n_params", "num_params")
_TOKEN_COSTS = ("cost_per_token",)
_CONFIG = re.compile(r"(?:config|params?|hparams?|tags)[/.]", re.IGNORECASE)
_SUMMARY = re.compile(r"(?:metrics?\.|summary[/.])", re.IGNORECASE)
_MIXTURE = re.compile(r"((?:(?:config|params?|hparams?)[/.])?mixture[/.:])(.+)", re.IGNORECASE | re.DOTALL)
_MOST_NAMED = 5  # rows or columns in a warning
_SHOWN = 60  # characters of a cell
_CHART = re.compile(r".+ - .+__(?:MIN|MAX)")  # of the table of a chart of W&B
_LOSS = re.compile(r"(?:.*[/._-])?val_loss[/.].+|.*(?:loss|ppl|perplexity|bpb|nll)", re.IGNORECASE | re.DOTALL)
_LOSSES = ("loss", "ppl", "perplexity", "bpb", "nll", "cross_entropy", "crossentropy")
# What trackers write beside the metrics, in small letters.
_BOOKS = frozenset(
    {"_runtime", "_timestamp", "_step", "runtime", "created", "updated", "timestamp", "time_this_iter_s"}
    | {"time_total_s", "time_since_restore", "iterations_since_restore", "training_iteration", "pid", "done"}
    | {"should_checkpoint", "date", "node_ip", "hostname", "start_time", "end_time", "episodes_total"}
    | {"timesteps_total", "timesteps_since_restore", "experiment_id", "gpu count", "sweep", "state", "status"}
)


@dataclass(frozen=True, kw_only=True)
class Columns:
    """What the columns of a table are called, where that cannot be told; all None and empty by default.

    Args:
        mixture: the columns of the shares, by name, or as a pattern such as ``weights/*`` that ends in a star, which
            stands for the domain.
        scale: the column of the model scale.
        step: the column of the training steps.
        run: the column of the run's name.
        unit: of the shares: "shares" that sum to 1, "percent", or "weights" that count in proportion, as numbers of
            tokens do.
    """

    mixture: Sequence[str] = ()
    scale: str | None = None
    step: str | None = None
    run: str | None = None
    unit: Unit | None = None


@dataclass(frozen=True, kw_only=True)
class Roles:
    """What the columns of one table hold; None for what it does not say.

    Attributes:
        shares: the domain, by column.
        metrics: the metric, by column.
        scale: name of the scale.
        step: training steps, or tokens.
        in_tokens: whether ``step`` counts tokens.
        run: name of the run.
        cost: cost of a step.
        token_cost: cost of a token.
        parameters: of the model.
    """

    shares: dict[str, str]
    metrics: dict[str, str]
    scale: str | None
    step: str | None
    in_tokens: bool
    run: str | None
    cost: str | None
    token_cost: str | None
    parameters: str | None


def roles_of(table: Table, asked: Columns) -> Roles:
    """What the columns of a table hold. Names that are not ours and were understood all the same are said once.

    Raises:
        ValueError: if there are no shares or no metrics, or a column that was asked for is not there.
    """
    shares, plain = _shares(table, asked)
    if len(shares) < 2:
        raise ValueError(
            f"{table.name} has the shares of one domain only, in {next(iter(shares))}, and a mixture is of two or "
            "more: add a column of what the rest of the tokens is, mixture/other, or name all with --mixture-columns."
        )
    free = [name for name in table.columns if name not in shares]
    own_steps = [name for name in STEP_COLUMNS if name in free]
    if asked.step is None and len(own_steps) > 1:
        raise ValueError(f"{table.name} has both columns 'step' and 'steps': {_say('step')} one of them.")
    scale = _asked(table, asked.scale, "scale") or _find(free, _SCALES)
    step = _asked(table, asked.step, "step") or _find(free, _STEPS)
    tokens = None if step else _find(free, _TOKENS)
    step = step or tokens or _find(free, _LAST_STEPS)
    if asked.step is not None and asked.step.lower().rpartition("/")[2] in _TOKENS:
        tokens = asked.step
    run = _asked(table, asked.run, "run") or _find(free, _RUNS)
    ours = plain and "scale" in free and bool(own_steps)  # and then all other columns of numbers are metrics
    cost = _find(free, COST_COLUMNS, ours)
    token_cost, parameters = _find(free, _TOKEN_COSTS, ours), _find(free, _PARAMETERS[:1] if ours else _PARAMETERS)
    if ours:
        parameters = "parameters" if "parameters" in free else None
    taken = {scale, step, run, cost, token_cost if tokens else None, parameters}
    if ours:
        taken |= TIDY_COLUMNS
    metrics: dict[str, str] = {}
    for name in metric_columns(table, [name for name in free if name not in taken and (ours or not _is_beside(name))]):
        short = name if ours else _SUMMARY.sub("", name, count=1)
        metrics[name] = metric_of(name if short in metrics.values() else short, TIDY_COLUMNS)
    if not metrics:
        known = ", ".join(sorted(name for name in table.columns if name in taken or name in shares))
        raise ValueError(
            f"{table.name} has no metric: every column but {known} that holds numbers is one; it has "
            f"{_listed(table.columns)}."
        )
    roles = Roles(
        shares=shares,
        metrics=metrics,
        scale=scale,
        step=step,
        in_tokens=tokens is not None,
        run=run,
        cost=cost,
        token_cost=token_cost if tokens else None,
        parameters=parameters,
    )
    _tell(table, roles, asked)
    return roles


def is_loss(column: str) -> bool:
    """Whether a column is a loss by its name, which no run leaves NaN that has not diverged."""
    return any(part in column.lower() for part in _LOSSES)


def values_of(table: Table, columns: Sequence[str]) -> np.ndarray:
    """Metrics ``(k, n)``: NaN was not measured, and an infinity is that of a run that diverged.

    A run whose losses are all NaN has diverged, too; where only some say NaN, they were not measured. That runs have
    diverged is said, and which rows say nothing.
    """
    values = np.column_stack([table.metric(name) for name in columns])
    losses = [i for i, name in enumerate(columns) if is_loss(name)]
    losses = losses or list(range(len(columns)))
    blank = np.flatnonzero(np.isnan(values[:, losses]).all(axis=1))
    for i in blank:
        for j in losses:
            if is_unsound(table.frame[columns[j]].iloc[i]):
                values[i, j] = np.inf
    if (diverged := np.isinf(values).any(axis=1)).any():
        logger.warning(
            "%s: %s NaN or an infinity, and so their runs have diverged (%s).",
            *(table.name, counted(int(diverged.sum()), "report says", "reports say"), _rows(table, diverged)),
        )
    if (silent := np.isnan(values).all(axis=1)).any():
        logger.warning(
            "%s: %s nothing, with no number of any metric (%s). Of a run that diverged, write nan as its loss.",
            *(table.name, counted(int(silent.sum()), "report says", "reports say"), _rows(table, silent)),
        )
    return values


def _rows(table: Table, chosen: np.ndarray) -> str:
    """Which rows those are that are chosen, ``(k,)``, for people."""
    some = ", ".join(map(str, table.frame.index[chosen][:_MOST_NAMED]))
    return f"{'row' if chosen.sum() == 1 else 'rows'} {some}{', ...' if chosen.sum() > _MOST_NAMED else ''}"


def _is_beside(column: str) -> bool:
    """Whether a tracker writes a column of that name beside the metrics."""
    return column.lower() in _BOOKS or column.lower().startswith("_wandb/") or _CONFIG.match(column) is not None


def metric_columns(table: Table, columns: Sequence[str]) -> list[str]:
    """Those of some columns that are metrics. What may be meant for one and is not is said.

    A metric holds numbers, be they read one way or another, or is a loss that is NaN throughout. So is a validation
    loss that is empty throughout, so that nothing is taken for the mean of all of them.

    Raises:
        ValueError: for a loss without any number, and a column of what looks like numbers and is not read as such.
    """
    found, beside, empty = [], {}, []
    for name in columns:
        cells = table.frame[name]
        if (
            name in table.doubtful
            or table.holds_numbers(name)
            or (is_loss(name) and any(is_unsound(cell) for cell in cells))
        ):
            found.append(name)
            continue
        texts = {row: cell for row, cell in cells.items() if not is_missing(cell)}
        if not texts:
            if _SUMMARY.sub("", name, count=1).startswith(VALIDATION):
                found.append(name)
                empty.append(name)
            continue
        odd = [row for row, cell in texts.items() if is_unread(cell)]
        if 2 * len(odd) > len(texts) or _LOSS.fullmatch(name):
            row = odd[0] if odd else next(iter(texts))
            text = str(texts[row])
            raise ValueError(
                f"{table.name}, row {row}: {name} is {text[:_SHOWN]!r}, and no cell of that column is a number that is "
                f"read{table.remark(text)}: write numbers as in {'1250,5' if table.comma else '1250.5'}, or take the "
                "column out, if it is no metric."
            )
        if 2 * sum(map(begins_with_digits, texts.values())) > len(texts):
            beside[name] = str(next(text for text in texts.values() if begins_with_digits(text)))
    if beside:
        some = ", ".join(f"{name} ({text[:_SHOWN]!r})" for name, text in list(beside.items())[:_MOST_NAMED])
        logger.warning(
            "%s: no metric is in %s%s, with no cell that is a number.",
            *(table.name, some, ", ..." if len(beside) > _MOST_NAMED else ""),
        )
    if empty:
        logger.warning(
            "%s: %s is empty in all rows, so that the mean of all val_loss/* is not known: take the column out if the "
            "rest is to count as the loss.",
            *(table.name, ", ".join(empty[:_MOST_NAMED])),
        )
    return found


def _shares(table: Table, asked: Columns) -> tuple[dict[str, str], bool]:
    """The domain by column, and whether they have our own names."""
    if asked.mixture:
        return _asked_shares(table, asked.mixture), False
    exact = {name: name.removeprefix(MIXTURE) for name in table.columns if name.startswith(MIXTURE)}
    if exact:
        return exact, True
    styles: dict[str, dict[str, str]] = {}
    for name in table.columns:
        if match := _MIXTURE.fullmatch(name):
            styles.setdefault(match[1].lower(), {})[name] = match[2]
    if styles:
        return max(styles.values(), key=len), False
    if any(_CHART.fullmatch(name) for name in table.columns):
        raise ValueError(
            f"{table.name} is the table of a chart of W&B, which does not hold the mixtures: export the table of runs "
            "instead, with the columns of the mixture's configuration."
        )
    likely = _sum_to_one(table)
    raise ValueError(
        f"{table.name} has no mixture columns: name them mixture/<domain>, or say which they are, --mixture-columns "
        f"{','.join(likely) or 'web,code'}{', if these are it' if likely else ''} (in Python Columns(mixture=...)). It "
        f"has {_listed(table.columns)}."
    )


def _sum_to_one(table: Table) -> list[str]:
    """Neighbouring columns that sum to 1, or to 100, in the first rows, for a hint; empty if there are none.

    What is something else by its name is none of them.
    """
    others = {*_SCALES, *_STEPS, *_LAST_STEPS, *_TOKENS, *_RUNS, *_PARAMETERS, *COST_COLUMNS, *_TOKEN_COSTS, *_BOOKS}
    first = replace(table, frame=table.frame.iloc[:5])
    cells = {name: [table.value(unsigned(cell)) for cell in first.frame[name]] for name in table.columns[:200]}
    shares = [
        _CONFIG.sub("", name.lower(), count=1) not in others
        and not is_loss(name)
        and all(v is not None and 0 <= v <= 100 for v in column)
        for name, column in cells.items()
    ]
    names, found = list(cells), []
    for start in range(len(names)):
        sums = np.zeros(len(first.frame))
        for stop in range(start, len(names)):
            if not shares[stop]:
                break
            sums = sums + np.array(cells[names[stop]], dtype=float)
            if stop > start and any(np.abs(sums / whole - 1).max() < 0.015 for whole in (1, 100)):
                found.append(names[start : stop + 1])
    return max(found, key=len, default=[])


def _asked_shares(table: Table, asked: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for entry in asked:
        for part in [entry] if entry in table.columns else [part.strip() for part in entry.split(",")]:
            before = part.removesuffix("*")
            if part in table.columns:
                matching = {part: part}
            elif before != part:
                matching = {n: n.removeprefix(before) for n in table.columns if n.startswith(before) and n != before}
            else:
                matching = {}
            if not matching:
                raise ValueError(
                    f"{table.name} has no column {part!r}, which --mixture-columns names: it has "
                    f"{_listed(table.columns)}."
                )
            found |= matching
    return found


def _asked(table: Table, column: str | None, role: str) -> str | None:
    if column is not None and column not in table.columns:
        raise ValueError(
            f"{table.name} has no column {column!r}, which --{role}-column names: it has {_listed(table.columns)}."
        )
    return column


def _find(columns: Sequence[str], names: Sequence[str], exact: bool = False) -> str | None:
    """The first of some names that a table has as a column, with a prefix of configurations if need be."""
    small = {column.lower(): column for column in reversed(columns)}
    bare = {} if exact else {_CONFIG.sub("", column.lower(), count=1): column for column in reversed(columns)}
    for known in ({column: column for column in columns}, small, bare):
        if known and (found := next((known[name] for name in names if name in known), None)) is not None:
            return found
        if exact:
            break
    return None


def _tell(table: Table, roles: Roles, asked: Columns) -> None:
    """Says what was understood of names that are not ours."""
    said = {
        "scale": None if asked.scale or roles.scale == "scale" else roles.scale,
        "tokens": roles.step if roles.in_tokens and not asked.step else None,
        "steps": None if asked.step or roles.in_tokens or roles.step in STEP_COLUMNS else roles.step,
        "run": None if asked.run or roles.run == "run" else roles.run,
        "cost": None if roles.cost in COST_COLUMNS else roles.cost,
        "parameters": None if roles.parameters == "parameters" else roles.parameters,
    }
    first = next(iter(roles.shares))
    if not asked.mixture and not first.startswith(MIXTURE):
        said["mixture"] = f"{first} and {len(roles.shares) - 1} more"
    if parts := [f"{what} in {column}" for what, column in said.items() if column]:
        logger.warning("%s: found %s.", table.name, ", ".join(parts))


def _say(role: str) -> str:
    return f"say which it is, --{role}-column COLUMN, or drop"


def _listed(columns: Sequence[str]) -> str:
    shown = ", ".join(columns[:40])
    return shown if len(columns) <= 40 else f"{shown} and {len(columns) - 40} more"

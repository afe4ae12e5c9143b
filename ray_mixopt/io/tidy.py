"""Tidy tables: one row a report of a run, whatever its columns are called."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ray_mixopt.core.safety import MOST_WHOLE
from ray_mixopt.core.trial import is_far
from ray_mixopt.core.words import counted
from ray_mixopt.io.cells import unkept
from ray_mixopt.io.columns import Columns, Roles, roles_of, values_of
from ray_mixopt.io.numerals import is_missing
from ray_mixopt.io.rows import Rows, check_in_tokens
from ray_mixopt.io.shares import mixtures
from ray_mixopt.io.table import Table

logger = logging.getLogger(__name__)

UNEVEN = 0.02  # of a length in tokens, by which it may miss a whole number of steps: it was rounded
ONE_SCALE, ONE_LENGTH = "model", 1  # of runs that do not say
SAME_RUN = 0.01  # shares that differ by less are those of one run, counted or rounded anew at each report


def rows_of(
    table: Table,
    asked: Columns,
    *,
    scale: str | None = None,
    steps: int | None = None,
    tokens_per_step: Mapping[str, float] | None = None,
    rungs: Sequence[int] = (),
    may_lack_mixtures: bool = False,
) -> Rows:
    """The rows of a table.

    Args:
        table: its cells.
        asked: what its columns are called, where that cannot be told.
        scale: the scale of all runs, if no column says it.
        steps: the length of all runs, if no column says it.
        tokens_per_step: tokens in a step, by scale, for a table that says tokens.
        rungs: training steps of the search that the rows are for, if any: tokens far beyond them are refused.
        may_lack_mixtures: whether runs of which the table has no mixture are left out, rather than refused.

    Raises:
        ValueError: if the table does not say what is needed; names the column or the row, and what would help.
    """
    roles = roles_of(table, asked)
    table = _with_reports(table, roles)
    phases, domains, columns = _by_phase(roles.shares)
    parts = [mixtures(table, some, asked.unit, may_miss=True) for some in columns]
    shares = np.concatenate(parts, axis=1)
    if phases and (half := np.isnan(shares).any(axis=1) & ~np.isnan(shares).all(axis=1)).any():
        row = table.frame.index[int(half.argmax())]
        raise ValueError(f"{table.name}, row {row}: the shares of a phase are empty, and those of another are not.")
    run = _runs(table, roles)
    scales = _scales(table, roles, run, scale)
    shares = _settled(table, roles, shares, run, scales)
    lacking = np.isnan(shares).any(axis=1)
    if lacking.any() and not may_lack_mixtures:
        place = int(lacking.argmax())
        alone = "" if run is None else f", and no other row of the run {run[place]} has them"
        raise ValueError(
            f"{table.name}, row {table.frame.index[place]}: all shares are empty ({', '.join(roles.shares)}){alone}: "
            "say what the run was trained on, or take it out."
        )
    if lacking.any():
        n = len(set(np.array(run)[lacking])) if run is not None else int(lacking.sum())
        logger.warning("%s: left out %s without a mixture.", table.name, counted(n, "run"))
        table, kept = replace(table, frame=table.frame.loc[~lacking]), np.flatnonzero(~lacking)
        if not len(kept):
            raise ValueError(f"{table.name}: no run says its mixture.")
        shares, scales = shares[~lacking], [scales[i] for i in kept]
        run = None if run is None else [run[i] for i in kept]
    for row, name in zip(table.frame.index, scales, strict=True):
        if is_missing(name):
            raise ValueError(
                f"{table.name}, row {row}: the scale is missing, in the column {roles.scale!r}: write it, or say with "
                "--scale-column which column has it."
            )
    _check_told(table, roles, shares, run, scales, scale, steps)
    scales = [unkept(name) for name in scales]
    run = None if run is None else [unkept(name) for name in run]
    lengths, factor = _lengths(table, roles, scales, steps, tokens_per_step or {}, rungs)
    cost = {} if roles.cost is None else _by_scale(table, roles.cost, scales)
    if roles.token_cost is not None:
        cost = {name: value / factor.get(name, 1) for name, value in _by_scale(table, roles.token_cost, scales).items()}
    return Rows(
        domains=domains,
        phases=phases,
        mixtures=shares,
        scale=scales,
        steps=lengths,
        metrics=tuple(roles.metrics.values()),
        values=values_of(table, list(roles.metrics)),
        parameters={} if roles.parameters is None else _by_scale(table, roles.parameters, scales),
        cost=cost,
        run=run,
    )


def _by_phase(shares: Mapping[str, str]) -> tuple[tuple[str, ...], tuple[str, ...], list[list[str]]]:
    """Phases and domains of columns of shares, and the columns of each phase; no phases where each is of a domain.

    Args:
        shares: the domain by column, or ``phase/domain``: no domain has a "/" in its name.
    """
    parts = {column: name.split("/") for column, name in shares.items()}
    if any(len(part) != 2 for part in parts.values()):
        return (), tuple(shares.values()), [list(shares)]
    phases, domains = (tuple(dict.fromkeys(part[i] for part in parts.values())) for i in (0, 1))
    of = {(phase, domain): column for column, (phase, domain) in parts.items()}
    if len(of) != len(phases) * len(domains):
        missing = next(f"{p}/{d}" for p in phases for d in domains if (p, d) not in of)
        raise ValueError(f"There are shares of domains in phases, but no column of {missing}: add it, of 0 if need be.")
    return phases, domains, [[of[phase, domain] for domain in domains] for phase in phases]


def _runs(table: Table, roles: Roles) -> list[str] | None:
    """The run of each row; None where the table does not say it.

    Raises:
        ValueError: naming a row without a run, where others have one.
    """
    found = [] if roles.run is None else table.texts(roles.run)
    missing = [is_missing(name) for name in found]
    if all(missing):
        return None
    if any(missing):
        raise ValueError(
            f"{table.name}, row {table.frame.index[missing.index(True)]}: the name of the run is missing, in the "
            f"column {roles.run!r}: write one, or say with --run-column which column has them."
        )
    return found


def _with_reports(table: Table, roles: Roles) -> Table:
    """The table without rows at step 0, at which nothing has been trained."""
    if roles.step is None:
        return table
    steps = table.numbers(roles.step, whole=True)
    if (start := steps == 0).all():
        raise ValueError(f"{table.name}: {roles.step} is 0 in all rows, and nothing was trained then.")
    if start.any():
        logger.warning("%s: left out %s at step 0, before any training.", table.name, counted(int(start.sum()), "row"))
        table = replace(table, frame=table.frame.loc[~start])
    return table


def _scales(table: Table, roles: Roles, run: Sequence[str] | None, scale: str | None) -> list[str]:
    """The scale of each row, that of its run where the row does not say it."""
    if roles.scale is None:
        return [ONE_SCALE if scale is None else scale] * len(table.frame)
    found = table.texts(roles.scale)
    if run is None:
        return found
    known = {key: name for key, name in zip(run, found, strict=True) if not is_missing(name)}
    return [known.get(key, name) if is_missing(name) else name for key, name in zip(run, found, strict=True)]


def _check_told(
    table: Table,
    roles: Roles,
    shares: np.ndarray,
    run: Sequence[str] | None,
    scales: Sequence[str],
    scale: str | None,
    steps: int | None,
) -> None:
    """Checks that a table without a column of scales or steps can do without it: each run has one row."""
    lacking = [
        role
        for role, column, given in (("scale", roles.scale, scale), ("step", roles.step, steps))
        if column is None and given is None
    ]
    if not lacking:
        return
    parts = [table.texts(column) if column else [""] * len(shares) for column in (roles.scale, roles.step)]
    keys = list(zip(run or map(str, np.round(shares, 4).tolist()), *parts, strict=True))
    flags = {"scale": "--scale NAME", "step": "--steps NUMBER"}
    columns = ", ".join(table.columns)
    if len(set(keys)) < len(keys):
        row = table.frame.index[next(i for i, key in enumerate(keys) if key in keys[:i])]
        raise ValueError(
            f"{table.name} needs a column {' and a column '.join(map(repr, lacking))}: row {row} is of a run that is "
            f"there before. Say which they are, {', '.join(f'--{role}-column COLUMN' for role in lacking)}, or, if it "
            f"is the same for all runs, {', '.join(flags[role] for role in lacking)}. It has {columns}."
        )
    for role in lacking:
        word = f"are of one scale, called {ONE_SCALE!r}" if role == "scale" else "have one length, called 1 step"
        logger.warning(
            "%s: no column says the %s, and so all runs %s; %s or --%s-column COLUMN says otherwise.",
            *(table.name, role, word, flags[role], role),
        )


def _lengths(
    table: Table,
    roles: Roles,
    scales: Sequence[str],
    steps: int | None,
    tokens_per_step: Mapping[str, float],
    rungs: Sequence[int],
) -> tuple[np.ndarray, dict[str, float]]:
    """Training steps ``(k,)``, and by scale the part of a step that one of them is: 1 where they are tokens."""
    if not roles.in_tokens:
        check_in_tokens(table.name, scales, tokens_per_step)
    if roles.step is None:
        return np.full(len(scales), ONE_LENGTH if steps is None else steps, dtype=np.int64), {}
    values = table.numbers(roles.step, whole=True)
    known = [tokens_per_step.get(name) for name in scales] if roles.in_tokens else [None] * len(scales)
    if roles.in_tokens and roles.cost is not None and not all(known):
        raise ValueError(
            f"{table.name} says {roles.step!r} instead of steps, but the cost of a step, in {roles.cost!r}: give "
            "--tokens-per-step SCALE=TOKENS for all scales (in Python Source(tokens_per_step=...)), or a column "
            "cost_per_token."
        )
    for row, name, value, size in zip(table.frame.index, scales, values, known, strict=True):
        if roles.in_tokens and not size and rungs and is_far(value, rungs):
            raise ValueError(
                f"{table.name}, row {row}: {value:,.0f} tokens, of the column {roles.step}, are no training steps, in "
                f"which the space counts, up to {max(rungs):,}: say how many tokens a step has, --tokens-per-step "
                f"{name}=TOKENS (in Python Source(tokens_per_step=...))."
            )
    if roles.in_tokens and not all(known):
        logger.warning(
            "%s: lengths are in tokens, of the column %s, so that a step is a token here, in costs, too; "
            "--tokens-per-step SCALE=TOKENS makes steps of them.",
            *(table.name, roles.step),
        )
    for i, (row, size) in enumerate(zip(table.frame.index, known, strict=True)):
        value = float(values[i])
        if size:
            values[i] = max(round(value / size), 1)
            if abs(values[i] * size / value - 1) > UNEVEN:
                raise ValueError(
                    f"{table.name}, row {row}: {roles.step} is {value:.10g}, and with --tokens-per-step "
                    f"{scales[i]}={size:g} that is {value / size:.3g} steps, no whole number: correct one of them."
                )
        elif not (0 < value <= MOST_WHOLE and value.is_integer()):
            raise ValueError(
                f"{table.name}, row {row}: {roles.step} must be a whole number above 0, got {value!r}; "
                "--step-column says which column is meant."
            )
    return values.astype(np.int64), {name: 1 / size for name, size in tokens_per_step.items() if size}


def _settled(
    table: Table, roles: Roles, shares: np.ndarray, run: Sequence[str] | None, scales: Sequence[str]
) -> np.ndarray:
    """The mixtures, each run's the same in all of its rows: trackers write it once, and counts of tokens grow.

    A row without a mixture has that of its run, from a row that says it. Where a run's mixtures are nearly the same,
    the last one counts, which has seen most; rows that repeat a step are of another run, and have a last one of their
    own.
    """
    if run is None:
        return shares
    steps = [0.0] * len(run) if roles.step is None else table.numbers(roles.step, whole=True).tolist()
    members: dict[tuple[str, str], list[int]] = {}
    for i, key in enumerate(zip(run, scales, strict=True)):
        members.setdefault(key, []).append(i)
    settled = shares.copy()
    for rows in members.values():
        known = [i for i in rows if not np.isnan(shares[i, 0])]
        if not known or np.abs(shares[known] - shares[known[-1]]).max() >= SAME_RUN:
            continue
        seen: Counter[float] = Counter()
        parts: dict[int, list[int]] = {}  # rows by how often their step was there before
        for i in rows:
            parts.setdefault(seen[steps[i]], []).append(i)
            seen[steps[i]] += 1
        for part in parts.values():
            settled[part] = shares[([i for i in part if not np.isnan(shares[i, 0])] or known)[-1]]
    return settled


def _by_scale(table: Table, column: str, scale: Sequence[str]) -> dict[str, float]:
    """A column that must hold one value a scale; cells may be empty where another row says it."""
    found: dict[str, float] = {}
    for row, name, value in zip(table.frame.index, scale, table.numbers(column, may_miss=True).tolist(), strict=True):
        if value != value:
            continue
        if value <= 0:
            raise ValueError(f"{table.name}, row {row}: {column} must be above 0, got {value!r}.")
        if found.setdefault(name, value) != value:
            raise ValueError(
                f"{table.name}, row {row}: {column} of scale {name!r} is {value!r}, but {found[name]!r} above: it is "
                "to be the same for all runs of a scale."
            )
    return found

"""Mixtures in tables: shares, percentages, weights and numbers of tokens, rounded or with cells left empty."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from ray_mixopt.io.columns import Unit
from ray_mixopt.io.numerals import digits, is_missing, unsigned
from ray_mixopt.io.table import Table

logger = logging.getLogger(__name__)

SUM_TOLERANCE = 0.01  # published shares are rounded, to three digits in RegMix
GAP_TOLERANCE = 0.05  # where cells are empty: a share that somebody left out is a small one
FEWEST_TOKENS = 1000  # a row of whole numbers that sum to more are counts
_UNTOLD = 1e-6  # what rounding in a file of single precision leaves
_ADVICE = (
    "If the numbers count in proportion, as numbers of tokens do, say so with --mixture-unit weights (in Python "
    "Columns(unit='weights')); if domains are missing, name all columns with --mixture-columns"
)


def mixtures(table: Table, columns: Sequence[str], unit: Unit | None = None, *, may_miss: bool = False) -> np.ndarray:
    """Mixtures ``(k, d)`` whose rows sum to 1; NaN where a row says nothing of its mixture, if it may.

    An empty cell is a share of 0. What is done to the numbers is said once: that they were taken for percentages or
    numbers of tokens, and by how much they were scaled.

    Args:
        table: their cells.
        columns: of the domains.
        unit: of the numbers; by default it is told from them.
        may_miss: whether rows may say nothing of their mixture.

    Raises:
        ValueError: for a row that is no mixture.
    """
    in_percent = table.in_percent(columns)
    values, places = _values(table, columns, in_percent)
    gaps = np.isnan(values)
    said = ~gaps.all(axis=1)
    if not may_miss and not said.all():
        row = table.frame.index[int(said.argmin())]
        raise ValueError(f"{table.name}, row {row}: all shares are empty, {', '.join(columns)}.")
    shares = np.where(gaps, 0.0, values)
    for row, mixture in zip(table.frame.index, shares, strict=True):
        if mixture.min() < 0:
            name = columns[int(mixture.argmin())]
            raise ValueError(f"{table.name}, row {row}: {name} is negative, {mixture.min():g}.")
    with np.errstate(over="ignore"):
        sums = shares.sum(axis=1)
    _check_total(table, columns, shares[said], sums[said])
    rounding = max(SUM_TOLERANCE, len(columns) * 0.5 * 10.0**-places)
    if in_percent and unit == "percent":
        unit = "shares"  # by now
    if unit is None:
        unit = _unit(shares[said], sums[said], gaps[said], rounding, places)
    whole = {"shares": 1.0, "percent": 100.0, "weights": 0.0}[unit]
    if unit == "percent":
        rounding = max(SUM_TOLERANCE, len(columns) * 0.5 * 10.0 ** -(places + 2))
    off = np.abs(sums / whole - 1) if whole else np.zeros(len(sums))
    allowed = np.where(gaps.any(axis=1), max(rounding, GAP_TOLERANCE), rounding)
    for i, row in enumerate(table.frame.index):
        if np.isinf(sums[i]):
            raise ValueError(f"{table.name}, row {row}: the mixture sums to more than a number can hold.")
        if said[i] and (off[i] > allowed[i] + 1e-9 or sums[i] <= 0):
            empty = f", with {columns[int(gaps[i].argmax())]} empty" if gaps[i].any() else ""
            where = f"{table.name}, row {row}: the mixture sums to {sums[i]:g}"
            if not whole:
                raise ValueError(f"{where}{empty}: a weight must be above 0.")
            raise ValueError(f"{where} instead of {whole:g}{empty}. {_ADVICE}.")
    _tell(table, "percent" if in_percent else unit, sums[said], off[said], gaps[said])
    # What is exact but for rounding stays, so that exported shares come back as they were.
    exact = (np.abs(sums - 1) < 1e-12) & (unit == "shares")
    with np.errstate(divide="ignore", invalid="ignore"):
        normalised: np.ndarray = np.where(exact[:, None], shares, shares / sums[:, None])
    normalised[~said] = np.nan
    return normalised


def _check_total(table: Table, columns: Sequence[str], shares: np.ndarray, sums: np.ndarray) -> None:
    """Checks that no column is the sum of the others in every row: it would be a domain of half of all tokens.

    Where rows sum to 1 or 100 with it, it is a domain that has half.
    """
    whole = [np.abs(sums / one - 1).max(initial=0.0) <= SUM_TOLERANCE for one in (1, 100)]
    if len(columns) < 3 or not len(sums) or any(whole) or not ((sums > 0) & (sums < np.finfo(float).max / 2)).all():
        return
    halves = np.abs(shares / (sums[:, None] / 2) - 1).max(axis=0) <= SUM_TOLERANCE
    if halves.any():
        name = columns[int(halves.argmax())]
        raise ValueError(
            f"{table.name}: {name} is the sum of the other shares in every row, and so no domain: drop the column, or "
            "name those of the domains with --mixture-columns (in Python Columns(mixture=...))."
        )


def _values(table: Table, columns: Sequence[str], in_percent: bool) -> tuple[np.ndarray, int]:
    """The numbers of the cells, those with a per cent sign as shares, and how many digits they were written with."""
    frame = table.frame[list(columns)]
    values, places = np.empty(frame.shape), 0
    for j, name in enumerate(columns):
        table.check_clear(name)
        for i, (row, cell) in enumerate(frame[name].items()):
            text = unsigned(cell)
            value = table.value(text)
            if value is None or np.isinf(value) or (value != value and not is_missing(cell)):
                raise ValueError(
                    f"{table.name}, row {row}: {name} must be a finite number or empty, for no share, got "
                    f"{str(cell)!r}{table.remark(cell)}."
                )
            values[i, j] = value / 100 if in_percent else value
            if value and value == value:
                places = max(places, digits(text) + 2 * in_percent)
    return values, min(places, 16)


def _unit(shares: np.ndarray, sums: np.ndarray, gaps: np.ndarray, rounding: float, places: int) -> Unit:
    """What the numbers are: what most rows sum to decides, and rows that do not are errors."""
    if not len(sums):
        return "shares"
    middle = float(np.median(sums))
    if abs(middle / 100 - 1) <= max(SUM_TOLERANCE, shares.shape[1] * 0.5 * 10.0 ** -(places + 2), GAP_TOLERANCE):
        return "percent"
    counted = (shares == np.floor(shares)).all() and (sums >= FEWEST_TOKENS).all()
    return "weights" if counted else "shares"


def _tell(table: Table, unit: Unit, sums: np.ndarray, off: np.ndarray, gaps: np.ndarray) -> None:
    if not len(sums):
        return
    parts = []
    if unit == "percent":
        parts.append("shares are in per cent")
    elif unit == "weights":
        parts.append(f"shares are in proportion to numbers of {min(sums):.4g} to {max(sums):.4g} a row")
    if n := int(gaps.any(axis=1).sum()):
        parts.append(f"empty shares in {n} of {len(gaps)} rows are 0")
    if off.max() > _UNTOLD:
        parts.append(
            f"{int((off > _UNTOLD).sum())} of {len(off)} mixtures did not sum to 1 and are scaled, by up to "
            f"{100 * off.max():.2g}%"
        )
    if parts:
        logger.warning("%s: %s.", table.name, "; ".join(parts))

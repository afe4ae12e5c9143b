"""What a run reported, as a state keeps it: one report after the other, or packed where there are many.

A run that reports every few steps has thousands of numbers. Written out with their names they would fill a disk and
take seconds, once a second; packed, a metric is one text: base64 of its values, little-endian float64, one a report,
NaN where it was not reported.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np

from ray_mixopt.core.safety import named_numbers, whole

Reports = dict[int, dict[str, float]]
"""Metrics by step, in the order of arrival."""

MOST_PLAIN = 200  # numbers of a run that are written out, for people to read
MOST_GAPS = 4  # cells to a number, of what is packed: a table of metrics that are hardly ever reported is mostly gaps


def described(reports: Mapping[int, Mapping[str, float]]) -> list[Any] | dict[str, Any]:
    """Reports as JSON-able data, read back by ``understood``: pairs ``[step, metrics]``, or packed."""
    rows = list(reports.values())
    names = dict.fromkeys(name for metrics in rows for name in metrics)
    numbers = sum(map(len, rows))
    if max(numbers, len(rows)) <= MOST_PLAIN or len(rows) * len(names) > MOST_GAPS * numbers:
        return [[step, dict(metrics)] for step, metrics in reports.items()]
    columns = {name: np.array([metrics.get(name, np.nan) for metrics in rows], dtype="<f8") for name in names}
    packed = {name: base64.b64encode(column.tobytes()).decode("ascii") for name, column in columns.items()}
    return {"steps": list(reports), "metrics": packed}


def understood(data: object, run: str) -> Reports:
    """The reports that ``described`` described.

    Args:
        data: the description.
        run: how errors call the run.

    Raises:
        ValueError: if it is malformed, a step is there twice, or a metric is no finite number.
    """
    if isinstance(data, Mapping):
        return _unpacked(data, run)
    if not isinstance(data, list):
        raise ValueError(f"{run} has observations of type {type(data).__name__}, not a list")
    found: Reports = {}
    for pair in data:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise ValueError(f"{run} has an observation that is no pair of a step and metrics")
        step = whole(pair[0], f"A step of {run}", 1)
        if step in found:
            raise ValueError(f"{run} has two observations at step {step}")
        found[step] = named_numbers(pair[1], f"{run}, step {step}: metrics")
    return found


def _unpacked(data: Mapping[str, Any], run: str) -> Reports:
    if set(data) != {"steps", "metrics"} or not isinstance(data["steps"], list):
        raise ValueError(f"{run} has observations that are neither a list nor packed with steps and metrics")
    steps = [whole(step, f"A step of {run}", 1) for step in data["steps"]]
    if len(set(steps)) < len(steps):
        raise ValueError(f"{run} has two observations at one step")
    if not isinstance(data["metrics"], Mapping):
        raise ValueError(f"{run} has packed metrics that have no names")
    columns = {
        str(name): _column(text, len(steps), f"{run}, metric {name!r},") for name, text in data["metrics"].items()
    }
    found: Reports = {step: {} for step in steps}
    for name, column in columns.items():
        for values, value in zip(found.values(), column.tolist(), strict=True):
            if value == value:  # it was reported
                values[name] = value
    return found


def _column(text: object, n: int, what: str) -> np.ndarray:
    if not isinstance(text, str):
        raise ValueError(f"{what} is packed as {type(text).__name__}, not as text")
    try:
        content = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise ValueError(f"{what} is no base64: {error}") from None
    if len(content) != 8 * n:
        raise ValueError(f"{what} has {len(content)} bytes, not 8 for each of {n} steps")
    column = np.frombuffer(content, dtype="<f8")
    if np.isinf(column).any():
        raise ValueError(f"{what} holds an infinity")
    return column

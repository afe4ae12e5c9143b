"""What a flattened Tune result says: how far the run is, and its metrics."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

from ray.tune.result import AUTO_RESULT_KEYS

_OF_TUNE = {*AUTO_RESULT_KEYS, "step", "done", "trial_id", "checkpoint_dir_name"}
_KINDS_OF_TUNE = ("config/", "timers/", "perf/")


def training_step(result: Mapping[str, Any]) -> int | None:
    """The training step: "step", else "training_iteration"; None where that is no number >= 1."""
    value = result.get("step", result.get("training_iteration"))
    try:
        return int(value) if value is not None and value >= 1 else None
    except (TypeError, ValueError, OverflowError):
        return None


def metrics_of(result: Mapping[str, Any], names: Iterable[str]) -> dict[str, float]:
    """Those of the named metrics that are there and are numbers, NaN and infinity among them."""
    found = {}
    for name in names:
        try:
            found[name] = float(result[name])
        except (KeyError, TypeError, ValueError):
            continue
    return found


def numbers_of(result: Mapping[str, Any]) -> dict[str, float]:
    """All finite numbers that a trial reported itself, for questions asked later."""
    return {
        key: float(value)
        for key, value in result.items()
        if key not in _OF_TUNE
        and not key.startswith(_KINDS_OF_TUNE)
        and isinstance(value, Real)
        and not isinstance(value, bool)
        and math.isfinite(value)
    }

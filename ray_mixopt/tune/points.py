"""Runs given in Tune's words: configurations, which the layout translates, perhaps before the space is known."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from ray_mixopt.io.search_state import AT_STEPS
from ray_mixopt.tune.layout import Layout

logger = logging.getLogger(__name__)


def evaluated(
    layout: Layout,
    parameters: Mapping[str, Any],
    value: float | Mapping[str, float],
    pruned: bool,
    intermediate: Sequence[float] | Mapping[int, float] | None,
) -> dict[str, Any] | None:
    """An evaluated point as ``SearchState`` keeps it; None for one that tells nothing.

    Args:
        layout: where the configuration holds what.
        parameters: the configuration.
        value: see ``MixOptSearcher.add_evaluated_point``, like the rest.
        pruned: see there.
        intermediate: see there.

    Raises:
        ValueError: if the configuration has no mixture.
    """
    point = _translated(layout, parameters, "An evaluated point")
    if isinstance(intermediate, Mapping):
        values: list[list[Any]] = [[int(step), value] for step, value in intermediate.items()]
    else:
        values = [[None, value] for value in intermediate or ()]  # at the first rungs, whatever they are
    if not pruned:
        values.append([AT_STEPS, value])
    if not values:
        logger.warning("A pruned point without intermediate_values tells nothing: it is left out.")
        return None
    return point | {"values": values}


def to_evaluate(layout: Layout, configs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Points to evaluate as ``Settings`` keep them.

    Args:
        layout: where a configuration holds what.
        configs: configurations.

    Raises:
        ValueError: if a configuration has no mixture, or a parameter that is not searched.
    """
    found = []
    for config in configs:
        point = _translated(layout, config, "A point to evaluate")
        if others := sorted(set(map(str, config)) - {layout.mixture, layout.scale, layout.steps}):
            raise ValueError(
                f"A point to evaluate has {layout.mixture!r}, {layout.scale!r} and {layout.steps!r} only, got "
                f"{', '.join(others)}, too: what else is in param_space is sampled."
            )
        found.append(point)
    return found


def _translated(layout: Layout, config: Mapping[str, Any], what: str) -> dict[str, Any]:
    """``{"mixture", "scale", "steps"}`` of a configuration; scale and steps are None where it lacks them."""
    if not isinstance(config, Mapping):
        raise ValueError(f"{what} must be a configuration such as suggestions are, got {config!r}.")
    if layout.mixture not in config:
        raise ValueError(f"{what} needs its mixture under {layout.mixture!r}, got the keys {sorted(config)}.")
    return {key: config.get(getattr(layout, key)) for key in ("mixture", "scale", "steps")}

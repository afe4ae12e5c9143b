"""Runs made elsewhere, given in Tune's words, perhaps before the search space is known."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from ray_mixopt.optimizer import MixtureOptimizer
from ray_mixopt.tune.layout import Layout

logger = logging.getLogger(__name__)

_AT_STEPS = -1  # stands for "at the steps of the configuration"


class EvaluatedPoints:
    """Points on their way to the optimizer.

    Args:
        state: JSON-able, from ``state``.
    """

    def __init__(self, state: Sequence[Mapping[str, Any]] = ()) -> None:
        self._points = [dict(point) for point in state]

    def state(self) -> list[dict[str, Any]]:
        """JSON-able description of the points that still wait."""
        return list(self._points)

    def add(
        self,
        layout: Layout,
        parameters: Mapping[str, Any],
        value: float | Mapping[str, float],
        pruned: bool,
        intermediate: Sequence[float] | Mapping[int, float] | None,
    ) -> None:
        """Takes in a point; see ``MixOptSearcher.add_evaluated_point``.

        Raises:
            ValueError: if its configuration has no mixture.
        """
        if layout.mixture not in parameters:
            raise ValueError(
                f"An evaluated point needs its mixture under {layout.mixture!r}, got the keys {sorted(parameters)}."
            )
        if isinstance(intermediate, Mapping):
            values: list[list[Any]] = [[int(step), value] for step, value in intermediate.items()]
        else:
            values = [[None, value] for value in intermediate or ()]  # at the first rungs, whatever they are
        if not pruned:
            values.append([_AT_STEPS, value])
        if not values:
            logger.warning("A pruned point without intermediate_values tells nothing: it is left out.")
            return
        point = {key: parameters.get(getattr(layout, key)) for key in ("mixture", "scale", "steps")}
        self._points.append(point | {"values": values})

    def hand_over(self, optimizer: MixtureOptimizer) -> None:
        """Gives all points to the optimizer.

        Raises:
            ValueError: for a point that does not fit its space or objective.
        """
        points, self._points = self._points, []
        for point in points:
            space = optimizer.space
            scale = space.target_scale if point["scale"] is None and len(space.scales) == 1 else point["scale"]
            steps = space.target_steps if point["steps"] is None and len(space.steps) == 1 else point["steps"]
            if scale is None or steps is None:
                raise ValueError("An evaluated point must name its model scale and its training steps.")
            rungs = [rung for rung in space.steps if rung <= steps]
            if sum(step is None for step, _ in point["values"]) > len(rungs):
                raise ValueError(
                    f"intermediate_values has more entries than there are rungs up to {steps} ({rungs}): give them as "
                    "{step: value}."
                )
            name = f"evaluated_{len(optimizer.history):05d}"
            for place, (step, value) in enumerate(point["values"]):
                step = rungs[place] if step is None else steps if step == _AT_STEPS else step
                optimizer.add_evaluated_point(
                    point["mixture"], str(scale), int(step), _metrics(optimizer, value), trial_id=name
                )


def _metrics(optimizer: MixtureOptimizer, value: float | Mapping[str, float]) -> Mapping[str, float]:
    if isinstance(value, Mapping):
        return value
    names = list(optimizer.problem.objective)
    if len(names) > 1:
        raise ValueError(f"The objective has the metrics {names}: give an evaluated point's values by name.")
    return {names[0]: value}

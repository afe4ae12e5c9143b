"""Model scales: what a step of each costs, how large it is, and at which lengths it is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ray_mixopt.core.arguments import in_order
from ray_mixopt.core.safety import MOST_WHOLE, is_finite

_SCALES = "a non-empty sequence of Scale, such as (Scale('1B', 1.0),)"


@dataclass(frozen=True)
class Scale:
    """A model scale.

    Args:
        name: how configurations and reports call it. A name never implies a cost.
        cost_per_step: price of one training step, in any one unit (FLOPs, GPU-seconds, money) used for all scales.
        parameters: number of model parameters, if known; it places the scale on the surrogate's log axis.
        steps: its own rungs, ascending, in training steps; None for those of the space.
        tokens_per_step: tokens of one training step, its batch, if known. Where all scales have it, lengths are
            compared in tokens; else in steps, as if all scales had batches of one size.
        annealed: share of each rung over which the learning rate falls before the report, on a branch that a run which
            goes on leaves behind: it goes on from where the branch began, and pays for that share again.
    """

    name: str
    cost_per_step: float
    parameters: float | None = None
    steps: tuple[int, ...] | None = None
    tokens_per_step: float | None = None
    annealed: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ValueError(f"A scale's name must be a non-empty string, got {self.name!r}.")
        for label in ("cost_per_step", "parameters", "tokens_per_step"):
            value: Any = getattr(self, label)
            if value is None and label != "cost_per_step":
                continue
            if not is_finite(value) or not value > 0:
                raise ValueError(f"Scale {self.name!r}: {label} must be a positive finite number, got {value!r}.")
            object.__setattr__(self, label, float(value))
        if not is_finite(self.annealed) or not 0 <= self.annealed < 1:
            raise ValueError(
                f"Scale {self.name!r}: annealed is a share of each rung, at least 0 and below 1, got {self.annealed!r}."
            )
        object.__setattr__(self, "annealed", float(self.annealed))
        if self.steps is not None:
            try:
                object.__setattr__(self, "steps", checked_steps(self.steps))
            except ValueError as error:
                raise ValueError(f"Scale {self.name!r}: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able description: its fields, without rungs, a batch and branches that it has not."""
        own = {
            "steps": self.steps and list(self.steps),
            "tokens_per_step": self.tokens_per_step,
            "annealed": self.annealed or None,
        }
        told = {label: value for label, value in own.items() if value is not None}
        return {"name": self.name, "cost_per_step": self.cost_per_step, "parameters": self.parameters} | told


def checked_costs(cost_per_step: Mapping[str, float]) -> Mapping[str, float]:
    """Costs by scale name; raises ValueError if they are something else. ``Scale`` checks the numbers."""
    if not isinstance(cost_per_step, Mapping):
        raise ValueError(f"cost_per_step must be the price of a step by scale name, got {cost_per_step!r}.")
    return cost_per_step


def priced(names: Sequence[str], cost_per_step: Mapping[str, float], *, remedy: str) -> dict[str, float]:
    """Cost per step by scale; that of a single scale is 1 unless it is known, so that cost is counted in its steps.

    Args:
        names: of the scales.
        cost_per_step: what is known, by name.
        remedy: what to do about a cost that is missing.

    Raises:
        ValueError: if a cost is missing.
    """
    prices = dict(checked_costs(cost_per_step))
    if len(names) == 1:
        prices.setdefault(names[0], 1.0)
    if unknown := [name for name in names if name not in prices]:
        raise ValueError(
            f"No cost is known for the scales {', '.join(unknown)}: {remedy}; a name never implies a cost."
        )
    return prices


def by_size(scales: Iterable[Scale]) -> tuple[Scale, ...]:
    """Scales small to large: by their parameters where all are known, else by the cost of a step."""
    given = tuple(scales)
    return tuple(sorted(given, key=_size(given)))


def largest(scales: Iterable[Scale]) -> Scale:
    """The largest of some scales, which is the target where none is named.

    Raises:
        ValueError: if two scales have the same claim to it.
    """
    ordered = by_size(scales)
    size, twins = _size(ordered), ordered[-2:]
    if len(twins) == 2 and size(twins[0]) == size(twins[1]):
        raise ValueError(
            f"The scales {twins[0].name} and {twins[1].name} cost the same, and nothing else says which is larger: "
            "give the parameters of all scales, or say what is wanted, target=(scale, steps) or --target SCALE:STEPS."
        )
    return ordered[-1]


def _size(scales: Sequence[Scale]) -> Callable[[Scale], tuple[float, float]]:
    """What tells which of some scales is larger."""
    sized = all(scale.parameters is not None for scale in scales)
    return lambda scale: (scale.parameters or 0.0 if sized else 0.0, scale.cost_per_step)


def checked_steps(steps: Sequence[int]) -> tuple[int, ...]:
    """Rungs as a tuple; raises ValueError if they are no ascending positive whole numbers."""
    values = in_order(steps, "steps", "a sequence of rungs, such as (1000,)")
    if not values:
        raise ValueError("steps must name at least one rung.")
    for value in values:
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or value <= 0:
            raise ValueError(f"Rungs must be positive whole numbers of training steps, got {value!r}.")
        if value > MOST_WHOLE:
            raise ValueError(f"A rung of {value!r:.20} steps is beyond {MOST_WHOLE}, which no run reaches.")
    if any(b <= a for a, b in zip(values, values[1:], strict=False)):
        raise ValueError(f"steps: rungs must be strictly ascending, got {list(values)}: sort them and drop repeats.")
    return tuple(int(value) for value in values)


def checked_scales(scales: Sequence[Scale]) -> tuple[Scale, ...]:
    """Scales as a tuple; raises ValueError if there are none, or two of one name."""
    result = in_order(scales, "scales", _SCALES)
    if not result or not all(isinstance(scale, Scale) for scale in result):
        raise ValueError(f"scales must be {_SCALES}, got {scales!r}.")
    names = [scale.name for scale in result]
    if len(set(names)) < len(names):
        raise ValueError(f"Scales must have distinct names, got {names}: rename or remove one of them.")
    return result


def with_rungs(scales: Sequence[Scale], steps: Sequence[int]) -> tuple[tuple[Scale, ...], tuple[int, ...]]:
    """The scales, all with rungs of their own if one has some, and the rungs of all together."""
    own = {rung for scale in scales for rung in scale.steps or ()}
    if not own:
        return tuple(scales), checked_steps(steps)
    rest = checked_steps(steps) if len(in_order(steps, "steps", "a sequence of rungs")) else ()
    without = [scale.name for scale in scales if scale.steps is None]
    if without and not rest:
        raise ValueError(f"No rungs are given for {', '.join(without)}: give steps, for all scales without their own.")
    if not without and (unused := [rung for rung in rest if rung not in own]):
        raise ValueError(
            f"steps has the rungs {', '.join(map(str, unused))}, and every scale has others of its own: add them to "
            "those of a scale, or leave steps out."
        )
    return tuple(replace(scale, steps=scale.steps or rest) for scale in scales), tuple(sorted({*own, *rest}))


def check_batches(scales: Sequence[Scale]) -> None:
    """Raises ValueError if the batches of some scales are known and those of others are not."""
    without = [scale.name for scale in scales if scale.tokens_per_step is None]
    if without and len(without) < len(scales):
        raise ValueError(
            f"tokens_per_step is not given for {', '.join(without)}, and for others it is: give it for all scales, "
            "those of earlier runs included, or for none."
        )

"""Phases of a training run: stretches of it that have a mixture each, such as a main phase and an annealing phase."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ray_mixopt.core.arguments import FrozenDict, in_order
from ray_mixopt.core.safety import is_finite, named_numbers
from ray_mixopt.core.scale import Scale

_SLACK = 1e-9  # by which fractions may miss 1: they often come from divisions


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A stretch of a training run that has one mixture.

    Args:
        name: how messages call it.
        fraction: of the run's training steps, above 0 and below 1.
        mixture: what it was trained on already, as weights by domain (0 where not given); None where its mixture is
            searched. The runs of the search then start from that run's checkpoints, and pay for what follows alone.

    Raises:
        ValueError: for a name, a fraction or a mixture that makes no sense.
    """

    name: str = field(kw_only=False)
    fraction: float = field(kw_only=False)
    mixture: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip() or "/" in self.name:
            raise ValueError(f"A phase's name must be a non-empty string without '/', got {self.name!r}.")
        if not is_finite(self.fraction) or not 0 < self.fraction < 1:
            raise ValueError(
                f"The phase {self.name!r} is a fraction of the run between 0 and 1, such as 0.2, got {self.fraction!r}."
            )
        object.__setattr__(self, "fraction", float(self.fraction))
        if self.mixture is None:
            return
        weights = named_numbers(self.mixture, f"The mixture of the phase {self.name!r}")
        total = math.fsum(weights.values())
        if not is_finite(total) or min(weights.values(), default=-1.0) < 0 or total <= 0:
            raise ValueError(
                f"The mixture of the phase {self.name!r} must have weights that are finite, non-negative and not all "
                f"zero, got {weights}."
            )
        shares = {name: weight / total for name, weight in weights.items()}
        object.__setattr__(self, "mixture", FrozenDict(weights if abs(total - 1) < _SLACK else shares))

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able description: its fields, without a mixture where it has none."""
        told = {} if self.mixture is None else {"mixture": dict(self.mixture)}
        return {"name": self.name, "fraction": self.fraction} | told


def checked_phases(phases: Sequence[Phase], domains: Sequence[str]) -> tuple[Phase, ...]:
    """The phases of a space, in the order of the training; none where a run has one mixture throughout.

    Raises:
        ValueError: if they are no whole run, or one that was trained already does not fit; the message says which.
    """
    found = in_order(phases, "phases", "a sequence of Phase, such as (Phase('main', 0.8, mixture=...), ...)")
    if not found:
        return ()
    if not all(isinstance(phase, Phase) for phase in found):
        raise ValueError(f"phases must be Phase objects, such as Phase('anneal', 0.2), got {list(found)}.")
    names = [phase.name for phase in found]
    if len(set(names)) < len(names):
        raise ValueError(f"Phases must have distinct names, got {names}.")
    total = math.fsum(phase.fraction for phase in found)
    if abs(total - 1) > _SLACK:
        each = ", ".join(f"{phase.name}={phase.fraction:g}" for phase in found)
        raise ValueError(f"The fractions of the phases sum to {total:g} instead of 1: {each}.")
    for phase in found:
        if unknown := sorted(set(phase.mixture or ()) - set(domains)):
            raise ValueError(
                f"The phase {phase.name!r} was trained on {', '.join(unknown)}, which are no domains: the space has "
                f"{', '.join(domains)}. Add them, with upper=0 where they are not to be trained on again."
            )
    searched = [phase.name for phase in found if phase.mixture is None]
    if searched != names[-1:]:
        raise ValueError(
            f"The mixture of one phase is searched, that of the last one, and all phases before it have one that they "
            f"were trained on, Phase(name, fraction, mixture=...): {', '.join(searched) or 'none'} of "
            f"{', '.join(names)} have none."
        )
    return found


def check_annealed(phases: Sequence[Phase], scales: Iterable[Scale]) -> None:
    """Raises ValueError if the learning rate of a scale falls for longer than the last phase takes."""
    for scale in scales:
        if phases and scale.annealed > phases[-1].fraction:
            raise ValueError(
                f"Scale {scale.name!r}: annealed is {scale.annealed:g} of a run, and the phase "
                f"{phases[-1].name!r} only {phases[-1].fraction:g}: a branch begins where its phase begins."
            )


def used_before(phases: Sequence[Phase], domain: str) -> float:
    """The part of a whole run's tokens that phases trained already took from a domain."""
    return math.fsum(phase.fraction * (phase.mixture or {}).get(domain, 0.0) for phase in phases)


def left_over(phases: Sequence[Phase], caps: np.ndarray, lower: np.ndarray, domains: Sequence[str]) -> np.ndarray:
    """Caps on the shares of the last phase, ``(d,)``, from those on the shares of whole runs.

    Args:
        phases: of a run; without any, the caps are as they are.
        caps: on the share of each domain in a whole run, which may be infinite, ``(d,)``.
        lower: floors on its share in the last phase, ``(d,)``.
        domains: their names.

    Raises:
        ValueError: if phases trained already have left too little of a domain for its floor.
    """
    if not phases:
        return caps
    used = [used_before(phases, name) for name in domains]
    left: np.ndarray = np.maximum(caps - used, 0.0) / phases[-1].fraction
    if spent := [name for name, low, cap in zip(domains, lower, left, strict=True) if cap < low]:
        raise ValueError(
            f"The phases trained already leave too little of {', '.join(spent)} for the floor: lower it, or raise "
            "token_supply or max_epochs."
        )
    return left

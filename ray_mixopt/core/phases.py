"""Phases of a training run: stretches of it that have a mixture each, such as a main phase and an annealing phase.

Phases trained already come first. What is searched is the mixture of the last phase, or those of several.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ray_mixopt.core.arguments import FrozenDict, as_numbers, in_order
from ray_mixopt.core.phased import PhasedSimplex
from ray_mixopt.core.safety import check_fields, is_finite, named_numbers
from ray_mixopt.core.scale import Scale
from ray_mixopt.core.simplex import CappedSimplex, Group, GroupedSimplex
from ray_mixopt.core.words import has_phases, listed

_SLACK = 1e-9  # by which fractions may miss 1: they often come from divisions
_MOST_NAMED = 8  # domains in a sentence
_LIMITS = ("domains", "lower", "upper", "groups")


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A stretch of a training run that has one mixture.

    Args:
        name: how messages call it.
        fraction: of the run's training steps, above 0 and below 1.
        mixture: what it was trained on already, as weights by domain (0 where not given); None where its mixture is
            searched. The runs of the search then start from that run's checkpoints, and pay for what follows alone.
        domains: of those of the space, the ones that it may be trained on; None for all.
        lower: its floors, by domain, in place of the space's; None for these.
        upper: its caps, likewise.
        groups: its limits on groups of domains, likewise.

    Raises:
        ValueError: for a name, a fraction or a mixture that makes no sense.
    """

    name: str = field(kw_only=False)
    fraction: float = field(kw_only=False)
    mixture: Mapping[str, float] | None = None
    domains: Sequence[str] | None = None
    lower: Mapping[str, float] | None = None
    upper: Mapping[str, float] | None = None
    groups: Sequence[Group] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip() or "/" in self.name:
            raise ValueError(f"A phase's name must be a non-empty string without '/', got {self.name!r}.")
        if not is_finite(self.fraction) or not 0 < self.fraction < 1:
            raise ValueError(
                f"The phase {self.name!r} is a fraction of the run between 0 and 1, such as 0.2, got {self.fraction!r}."
            )
        object.__setattr__(self, "fraction", float(self.fraction))
        for label in ("domains", "groups"):
            if getattr(self, label) is not None:
                names = in_order(getattr(self, label), f"{label} of the phase {self.name!r}")
                object.__setattr__(self, label, names)
        if self.domains is not None and not self.domains:
            raise ValueError(f"The phase {self.name!r} has no domains: name those that it is trained on, or none.")
        if wrong := [name for name in self.domains or () if not isinstance(name, str)]:
            raise ValueError(f"The domains of the phase {self.name!r} must be names, got {wrong[0]!r}.")
        if others := [group for group in self.groups or () if not isinstance(group, Group)]:
            raise ValueError(f"The groups of the phase {self.name!r} must be Group objects, got {others[0]!r}.")
        for label in ("lower", "upper"):
            if (shares := getattr(self, label)) is not None:
                found = named_numbers(shares, f"{label} of the phase {self.name!r}")
                if wrong := [name for name, share in found.items() if not 0 <= share <= 1]:
                    raise ValueError(f"{label} of the phase {self.name!r}: {wrong[0]} must have a share from 0 to 1.")
                object.__setattr__(self, label, FrozenDict(found))
        if self.mixture is None:
            return
        if own := [label for label in _LIMITS if getattr(self, label) is not None]:
            raise ValueError(f"The phase {self.name!r} was trained already: {own[0]} cannot limit it any more.")
        weights = named_numbers(self.mixture, f"The mixture of the phase {self.name!r}")
        total = sum(weights.values())  # infinite where math.fsum would raise
        if not is_finite(total) or min(weights.values(), default=-1.0) < 0 or total <= 0:
            raise ValueError(
                f"The mixture of the phase {self.name!r} must have weights that are finite, non-negative and not all "
                f"zero, got {weights}."
            )
        shares = {name: weight / total for name, weight in weights.items()}
        object.__setattr__(self, "mixture", FrozenDict(weights if abs(total - 1) < _SLACK else shares))

    def __str__(self) -> str:
        return f"{self.name} ({self.fraction:g} of the run)"

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able description, read back by ``from_dict``: its fields that are not None."""
        found: dict[str, Any] = {"name": self.name, "fraction": self.fraction}
        for label in ("mixture", "lower", "upper"):
            if (shares := getattr(self, label)) is not None:
                found[label] = dict(shares)
        if self.domains is not None:
            found["domains"] = list(self.domains)
        if self.groups is not None:
            found["groups"] = [group.to_dict() for group in self.groups]
        return found

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Phase:
        """The phase that ``to_dict`` described.

        Raises:
            ValueError: if the description is malformed.
        """
        check_fields(cls, data, "description of a phase")
        groups = data.get("groups")
        return cls(**{**data, "groups": None if groups is None else [Group(**group) for group in groups]})

    def limits(
        self, lower: np.ndarray, upper: np.ndarray, domains: Sequence[str], groups: Sequence[Group]
    ) -> tuple[np.ndarray, np.ndarray, Sequence[Group]]:
        """Its floors and caps, ``(d,)`` each, and its limits on groups, given those of the space."""
        if self.lower is not None:
            lower = np.array([self.lower.get(name, 0.0) for name in domains])
        if self.upper is not None:
            upper = np.array([self.upper.get(name, 1.0) for name in domains])
        if self.domains is not None:
            here = [name in self.domains for name in domains]
            floored = [name for name, low, is_here in zip(domains, lower, here, strict=True) if low > 0 and not is_here]
            if floored:
                raise ValueError(
                    f"{', '.join(floored)} has a floor and is none of its domains: give the phase floors of its own, "
                    f"lower={{...}}, or let it have {', '.join(floored)}."
                )
            upper = np.where(here, upper, 0.0)
        return lower, upper, groups if self.groups is None else self.groups


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
        named = {*(phase.domains or ()), *(phase.lower or ()), *(phase.upper or ())}
        if unknown := sorted(named - set(domains)):
            raise ValueError(
                f"The phase {phase.name!r} names {', '.join(unknown)}: the space has the domains {', '.join(domains)}."
            )
        if unknown := sorted(set(phase.mixture or ()) - set(domains)):
            raise ValueError(
                f"The phase {phase.name!r} was trained on {', '.join(unknown)}, which are no domains: the space has "
                f"{', '.join(domains)}. Add them, with upper=0 where they are not to be trained on again."
            )
    free = searched(found)
    if not free or free != found[-len(free) :]:
        raise ValueError(
            "Phases that were trained already, Phase(name, fraction, mixture=...), come before those that are "
            f"searched, of which there is one at least: {', '.join(phase.name for phase in free) or 'none'} of "
            f"{', '.join(names)} have no mixture."
        )
    if len(free) == 1 and (own := [label for label in _LIMITS if getattr(free[0], label) is not None]):
        raise ValueError(
            f"The phase {free[0].name!r} is the only one that is searched: say {own[0]} of the space instead."
        )
    return found


def searched(phases: Sequence[Phase]) -> tuple[Phase, ...]:
    """The phases whose mixtures are searched."""
    return tuple(phase for phase in phases if phase.mixture is None)


def in_words(phases: Sequence[Phase]) -> str:
    """The phases of a run and what was trained already, as a sentence; "" where there are none."""
    parts = []
    for phase in phases:
        largest = sorted((phase.mixture or {}).items(), key=lambda item: -item[1])
        some = [f"{share:.1%} {name}" for name, share in largest[:_MOST_NAMED] if share > 0]
        if rest := math.fsum(share for _, share in largest[_MOST_NAMED:]):
            some.append(f"{rest:.1%} of others")
        parts.append(f"{phase}, {'searched' if phase.mixture is None else f'trained already on {listed(some)}'}")
    return f"Phases: {'; then '.join(parts)}." if parts else ""


def branch(phases: Sequence[Phase]) -> tuple[float, bool]:
    """The fraction of each rung that runs to several rungs do not share, and whether the rest was paid before.

    They share no more than their first phase, of which the longer run has more. Of a phase trained already the rungs
    have checkpoints, where their branches begin.
    """
    if not phases:
        return 0.0, False
    free = searched(phases)
    is_paid = len(free) < len(phases)
    return math.fsum(phase.fraction for phase in (free if is_paid else phases[1:])), is_paid


def trained(step: float, rungs: Sequence[int], share: float, is_paid: bool) -> float:
    """Steps that a run has made which is at ``step``, those of the branches of all rungs on the way included.

    Args:
        step: of a report, or where a run failed.
        rungs: of its scale, ascending.
        share: of each rung that is a branch, above 0: before it the run is on its way to the rung, then on the branch.
        is_paid: whether what comes before the branches is somebody else's.
    """
    passed = [rung for rung in rungs if rung <= step]
    done = passed[-1] if passed else 0
    ahead = next((rung for rung in rungs if rung > step), None)
    shared, apart = (1 - share) * done, step - done  # where the last branch left; longer than it was asked to be
    if ahead is not None and step > done:
        border = (1 - share) * ahead
        shared, apart = max(shared, min(step, border)), max(step - border, 0.0)
    return (0.0 if is_paid else shared) + share * sum(passed) + apart


def check_annealed(phases: Sequence[Phase], scales: Iterable[Scale]) -> None:
    """Raises ValueError if the learning rate of a scale falls for longer than the branch of a rung."""
    for scale in scales:
        if phases and scale.annealed > branch(phases)[0] + _SLACK:
            raise ValueError(
                f"Scale {scale.name!r}: annealed is {scale.annealed:g} of a run, and what follows its first phases "
                f"only {branch(phases)[0]:g}: a branch begins where these end."
            )


def used_before(phases: Sequence[Phase], domain: str) -> float:
    """The part of a whole run's tokens that phases trained already took from a domain."""
    return math.fsum(phase.fraction * (phase.mixture or {}).get(domain, 0.0) for phase in phases)


def simplex_of(
    phases: Sequence[Phase],
    lower: np.ndarray,
    upper: np.ndarray,
    caps: np.ndarray,
    domains: Sequence[str],
    groups: Sequence[Group],
) -> CappedSimplex:
    """The mixtures that may be trained.

    Args:
        phases: of a run; none where it has one mixture throughout.
        lower: floors of the space, ``(d,)``.
        upper: its caps, ``(d,)``.
        caps: on the share of each domain in a whole run, which may be infinite, ``(d,)``.
        domains: their names.
        groups: limits of the space on groups of them.

    Raises:
        ValueError: if there is none; the message says what to change.
    """
    free = searched(phases)
    if phases:
        used = [used_before(phases, name) for name in domains]
        caps = np.maximum(caps - used, 0.0) / math.fsum(phase.fraction for phase in free)
        if len(free) == 1 and (spent := [n for n, low, cap in zip(domains, lower, caps, strict=True) if cap < low]):
            raise ValueError(
                f"The phases trained already leave too little of {', '.join(spent)} for the floor: lower it, or raise "
                "token_supply or max_epochs."
            )
    if len(free) < 2:
        return _simplex(lower, np.minimum(upper, caps), domains, groups)
    blocks = []
    for phase in free:
        try:
            low, high, of_groups = phase.limits(lower, upper, domains, groups)
            blocks.append(_simplex(low, high, domains, of_groups))
        except ValueError as error:
            raise ValueError(f"The phase {phase.name!r}: {error}") from None
    return PhasedSimplex(blocks, fractions_of(phases), caps, domains)


def fractions_of(phases: Sequence[Phase]) -> tuple[float, ...]:
    """What each of the phases that are searched has of their tokens; sums to 1."""
    each = [phase.fraction for phase in searched(phases)]
    return tuple(fraction / math.fsum(each) for fraction in each)


def _simplex(lower: np.ndarray, upper: np.ndarray, domains: Sequence[str], groups: Sequence[Group]) -> CappedSimplex:
    return GroupedSimplex(lower, upper, domains, groups) if groups else CappedSimplex(lower, upper, names=domains)


def each_phase(values: Any, names: Sequence[str], d: int) -> list[Any]:
    """The mixture of each phase, from that of all phases, or from one that all of them have.

    Args:
        values: ``{phase: {domain: weight}}`` or ``{domain: weight}``; or numbers, ``(p * d,)`` or ``(d,)``.
        names: of the ``p`` phases.
        d: number of domains.

    Raises:
        ValueError: if it is for other phases, or of another length.
    """
    if isinstance(values, Mapping):
        if not has_phases(values):
            return [values] * len(names)
        if set(values) != set(names):
            missing, unknown = sorted(set(names) - set(values)), sorted(map(str, set(values) - set(names)))
            raise ValueError(f"A mixture must name every phase once; missing: {missing}, unknown: {unknown}.")
        return [values[name] for name in names]
    shares = as_numbers(values)
    if shares.shape == (d,):
        return [shares] * len(names)
    if shares.shape != (len(names) * d,):
        raise ValueError(
            f"A mixture of the phases {', '.join(names)} needs {d} shares for each, {len(names) * d} in all, or {d} "
            f"that all have; got shape {shares.shape}."
        )
    return np.split(shares, len(names))

"""The search space: mixtures of data domains x model scales x training steps, and what a run costs.

Notation: ``d`` domains, ``n`` mixtures. A mixture is a row of ``d`` shares of training tokens that sum to 1, in the
order of ``MixtureSpace.domains``; at the edges it travels as ``{domain name: share}``. Where the mixtures of several
phases are searched it has such shares for each, one phase after the other, and travels as ``{phase: {domain: share}}``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from ray_mixopt.core.arguments import as_numbers, in_order
from ray_mixopt.core.domains import by_domain, checked_domains
from ray_mixopt.core.notebook import of_space
from ray_mixopt.core.phases import (
    Phase,
    branch,
    check_annealed,
    checked_phases,
    each_phase,
    searched,
    simplex_of,
    trained,
    used_before,
)
from ray_mixopt.core.safety import check_fields, check_version, parse_json
from ray_mixopt.core.scale import Scale, by_size, check_batches, checked_scales, largest, with_rungs
from ray_mixopt.core.simplex import CappedSimplex, Group
from ray_mixopt.core.supply import Repetition, checked_repetition, checked_tokens

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

FORMAT_VERSION = 1
_MOST_RATIO = 1e12  # of the costs of two runs; sums of floats lose the cheap one from 1e16 on


@dataclass(frozen=True, kw_only=True)
class MixtureSpace:
    """What may be trained, what it costs, and where the answer is wanted. Immutable.

    Args:
        domains: names of the data domains, without "/".
        scales: model scales, in any order; kept small to large, by ``parameters`` where all have them, else by cost.
        steps: the rungs, ascending: training lengths, in steps, at which runs report and may be paused; of the scales
            that have none of their own. Kept as those of all scales together: ``rungs`` has those of one.
        target: ``(scale name, steps)`` at which the best mixture is wanted; the largest scale and last rung by default.
        lower: smallest share of a domain, by name (0 where not given).
        upper: largest share of a domain, by name (1 where not given).
        token_supply: tokens available, by domain. With ``target_tokens`` it caps a domain's share at
            ``max_epochs * token_supply / target_tokens``; it is also what the "proportional" mixture follows.
        target_tokens: tokens seen by the target run.
        max_epochs: most passes over a domain's tokens in the target run.
        repetition: what runs at other fidelities than the target pass over, where the surrogate is to know what passes
            beyond the first are worth: "real" if they have the same tokens, of which a shorter run then repeats less,
            "matched" if each scale has so many fewer of them that it repeats as much at every part of its longest run
            as the target's scale at that part of its own. None: a share is worth the same however often it is repeated.
        groups: limits on the share that some domains have together; a domain is in at most one of them.
        earlier_scales: scales of runs made earlier, which the surrogate learns from but which are not trained any more.
        phases: of a run, where it has several: ``(Phase("main", 0.8), Phase("anneal", 0.2))``. A mixture is then one
            for each; or, where all but the last were trained already, that of the last one. Lengths are those of whole
            runs.

    Raises:
        ValueError: for names, rungs, bounds or targets that make no sense; the message says what to change.
    """

    domains: tuple[str, ...]
    scales: tuple[Scale, ...]
    steps: tuple[int, ...] = ()
    target: tuple[str, int] | None = None
    lower: Mapping[str, float] = field(default_factory=dict)
    upper: Mapping[str, float] = field(default_factory=dict)
    token_supply: Mapping[str, float] = field(default_factory=dict)
    target_tokens: float | None = None
    max_epochs: float = 1.0
    groups: tuple[Group, ...] = ()
    earlier_scales: tuple[Scale, ...] = ()
    phases: tuple[Phase, ...] = ()
    repetition: Repetition | None = None

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "domains", checked_domains(self.domains))
        put(self, "phases", checked_phases(self.phases, self.domains))
        given = checked_scales(self.scales)
        put(self, "_listed", tuple(scale.name for scale in given))
        given, steps = with_rungs(given, self.steps)
        put(self, "scales", by_size(given))
        put(self, "steps", steps)
        put(self, "earlier_scales", in_order(self.earlier_scales, "earlier_scales"))
        check_batches(checked_scales((*self.scales, *self.earlier_scales)))
        check_annealed(self.phases, (*self.scales, *self.earlier_scales))
        put(self, "groups", in_order(self.groups, "groups"))
        put(self, "_by_name", {scale.name: scale for scale in (*self.scales, *self.earlier_scales)})
        _check_costs([self.cost(*fidelity) for fidelity in self.fidelities])
        put(self, "target", self._checked_target())
        for label in ("lower", "upper", "token_supply"):
            put(self, label, by_domain(label, getattr(self, label), self.domains))
        put(self, "_simplex", simplex_of(self.phases, *self._bounds(), self.domains, self.groups))

    # -- sizes, look-ups and costs

    @property
    def n_domains(self) -> int:
        """Number of domains, ``d``."""
        return len(self.domains)

    @property
    def simplex(self) -> CappedSimplex:
        """The set of mixtures within the floors, caps and limits on groups."""
        return self.__dict__["_simplex"]

    @property
    def scale_names(self) -> tuple[str, ...]:
        """Names of the scales, small to large."""
        return tuple(scale.name for scale in self.scales)

    @property
    def listed_scales(self) -> tuple[str, ...]:
        """Names of the scales in the order in which they were given."""
        return self.__dict__["_listed"]

    @property
    def target_scale(self) -> str:
        """Name of the scale at which the answer is wanted."""
        assert self.target is not None
        return self.target[0]

    @property
    def target_steps(self) -> int:
        """Training steps at which the answer is wanted."""
        assert self.target is not None
        return self.target[1]

    @property
    def phase_names(self) -> tuple[str, ...]:
        """Names of the phases that a mixture is of, in order; none where it is one mixture of domains."""
        free = searched(self.phases)
        return tuple(phase.name for phase in free) if len(free) > 1 else ()

    @property
    def n_shares(self) -> int:
        """Number of shares of a mixture: ``d``, for each phase that is searched."""
        return self.n_domains * max(len(self.phase_names), 1)

    @property
    def searched(self) -> float:
        """The fraction of a run that is trained on what is searched: 1 where no phase was trained already."""
        return math.fsum(phase.fraction for phase in searched(self.phases)) if self.phases else 1.0

    def begins(self, steps: int) -> int:
        """The step of a run to ``steps`` after which it has what is searched: 0 unless phases were trained already."""
        return round((1 - self.searched) * steps)

    def check_one_mixture(self, what: str) -> None:
        """Raises ValueError, which begins with ``what``, if mixtures are of several phases."""
        if self.phase_names:
            raise ValueError(
                f"{what} one mixture for the whole of a run, and the space has one for each of the phases "
                f"{', '.join(self.phase_names)}."
            )

    @property
    def mixture_tokens(self) -> float | None:
        """Tokens of the target run that its mixture is of; None where ``target_tokens`` is not known."""
        return None if self.target_tokens is None else self.searched * self.target_tokens

    def taken(self, domain: str, share: float) -> float:
        """Tokens of a domain that the target run takes whose mixture has that share of it; 0 where that is unknown."""
        return (self.target_tokens or 0.0) * (self.searched * share + used_before(self.phases, domain))

    def tokens(self, scale: str, steps: float) -> float:
        """Tokens of a run, where those of the target run are known, else 0."""
        here, there = (self.scale(name).tokens_per_step or 1.0 for name in (scale, self.target_scale))
        return (self.target_tokens or 0.0) * steps * here / (self.target_steps * there)

    def repeats_as(self, scale: str, steps: float) -> float:
        """Tokens of a run at the target that repeats as much as this one, of the supply that there is at the target."""
        if self.repetition != "matched":
            return self.tokens(scale, steps)
        here, there = (self.rungs(name)[-1] for name in (scale, self.target_scale))
        return (self.target_tokens or 0.0) * (steps / here) / (self.target_steps / there)

    def rates(self, scale: str, steps: float, supply: Mapping[str, float] = MappingProxyType({})) -> np.ndarray:
        """How often a run passes over each domain for a share of 1 of it, ``(d,)``; 0 where no supply is known.

        Args:
            scale: its scale.
            steps: its length.
            supply: tokens by domain that there were for it, where these are others than the space says.
        """
        own = np.array([supply.get(name, 0.0) for name in self.domains])
        with np.errstate(divide="ignore"):
            as_said, as_others = self.tokens(scale, steps) / own, self.repeats_as(scale, steps) / self._supply
        return np.where(own > 0, as_said, as_others)

    @property
    def target_cost(self) -> float:
        """Cost of one run at the target."""
        return self.cost(self.target_scale, self.target_steps)

    def scale(self, name: str) -> Scale:
        """The scale of that name.

        Raises:
            ValueError: if there is none.
        """
        try:
            return self.__dict__["_by_name"][name]
        except (KeyError, TypeError):
            known = ", ".join(self.__dict__["_by_name"])
            raise ValueError(f"Unknown scale {name!r}: the space has {known}.") from None

    def rungs(self, scale: str) -> tuple[int, ...]:
        """The training lengths at which runs of a scale report and may be paused, in steps, ascending.

        Raises:
            ValueError: if there is no such scale.
        """
        return self.scale(scale).steps or self.steps

    @property
    def fidelities(self) -> tuple[tuple[str, int], ...]:
        """Every scale, small to large, at each of its rungs."""
        return tuple((scale, steps) for scale in self.scale_names for steps in self.rungs(scale))

    @property
    def in_tokens(self) -> bool:
        """Whether lengths are compared in tokens; else in steps, as if all scales had batches of one size."""
        return self.scales[0].tokens_per_step is not None

    @property
    def trains(self) -> str:
        """What ``fidelities`` has, in words: each scale and its rungs."""
        together: dict[tuple[int, ...], list[str]] = {}
        for name in self.scale_names:
            together.setdefault(self.rungs(name), []).append(name)
        return "; ".join(f"{', '.join(names)} to {', '.join(map(str, steps))}" for steps, names in together.items())

    def cost(self, scale: str, steps: float, *, start: float = 0) -> float:
        """Cost of training ``scale`` from step ``start`` to step ``steps``, in the unit of ``cost_per_step``.

        Where reports are annealed, the branches of all rungs on the way count; see ``Scale``. So they do where a run
        has phases: the later ones are a branch for each rung. What phases trained already have cost is paid.
        """
        if steps < start:
            raise ValueError(f"A run cannot go back from step {start} to step {steps}.")
        of = self.scale(scale)
        share, is_paid = branch(self.phases)
        if not (share := max(share, of.annealed)):
            return of.cost_per_step * (steps - start)
        first, last = (trained(step, of.steps or self.steps, share, is_paid) for step in (start, steps))
        return of.cost_per_step * (last - first)

    # -- mixtures

    def mixture(self, values: Mapping[str, float] | ArrayLike) -> np.ndarray:
        """Shares as an array in domain order, normalised to sum to 1.

        Args:
            values: non-negative weights by domain name (all domains), or ``(d,)`` numbers in domain order. Of several
                phases such weights for each, by name or in their order; or those that all phases have.

        Raises:
            ValueError: if a domain or phase is missing or unknown, or a weight is negative or not finite.
        """
        if not self.phase_names:
            return self._one_mixture(values)
        found = []
        for phase, of_phase in zip(self.phase_names, each_phase(values, self.phase_names, self.n_domains), strict=True):
            try:
                found.append(self._one_mixture(of_phase))
            except ValueError as error:
                raise ValueError(f"The mixture of the phase {phase!r}: {error}") from None
        return np.concatenate(found)

    def _one_mixture(self, values: Mapping[str, float] | ArrayLike) -> np.ndarray:
        if isinstance(values, Mapping):
            if set(values) != set(self.domains):
                missing = sorted(set(self.domains) - set(values))
                unknown = sorted(map(str, set(values) - set(self.domains)))
                raise ValueError(f"A mixture must name every domain once; missing: {missing}, unknown: {unknown}.")
            values = [values[name] for name in self.domains]
        weights = as_numbers(values)
        if weights.shape != (self.n_domains,):
            raise ValueError(f"A mixture needs {self.n_domains} shares, one a domain; got shape {weights.shape}.")
        with np.errstate(over="ignore"):
            total = weights.sum()
        if not math.isfinite(total) or weights.min() < 0 or total <= 0:
            raise ValueError(f"Shares must be finite, non-negative and not all zero, got {weights.tolist()}.")
        return weights if abs(total - 1.0) < 1e-15 else weights / total

    def named(self, mixture: ArrayLike) -> dict[str, Any]:
        """Shares as ``{domain: share}``, those of several phases as ``{phase: {domain: share}}``."""
        shares = np.asarray(mixture, dtype=np.float64)
        if not self.phase_names:
            return dict(zip(self.domains, shares.tolist(), strict=True))
        parts = np.split(shares, len(self.phase_names))
        each = [dict(zip(self.domains, part.tolist(), strict=True)) for part in parts]
        return dict(zip(self.phase_names, each, strict=True))

    def uniform(self) -> np.ndarray:
        """The mixture nearest to equal shares, ``(n_shares,)``."""
        return self.simplex.project(np.full((1, self.n_shares), 1.0 / self.n_domains))[0]

    def proportional(self) -> np.ndarray | None:
        """The mixture nearest to the token supply, ``(n_shares,)``; None without a supply for every domain."""
        if set(self.token_supply) != set(self.domains):
            return None
        supply = np.array([self.token_supply[name] for name in self.domains])
        return self.simplex.project(np.resize(supply / supply.sum(), (1, self.n_shares)))[0]

    def sample(self, n: int, rng: np.random.Generator, concentration: float | ArrayLike = 1.0) -> np.ndarray:
        """``n`` mixtures from a Dirichlet conditioned on the floors and caps, ``n x n_shares``.

        Concentration 1 is the uniform distribution on the capped simplex; see ``CappedSimplex.sample``. Of several
        phases half are the same in all, see ``PhasedSimplex.sample``.
        """
        return self.simplex.sample(n, rng, concentration)

    def corners(self) -> np.ndarray:
        """Row i holds as much of domain i as the bounds allow, in all phases, ``d x n_shares``."""
        return self.simplex.corners()

    # -- exchange

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able description, read back by ``from_dict``."""
        return {
            "version": FORMAT_VERSION,
            "domains": list(self.domains),
            "scales": [scale.to_dict() for scale in self.scales],
            "steps": list(self.steps),
            "target": [self.target_scale, self.target_steps],
            "lower": dict(self.lower),
            "upper": dict(self.upper),
            "token_supply": dict(self.token_supply),
            "target_tokens": self.target_tokens,
            "max_epochs": self.max_epochs,
            "groups": [group.to_dict() for group in self.groups],
            "earlier_scales": [scale.to_dict() for scale in self.earlier_scales],
        } | self._only_given()

    def _only_given(self) -> dict[str, Any]:
        """The part of ``to_dict`` that spaces without phases and repetition do not have."""
        found: dict[str, Any] = {"phases": [phase.to_dict() for phase in self.phases]} if self.phases else {}
        return found | ({"repetition": self.repetition} if self.repetition else {})

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> MixtureSpace:
        """The space that ``to_dict`` described.

        Raises:
            ValueError: if the description is of another version or malformed.
        """
        check_version(data, "a space", FORMAT_VERSION)
        fields = {key: data[key] for key in data if key != "version"}
        check_fields(cls, fields, "description of a space")
        fields |= {key: tuple(Scale(**scale) for scale in fields.get(key, ())) for key in ("scales", "earlier_scales")}
        fields["groups"] = tuple(Group(**group) for group in fields.get("groups", ()))
        fields["phases"] = tuple(Phase.from_dict(phase) for phase in fields.get("phases", ()))
        fields["target"] = None if fields.get("target") is None else tuple(fields["target"])
        return cls(**fields)

    def to_json(self) -> str:
        """``to_dict`` as a JSON string; floats survive the round trip exactly."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> MixtureSpace:
        """The space that ``to_json`` wrote.

        Raises:
            ValueError: if the text is not JSON or not a space.
        """
        try:
            data = parse_json(text)
        except ValueError as error:
            raise ValueError(f"Not the JSON description of a space: {error}.") from error
        return cls.from_dict(data)

    def _repr_html_(self) -> str:
        return of_space(self.to_dict())

    def param_space(self) -> dict[str, Any]:
        """Ray Tune's ``param_space`` for this space: a plain nested dict of Tune domains that carry it along."""
        from ray_mixopt.tune.param_space import to_param_space

        return to_param_space(self)

    @classmethod
    def from_param_space(cls, config: Mapping[str, Any], **names: Any) -> MixtureSpace:
        """The space that a Tune ``param_space`` describes, ours or a hand-written one.

        See ``ray_mixopt.tune.param_space.from_param_space`` for the keywords and the errors raised.
        """
        from ray_mixopt.tune.param_space import from_param_space

        return from_param_space(config, **names)

    # -- checks

    def _checked_target(self) -> tuple[str, int]:
        if self.target is None:
            top = largest(self.scales).name
            return top, self.rungs(top)[-1]
        try:
            scale, steps = self.target
        except (TypeError, ValueError):
            raise ValueError(f"target must be a pair (scale name, steps), got {self.target!r}.") from None
        if scale not in self.scale_names:
            raise ValueError(f"The target's scale {scale!r} is unknown: the space has {', '.join(self.scale_names)}.")
        rungs = self.rungs(scale)
        if steps not in rungs:
            raise ValueError(f"The target's steps {steps!r} are not one of the rungs {rungs}: add it or take one.")
        return str(scale), int(steps)

    @property
    def _supply(self) -> np.ndarray:
        """Tokens of each domain, infinite where none are given, ``(d,)``."""
        return np.array([self.token_supply.get(name, math.inf) for name in self.domains])

    def _bounds(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Floors, caps, and caps on the share in a whole run, ``(d,)`` each."""
        lower = np.array([self.lower.get(name, 0.0) for name in self.domains])
        upper = np.array([self.upper.get(name, 1.0) for name in self.domains])
        checked = checked_tokens(self.token_supply, self.target_tokens, self.max_epochs)
        for label, value in zip(("target_tokens", "max_epochs"), checked, strict=True):
            object.__setattr__(self, label, value)
        caps = np.full(self.n_domains, math.inf)
        if self.target_tokens is not None:
            caps = self.max_epochs * self._supply / self.target_tokens
        checked_repetition(self.repetition, self.target_tokens, self.max_epochs, self.phases)
        return lower, upper, caps


def _check_costs(costs: Sequence[float]) -> None:
    if not (min(costs) > 1e-100 and max(costs) < 1e100 and max(costs) <= _MOST_RATIO * min(costs)):
        raise ValueError(
            f"Runs of this space cost from {min(costs):.3g} to {max(costs):.3g}, which no budget can count together: "
            f"give cost_per_step in one unit, in which no run costs more than {_MOST_RATIO:g} times another."
        )

"""Histories merged into one space, and what became of their domains in it.

A map goes from each old domain to shares of new ones. One that is not named keeps its name; a new domain that nothing
maps to had no share in old runs, which is what adding a domain means.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ray_mixopt.core.history import History, Trial
from ray_mixopt.core.safety import check_fields, parse_json
from ray_mixopt.core.scale import by_size
from ray_mixopt.core.space import MixtureSpace

logger = logging.getLogger(__name__)

DROPPED_SHARE = 1e-3  # a run may have had at most this share of a dropped domain


@dataclass(frozen=True, kw_only=True)
class DomainMap:
    """Changes of the list of domains.

    Args:
        renamed: new name by old name. Several old domains with one new name are merged.
        split: for an old domain, what it was made of: share by new domain, summing to 1.
        dropped: old domains that are gone. Runs with more than a thousandth of their tokens from them are left out.

    Raises:
        ValueError: if a domain is changed twice or a split does not sum to 1.
    """

    renamed: Mapping[str, str] = field(default_factory=dict)
    split: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    dropped: Sequence[str] = ()

    def __post_init__(self) -> None:
        changed = [*self.renamed, *self.split, *self.dropped]
        twice = sorted({name for name in changed if changed.count(name) > 1})
        if twice:
            raise ValueError(f"The map changes {', '.join(twice)} more than once: say one thing about each domain.")
        for name, parts in self.split.items():
            if not isinstance(parts, Mapping) or not parts or any(share < 0 for share in parts.values()):
                raise ValueError(f"The split of {name!r} must give shares >= 0 by new domain, got {parts!r}.")
            if not math.isclose(math.fsum(parts.values()), 1.0, abs_tol=1e-6):
                raise ValueError(f"The split of {name!r} sums to {math.fsum(parts.values()):g} instead of 1.")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> DomainMap:
        """The map that a configuration declares: ``{"renamed": ..., "split": ..., "dropped": ...}``.

        Raises:
            ValueError: for other keys or a map that makes no sense.
        """
        check_fields(cls, data, "domain map")
        return cls(**data)

    @classmethod
    def read(cls, path: Path) -> DomainMap:
        """The map in a JSON file.

        Raises:
            ValueError: if it holds none.
        """
        try:
            return cls.from_dict(parse_json(path.read_bytes()))
        except ValueError as error:
            raise ValueError(f"{path.name} holds no domain map: {error}") from error

    def matrix(self, old: Sequence[str], new: Sequence[str]) -> np.ndarray:
        """What old shares are in new domains, ``d_old x d_new``; the row of a dropped domain is 0.

        Raises:
            ValueError: if the map names a domain that is in neither list, or an old one has no place in the new list.
        """
        unknown = sorted({*self.renamed, *self.split, *self.dropped} - set(old))
        if unknown:
            raise ValueError(f"The map changes {', '.join(unknown)}, which the runs do not have: {', '.join(old)}.")
        result = np.zeros((len(old), len(new)))
        for i, name in enumerate(old):
            if name in self.dropped:
                continue
            for target, share in self.split.get(name, {self.renamed.get(name, name): 1.0}).items():
                if target not in new:
                    raise ValueError(
                        f"The runs have the domain {target!r}, which is not one of {', '.join(new)}: say what became "
                        "of it (renamed, split or dropped), with --domains FILE, in Python DomainMap(...)."
                    )
                result[i, list(new).index(target)] += share
        return result

    def apply(self, mixtures: np.ndarray, old: Sequence[str], new: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Old mixtures ``n x d_old`` in new domains, and which of them can be kept, ``(n,)``.

        Raises:
            ValueError: see ``matrix``.
        """
        matrix = self.matrix(old, new)
        shares = mixtures @ matrix
        total = shares.sum(1)
        kept = total >= 1 - DROPPED_SHARE
        exact = np.abs(total - 1) < 1e-12
        shares[~exact & kept] /= total[~exact & kept][:, None]
        return shares, kept


def translated(history: History, space: MixtureSpace, changes: DomainMap | None = None) -> History:
    """The runs of a history as given runs of another space.

    Domains that the runs lack had no share. Scales that the space lacks become ``earlier_scales``, of which the
    surrogate learns. A run that had tokens of a dropped domain is left out, with a warning that counts them.

    Raises:
        ValueError: if a domain of the runs has no place in the space, a scale no size, or their phases are others.
    """
    changes = changes or DomainMap()
    old = history.space
    if old.phases and old.phases != space.phases:
        raise ValueError(
            f"The runs to take in have the phases {', '.join(map(str, old.phases))}, and the space has "
            f"{', '.join(map(str, space.phases)) or 'none'}: their mixtures are of other parts of a run."
        )
    if old.phase_names and (changes != DomainMap() or old.domains != space.domains):
        old.check_one_mixture("Domains change in")
    if old.phase_names:
        shares, kept = history.mixtures(), np.ones(len(history), dtype=bool)
    else:  # where the space has several phases, all of them had the mixture of the whole run
        shares, kept = changes.apply(history.mixtures(), old.domains, space.domains)
    if not kept.all():
        logger.warning("%d of %d runs had tokens of dropped domains: left out.", int((~kept).sum()), len(kept))
    unknown = [old.scale(name) for name in dict.fromkeys(t.scale for t in history)]
    known = {scale.name: scale for scale in (*space.scales, *space.earlier_scales)}
    unknown = [replace(scale, steps=None) for scale in unknown if scale.name not in known]
    sized = all(scale.parameters is not None for scale in space.scales)
    for scale in unknown:
        if sized and scale.parameters is None:
            raise ValueError(
                f"Earlier runs have the scale {scale.name!r}, and the search has {', '.join(known)}: correct the name "
                "if it is one of these, or say it where no column does (--scale SCALE). If it is another scale, give "
                "its number of parameters (--scale-parameters SCALE=NUMBER, or a column parameters), to place it among "
                "the sizes."
            )
        if space.in_tokens and scale.tokens_per_step is None:
            raise ValueError(
                f"Earlier runs have the scale {scale.name!r}, and lengths of this search are compared in tokens: put "
                "it, with its tokens_per_step, into the earlier_scales of the space."
            )
    result = History(replace(space, earlier_scales=(*space.earlier_scales, *unknown)))
    names: dict[str, Trial] = {}
    for trial, mixture, keep in zip(history, shares, kept, strict=True):
        if keep:
            names[trial.trial_id] = replace(
                trial,
                mixture=tuple(space.mixture(mixture).tolist()),
                observations=dict(trial.observations),
                status="diverged" if trial.status == "diverged" else "done",
                evaluated=True,
                acquisition=None,
                supply=_supply(trial, old, result.space, changes),
            )
            result.add(names[trial.trial_id])
    result.arrivals = [arrival for arrival in history.arrivals if arrival[0] in names]
    return result


def _supply(trial: Trial, old: MixtureSpace, space: MixtureSpace, changes: DomainMap) -> dict[str, float]:
    """What there was of each domain for a run, in tokens of a space, where that space would say something else.

    What is not known of the run, and that is all where its own space does not say what it repeats, is as in the space.
    """
    if not (old.repetition and space.repetition):
        return {}
    found, tokens = {}, space.tokens(trial.scale, trial.steps)
    before, now = old.rates(trial.scale, trial.steps, trial.supply), space.rates(trial.scale, trial.steps)
    for name, rate in zip(old.domains, before.tolist(), strict=True):
        if name in changes.split or name in changes.dropped:
            continue
        new = changes.renamed.get(name, name)
        if 0 < rate < math.inf and not math.isclose(rate, now[space.domains.index(new)], rel_tol=1e-9):
            found[new] = tokens / rate
    return found


def revise(history: History, space: MixtureSpace) -> None:
    """A history goes on in a space of the same domains and scales: its runs keep the supply that they had."""
    if history.space != space:
        for trial in history:
            trial.supply = _supply(trial, history.space, space, DomainMap())
        history.space = space


def joined(histories: Mapping[str, History], space: MixtureSpace, changes: DomainMap | None = None) -> History:
    """All runs of several histories in one space; trials are called after the source that they come from.

    Raises:
        ValueError: see ``translated``.
    """
    total = History(space)
    if changes is not None:
        named = {*changes.renamed, *changes.split, *changes.dropped}
        if unknown := sorted(named.difference(*(history.space.domains for history in histories.values()))):
            raise ValueError(f"The map changes {', '.join(unknown)}, which no runs have.")
    for source, history in histories.items():
        take_in(total, translated(history, total.space, concerning(changes, history)), source)
    return total


def take_in(history: History, other: History, source: str) -> None:
    """Adds the given runs of ``other``, whose space extends that of ``history`` by earlier scales at most."""
    history.space = other.space
    taken = {}
    for trial in other:
        name = f"{source}:{trial.trial_id}" if trial.trial_id in history.trials or source else trial.trial_id
        while name in history.trials:
            name += "'"
        taken[trial.trial_id] = name
        branch = trial.branch and replace(trial.branch, parent=taken[trial.branch.parent])
        history.add(replace(trial, trial_id=name, observations=dict(trial.observations), branch=branch))
    history.arrivals += [(taken[trial_id], step) for trial_id, step in other.arrivals]


def common_space(histories: Mapping[str, History], changes: DomainMap | None = None) -> MixtureSpace:
    """The space of the first history with the domains, scales and rungs of all: what old runs alone can be asked about.

    Domains are the new ones where a map says what became of the old.

    Raises:
        ValueError: if two histories give a scale of one name another cost or size.
    """
    first = next(iter(histories.values())).space
    domains, steps = dict.fromkeys(_new_names(first.domains, changes)), set(first.steps)
    one = len(histories) == 1  # of several, a scale has the rungs of all
    scales = {scale.name: scale if one else replace(scale, steps=None) for scale in first.scales}
    for history in histories.values():
        domains |= dict.fromkeys(_new_names(history.space.domains, changes))
        steps |= set(history.space.steps)
        for scale in history.space.scales:
            scale = scale if one else replace(scale, steps=None)
            if scales.setdefault(scale.name, scale) != scale:
                raise ValueError(
                    f"Scale {scale.name!r} is {scales[scale.name]} in one source and {scale} in another: give its cost "
                    "and parameters for all of them."
                )
    sizes = [scale.name for scale in by_size(scales.values())]
    target = max(
        (history.space.target for history in histories.values() if history.space.target is not None),
        key=lambda t: (sizes.index(t[0]), t[1]),
    )
    known: dict[str, Any] = {
        label: {name: value for name, value in getattr(first, label).items() if name in domains}
        for label in ("lower", "upper", "token_supply")
    }
    kept = tuple(group for group in first.groups if set(group.domains) <= set(domains))
    return replace(
        first,
        domains=tuple(domains),
        scales=tuple(scales.values()),
        steps=tuple(sorted(steps)),
        target=target,
        groups=kept,
        **known,
    )


def _new_names(domains: Sequence[str], changes: DomainMap | None) -> list[str]:
    if changes is None:
        return list(domains)
    kept = [name for name in domains if name not in changes.dropped]
    return [new for name in kept for new in changes.split.get(name, [changes.renamed.get(name, name)])]


def concerning(changes: DomainMap | None, history: History) -> DomainMap | None:
    """A map if it is about this history, which then has domains that it names; else None."""
    if changes is None or not {*changes.renamed, *changes.split, *changes.dropped} & set(history.space.domains):
        return None
    return changes

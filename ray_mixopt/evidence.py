"""Runs made earlier, from whatever they were logged in, as a history; and a history taken into another search."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ray_mixopt import archive
from ray_mixopt.domain_map import DomainMap
from ray_mixopt.history import History, Trial
from ray_mixopt.recipes import read_recipes
from ray_mixopt.simulators.run_files import Rows, read_rows
from ray_mixopt.space import MixtureSpace, Scale, priced

logger = logging.getLogger(__name__)

_TABLES = (".csv", ".parquet", ".pkl")


@dataclass(frozen=True, kw_only=True)
class Source:
    """What files of runs do not say about themselves.

    Args:
        cost: cost of a training step by scale.
        parameters: number of model parameters by scale.
        scale: model scale of an olmix folder.
        steps: training steps of olmix's and RegMix's runs.
        target: ``(scale, steps)`` wanted; the dearest scale at its last step by default.
        unpickle: whether a pickle may be read.
        noise: standard deviation, by metric, between runs that differ in nothing, where it is known to be larger than
            that of the search's own runs: for instance of another evaluation, or with fewer documents. These runs
            then count for less.
    """

    cost: Mapping[str, float] = field(default_factory=dict)
    parameters: Mapping[str, float] = field(default_factory=dict)
    scale: str = "model"
    steps: int = 1
    target: tuple[str, int] | None = None
    unpickle: bool = False
    noise: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for metric, value in self.noise.items():
            if not 0 <= value < math.inf:
                raise ValueError(f"The noise of {metric} must be a standard deviation, 0 or more, got {value!r}.")


def read(path: str | Path, source: Source | None = None) -> History:
    """The runs at a path: a Tune experiment, a replay, our JSON, CSV, Parquet, RegMix, olmix, or data-recipes' pickle.

    Raises:
        ValueError: if they cannot be read; the message says what to change.
    """
    source = source or Source()
    history = _read(path, source)
    known = archive.metrics_in(history)
    if unknown := [metric for metric in source.noise if metric not in known]:
        raise ValueError(f"The noise is of {', '.join(unknown)}, which no run reports: they have {', '.join(known)}.")
    for trial in history:
        trial.noise |= source.noise
    return history


def _read(path: str | Path, source: Source) -> History:
    place = Path(path)
    folder = place.is_dir() and any(place.glob("*.csv"))
    if "://" in str(path) or not (folder or place.suffix.lower() in _TABLES):
        return archive.load_history(path)
    if place.suffix.lower() == ".pkl":
        rows = read_recipes(place, unpickle=source.unpickle)
    else:
        rows = read_rows(place, scale=source.scale, steps=source.steps)
    return of_rows(rows.with_loss(), source)


def of_rows(rows: Rows, source: Source) -> History:
    """A history of given runs. Rows without a run's name are one run if their mixture and scale are the same.

    Raises:
        ValueError: if a scale has no cost, or the target is none of the runs'.
    """
    space = _space(rows, source)
    history = History(space)
    mixtures: dict[tuple[object, ...], str] = {}
    for k in range(len(rows.steps)):
        mixture, scale, step = tuple(space.mixture(rows.mixtures[k]).tolist()), rows.scale[k], int(rows.steps[k])
        name = _run_name(history, mixtures, None if rows.run is None else rows.run[k], (mixture, scale), step)
        if name not in history.trials:
            history.add(Trial(trial_id=name, mixture=mixture, scale=scale, steps=step, status="done", evaluated=True))
        trial = history[name]
        trial.steps = max(trial.steps, step)
        values = rows.values[k]
        metrics = {m: float(v) for m, v in zip(rows.metrics, values, strict=True) if not math.isnan(v)}
        history.observe(name, step, metrics)
    return history


def _run_name(
    history: History, mixtures: dict[tuple[object, ...], str], run: str | None, key: tuple[object, ...], step: int
) -> str:
    """The trial that a row belongs to; repeats of a mixture at the same step are runs of their own."""
    if run is None:
        name = mixtures.get(key)
        if name is None or step in history[name].observations:
            name = mixtures[key] = f"run_{len(history):05d}"
        return name
    known = history.trials.get(run)
    if known is None or ((known.mixture, known.scale) == key and step not in known.observations):
        return run
    return f"{run}_{len(history)}"


def _space(rows: Rows, source: Source) -> MixtureSpace:
    names = list(dict.fromkeys(rows.scale))
    cost = priced(
        names,
        dict(rows.cost) | dict(source.cost),
        remedy="give it (--scale-cost SCALE=COST, or a column cost_per_step)",
    )
    parameters = dict(rows.parameters) | dict(source.parameters)
    names.sort(key=lambda name: cost[name])
    steps = sorted(set(rows.steps.tolist()))
    last = max(int(z) for z, name in zip(rows.steps, rows.scale, strict=True) if name == names[-1])
    return MixtureSpace(
        domains=rows.domains,
        scales=tuple(Scale(name, cost[name], parameters.get(name)) for name in names),
        steps=tuple(steps),
        target=source.target or (names[-1], last),
    )


def translated(history: History, space: MixtureSpace, changes: DomainMap | None = None) -> History:
    """The runs of a history as given runs of another space.

    Domains that the runs lack had no share. Scales that the space lacks become ``earlier_scales``, of which the
    surrogate learns. A run that had tokens of a dropped domain is left out, with a warning that counts them.

    Raises:
        ValueError: if a domain of the runs has no place in the space, or a scale no size.
    """
    changes = changes or DomainMap()
    old = history.space
    shares, kept = changes.apply(history.mixtures(), old.domains, space.domains)
    if not kept.all():
        logger.warning("%d of %d runs had tokens of dropped domains: left out.", int((~kept).sum()), len(kept))
    unknown = [old.scale(name) for name in dict.fromkeys(t.scale for t in history)]
    unknown = [s for s in unknown if s.name not in space.scale_names and s not in space.earlier_scales]
    sized = all(scale.parameters is not None for scale in space.scales)
    for scale in unknown:
        if sized and scale.parameters is None:
            raise ValueError(
                f"Earlier runs have the scale {scale.name!r}, which the search has not: give its number of parameters "
                "(--scale-parameters SCALE=NUMBER, or a column parameters), to place it among the sizes."
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
            )
            result.add(names[trial.trial_id])
    result.arrivals = [arrival for arrival in history.arrivals if arrival[0] in names]
    return result


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
        history.add(replace(trial, trial_id=name, observations=dict(trial.observations)))
    history.arrivals += [(taken[trial_id], step) for trial_id, step in other.arrivals]


def common_space(histories: Mapping[str, History], changes: DomainMap | None = None) -> MixtureSpace:
    """The space of the first history with the domains, scales and rungs of all: what old runs alone can be asked about.

    Domains are the new ones where a map says what became of the old.

    Raises:
        ValueError: if two histories give a scale of one name another cost or size.
    """
    first = next(iter(histories.values())).space
    domains, steps = dict.fromkeys(_new_names(first.domains, changes)), set(first.steps)
    scales = {scale.name: scale for scale in first.scales}
    for history in histories.values():
        domains |= dict.fromkeys(_new_names(history.space.domains, changes))
        steps |= set(history.space.steps)
        for scale in history.space.scales:
            if scales.setdefault(scale.name, scale) != scale:
                raise ValueError(
                    f"Scale {scale.name!r} is {scales[scale.name]} in one source and {scale} in another: give its cost "
                    "and parameters for all of them."
                )
    ordered = sorted(scales.values(), key=lambda scale: scale.cost_per_step)
    target = max(
        (history.space.target for history in histories.values() if history.space.target is not None),
        key=lambda t: scales[t[0]].cost_per_step * t[1],
    )
    known: dict[str, Any] = {
        label: {name: value for name, value in getattr(first, label).items() if name in domains}
        for label in ("lower", "upper", "token_supply")
    }
    kept = tuple(group for group in first.groups if set(group.domains) <= set(domains))
    return replace(
        first,
        domains=tuple(domains),
        scales=tuple(ordered),
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

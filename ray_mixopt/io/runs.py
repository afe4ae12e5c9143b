"""Runs made earlier, from whatever they were logged in, as a history."""

from __future__ import annotations

import itertools
import logging
import math
import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path

from ray_mixopt.core.history import EXPLODED, History, Trial
from ray_mixopt.core.phases import Phase, searched
from ray_mixopt.core.scale import Scale, by_size, largest, priced
from ray_mixopt.core.space import MixtureSpace
from ray_mixopt.io import searches
from ray_mixopt.io.columns import Columns
from ray_mixopt.io.read import PICKLES, is_table, read_rows
from ray_mixopt.io.rows import Rows, check_in_tokens
from ray_mixopt.io.trackers import reader_of

logger = logging.getLogger(__name__)

_MOST_NAMED = 5


@dataclass(frozen=True, kw_only=True)
class Source:
    """What files of runs do not say about themselves.

    Args:
        cost: cost of a training step by scale.
        parameters: number of model parameters by scale.
        scale: model scale of runs that do not say it, such as olmix's.
        steps: training steps of runs that do not say them, such as olmix's and RegMix's.
        target: ``(scale, steps)`` wanted; the dearest scale at its last step by default.
        noise: standard deviation, by metric, between runs that differ in nothing, where it is known to be larger than
            that of the search's own runs: for instance of another evaluation, or with fewer documents. These runs
            then count for less.
        columns: what the columns of a table are called, where that cannot be told.
        tokens_per_step: tokens in a training step, by scale, for tables that say tokens instead of steps.
        rungs: of the search space that the runs are for, in training steps: tokens are not taken for these.
        phases: of the search space that the runs are for: tables do not say the fractions of phases.
        priced: whether the costs and sizes of scales matter. Where they do not, all that are not said are 1.
    """

    cost: Mapping[str, float] = field(default_factory=dict)
    parameters: Mapping[str, float] = field(default_factory=dict)
    scale: str | None = None
    steps: int | None = None
    target: tuple[str, int] | None = None
    noise: Mapping[str, float] = field(default_factory=dict)
    columns: Columns = Columns()
    tokens_per_step: Mapping[str, float] = field(default_factory=dict)
    rungs: tuple[int, ...] = ()
    phases: tuple[Phase, ...] = ()
    priced: bool = True

    def __post_init__(self) -> None:
        for metric, value in self.noise.items():
            if not 0 <= value < EXPLODED:
                raise ValueError(
                    f"The noise of {metric} must be a standard deviation, 0 or more and less than {EXPLODED:g}, as "
                    f"metrics are, got {value!r}."
                )
        for name, tokens in self.tokens_per_step.items():
            if not 0 < tokens < math.inf:
                raise ValueError(
                    f"The tokens in a step of scale {name} must be a finite number above 0, got {tokens!r} "
                    "(--tokens-per-step, in Python Source(tokens_per_step=...))."
                )

    def check_scales(self, names: Collection[str]) -> None:
        """Checks that what is said of scales is said of ones that there are.

        Args:
            names: of the scales of all runs.

        Raises:
            ValueError: naming the option, and a scale of which no run is.
        """
        for option, given in (
            ("--scale-cost", self.cost),
            ("--scale-parameters", self.parameters),
            ("--tokens-per-step", self.tokens_per_step),
        ):
            if unknown := sorted(given.keys() - set(names)):
                raise ValueError(
                    f"{option} {unknown[0]}={given[unknown[0]]:g}: No run is of scale {unknown[0]!r}: there are "
                    f"{', '.join(names)}."
                )

    def rows(self, path: Path) -> Rows:
        """The rows of the table, or tables, at a path.

        Raises:
            ValueError: see ``read.read_rows``.
        """
        return read_rows(
            path,
            scale=self.scale,
            steps=self.steps,
            columns=self.columns,
            tokens_per_step=self.tokens_per_step,
            rungs=self.rungs,
        )


def told_apart(paths: Sequence[str]) -> dict[str, str]:
    """Paths of old runs, by the name that each goes by: its last part, or all of it where another has the same.

    Raises:
        ValueError: if two of them are one.
    """
    short = {path: Path(path.rstrip("/")).name or path for path in paths}
    places: dict[str, str] = {}
    for path in paths:
        if path in places.values() or (place := os.path.realpath(path)) in places:
            raise ValueError(f"{path} is given twice: its runs would count twice, name it once.")
        places[place] = path
    often = Counter(short.values())
    return {name if often[name] == 1 else path: path for path, name in short.items()}


def read_runs(path: str | Path, source: Source | None = None) -> History:
    """The runs at a path: of a Tune experiment, a replay, our JSON, a table, RegMix or olmix.

    Raises:
        ValueError: if they cannot be read; the message says what to change.
    """
    source = source or Source()
    history = _read(path, source)
    known = history.metrics
    if unknown := [metric for metric in source.noise if metric not in known]:
        raise ValueError(f"The noise is of {', '.join(unknown)}, which no run reports: they have {', '.join(known)}.")
    for trial in history:
        trial.noise |= source.noise
    return history


def _read(path: str | Path, source: Source) -> History:
    if not are_tables(path):
        history = searches.load_history(path)
        check_in_tokens(str(path), history.space.scale_names, source.tokens_per_step)
        return history
    return of_rows(source.rows(Path(path)).with_loss(), source)


def are_tables(path: str | Path) -> bool:
    """Whether a path is that of tables of runs, rather than of a search or a history."""
    place = Path(path)
    if "://" in str(path):
        return False
    if place.suffix.lower() in PICKLES or is_table(place) or (place.is_dir() and any(place.glob("*.csv"))):
        return True
    return not searches.is_folder(place) and reader_of(place) is not None


def of_rows(rows: Rows, source: Source) -> History:
    """A history of given runs. Rows without a run's name are one run if their mixture and scale are the same.

    Raises:
        ValueError: if a scale has no cost, or the target is none of the runs'.
    """
    space = replace(_space(rows, source), phases=_phases(rows, source))
    history = History(space)
    order = [rows.phases.index(phase) for phase in space.phase_names]
    names = _Names(history, set(rows.run or ()))
    for k in range(len(rows.steps)):
        shares = rows.mixtures[k].reshape(max(len(order), 1), -1)[order or 0].ravel()
        mixture, scale, step = tuple(space.mixture(shares).tolist()), rows.scale[k], int(rows.steps[k])
        name = names.of(None if rows.run is None else rows.run[k], mixture, scale, step)
        if name not in history.trials:
            history.add(Trial(trial_id=name, mixture=mixture, scale=scale, steps=step, status="done", evaluated=True))
        trial = history[name]
        trial.steps = max(trial.steps, step)
        values = rows.values[k]
        metrics = {m: float(v) for m, v in zip(rows.metrics, values, strict=True) if not math.isnan(v)}
        history.observe(name, step, metrics)
    names.tell()
    return history


class _Names:
    """The trials that rows belong to: those of a run are one, unless they repeat a step, or change mixture or scale.

    Args:
        history: the trials so far.
        taken: names that runs have in the table.
    """

    def __init__(self, history: History, taken: Set[str]) -> None:
        self._history, self._taken = history, taken
        self._of: dict[tuple[object, ...], list[str]] = {}  # trials by run, mixture and scale
        self._seen: Counter[tuple[object, ...]] = Counter()  # rows by run, mixture, scale and step
        self._numbers: Counter[str | None] = Counter()  # the next to be tried, by run
        self._others: dict[str, dict[str, str]] = {"repeat a step": {}, "say another mixture or scale": {}}

    def of(self, run: str | None, mixture: tuple[float, ...], scale: str, step: int) -> str:
        """The name of the trial that a row belongs to: the first of its run, mixture and scale without that step."""
        known, place = self._of.setdefault((run, mixture, scale), []), self._seen[run, mixture, scale, step]
        self._seen[run, mixture, scale, step] += 1
        if place == len(known):
            known.append(self._new(run, "repeat a step" if known else "say another mixture or scale"))
        return known[place]

    def _new(self, run: str | None, why: str) -> str:
        trials = self._history.trials
        if run is not None and run not in trials:
            return run
        for n in itertools.count(max(len(trials), self._numbers[run])):
            name = f"run_{n:05d}" if run is None else f"{run}_{n}"
            if name not in trials and name not in self._taken:
                break
        self._numbers[run] = n + 1
        if run is not None:
            self._others[why][name] = run
        return name

    def tell(self) -> None:
        """Says which runs have become several."""
        for why, others in self._others.items():
            if others:
                logger.warning(
                    "Rows of one run that %s are of a run of their own: %s.",
                    why,
                    ", ".join(f"{run} is {name}, too" for name, run in list(others.items())[:_MOST_NAMED])
                    + (", ..." if len(others) > _MOST_NAMED else ""),
                )


def _phases(rows: Rows, source: Source) -> tuple[Phase, ...]:
    """The phases of runs that say a mixture for each; none where they say one.

    Raises:
        ValueError: if it is not known what parts of a run these are.
    """
    if not rows.phases:
        return ()
    known = [phase.name for phase in searched(source.phases)]
    if set(known) != set(rows.phases):
        raise ValueError(
            f"There are shares of the phases {', '.join(rows.phases)}, and the space has {', '.join(known) or 'none'}: "
            "give the space that has them with their fractions, to recommend or suggest with --space FILE (in Python "
            "Source(phases=...)); a report of a table with phases is that of recommend --report FOLDER."
        )
    return source.phases


def _space(rows: Rows, source: Source) -> MixtureSpace:
    names = list(dict.fromkeys(rows.scale))
    if not source.priced:
        return MixtureSpace(
            domains=rows.domains,
            scales=by_size(Scale(n, source.cost.get(n, 1.0), source.parameters.get(n, 1.0)) for n in names),
            steps=tuple(sorted(set(rows.steps.tolist()))),
            target=(rows.scale[0], int(rows.steps[0])),
            token_supply=rows.supply,
        )
    known = rows.known_costs(source.cost, source.parameters)
    remedy = "give it (--scale-cost SCALE=COST, in Python Source(cost={scale: cost}), or a column cost_per_step)"
    if not set(known) & set(names):
        remedy += (
            ", or the parameters of all scales, of which it follows (--scale-parameters SCALE=NUMBER, in Python "
            "Source(parameters={scale: number}), or a column parameters)"
        )
    if source.rungs:  # those of a space, whose costs are among those that are given
        remedy = f"the space has {', '.join(source.cost)}; correct the name if it is one of these. Else {remedy}"
    cost = priced(names, known, remedy=remedy)
    parameters = dict(rows.parameters) | dict(source.parameters)
    scales = by_size(Scale(name, cost[name], parameters.get(name)) for name in names)
    target = source.target
    if target is None:
        name = largest(scales).name
        target = name, max(int(step) for step, scale in zip(rows.steps, rows.scale, strict=True) if scale == name)
    return MixtureSpace(
        domains=rows.domains,
        scales=scales,
        steps=tuple(sorted(set(rows.steps.tolist()))),
        target=target,
        token_supply=rows.supply,
    )

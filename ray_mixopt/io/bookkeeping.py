"""Which rows of which tables are of which suggested run, and the history that comes of both.

A row belongs to a suggested run if its run has that name. Where tables name runs otherwise, or not at all, it belongs
to one of the same scale and, within rounding, the same mixture, if it was not there when that was suggested.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from ray_mixopt.core.history import History, Status, Trial
from ray_mixopt.core.merging import DomainMap, concerning, take_in, translated
from ray_mixopt.core.space import MixtureSpace
from ray_mixopt.core.trial import check_near, is_far
from ray_mixopt.io.by_hand import AskedRun, ByHand

_MOST_NAMED = 5  # runs in a notice
ROUNDING = 0.006  # of a share: tables have whole percents, and sums that are not quite 1
_SLACK = 1e-6  # of a limit, for what rounding has left

# Of a run to as many steps or more, the step before the last is all but all of it: trainers count steps from 0, too.
_SURELY_FULL = 100

Reports = dict[int, dict[str, float]]


@dataclass(kw_only=True)
class LoggedRun:
    """A run as a table has it.

    Attributes:
        source: name of the table.
        trial: the run.
        claims: for each suggested run that has reports of it, the step beyond which they are its own; ascending.
    """

    source: str
    trial: Trial
    claims: dict[str, int] = field(default_factory=dict)

    def reports_of(self, name: str) -> Reports:
        """The reports that are of a suggested run."""
        if name not in self.claims:
            return {}
        after = self.claims[name]
        until = min((step for step in self.claims.values() if step > after), default=self.trial.reached)
        return {step: values for step, values in self.trial.observations.items() if after < step <= until}

    @property
    def rest(self) -> Reports:
        """The reports that are of none."""
        until = min(self.claims.values(), default=self.trial.reached)
        return {step: values for step, values in self.trial.observations.items() if step <= until}

    def apart(self, shares: np.ndarray, scale: str) -> float:
        """The largest difference from a mixture's shares, ``(d,)``; infinite where the scale is another."""
        mine = np.array(self.trial.mixture)
        return float(np.abs(mine - shares).max()) if self.trial.scale == scale else np.inf


class Books:
    """The runs of several tables, told apart: those that were suggested, and others.

    Args:
        search: knows the runs suggested so far.
        histories: the runs of each table, by its name.
        space: the search space.
        changes: what became of domains.

    Attributes:
        notices: sentences about rows that are not quite as suggested.

    Raises:
        ValueError: if a table does not fit the space, or has a run by the name of a suggested one that is another.
    """

    def __init__(
        self,
        search: ByHand,
        histories: Mapping[str, History],
        space: MixtureSpace,
        changes: DomainMap | None = None,
    ) -> None:
        self.search, self.asked, self.space = search, search.runs, space
        self.notices: list[str] = []
        self.logged: list[LoggedRun] = []
        for source, history in histories.items():
            given = translated(history, self.space, concerning(changes, history))
            self.space = given.space  # with the scales that only this table has
            self.logged += [LoggedRun(source=source, trial=trial) for trial in given]
        self._last = {run.run: run for run in self.asked}  # in the order in which they were first suggested
        self._n_before = {run.run: len(run.known) for run in reversed(self.asked)}
        self._shares = {name: space.mixture(run.mixture) for name, run in self._last.items()}
        self._claim_by_name()
        self._claim_by_mixture()
        self._claim_what_was_added()
        self._note_what_differs()
        self._note_what_changed()

    # -- what is known

    def reports(self, name: str) -> Reports:
        """What a suggested run has shown, by step; where tables say different things of one, the first counts.

        The last step before a rung counts as the rung, see ``_SURELY_FULL``.
        """
        found = self._as_logged(name)
        rungs = {run.steps for run in self.asked if run.run == name and run.steps >= _SURELY_FULL}
        short = {step for step in found if step + 1 in rungs and step + 1 not in found}
        return {step + (step in short): values for step, values in found.items()}

    def _as_logged(self, name: str) -> Reports:
        found: Reports = {}
        for one in self.logged:
            for step, values in one.reports_of(name).items():
                found[step] = values | found.get(step, {})
        return found

    def reached(self, name: str) -> int:
        """The last step that a suggested run was seen at; 0 while there are no rows of it."""
        return max(self.reports(name), default=0)

    def status(self, name: str) -> Status:
        """How a suggested run stands; one that is at its rung is paused."""
        run = self._last[name]
        if any(one.trial.status == "diverged" and list(one.claims)[-1:] == [name] for one in self.logged):
            return "diverged"
        if self.reached(name) >= run.steps:
            return "paused"
        return "failed" if run.failed else "running"

    def under_way(self) -> list[AskedRun]:
        """Suggested runs that are neither at their rung, nor diverged, nor said to have failed; in order."""
        return [run for run in self.asked if run is self._last[run.run] and self.status(run.run) == "running"]

    def given_up(self) -> list[AskedRun]:
        """Suggested runs that were said to have failed, and are not at their rung."""
        return [run for run in self.asked if run.failed and self.reached(run.run) < run.steps]

    def finished(self) -> list[AskedRun]:
        """What was suggested and is done, goings-on included: those at their rung that did not diverge there."""
        lost = [name for name in self._last if self.status(name) == "diverged"]
        at_rung = [run for run in self.asked if self.reached(run.run) >= run.steps]
        return [run for run in at_rung if run.run not in lost or run is not self._last[run.run]]

    def known(self, mixture: Mapping[str, float], scale: str) -> tuple[int, ...]:
        """The last steps of all runs of a mixture and a scale, in the order of the tables."""
        return tuple(one.trial.reached for one in self._alike(self.space.mixture(mixture), scale))

    def history(self, *, continues: bool = True) -> History:
        """All runs: suggested ones as paid for, others as given.

        Args:
            continues: whether runs at their rung can go on.
        """
        total = History(self.space)
        for source in dict.fromkeys(one.source for one in self.logged):
            others = History(self.space)
            for one in self.logged:
                if one.source == source and (rest := one.rest):
                    others.add(replace(one.trial, observations=rest, steps=max(rest)))
                    others.arrivals += [(one.trial.trial_id, step) for step in rest]
            take_in(total, others, source)
        begun = {run.run: run.branch for run in self.asked if run.branch is not None}
        for name, run in self._last.items():
            status, reports = self.status(name), self.reports(name)
            branch = begun.get(name)
            if branch is not None and min(reports, default=branch.steps) <= branch.from_step:
                branch = None  # it has begun at its start all the same
            total.add(
                Trial(
                    trial_id=name,
                    mixture=tuple(self._shares[name].tolist()),
                    scale=run.scale,
                    steps=run.steps,
                    status="done" if status == "paused" and not continues else status,
                    observations=reports,
                    acquisition=run.acquisition,
                    branch=branch,
                )
            )
            total.arrivals += [(name, step) for step in reports]
        total.n_asked = sum(run.counts for run in self.asked)
        total.n_apart = len(self.asked) - total.n_asked
        return total

    # -- whose rows

    def _alike(self, shares: np.ndarray, scale: str) -> list[LoggedRun]:
        near = [one for one in self.logged if not is_far(one.trial.reached, self.space.steps)]  # to any rung
        return [one for one in near if one.apart(shares, scale) <= ROUNDING]

    def _claim_by_name(self) -> None:
        for one in self.logged:
            name = one.trial.trial_id
            again, _, number = name.rpartition("_")  # a reader calls rows so that are not of the run of their name
            if again in self._last and number.isdecimal():
                self._take_apart(one, again)
            elif (run := self._last.get(name)) is not None:
                self._check(one, run)
                one.claims[name] = 0
            elif self.search.names(name):
                raise ValueError(
                    f"{one.source} has the run {name}, which the state of this search has not suggested: the state is "
                    "lost, or the run is of another search. Give the right one with --state. If there is none any "
                    "more, begin a search of another name, as in --state second.json: its runs are called after it, "
                    "and those in the tables cost it nothing, so that --budget is what is left to spend."
                )

    def _take_apart(self, one: LoggedRun, again: str) -> None:
        """Rows by the name of a suggested run that are not of it: they repeat it, or are those of an earlier run."""
        first = next((o.trial for o in self.logged if o.source == one.source and o.trial.trial_id == again), None)
        scale = self._last[again].scale if first is None else first.scale
        apart = one.apart(self._shares[again] if first is None else np.array(first.mixture), scale)
        if first is not None and apart <= ROUNDING and one.trial.observations.keys() <= first.observations.keys():
            one.claims[""] = 0
            self.notices.append(f"{one.source} has rows of {again} that repeat a step: the first of them count.")
            return
        why = (
            f"they are of scale {one.trial.scale}, and not of {scale}"
            if one.trial.scale != scale
            else f"their shares differ from it by up to {apart:.3f}"
            if apart > ROUNDING
            else "no row of that name goes with them"
        )
        self.notices.append(
            f"{one.source} has rows of {again}, or of a run {one.trial.trial_id}, that do not count as those of "
            f"{again}, since {why}: they are taken for an earlier run. Rename it, or correct the rows."
        )

    def _check(self, one: LoggedRun, run: AskedRun) -> None:
        check_near(one.trial.reached, (*self.space.steps, run.steps), f"{one.source} has {run.run} at")
        if one.trial.scale != run.scale:
            raise ValueError(
                f"{one.source} has {run.run} at scale {one.trial.scale}, and it was suggested at {run.scale}: correct "
                "the scale; or, if that is another run, rename it."
            )
        if (apart := one.apart(self._shares[run.run], run.scale)) > ROUNDING:
            self._shares[run.run] = np.array(one.trial.mixture)
            self.notices.append(
                f"{run.run} was trained on another mixture than suggested, with shares that differ by up to "
                f"{apart:.3f}: what {one.source} says counts."
            )

    def _claim_by_mixture(self) -> None:
        """Each run that no table names takes one of the nearest mixture that was not there before."""
        named = {name for one in self.logged for name in one.claims}
        pairs = []
        for place, (name, run) in enumerate(self._last.items()):
            if name not in named:
                new = self._alike(self._shares[name], run.scale)[self._n_before[name] :]
                pairs += [(one.apart(self._shares[name], run.scale), place, i, name, one) for i, one in enumerate(new)]
        for *_, name, one in sorted(pairs, key=lambda pair: pair[:3]):
            if not one.claims and name not in named:
                one.claims[name] = 0
                named.add(name)

    def _claim_what_was_added(self) -> None:
        """Tables without names add what a run has shown to an earlier one of its mixture and scale.

        So they do for a new run to further steps; a run that went on, and repeats a step, is there as a new one.
        """
        for name, run in self._last.items():
            if run.failed or self.reached(name) > run.start:
                continue
            alike = self._alike(self._shares[name], run.scale)
            for i, one in enumerate(alike):
                owners = [self._last[owner].steps for owner in one.claims if owner in self._last]
                before = max([run.start, *run.known[i : i + 1], *owners])
                if name not in one.claims and "" not in one.claims and one.trial.reached > before:
                    one.claims[name] = before
                    break

    # -- what is not as it was

    def _note_what_differs(self) -> None:
        for name in self._last:
            known: dict[tuple[int, str], tuple[str, float]] = {}
            told: set[str] = set()
            for one in self.logged:
                for step, values in one.reports_of(name).items():
                    for metric, value in values.items():
                        source, first = known.setdefault((step, metric), (one.source, value))
                        if first != value and one.source not in (*told, source):
                            told.add(one.source)
                            self.notices.append(
                                f"{source} and {one.source} say different things of {name} at step {step:,}, "
                                f"{metric} {first:.6g} and {value:.6g}: the first counts. Take the wrong rows out."
                            )

    def _note_what_changed(self) -> None:
        reached = {name: self.reached(name) for name in self._last}
        gone = [name for name, run in self._last.items() if reached[name] < run.seen and not run.failed]
        if gone:
            some = ", ".join(f"{name} (to step {self._last[name].seen:,})" for name in gone[:_MOST_NAMED])
            more = f" and {len(gone) - _MOST_NAMED} more" if len(gone) > _MOST_NAMED else ""
            self.notices.append(
                f"Rows that an earlier call has read are gone, of {some}{more}: what they showed is not known now, and "
                "runs that are short of their step count as under way again. Give all tables with --from, each time."
            )
        simplex = self.space.simplex
        for run in self.under_way():
            if not simplex.contains(self._shares[run.run][None], _SLACK)[0]:
                self.notices.append(
                    f"{run.run} was suggested before the mixture had the limits that it has now, and does not keep to "
                    f"them. It is still under way; if you want others in its place, add --failed {run.run}."
                )
        short = [name for name, step in reached.items() if step > max(self._as_logged(name), default=step)]
        if short:
            more = f" and {len(short) - _MOST_NAMED} more" if len(short) > _MOST_NAMED else ""
            self.notices.append(
                f"The last rows of {', '.join(short[:_MOST_NAMED])}{more} are of the step before the one to reach: are "
                "steps counted from 0? They count as having reached it."
            )
        for name, run in self._last.items():
            if run.failed and reached[name] >= run.steps:
                self.notices.append(
                    f"{name} was said to have failed, and its rows go to step {reached[name]:,} now: it counts as "
                    "finished."
                )

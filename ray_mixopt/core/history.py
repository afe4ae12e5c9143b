"""What was asked, seen and paid: the only state of a search.

Everything else (surrogate, candidates, incumbent) is recomputed from the history, so a history that went through JSON
gives the same next suggestion in another process.
"""

from __future__ import annotations

import copy
import itertools
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from ray_mixopt.core.arguments import whole_step
from ray_mixopt.core.branches import cost_of
from ray_mixopt.core.curves import described
from ray_mixopt.core.domains import by_domain
from ray_mixopt.core.notebook import MOST_ROWS, table
from ray_mixopt.core.safety import check_known, check_version, number, whole
from ray_mixopt.core.scale import by_size
from ray_mixopt.core.space import MixtureSpace
from ray_mixopt.core.trial import EXPLODED as EXPLODED
from ray_mixopt.core.trial import Asked, check_near, missed, trial_of
from ray_mixopt.core.trial import Status as Status
from ray_mixopt.core.trial import Trial as Trial
from ray_mixopt.core.trial import is_sound as is_sound
from ray_mixopt.core.turns import Turn, in_turn
from ray_mixopt.core.words import amount

logger = logging.getLogger(__name__)

FORMAT_VERSION, PACKED_VERSION = 1, 2  # the second where the reports of a run are packed
MANY_REPORTS = 1000  # of one run
SUM_TOLERANCE = 1e-9
MOST_INCIDENTS = 100  # the last ones
MISSED = "misses the objective"  # of which is told once

_COUNTERS = ("n_asked", "n_apart", "n_duplicates", "n_missing")
_FIELDS = ("version", "space", "trials", "arrivals", *_COUNTERS, "unkept", "incidents")  # of a state

_turn = in_turn("turn")


class History:
    """Trials in the order they were asked for, and their observations in the order they arrived.

    Threads may share a history: each of its methods is done before another begins. Who goes through the trials gets
    those that there were at that moment; to look into their reports while another thread adds some, take a ``copy``.

    Args:
        space: the search space the trials live in.
    """

    def __init__(self, space: MixtureSpace) -> None:
        self.turn = Turn()  # of the threads that share it; held by who needs several things done at once
        self.space = space
        self.trials: dict[str, Trial] = {}
        self.arrivals: list[tuple[str, int]] = []  # (trial_id, step), oldest first
        self.n_asked = 0  # suggestions of the strategy's so far; numbers the next one's random stream
        self.n_apart = 0  # runs asked for besides: before all others, or lost ones again
        self.n_duplicates = 0  # repeated reports of a (trial, step), dropped
        self.n_missing = 0  # reports without any metric of the objective
        self.unkept = 0.0  # cost of training that was lost or done twice; not in ``spent``, in which steps count once
        self.incidents: list[str] = []  # what befell the search rather than a run, for people to read; oldest first
        self._told: set[str] = set()  # what was said once
        self._described: dict[str, tuple[dict[int, dict[str, float]], int, dict[str, Any]]] = {}  # see ``_reports``

    def __iter__(self) -> Iterator[Trial]:
        return iter(list(self.trials.values()))  # made at once, whatever other threads add

    def __len__(self) -> int:
        return len(self.trials)

    @_turn
    def copy(self) -> History:
        """A history of the same trials that does not change with this one."""
        other = copy.copy(self)
        other.turn = Turn()
        other.trials = {t.trial_id: replace(t, observations=dict(t.observations)) for t in self}
        other.arrivals = list(self.arrivals)
        other.incidents = list(self.incidents)
        other._described = {}
        return other

    @_turn
    def fingerprint(self) -> int:
        """A number of this process that changes with everything that happens to the trials."""
        return hash((self.n_asked, len(self.arrivals), *((t.trial_id, t.status, t.steps) for t in self)))

    @_turn
    def free_name(self, kind: str) -> str:
        """A name that no trial has yet, of a kind: ``trial_00012`` of the kind ``trial``."""
        names = (f"{kind}_{n:05d}" for n in itertools.count(len(self)))
        return next(name for name in names if name not in self.trials)

    # -- events

    @_turn
    def add(self, trial: Trial) -> None:
        """File a new trial.

        Raises:
            ValueError: if the name is taken, or no text, or mixture, scale or steps make no sense.
        """
        if not isinstance(trial.trial_id, str):
            raise ValueError(f"The name of a trial must be text, got {trial.trial_id!r}.")
        if trial.trial_id in self.trials:
            raise ValueError(f"Trial {trial.trial_id!r} exists already: every run needs an id of its own.")
        shares, d = self.space.mixture(trial.mixture), self.space.n_domains
        if len(trial.mixture) != len(shares):
            raise ValueError(f"Trial {trial.trial_id!r} has {len(trial.mixture)} shares, and the space {len(shares)}.")
        if any(abs(math.fsum(trial.mixture[i : i + d]) - 1) > SUM_TOLERANCE for i in range(0, len(trial.mixture), d)):
            raise ValueError(f"Trial {trial.trial_id!r} has shares that do not sum to 1: use {shares.tolist()}.")
        self.space.scale(trial.scale)
        by_domain(f"The supply of trial {trial.trial_id!r}", trial.supply, self.space.domains)
        trial.steps = whole_step(trial.steps, f"Trial {trial.trial_id!r} is to reach")
        if trial.branch is not None and trial.branch.parent not in self.trials:
            raise ValueError(f"Trial {trial.trial_id!r} is a branch of {trial.branch.parent!r}, which is not here.")
        self.trials[trial.trial_id] = trial

    @_turn
    def observe(
        self,
        trial_id: str,
        step: int,
        values: Mapping[str, float],
        others: Mapping[str, float] | None = None,
        wanted: Sequence[str] = (),
    ) -> bool:
        """Record a report; a repeated (trial, step) is counted and dropped.

        Args:
            trial_id: a known trial.
            step: training step of the report, > 0.
            values: metrics of the objective by name. One that is not ``is_sound`` marks the trial as diverged; the
                others are kept.
            others: finite metrics that are not of the objective, kept for other questions.
            wanted: all metrics of the objective. That a report has others and none of them is said once.

        Returns:
            Whether the report was new.

        Raises:
            ValueError: for an unknown trial, a step that is not a positive whole number, or, of a run that the search
                pays for, one far beyond all rungs.
        """
        trial, step = self[trial_id], whole_step(step, f"Trial {trial_id!r} reported")
        if not trial.evaluated:
            check_near(step, (*self.space.steps, trial.steps), f"Trial {trial_id!r} reported")
        if step in trial.observations:
            self.n_duplicates += 1
            return False
        if trial.branch is not None and step <= trial.branch.from_step:
            self.begun_anew(trial_id, f"reports step {step}")
        sound = {name: float(value) for name, value in values.items() if is_sound(value)}
        trial.observations[step] = sound | dict(others or {})
        self.arrivals.append((trial_id, step))
        if len(trial.observations) == MANY_REPORTS and self.is_new("many reports"):
            logger.warning(
                "Trial %r has reported %d times. All is kept, which makes each save of the state slower; the model "
                "learns from reports whose steps are 50%% apart. Reports at the rungs (%s) are enough.",
                *(trial_id, MANY_REPORTS, ", ".join(map(str, self.space.rungs(trial.scale)))),
            )
        if len(sound) < len(values):
            trial.status = "diverged"
        elif not values:
            self.n_missing += 1
            if others and wanted and self.is_new(MISSED):
                logger.warning("%s", missed(trial_id, wanted, list(others)))
        return True

    @_turn
    def begun_anew(self, trial_id: str, why: str) -> None:
        """A run did not begin where it was to: it trains from its start, and is paid for so, which is said once."""
        branch, self[trial_id].branch = self[trial_id].branch, None
        if branch is not None and self.is_new("begun anew"):
            logger.warning(
                "Trial %r was to begin at step %d of trial %r and %s: it trains, and pays for, all its steps. Begin "
                "runs at the checkpoint of their parent, or say branches=False.",
                *(trial_id, branch.from_step, branch.parent, why),
            )

    @_turn
    def is_new(self, what: str) -> bool:
        """Whether this was not asked before of the same thing, which is to be said once."""
        before = what in self._told
        self._told.add(what)
        return not before

    @_turn
    def resume(self, trial_id: str, steps: int) -> Trial:
        """A paused run goes on to a further rung; gives the trial.

        Raises:
            ValueError: for an unknown trial, or one that cannot go on.
        """
        trial, steps = self[trial_id], whole_step(steps, f"Trial {trial_id!r} is to reach")
        if trial.status != "paused" or steps <= trial.reached:
            raise ValueError(f"Trial {trial_id!r} is {trial.status} at step {trial.reached}: it cannot go to {steps}.")
        trial.steps, trial.status = steps, "running"
        return trial

    @_turn
    def asked(self, trial: Trial, before: int | None, *, counts: bool) -> Asked:
        """Counts a run that was added, or resumed from the rung ``before``; gives what takes it back."""
        self.n_asked += counts
        self.n_apart += not counts
        n = self.n_asked + self.n_apart
        return Asked(trial=trial, before=before, reached=trial.reached, n=n, counts=counts)

    @_turn
    def withdraw(self, asked: Asked) -> None:
        """A run is not asked for after all, since nobody heard of it: a new one goes, a resumed one is paused again.

        Others that were asked for since are numbered after it: it stays then, as a lost run, which is asked for again.
        If it has reported, somebody runs it all the same: what it showed is kept.
        """
        trial, unseen = asked.trial, asked.trial.reached == asked.reached
        if trial.status != "running" or trial.trial_id not in self.trials:
            return
        last = unseen and asked.n == self.n_asked + self.n_apart
        if last:
            self.n_asked -= asked.counts
            self.n_apart -= not asked.counts
        if unseen and asked.before is not None:
            trial.steps, trial.status = asked.before, "paused"
        elif last:
            del self.trials[trial.trial_id]
        else:
            trial.status = "lost"

    @_turn
    def retry(self, trial_id: str) -> Trial:
        """A run that was over short of its rung, or paused without a checkpoint, is on its way again; gives the trial.

        Raises:
            ValueError: for an unknown trial, or one that is done, diverged or was given.
        """
        trial = self[trial_id]
        if trial.evaluated or trial.status in ("done", "diverged"):
            raise ValueError(f"Trial {trial_id!r} is {trial.status}: it cannot be tried again.")
        trial.status = "running"
        return trial

    @_turn
    def finish(self, trial_id: str, *, failed: bool = False, lost: bool = False, continuable: bool = True) -> None:
        """A run stopped: at its rung, or before it. What it showed is kept, and what has ended stays as it ended.

        Only one that was done may have failed all the same, as when its last checkpoint cannot be saved.

        Args:
            trial_id: a known trial.
            failed: whether an error of its own ended it.
            lost: whether its machine failed and not the run.
            continuable: whether its last checkpoint is kept, so that it can go on.

        Raises:
            ValueError: for an unknown trial, or one that was given to the search.
        """
        trial = self[trial_id]
        if trial.evaluated:
            raise ValueError(f"Trial {trial_id!r} was made elsewhere and given to the search: it is over.")
        if trial.status not in ("running", "paused") and not (trial.status == "done" and (failed or lost)):
            return
        if lost or failed:
            trial.status = "lost" if lost else "failed"
        else:
            trial.status = "paused" if continuable and trial.reached > 0 else "done"

    @_turn
    def note(self, incident: str) -> None:
        """Keeps a sentence about what befell the search, with the time."""
        self.incidents.append(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC: {incident}")
        del self.incidents[:-MOST_INCIDENTS]

    def __getitem__(self, trial_id: str) -> Trial:
        try:
            return self.trials[trial_id]
        except (KeyError, TypeError):
            raise ValueError(f"Unknown trial {trial_id!r}: ask for it, or add it as an evaluated point.") from None

    # -- money

    @property
    @_turn
    def spent(self) -> float:
        """Cost of all steps seen so far."""
        return math.fsum(cost_of(self.space, t, t.reached) for t in self if not t.evaluated)

    @property
    @_turn
    def spent_elsewhere(self) -> float:
        """Cost of all steps seen of runs that were given to the search."""
        return math.fsum(cost_of(self.space, t, t.reached) for t in self if t.evaluated)

    @property
    @_turn
    def committed(self) -> float:
        """``spent`` plus what the running trials will still cost to reach their rungs."""
        rest = (cost_of(self.space, t, t.steps, start=t.reached) for t in self if t.pending)
        return math.fsum([self.spent, *rest])

    @property
    @_turn
    def furthest(self) -> tuple[str, int] | None:
        """Scale and steps of the dearest report of all runs; None before the first one."""
        seen = [(self.space.cost(t.scale, t.reached), t.scale, t.reached) for t in self if t.reached]
        return max(seen)[1:] if seen else None

    @property
    @_turn
    def nearest(self) -> tuple[str, int] | None:
        """Scale and steps of the report nearest to the target; None before the first one.

        Nearest is the target's scale, then the others from large to small, and of one scale the longest.
        """
        names = [scale.name for scale in by_size((*self.space.scales, *self.space.earlier_scales))]
        seen = [(t.scale == self.space.target_scale, names.index(t.scale), t.reached) for t in self if t.reached]
        return (names[max(seen)[1]], max(seen)[2]) if seen else None

    @_turn
    def spent_by_scale(self) -> dict[str, float]:
        """``spent``, by scale name."""
        totals = dict.fromkeys(self.space.scale_names, 0.0)
        for trial in self:
            if not trial.evaluated:
                totals[trial.scale] += cost_of(self.space, trial, trial.reached)
        return totals

    @property
    @_turn
    def n_continued(self) -> int:
        """How often a paused run was asked to go on."""
        return max(self.n_asked + self.n_apart - sum(not trial.evaluated for trial in self), 0)

    # -- views

    @property
    @_turn
    def metrics(self) -> tuple[str, ...]:
        """Names of all metrics that some run reported, in the order of appearance."""
        return tuple(dict.fromkeys(name for trial in self for values in trial.observations.values() for name in values))

    @_turn
    def mixtures(self) -> np.ndarray:
        """The mixtures of all trials, ``n_trials x n_shares``."""
        return np.array([t.mixture for t in self], dtype=np.float64).reshape(len(self), self.space.n_shares)

    @_turn
    def pending(self) -> list[Trial]:
        """Trials whose rung is still on its way."""
        return [t for t in self if t.pending]

    @_turn
    def paused(self) -> list[Trial]:
        """Trials that can be continued."""
        return [t for t in self if t.status == "paused"]

    # -- exchange

    @_turn
    def _repr_html_(self) -> str:
        rows = []
        for trial in [*self][-MOST_ROWS:]:
            seen = trial.observations.get(trial.reached, {})
            last = ", ".join(f"{name} {value:.5g}" for name, value in seen.items())
            status = "given" if trial.evaluated else trial.status
            rows.append((trial.trial_id, trial.scale, trial.reached, status, last))
        some = f"the last {MOST_ROWS} of " if len(self) > MOST_ROWS else ""
        caption = f"Runs: {some}{len(self):,}, for a cost of {amount(self.spent)}"
        return table(caption, ("Run", "Scale", "Step", "Status", "Last report"), rows)

    @_turn
    def state_dict(self) -> dict[str, Any]:
        """JSON-able state; floats survive the round trip exactly."""
        trials: list[dict[str, Any]] = []
        for trial in self:
            entry = vars(trial) | {"mixture": list(trial.mixture), "observations": self._reports(trial)}
            for label, told in (("noise", dict), ("supply", dict), ("branch", asdict), ("repeat", int)):
                if said := entry.pop(label):  # which most runs have not
                    entry[label] = told(said)
            trials.append(entry)
        packed = any(isinstance(entry["observations"], dict) for entry in trials)
        state = {
            "version": PACKED_VERSION if packed else FORMAT_VERSION,
            "space": self.space.to_dict(),
            "trials": trials,
            "arrivals": [list(arrival) for arrival in self.arrivals],
            **{counter: getattr(self, counter) for counter in _COUNTERS},
        }
        befallen = {"unkept": self.unkept, "incidents": list(self.incidents)}
        return state | {key: value for key, value in befallen.items() if value}

    def _reports(self, trial: Trial) -> list[Any] | dict[str, Any]:
        """The reports of a trial as JSON-able data; what was packed is kept until there are more of them."""
        reports = trial.observations
        before, n, kept = self._described.get(trial.trial_id, (None, 0, {}))
        if before is reports and n == len(reports):
            return kept
        found = described(reports)
        if isinstance(found, dict):
            self._described[trial.trial_id] = reports, len(reports), found
        return found

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> History:
        """The history that ``state_dict`` described.

        Raises:
            ValueError: if the state is of another version, malformed or inconsistent.
        """
        check_version(state, "a history", FORMAT_VERSION, PACKED_VERSION)
        check_known(state, _FIELDS, "history")
        try:
            history = cls(MixtureSpace.from_dict(state["space"]))
            for entry in state["trials"]:
                trial = trial_of(entry)
                if (n := len(trial.mixture)) != history.space.n_shares:
                    raise ValueError(
                        f"Inconsistent history: the mixture of trial {trial.trial_id!r} has {n} shares, and one of its "
                        f"space {history.space.n_shares}. Were its domains or phases edited?"
                    )
                history.add(trial)
            history.arrivals = [(history[name].trial_id, whole(z, "a step", 1)) for name, z in state["arrivals"]]
            for counter in _COUNTERS:
                count = state.get(counter, 0) if counter == "n_apart" else state[counter]  # new since version 0.1
                setattr(history, counter, whole(count, counter))
            history.unkept = number(state.get("unkept", 0.0), "unkept")
            history.incidents = state.get("incidents", [])
        except (KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"Malformed history: {error!r}.") from error
        if not isinstance(history.incidents, list) or not all(isinstance(line, str) for line in history.incidents):
            raise ValueError("Malformed history: its incidents are no list of sentences.")
        if history.unkept < 0:
            raise ValueError(f"The cost of training that was not kept must be 0 or more, got {history.unkept!r}.")
        seen = {(t.trial_id, step) for t in history for step in t.observations}
        if seen != set(history.arrivals) or len(seen) != len(history.arrivals):
            raise ValueError("Inconsistent history: its arrivals do not match the trials' observations.")
        paid, asked = sum(not trial.evaluated for trial in history), history.n_asked + history.n_apart
        if "n_apart" in state and asked < paid:
            raise ValueError(f"Inconsistent history: it has {paid} trials, but says that {asked} were asked for.")
        return history

"""What trials report: how far they are, which metrics they have, and what is amiss with it."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ray.tune.result import AUTO_RESULT_KEYS

from ray_mixopt.core.branches import cost_of
from ray_mixopt.core.history import MISSED, is_sound
from ray_mixopt.core.history import Trial as Run
from ray_mixopt.core.trial import is_far, missed, steps_done
from ray_mixopt.optimizer import MixtureOptimizer

logger = logging.getLogger(__name__)

_MOST = 2.0**53  # steps that a float can count
MAX_IDLE = 3  # reports in a row of a run that bring it no further
MAX_REPORTS = 20_000  # up to the next rung, at the rate so far: beyond that, too
_EARLY, _SURE = 5, 50  # reports for each rung ahead, after which the rate is looked at
_OF_TUNE = {*AUTO_RESULT_KEYS, "step", "done", "trial_id", "checkpoint_dir_name"}
_KINDS_OF_TUNE = ("config/", "timers/", "perf/")


def training_step(result: Mapping[str, Any]) -> int | None:
    """The training step of a flattened result: the whole steps of its "step"; None unless that is >= 1.

    Text that holds a number is one, as trackers write it.
    """
    value = _number(result.get("step"))
    return None if value is None or steps_done(value) < 1 else steps_done(value)


def _number(value: object) -> float | None:
    try:
        found = math.nan if isinstance(value, bool | np.bool_) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return found if abs(found) <= _MOST else None


def metrics_of(result: Mapping[str, Any], names: Iterable[str]) -> dict[str, float]:
    """Values of those of the named metrics that a flattened result has as numbers, NaN and infinity among them."""
    found = {}
    for name in names:
        try:
            found[name] = float(result[name])
        except (KeyError, TypeError, ValueError):
            continue
    return found


def others_of(result: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The entries of a flattened result that are neither Tune's own nor among the named metrics."""
    known = {*_OF_TUNE, *names}
    return {key: value for key, value in result.items() if key not in known and not key.startswith(_KINDS_OF_TUNE)}


@dataclass
class Pace:
    """How the reports of one run follow each other, in the process that it runs in by now.

    Attributes:
        iteration: Tune's number of the report that was counted last.
        furthest: the last training step that a report named; -1 before the first report.
        unread: reports since then that named none.
        idle: reports since then that named it, or an earlier one, again.
        reports: how many there were.
        foreign: whether what they name cannot be training steps.
    """

    iteration: int = 0
    furthest: int = -1
    unread: int = 0
    idle: int = 0
    reports: int = 0
    foreign: bool = False


class Reports:
    """Takes in the reports of runs, counts those that do not say how far a run is, and warns once of what they lack.

    A run whose reports name no training step cannot be held at its rung by it. But it reports at every rung that it
    passes: after as many reports as there are rungs up to the one it was asked for, it may be there. It is taken to be
    there, then, so that it is not trained beyond it and is paid for; what it reported teaches nothing.

    Steps that are far beyond all rungs, or so slow that no rung is ever reached, count something else: tokens, samples
    or epochs. Nothing tells how far such a run is, and it is paid for up to the rung it was asked for.
    """

    def __init__(self) -> None:
        self._told: set[str] = set()
        self._paces: dict[str, Pace] = {}
        self._last: dict[str, tuple[int, int]] = {}

    def count(self, run: Run, result: Mapping[str, Any], rungs: Sequence[int]) -> None:
        """Takes note of a report, once, whoever hears of it first.

        Args:
            run: it has reported.
            result: its report, flattened.
            rungs: all training steps at which runs of its scale report.
        """
        pace = self._paces.setdefault(run.trial_id, Pace())
        iteration = result.get("training_iteration")
        if iteration is not None and iteration == pace.iteration:
            return
        if iteration is not None and iteration < pace.iteration:  # started again, from an earlier checkpoint
            pace = self._paces[run.trial_id] = Pace()
        pace.iteration = pace.iteration + 1 if iteration is None else iteration
        pace.reports += 1
        step = training_step(result)
        if step is not None and step > pace.furthest:
            pace.furthest, pace.unread, pace.idle = step, 0, 0
        elif step is not None:
            pace.idle += 1
        elif pace.furthest < 0 and _number(result.get("step")) == 0:
            pace.furthest = 0  # before training
        else:
            pace.unread += 1
        self._check_unit(run, step, pace, rungs)
        self._warn_of_step(run, result, pace)

    def astray(self, run: Run, rungs: Sequence[int]) -> bool:
        """Whether the reports of a run no longer tell how far it is, and it may be at its rung."""
        pace = self._paces.get(run.trial_id, Pace())
        return pace.foreign or pace.idle >= MAX_IDLE or pace.unread >= max(len(_ahead(run, rungs)), 1)

    def check_end(self, run: Run, before: int, rungs: Sequence[int]) -> None:
        """Checks that a run which nobody can stop has stopped by itself.

        Args:
            run: it has just reported.
            before: the step that it had reported before.
            rungs: all training steps at which runs of its scale report.

        Raises:
            RuntimeError: if it reported its rung before, or may have, and trains on; or if its steps are none.
        """
        pace = self._paces.get(run.trial_id, Pace())
        if run.status == "running" and pace.foreign:
            raise RuntimeError(
                f"Trial {run.trial_id} was asked for {run.steps} steps and reports step {pace.furthest} with its "
                f"report number {pace.reports}: 'step' is to count training steps: nothing tells when it should end."
            )
        lost = pace.unread > max(len(_ahead(run, rungs)), 1) or pace.idle > MAX_IDLE
        goes_on = run.steps <= before < run.reached or lost
        if run.status == "running" and goes_on:
            raise RuntimeError(
                f"Trial {run.trial_id} was asked for {run.steps} steps and trains on after that: nothing would stop "
                "it. Return done=True with the report at config['steps'], or have it stopped: "
                "TuneConfig(scheduler=MixOptScheduler())."
            )

    def warn_of_excess(self, run: Run) -> None:
        """Says of a run that is over and has trained on after its rung what would have ended it there."""
        if not run.evaluated and run.reached > run.steps:
            self.warn_once(
                f"Trial {run.trial_id} was asked for {run.steps} steps and trained {run.reached}, all of which are "
                "paid for: such a run is ended with its first report beyond what it was asked for. Return done=True "
                "with the report at config['steps'], or have it stopped there: "
                "TuneConfig(scheduler=MixOptScheduler()).",
                "excess",
            )

    def bill(
        self, optimizer: MixtureOptimizer, run: Run, result: Mapping[str, Any] | None, *, by_itself: bool = False
    ) -> None:
        """Tells the optimizer how far a run may be that is over and whose last reports did not say.

        One that ended by itself, before its first rung, and counts one a report, has hardly trained a step or two: it
        counts epochs, or evaluations, and has trained what it was asked for.

        Args:
            optimizer: of the search.
            run: the run that is over.
            result: its last report, flattened, if it had one. All that it teaches is a divergence.
            by_itself: whether neither an error ended it nor anyone else.
        """
        pace = self._paces.pop(run.trial_id, Pace())
        counts_reports = 0 < pace.furthest <= pace.reports and 2 * pace.furthest <= min(
            *optimizer.space.rungs(run.scale), run.steps
        )
        if by_itself and counts_reports and run.status == "running":
            pace.foreign = True
            self.warn_once(
                f"Trial {run.trial_id}, which was asked for {run.steps} steps, ended by itself with step "
                f"{pace.furthest} in its report number {pace.reports}. 'step' is to count training steps, at every "
                "rung up to config['steps']; epochs and evaluations are none. Such a run is paid for as what it was "
                "asked for, and teaches nothing there.",
                "short",
            )
        if not pace.unread and not (pace.foreign and run.reached < run.steps):
            return
        rungs = [run.steps] if pace.foreign else _ahead(run, optimizer.space.rungs(run.scale)) or [run.steps]
        metrics = metrics_of(result or {}, optimizer.problem.metrics)
        unsound = {name: value for name, value in metrics.items() if not is_sound(value)}
        optimizer.tell(run.trial_id, rungs[min(max(pace.unread, 1), len(rungs)) - 1], unsound)

    def observe(
        self, optimizer: MixtureOptimizer, run: Run, result: Mapping[str, Any], names: Sequence[str]
    ) -> int | None:
        """Tells the optimizer of a report.

        Args:
            optimizer: of the search.
            run: the run that reported.
            result: what it reported, flattened.
            names: the metrics that matter.

        Returns:
            The training step of the report; None where there was nothing to tell.
        """
        step, metrics = training_step(result), metrics_of(result, names)
        if step is None and not metrics and not result.get("training_iteration"):
            return None  # no report: what Tune has of a trial that ended before its first one
        self.count(run, result, optimizer.space.rungs(run.scale))
        if step is None or self._paces[run.trial_id].foreign:
            return None
        others = others_of(result, names)
        if not metrics and optimizer.history.is_new(MISSED):
            logger.warning("%s", missed(run.trial_id, names, list(others)))
        optimizer.history.unkept += self._repeated(optimizer, run, result, step)
        optimizer.tell(run.trial_id, step, others | metrics)
        return step

    def _repeated(self, optimizer: MixtureOptimizer, run: Run, result: Mapping[str, Any], step: int) -> float:
        """Cost of steps that were trained again, from an older checkpoint, to get to a report that is known already.

        A process that only says the same twice did not train for it.
        """
        iteration = result.get("iterations_since_restore")
        if not isinstance(iteration, int):
            return 0.0
        before, self._last[run.trial_id] = self._last.get(run.trial_id), (iteration, step)
        if step not in run.observations:
            return 0.0
        if before is not None and before[0] < iteration:  # the same process
            start = before[1]
        else:
            start = max((earlier for earlier in run.observations if earlier < step), default=0)
        return cost_of(optimizer.space, run, step, start=start) if start < step else 0.0

    def warn_once(self, message: str, kind: str = "") -> None:
        """Logs a warning, unless the same, or one of the same kind, was logged before."""
        if (kind or message) not in self._told:
            self._told.add(kind or message)
            logger.warning("%s", message)

    def _check_unit(self, run: Run, step: int | None, pace: Pace, rungs: Sequence[int]) -> None:
        """Marks a run whose steps count something else; where they only may, a warning asks."""
        last, ahead = max(*rungs, run.steps), _ahead(run, rungs)
        asked = f"Trial {run.trial_id}, which was asked for {run.steps} steps, reports step {pace.furthest}"
        ended = (
            "Does 'step' count training steps? Tokens, samples or epochs are none. Such a run is ended, is paid for "
            f"up to the {run.steps} steps, and such reports teach nothing."
        )
        if step is None:
            return
        if is_far(step, (*rungs, run.steps)):
            pace.foreign = True
            self.warn_once(f"{asked}, far beyond all rungs up to {last}. {ended}", "far")
        elif step >= 2 * run.steps:
            self.warn_once(
                f"{asked}: all of them are paid for. Does 'step' count training steps? Then report at every rung up to "
                "config['steps'].",
                "beyond",
            )
        elif ahead and pace.reports >= _SURE * len(ahead) and pace.reports * ahead[0] > MAX_REPORTS * pace.furthest:
            pace.foreign = True
            self.warn_once(f"{asked} after {pace.reports} reports, far below its next rung {ahead[0]}. {ended}", "slow")
        elif (
            ahead
            and pace.reports >= _EARLY * len(ahead)
            and pace.furthest <= pace.reports
            and 2 * pace.furthest <= ahead[0]
        ):
            self.warn_once(
                f"{asked} after {pace.reports} reports. Does 'step' count training steps? If it counts epochs or "
                "reports, the run is trained far beyond what it is paid for. If it does, report less often.",
                "creeping",
            )

    def _warn_of_step(self, run: Run, result: Mapping[str, Any], pace: Pace) -> None:
        value = result.get("step")
        number = _number(value)
        if pace.unread:
            has = f"'step' is {value!r}" if "step" in result else f"no 'step' among {', '.join(others_of(result, ()))}"
            self.warn_once(
                f"Trial {run.trial_id} does not report how far it is: {has}. Report the number of training steps as "
                "'step', at every rung up to config['steps']. Without it a run is ended after as many reports as there "
                "are rungs up to its own, is paid for up to there, and teaches nothing.",
                "no step",
            )
        elif pace.idle >= MAX_IDLE:
            self.warn_once(
                f"Trial {run.trial_id} has reported step {pace.furthest} or less {MAX_IDLE} times since it was there: "
                "such a run is ended. Report 'step' as the number of training steps so far.",
                "idle",
            )
        elif isinstance(value, str):
            self.warn_once(f"Trials report 'step' as text, {value!r}: it is read as the number.", "text")
        elif number is not None and not math.isclose(number, round(number), rel_tol=1e-6, abs_tol=1e-6):
            self.warn_once(f"Trials report steps that are no whole numbers, {value!r}: whole ones count.", "whole")


def _ahead(run: Run, rungs: Sequence[int]) -> list[int]:
    """The rungs that a run has yet to pass, up to its own; a branch begins beyond those before its first."""
    first = 0 if run.branch is None else run.branch.steps
    return [rung for rung in rungs if run.reached < rung <= run.steps and rung >= first]

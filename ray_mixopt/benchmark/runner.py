"""One search from nothing to the end of its budget, watched from outside.

Cost is counted here, from what was run and not from what the method says: a run costs its steps, a continued run only
the further ones, and what it reports at rungs on the way is free. A run that fails has cost what it took until then.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Sequence

import numpy as np

from ray_mixopt.benchmark.methods import Entry, Method
from ray_mixopt.benchmark.problem import BenchmarkProblem
from ray_mixopt.benchmark.record import Point, Record, commit, machine, versions
from ray_mixopt.benchmark.workers import ONE_WORKER, Assignment, Fleet, Floor, PaidRun, Reading
from ray_mixopt.core.branches import Trunks, cost_of
from ray_mixopt.core.simplex import same_mixture
from ray_mixopt.core.strategy import Suggestion
from ray_mixopt.core.trial import Branch, Trial

PER_DECADE = 16  # costs, in each factor of 10, at which the recommendation is looked at
FIRST_CHECKPOINT = 0.01  # of a target run
_TOLERANCE = 1 + 1e-9


class Bill:
    """What has been run, and what it cost.

    Args:
        problem: sets the costs.
    """

    def __init__(self, problem: BenchmarkProblem) -> None:
        self.problem = problem
        self.runs: dict[str, PaidRun] = {}
        self.by_scale = dict.fromkeys(problem.space.scale_names, 0.0)

    @property
    def spent(self) -> float:
        """Cost of all runs, in the problem's unit."""
        return math.fsum(self.by_scale.values())

    def run(self, suggestion: Suggestion) -> PaidRun:
        """The run that a suggestion starts or goes on with.

        Raises:
            ValueError: if it continues what cannot be continued, or gives an old name to a new run.
        """
        mixture = self.problem.space.mixture(suggestion.mixture)
        if suggestion.continues is None:
            if suggestion.trial_id in self.runs:
                raise ValueError(f"The method started trial {suggestion.trial_id!r} twice.")
            return PaidRun(mixture=mixture, scale=suggestion.scale, branch=self._branch(suggestion, mixture))
        run = self.runs.get(suggestion.continues)
        if run is None or run.failed or suggestion.continues != suggestion.trial_id:
            raise ValueError(f"The method continued trial {suggestion.continues!r}, which cannot be continued.")
        if suggestion.steps <= run.reached:
            raise ValueError(f"The method continued trial {suggestion.continues!r} to a step that it has passed.")
        if run.scale != suggestion.scale or not same_mixture(run.mixture, mixture):
            raise ValueError(f"The method continued trial {suggestion.continues!r} with another mixture or scale.")
        return run

    def _branch(self, suggestion: Suggestion, mixture: np.ndarray) -> Branch | None:
        """Where a new run begins.

        Raises:
            ValueError: if it cannot begin there.
        """
        if suggestion.parent is None:
            return None
        run = self.runs.get(suggestion.parent)
        if run is None:
            raise ValueError(f"The method branched from trial {suggestion.parent!r}, which was not run.")
        parent = Trial(
            trial_id=suggestion.parent,
            mixture=tuple(run.mixture.tolist()),
            scale=run.scale,
            steps=int(run.reached),
            status="failed" if run.failed else "paused",
            observations={int(run.reached): {}},
        )
        return Trunks(self.problem.space, ()).branch_of(parent, mixture, suggestion.scale, suggestion.steps)

    def cost(self, run: PaidRun, steps: float) -> float:
        """What it costs to take a run from where it is to a step, in the problem's unit."""
        return cost_of(self.problem.space, run, steps, start=run.reached)

    def pay(self, trial_id: str, run: PaidRun, steps: float) -> None:
        """Takes a run to a step and files it."""
        self.by_scale[run.scale] += self.cost(run, steps)
        run.reached = steps
        self.runs[trial_id] = run

    def trained(self, mixture: np.ndarray) -> bool:
        """Whether a mixture ``(d,)`` has been trained at the target."""
        space = self.problem.space
        return any(
            run.scale == space.target_scale
            and run.reached >= space.target_steps
            and bool(same_mixture(run.mixture, mixture))
            for run in self.runs.values()
        )


def problem_seed(problem: BenchmarkProblem, seed: int) -> int:
    """Seed of a problem's noise and failures: one for each problem and seed, and not the method's."""
    return int.from_bytes(hashlib.blake2b(f"{problem.id}|{seed}".encode(), digest_size=8).digest(), "little")


def checkpoints(problem: BenchmarkProblem, budget: float) -> tuple[float, ...]:
    """Costs up to the budget at which the recommendation is looked at, ascending."""
    first, last = FIRST_CHECKPOINT * problem.space.target_cost, budget * _TOLERANCE
    n = max(0, math.floor(PER_DECADE * math.log10(last / first)) + 1)
    grid = [first * 10 ** (i / PER_DECADE) for i in range(n)]
    return tuple(sorted({*grid, *(cost for cost in problem.score_costs if cost <= last), budget}))


def search(problem: BenchmarkProblem, entry: Entry, seed: int, budget: float, workers: Fleet = ONE_WORKER) -> Record:
    """Runs one method on one problem.

    Runs go side by side on a virtual clock, on which a run takes its cost over the speed of its worker. A free worker
    asks at once; what a run reports is told when it gets there. Suggesting takes no time.

    Args:
        problem: what is searched.
        entry: the method.
        seed: of the method, and, hashed with the problem's id, of the noise and the failures.
        budget: most that may be spent, in the problem's cost unit. The search ends with the first suggestion that does
            not fit, or when the method has none and nothing runs.
        workers: what trains.

    Raises:
        ValueError: if the method cannot search this problem, or suggests what makes no sense.
    """
    task = problem.task(budget, seed)
    if not entry.suits(task):
        raise ValueError(f"Method {entry.name!r} does not search {'a pool' if task.pool else 'the simplex'}.")
    if entry.obstacle:
        raise ValueError(f"Method {entry.name!r} cannot run: {entry.obstacle}.")
    method = entry.start(task)
    bill, floor = Bill(problem), Floor(workers)
    watch = _Watch(problem, method, budget)
    space, noise_seed = problem.space, problem_seed(problem, seed)
    seconds: list[float] = []  # of the method, by suggestion
    n_failed = 0
    over = False
    watch.look(bill.spent, floor.now, bill)
    while True:
        while floor.idle and not over:
            start = time.perf_counter()
            suggestion = method.ask()
            elapsed = time.perf_counter() - start
            if suggestion is None:
                break
            if any(job.trial_id == suggestion.trial_id for job in floor.jobs):
                raise ValueError(f"The method asked for trial {suggestion.trial_id!r} again while it runs.")
            job = _assignment(problem, bill, suggestion, method.space.steps, noise_seed, len(seconds))
            if bill.spent + floor.committed + job.reserved > budget * _TOLERANCE:
                over = True
                break
            seconds.append(elapsed)
            floor.start(job)
        if not floor.busy:
            break
        watch.before(bill.spent + floor.trained(floor.now), bill.spent + floor.trained(floor.next_end), floor.now, bill)
        reports, ended = floor.advance()
        start = time.perf_counter()
        for trial_id, step, metrics in reports:
            method.tell(trial_id, step, metrics)
        for job in ended:
            method.finish(job.trial_id, job.failed)
        seconds[ended[0].number] += time.perf_counter() - start
        for job in ended:
            bill.pay(job.trial_id, job.run, job.end)
            job.run.failed = job.failed
            n_failed += job.failed
        if any(job.run.scale == space.target_scale and job.run.reached >= space.target_steps for job in ended):
            watch.look(bill.spent + floor.trained(floor.now), floor.now, bill)
    watch.look(bill.spent, floor.now, bill)
    return Record(
        problem=problem.id,
        group=problem.group,
        method=entry.name,
        seed=seed,
        budget=budget,
        settings=entry.settings,
        logged=problem.pool is not None,
        cost_unit=problem.cost_unit,
        target_cost=space.target_cost,
        score_costs=problem.score_costs,
        best=problem.truth.best,
        median=problem.truth.median,
        trace=tuple(watch.trace),
        spent=bill.spent,
        spent_by_scale=bill.by_scale,
        runs=len(seconds),
        failed=n_failed,
        seconds={
            "median": float(np.median(seconds)) if seconds else 0.0,
            "p95": float(np.quantile(seconds, 0.95)) if seconds else 0.0,
            "total": math.fsum(seconds),
        },
        versions=versions(entry.packages),
        commit=commit(),
        machine=machine(),
        workers=workers.speeds,
    )


def _assignment(
    problem: BenchmarkProblem, bill: Bill, suggestion: Suggestion, rungs: Sequence[int], noise_seed: int, number: int
) -> Assignment:
    """What becomes of a suggestion: where its run ends and what it reports on the way, at the method's rungs."""
    run = bill.run(suggestion)
    if not problem.logged(run.mixture, run.scale, suggestion.steps):
        raise ValueError(f"The method asked for a run that is not logged: {suggestion}.")
    stream = noise_seed, number
    end, failed = _end(problem, run, suggestion.steps, stream)
    first = 0 if run.branch is None else run.branch.steps
    passed = [z for z in rungs if run.reached < z <= end and z >= first and problem.logged(run.mixture, run.scale, z)]
    return Assignment(
        trial_id=suggestion.trial_id,
        run=run,
        number=number,
        end=end,
        failed=failed,
        reserved=bill.cost(run, suggestion.steps),
        cost=bill.cost(run, end),
        reports=[Reading(bill.cost(run, z), z, problem.observe(run.mixture, run.scale, z, stream)) for z in passed],
    )


class _Watch:
    """Looks at the recommendation whenever a checkpoint is about to be passed."""

    def __init__(self, problem: BenchmarkProblem, method: Method, budget: float) -> None:
        self.problem, self.method = problem, method
        self.costs = checkpoints(problem, budget)
        self.trace: list[Point] = []

    def before(self, cost: float, following: float, clock: float, bill: Bill) -> None:
        """No run ends until ``following`` is spent: what is recommended now holds for the checkpoints until then."""
        if any(cost <= c < following for c in self.costs):
            self.look(cost, clock, bill)

    def look(self, cost: float, clock: float, bill: Bill) -> None:
        """Records the recommendation as it stands, unless nothing was run since the last one."""
        if self.trace and self.trace[-1].cost == cost:
            return
        mixture = self.problem.space.mixture(self.method.recommend())
        self.trace.append(
            Point(
                cost=cost,
                time=clock,
                regret=self.problem.regret(mixture),
                trained=bill.trained(mixture),
                mixture=tuple(mixture.tolist()),
            )
        )


def _end(problem: BenchmarkProblem, run: PaidRun, steps: int, stream: tuple[int, int]) -> tuple[float, bool]:
    """Where a run ends: at its rung, or, if it fails, at a random step before it."""
    if problem.failures == 0:
        return steps, False
    rng = np.random.default_rng([*stream, 1])
    failed = bool(rng.random() < problem.failures)
    start = run.branch.from_step if run.branch is not None and run.reached == 0 else run.reached
    return (start + rng.random() * (steps - start), True) if failed else (steps, False)

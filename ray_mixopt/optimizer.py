"""Ask/tell search for the best mixture at the target, without Ray."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, get_args

import numpy as np

from ray_mixopt.core.history import History, Trial
from ray_mixopt.core.merging import DomainMap
from ray_mixopt.core.objective import Mode, Objective, checked_weights, resolve
from ray_mixopt.core.pool import Pool
from ray_mixopt.core.recommendation import Recommendation
from ray_mixopt.core.space import MixtureSpace
from ray_mixopt.strategies import STRATEGIES, Problem, Proposal, Suggestion, create

STATE_VERSION = 1
MAX_TRIES = 3  # of a run that is lost again and again
_SINGLE = "value"


class MixtureOptimizer:
    """Multi-fidelity, multi-scale search over {mixture, scale, steps}.

    Use: ``ask`` for a run, ``tell`` each rung as it is seen, ``finish`` the run, ``recommend`` at any time. Several
    ``ask`` before any ``tell`` are distinct and informed by each other.

    Args:
        space: the search space.
        mode: "min" or "max" the objective.
        objective: weight of each metric in the objective, a linear combination in the direction of ``mode`` (weights
            may be negative); or an ``Objective``, which also has guardrails and more. None: ``tell`` takes a single
            number.
        strategy: "default" (expected regret removed per cost), "paper" (MFMS-GP, arXiv 2503.21023,
            Algorithm 1) or "random" (full target runs).
        budget: most to commit, in the unit of the space's costs; ``ask`` returns None when nothing fits any more.
        seed: of all random draws, a non-negative integer.
        pool: the only runs that exist, when a table of logged runs is replayed.
        continuation: whether paused runs may be continued at marginal cost.
        reference: weights by domain of a mixture to compare recommendations with, for instance the one in use.
        min_gain_per_cost: the search ends, before the budget if there is one, when no run is expected to remove that
            much regret at the target, in the objective's unit, per unit of cost. "default" only.

    Raises:
        ValueError: for a mode, objective, strategy, budget, seed or min_gain_per_cost that make no sense.
    """

    def __init__(
        self,
        space: MixtureSpace,
        *,
        mode: Mode = "min",
        objective: Mapping[str, float] | Objective | None = None,
        strategy: str = "default",
        budget: float | None = None,
        seed: int = 0,
        pool: Pool | None = None,
        continuation: bool = True,
        reference: Mapping[str, float] | None = None,
        min_gain_per_cost: float = 0.0,
    ) -> None:
        if not isinstance(space, MixtureSpace):
            raise ValueError(f"MixtureOptimizer needs a MixtureSpace, got {type(space).__name__}.")
        check_settings(
            mode=mode,
            objective=objective,
            strategy=strategy,
            budget=budget,
            seed=seed,
            min_gain_per_cost=min_gain_per_cost,
        )
        if pool is not None and pool.mixtures.shape[1] != space.n_domains:
            raise ValueError(f"The pool has {pool.mixtures.shape[1]} domains, the space {space.n_domains}.")
        if pool is not None and pool.available.shape[1:] != (len(space.scales), len(space.steps)):
            raise ValueError(
                f"The pool has {pool.available.shape[1]} scales and {pool.available.shape[2]} rungs, the space "
                f"{len(space.scales)} and {len(space.steps)}."
            )
        goal = objective if isinstance(objective, Objective) else None
        if goal is not None:
            goal.check(space)
        if space.groups and strategy.startswith("paper"):
            raise ValueError(f"Strategy {strategy!r} knows no limits on groups of domains: use 'default' or 'random'.")
        self.problem = Problem(
            space=space,
            mode=mode,
            objective=_weights(objective, mode),
            goal=goal,
            reference=None if reference is None else space.named(resolve(reference, space)),
            budget=None if budget is None else float(budget),
            seed=seed,
            pool=pool,
            continuation=continuation,
            min_gain_per_cost=float(min_gain_per_cost),
        )
        self.single_valued = objective is None
        self.strategy_name = strategy
        self._strategy = create(strategy, self.problem)
        self.history = History(space)

    @property
    def space(self) -> MixtureSpace:
        """The search space."""
        return self.problem.space

    # -- ask and tell

    def ask(self, trial_id: str | None = None) -> Suggestion | None:
        """The next run; None when the budget allows nothing more, no run is worth it, or a pool is used up.

        A run that was lost before it showed anything is asked for again first, under a new name.

        Args:
            trial_id: name for a new run; made up if not given. A continuation keeps the name of the run it continues.
        """
        proposal = self.propose(self.history)
        return None if proposal is None else self.accept(proposal, trial_id)

    def propose(self, history: History) -> Proposal | None:
        """What ``ask`` would want to run given a history, which stays as it is; safe to call in another thread."""
        again = self._lost_run(history)
        return self._strategy.propose(history) if again is None else again

    def accept(self, proposal: Proposal, trial_id: str | None = None) -> Suggestion:
        """Files a proposal as asked for; see ``ask``."""
        history = self.history
        if proposal.continues is not None:
            trial = history[proposal.continues]
            trial.steps, trial.status = proposal.steps, "running"
        else:
            name = f"trial_{len(history):05d}" if trial_id is None else trial_id
            shares = tuple(proposal.mixture.tolist())
            trial = Trial(
                trial_id=name,
                mixture=shares,
                scale=proposal.scale,
                steps=proposal.steps,
                acquisition=proposal.acquisition,
            )
            history.add(trial)
        if not proposal.again:
            history.n_asked += 1
        return Suggestion(
            trial_id=trial.trial_id,
            mixture=self.space.named(trial.mixture),
            scale=trial.scale,
            steps=trial.steps,
            continues=proposal.continues,
            cost=self.space.cost(trial.scale, trial.steps, start=trial.reached),
        )

    def still_possible(self, proposal: Proposal) -> bool:
        """Whether a proposal made for an earlier state of the history can be accepted now."""
        start = 0
        if proposal.continues is not None:
            trial = self.history[proposal.continues]
            if trial.status != "paused" or trial.reached >= proposal.steps:
                return False
            start = trial.reached
        cost = self.space.cost(proposal.scale, proposal.steps, start=start)
        return cost <= self.problem.affordable(self.history) * (1 + 1e-12)

    def _lost_run(self, history: History) -> Proposal | None:
        """A run that nothing came of through no fault of its own, unless it was tried too often already."""
        if not any(run.status == "lost" for run in history):
            return None
        tries = Counter((run.mixture, run.scale) for run in history if not run.evaluated)
        answered = {(run.mixture, run.scale) for run in history if run.status != "lost" or run.observations}
        for run in history:
            key = run.mixture, run.scale
            if run.status != "lost" or run.evaluated or key in answered or tries[key] >= MAX_TRIES:
                continue
            if self.space.cost(run.scale, run.steps) <= self.problem.affordable(history) * (1 + 1e-12):
                mixture = self.space.mixture(run.mixture)
                return Proposal(
                    mixture=mixture, scale=run.scale, steps=run.steps, acquisition=run.acquisition, again=True
                )
        return None

    def tell(self, trial_id: str, step: int, value: float | Mapping[str, float]) -> None:
        """Report what a run showed at a rung; call it for every rung as it is seen.

        A repeated (trial, step) is dropped. NaN or inf marks the run as diverged. Metrics that a mapping lacks are
        simply unknown.

        Args:
            trial_id: the suggestion's name.
            step: training step of the report.
            value: the objective, or metrics by name when ``objective`` was given. Metrics that are not part of it are
                kept, for another objective to be asked about later; there a NaN is no divergence.

        Raises:
            ValueError: for an unknown trial, a bad step, or a value of the wrong kind.
        """
        self.history.observe(trial_id, step, self._metrics(value), self._others(value))

    def finish(self, trial_id: str, failed: bool = False, *, lost: bool = False, continuable: bool = True) -> None:
        """The run stopped: at its rung, or ``failed`` before it. What it showed is kept either way.

        Args:
            trial_id: the suggestion's name.
            failed: whether an error ended it; it then cannot be continued.
            lost: whether its machine failed and not the run; if it showed nothing, it is asked for again.
            continuable: whether its last checkpoint is kept, so that it can go on later at marginal cost.

        Raises:
            ValueError: for an unknown trial.
        """
        trial = self.history[trial_id]
        if trial.status == "diverged":
            return
        if lost or failed:
            trial.status = "lost" if lost else "failed"
        else:
            trial.status = "paused" if continuable and trial.reached > 0 else "done"

    def add_evaluated_point(
        self,
        mixture: Mapping[str, float],
        scale: str,
        step: int,
        value: float | Mapping[str, float],
        *,
        trial_id: str | None = None,
    ) -> None:
        """Take in a run made elsewhere; it costs this search nothing.

        Args:
            mixture: weights by domain, normalised here.
            scale: name of the scale it was trained at.
            step: training step of the value.
            value: as in ``tell``.
            trial_id: rungs of one run share it; made up if not given.

        Raises:
            ValueError: if the mixture, scale, step or value does not fit the space.
        """
        metrics = self._metrics(value)
        name = f"evaluated_{len(self.history):05d}" if trial_id is None else trial_id
        shares = tuple(self.space.mixture(mixture).tolist())
        known = self.history.trials.get(name)
        if known is None:
            self.history.add(
                Trial(trial_id=name, mixture=shares, scale=scale, steps=step, status="done", evaluated=True)
            )
        elif (known.mixture, known.scale) != (shares, scale):
            raise ValueError(f"Trial {name!r} has another mixture or scale: every run needs an id of its own.")
        try:
            self.history.observe(name, step, metrics, self._others(value))
        except ValueError:
            if known is None:
                del self.history.trials[name]
            raise

    def absorb(self, history: History, changes: DomainMap | None = None, *, source: str = "") -> int:
        """Takes in the runs of an earlier history, at no cost; ``evidence.read`` makes one of files.

        Domains that they lack had no share. Scales that this search lacks are learned from and never trained. The
        initial design is left out as far as they make it unnecessary.

        Args:
            history: runs at any fidelity, perhaps of other domains and scales.
            changes: what became of their domains.
            source: put before the names of their trials.

        Returns:
            The number of runs taken in.

        Raises:
            ValueError: if a domain of the runs has no place in the space, or a scale no size.
        """
        from ray_mixopt.core.merging import take_in, translated

        before = len(self.history)
        given = translated(history, self.space, changes)
        take_in(self.history, given, source)
        self.problem = replace(self.problem, space=given.space)
        self._strategy = create(self.strategy_name, self.problem)
        return len(self.history) - before

    def recommend(self, *, details: bool = False) -> Recommendation:
        """The best mixture for the target as far as is known.

        Args:
            details: whether to add how flat the optimum is, what limits cost and how fidelities rank, from the default
                strategy's surrogate. Takes a few seconds.
        """
        recommendation = self._strategy.recommend(self.history)
        if not details:
            return recommendation
        from ray_mixopt.analysis.details import Analysis

        analysis = Analysis(self.problem, self.history)
        if recommendation.predicted is None:  # the strategy has no model: ours says what it expects of its answer
            recommendation = analysis.of(recommendation)
        return replace(recommendation, details=analysis.details(recommendation))

    # -- state

    def state_dict(self) -> dict[str, Any]:
        """JSON-able state: the settings and the history. The pool is not part of it."""
        problem = self.problem
        return {
            "version": STATE_VERSION,
            "mode": problem.mode,
            "objective": None if self.single_valued else _described(problem),
            "strategy": self.strategy_name,
            "budget": problem.budget,
            "seed": problem.seed,
            "continuation": problem.continuation,
            "reference": None if problem.reference is None else dict(problem.reference),
            "min_gain_per_cost": problem.min_gain_per_cost,
            "history": self.history.state_dict(),
        }

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any], *, pool: Pool | None = None) -> MixtureOptimizer:
        """The optimizer that ``state_dict`` described; it goes on exactly where that one stood.

        Raises:
            ValueError: if the state is of another version or malformed.
        """
        if not isinstance(state, Mapping) or state.get("version") != STATE_VERSION:
            found = state.get("version") if isinstance(state, Mapping) else type(state).__name__
            raise ValueError(f"Cannot read an optimizer of version {found!r}: this release reads {STATE_VERSION}.")
        history = History.from_state_dict(state.get("history", {}))
        try:
            settings = {key: state[key] for key in ("mode", "objective", "strategy", "budget", "seed", "continuation")}
        except KeyError as error:
            raise ValueError(f"Malformed optimizer state: {error} is missing.") from error
        settings["objective"] = objective_of(settings["objective"])
        settings |= {"reference": state.get("reference"), "min_gain_per_cost": state.get("min_gain_per_cost", 0.0)}
        optimizer = cls(history.space, pool=pool, **settings)
        optimizer.history = history
        return optimizer

    def _metrics(self, value: float | Mapping[str, float]) -> dict[str, float]:
        if isinstance(value, Mapping):
            if self.single_valued:
                raise ValueError("tell got several metrics: pass objective={name: weight} to MixtureOptimizer.")
            return {name: _number(value[name], name) for name in self.problem.metrics if value.get(name) is not None}
        if not self.single_valued:
            raise ValueError(f"tell needs the metrics {list(self.problem.objective)} by name, got {value!r}.")
        return {_SINGLE: _number(value, "the objective")}

    def _others(self, value: float | Mapping[str, float]) -> dict[str, float]:
        """Finite numbers in a report that the objective does not need."""
        if not isinstance(value, Mapping):
            return {}
        rest = {name: number for name, number in value.items() if name not in self.problem.metrics}
        return {
            str(name): float(number)
            for name, number in rest.items()
            if isinstance(number, int | float | np.number) and not isinstance(number, bool) and math.isfinite(number)
        }


def check_settings(
    *,
    mode: str,
    objective: Mapping[str, float] | Objective | None,
    strategy: str,
    budget: float | None,
    seed: int,
    min_gain_per_cost: float = 0.0,
) -> None:
    """What can be checked of a ``MixtureOptimizer``'s arguments before the space is known.

    Raises:
        ValueError: naming the argument and what it must be.
    """
    if mode not in get_args(Mode):
        raise ValueError(f"mode must be 'min' or 'max', got {mode!r}.")
    if objective is not None and not isinstance(objective, Objective):
        checked_weights(objective)
    if strategy not in STRATEGIES:
        raise ValueError(f"Unknown strategy {strategy!r}: choose one of {', '.join(STRATEGIES)}.")
    if isinstance(objective, Objective) and not objective.plain and strategy != "default":
        raise ValueError(
            f"Strategy {strategy!r} knows only weighted sums: an objective with guardrails, relative_to or closeness "
            "needs strategy='default'."
        )
    if budget is not None and not (isinstance(budget, int | float) and math.isfinite(budget) and budget > 0):
        raise ValueError(f"budget must be a positive finite cost or None, got {budget!r}.")
    gain = min_gain_per_cost
    if not (isinstance(gain, int | float) and not isinstance(gain, bool) and 0 <= gain < math.inf):
        raise ValueError(f"min_gain_per_cost must be a number that is not negative, got {gain!r}.")
    if gain and strategy != "default":
        raise ValueError(f"Strategy {strategy!r} does not predict gains: min_gain_per_cost needs strategy='default'.")
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise ValueError(f"seed must be a non-negative integer, got {seed!r}.")


def objective_of(description: Mapping[str, Any] | None) -> Mapping[str, float] | Objective | None:
    """The objective that a state describes: weights, or an ``Objective`` as ``to_dict`` wrote it."""
    if description is not None and isinstance(description.get("weights"), Mapping):
        return Objective.from_dict(description)
    return description


def _described(problem: Problem) -> dict[str, Any]:
    return dict(problem.objective) if problem.goal is None else problem.goal.to_dict()


def _weights(objective: Mapping[str, float] | Objective | None, mode: Mode) -> dict[str, float]:
    if objective is None:
        return {_SINGLE: 1.0}
    return objective.signed(mode) if isinstance(objective, Objective) else checked_weights(objective)


def _number(value: object, name: str) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise ValueError(f"The value of {name} must be a number, got {value!r}.") from None

"""The default strategy: buy the runs that remove most of the expected regret at the target.

Each metric of the objective has a Gaussian process over (mixture, scale, steps), averaged over draws of its
hyper-parameters; their errors are correlated. A run is worth the regret it would remove (``acquisition.regret``), per
cost to a small power: small runs are cheap but their value saturates, since the fine structure of small scales is not
that of the target. No run costs more than half of all before it: large ones wait until it is known what to ask them.

One run near the target mostly tells how low losses are there, not which mixture is best. In the second half of the
budget a run is therefore also valued as one of a pair, with the incumbent at the same fidelity.

Notation: ``s`` hyper-parameter draws, ``a`` runs that could be bought, ``c`` mixtures that could be the optimum.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ray_mixopt.acquisition.regret import Regret
from ray_mixopt.core.history import History
from ray_mixopt.core.objective import Guardrail, resolve
from ray_mixopt.core.problem import Problem, Proposal
from ray_mixopt.core.recommendation import NextRun, Prediction, Recommendation
from ray_mixopt.core.space import MixtureSpace
from ray_mixopt.strategies.candidates import PoolCandidates, SimplexCandidates
from ray_mixopt.strategies.design import corners_again, initial_design
from ray_mixopt.surrogate.correlation import error_correlation
from ray_mixopt.surrogate.encoding import Observations, encode, observations
from ray_mixopt.surrogate.fit import laplace_draws, map_estimate
from ray_mixopt.surrogate.gp import Standardisation, Surrogate
from ray_mixopt.surrogate.guard import Guard
from ray_mixopt.surrogate.posterior import ObjectivePosterior

N_DRAWS = 8  # of the hyper-parameters
FEWER_DRAWS = 500  # data beyond which there are fewer draws, as many as take the same memory: they agree the more
MOST_USED = 3000  # data that a surrogate holds, those of the largest fidelities
N_SAMPLES = 64  # of the objective over the plausible optima, for each draw
N_PLAUSIBLE = 40  # mixtures, by lower confidence bound, for each draw, that may be the optimum
N_TOP = 10  # mixtures, by the regret due to them, for each draw, that may be run
COST_EXPONENT = 0.3
LARGEST_SHARE = 0.5  # of what has been committed so far, that one more run may cost, unless none costs less
AGAIN_AT = 0.4  # of the budget committed, when near-corners are run again, further up
PAIRED_SHARE = 0.5  # of the budget, the last, in which runs are valued in pairs too
MOST_FITTED = 320  # data that hyper-parameters are fitted to
REFIT_GROWTH = 1.1  # hyper-parameters are refitted whenever there is a tenth more data


@dataclass(frozen=True, kw_only=True)
class Purchase:
    """A run that could be bought, and its marginal cost."""

    mixture: np.ndarray  # (d,)
    scale: str
    steps: int
    cost: float
    continues: str | None = None

    def announced(self, space: MixtureSpace) -> NextRun:
        """The same in the words of a recommendation."""
        shares = space.named(self.mixture)
        return NextRun(mixture=shares, scale=self.scale, steps=self.steps, cost=self.cost, continues=self.continues)


class RegretStrategy:
    """Expected regret removed per cost.

    Args:
        problem: what is searched.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.space = problem.space
        self.candidates = (
            SimplexCandidates(problem.space) if problem.pool is None else PoolCandidates(problem.space, problem.pool)
        )
        self.design = self.candidates.restrict(initial_design(problem.space, problem.rng(0, 0)))
        self.corners: list[Proposal] = []
        if problem.budget is not None and problem.pool is None:  # a logged run can be had only once
            self.corners = corners_again(problem.space, problem.budget)
        self._fits: dict[str, tuple[bytes, Tensor]] = {}

    # -- what to run

    def propose(self, history: History) -> Proposal | None:
        """The next run of the design, then the best purchase."""
        affordable = self.problem.affordable(history) * (1 + 1e-12)
        design = _still_needed(self.design, history)
        if history.n_asked < len(design):
            first = design[history.n_asked]
            if self.space.cost(first.scale, first.steps) <= affordable:
                return first
        if self._is_late(history, AGAIN_AT):
            for run in self.corners:
                if self.space.cost(run.scale, run.steps) <= affordable and not _was_asked(run, history):
                    return run
        rng = self.problem.rng(1, history.n_asked)
        posterior = self.posterior(history)
        if posterior is None:
            best = self._blind(history, affordable, rng)
        else:
            best = self._best_purchase(posterior, history, affordable, rng, self.problem.min_gain_per_cost)
        if best is None:
            return None
        return Proposal(mixture=best.mixture, scale=best.scale, steps=best.steps, continues=best.continues)

    def _is_late(self, history: History, share: float) -> bool:
        """Whether so much of the budget is committed; never, without one."""
        return self.problem.budget is not None and history.committed >= share * self.problem.budget

    def _blind(self, history: History, affordable: float, rng: np.random.Generator) -> Purchase | None:
        """A random mixture at the cheapest fidelity, while some metric was never observed."""
        runs = self._purchases(self.candidates.at_target(rng, 1), history, affordable)
        if not runs:
            return None
        cheapest = min(run.cost for run in runs)
        cheap = [run for run in runs if run.cost == cheapest and run.continues is None]
        return cheap[rng.integers(len(cheap))] if cheap else None

    def _best_purchase(
        self,
        posterior: ObjectivePosterior,
        history: History,
        affordable: float,
        rng: np.random.Generator,
        min_gain_per_cost: float = 0.0,
    ) -> Purchase | None:
        """The run that removes most regret per cost; None if none is affordable, or none removes enough."""
        posterior = posterior.given_pending(self._pending(history))
        plausible = self._plausible(posterior, history, rng)
        plausible = plausible[_lowest(*posterior.marginal(plausible, plausible), N_PLAUSIBLE)]
        mean, covariance = posterior.contrasts(plausible)
        normals = torch.from_numpy(rng.standard_normal((*mean.shape, N_SAMPLES)))
        regret = Regret.sampled(mean, covariance, normals)
        runs = self._purchases(plausible[regret.contenders(N_TOP)], history, affordable)
        if not runs:
            return None
        committed = history.committed
        runs = [run for run in runs if run.cost <= LARGEST_SHARE * committed] or runs
        explained, information = posterior.explained(self._encode(runs), plausible, regret.bases)
        removed, costs = regret.removed(explained, information), [run.cost for run in runs]
        if not (removed >= min_gain_per_cost * torch.tensor(costs, dtype=torch.float64)).any():
            return None
        value = _value(removed, costs)
        if self._is_late(history, 1 - PAIRED_SHARE):
            incumbent = plausible[int(regret.best)]
            paired = paired_runs(runs, incumbent, affordable)
            if paired:
                rows, partners = map(list, zip(*paired.items(), strict=True))
                which = sorted(set(partners))
                explained = posterior.explained_by_pairs(
                    self._encode([runs[i] for i in rows]),
                    self._encode([runs[i] for i in which]),
                    torch.tensor([which.index(i) for i in partners]),
                    plausible,
                    regret.bases,
                )
                together = [runs[i].cost + runs[j].cost for i, j in paired.items()]
                value[rows] = torch.maximum(value[rows], _value(regret.removed(explained, information[rows]), together))
        return runs[int(value.argmax())]

    def _purchases(self, mixtures: np.ndarray, history: History, affordable: float) -> list[Purchase]:
        """Affordable runs: the mixtures at every fidelity, and the paused runs continued to every further rung.

        What a run of the same mixture and scale shows, or is on its way to show, is not bought again.
        """
        bought: dict[tuple[tuple[float, ...], str], int] = {}
        for trial in history:
            key = _shares(trial.mixture), trial.scale
            bought[key] = max(bought.get(key, 0), trial.steps if trial.pending else trial.reached)
        result = [
            Purchase(mixture=w, scale=m, steps=z, cost=self.space.cost(m, z))
            for w, m, z in self.candidates.runs(mixtures, history)
            if z > bought.get((_shares(w), m), 0)
        ]
        if self.problem.continuation:
            result += [
                Purchase(
                    mixture=np.array(trial.mixture),
                    scale=trial.scale,
                    steps=steps,
                    cost=self.space.cost(trial.scale, steps, start=trial.reached),
                    continues=trial.trial_id,
                )
                for trial in history.paused()
                for steps in self.candidates.further_steps(trial)
            ]
        return [run for run in result if run.cost <= affordable]

    def _plausible(self, posterior: ObjectivePosterior, history: History, rng: np.random.Generator) -> np.ndarray:
        """Mixtures that may be the optimum at the target, ``c x d``."""
        base = self.candidates.at_target(rng, 512, history)
        mean, variance = posterior.marginal(base)
        near = self.candidates.near(base, posterior.score(base, mean.mean(0)).numpy(), rng)
        found = np.concatenate([base, near])
        mean_near, variance_near = posterior.marginal(near)
        mean, variance = torch.cat([mean, mean_near], -1), torch.cat([variance, variance_near], -1)
        allowed = posterior.allowed(found)
        return found[allowed][_lowest(mean[:, allowed], variance[:, allowed], N_PLAUSIBLE)]

    def _pending(self, history: History) -> Tensor:
        running = history.pending()
        shares = np.array([t.mixture for t in running], dtype=np.float64).reshape(-1, self.space.n_domains)
        return encode(self.space, shares, [(t.scale, t.steps) for t in running])

    def _encode(self, runs: Sequence[Purchase]) -> Tensor:
        return encode(self.space, np.stack([run.mixture for run in runs]), [(run.scale, run.steps) for run in runs])

    # -- what to answer

    def recommend(self, history: History) -> Recommendation:
        """The mixture of lowest predicted objective at the target."""
        space, data = self.space, self._data(history)
        posterior = self.posterior(history)
        best, gain, run, calibration = space.uniform(), None, None, None
        predicted: dict[str, Prediction] = {}
        better: dict[str, float | None] = {}
        if posterior is not None:
            rng = self.problem.rng(2, len(history.arrivals))
            optima = self.candidates.best(self.candidates.at_target(rng, 2048, history), posterior.score, rng)
            best = optima[0]
            run = self._best_purchase(posterior, history, math.inf, rng)
            gain = None if run is None else posterior.expected_gain(self._encode([run]), optima[:200], rng)
            calibration = posterior.calibration([values.largest(MOST_USED) for values in data])
            baselines = self.problem.baselines()
            predicted = {"predicted": posterior.prediction(best)}
            predicted |= {name: posterior.prediction(mixture) for name, mixture in baselines.items()}
            better = {name: posterior.probability_better(best, mixture) for name, mixture in baselines.items()}
        return Recommendation(
            mixture=space.named(best),
            scale=space.target_scale,
            steps=space.target_steps,
            predicted=predicted.get("predicted"),
            uniform=predicted.get("uniform"),
            proportional=predicted.get("proportional"),
            reference=predicted.get("reference"),
            probability_better=better,
            spent=history.spent,
            target_runs=history.spent / space.target_cost,
            value_of_next_run=gain,
            next_run=None if run is None else run.announced(space),
            calibration=calibration,
            diverged=sum(t.status == "diverged" for t in history),
            left_out=sum(max(len(values.y) - MOST_USED, 0) for values in data),
        )

    # -- what is known

    def posterior(self, history: History) -> ObjectivePosterior | None:
        """The objective at the target given the history; None while one of its metrics has fewer than two values."""
        data = dict(zip(self.problem.objective, self._data(history), strict=True))
        n_draws = min(n_draws_of(len(values.y)) for values in data.values())
        surrogates = [self._surrogate(metric, values, n_draws) for metric, values in data.items()]
        known = [surrogate for surrogate in surrogates if surrogate is not None]
        if len(known) < len(surrogates):
            return None
        correlation = error_correlation([values.largest(MOST_USED) for values in data.values()], known)
        space, goal = self.space, self.problem.goal
        if goal is None:
            return ObjectivePosterior(space, self.problem.sign, self.problem.objective, known, correlation=correlation)
        return ObjectivePosterior(
            space,
            self.problem.sign,
            self.problem.objective,
            known,
            correlation=correlation,
            relative_to=None if goal.relative_to is None else resolve(goal.relative_to, space),
            prior=resolve(goal.prior, space) if goal.closeness else None,
            closeness=goal.closeness,
            guards=[self._guard(guardrail, history) for guardrail in goal.guardrails],
        )

    def _guard(self, guardrail: Guardrail, history: History) -> Guard:
        data = observations(self.space, history, guardrail.metric, worst=guardrail.sign)
        surrogate = self._surrogate(guardrail.metric, data, n_draws_of(len(data.y)))
        posterior = (
            None
            if surrogate is None
            else ObjectivePosterior(self.space, guardrail.sign, {guardrail.metric: 1.0}, [surrogate])
        )
        return Guard(guardrail=guardrail, baseline=resolve(guardrail.baseline, self.space), posterior=posterior)

    def _surrogate(self, metric: str, data: Observations, n_draws: int) -> Surrogate | None:
        """Of one metric; None while it has fewer than two values."""
        if len(data.y) < 2:
            return None
        theta, used = self._theta(metric, data)[:n_draws], data.largest(MOST_USED)
        standardise = Standardisation.of(used.y)
        known = None if used.noise is None else used.noise / standardise.spread**2
        return Surrogate(used.x, standardise(used.y), theta, standardise, known)

    def _data(self, history: History) -> list[Observations]:
        return [
            observations(self.space, history, metric, worst=self.problem.sign * weight)
            for metric, weight in self.problem.objective.items()
        ]

    def _theta(self, metric: str, data: Observations) -> Tensor:
        """Hyper-parameters fitted to the data of the last refit point: a function of the history alone.

        Of more than ``MOST_FITTED`` data they are fitted to an even selection, since it costs cubic time.
        """
        n = refit_size(len(data.y))
        rows = torch.linspace(0, n - 1, min(n, MOST_FITTED)).round().long()
        x, y, noise = data.x[rows], data.y[rows], None if data.noise is None else data.noise[rows]
        key = b"".join(part.numpy().tobytes() for part in (x, y, noise) if part is not None)
        if metric not in self._fits or self._fits[metric][0] != key:
            standardise, d = Standardisation.of(y), self.space.n_domains
            known = None if noise is None else noise / standardise.spread**2
            mode = map_estimate(x, standardise(y), d, known)
            draws = laplace_draws(x, standardise(y), d, mode, N_DRAWS, self.problem.rng(3, n), known)
            self._fits[metric] = key, draws
        return self._fits[metric][1]


def _still_needed(design: Sequence[Proposal], history: History) -> list[Proposal]:
    """The design without the fidelities at which, or above which, as many runs were given."""
    cost = history.space.cost
    given = [cost(trial.scale, trial.reached) for trial in history if trial.evaluated]
    if not given:
        return list(design)
    wanted = Counter((run.scale, run.steps) for run in design)
    enough = {cell for cell, n in wanted.items() if sum(paid >= cost(*cell) for paid in given) >= n}
    return [run for run in design if (run.scale, run.steps) not in enough]


def _was_asked(run: Proposal, history: History) -> bool:
    """Whether a run of the mixture and the scale has been asked to go so far."""
    mixture = tuple(run.mixture.tolist())
    return any(t.steps >= run.steps and t.scale == run.scale and t.mixture == mixture for t in history)


def _shares(mixture: Sequence[float] | np.ndarray) -> tuple[float, ...]:
    """To a tenth of a percent: mixtures that agree in these are the same run."""
    return tuple((np.round(mixture, 3) + 0.0).tolist())


def _value(gain: Tensor, costs: Sequence[float]) -> Tensor:
    """Logarithm of the regret removed, ``(a,)``, per cost to the power of ``COST_EXPONENT``."""
    return gain.clamp_min(1e-300).log() - COST_EXPONENT * torch.tensor(costs, dtype=torch.float64).log()


def paired_runs(runs: Sequence[Purchase], incumbent: np.ndarray, affordable: float) -> dict[int, int]:
    """Which runs could be compared with which run of the incumbent at their fidelity, for what is affordable."""
    of_incumbent = {
        (run.scale, run.steps): i
        for i, run in enumerate(runs)
        if run.continues is None and np.array_equal(run.mixture, incumbent)
    }
    pairs = {i: of_incumbent.get((run.scale, run.steps)) for i, run in enumerate(runs)}
    return {i: j for i, j in pairs.items() if j is not None and j != i and runs[i].cost + runs[j].cost <= affordable}


def _lowest(mean: Tensor, variance: Tensor, n: int) -> np.ndarray:
    """The mixtures with the ``n`` lowest lower confidence bounds in any draw; moments are ``s x c``."""
    order = (mean - 2 * variance.sqrt()).argsort(dim=-1, stable=True)
    return np.unique(order[:, :n].numpy())


def n_draws_of(n: int) -> int:
    """The number of draws of the hyper-parameters for ``n`` data."""
    return max(1, min(N_DRAWS, int(N_DRAWS * (FEWER_DRAWS / max(n, 1)) ** 2)))


def refit_size(n: int) -> int:
    """The number of observations that the hyper-parameters are fitted to when there are ``n``."""
    size = 2
    while (following := max(size + 1, math.ceil(size * REFIT_GROWTH))) <= n:
        size = following
    return size

"""What a run that is asked for is expected to settle, in a sentence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ray_mixopt.acquisition.offer import Offer
from ray_mixopt.acquisition.regret import Regret
from ray_mixopt.core.phased import phased
from ray_mixopt.core.simplex import same_mixture
from ray_mixopt.core.strategy import Proposal
from ray_mixopt.core.words import by_name, fidelity
from ray_mixopt.optimizer import MixtureOptimizer
from ray_mixopt.strategies.candidates import candidates_of
from ray_mixopt.strategies.design import n_reported
from ray_mixopt.surrogate.encoding import encode
from ray_mixopt.surrogate.points import Points
from ray_mixopt.surrogate.posterior import ObjectivePosterior

_N_RANDOM, _N_PLAUSIBLE, _SAMPLES = 256, 40, 64
_MOSTLY = 0.5  # of the tokens, from a domain that a mixture is mostly of
_DIFFERENT = 0.02  # of the tokens, of which there is "more" or "less"
_STREAM = 11  # of random numbers


def best_now(optimizer: MixtureOptimizer) -> np.ndarray:
    """What would be recommended of the runs that have reported, ``(d,)``: those on their way change nothing in it."""
    seen = optimizer.history.copy()
    seen.trials = {name: trial for name, trial in seen.trials.items() if trial.observations}
    return optimizer.space.mixture(optimizer.answer(seen).mixture)


def purpose(optimizer: MixtureOptimizer, run: Proposal, best: np.ndarray | None = None) -> str:
    """What a run is expected to settle: the question that it is about, and how much of the doubt it removes.

    Args:
        optimizer: knows all runs before it, those on their way included.
        run: not asked for yet.
        best: the mixture ``(d,)`` that it is compared with; ``best_now`` by default.
    """
    posterior = optimizer.posterior()
    if posterior is None:
        return _first_question(optimizer, run)
    doubt = _Doubt.of(optimizer, posterior)
    return f"{_question(optimizer, run, best_now(optimizer) if best is None else best)} {doubt.removed_by(run)}"


def _first_question(optimizer: MixtureOptimizer, run: Proposal) -> str:
    """The question of a run of which nothing can be predicted yet."""
    space = optimizer.space
    at = f"at {fidelity(run.scale, run.steps)}"
    for trial in optimizer.history:
        if trial.scale != run.scale and same_mixture(np.array(trial.mixture), run.mixture):
            return f"Whether what {trial.scale} says of this mixture holds {at}."
    for name, mixture in optimizer.problem.baselines().items():
        if same_mixture(mixture, run.mixture):
            return f"How good the mixture '{name}' is {at}, with which answers are compared."
    mean = space.simplex.mean(run.mixture[None])
    if space.phase_names and not same_mixture(phased(space.simplex).tied(mean)[0], run.mixture):
        return f"Whether it matters {at} in which order the same data come."
    largest = int(mean[0].argmax())
    if mean[0, largest] >= _MOSTLY:
        return f"What much {space.domains[largest]} does {at}."
    return f"What a mixture far from all others does {at}."


def _question(optimizer: MixtureOptimizer, run: Proposal, best: np.ndarray) -> str:
    """The question of a run, where there is an answer that it may change."""
    space, at = optimizer.space, f"at {fidelity(run.scale, run.steps)}"
    if run.continues is not None:
        return f"Whether what it showed up to step {optimizer.history[run.continues].reached} holds {at}."
    if n_reported(optimizer.history, run.mixture, run.scale, run.steps):
        return f"Whether what the same mixture showed {at} is so with another seed."
    difference = run.mixture - best
    if np.abs(difference).max() < _DIFFERENT:
        return f"How good the mixture that looks best now is {at}."
    order = np.argsort(difference)
    names = list(by_name(space.named(best)))
    more = [f"{names[i]} {best[i]:.0%} -> {run.mixture[i]:.0%}" for i in (order[-1], order[0])]
    return f"Whether what looks best now is better or worse with {' and '.join(more)}, {at}."


@dataclass(frozen=True, kw_only=True, eq=False)
class _Doubt:
    """What choosing a mixture now would lose, on average, by not knowing the best.

    Attributes:
        posterior: of the objective, with the runs on their way.
        plausible: mixtures that may be the best, solved.
        regret: of deciding now between them.
    """

    posterior: ObjectivePosterior
    plausible: Points
    regret: Regret

    @classmethod
    def of(cls, optimizer: MixtureOptimizer, posterior: ObjectivePosterior) -> _Doubt:
        history, space = optimizer.history, optimizer.space
        running = history.pending()
        shares = np.array([trial.mixture for trial in running], dtype=np.float64).reshape(-1, space.n_shares)
        posterior = posterior.given_pending(encode(space, shares, [(trial.scale, trial.steps) for trial in running]))
        rng = optimizer.problem.rng(_STREAM, history.n_asked)
        mixtures = candidates_of(optimizer.problem).at_target(rng, _N_RANDOM, history)
        mixtures = mixtures[posterior.allowed(mixtures)]
        mean, variance = posterior.marginal(mixtures)
        lowest = (mean - 2 * variance.sqrt()).amin(0).argsort(stable=True)[:_N_PLAUSIBLE]
        points = posterior.solve(mixtures[lowest.numpy()])
        mean, covariance = posterior.contrasts(points)
        normals = torch.from_numpy(rng.standard_normal((*mean.shape, _SAMPLES)))
        regret = Regret.sampled(mean, covariance, normals)
        return cls(posterior=posterior, plausible=points, regret=regret)

    def removed_by(self, run: Proposal) -> str:
        """How much of it a run is expected to remove, in a sentence."""
        x = encode(self.posterior.space, run.mixture[None], [(run.scale, run.steps)])
        offer = Offer(
            posterior=self.posterior,
            plausible=self.plausible,
            regret=self.regret,
            runs=self.posterior.solve(x),
            costs=torch.ones(1, dtype=torch.float64),
        )
        lost = float(self.regret.within.sum(-1).mean() + self.regret.between.mean())
        share = min(float(offer.removed[0]) / lost, 1.0) if lost > 0 else 0.0
        return f"Expected to remove {share:.0%} of the {lost:.2g} that choosing now would lose."

"""How well a fitted simulator agrees with its reference, in numbers and as the card that goes with it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from textwrap import fill
from typing import Any

import numpy as np

from ray_mixopt.simulators.reference import (
    FITTED_STEPS,
    NAME,
    SPACE,
    TESTED_STEPS,
    sample_fidelities,
    sample_mixtures,
)
from ray_mixopt.simulators.simulator import Simulator


@dataclass(frozen=True, kw_only=True)
class FitReport:
    """How well a simulator agrees with its reference, on questions it was not trained on.

    Args:
        metrics: names of the metrics, in the order of all arrays.
        r2: coefficient of determination over mixtures, all scales and 500..19,700 steps.
        spearman: rank correlation of mixtures at the target.
        reversal_reference: rank correlation of mixtures between the smallest scale and the target, by the reference.
        reversal_fitted: the same by the fitted simulator.
        regret: by the reference, of the mixture that the fitted simulator finds best at the target, normalised so that
            0 is the best and 1 the median Dirichlet(1) mixture.
        mixtures_per_second: throughput of ``evaluate`` in batches of 100,000, per second of processor time here.
        seed: seed of the fit.
        iterations: number of training batches, 0 where nothing was trained.
        fit_seconds: processor time of the training.
    """

    metrics: tuple[str, ...]
    r2: np.ndarray
    spearman: np.ndarray
    reversal_reference: np.ndarray
    reversal_fitted: np.ndarray
    regret: np.ndarray
    mixtures_per_second: float
    seed: int
    iterations: int = 0
    fit_seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, the arrays by metric."""
        arrays = ("r2", "spearman", "reversal_reference", "reversal_fitted", "regret")
        rows = {
            name: {array: float(getattr(self, array)[i]) for array in arrays} for i, name in enumerate(self.metrics)
        }
        rest = ("mixtures_per_second", "seed", "iterations", "fit_seconds")
        return {"metrics": rows, **{name: getattr(self, name) for name in rest}}

    def table(self) -> str:
        """The agreement by metric, as a Markdown table."""
        head = ["metric", "R²", "Spearman at target", "20M vs target, reference", "20M vs target, fitted", "regret"]
        columns = (self.r2, self.spearman, self.reversal_reference, self.reversal_fitted, self.regret)
        rows = [[name, *(f"{column[i]:.4f}" for column in columns)] for i, name in enumerate(self.metrics)]
        lines = [f"| {' | '.join(row)} |" for row in (head, ["---"] + ["---:"] * len(columns), *rows)]
        return "\n".join(lines)


def compare(fitted: Simulator, reference: Simulator, *, seed: int = 0) -> FitReport:
    """Measures how well a simulator agrees with its reference, on random questions."""
    from scipy.stats import spearmanr

    rng = np.random.default_rng([seed, 1])  # not the stream that the fit drew its questions from
    answers: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for scale, steps in sample_fidelities(700, rng, TESTED_STEPS):
        mixtures = sample_mixtures(200, rng)
        for answer, simulator in zip(answers, (fitted, reference), strict=True):
            answer.append(simulator.evaluate(mixtures, scale, steps))
    got, wanted = map(np.concatenate, answers)
    r2 = 1 - ((got - wanted) ** 2).mean(axis=0) / wanted.var(axis=0)

    target = SPACE.target_scale, FITTED_STEPS[1]
    small = SPACE.scale_names[0], FITTED_STEPS[1]
    mixtures = np.concatenate([sample_mixtures(200_000, rng), SPACE.corners()])
    got, wanted = fitted.evaluate(mixtures, *target), reference.evaluate(mixtures, *target)
    sign = np.array([1.0 if reference.modes[name] == "min" else -1.0 for name in reference.metrics])
    best = (wanted * sign).min(axis=0)
    found = (wanted * sign)[(got * sign).argmin(axis=0), np.arange(len(sign))]
    random = np.median(sign * reference.evaluate(SPACE.sample(100_000, rng), *target), axis=0)

    few = slice(-20_000, None)

    def rank_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.array([spearmanr(a[:, j], b[:, j]).statistic for j in range(len(sign))])

    return FitReport(
        metrics=fitted.metrics,
        r2=r2,
        spearman=rank_correlation(got[few], wanted[few]),
        reversal_reference=rank_correlation(reference.evaluate(mixtures[few], *small), wanted[few]),
        reversal_fitted=rank_correlation(fitted.evaluate(mixtures[few], *small), got[few]),
        regret=(found - best) / (random - best),
        mixtures_per_second=throughput(fitted, rng),
        seed=seed,
    )


def throughput(simulator: Simulator, rng: np.random.Generator) -> float:
    """Mixtures that a simulator answers per second of processor time, in batches of 100,000 at the target."""
    batch, space = simulator.space.sample(100_000, rng), simulator.space
    seconds = []
    for _ in range(5):
        start = time.process_time()  # of this process alone, and of all its threads
        simulator.evaluate(batch, space.target_scale, space.target_steps)
        seconds.append(time.process_time() - start)
    return len(batch) / float(np.median(seconds))


def card(report: FitReport, how: str) -> str:
    """What was fitted, on what, how, and how well, in Markdown.

    Args:
        report: how well.
        how: a paragraph about the network and its training.
    """
    smallest, largest = SPACE.scale_names[0], SPACE.scale_names[-1]
    longest = f"{FITTED_STEPS[1]:,}"
    what = f"""What a pre-training run on a mixture of {", ".join(SPACE.domains)} would report, at scales from
        {smallest} to {largest} and after {FITTED_STEPS[0]} to {longest} training steps: {len(report.metrics)} metrics,
        of which `loss` is the mean of the seven validation losses."""
    source = """**Fitted on** the answers of the reference simulator of "Data Mixture Optimization: A Multi-fidelity
        Multi-scale Bayesian Framework" (arXiv 2503.21023), which its authors fitted to 472 OLMo 2 pre-training runs on
        SlimPajama. No run and no weight of theirs is in this file."""
    command = (
        f"    OMP_NUM_THREADS=1 ray-mixopt simulator fit --reference reference_mlp.npz --out {NAME}.npz"
        f" --seed {report.seed}"
    )
    measures = f"""**How well**, against the reference on questions not trained on. R²: over mixtures as above, all
        scales, {TESTED_STEPS[0]} to {TESTED_STEPS[1]:,} steps. Spearman: rank correlation of mixtures at {largest} x
        {longest}. {smallest} vs target: rank correlation of mixtures between {smallest} and {largest}, both at
        {longest} steps; it is negative for HellaSwag, where small models mislead. Regret: by the reference, of the
        mixture that this simulator finds best at the target among 200,000 and the corners; 0 is the best of them, 1
        the median Dirichlet(1) mixture."""
    speed = f"""Throughput of `evaluate` in batches of 100,000 on one core of the machine that wrote this card:
        {report.mixtures_per_second / 1e6:.1f} million mixtures/s."""
    limits = f"""**Limits**: a model of a model. It says nothing about other domains, scales between or beyond the
        seven, or lengths outside {FITTED_STEPS[0]} to {longest} steps, and refuses them. Under {TESTED_STEPS[0]} steps
        it is less exact than the table says. The reference has kinks where this network is smooth, and errors of its
        own against the real runs (R² above 0.95 on held-out runs, by its authors)."""

    def wrapped(text: str) -> str:
        return fill(" ".join(text.split()), 118, break_long_words=False, break_on_hyphens=False)

    before = [f"# Simulator `{NAME}`", *map(wrapped, (what, source, how)), command, wrapped(measures)]
    return "\n\n".join([*before, report.table(), *map(wrapped, (speed, limits))]) + "\n"

"""What others' methods say of hidden runs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import spearmanr
from worlds import DOMAINS, THREE_SCALES, Bowl

from ray_mixopt.analysis.baselines import OneScale
from ray_mixopt.benchmark.hindcasts import EVERYTHING, RIVALS, obstacle
from ray_mixopt.benchmark.rivals.laws import MixtureLaw
from ray_mixopt.benchmark.rivals.regressions import extrapolated, log_linear
from ray_mixopt.core.history import History, Trial
from ray_mixopt.core.problem import Problem
from ray_mixopt.core.settings import Settings

BOWL = Bowl(space=THREE_SCALES, best=(0.5, 0.3, 0.2))
MIXTURES = THREE_SCALES.sample(24, np.random.default_rng(0))
ASKED = THREE_SCALES.sample(10, np.random.default_rng(1))


def problem(mode="min") -> Problem:
    return Problem(space=THREE_SCALES, settings=Settings(objective={"loss": 1.0}, mode=mode))


def runs(sign=1, own_mixtures=False) -> History:
    """Mixtures at the two smaller scales, to both lengths."""
    history = History(THREE_SCALES)
    for scale, mixtures in (("small", MIXTURES[:12]), ("medium", MIXTURES[12:] if own_mixtures else MIXTURES[:12])):
        for i, shares in enumerate(mixtures.tolist()):
            name = f"{scale}_{i}"
            history.add(Trial(trial_id=name, mixture=tuple(shares), scale=scale, steps=400, status="done"))
            for step in THREE_SCALES.steps:
                loss = sign * BOWL(dict(zip(DOMAINS, shares, strict=True)), scale, step)
                history.observe(name, step, {"loss": loss})
    return history


def truth() -> np.ndarray:
    return np.array([BOWL(dict(zip(DOMAINS, shares, strict=True)), "large", 400) for shares in ASKED.tolist()])


@pytest.mark.parametrize("name", list(RIVALS))
def test_a_rival_predicts_a_larger_scale_and_more_is_better_mirrors_it(name):
    if obstacle(name):
        pytest.skip(obstacle(name))
    said = RIVALS[name](problem(), runs(), ASKED)
    assert said.mean.shape == (10,) and np.isfinite(said.mean).all()
    assert said.has_level == (name in ("mixing-law", "additive-law", "joint-law", "paper"))
    if name in ("gp-one-scale", "paper"):
        assert np.linalg.eigvalsh(said.covariance).min() > -1e-6 * said.covariance.max()
    else:
        assert said.covariance is None
    if name in ("gp-one-scale", "mixing-law", "additive-law", "joint-law"):
        assert spearmanr(said.mean, truth()).statistic > 0.8
    mirrored = RIVALS[name](problem("max"), runs(sign=-1), ASKED)
    assert mirrored.mean == pytest.approx(-said.mean, rel=1e-3, abs=1e-3)


def test_a_law_over_mixtures_needs_mixtures_that_ran_at_all_scales():
    assert RIVALS["mixing-law"](problem(), runs(own_mixtures=True), ASKED) is None
    assert np.isfinite(RIVALS["joint-law"](problem(), runs(own_mixtures=True), ASKED).mean).all()


def test_without_small_runs_there_is_nothing_to_say():
    empty = History(THREE_SCALES)
    for name in ("regmix-log-linear", "gp-one-scale", "mixing-law", "same differences", "linear regression"):
        assert EVERYTHING[name](problem(), empty, ASKED) is None
    assert OneScale.of(empty, problem()) is None


@pytest.mark.parametrize("joint", [False, True])
def test_a_law_finds_itself(joint):
    rng = np.random.default_rng(2)
    mixtures = rng.dirichlet(np.ones(3), 40)

    def loss(w, size, length):
        if joint:
            height, slope = (w @ [2.0, 0.5, 1.0]) ** 0.7, (w @ [0.4, 1.5, 1.0]) ** 1.2
        else:
            height = slope = np.ones(len(w))
        own = 1 / (3.0 * w**0.5 @ [1.0, 0.6, 0.3])
        return 1.5 + own + 0.2 * height * size**-0.3 + 0.3 * slope * length**-0.4

    rows = [(w, n, z) for w in mixtures[:30] for n in (0.05, 0.1, 0.25) for z in (0.1, 0.3, 1.0)]
    w, n, z = (np.array(column) for column in zip(*rows, strict=True))
    # How far a fit comes from its random starts depends on how the machine rounds.
    laws = [MixtureLaw(w, n, z, loss(w, n, z), joint=joint, seed=seed) for seed in range(3)]
    law = min(laws, key=lambda law: law._objective(law.parameters)[0])
    unseen = mixtures[30:]
    wrong = law(unseen) - loss(unseen, 1.0, 1.0)
    assert np.abs(wrong).max() < 0.03 and np.std(wrong) < 0.1 * loss(unseen, 1.0, 1.0).std()
    at = law._start(rng)
    steps = 1e-6 * np.eye(len(at))
    numeric = [(law._objective(at + step)[0] - law._objective(at - step)[0]) / 2e-6 for step in steps]
    assert law._objective(at)[1] == pytest.approx(np.array(numeric), abs=1e-6)


def test_losses_are_extrapolated_along_a_power_law():
    sizes, lengths = (grid.ravel() for grid in np.meshgrid([0.1, 0.2, 0.4], [0.25, 0.5, 1.0]))
    values = np.array([2 + 0.1 * sizes**-0.5 + c * lengths**-0.2 for c in (0.3, 0.6)])
    assert extrapolated(sizes, lengths, values, [0.1, 0.2, 0.5]) == pytest.approx([2.4, 2.7])
    # Two sizes at one length fit any power: the usual one is taken.
    two = np.array([[2 + 0.1 * size**-0.35 for size in (0.1, 0.3)]])
    assert extrapolated(np.array([0.1, 0.3]), np.ones(2), two, [0.05, 0.35, 0.8]) == pytest.approx([2.1])


def test_a_log_linear_regression_predicts_losses():
    w = np.random.default_rng(3).dirichlet(np.ones(3), 30)
    y = 2 + np.exp(w @ [0.5, -1.0, 0.0])
    predicted = log_linear(w[:20], y[:20], w[20:])
    assert spearmanr(predicted, y[20:]).statistic > 0.98
    assert np.std(predicted - y[20:]) < 0.2 * y[20:].std()


def test_given_runs_keep_their_reports():
    given = runs()
    before = [replace(trial).observations for trial in given]
    RIVALS["paper"](problem(), given, ASKED)
    assert [trial.observations for trial in given] == before

"""What is said of noise: that it is heeded, and that it never sends an answer further away."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from worlds import Bowl, search, two_scales

from ray_mixopt import MixtureOptimizer, Suggestion, simulators
from ray_mixopt.analysis.purpose import purpose
from ray_mixopt.core.history import History
from ray_mixopt.core.settings import Settings
from ray_mixopt.core.strategy import Proposal
from ray_mixopt.io.search_state import SearchState
from ray_mixopt.simulators import SimulatorTrainable
from ray_mixopt.strategies.hindsight import hindsight
from ray_mixopt.strategies.purchases import drowned
from ray_mixopt.surrogate.belief import Belief
from ray_mixopt.tune.layout import Layout

SPACE = two_scales("web", "code", "math", "wiki")


def seen(seed: int, n: int = 20, scatter: float = 0.01) -> History:
    """Runs of random mixtures around a bowl, and what they report."""
    rng = np.random.default_rng(seed)
    loss = Bowl(space=SPACE, best=tuple(rng.dirichlet(np.full(4, 3.0))))
    optimizer = MixtureOptimizer(SPACE, objective={"loss": 1.0})
    for i, w in enumerate(SPACE.sample(n, rng)):
        scale, mixture = "SL"[i % 2], SPACE.named(w)
        value = loss(mixture, scale, 1000) + scatter * rng.standard_normal()
        optimizer.add_evaluated_point(mixture, scale, 1000, {"loss": value})
    return optimizer.history


def told(history: History, noise: float | None, objective: str = "loss") -> MixtureOptimizer:
    settings = {} if noise is None else {"noise": {"loss": noise}}
    return MixtureOptimizer.of_history(history, Settings(objective={objective: 1.0}, **settings))


@pytest.mark.parametrize(
    ("noise", "sentence"),
    [
        (0.1, "noise must map metrics to standard deviations, {'loss': 0.01}, got 0.1"),
        (
            {"loss": -0.1},
            "noise of loss must be a standard deviation in its unit, 0 or more and less than 1e.10.* -0.1",
        ),
        ({"loss": math.nan}, "noise, 'loss', must be"),
        ({"loss": "much"}, "noise, 'loss', must be"),
        ({"lose": 0.1}, "noise is said of lose, and the search heeds loss"),
    ],
)
def test_noise_that_is_none_is_refused(noise, sentence) -> None:
    with pytest.raises(ValueError, match=sentence):
        MixtureOptimizer(SPACE, objective={"loss": 1.0}, noise=noise)


def test_a_strategy_that_has_no_use_for_it_is_refused() -> None:
    with pytest.raises(ValueError, match="Strategy 'random' has no use for noise="):
        MixtureOptimizer(SPACE, objective={"loss": 1.0}, noise={"loss": 0.1}, strategy="random")


def test_what_is_known_is_used_and_kept() -> None:
    optimizer = told(seen(0), 0.05)
    model = optimizer.model("loss")
    # Beside the noise there is what reports of one mixture share, which is learned.
    shared = model.hyper.kernel.shared_error(model.x[:1], model.x[:1]).squeeze(-1) * model.standardise.spread**2
    assert (model.likelihood.noise - shared).detach().numpy() == pytest.approx(0.05**2, rel=1e-3)
    again = MixtureOptimizer.from_state_dict(json.loads(json.dumps(optimizer.state_dict())))
    assert again.settings == optimizer.settings
    assert again.recommend().mixture == optimizer.recommend().mixture
    state = SearchState(metric="loss", mode="min", space=SPACE, settings=Settings(noise={"loss": 0.05})).state_dict()
    assert SearchState.from_state_dict(state).optimizer.settings.noise == {"loss": 0.05}


def test_many_metrics_share_a_model_that_knows_their_noise() -> None:
    names = [f"loss/{i}" for i in range(12)]
    optimizer = MixtureOptimizer(SPACE, objective=dict.fromkeys(names, 1.0), noise=dict.fromkeys(names, 0.02))
    for w in SPACE.sample(8, np.random.default_rng(0)):
        values = {name: 2 + i * float(w[0]) for i, name in enumerate(names)}
        optimizer.add_evaluated_point(SPACE.named(w), "S", 1000, values)
    scatters = [data.scatter for data in optimizer.belief.data(optimizer.problem, optimizer.history).values()]
    assert len(scatters) < 12
    assert math.hypot(*scatters) == pytest.approx(0.02 * math.sqrt(12))


def test_what_is_known_widens_predictions() -> None:
    history = seen(1)
    widths = [told(history, noise).predict([SPACE.uniform()]).std[0] for noise in (0.0, 0.03, 0.3)]
    assert widths == sorted(widths) and widths[2] > 1.5 * widths[0]


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("whose", ["all", "old"])
def test_more_noise_never_moves_the_answer_further_from_what_was_tried(seed, whose) -> None:
    history = seen(seed)
    known = np.vstack([history.mixtures(), SPACE.uniform()])

    def away(noise: float | None) -> float:
        if whose == "old" and noise is not None:
            for trial in history:
                trial.noise = {"loss": noise}
            noise = None
        answer = SPACE.mixture(told(history, noise).answer().mixture)
        return float(np.abs(known - answer).sum(1).min() / 2)

    without = away(None)
    distances = [away(noise) for noise in (0.02, 0.1, 0.3, 10.0)]
    assert max(distances) <= without + 1e-6
    assert distances[-1] == pytest.approx(0.0, abs=1e-6)  # nothing is left but what one would train anyway


# -- runs that repeat others


def test_a_repetition_is_a_new_run_with_another_seed_whose_reports_are_averaged() -> None:
    optimizer = told(seen(0), 0.1)
    again = Proposal(mixture=SPACE.uniform(), scale="L", steps=1000)
    widths, means = [], []
    for repeat, value in enumerate((2.0, 2.2, 2.2, 2.0)):
        run = optimizer.accept(again)
        assert run.repeat == repeat and run.continues is None
        optimizer.tell(run.trial_id, 1000, {"loss": value})
        optimizer.finish(run.trial_id)
        forecast = optimizer.predict([SPACE.uniform()])
        widths.append(forecast.std[0])
        means.append(forecast.mean[0])
    assert optimizer.history.n_asked == 4
    assert "is so with another seed" in purpose(optimizer, again)
    assert widths[3] < 0.95 * widths[0]
    assert means[0] < means[1] < means[2] and means[3] < means[2]


def test_a_trainable_is_told_of_a_repetition() -> None:
    simulator = simulators.load("slimpajama", noise=0.1)
    mixture = simulator.space.named(simulator.space.uniform())

    class Noisy(SimulatorTrainable):
        def setup(self, config: dict[str, Any]) -> None:
            super().setup(config, simulator)

    def losses(**more: int) -> float:
        return Noisy({"mixture": mixture, "scale": "20M", "steps": 700, **more}).train()["val_loss/github"]

    assert losses() == losses(repeat=0) != losses(repeat=1) != losses(repeat=2)
    problem = MixtureOptimizer(SPACE, objective={"loss": 1.0}).problem
    run = Suggestion(trial_id="a", mixture={"web": 1.0}, scale="S", steps=100, continues=None, cost=1.0)
    layout = Layout(mixture="mixture", scale="scale", steps="steps")
    assert "repeat" not in layout.config(run, problem, 0, counted=True)
    assert layout.config(replace(run, repeat=2), problem, 0, counted=True)["repeat"] == 2


@pytest.mark.parametrize(("noise", "worth"), [(0.2, True), (0.001, False)])
def test_repetitions_are_offered_where_noise_is_what_the_verdict_waits_for(noise, worth) -> None:
    optimizer = told(seen(0, 40, noise), noise)
    for w in (SPACE.uniform(), SPACE.mixture([0.4, 0.3, 0.2, 0.1])):
        run = optimizer.accept(Proposal(mixture=w, scale="L", steps=1000))
        optimizer.tell(run.trial_id, 1000, {"loss": 2.1})
        optimizer.finish(run.trial_id)
    last = optimizer.accept(Proposal(mixture=SPACE.mixture([0.1, 0.2, 0.3, 0.4]), scale="L", steps=1000))
    strategy, history = optimizer._strategy, optimizer.history
    posterior = optimizer.posterior()
    assert drowned(posterior, w) == worth
    assert not drowned(posterior, posterior.anchor)
    pending = SPACE.mixture(last.mixture)
    for again in (worth, False):
        runs, _ = strategy._purchases(np.stack([w, pending]), history, math.inf, again=again)
        repeated = [run for run in runs if run.continues is None and (run.scale, run.steps) == ("L", 1000)]
        assert [run.mixture.tolist() for run in repeated] == ([w.tolist()] if again else [])


def test_a_noisy_search_repeats_runs_and_a_quiet_one_never() -> None:
    space = two_scales()
    loss = Bowl(space=space, best=(0.6, 0.3, 0.1))
    repeats = {}
    for scatter in (0.01, 0.2):
        rng = np.random.default_rng(0)
        optimizer = MixtureOptimizer(
            space, objective={"loss": 1.0}, noise={"loss": scatter}, budget=6 * space.target_cost, seed=0
        )
        runs = search(optimizer, 50, lambda *run: {"loss": loss(*run) + scatter * rng.standard_normal()})  # noqa: B023
        repeats[scatter] = sum(run.repeat > 0 for run in runs)
    assert repeats[0.01] == 0 < repeats[0.2]


def test_intervals_are_held_to_what_reports_scatter() -> None:
    noise = 0.3
    checks = []
    for said in (None, noise):
        optimizer = told(seen(3, 40, noise), said)
        if said is None:
            optimizer._strategy.belief = Belief(0, noise={"loss": 0.0})  # as if reports were exact
        checks.append(hindsight(optimizer.problem, optimizer.history, optimizer._strategy.belief))
    exact, heeded = checks
    assert exact.coverage < heeded.coverage >= 0.9
    assert not exact.trustworthy and heeded.trustworthy

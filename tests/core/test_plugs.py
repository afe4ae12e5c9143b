"""What a user may put in place of ours: strategy, kernel, acquisition, first runs; and who is told of what."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from botorch.acquisition import LogExpectedImprovement
from gpytorch.kernels import RBFKernel
from worlds import THREE_SCALES, Bowl, search

from ray_mixopt import MixtureOptimizer
from ray_mixopt.core.pool import Pool
from ray_mixopt.core.settings import Settings
from ray_mixopt.core.strategy import Callback, Proposal
from ray_mixopt.strategies.default import DefaultStrategy
from ray_mixopt.strategies.random import RandomStrategy
from ray_mixopt.surrogate.belief import FitSettings
from ray_mixopt.surrogate.encoding import encode
from ray_mixopt.surrogate.fit import laplace_draws, map_estimate
from ray_mixopt.surrogate.gp import MixtureGP
from ray_mixopt.surrogate.kernels import MixtureKernel
from ray_mixopt.testing.history import violations

SPACE = replace(THREE_SCALES, scales=(THREE_SCALES.scale("small"), THREE_SCALES.scale("large")))
BEST = np.array([0.6, 0.3, 0.1])
loss = Bowl(space=SPACE, best=BEST, size=0.15, length=0.5)


# -- strategies


class Corners(RandomStrategy):
    """One domain after the other, at the target."""

    def propose(self, history):
        space = self.problem.space
        corner = space.corners()[history.n_asked % space.n_domains]
        return Proposal(mixture=corner, scale=space.target_scale, steps=space.target_steps)


def test_a_strategy_of_ones_own_searches_and_is_saved_by_name_only():
    optimizer = MixtureOptimizer(SPACE, strategy=Corners, seed=3)
    assert [max(run.mixture, key=run.mixture.get) for run in search(optimizer, 4, loss)] == [
        "web",
        "code",
        "math",
        "web",
    ]
    state = json.loads(json.dumps(optimizer.state_dict()))
    assert state["strategy"] == {"own": f"{__name__}:Corners"}
    with pytest.raises(ValueError, match=r"strategy of its own, '.*:Corners': pass it as strategy="):
        MixtureOptimizer.from_state_dict(state)
    again = MixtureOptimizer.from_state_dict(state, strategy=Corners)
    assert again.ask() == optimizer.ask()
    asked_by_default = MixtureOptimizer.from_state_dict(state, strategy="default").recommend()
    assert asked_by_default.predicted is not None


@pytest.mark.parametrize(
    ("strategy", "match"),
    [
        ("magic", "Unknown strategy 'magic': choose one of default, paper, random"),
        ("paper:kernel=matern", r"Strategy 'paper' has no 'kernel=matern': its options are kernel=rbf\|tv\|jsd"),
        ("paper:speed=9", "Strategy 'paper' has no 'speed=9'"),
        ("random:kernel=tv", "Strategy 'random' has no 'kernel=tv': its options are none"),
        (7, "strategy must be a name or a callable"),
    ],
)
def test_strategies_that_do_not_exist_are_refused(strategy, match):
    with pytest.raises(ValueError, match=match):
        MixtureOptimizer(SPACE, strategy=strategy)


# -- kernels and acquisitions


class Product(MixtureKernel):
    """A plain product of Gaussians on a mixture, a size and a length."""

    def __init__(self, n_domains, batch_shape=None):
        super().__init__(n_domains, batch_shape)
        self.on = RBFKernel(ard_num_dims=n_domains + 2, batch_shape=self.batch_shape)
        self.register_parameter("log_amplitude", torch.nn.Parameter(torch.zeros(*self.batch_shape, 1)))
        self.priors = {"log_amplitude": (0.0, 1.0), "on.raw_lengthscale": ((0.5, 0.5, 0.5, 6.0, 6.0), 0.5)}

    def forward(self, x1, x2, diag=False, **params):
        amplitude = self.log_amplitude.exp()
        return (amplitude if diag else amplitude.unsqueeze(-1)) * self.on.forward(x1, x2, diag=diag)


def test_a_kernel_of_ones_own_is_fitted_and_believed():
    optimizer = MixtureOptimizer(SPACE, strategy=partial(DefaultStrategy, kernel=Product), seed=1)
    search(optimizer, 24, loss)
    model = optimizer.model("value")
    assert isinstance(model.hyper.kernel, Product)
    assert model.theta.shape[-1] == 1 + 1 + SPACE.n_domains + 2
    near, far = (optimizer.predict([SPACE.named(w)]).mean[0] for w in (BEST, np.array([0.0, 0.0, 1.0])))
    assert far - near == pytest.approx(float(np.square([0.6, 0.3, -0.9]).sum()), rel=0.3)
    assert loss(optimizer.recommend().mixture, *SPACE.target) < loss(SPACE.named(SPACE.uniform()), *SPACE.target)


def test_an_acquisition_of_botorchs_buys_the_runs():
    offers = []

    def log_improvement(offer):
        offers.append(offer)
        at_target = offer.runs.x.clone()
        at_target[:, -2:] = 0.0  # of a mixture, wherever the run itself would be
        best = offer.posterior.averaged().posterior(offer.plausible.x).mean.min()
        improvement = LogExpectedImprovement(offer.posterior, best_f=best, maximize=False)
        with torch.no_grad():
            return improvement(at_target.unsqueeze(-2)) - offer.costs.log()

    optimizer = MixtureOptimizer(SPACE, strategy=partial(DefaultStrategy, acquisition=log_improvement), seed=1)
    asked = search(optimizer, 24, loss)
    assert offers
    last = offers[-1]
    chosen = int(log_improvement(last).argmax())
    assert last.runs.mixtures[chosen].tolist() == list(asked[-1].mixture.values())
    assert float(last.costs[chosen]) == pytest.approx(asked[-1].cost)


@pytest.mark.parametrize(
    ("acquisition", "said"),
    [
        (lambda offer: offer.costs * math.nan, r"it gave a tensor of shape \(\d+,\), with NaN"),
        (lambda offer: offer.costs[:1], r"it gave a tensor of shape \(1,\)\."),
        (lambda offer: offer.costs.tolist(), r"it gave \[[\d.]+, "),
        (lambda offer: None, r"it gave None\."),
    ],
)
def test_an_acquisition_that_values_no_run_is_told_so(acquisition, said):
    own = partial(DefaultStrategy, acquisition=acquisition)
    optimizer = MixtureOptimizer(SPACE, strategy=own, objective={"loss": 1.0})
    for mixture in SPACE.sample(8, np.random.default_rng(0)):
        run = optimizer.accept(Proposal(mixture=mixture, scale="small", steps=100))
        optimizer.tell(run.trial_id, 100, {"loss": loss(run.mixture, "small", 100)})
    for _ in range(len(optimizer._strategy.design)):
        optimizer.history.n_asked += 1
    with pytest.raises(ValueError, match=rf"The acquisition .*<lambda> must give one number a run, .*{said}"):
        optimizer.ask()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_modes_of_the_caller_do_not_matter(mode):
    def found():
        optimizer = MixtureOptimizer(SPACE, seed=1, objective={"loss": 1.0})
        for mixture in SPACE.sample(8, np.random.default_rng(0)):
            shares = SPACE.named(mixture)
            optimizer.add_evaluated_point(shares, "small", 400, {"loss": loss(shares, "small", 400)})
        return optimizer

    plain, other = found(), found()
    with mode():
        x = torch.rand(6, SPACE.n_domains + 2, dtype=torch.float64)
        fitted = map_estimate(x, x[:, 0])
        draws = laplace_draws(x, x[:, 0], fitted, 2, np.random.default_rng(0))
        said = other.recommend(), other.predict([BEST]).mean, other.propose(other.history)
        asked = other.ask(2)
    assert not fitted.is_inference() and not draws.is_inference()
    assert said[0] == plain.recommend() and said[1] == plain.predict([BEST]).mean
    assert asked == plain.ask(2)
    x = torch.rand(1, SPACE.n_domains + 2, dtype=torch.float64, requires_grad=True)
    other.model("loss").posterior(x).mean.sum().backward()  # what was made meanwhile can be part of a gradient
    assert x.grad.abs().sum() > 0


# -- first runs


def test_points_to_evaluate_are_the_first_runs_and_the_strategy_goes_on_as_if_they_were_none():
    points = [
        {"mixture": {"web": 2, "code": 1, "math": 1}, "scale": "large", "steps": 100},
        {"mixture": {"web": 1, "code": 1, "math": 0}, "scale": "small", "steps": 400},
        {"mixture": {"web": 2, "code": 1, "math": 1}, "scale": "large", "steps": 100},  # a replicate
    ]
    with_points = MixtureOptimizer(SPACE, points_to_evaluate=points, seed=2)
    asked = search(with_points, 7, loss)
    assert [(run.mixture["web"], run.scale, run.steps) for run in asked[:3]] == [
        (0.5, "large", 100),
        (0.5, "small", 400),
        (0.5, "large", 100),
    ]
    without = [run.mixture for run in search(MixtureOptimizer(SPACE, seed=2), 4, loss)]
    assert [run.mixture for run in asked[3:]] == without
    history = with_points.history
    assert (history.n_asked, history.n_apart, history.n_continued) == (4, 3, 0)
    assert not list(violations(history))
    history.finish(asked[-1].trial_id)
    with_points.accept(Proposal(mixture=BEST, scale="small", steps=400, continues=asked[-1].trial_id))
    assert history.n_continued == 1
    restored = MixtureOptimizer.from_state_dict(json.loads(json.dumps(with_points.state_dict())))
    assert restored.ask() == with_points.ask()


def test_points_to_evaluate_that_cannot_be_paid_are_left_and_said(caplog):
    point = {"mixture": {"web": 1, "code": 1, "math": 1}, "scale": "large", "steps": 400}
    cost = SPACE.cost("large", 400)
    optimizer = MixtureOptimizer(SPACE, points_to_evaluate=[point], budget=10.0)
    assert optimizer.ask().scale == "small"
    assert f"at large x 400 steps, which costs {cost:g}." in caplog.text
    assert "budget of 10 does not pay for all points" in optimizer.history.incidents[0]
    caplog.clear()
    MixtureOptimizer(SPACE, points_to_evaluate=[point] * 4, budget=2 * cost)
    assert caplog.text.count("and 1 more") == 1
    caplog.clear()
    for budget in (4 * cost, None):
        assert not MixtureOptimizer(SPACE, points_to_evaluate=[point] * 4, budget=budget).history.incidents
    assert not caplog.records


@pytest.mark.parametrize(
    ("point", "match"),
    [
        ({"scale": "small"}, "points_to_evaluate are mappings such as"),
        ({"mixture": {"web": 1, "code": 1, "math": 1}}, "must name its scale and its steps"),
        ({"mixture": {"web": 1}, "scale": "small", "steps": 100}, "A mixture must name every domain once"),
        ({"mixture": {"web": 1, "code": 1, "math": 1}, "scale": "huge", "steps": 100}, "is at 'huge' x 100 steps"),
        ({"mixture": {"web": 1, "code": 1, "math": 1}, "scale": "small", "steps": 7}, "is at 'small' x 7 steps"),
        ({"mixture": {"web": 1, "code": 1, "math": 1}, "lr": 1, "scale": "small", "steps": 100}, "got lr, too"),
    ],
)
def test_points_to_evaluate_that_do_not_fit_are_refused(point, match):
    with pytest.raises(ValueError, match=match):
        MixtureOptimizer(SPACE, points_to_evaluate=[point])


def test_points_to_evaluate_keep_to_limits_and_logged_runs():
    point = {"mixture": {"web": 1, "code": 0, "math": 0}, "scale": "small", "steps": 100}
    capped = replace(SPACE, upper={"web": 0.5})
    with pytest.raises(ValueError, match="outside the limits of the mixture"):
        MixtureOptimizer(capped, points_to_evaluate=[point])
    pool = Pool(mixtures=np.eye(3)[1:], available=np.ones((2, 2, 2), dtype=bool))
    with pytest.raises(ValueError, match="not among the logged runs"):
        MixtureOptimizer(SPACE, points_to_evaluate=[point], pool=pool)


def test_limits_that_are_revised_later_do_not_bar_the_way_back_to_points_that_were_run():
    point = {"mixture": {"web": 1, "code": 0, "math": 0}, "scale": "small", "steps": 100}
    other = {"mixture": {"web": 0.9, "code": 0.1, "math": 0}, "scale": "small", "steps": 100}
    optimizer = MixtureOptimizer(SPACE, points_to_evaluate=[point, other])
    search(optimizer, 1, loss)
    state = json.loads(json.dumps(optimizer.state_dict()))
    state["history"]["space"]["upper"] = {"web": 0.5}
    restored = MixtureOptimizer.from_state_dict(state)
    assert restored.ask().mixture["web"] <= 0.5, "the point that was not run yet is left out"


def test_a_logged_run_that_was_a_point_to_evaluate_is_not_bought_again():
    mixtures = np.random.default_rng(0).dirichlet(np.ones(3), 12)
    pool = Pool(mixtures=mixtures, available=np.ones((12, 2, 2), dtype=bool))
    points = [{"mixture": SPACE.named(w), "scale": "small", "steps": 100} for w in mixtures]
    optimizer = MixtureOptimizer(SPACE, points_to_evaluate=points, pool=pool)
    asked = [(tuple(run.mixture.values()), run.scale, run.steps) for run in search(optimizer, 22, loss)]
    assert len(set(asked)) == 22


def test_points_of_one_mixture_are_told_apart_by_their_steps_and_lost_ones_are_made_again():
    mixture = {"web": 1, "code": 1, "math": 0}
    points = [{"mixture": mixture, "scale": "large", "steps": steps} for steps in (400, 100)]
    optimizer = MixtureOptimizer(SPACE, points_to_evaluate=points, budget=150.0)
    first, second = search(optimizer, 2, loss)
    assert (first.scale, first.steps) == ("large", 100) and second.scale == "small"
    twice = MixtureOptimizer(SPACE, points_to_evaluate=points[1:] * 2)
    lost = twice.ask()
    twice.finish(lost.trial_id, lost=True)
    asked = [twice.ask() for _ in range(3)]
    assert [run.scale for run in asked] == ["large", "large", "small"], "again, then the replicate, then the design"


def test_points_with_numpys_numbers_can_be_saved():
    shares = dict(zip(SPACE.domains, np.float32([0.5, 0.25, 0.25]), strict=True))
    point = {"mixture": shares, "scale": np.str_("small"), "steps": np.int64(100)}
    optimizer = MixtureOptimizer(SPACE, points_to_evaluate=[point])
    json.dumps(optimizer.state_dict())
    assert optimizer.ask().steps == 100


# -- callbacks


def test_callbacks_hear_of_every_suggestion_and_every_fit():
    class Diary(Callback):
        def __init__(self):
            self.suggestions, self.fits = [], []

        def on_suggestion(self, suggestion):
            assert suggestion.trial_id in optimizer.history.trials
            self.suggestions.append(suggestion)

        def on_fit(self, metric, model):
            assert isinstance(model, MixtureGP)
            self.fits.append((metric, len(model.x)))

    diary = Diary()
    optimizer = MixtureOptimizer(SPACE, callbacks=[diary], seed=1, objective={"loss": 1.0})
    asked = search(optimizer, 20, lambda *at: {"loss": loss(*at)})
    assert diary.suggestions == asked
    assert diary.fits and all(metric == "loss" for metric, _ in diary.fits)
    assert len({FitSettings().refit_size(n) for _, n in diary.fits}) == len(diary.fits), "again with a tenth more only"
    before = len(diary.fits)
    optimizer.recommend()
    optimizer.predict([SPACE.named(BEST)])
    optimizer.model("loss")
    optimizer.recommend(details=True)
    assert len(diary.fits) <= before + 1, "nothing is fitted twice"
    assert "callbacks" not in optimizer.state_dict()


def test_an_error_in_a_callback_is_raised():
    class Angry(Callback):
        def on_suggestion(self, suggestion):
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        MixtureOptimizer(SPACE, callbacks=[Angry()]).ask()


@pytest.mark.parametrize("continued", [False, True])
def test_what_an_error_in_a_callback_keeps_from_being_run_was_not_asked_for(continued):
    class Angry(Callback):
        angry = False

        def on_suggestion(self, suggestion):
            if self.angry:
                raise RuntimeError("no")

    callback = Angry()
    optimizer = MixtureOptimizer(SPACE, callbacks=[callback], seed=1)
    run = optimizer.ask()
    optimizer.tell(run.trial_id, 100, 2.0)
    optimizer.finish(run.trial_id)
    before, callback.angry = optimizer.history.state_dict(), True
    proposal = optimizer.propose(optimizer.history)
    if continued:
        proposal = replace(proposal, continues=run.trial_id, scale=run.scale, steps=1000)
    with pytest.raises(RuntimeError, match="no"):
        optimizer.accept(proposal)
    assert optimizer.history.state_dict() == before
    callback.angry = False
    assert optimizer.accept(proposal).continues == (run.trial_id if continued else None)


def test_what_is_no_callback_is_refused():
    with pytest.raises(ValueError, match="callbacks must be objects of a subclass of ray_mixopt.Callback"):
        MixtureOptimizer(SPACE, callbacks=[lambda suggestion: None])


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"reference": ["web"]}, "reference must be weights by domain"),
        ({"reference": 3}, "reference must be weights by domain"),
        ({"reference": "best"}, "A baseline is 'uniform', 'proportional' or shares by domain, got 'best'"),
        ({"points_to_evaluate": {"mixture": {}}}, "points_to_evaluate must be a list"),
        ({"points_to_evaluate": "first"}, "points_to_evaluate must be a list"),
        ({"points_to_evaluate": 5}, "points_to_evaluate must be a list, got 5"),
        ({"callbacks": 5}, "callbacks must be a list, got 5"),
        ({"settings": {"seed": 1}}, "settings must be a Settings object, got {'seed': 1}: pass its fields by name"),
        ({"settings": 3}, "settings must be a Settings object, got 3"),
        ({"pool": 3}, "pool must be a Pool of logged runs, such as RunTable.pool, got 3"),
        ({"strategy": "paper:"}, "Strategy 'paper' has no ''"),
        ({"strategy": "random:"}, "Strategy 'random' has no '': its options are none"),
        ({"strategy": "paper:kernel=tv,kernel=jsd"}, "says kernel twice"),
        ({"callbacks": Callback()}, "callbacks must be a list"),
        ({"callbacks": [Callback]}, "callbacks must be objects of a subclass"),
        ({"strategy": lambda problem: None}, "makes None, which has no methods propose and recommend"),
        ({"strategy": "paper-tv"}, "Strategy 'paper-tv' of version 0.1 is called 'paper:kernel=tv' now"),
        ({"points_to_evaluate": ["first"]}, "points_to_evaluate are mappings such as"),
        ({"budget": True}, "budget must be a positive finite cost or None, got True"),
        ({"budget": math.nan}, "budget must be a positive finite cost or None, got nan"),
        ({"seed": 1.5}, "seed must be a non-negative integer, got 1.5"),
        ({"objective": "loss"}, "objective must map metric names to weights, got 'loss'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(given, match):
    with pytest.raises(ValueError, match=match):
        MixtureOptimizer(SPACE, **given)


@pytest.mark.parametrize(
    "reference", ["uniform", [1, 1, 2], np.array([0.25, 0.25, 0.5]), {"web": 1, "code": 1, "math": 2}]
)
def test_a_reference_may_be_named_or_given_in_order(reference):
    optimizer = MixtureOptimizer(SPACE, reference=reference)
    shares = list(optimizer.settings.reference.values())
    assert shares == pytest.approx([1 / 3] * 3 if isinstance(reference, str) else [0.25, 0.25, 0.5])
    json.dumps(optimizer.state_dict())


def test_a_strategy_that_answers_with_something_else_is_named():
    class Vague(RandomStrategy):
        def propose(self, history):
            return SPACE.uniform()

        def recommend(self, history):
            return SPACE.uniform()

    optimizer = MixtureOptimizer(SPACE, strategy=Vague)
    with pytest.raises(TypeError, match="Vague: propose must return a Proposal or None, got array"):
        optimizer.ask()
    with pytest.raises(TypeError, match="Vague: recommend must return a Recommendation, got array"):
        optimizer.recommend()


# -- predictions


def test_the_uncertainty_of_a_mixture_does_not_depend_on_its_company():
    optimizer = MixtureOptimizer(SPACE, objective={"a": 1.0, "b": -0.7}, seed=4)
    search(optimizer, 20, lambda *at: {"a": loss(*at), "b": math.sin(9 * loss(*at))})
    some = SPACE.sample(6, np.random.default_rng(0))
    together, backwards = optimizer.predict(some), optimizer.predict(some[::-1])
    alone = [float(optimizer.predict([mixture]).std[0]) for mixture in some]
    assert together.std == pytest.approx(alone, rel=1e-9)
    assert backwards.std[::-1] == pytest.approx(alone, rel=1e-9)
    assert np.linalg.eigvalsh(together.covariance).min() > -1e-9


def test_predictions_are_joint_in_the_objectives_own_direction_and_at_any_fidelity():
    down, up = (MixtureOptimizer(SPACE, mode=mode, seed=4) for mode in ("min", "max"))
    search(down, 20, loss)
    search(up, 20, lambda *at: -loss(*at))
    mixtures = [SPACE.named(BEST), SPACE.named(SPACE.uniform()), {"web": 0, "code": 0, "math": 2}]
    found, mirrored = down.predict(mixtures), up.predict(mixtures)
    assert len(found) == 3 and found.covariance.shape == (3, 3)
    assert found.mean == pytest.approx(-mirrored.mean, abs=1e-6)
    assert found.std == pytest.approx(mirrored.std, rel=1e-3)
    answer = down.recommend()
    assert down.predict([answer.mixture]).mean[0] == pytest.approx(answer.predicted.mean)
    worse = found.difference(2, 0)
    assert worse.low < loss(mixtures[2], *SPACE.target) + 1 - loss(mixtures[0], *SPACE.target) or worse.mean > 0
    assert worse.high - worse.low < 2 * 1.96 * math.hypot(*found.std[[0, 2]]), "what they share cancels"
    early = down.predict(np.array([BEST]), scale="small", steps=100)
    assert early.mean[0] == pytest.approx(loss(SPACE.named(BEST), "small", 100), abs=0.05)


def test_what_cannot_be_predicted_is_said():
    optimizer = MixtureOptimizer(SPACE)
    with pytest.raises(ValueError, match="Nothing can be predicted yet"):
        optimizer.predict([SPACE.named(BEST)])
    with pytest.raises(ValueError, match="Fewer than two reports have the metric 'accuracy'"):
        optimizer.model("accuracy")
    search(optimizer, 16, loss)
    with pytest.raises(ValueError, match="Unknown scale 'huge'"):
        optimizer.predict([SPACE.named(BEST)], scale="huge")
    with pytest.raises(ValueError, match="steps must be a number of training steps above 0, got -3"):
        optimizer.predict([SPACE.named(BEST)], steps=-3)
    for steps in ("x", math.inf, math.nan):
        with pytest.raises(ValueError, match="steps must be a number of training steps above 0"):
            optimizer.predict([SPACE.named(BEST)], steps=steps)
    with pytest.raises(ValueError, match="A mixture must name every domain once"):
        optimizer.predict([{"web": 1.0}])
    for nothing in ([], np.empty((0, 3)), SPACE.named(BEST), None, 3, "web"):
        with pytest.raises(ValueError, match="predict needs a sequence of at least one mixture"):
            optimizer.predict(nothing)
    with pytest.raises(ValueError, match="The forecast is of 1 mixtures"):
        optimizer.predict([BEST]).difference(0, 1)


def test_the_model_of_a_metric_is_in_its_own_unit():
    optimizer = MixtureOptimizer(SPACE, objective={"percent": 1.0}, mode="max", seed=5)
    search(optimizer, 16, lambda *at: {"percent": 100 - 10 * loss(*at), "other": loss(*at)})
    x = encode(SPACE, BEST[None], [SPACE.target])
    value = float(optimizer.model("percent").posterior(x).mixture_mean)
    assert value == pytest.approx(float(optimizer.predict([BEST]).mean[0]))
    assert float(optimizer.model("other").posterior(x).mixture_mean) == pytest.approx((100 - value) / 10, abs=0.05)


def test_settings_can_be_given_whole_or_one_by_one():
    settings = Settings(objective={"a": 1.0, "b": -2.0}, budget=5, seed=3, reference={"web": 2, "code": 1, "math": 1})
    whole = MixtureOptimizer(SPACE, settings)
    assert whole.settings.reference == {"web": 0.5, "code": 0.25, "math": 0.25}
    changed = MixtureOptimizer(SPACE, settings, seed=4)
    assert (changed.settings.seed, changed.settings.budget) == (4, 5.0)
    assert Settings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings
    with pytest.raises(TypeError, match="no setting 'bugdet': there are mode"):
        MixtureOptimizer(SPACE, bugdet=3)

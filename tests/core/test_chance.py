"""Accuracies, which rise from chance: their scale, and what is predicted of larger models from those near chance."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from worlds import SMALL_MEDIUM_LARGE, THREE_SCALES

from ray_mixopt import MixtureOptimizer
from ray_mixopt.core.chance import CHANCE, chance_of
from ray_mixopt.core.history import History, Trial
from ray_mixopt.core.settings import Settings
from ray_mixopt.surrogate.belief import Belief
from ray_mixopt.surrogate.bundles import bundled
from ray_mixopt.surrogate.standardisation import AccuracyLink, Standardisation

ACCURACY = "accuracy/hellaswag"
MIXTURES = [tuple(w) for w in THREE_SCALES.sample(16, np.random.default_rng(0))]


def above_chance(mixture, scale):
    """A tenth of what the mixture is worth shows at a tenth of the parameters: the effect grows out of nothing."""
    size = math.log10(next(s.parameters for s in SMALL_MEDIUM_LARGE if s.name == scale))
    return 0.01 * 2.5 ** (size - 7) * math.exp(1.5 * mixture[0] - mixture[2] ** 2)


def runs(scales, metric=ACCURACY, unit=1.0):
    history = History(THREE_SCALES)
    for scale, (i, mixture) in product(scales, enumerate(MIXTURES)):
        name = f"{scale}-{i}"
        history.add(Trial(trial_id=name, mixture=mixture, scale=scale, steps=400))
        for step in (100, 400):
            value = 0.25 + above_chance(mixture, scale) * (step / 400) ** 0.3
            history.observe(name, step, {metric: unit * value})
        history[name].status = "done"
    return history


def posterior(history, metric=ACCURACY, *, noise=None, **settings):
    optimizer = MixtureOptimizer(THREE_SCALES, objective={metric: 1.0}, mode="max", **settings)
    return Belief(0, noise=noise).posterior(optimizer.problem, history)


# -- whose chance is known


@pytest.mark.parametrize(
    ("metric", "chance"),
    [
        ("accuracy/hellaswag", 0.25),
        ("lm_eval/arc_easy/acc_norm,none", 0.25),
        ("lm_eval/mmlu_anatomy/acc", 0.25),
        ("lm_eval/mmlu_pro/exact_match", 0.1),
        ("eval/Arc-Challenge acc", 0.25),
        ("piqa_acc", 0.5),
        ("accuracy/ours", None),
        ("val_loss/hellaswag", None),
        ("hellaswag", None),
        ("accuracy/raceway", None),
        ("loss", None),
    ],
)
def test_chance_is_known_by_the_name_of_the_task(metric, chance):
    assert chance_of(metric) == chance


def test_every_known_chance_is_that_of_a_number_of_choices():
    assert all(value == 0 or math.isclose(1 / value, round(1 / value)) for value in CHANCE.values())


@pytest.mark.parametrize("chance", [{"acc": -0.1}, {"acc": math.nan}, {"acc": "a quarter"}, {3: 0.25}, 0.25])
def test_a_chance_that_is_none_is_refused(chance):
    with pytest.raises(ValueError, match="what guessing scores"):
        Settings(chance=chance)


def test_a_chance_that_was_given_counts_before_the_name_and_survives():
    settings = Settings(objective={ACCURACY: 1.0, "ours": 1.0}, chance={"ours": 0.5, ACCURACY: 0.2})
    problem = MixtureOptimizer(THREE_SCALES, settings=Settings.from_dict(settings.to_dict())).problem
    assert problem.chance("ours") == 0.5
    assert problem.chance(ACCURACY) == problem.asking({"ours": 1.0}).chance(ACCURACY) == 0.2
    assert problem.chance("accuracy/piqa") == 0.5
    assert problem.chance("loss") is None


def test_a_chance_of_a_metric_that_nobody_asked_for_is_refused():
    with pytest.raises(ValueError, match="chance is said of accuracy/our, and the search heeds accuracy/ours"):
        MixtureOptimizer(THREE_SCALES, objective={"accuracy/ours": 1.0}, chance={"accuracy/our": 0.2})


# -- the scale


@given(st.floats(-0.1, 1.1), st.floats(0, 0.9), st.floats(1e-3, 0.1))
def test_the_scale_has_an_inverse(value, chance, soft):
    link = AccuracyLink(chance=chance, ceiling=1.0, soft=soft)
    y = torch.tensor([value], dtype=torch.float64)
    assert torch.allclose(link.undone(link(y)), y, atol=1e-9)


@given(st.floats(-12, 12), st.floats(1e-3, 0.1))
def test_its_slope_is_its_derivative(g, soft):
    link = AccuracyLink(chance=0.25, ceiling=1.0, soft=soft)
    at = torch.tensor([g], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(link.undone(at).sum(), at)
    assert torch.allclose(link.slope(at.detach()), slope, rtol=1e-6)
    assert slope > 0


def test_the_same_share_of_what_is_above_chance_is_the_same_distance():
    link = AccuracyLink(chance=0.25, ceiling=1.0)
    near, far = (link(0.25 + base * torch.tensor([1.0, 1.2], dtype=torch.float64)).diff() for base in (0.02, 0.1))
    assert torch.allclose(near, far, rtol=0.2)  # where the differences are as one to five


def test_per_cent_are_noticed_and_reports_below_chance_soften_the_scale():
    shares = torch.tensor([0.26, 0.31, 0.4], dtype=torch.float64)
    link, percent = AccuracyLink.of(shares, 0.25), AccuracyLink.of(100 * shares, 0.25)
    assert (percent.chance, percent.ceiling, percent.soft) == (25.0, 100.0, link.soft)
    assert torch.allclose(link(shares), percent(100 * shares))
    assert AccuracyLink.of(100 * shares, 25.0) == percent
    below = AccuracyLink.of(torch.cat([shares, shares.new_tensor([0.22])]), 0.25)
    assert 0.01 < below.soft < 0.04
    assert bool(below(shares.new_tensor([0.22, 0.25, 0.26])).diff().gt(0).all())


def test_extreme_values_stay_finite():
    unit = Standardisation.of(torch.tensor([0.2501, 0.2502, 0.9], dtype=torch.float64), 0.25)
    far = torch.tensor([-1e6, 1e6], dtype=torch.float64)
    assert bool(unit.value(far).isfinite().all())
    assert bool(unit.slope(far).isfinite().all())


# -- predictions


def test_an_effect_that_grows_out_of_chance_is_predicted_of_the_next_scale():
    asked = np.array(MIXTURES)
    truth = np.array([above_chance(w, "large") for w in MIXTURES])
    apart = truth - truth.mean()
    center = np.eye(len(asked)) - 1 / len(asked)
    error, size, covered = {}, {}, {}
    for metric in (ACCURACY, "accuracy/ours"):  # of the second nobody knows what guessing scores
        said = posterior(runs(("small", "medium"), metric), metric).forecast(asked)
        predicted = center @ said.mean
        error[metric] = float(np.std(predicted - apart) / apart.std())
        size[metric] = float(predicted.std() / apart.std())
        half = 1.96 * np.sqrt(np.diag(center @ said.covariance @ center))
        covered[metric] = float((np.abs(predicted - apart) < half).mean())
    assert error[ACCURACY] < 0.6 < error["accuracy/ours"]
    assert size[ACCURACY] > 1.2 * size["accuracy/ours"]  # both too small, since levels are predicted to flatten
    assert covered[ACCURACY] > 0.8 > 0.6 > covered["accuracy/ours"]
    told = posterior(runs(("small", "medium"), "accuracy/ours"), "accuracy/ours", chance={"accuracy/ours": 0.25})
    alike = posterior(runs(("small", "medium")))
    assert np.allclose(told.forecast(asked).mean, alike.forecast(asked).mean)


def test_per_cent_are_predicted_as_shares_are():
    asked = np.array(MIXTURES[:4])
    shares, percent = (posterior(runs(("small", "medium"), unit=unit)).forecast(asked) for unit in (1.0, 100.0))
    assert np.allclose(100 * shares.mean, percent.mean, rtol=1e-4)
    assert np.allclose(100 * shares.std, percent.std, rtol=1e-2)


def test_all_questions_about_an_accuracy_agree():
    known = posterior(runs(("small", "medium", "large")))
    asked = np.array(MIXTURES[:5])
    mean, covariance = known.joint(asked)
    one, variance = known.marginal(asked)
    assert torch.allclose(mean, one)
    assert torch.allclose(covariance.diagonal(dim1=-2, dim2=-1), variance, rtol=1e-6)
    difference, its_variance = known.marginal(asked[:1], asked[1:])
    ones = torch.tensor([1.0, *[-0.25] * 4], dtype=torch.float64)
    assert torch.allclose(difference[:, 0], mean @ ones)
    assert torch.allclose(its_variance[:, 0], ones @ covariance @ ones, rtol=1e-4)
    points = known.solve(asked)
    said = known.models[0].posterior(points.x).distribution  # what BoTorch is told, in the metric's own unit
    assert torch.allclose(-said.mean, mean, atol=1e-6)
    assert torch.allclose(said.covariance_matrix, covariance, rtol=1e-3, atol=1e-12)
    assert torch.allclose(known.mean(asked), mean.mean(0))


def test_intervals_are_those_of_sampled_latent_values():
    """To first order: where the latent values are known well."""
    model = posterior(runs(("small", "medium", "large"))).models[0]
    solved = model.solve(model.x[-3:])
    latent = solved.latent[0]
    covariance = solved.covariance()[0] / solved.slope[0] / solved.slope[0].unsqueeze(-1)
    drawn = torch.distributions.MultivariateNormal(latent, covariance + 1e-14 * torch.eye(3, dtype=torch.float64))
    torch.manual_seed(0)
    seen = model.standardise.value(drawn.sample((20_000,)))
    assert torch.allclose(seen.mean(0), solved.mean[0], atol=0.02)
    assert torch.allclose(seen.std(0), solved.variance[0].sqrt(), rtol=0.05)


def test_reports_that_are_known_come_back():
    history = runs(("small", "medium", "large"))
    known = posterior(history)
    for i, mixture in enumerate(MIXTURES):
        said = known.prediction(np.array(mixture))
        assert said.mean == pytest.approx(history[f"large-{i}"].observations[400][ACCURACY], abs=2e-3)


def test_a_model_told_more_is_the_model_of_all():
    known = posterior(runs(("small", "medium"))).models[0]
    x = known.x[-2:].clone()
    x[:, -2:] = 0.0
    seen = torch.tensor([[0.31], [0.29]], dtype=torch.float64)
    more = known.condition_on_observations(x, seen)
    assert torch.allclose(more.posterior(x).mixture_mean.squeeze(-1).mean(), seen.mean(), atol=5e-3)
    pending = known.given_pending(x)
    assert torch.allclose(pending.mean(x), known.mean(x), atol=1e-6)
    assert bool((pending.solve(x).variance < known.solve(x).variance).all())


def test_what_is_left_out_is_predicted_in_the_unit_of_the_metric():
    model = posterior(runs(("small", "medium", "large"))).models[0]
    error, variance = model.leave_out([3, 4])
    others = [i for i in range(len(model.x)) if i not in (3, 4)]
    alone = type(model)(model.x[others], model.train_targets[others], model.theta, standardise=model.standardise)
    latent, prior, white = alone._moments(model.x[[3, 4]].unsqueeze(-3), True)
    unit = model.standardise
    seen = (model.train_targets[[3, 4]] - unit.center) / unit.spread
    assert torch.allclose(error, seen - unit.value(latent).mean(0), atol=1e-6)
    spread = (prior - white.mT @ white).diagonal(dim1=-2, dim2=-1) + alone.hyper.noise()
    total = (spread * unit.slope(latent).square()).mean(0) + unit.value(latent).var(0, correction=0)
    assert torch.allclose(variance, total, rtol=1e-3)


def test_accuracies_have_models_of_their_own_among_many_metrics():
    history = History(THREE_SCALES)
    names = [*(f"val_loss/{i}" for i in range(12)), ACCURACY, "accuracy/piqa"]
    for i, mixture in enumerate(MIXTURES):
        history.add(Trial(trial_id=str(i), mixture=mixture, scale="small", steps=400))
        history.observe(str(i), 400, {name: 0.3 + 0.01 * j * mixture[0] for j, name in enumerate(names)})
        history[str(i)].status = "done"
    problem = MixtureOptimizer(THREE_SCALES, objective=dict.fromkeys(names, 1.0)).problem
    data = {name: Belief(0)._observed(name, problem, history)[0] for name in names}
    found = bundled(data, problem.weights, 4, lambda n: n)
    assert [bundle.metrics for bundle in found if bundle.data.chance is not None] == [(ACCURACY,), ("accuracy/piqa",)]
    assert sum(len(bundle.metrics) for bundle in found) == len(names)


def test_progress_beyond_chance_is_no_absurd_report():
    history = runs(("small", "medium"))
    history.add(Trial(trial_id="first", mixture=MIXTURES[0], scale="large", steps=400))
    history.observe("first", 400, {ACCURACY: 0.25 + above_chance(MIXTURES[0], "large")})
    history["first"].status = "done"
    problem = MixtureOptimizer(THREE_SCALES, objective={ACCURACY: 1.0}, mode="max").problem
    assert Belief(0).absurd(problem, history) == ()


@pytest.mark.parametrize("spoilt", [10.0, -3.0, 9e9])
def test_an_absurd_accuracy_is_left_out_and_changes_nothing(spoilt):
    history, other = (runs(("small", "medium")) for _ in range(2))
    history.add(Trial(trial_id="odd", mixture=MIXTURES[0], scale="medium", steps=400))
    history.observe("odd", 400, {ACCURACY: spoilt})
    history["odd"].status = "done"
    optimizer = MixtureOptimizer(THREE_SCALES, objective={ACCURACY: 1.0}, mode="max")
    assert len(Belief(0).absurd(optimizer.problem, history)) == 1
    asked = np.array(MIXTURES)
    assert np.allclose(posterior(history).forecast(asked).mean, posterior(other).forecast(asked).mean, atol=1e-3)


def test_noise_that_is_known_is_that_of_the_metric_itself():
    known = posterior(runs(("small", "medium", "large")), noise={ACCURACY: 0.004})
    solved = known.solve(np.array(MIXTURES))
    deviation = solved.solved[0].noise.sqrt().mean() * known.models[0].standardise.spread
    assert 0.002 < float(deviation) < 0.02

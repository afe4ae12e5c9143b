"""What a report shows, in numbers: slices, surfaces, runs left out, fronts, the books, and the result of a replay."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from worlds import Bowl, given, two_scales

from ray_mixopt import MixtureOptimizer, MixtureSpace, simulators
from ray_mixopt.analysis.curves import MOST_LAWS, curves
from ray_mixopt.analysis.landscape import by_importance
from ray_mixopt.analysis.ledger import ENDS, Ledger
from ray_mixopt.analysis.result import Course, result
from ray_mixopt.analysis.study import Study
from ray_mixopt.analysis.trajectory import trajectory
from ray_mixopt.analysis.truth import Truth
from ray_mixopt.core.forecast import NORMAL_95
from ray_mixopt.core.objective import Guardrail, Objective
from ray_mixopt.core.settings import Settings
from ray_mixopt.core.strategy import Callback
from ray_mixopt.core.trial import Trial
from ray_mixopt.report.page import write_report
from ray_mixopt.strategies.default import DefaultSettings, DefaultStrategy
from ray_mixopt.surrogate import belief
from ray_mixopt.surrogate.belief import FitSettings

BEST = np.array([0.2, 0.5, 0.3])


def learned(space: MixtureSpace, n: int = 40, **options) -> MixtureOptimizer:
    """Given runs at every fidelity; the loss is least at ``BEST``, whatever the domains beyond the third."""
    loss = Bowl(space=space, best=BEST)

    def metrics(mixture, scale: str, step: int) -> dict[str, float]:
        value = loss(mixture, scale, step)
        return {"loss": value, "gain": -value, "web": mixture["web"]}

    return given(MixtureOptimizer(space, **({"objective": {"loss": 1.0}} | options)), n, metrics)


@pytest.fixture(scope="module")
def three() -> Study:
    return Study(learned(two_scales("web", "code", "math")), "three")


# -- what matters


def test_a_slice_is_the_prediction_along_a_domain(three: Study) -> None:
    posterior = three.posterior
    for i, line in enumerate(three.slices):
        assert line.best_share == pytest.approx(BEST[i], abs=0.05)
        assert line.recommended == three.best[i]
        others = np.delete(three.best, i) / (1 - three.best[i])
        of_value, of_difference = three.half_widths(line)
        at = np.insert((1 - line.shares[10]) * others, i, line.shares[10])
        assert posterior.prediction(at).mean == pytest.approx(line.mean[10])
        assert posterior.prediction(at).high == pytest.approx(line.mean[10] + of_value[10])
        apart = posterior.prediction(at, three.best)
        assert apart.high - apart.mean == pytest.approx(of_difference[10])
        assert line.effect == np.ptp(line.mean)


def test_the_runs_of_a_slice_lie_by_their_residual(three: Study) -> None:
    posterior, history = three.posterior, three.history
    (line, *_) = three.slices
    expected = {}
    for trial in history:
        ((step, metrics),) = trial.observations.items()
        mixture = np.array(trial.mixture)
        residual = metrics["loss"] - posterior.at(trial.scale, step).prediction(mixture).mean
        expected[trial.mixture[0]] = residual + np.interp(trial.mixture[0], line.shares, line.mean)
    assert dict(zip(line.run_shares, line.run_values, strict=True)) == pytest.approx(expected, abs=1e-8)
    assert line.run_at_target.sum() == three.ledger.at_target == 10


@pytest.mark.parametrize("mode", ["min", "max"])
def test_values_have_the_objectives_own_direction(mode: str) -> None:
    optimizer = learned(
        two_scales("web", "code", "math"), mode=mode, objective={{"min": "loss", "max": "gain"}[mode]: 1.0}
    )
    study = Study(optimizer, mode)
    assert np.sign(study.slices[0].mean).tolist() == [1.0 if mode == "min" else -1.0] * 41
    assert [line.best_share for line in study.slices] == pytest.approx(BEST, abs=0.05)


def test_three_domains_are_one_surface(three: Study) -> None:
    (surface,) = three.surfaces
    assert surface.domains == ("web", "code", "math")
    np.testing.assert_allclose(surface.shares.sum(1), 1.0)
    np.testing.assert_allclose(surface.best, BEST, atol=0.05)
    row = np.argmin(np.abs(surface.shares - BEST).sum(1))
    assert surface.mean[row] == pytest.approx(three.posterior.prediction(surface.shares[row]).mean)


def test_more_domains_are_three_pairs_of_those_that_matter() -> None:
    study = Study(learned(two_scales("web", "code", "math", "rest", "more"), n=60), "five")
    surfaces = study.surfaces
    # The first three change the loss, the fourth and the fifth only by what they leave to those.
    assert [surface.domains for surface in surfaces] == [("web", "code"), ("web", "math"), ("code", "math")]
    for surface in surfaces:
        assert surface.shares.shape == (703, 2) and (surface.shares.sum(1) <= 1 + 1e-9).all()
        places = [study.space.domains.index(name) for name in surface.domains]
        mixture = np.where(np.isin(range(5), places), 0.0, study.best)
        mixture *= (1 - surface.shares[40].sum()) / mixture.sum()
        mixture[places] = surface.shares[40]
        assert surface.mean[40] == pytest.approx(study.posterior.prediction(mixture).mean)


def test_two_domains_have_slices_and_no_surface() -> None:
    study = Study(learned(two_scales("web", "code"), n=12), "two")
    assert len(study.slices) == 2 and study.surfaces == []


def test_a_domain_with_all_of_the_recommendation_leaves_equal_shares_to_the_others() -> None:
    study = Study(learned(two_scales("web", "code", "math"), n=8), "corner")
    study.best = np.array([1.0, 0.0, 0.0])
    expected = study.posterior.prediction(np.array([0.5, 0.25, 0.25])).mean
    assert study.slices[0].mean[20] == pytest.approx(expected)


def test_known_mixtures_lie_on_a_front_by_their_predictions() -> None:
    objective = Objective(weights={"loss": 1.0, "web": 0.5}, directions={"web": "max"})
    study = Study(learned(two_scales("web", "code", "math"), objective=objective), "front")
    front = study.front
    assert (front.metrics, front.modes) == (("loss", "web"), ("min", "max"))
    assert front.marks["uniform"][1] == pytest.approx(1 / 3, abs=0.02)
    assert front.marks["recommended"][1] == pytest.approx(study.best[0], abs=0.02)
    assert front.points[0].first.mean <= front.marks["recommended"][0] + 1e-3
    assert Study(learned(two_scales("web", "code"), n=8), "one metric").front is None


def test_nothing_is_shown_of_nothing() -> None:
    study = Study(MixtureOptimizer(two_scales("web", "code", "math")), "nothing")
    assert study.slices == study.surfaces == study.left_out == study.way == study.comparisons == []
    assert study.front is None and study.ledger.ends == {}


def test_the_largest_share_matters_however_little_it_changes(three: Study) -> None:
    line = three.slices[0]
    shares, effects = (0.89, 0.11, 0.0, 0.0), (0.2, 0.5, 1.0, 0.1)
    lines = [
        replace(line, recommended=share, mean=np.array([0.0, effect]))
        for share, effect in zip(shares, effects, strict=True)
    ]
    assert by_importance(lines).tolist() == [0, 2, 1, 3]


# -- nothing is done twice


class Fits(Callback):
    """Counts the fits of each metric."""

    def __init__(self) -> None:
        self.of: dict[str, int] = {}

    def on_fit(self, metric: str, model: object) -> None:
        self.of[metric] = self.of.get(metric, 0) + 1


@pytest.mark.parametrize("strategy", ["default", "random"])
def test_one_report_fits_every_metric_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str) -> None:
    calls = []
    monkeypatch.setattr(belief, "map_estimate", lambda *a, fit=belief.map_estimate: calls.append(a) or fit(*a))
    weights: dict = {"loss": 1.0, "gain": -0.5}
    rail = Guardrail(metric="web", mode="max", tolerance=0.9, baseline="uniform")
    if strategy == "default":
        weights = Objective(weights=weights | {"gain": 0.5}, directions={"gain": "max"}, guardrails=(rail,))
    fits = Fits()
    space = replace(two_scales("web", "code", "math"), upper={"code": 0.3})
    optimizer = learned(space, objective=weights, callbacks=(fits,), strategy=strategy)
    write_report(Study(optimizer, "once"), tmp_path)
    assert fits.of == dict.fromkeys(optimizer.problem.metrics, 1)
    n_fits = len(fits.of) + len(optimizer.problem.weights)  # and of the smaller runs, which the larger test
    assert len(calls) == n_fits
    # Neither a second report, nor another question about the same history.
    write_report(Study(optimizer, "twice"), tmp_path)
    optimizer.recommend(details=True)
    assert len(calls) == n_fits


# -- how far to trust it


def test_every_run_is_left_out_in_turn(three: Study) -> None:
    (part,) = three.left_out
    seen = [(next(iter(t.observations.values()))["loss"], t.scale) for t in three.history]
    assert sorted(zip(part.observed.tolist(), part.scales, strict=True)) == sorted(seen)
    inside = np.abs(part.observed - part.predicted) <= part.half
    assert part.coverage == inside.mean() == pytest.approx(three.recommendation.calibration.coverage)


def test_runs_that_a_full_model_leaves_out_are_not_predicted_by_it() -> None:
    """The largest fidelities are what it holds: the others' rows are not those of its own."""
    optimizer = learned(two_scales("web", "code", "math"))
    small = partial(DefaultStrategy, settings=DefaultSettings(fit=FitSettings(most_used=15)))
    optimizer = MixtureOptimizer.from_state_dict(optimizer.state_dict(), strategy=small)
    study = Study(optimizer, "full")
    (part,) = study.left_out
    rows = study.posterior.models[0]
    np.testing.assert_allclose(part.observed, rows.train_targets)
    seen = {next(iter(trial.observations.values()))["loss"]: trial.scale for trial in optimizer.history}
    assert part.scales == tuple(seen[value] for value in part.observed.tolist())
    error, variance = rows.leave_out([3])
    assert part.observed[3] - part.predicted[3] == pytest.approx(float(error) * rows.standardise.spread)
    assert part.half[3] == pytest.approx(NORMAL_95 * float(variance.sqrt()) * rows.standardise.spread)


# -- the books


def test_the_books_of_a_search() -> None:
    optimizer = MixtureOptimizer(two_scales("web", "code"), objective={"loss": 1.0}, strategy="random")
    for i in range(3):
        run = optimizer.ask()
        optimizer.tell(run.trial_id, 100, {"loss": 4.0})
        if i < 2:
            optimizer.tell(run.trial_id, 1000, {"loss": 3.0 if i else float("inf")})
            optimizer.finish(run.trial_id)
    optimizer.add_evaluated_point({"web": 1, "code": 1}, "S", 1000, {"loss": 5.0, "acc": 0.5})
    books = Ledger(optimizer.history)
    assert {end: n.tolist() for end, n in books.ends.items()} == {
        **{"diverged": [0, 1], "paused": [0, 1], "running": [0, 1], "given": [1, 0]}
    }
    assert set(books.ends) <= set(ENDS)
    assert books.paid_runs == {"S": 0, "L": 3}
    assert [trial.status for trial in books.bad] == ["diverged"]
    assert books.at_target == 2
    seen = curves(optimizer.history, "loss", "min", None)
    assert [(curve.scale, curve.steps.tolist(), curve.values.tolist()) for curve in seen] == [
        *[("L", [100], [4.0]), ("L", [100, 1000], [4.0, 3.0]), ("L", [100], [4.0]), ("S", [1000], [5.0])]
    ]
    assert [curve.scale for curve in curves(optimizer.history, "acc", "min", None)] == ["S"]
    assert [(p.scale, p.steps, p.reported, p.ended) for p in books.places] == [
        *[("S", 1000, 1, 1), ("L", 100, 3, 1), ("L", 1000, 2, 2)]  # the diverged run, too
    ]
    np.testing.assert_allclose([(p.cost, p.paid) for p in books.places], [(0.1, 0.0), (0.1, 0.1), (2.0, 2.0)])


def test_the_books_know_scales_that_are_only_learned_from() -> None:
    given = learned(two_scales("web", "code"), n=4).history
    space = replace(given.space, scales=given.space.scales[1:])
    optimizer = MixtureOptimizer(space, objective={"loss": 1.0})
    optimizer.absorb(given)
    books = Ledger(optimizer.history)
    assert books.scale_names == ("L", "S")
    assert books.ends["given"].tolist() == [2, 2]
    assert books.paid_runs == {"L": 0}
    assert [(p.scale, p.steps, p.paid) for p in books.places] == [
        *[("L", 100, 0.0), ("L", 1000, 0.0), ("S", 100, 0.0), ("S", 1000, 0.0)]
    ]


def test_a_law_goes_through_some_runs_of_each_scale() -> None:
    space = two_scales("web", "code")
    optimizer = MixtureOptimizer(space, objective={"loss": 1.0}, strategy="random")
    bowl = Bowl(space=space, best=(0.3, 0.7))
    for i, w in enumerate(space.sample(2 * MOST_LAWS + 2, np.random.default_rng(0))):
        trial = Trial(
            trial_id=f"run{i}", mixture=tuple(w), scale="SL"[i % 2], steps=1000, status="done", evaluated=True
        )
        optimizer.history.add(trial)
        for step in space.steps:
            optimizer.history.observe(trial.trial_id, step, {"loss": bowl(space.named(w), trial.scale, step)})
    found = Study(optimizer, "laws").curves("loss")
    drawn = [curve for curve in found if len(curve.law)]
    assert [sum(curve.scale == name for curve in drawn) for name in "SL"] == [MOST_LAWS, MOST_LAWS]
    for name in "SL":  # the best and the worst among them
        ends = sorted((curve for curve in found if curve.scale == name), key=lambda curve: curve.values[-1])
        assert len(ends[0].law) and len(ends[-1].law)
    for curve in drawn:
        assert (curve.law_steps[[0, -1]] == curve.steps[[0, -1]]).all()
        np.testing.assert_allclose(curve.law[[0, -1]], curve.values, atol=0.02)


def test_the_largest_runs_are_predicted_as_the_verdict_says(three: Study) -> None:
    score, found = three.recommendation.hindsight, three.hidden
    assert found.score == score and found.inside.mean() == score.coverage
    assert found.measured.sum() == pytest.approx(0, abs=1e-9) and len(found.mixtures) == score.n


def test_the_result_of_a_replay_is_json_and_adds_up(tmp_path: Path) -> None:
    simulator = simulators.load("slimpajama")
    optimizer = MixtureOptimizer(simulator.space, objective={"loss": 1.0}, strategy="random", budget=400.0)
    while (run := optimizer.ask()) is not None:
        for step in simulator.space.steps:
            optimizer.tell(run.trial_id, step, simulator.observe(run.mixture, run.scale, step))
        optimizer.finish(run.trial_id)
    truth = Truth(simulator, "loss", "min")
    found = json.loads(json.dumps(result(optimizer, truth, trajectory(optimizer, 4))))
    assert found["runs"] == sum(row["runs"] for row in found["by_scale"]) == 2
    assert found["spent"] == pytest.approx(sum(row["spent"] for row in found["by_scale"]))
    assert sum(row["share"] for row in found["by_scale"]) == pytest.approx(1.0)
    assert found["target_runs"] == found["trajectory"][-1]["full_runs"] == pytest.approx(2.0)
    best = simulator.space.mixture(found["recommended"]["mixture"])
    assert found["recommended"]["true"] == truth.value(best) > found["best_known"] == truth.best
    assert found["recommended"]["regret"] == found["trajectory"][-1]["regret"] == truth.regret(best)
    assert found["recommended"]["predicted"] is None
    # What it says is read again, and counts for this metric only.
    (tmp_path / "result.json").write_text(json.dumps({"version": 1, "metric": "loss", "mode": "min", **found}))
    course = Course.read(tmp_path)
    assert (course.recommended.true, course.best) == (found["recommended"]["true"], truth.best)
    assert [point.regret for point in course.points] == [point["regret"] for point in found["trajectory"]]
    assert Study(optimizer, "replay", course=course).course is course
    other = MixtureOptimizer.of_history(optimizer.history, Settings(objective={"val_loss/arxiv": 1.0}, mode="min"))
    assert Study(other, "another", course=course).course is None
    assert Study(learned(two_scales("web", "code"), n=2), "other domains", course=course).course is None
    (tmp_path / "result.json").write_text('{"version": 1, "recommended": 3}')
    with pytest.raises(ValueError, match="is no result of a replay"):
        Course.read(tmp_path)
    assert Course.read(tmp_path / "elsewhere") is None

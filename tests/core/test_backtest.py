"""What a backtest hides, and how it scores what was predicted."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.stats import spearmanr
from worlds import DOMAINS, THREE_SCALES, Bowl

from ray_mixopt.analysis.backtest import backtest
from ray_mixopt.analysis.baselines import add
from ray_mixopt.analysis.scores import SURROGATE, Hindcast, Scores
from ray_mixopt.cli.main import main
from ray_mixopt.core.history import History, Trial
from ray_mixopt.core.objective import Objective
from ray_mixopt.core.problem import Problem
from ray_mixopt.core.settings import Settings
from ray_mixopt.report.backtest import write_backtest
from ray_mixopt.strategies.hindsight import hidden, up_to
from ray_mixopt.surrogate.belief import Belief
from ray_mixopt.surrogate.encoding import fidelity_coordinates

LOSS = Settings(objective={"loss": 1.0})
SAME = "same differences"
BOWL = Bowl(space=THREE_SCALES, best=(0.5, 0.3, 0.2))
MIXTURES = THREE_SCALES.sample(12, np.random.default_rng(0))


def runs(scales=("small", "medium", "large"), loss=BOWL, order=None, n=12) -> History:
    """The same mixtures at each scale, to both lengths."""
    history = History(THREE_SCALES)
    rows = [(scale, i) for scale in scales for i in range(n)]
    for scale, i in rows if order is None else [rows[k] for k in order]:
        name = f"{scale}_{i}"
        mixture = tuple(MIXTURES[i].tolist())
        history.add(Trial(trial_id=name, mixture=mixture, scale=scale, steps=400, status="done", evaluated=True))
        for step in THREE_SCALES.steps:
            history.observe(name, step, {"loss": loss(dict(zip(DOMAINS, mixture, strict=True)), scale, step)})
    return history


def scores_of(found, method=SURROGATE):
    return {case.mixtures: replace(case.scores[method], seconds=0.0) for case in found.cases}


@pytest.fixture(scope="module")
def found():
    return backtest(runs(), LOSS, mixtures=(6, None), draws=2)


def test_the_largest_scale_is_predicted_from_the_smaller_ones(found):
    assert (found.hidden, found.n_hidden, found.given) == (("large", 400), 12, ("small", "medium"))
    assert [(case.mixtures, case.draws) for case in found.cases] == [(6, 2), (12, 1)]
    few, all_of_them = (case.scores for case in found.cases)
    assert all_of_them[SURROGATE].rank > 0.97 and all_of_them[SURROGATE].regret < 0.2
    assert all_of_them[SURROGATE].error < few[SURROGATE].error < 1


def test_where_differences_carry_over_the_smaller_scale_is_exact(found):
    same = found.cases[-1].scores[SAME]
    assert same.n == 12 and same.rank == pytest.approx(1) and same.error < 1e-9 and same.regret == 0
    assert same.covered is None and same.level is None  # it states neither
    assert found.cases[0].scores[SAME].n == 6  # those that were drawn
    cheapest = found.proxies[0]
    assert (cheapest.scale, cheapest.steps, cheapest.n) == ("small", 100, 12) and found.sufficient == cheapest
    assert cheapest.cost == pytest.approx(THREE_SCALES.cost("small", 100) / THREE_SCALES.cost("large", 400))


def test_nothing_of_what_is_hidden_is_given(found):
    def another(mixture, scale, step):
        return BOWL(mixture, scale, step) * (-1 if scale == "large" else 1)

    other = backtest(runs(loss=another), LOSS, mixtures=(6, None), draws=2)
    for size, scores in scores_of(other).items():
        assert scores.rank == pytest.approx(-scores_of(found)[size].rank)


def test_the_order_of_the_rows_does_not_matter(found):
    shuffled = runs(order=np.random.default_rng(1).permutation(36))
    assert scores_of(backtest(shuffled, LOSS, mixtures=(6, None), draws=2)) == scores_of(found)


def test_shares_that_were_rounded_are_the_same_mixture(found):
    history = runs()
    for trial in history:
        if trial.scale == "large":
            shares = np.round(trial.mixture, 3)
            trial.mixture = tuple((shares / shares.sum()).tolist())
    other = backtest(history, LOSS, mixtures=(None,))
    assert other.cases[0].mixtures == 12 and other.cases[0].scores[SAME].n == 12


def test_more_is_better_turns_the_pick_around():
    upside = backtest(runs(loss=lambda *at: -BOWL(*at)), replace(LOSS, mode="max"), mixtures=(None,))
    assert upside.cases[0].scores[SURROGATE].regret < 0.2


def test_some_of_the_hidden_may_be_known_and_some_scales_be_left_out():
    found = backtest(runs(), LOSS, known=2, draws=2, mixtures=(None,), given=["small"])
    assert (found.given, found.known, found.cases[0].draws) == (("small",), 2, 2)
    assert found.cases[0].scores[SURROGATE].n == 10
    assert {proxy.scale for proxy in found.proxies} == {"small"}


def test_each_scale_may_have_mixtures_of_its_own():
    given = []

    def witness(problem, runs, asked):
        by_scale = {scale: {t.mixture for t in runs if t.scale == scale} for scale in ("small", "medium", "large")}
        given.append(tuple(by_scale.values()))
        return Hindcast(mean=np.arange(len(asked), dtype=float))

    found = backtest(runs(), LOSS, mixtures=(5, 8), draws=1, known=1, nested=False, methods={"witness": witness})
    few, many = given
    assert [len(there) for there in few] == [5, 5, 1] and not few[0] & few[1]
    assert [len(there) for there in many] == [8, 8, 1] and len(many[0] & many[1]) == 4  # there are but twelve
    case = found.cases[0]
    assert list(case.scores) == ["witness"] and case.differences is None
    assert case.scores["witness"].level > 0 and case.scores["witness"].level_covered is None


def test_a_method_with_too_little_to_say_is_left_out():
    found = backtest(runs(), LOSS, mixtures=(5,), draws=1, methods={"silent": lambda *of: None})
    assert found.cases[0].scores == {}


def test_scores_say_how_often_intervals_hold_and_how_wide_they_are():
    rng = np.random.default_rng(0)
    root = rng.standard_normal((6, 6))
    covariance, mean = root @ root.T + 5, rng.standard_normal(6)
    truths = rng.multivariate_normal(mean, covariance, 4000)
    scores = [Scores.of(truth, Hindcast(mean=mean, covariance=covariance), 1.0, 0.0) for truth in truths]
    for name in ("covered", "level_covered"):
        assert np.mean([getattr(s, name) for s in scores]) == pytest.approx(0.95, abs=0.015)
    center = np.eye(6) - 1 / 6
    spread = np.square((truths - mean) @ center).mean()
    assert np.mean([(s.error * truth.std()) ** 2 for s, truth in zip(scores, truths, strict=True)]) == pytest.approx(
        spread
    )
    assert spread == pytest.approx(np.trace(center @ covariance @ center) / 6, rel=0.05)
    assert scores[0].rank == pytest.approx(spearmanr(mean, truths[0]).statistic)


def test_a_method_is_scored_on_what_it_predicts():
    truth, mean = np.array([3.0, 1.0, 2.0, 9.0, 0.0]), np.array([3.0, 1.0, 2.0, np.nan, np.nan])
    scores = Scores.of(truth, Hindcast(mean=mean), 1.0, 0.0)
    assert (scores.n, scores.rank) == (3, pytest.approx(1)) and scores.error == pytest.approx(0)
    assert scores.regret == pytest.approx(1 / truth.std())  # the best of all was not among them
    nothing = Scores.of(truth, Hindcast(mean=np.full(5, np.nan)), -1.0, 0.0)
    assert (nothing.n, nothing.rank, nothing.error, nothing.regret) == (0, None, None, None)


@pytest.mark.parametrize(
    ("history", "options", "message"),
    [
        (runs(scales=["large"]), {}, "All runs that report the objective are at large"),
        (runs(n=4), {}, "Only 4 mixtures are known at large x 400: at least 5"),
        (runs(n=6), {"known": 2}, "2 of the 6 mixtures known at large x 400 cannot be given"),
        (runs(), {"hide": ("huge", None)}, "huge"),
        (runs(), {"hide": ("large", 7)}, "No run of large reports the objective at that length: there are 100, 400"),
        (runs(), {"hide": ("small", None)}, "No run is of a scale smaller than small"),
        (
            runs(),
            {"given": ["large"]},
            "'large' is no scale smaller than large, which is hidden: give some of small, medium",
        ),
    ],
)
def test_what_cannot_be_tested_is_said(history, options, message):
    with pytest.raises(ValueError, match=message):
        backtest(history, LOSS, **options)


def test_objectives_that_were_not_measured_are_refused():
    with pytest.raises(ValueError, match="leave relative_to, guardrails and closeness out"):
        backtest(runs(), Settings(objective=Objective(weights={"loss": 1.0}, relative_to="uniform")))
    with pytest.raises(ValueError, match="No run reports accuracy: there are loss"):
        backtest(runs(), Settings(objective={"accuracy": 1.0}))


def test_constant_metrics_and_repeats_have_scores_that_are_not_known():
    found = backtest(runs(loss=lambda *at: 1.0), LOSS, mixtures=(None,))
    assert found.cases[0].scores[SURROGATE].rank is None and found.proxies == () and found.sufficient is None
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_scale_that_lacks_the_metric_is_passed_over():
    history = runs()
    for trial in history:
        if trial.scale == "medium":
            trial.observations = {step: {"other": 1.0} for step in trial.observations}
    found = backtest(history, LOSS, mixtures=(None,))
    assert found.cases[0].largest == ("small", 400) and found.cases[0].scores[SAME].rank > 0.9


def test_the_command_prints_the_table_and_json(tmp_path):
    name = "large[/b]"  # no markup
    lines = ["scale,parameters,cost_per_step,step,mixture/web,mixture/code,mixture/math,val_loss/a"]
    for trial in runs():
        scale = THREE_SCALES.scale(trial.scale)
        for step, values in trial.observations.items():
            shares = ",".join(map(repr, trial.mixture))
            label = name if scale.name == "large" else scale.name
            lines.append(f"{label},{scale.parameters},{scale.cost_per_step},{step},{shares},{values['loss']}")
    table = tmp_path / "runs.csv"
    table.write_text("\n".join(lines))
    words = ["backtest", "--runs", str(table), "--mixtures", "all", "--draws", "1"]
    shown = CliRunner().invoke(main, words, env={"COLUMNS": "100"})
    assert shown.exit_code == 0, shown.output
    for part in (
        "Hidden: large[/b] x 400 steps, where 12 mixtures are known",
        "Given: small, medium (the largest: medium x 400 steps)",
        "Cheapest runs",
    ):
        assert part in " ".join(shown.output.split())
    result = CliRunner().invoke(main, [*words, "--json"])
    case = json.loads(result.stdout)["cases"][0]
    assert case["mixtures"] == 12 and case["scores"][SURROGATE]["rank"] > 0.97
    for option, text in (
        (["--mixtures", "8,few"], "--mixtures is numbers"),
        (["--target", "large[/b]:400"], "use --hide"),
    ):
        refused = CliRunner().invoke(main, [*words, *option])
        assert refused.exit_code == 2 and text in refused.output


def test_a_page_shows_every_hidden_mixture_and_works_offline(found, tmp_path):
    page = write_backtest(found, tmp_path / "page.html").read_text()
    assert page.count('<div class="plot"') == len(found.cases)
    assert "default-src 'none'" in page
    without = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)  # Plotly's own, which the policy holds back
    assert "http" not in without.replace("http-equiv", "")
    for case in found.cases:
        of, scores = case.differences, case.scores[SURROGATE]
        assert len(of.measured) == len(of.predicted) == len(of.half) == found.n_hidden
        assert np.abs([sum(of.measured), sum(of.predicted)]).max() < 1e-9
        assert f"From {case.mixtures} mixtures, the hidden ones were ranked" in page
        if case.draws == 1:
            inside = np.abs(np.subtract(of.measured, of.predicted)) <= np.array(of.half)
            assert inside.mean() == pytest.approx(scores.covered)
    assert SAME in page and "the largest: medium x 400 steps" in page
    assert page.count('scope="row"') == 4 * len(found.cases) + len(found.proxies)


def test_a_page_needs_a_folder_before_anything_is_computed(tmp_path):
    table = tmp_path / "runs.csv"
    table.write_text("scale,step,cost_per_step,mixture/a,mixture/b,loss\nS,1,1,0.5,0.5,2\n")
    result = CliRunner().invoke(
        main, ["backtest", "--runs", str(table), "--page", str(tmp_path / "none" / "page.html")]
    )
    assert result.exit_code != 0
    assert "There is no folder" in result.output


def test_the_calibration_of_a_search_asks_for_its_largest_runs_as_for_the_target():
    """As a backtest does, so that it does not matter how much larger the search's own target is."""
    history = runs(("small", "medium"))
    nearer = History(up_to(history.space, "medium", 400))
    for trial in history:
        add(nearer, trial, list(trial.observations))
    found, same = (hidden(Problem(space=of.space, settings=LOSS), of, Belief(0)) for of in (history, nearer))
    assert (found.scale, found.steps, found.score) == ("medium", 400, same.score)
    np.testing.assert_allclose(found.forecast.covariance, same.forecast.covariance, rtol=1e-6)


def test_what_is_hidden_may_be_at_a_length_or_a_scale_that_is_trained_no_more():
    small, medium, large = THREE_SCALES.scales
    space = replace(
        THREE_SCALES,
        scales=(replace(small, steps=(50,)), replace(large, steps=(800,))),
        earlier_scales=(medium,),
        steps=(),
        target=None,
    )
    asked = up_to(space, "medium", 400)
    assert [(scale.name, asked.rungs(scale.name)) for scale in asked.scales] == [
        ("small", (50,)),
        ("medium", (50, 400, 800)),
    ]
    assert asked.target == ("medium", 400) and asked.earlier_scales == ()


def test_what_is_hidden_is_the_largest_by_what_orders_all_scales():
    """By cost here, since not all sizes are known: a smaller model may be the dearer one."""
    small, medium, large = THREE_SCALES.scales
    odd = replace(medium, parameters=small.parameters / 2)
    space = replace(THREE_SCALES, scales=(small, odd, replace(large, parameters=None)), target=None)
    asked = up_to(space, "medium", 400)
    assert asked.scale_names == ("small", "medium")
    here, there = (fidelity_coordinates(of, "small", 400)[0] for of in (asked, space))
    assert here - there == pytest.approx(-fidelity_coordinates(space, "medium", 400)[0])

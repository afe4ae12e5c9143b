"""Domains that runs repeat: how often, what that is worth to the model, and what more data of them would be."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from worlds import DOMAINS, Bowl, search, two_scales

from ray_mixopt import MixOptSearcher, MixtureOptimizer, MixtureSpace, Phase, Recommendation
from ray_mixopt.analysis.backtest import _smaller
from ray_mixopt.analysis.study import Study
from ray_mixopt.analysis.truth import dense_minimiser
from ray_mixopt.benchmark.problems import load
from ray_mixopt.benchmark.synthetic import Landscape
from ray_mixopt.cli.main import main
from ray_mixopt.core.history import History, Trial
from ray_mixopt.core.merging import DomainMap, translated
from ray_mixopt.core.supply import passes
from ray_mixopt.io.space_file import read_space
from ray_mixopt.report.answer import more_data
from ray_mixopt.report.page import write_report
from ray_mixopt.surrogate.encoding import encode, observations
from ray_mixopt.surrogate.fit import Hyperparameters
from ray_mixopt.surrogate.phased import PhasedKernel, kernel_of
from ray_mixopt.surrogate.repetition import RepetitionKernel

SUPPLY = {"web": 100.0, "code": 20.0, "math": 1.0}
SCARCE = {"token_supply": SUPPLY, "target_tokens": 40.0, "max_epochs": 30.0}
REAL, MATCHED = two_scales(**SCARCE, repetition="real"), two_scales(**SCARCE, repetition="matched")
PLAIN = two_scales(**SCARCE)
W = np.array([[0.5, 0.1, 0.4], [0.2, 0.8, 0.0]])


# -- how often


def test_shorter_runs_repeat_less_of_the_same_tokens_and_as_much_of_as_many_fewer() -> None:
    np.testing.assert_allclose(REAL.rates("L", 1000), [0.4, 2, 40])
    np.testing.assert_allclose(REAL.rates("S", 1000), [0.4, 2, 40])
    np.testing.assert_allclose(REAL.rates("L", 100), [0.04, 0.2, 4])
    np.testing.assert_allclose(passes(W, REAL.rates("L", 1000)), [[1, 1, 16], [1, 1.6, 1]])
    batches = tuple(replace(s, tokens_per_step=n) for s, n in zip(REAL.scales, (4.0, 40.0), strict=True))
    np.testing.assert_allclose(replace(REAL, scales=batches).rates("S", 1000), [0.04, 0.2, 4], err_msg="in tokens")
    lengths = (replace(REAL.scales[0], steps=(10, 50)), REAL.scales[1])
    for space, there in ((REAL, 2), (MATCHED, 40)):
        np.testing.assert_allclose(replace(space, scales=lengths).rates("S", 50)[2], there)
    np.testing.assert_allclose(replace(MATCHED, scales=lengths).rates("S", 10), REAL.rates("L", 200))


def test_a_domain_of_which_nothing_is_known_or_there_is_none_is_no_number_that_breaks_others() -> None:
    space = two_scales(token_supply={"math": 0.0, "code": 10.0}, target_tokens=40.0, max_epochs=9, repetition="real")
    np.testing.assert_allclose(passes(W, space.rates("L", 1000)), [[1, 1, 1e6], [1, 3.2, 1]])
    assert torch.isfinite(encode(space, W, [space.target])).all()


def test_a_hidden_target_has_its_own_tokens() -> None:
    """In a backtest of a shorter run, what is repeated stays what it was."""
    for space in (REAL, MATCHED):
        hidden = _smaller(space, ("L", 100), ())
        np.testing.assert_allclose(hidden.rates("L", 100), space.rates("L", 100))
        np.testing.assert_allclose(hidden.rates("S", 100), space.rates("S", 100))
    assert _smaller(PLAIN, ("L", 100), ()).target_tokens == 40


# -- what the model makes of it


def at_the_prior(kernel: object, n: int) -> Hyperparameters:
    found = Hyperparameters(n, kernel=kernel)
    found.unpack(found.prior().mean)
    return found


def test_what_is_not_repeated_is_modelled_as_without_repetition() -> None:
    plenty = replace(REAL, token_supply=dict.fromkeys(DOMAINS, 1e9))
    rng = np.random.default_rng(0)
    fidelities = [*plenty.fidelities] * 5
    w = plenty.sample(len(fidelities), rng)
    without, told = encode(PLAIN, w, fidelities), encode(plenty, w, fidelities)
    y = torch.from_numpy(rng.standard_normal(len(w)))
    plain, kernel = at_the_prior(kernel_of(PLAIN), 3), at_the_prior(kernel_of(plenty), 6)
    for name in ("forward", "between", "shared_error"):
        found, wanted = (getattr(of.kernel, name)(x, x) for of, x in ((kernel, told), (plain, without)))
        assert torch.equal(found, wanted), name
    assert torch.equal(kernel.log_likelihood(told, y), plain.log_likelihood(without, y))


def test_all_ways_to_the_covariance_agree_where_domains_are_repeated() -> None:
    rng = np.random.default_rng(1)
    fidelities = [*REAL.fidelities] * 3
    x = encode(REAL, np.repeat(REAL.sample(3, rng), 4, axis=0), fidelities)
    kernel = at_the_prior(RepetitionKernel, 6).kernel
    assert isinstance(kernel, RepetitionKernel)
    every = kernel.forward(x, x)
    torch.testing.assert_close(kernel.between(x, x), every)
    torch.testing.assert_close(kernel.forward(x, x, diag=True), every.diagonal())
    torch.testing.assert_close(kernel.observed(x), every + kernel.shared_error(x, x))
    assert float(torch.linalg.eigvalsh(kernel.observed(x).detach()).min()) > -1e-9
    assert (kernel.shared_error(x[:4], x[:4]) > 0).all(), "reports of one mixture, however often they repeat it"


def test_further_passes_are_worth_less_and_none_in_the_end() -> None:
    kernel = at_the_prior(RepetitionKernel, 6).kernel
    n = torch.tensor([1.0, 2.0, 4.0, 16.0, 40.0, 1e6], dtype=torch.float64)
    # A share of so many passes over a fixed supply: what more of them adds is in the linear effect.
    shares = torch.stack([0.005 * n.clamp_max(100), 1 - 0.005 * n.clamp_max(100)], -1)
    shares = torch.cat([shares, torch.zeros(len(n), 1, dtype=torch.float64)], -1)
    often = torch.ones_like(shares)
    often[:, 0] = n
    plain = kernel.log_plain.exp() / (1 - 1 / 3)
    effective = kernel._features(torch.cat([shares, often], -1))[0][:, 3] / plain.sqrt() + 1 / 3
    worth = (effective / 0.005).tolist()  # in passes
    assert worth[0] == pytest.approx(1)
    assert worth[3] == pytest.approx(1 + 15 * (1 - np.exp(-1)), rel=1e-6), "Muennighoff et al. 2023, Sec. 3"
    gains = np.diff(worth[:5]) / np.diff(n[:5].tolist())
    assert (np.diff(gains) < 0).all() and gains[-1] < 0.2


@pytest.mark.parametrize("recipe", ["5_scarce", "5_scarce_log", "5_matched"])
def test_the_optimum_of_a_landscape_that_repeats_is_its_minimum(recipe: str) -> None:
    problem = load(f"synthetic/{recipe}:3")
    best, space = problem.optimum, problem.space
    assert (best > 0.01).all() and space.simplex.contains(best)[0]
    often = passes(best[None], space.rates(*space.target))[0]
    assert (often >= 4).sum() == 2 and (often == 1).sum() == 3
    rng = np.random.default_rng(0)
    near = space.simplex.project(best + rng.normal(0, 0.02, (500, 5)))
    lowest = problem.oracle.evaluate(best[None], *space.target)
    assert (problem.oracle.evaluate(np.concatenate([near, space.sample(5000, rng)]), *space.target) >= lowest).all()
    walled = replace(space, max_epochs=4.0, repetition=None)
    assert min(map(problem.regret, walled.sample(2000, rng))) > 0.02, "a wall at four passes shuts it out"


def test_small_runs_mislead_about_what_the_target_repeats_unless_passes_are_known() -> None:
    """Of the same tokens they see each once, and want more of two domains that the target passes over a dozen times."""
    problem = load("synthetic/5_scarce:0+noise=0.005")
    space, small = problem.space, ("100M", 2000)
    wanted = dense_minimiser(lambda w: problem.oracle.evaluate(w, *small)[:, 0], space, samples=2000)
    assert problem.regret(wanted) > 0.03
    gaps = []
    for told in (space, replace(space, repetition=None)):
        optimizer = MixtureOptimizer(told, seed=0)
        for i, w in enumerate(space.sample(40, np.random.default_rng(0))):
            for scale, steps in space.fidelities[:8]:
                value = problem.observe(w, scale, steps, (i,))["loss"]
                optimizer.add_evaluated_point(space.named(w), scale, steps, value, trial_id=f"{scale} {i}")
        gaps.append(optimizer.predict([problem.optimum, wanted]).difference(0, 1).mean)
    assert gaps[0] < 0 < gaps[1], "the best mixture is better than theirs"


# -- other supplies


def old_runs(space: MixtureSpace) -> History:
    history = History(space)
    history.add(Trial(trial_id="a", mixture=(0.5, 0.1, 0.4), scale="S", steps=1000, status="done", evaluated=True))
    history.observe("a", 1000, {"value": 2.0})
    return history


def test_runs_of_another_search_keep_the_supply_that_they_had() -> None:
    new = replace(REAL, token_supply={**SUPPLY, "math": 4.0})
    taken = translated(old_runs(REAL), new)
    assert taken["a"].supply == pytest.approx({"math": 1.0})
    assert observations(new, taken, "value").x[0, 3:6].tolist() == pytest.approx([1, 1, 16]), "not 4"
    again = History.from_state_dict(json.loads(json.dumps(taken.state_dict())))
    assert again["a"] == taken["a"] and again.space == taken.space
    assert translated(taken, replace(new, token_supply=SUPPLY))["a"].supply == {}, "back where it came from"
    longer = translated(old_runs(REAL), replace(new, target_tokens=80.0))["a"]
    assert observations(new, translated(old_runs(MATCHED), new), "value").x[0, 5] == pytest.approx(16)
    assert longer.supply["math"] == pytest.approx(2.0), "of a step of twice the tokens"
    assert translated(old_runs(PLAIN), new)["a"].supply == {}, "nothing is known of it"
    assert translated(old_runs(REAL), PLAIN)["a"].supply == {}, "nobody asks"


def test_a_supply_goes_with_a_domain_that_is_renamed_and_not_with_one_that_is_split() -> None:
    supply = {"web": 100.0, "code": 20.0, "proofs": 8.0}
    new = replace(REAL, domains=("web", "code", "proofs"), token_supply=supply)
    renamed = translated(old_runs(REAL), new, DomainMap(renamed={"math": "proofs"}))
    assert renamed["a"].supply == pytest.approx({"proofs": 1.0})
    split = translated(old_runs(REAL), new, DomainMap(split={"math": {"proofs": 0.5, "code": 0.5}}))
    assert split["a"].supply == {}


def test_a_search_that_is_restored_with_more_data_keeps_what_its_runs_had() -> None:
    searcher = MixOptSearcher(REAL, "loss", "min", budget=5e3)
    config = searcher.suggest("a")
    assert config is not None
    more = MixOptSearcher(replace(REAL, token_supply={**SUPPLY, "math": 2.0}), "loss", "min", budget=5e3)
    same = MixOptSearcher(REAL, "loss", "min", budget=5e3)
    for other, wanted in ((more, {"math": 1.0}), (same, {})):
        other.load_state_dict(json.loads(json.dumps(searcher.state_dict())))
        history = other.optimizer.history
        assert [trial.supply for trial in history] == [wanted] * len(history) and len(history) == 1
        assert history.space == other.optimizer.space
    other = MixOptSearcher(REAL, "loss", "min", budget=5e3)
    other.load_state_dict(json.loads(json.dumps(more.state_dict())))
    assert [trial.supply for trial in other.optimizer.history] == [{}], "back again"


def test_the_model_is_told_apart_by_supply() -> None:
    """Runs of a domain that was scarcer then do not speak against more of it now."""
    scarcer = replace(REAL, token_supply={**SUPPLY, "math": 0.1})
    optimizer = MixtureOptimizer(REAL)
    assert optimizer.absorb(old_runs(scarcer)) == 1
    assert optimizer.absorb(old_runs(REAL), source="now") == 1
    x = observations(optimizer.space, optimizer.history, "value").x
    assert sorted(x[:, 5].tolist()) == pytest.approx([16, 160])


# -- what more of it would be worth


@cache
def searched(maximise: bool = False) -> tuple[MixtureOptimizer, Recommendation]:
    problem = load("synthetic/5_scarce:0+noise=0.005")
    space, sign = problem.space, -1.0 if maximise else 1.0
    optimizer = MixtureOptimizer(space, mode="max" if maximise else "min", seed=0)
    for i, w in enumerate(space.sample(24, np.random.default_rng(5))):
        for scale in space.scale_names[: 2 if i % 3 else 3]:
            for steps in space.rungs(scale)[1::2]:
                value = sign * problem.observe(w, scale, steps, (i,))["loss"]
                optimizer.add_evaluated_point(space.named(w), scale, steps, value, trial_id=f"{scale} {i}")
    return optimizer, optimizer.recommend(details=True)


def test_more_of_a_scarce_domain_is_worth_what_it_is() -> None:
    optimizer, answer = searched()
    space, landscape = optimizer.space, load("synthetic/5_scarce:0").oracle
    assert isinstance(landscape, Landscape) and answer.details is not None
    found = {more.domain: more for more in answer.details.more_data}
    best = space.mixture(answer.mixture)
    often = dict(zip(space.domains, passes(best[None], space.rates(*space.target))[0].tolist(), strict=True))
    assert {name: more.passes for name, more in found.items()} == {name: n for name, n in often.items() if n > 1}
    assert len(found) >= 2, "two domains are scarce"
    now = landscape.evaluate(best[None], *space.target)
    for name, more in found.items():
        twice = landscape.supplied({**space.token_supply, name: 2 * space.token_supply[name]})
        gained = float((now - twice.evaluate(best[None], *space.target))[0, 0])
        assert more.gain.low <= gained <= more.gain.high and more.gain.low > 0
    gains = [more.gain.mean for more in answer.details.more_data]
    assert gains == sorted(gains, reverse=True)
    assert f"More data: {answer.details.more_data[0]}" in str(answer)
    assert json.loads(json.dumps(answer.to_dict()))["details"]["more_data"][0]["domain"] in found


def test_the_report_shows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray_mixopt.analysis.study.N_POINTS", 2)
    optimizer, answer = searched()
    study = Study(optimizer, "scarce")
    drawn = more_data(study)
    assert drawn is not None and answer.details is not None
    most = answer.details.more_data[0]
    assert f"{most.domain}, seen {most.passes:.3g} times" in str(drawn.panels[0].figure.to_dict())
    assert str(most.gain) in drawn.alt
    page = write_report(study, tmp_path).read_text()
    assert "What more data would be worth" in page and drawn.caption in page


def test_more_data_is_a_gain_of_what_is_maximised() -> None:
    _, up = searched(maximise=True)
    _, down = searched()
    assert up.details is not None and down.details is not None
    same = {more.domain: more.gain.mean for more in down.details.more_data}
    assert all(more.gain.mean == pytest.approx(same[more.domain], rel=0.2) for more in up.details.more_data)


def test_nothing_is_said_of_more_data_where_nothing_is_repeated_or_known_of_it() -> None:
    plenty = replace(REAL, token_supply=dict.fromkeys(DOMAINS, 1000.0))
    for space in (PLAIN, plenty):
        optimizer = MixtureOptimizer(space, seed=0)
        search(optimizer, 6, Bowl(space=space, best=(0.5, 0.48, 0.02)))
        answer = optimizer.recommend(details=True)
        assert answer.details is not None and answer.details.more_data == ()
        assert "More data" not in str(answer)


# -- how it is said


def test_a_space_says_it_in_files_and_states(tmp_path: Path) -> None:
    assert "repetition" not in PLAIN.to_dict()
    assert MixtureSpace.from_json(MATCHED.to_json()) == MATCHED
    assert MixtureSpace.from_param_space(REAL.param_space()) == REAL
    file = tmp_path / "space.yaml"
    file.write_text(
        "domains: [web, code]\nscales: [{name: S, cost_per_step: 1}]\nsteps: [10]\nrepetition: real\nmax_epochs: 40\n"
        "token_supply: {code: 10}\ntarget_tokens: 50\n"
    )
    assert read_space(file).repetition == "real"


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({**SCARCE, "repetition": "some"}, "repetition must be 'real' or 'matched', or None, got 'some'"),
        ({"repetition": "real"}, "repetition='real' needs the number of passes: give token_supply"),
        ({**SCARCE, "max_epochs": 1.0, "repetition": "real"}, "max_epochs=1 allows none: set max_epochs, to 40 where"),
        ({**SCARCE, "repetition": "real", "phases": (Phase("a", 0.5), Phase("b", 0.5))}, "leave it out, or phases"),
    ],
)
def test_what_says_nothing_of_passes_is_refused(said: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        two_scales(**said)


def test_a_supply_of_a_run_is_of_its_domains() -> None:
    history = History(REAL)
    run = Trial(trial_id="a", mixture=(0.5, 0.1, 0.4), scale="S", steps=1000, supply={"chess": 1.0})
    with pytest.raises(ValueError, match="The supply of trial 'a' names the unknown domain 'chess'"):
        history.add(run)
    state = old_runs(REAL).state_dict()
    state["trials"][0]["supply"] = {"math": 0.0}
    with pytest.raises(ValueError, match="Trial 'a' has a supply that is no number of tokens"):
        History.from_state_dict(state)


def test_old_runs_answer_what_more_data_would_be_worth(tmp_path: Path) -> None:
    optimizer, _ = searched()
    file = tmp_path / "runs.json"
    file.write_text(json.dumps(replaced(optimizer.history, repetition=None).state_dict()))
    limits = ["--max-epochs", "40", "--target-tokens", str(optimizer.space.target_tokens)]
    for name, tokens in optimizer.space.token_supply.items():
        limits += ["--supply", f"{name}={tokens!r}"]
    asked = ["recommend", "--from", str(file), "--weight", "value=1"]
    answer = CliRunner().invoke(main, [*asked, *limits, "--repetition", "real"])
    assert answer.exit_code == 0, answer.output
    assert "More data: twice as much domain_" in answer.output
    refused = CliRunner().invoke(main, [*asked, *limits[2:], "--repetition", "real"])
    assert refused.exit_code == 2
    assert "--repetition real is about passes after the first, and --max-epochs 1 allows none" in refused.output


def replaced(history: History, **changes: object) -> History:
    other = history.copy()
    other.space = replace(history.space, **changes)
    return other


def test_phases_have_their_kernel() -> None:
    assert isinstance(kernel_of(two_scales(phases=(Phase("a", 0.5), Phase("b", 0.5))))(6, None), PhasedKernel)

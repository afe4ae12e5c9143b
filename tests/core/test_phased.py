"""Mixtures of several phases: their geometry, what runs cost, how they travel, and what a search makes of them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from worlds import DOMAINS, OLD, awkward, given, search, train, two_scales

from ray_mixopt import Group, MixOptSearcher, MixtureOptimizer, MixtureSpace, Objective, Phase, Scale
from ray_mixopt.benchmark.problems import load
from ray_mixopt.command.settings import Command
from ray_mixopt.core.baselines import broken, moved
from ray_mixopt.core.merging import translated
from ray_mixopt.core.objective import divergence
from ray_mixopt.core.phased import phased
from ray_mixopt.core.trial import Wanted
from ray_mixopt.io.blends import NO_SOURCES, blend
from ray_mixopt.strategies.design import initial_design
from ray_mixopt.surrogate.encoding import encode
from ray_mixopt.surrogate.kernels import MixtureFidelityKernel
from ray_mixopt.surrogate.phased import PhasedKernel
from ray_mixopt.testing.history import violations

PHASES = (Phase("main", 0.8), Phase("anneal", 0.2))
LATE = {"main": {"web": 0.6, "code": 0.3, "math": 0.1}, "anneal": {"web": 0.1, "code": 0.3, "math": 0.6}}


def make(*phases: Phase, **limits) -> MixtureSpace:
    return two_scales(phases=phases or PHASES, **limits)


SCARCE = {"token_supply": {"math": 15.0}, "target_tokens": 100.0}
SPACES = {
    "plain": make(),
    "limits": make(lower={"web": 0.2}, upper={"code": 0.5}, groups=(Group(("code", "math"), most=0.7),)),
    "own limits": make(Phase("main", 0.7, lower={"web": 0.5}), Phase("anneal", 0.3, upper={"web": 0.3}, groups=())),
    "domains": make(Phase("main", 0.9, domains=("web", "code")), Phase("anneal", 0.1, domains=("code", "math"))),
    "scarce": make(**SCARCE),
    "scarce with groups": make(groups=(Group(("web", "code"), most=0.9),), **SCARCE),
    "three": make(Phase("a", 0.5), Phase("b", 0.3), Phase("c", 0.2), **SCARCE),
    "trained": make(Phase("a", 0.5, mixture={"web": 1}), Phase("b", 0.3), Phase("c", 0.2), **SCARCE),
}
each_space = pytest.mark.parametrize("space", SPACES.values(), ids=list(SPACES))


# -- geometry


@each_space
def test_samples_corners_and_projections_are_within_all_limits(space: MixtureSpace) -> None:
    rng, d = np.random.default_rng(0), space.n_domains
    anywhere = rng.normal(0.3, 0.5, (200, space.n_shares))
    for found in (space.sample(300, rng), space.sample(50, rng, 0.3), space.corners(), space.simplex.project(anywhere)):
        assert space.simplex.contains(found).all()
        np.testing.assert_allclose(found.reshape(len(found), -1, d).sum(-1), 1.0, atol=1e-12)
        assert found.min() >= 0
    for one in (space.uniform(), space.simplex.project(space.uniform()[None])[0]):
        assert space.simplex.contains(one[None]).all()
    assert broken(space, space.uniform()) == ()
    inside = space.sample(20, rng)
    np.testing.assert_allclose(space.simplex.project(inside), inside, atol=1e-5)


@each_space
def test_a_projection_is_the_nearest_mixture(space: MixtureSpace) -> None:
    """No sample is nearer, where each phase counts as much as its fraction."""
    rng, simplex = np.random.default_rng(1), phased(space.simplex)
    points = rng.normal(0.3, 0.4, (20, space.n_shares))
    others = np.concatenate([space.sample(1000, rng), space.sample(1000, rng, 0.2)])

    def apart(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.square(simplex.apart(a - b)).sum(-1) @ simplex.fractions

    for point, nearest in zip(points, simplex.project(points), strict=True):
        assert apart(nearest[None], point[None])[0] <= apart(others, point[None]).min() + 1e-4


def test_what_the_whole_run_may_take_is_shared_by_its_phases() -> None:
    space = make(**SCARCE)
    simplex = phased(space.simplex)
    assert simplex.mean(space.corners())[2, 2] == pytest.approx(0.15, abs=1e-6)
    np.testing.assert_allclose(simplex.apart(space.corners())[2, :, 2], [0.15, 0.15], atol=1e-6, err_msg="tied")
    late = space.mixture({"main": {"web": 0.5, "code": 0.5, "math": 0}, "anneal": {"web": 0.3, "code": 0, "math": 0.7}})
    assert simplex.contains(late[None])[0], "0.2 x 0.7 is less than 0.15"
    tied = space.mixture({"web": 0.5, "code": 0.3, "math": 0.2})
    assert broken(space, tied) == ("the supply of math",)
    assert moved(space) == ("uniform",)
    trained = make(Phase("main", 0.8, mixture={"math": 0.1, "web": 0.9}), Phase("b", 0.1), Phase("c", 0.1), **SCARCE)
    assert phased(trained.simplex).caps[2] == pytest.approx((0.15 - 0.08) / 0.2)


def test_half_of_the_samples_are_tied_and_the_others_reach_far() -> None:
    space = make()
    parts = phased(space.simplex).apart(space.sample(1000, np.random.default_rng(0)))
    gap = np.abs(parts[:, 0] - parts[:, 1]).max(-1)
    assert (gap[:500] < 1e-9).all() and (gap[500:] > 1e-9).all() and gap.max() > 0.7


BAD = {
    "no domains": (lambda: Phase("a", 0.5, domains=()), "The phase 'a' has no domains"),
    "unknown domain": (lambda: make(Phase("a", 0.5, domains=("x",)), Phase("b", 0.5)), "'a' names x: the space has"),
    "a share above 1": (lambda: Phase("a", 0.5, upper={"web": 2}), "upper of the phase 'a': web must have a share"),
    "limits of the past": (
        lambda: Phase("a", 0.5, mixture={"web": 1}, lower={"web": 0.1}),
        "'a' was trained already: lower cannot limit it any more",
    ),
    "limits of the only one": (
        lambda: make(Phase("a", 0.5, mixture={"web": 1}), Phase("b", 0.5, upper={"web": 0.1})),
        "'b' is the only one that is searched: say upper of the space",
    ),
    "floors of a phase": (
        lambda: make(Phase("a", 0.5, lower={"web": 0.6, "code": 0.6}), Phase("b", 0.5)),
        "The phase 'a': The floors sum to 1.2",
    ),
    "floors of all": (
        lambda: make(Phase("a", 0.8, lower={"math": 0.15}), Phase("b", 0.2, lower={"math": 0.4}), **SCARCE),
        "floors of the phases take more of math than there is in the whole run",
    ),
    "supplies": (
        lambda: make(token_supply={"web": 50.0, "code": 30.0, "math": 10.0}, target_tokens=100.0),
        "No mixture of the phases keeps to what there is of web, code, math in the whole run",
    ),
}


@pytest.mark.parametrize(("made", "sentence"), BAD.values(), ids=list(BAD))
def test_what_cannot_be_trained_is_refused(made, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        made()


# -- mixtures at the edges


def test_a_mixture_is_one_for_each_phase_or_one_that_all_have() -> None:
    space = make()
    row = space.mixture(LATE)
    assert space.named(row) == LATE
    np.testing.assert_array_equal(space.mixture(row), row)
    np.testing.assert_array_equal(space.mixture(row.tolist()), row)
    tied = {"web": 2, "code": 1, "math": 1}
    np.testing.assert_array_equal(space.mixture(tied), [0.5, 0.25, 0.25] * 2)
    np.testing.assert_array_equal(space.mixture([2, 1, 1]), [0.5, 0.25, 0.25] * 2)
    for bad, sentence in (
        ({"main": LATE["main"]}, r"name every phase once; missing: \['anneal'\], unknown: \[\]"),
        ({**LATE, "cooldown": LATE["main"]}, r"missing: \[\], unknown: \['cooldown'\]"),
        ({"main": LATE["main"], "anneal": {"web": 1}}, "must name every domain once"),
        ([0.5] * 4, "needs 3 shares for each, 6 in all, or 3 that all have"),
    ):
        with pytest.raises(ValueError, match=sentence):
            space.mixture(bad)


@each_space
def test_a_space_survives_json(space: MixtureSpace) -> None:
    again = MixtureSpace.from_json(space.to_json())
    assert again == space
    np.testing.assert_array_equal(again.simplex.upper, space.simplex.upper)


def test_a_run_pays_for_its_later_phases_at_each_rung() -> None:
    space = make()
    assert space.cost("L", 100) == pytest.approx(100)
    assert space.cost("L", 1000) == pytest.approx(800 + 20 + 200)
    assert space.cost("L", 1000, start=100) == pytest.approx(720 + 200)
    trained = make(Phase("a", 0.5, mixture={"web": 1}), Phase("b", 0.3), Phase("c", 0.2))
    assert trained.cost("L", 1000) == pytest.approx(50 + 500)
    annealed = MixtureSpace(domains=DOMAINS, scales=(Scale("L", 1.0, annealed=0.1),), steps=(100, 1000), phases=PHASES)
    assert annealed.target_cost == pytest.approx(1020), "within the last phase"


# -- the surrogate


def test_the_covariance_of_tied_mixtures_is_that_of_one_mixture() -> None:
    space, rng = make(), np.random.default_rng(0)
    one, two = MixtureFidelityKernel(3).double(), PhasedKernel(6, fractions=(0.8, 0.2)).double()
    w = two_scales().sample(12, rng)
    cells = [("S", 100), ("L", 1000)] * 6
    single, tied = encode(two_scales(), w, cells), encode(space, np.tile(w, (1, 2)), cells)
    for method in ("between", "forward"):
        torch.testing.assert_close(getattr(two, method)(tied, tied), getattr(one, method)(single, single))
    torch.testing.assert_close(two.observed(tied), one.observed(single))


def test_order_adds_to_the_covariance() -> None:
    space, rng = make(), np.random.default_rng(0)
    kernel = PhasedKernel(6, torch.Size([2]), fractions=(0.8, 0.2)).double()
    x = encode(space, space.sample(30, rng), [("S", 100)])
    full = kernel.between(x, x)
    assert full.shape == (2, 30, 30) and torch.linalg.eigvalsh(full).min() > -1e-9
    torch.testing.assert_close(kernel.observed(x) - kernel.shared_error(x, x), full)
    late, early = (space.mixture(dict(zip(PHASE_NAMES, of, strict=True))) for of in (LATE.values(), SWAPPED))
    x = encode(space, np.stack([late, early]), [("L", 1000)])
    with torch.no_grad():
        kernel.log_contrast.fill_(-30.0)
    without = kernel.between(x, x)
    with torch.no_grad():
        kernel.log_contrast.fill_(0.0)
    added = kernel.between(x, x) - without
    assert (added[:, 0, 1] < 0).all(), "what is late in one is early in the other"


PHASE_NAMES = ("main", "anneal")
SWAPPED = ({"web": 0.475, "code": 0.3, "math": 0.225}, {"web": 0.6, "code": 0.3, "math": 0.1})


# -- the design and the search


def test_the_design_has_tied_mixtures_first_and_then_opposite_pairs() -> None:
    space = make()
    design = initial_design(space, np.random.default_rng(0))
    simplex = phased(space.simplex)
    parts = simplex.apart(np.stack([run.mixture for run in design]))
    tied = np.abs(parts[:, 0] - parts[:, 1]).max(-1) < 1e-9
    first = int(tied.argmin())
    assert not tied[first:].any() and len(design) - first == 4
    for late, early in zip(parts[first::2], parts[first + 1 :: 2], strict=True):
        np.testing.assert_allclose(simplex.fractions @ late, simplex.fractions @ early, err_msg="the same data")
        assert (late[1] - late[0]) @ (early[1] - early[0]) < 0
    alone = initial_design(two_scales(), np.random.default_rng(0))
    assert [(run.scale, run.steps) for run in alone] == [(run.scale, run.steps) for run in design[:first]]


def loss(mixture, scale: str, step: int, order: float = 0.3) -> float:
    """Math is worth more late, web early, by a strength."""
    main, late = (np.array([mixture[phase][name] for name in DOMAINS]) for phase in PHASE_NAMES)
    whole = 0.8 * main + 0.2 * late
    effect = np.square(whole - [0.5, 0.3, 0.2]).sum() + order * np.square(late - [0.1, 0.3, 0.6]).sum()
    return float(2 + 0.3 * (scale == "S") + 0.2 * (step == 100) + effect)


def test_a_search_of_two_phases_goes_on_after_its_state_and_answers_for_each() -> None:
    space = make()
    settings = {"budget": 3 * space.target_cost, "seed": 1, "reference": LATE}
    optimizer = MixtureOptimizer(space, points_to_evaluate=[{"mixture": LATE, "scale": "S", "steps": 100}], **settings)
    found = search(optimizer, 14, loss)
    assert found[0].mixture == {p: pytest.approx(LATE[p]) for p in LATE}
    for run in found:
        assert list(run.mixture) == ["main", "anneal"] and set(run.mixture["anneal"]) == set(DOMAINS)
    assert optimizer.history.spent == pytest.approx(sum(run.cost for run in found))
    assert list(violations(optimizer.history)) == []
    again = MixtureOptimizer.from_state_dict(json.loads(json.dumps(optimizer.state_dict())))
    for _ in range(3):
        one, other = optimizer.ask(), again.ask()
        assert one == other
        train(optimizer, one, loss)
        train(again, other, loss)
    answer = again.recommend()
    assert list(answer.mixture) == ["main", "anneal"]
    assert again.predict([LATE, {"web": 1, "code": 1, "math": 1}]).mean.shape == (2,)
    shares = [answer.mixture[phase]["math"] for phase in ("main", "anneal")]
    assert str(answer).splitlines()[:3] == [
        "Recommended mixtures of main and anneal for L x 1,000 steps",
        "Phases: main (0.8 of the run), searched; then anneal (0.2 of the run), searched.",
        "           main   anneal",
    ]
    assert "  math  {:7.2%}  {:7.2%}".format(*shares) in str(answer).splitlines()
    assert '<th scope="row">math</th><td>{:.2%}</td><td>{:.2%}</td>'.format(*shares) in answer._repr_html_()
    told = json.loads(json.dumps(answer.to_dict()))
    assert told["mixture"] == answer.mixture and told["phases"] == [phase.to_dict() for phase in PHASES]


@pytest.mark.parametrize("strength", [0.0, 0.3])
def test_phases_differ_in_the_answer_only_where_order_matters(strength: float) -> None:
    space = make()
    optimizer = MixtureOptimizer(space, seed=1)
    design = initial_design(space, np.random.default_rng(0))
    more = [(w, *cell) for w in space.sample(12, np.random.default_rng(1)) for cell in (("S", 100), ("L", 1000))]
    for w, scale, step in [(run.mixture, run.scale, run.steps) for run in design] + more:
        optimizer.add_evaluated_point(space.named(w), scale, step, loss(space.named(w), scale, step, strength))
    (model,) = optimizer.posterior().models
    assert model.hyper.kernel.order_matters == bool(strength)
    answer = optimizer.answer().mixture
    if strength:
        assert answer["anneal"]["math"] > answer["main"]["math"] + 0.1
        return
    assert answer["main"] == pytest.approx(answer["anneal"])
    for _ in range(2):  # and no run is bought to ask again
        run = optimizer.ask()
        assert run.mixture["main"] == pytest.approx(run.mixture["anneal"], abs=1e-9)


def test_the_searcher_tells_a_trainable_the_mixture_of_each_phase() -> None:
    space = make()
    searched = space.param_space()
    assert set(searched["mixture"]) == {"main", "anneal"} and set(searched["mixture"]["anneal"]) == set(DOMAINS)
    assert MixtureSpace.from_param_space(searched) == space
    searcher = MixOptSearcher(seed=1, points_to_evaluate=[{"mixture": LATE, "scale": "S", "steps": 100}])
    assert searcher.set_search_properties("loss", "min", searched)
    config = searcher.suggest("first")
    assert config["mixture"] == {phase: pytest.approx(shares) for phase, shares in LATE.items()}
    searcher.on_trial_complete("first", {"step": 100, "loss": 2.5})
    assert set(searcher.suggest("second")["mixture"]) == {"main", "anneal"}
    with pytest.raises(ValueError, match=r"param_space\['mixture'\] has \['code', 'math', 'web'\]"):
        MixOptSearcher(space).set_search_properties("loss", "min", two_scales().param_space())


def test_runs_of_one_mixture_are_taken_in_as_runs_with_one_in_all_phases() -> None:
    optimizer = MixtureOptimizer(make(), objective={"loss": 1.0})
    optimizer.absorb(awkward())
    w = optimizer.history.mixtures()
    np.testing.assert_array_equal(w[:, :3], w[:, 3:])
    optimizer.add_evaluated_point(LATE, "S", 100, {"loss": 2.5}, trial_id="late")
    assert len(translated(optimizer.history, optimizer.space)) == len(optimizer.history)
    with pytest.raises(ValueError, match="has 3 shares, and the space 6"):
        optimizer.history.add(replace(next(iter(awkward())), trial_id="short"))


def test_what_knows_one_mixture_says_so() -> None:
    space = make()
    phases = "the space has one for each of the phases main, anneal"
    refused = [
        lambda: MixtureOptimizer(space, strategy="paper"),
        lambda: blend("megatron", LATE, space, NO_SOURCES),
        lambda: Command(program=("train",), directory=".", blend="megatron").check(
            replace(space, steps=(100,), target=None)
        ),
    ]
    for call in refused:
        with pytest.raises(ValueError, match=phases):
            call()
    with pytest.raises(
        ValueError, match="This trainable trains one mixture .* one for each of the phases main, anneal"
    ):
        Wanted.of({"mixture": LATE, "scale": "S", "steps": 100})


@pytest.mark.parametrize("prior", [LATE, {"web": 0.6, "code": 0.2, "math": 0.2}], ids=["of each", "of all"])
def test_closeness_is_to_the_prior_of_each_phase(prior) -> None:
    space = make()
    known = space.mixture(prior)
    distances = []
    for closeness in (0.0, 0.5, 100.0):
        objective = Objective(weights={"loss": 1.0}, prior=prior, closeness=closeness)
        optimizer = MixtureOptimizer(space, objective=objective, mode="min", seed=1)
        given(optimizer, 20, lambda w, scale, step: {"loss": loss(w, scale, step)})
        found = space.mixture(optimizer.recommend().mixture)
        distances.append(np.abs(found - known).max())
        posterior = optimizer.posterior()
        w = np.stack([found, space.uniform(), known])
        nats = 0.8 * divergence(w[:, :3], known[:3]) + 0.2 * divergence(w[:, 3:], known[3:])
        np.testing.assert_allclose(posterior.penalty(w), closeness * nats, atol=1e-12)
    assert distances[0] > distances[1] > distances[2] and distances[2] < 0.05


# -- problems with a known answer


@pytest.mark.parametrize("recipe", ["5_order", "5_weak_order", "5_no_order"])
def test_the_optimum_of_two_phases_is_one(recipe: str) -> None:
    problem = load(f"synthetic/{recipe}:3")
    best, space = problem.optimum, problem.space
    assert space.simplex.contains(best[None])[0]
    rng = np.random.default_rng(0)
    near = space.simplex.project(best + rng.normal(0, 0.02, (500, len(best))))
    others = np.concatenate([near, space.sample(5000, rng)])
    at = space.target_scale, space.target_steps
    lowest = problem.oracle.evaluate(best[None], *at)[0, 0]
    assert (problem.oracle.evaluate(others, *at)[:, 0] >= lowest - 1e-12).all()
    tied = phased(space.simplex).tied(phased(space.simplex).mean(best[None]))
    lost = problem.regret(tied[0])
    assert lost == pytest.approx(0, abs=1e-9) if recipe == "5_no_order" else lost > 0.003


def test_old_and_new_runs_are_of_one_space() -> None:
    assert len(translated(awkward(), make())) == len(awkward())
    assert OLD.phase_names == ()


# -- what is given wrongly

TWO, EQUAL = SPACES["plain"], dict.fromkeys(DOMAINS, 1.0)
NO_WEB = Phase("a", 0.5, domains=("code", "math"))


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: Phase("a", 0.5, mixture={"web": 1e308, "code": 1e308}), "must have weights that are finite"),
        (lambda: Phase("a", 0.5, domains=(1,)), "domains of the phase 'a' must be names, got 1"),
        (lambda: Phase("a", 0.5, domains=[["web"]]), "domains of the phase 'a' must be names"),
        (lambda: Phase("a", 0.5, groups=("g",)), "must be Group objects, got 'g'"),
        (lambda: Phase.from_dict({"name": "a"}), "description of a phase: fraction is missing"),
        (lambda: Phase.from_dict({"name": "a", "fraction": 0.5, "x": 1}), "unknown fields x"),
        (lambda: Phase.from_dict([1]), "not a JSON object"),
        (
            lambda: replace(TWO, lower={"web": 0.1}, phases=(NO_WEB, Phase("b", 0.5))),
            "The phase 'a': web has a floor and is none of its domains: give the phase floors of its own",
        ),
        (
            lambda: TWO.mixture({"main": EQUAL, "anneal": 0.5}),
            "The mixture of the phase 'anneal': .* got shape",
        ),
        (
            lambda: TWO.mixture({"main": EQUAL, "anneal": {"web": 1}}),
            "phase 'anneal': .* missing: .'code', 'math'",
        ),
        (
            lambda: TWO.mixture("web"),
            "weights by domain name, or numbers in the order of the domains, got 'web'",
        ),
        (
            lambda: MixtureOptimizer(TWO, reference={"main": EQUAL, "anneal": 0.5}),
            "Of several phases each has such weights: reference, 'anneal' must be numbers by name, got 0.5",
        ),
    ],
)
def test_what_makes_no_sense_is_a_sentence_about_it(build, sentence) -> None:
    with pytest.raises(ValueError, match=sentence):
        build()


def test_more_runs_at_once_than_the_design_has_are_drawn_at_random() -> None:
    runs = MixtureOptimizer(TWO, seed=0).ask(40)
    assert len({str(run.mixture) for run in runs}) > 30
    assert MixtureOptimizer(TWO, budget=1e-3).ask() is None


def test_a_state_whose_phases_were_edited_says_so() -> None:
    optimizer = MixtureOptimizer(TWO, seed=0)
    run = optimizer.ask()
    optimizer.tell(run.trial_id, run.steps, 2.0)
    state = json.loads(json.dumps(optimizer.state_dict()))
    del state["history"]["space"]["phases"]
    with pytest.raises(ValueError, match="has 6 shares, and one of its space 3. Were its domains or phases edited"):
        MixtureOptimizer.from_state_dict(state)

"""Phases: the last phase of a run is searched alone, at the price of a branch; without phases all is as it was."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from worlds import DOMAINS, Bowl, search, two_scales

from ray_mixopt import Group, MixtureOptimizer, MixtureSpace, Phase, Scale
from ray_mixopt.command.settings import Command
from ray_mixopt.core.merging import translated
from ray_mixopt.io.space_file import read_space

MAIN = {"web": 0.7, "code": 0.2, "math": 0.1}
PHASES = (Phase("main", 0.8, mixture=MAIN), Phase("anneal", 0.2))


def annealing(**limits):
    """A space in which the last fifth of a run is searched."""
    return two_scales(phases=PHASES, **limits)


# -- without phases

FIRST = [  # asked before there were phases
    ([0.333333, 0.333333, 0.333333], "60M", 1000),
    ([0.260351, 0.192982, 0.546667], "60M", 1000),
    ([0.522527, 0.477122, 0.000351], "60M", 1000),
    ([0.146667, 0.786667, 0.066667], "60M", 1000),
    ([0.501724, 0.00157, 0.496706], "60M", 1000),
    ([0.866667, 0.066667, 0.066667], "60M", 1000),
    ([0.100565, 0.592134, 0.307301], "60M", 1000),
]


def test_a_search_without_phases_is_as_before() -> None:
    space = MixtureSpace(
        domains=DOMAINS,
        scales=(Scale("60M", 0.03, 6e7), Scale("1B", 1.0, 1e9)),
        steps=(1000, 4000, 16000),
        lower={"web": 0.1},
        upper={"math": 0.6},
    )
    optimizer = MixtureOptimizer(space, mode="min", budget=3 * space.target_cost, seed=3)
    asked = [optimizer.ask() for _ in FIRST]
    assert [([*run.mixture], run.scale, run.steps) for run in asked] == [([*DOMAINS], *of) for _, *of in FIRST]
    np.testing.assert_allclose([[*run.mixture.values()] for run in asked], [w for w, *_ in FIRST], atol=1e-6)
    assert "phases" not in space.to_dict()
    assert space.cost("1B", 16000, start=1000) == 15000


# -- what a space with phases accepts and refuses


def test_phases_survive_json_and_yaml(tmp_path) -> None:
    space = annealing(upper={"code": 0.5})
    assert MixtureSpace.from_json(space.to_json()) == space
    (tmp_path / "space.yaml").write_text(
        "domains: [web, code, math]\n"
        "scales: [{name: S, cost_per_step: 0.1, parameters: 1e7}, {name: L, cost_per_step: 1, parameters: 1e8}]\n"
        "steps: [100, 1000]\n"
        "upper: {code: 0.5}\n"
        "phases:\n"
        "  - {name: main, fraction: 0.8, mixture: {web: 7, code: 2, math: 1}}\n"
        "  - {name: anneal, fraction: 0.2}\n"
    )
    assert read_space(tmp_path / "space.yaml") == space
    assert "anneal" in space._repr_html_() and "web 70.0%" in space._repr_html_()


BAD = {
    "fractions": ((PHASES[0], Phase("anneal", 0.3)), r"sum to 1.1 instead of 1: main=0.8, anneal=0.3"),
    "names": ((PHASES[0], Phase("main", 0.2)), r"distinct names, got \['main', 'main'\]"),
    "no list": (Phase("main", 0.8), "phases must be a sequence of Phase"),
    "no phases": (("main", "anneal"), "phases must be Phase objects"),
    "none searched": ((PHASES[0], Phase("anneal", 0.2, mixture=MAIN)), "none of main, anneal have no mixture"),
    "searched first": ((Phase("a", 0.8), Phase("b", 0.2, mixture=MAIN)), "come before those that are searched"),
    "unknown": ((Phase("a", 0.8, mixture={"wiki": 1}), Phase("b", 0.2)), "trained on wiki, which are no domains"),
}


@pytest.mark.parametrize(("phases", "sentence"), BAD.values(), ids=list(BAD))
def test_bad_phases_are_refused(phases, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        two_scales(phases=phases)


@pytest.mark.parametrize("fraction", [0, 1, -0.1, float("nan"), "0.2", None])
def test_a_fraction_is_between_0_and_1(fraction) -> None:
    with pytest.raises(ValueError, match=r"The phase 'a' is a fraction of the run between 0 and 1"):
        Phase("a", fraction)


@pytest.mark.parametrize("mixture", [{}, {"web": -1.0}, {"web": 0.0}, {"web": float("inf")}])
def test_a_trained_phase_has_a_mixture_that_makes_sense(mixture) -> None:
    with pytest.raises(ValueError, match="mixture of the phase 'a'"):
        Phase("a", 0.5, mixture=mixture)


def test_a_phase_has_a_name() -> None:
    for name in ("", "a/b", 3):
        with pytest.raises(ValueError, match="A phase's name must be a non-empty string without '/'"):
            Phase(name, 0.5)


def test_an_annealing_longer_than_its_phase_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'L': annealed is 0.3 of a run, and what follows .* only 0.2"):
        MixtureSpace(domains=DOMAINS, scales=(Scale("L", 1.0, annealed=0.3),), steps=(100,), phases=PHASES)


# -- money and tokens


def test_a_run_costs_its_branches() -> None:
    space = annealing()
    assert space.cost("L", 1000) == pytest.approx(0.2 * (100 + 1000))
    assert space.cost("L", 1000, start=100) == pytest.approx(200)
    one_rung = MixtureSpace(domains=DOMAINS, scales=(Scale("L", 1.0),), steps=(1000,), phases=PHASES)
    assert one_rung.target_cost == pytest.approx(200), "ten branches cost two whole runs"


def test_what_was_trained_on_before_is_used_up() -> None:
    space = annealing(token_supply={"code": 30.0}, target_tokens=100.0, max_epochs=1)
    assert space.simplex.upper[1] == pytest.approx((0.3 - 0.8 * 0.2) / 0.2)
    assert space.mixture_tokens == pytest.approx(20)
    assert space.taken("code", 0.7) == pytest.approx(30)
    spent = annealing(token_supply={"code": 10.0}, target_tokens=100.0)
    assert spent.simplex.upper[1] == 0
    with pytest.raises(ValueError, match="phases trained already leave too little of code for the floor"):
        annealing(token_supply={"code": 10.0}, target_tokens=100.0, lower={"code": 0.1})


def test_a_command_has_one_rung() -> None:
    command = Command(program=("train",), directory=".")
    with pytest.raises(ValueError, match="the command has no checkpoint of where they end: give S one rung"):
        command.check(annealing())
    command.check(MixtureSpace(domains=DOMAINS, scales=(Scale("L", 1.0),), steps=(1000,), phases=PHASES))


def test_runs_of_other_phases_are_not_taken_in() -> None:
    optimizer = MixtureOptimizer(annealing(), seed=1)
    search(optimizer, 2, Bowl(space=optimizer.space, best=(0.2, 0.5, 0.3)))
    for other in (two_scales(), two_scales(phases=(Phase("main", 0.9, mixture=MAIN), Phase("anneal", 0.1)))):
        with pytest.raises(ValueError, match="their mixtures are of other parts of a run"):
            translated(optimizer.history, other)
    assert len(translated(optimizer.history, annealing())) == 2


# -- a search of the last phase


def test_the_last_phase_is_searched(caplog) -> None:
    caplog.set_level(logging.WARNING)
    space = annealing(groups=(Group(("code", "math"), most=0.9),))
    optimizer = MixtureOptimizer(space, budget=3 * space.target_cost, seed=1)
    bowl = Bowl(space=space, best=(0.05, 0.75, 0.2), depth=3.0)
    found = search(optimizer, 20, bowl)
    assert {frozenset(run.mixture) for run in found} == {frozenset(DOMAINS)}
    assert all(run.from_step == 0.8 * run.steps for run in found), "where the main phase ended, at every rung"
    again = MixtureOptimizer.from_state_dict(optimizer.state_dict())
    assert again.space == space
    answer = again.recommend()
    assert bowl(answer.mixture, "L", 1000) < bowl(space.named(space.uniform()), "L", 1000)
    assert optimizer.history.spent == pytest.approx(sum(run.cost for run in found))
    said = (
        "Phases: main (0.8 of the run), trained already on 70.0% web, 20.0% code and 10.0% math; "
        "then anneal (0.2 of the run), searched."
    )
    assert str(answer).splitlines()[:2] == ["Recommended mixture of anneal for L x 1,000 steps", said]
    assert said in answer._repr_html_()
    assert answer.to_dict()["phases"] == space.to_dict()["phases"]


@pytest.mark.parametrize("paid", [False, True], ids=["both searched", "main trained already"])
def test_a_run_that_ends_between_rungs_has_cost_what_it_trained(paid: bool) -> None:
    """On its way to a rung, then on the branch of the rung: its cost grows with each step of its own."""
    mixture = {"web": 0.5, "code": 0.3, "math": 0.2} if paid else None
    space = MixtureSpace(
        domains=("web", "code", "math"),
        scales=(Scale("S", 2.0),),
        steps=(100, 1000),
        phases=(Phase("main", 0.8, mixture=mixture), Phase("anneal", 0.2)),
    )
    shared, branches = (0.0, [20, 200]) if paid else (800.0, [20, 200])
    assert space.cost("S", 1000) == pytest.approx(2 * (shared + sum(branches)))
    assert space.cost("S", 99) == pytest.approx(space.cost("S", 100) - 2)
    assert space.cost("S", 999) == pytest.approx(space.cost("S", 1000) - 2)
    on_the_way = [space.cost("S", step) - space.cost("S", 100) for step in (500, 800)]
    assert on_the_way == pytest.approx([0.0, 0.0] if paid else [2 * (500 - 80), 2 * (800 - 80)])
    assert space.cost("S", 1010) == pytest.approx(space.cost("S", 1000) + 20)  # longer than it was asked to be
    costs = [space.cost("S", step) for step in range(0, 1011, 10)]
    assert costs == sorted(costs)

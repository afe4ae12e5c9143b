"""What a run is said to be expected to settle."""

from __future__ import annotations

import re

import numpy as np
import pytest

from ray_mixopt import MixtureOptimizer, MixtureSpace, Proposal, Scale
from ray_mixopt.analysis.purpose import purpose

SPACE = MixtureSpace(
    domains=("web", "code", "math"),
    scales=(Scale("s", 1.0, 1e6), Scale("l", 10.0, 1e8)),
    steps=(100, 200),
    token_supply={"web": 8.0, "code": 1.0, "math": 1.0},
)


def run(*shares: float, scale: str = "s", steps: int = 100, continues: str | None = None) -> Proposal:
    return Proposal(mixture=np.array(shares), scale=scale, steps=steps, continues=continues)


def removed(sentence: str) -> float:
    """The share of the doubt that a sentence says a run removes."""
    found = re.search(r"Expected to remove (\d+)% of the [\d.e-]+ that choosing now would lose\.$", sentence)
    assert found is not None, sentence
    return int(found[1]) / 100


@pytest.fixture(scope="module")
def searched() -> MixtureOptimizer:
    """An optimizer that has seen twelve runs, best at about 20% web, 50% code."""
    optimizer = MixtureOptimizer(SPACE, objective={"loss": 1.0}, seed=0)
    rng = np.random.default_rng(0)
    for i, mixture in enumerate(rng.dirichlet(np.ones(3), 12)):
        name = f"r{i}"
        optimizer.accept(Proposal(mixture=mixture, scale="s", steps=100), name)
        loss = float(np.square(mixture - [0.2, 0.5, 0.3]).sum()) + 0.01 * rng.standard_normal()
        optimizer.tell(name, 100, {"loss": loss})
        optimizer.finish(name)
    return optimizer


def test_the_first_questions() -> None:
    optimizer = MixtureOptimizer(SPACE, objective={"loss": 1.0})
    even = (1 / 3, 1 / 3, 1 / 3)
    of = {
        run(*even): "How good the mixture 'uniform' is at s x 100 steps, with which answers are compared.",
        run(0.8, 0.1, 0.1): "How good the mixture 'proportional' is at s x 100 steps, with which answers are compared.",
        run(0.1, 0.8, 0.1): "What much code does at s x 100 steps.",
        run(0.2, 0.4, 0.4): "What a mixture far from all others does at s x 100 steps.",
    }
    assert {proposal: purpose(optimizer, proposal) for proposal in of} == of
    optimizer.accept(run(*even))
    assert (
        purpose(optimizer, run(*even, scale="l", steps=200))
        == "Whether what s says of this mixture holds at l x 200 steps."
    )


def test_the_questions_of_one_who_knows(searched: MixtureOptimizer) -> None:
    again = purpose(searched, run(*searched.history["r3"].mixture, steps=200, continues="r3"))
    assert again.startswith("Whether what it showed up to step 100 holds at s x 200 steps. Expected to ")
    far = purpose(searched, run(0.9, 0.05, 0.05))
    assert re.match(r"Whether what looks best now is better or worse with web \d+% -> 90% and (code|math) ", far)
    best = re.findall(r"(web|code|math) (\d+)% ->", far)
    shares = {name: int(share) / 100 for name, share in best}
    assert shares["web"] < 0.5


def test_what_tells_more_of_the_target_removes_more(searched: MixtureOptimizer) -> None:
    known = removed(purpose(searched, run(*searched.history["r0"].mixture)))
    asked = searched.propose(searched.history)
    assert asked is not None
    at_target = removed(purpose(searched, run(*asked.mixture, scale="l", steps=200)))
    assert 0 <= known < at_target <= 1


def test_runs_on_their_way_are_not_asked_for_twice(searched: MixtureOptimizer) -> None:
    asked = searched.propose(searched.history)
    assert asked is not None
    wanted = run(*asked.mixture, scale="l", steps=200)
    before = removed(purpose(searched, wanted))
    searched.accept(wanted, "on-its-way")
    assert removed(purpose(searched, wanted)) < before
    del searched.history.trials["on-its-way"]

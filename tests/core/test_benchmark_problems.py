"""What the benchmark's problems are, and that their truth is exact."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ray_mixopt.analysis.truth import dense_minimiser
from ray_mixopt.benchmark import problems, slimpajama, synthetic
from ray_mixopt.benchmark.problem import ProblemName

DATA = Path(__file__).parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the reference data are not at ../shared/data")
LANDSCAPES = problems.SUITES["synthetic"]


def test_a_name_says_family_objective_target_noise_and_failures() -> None:
    name = ProblemName.parse("slimpajama/val_loss/c4@1B:12000+noise+failures=0.2")
    assert (name.family, name.objective, name.target) == ("slimpajama", "val_loss/c4", ("1B", 12000))
    assert (name.noise, name.failures) == (0.01, 0.2)
    assert name.identity("other") == "other/val_loss/c4@1B:12000+noise=0.01+failures=0.2"
    assert ProblemName.parse("regmix/loss").identity("regmix") == "regmix/loss"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nonesuch", "'nonesuch' names no problem: the form is family/objective"),
        ("nonesuch/loss", "Unknown family in 'nonesuch/loss': choose one of slimpajama"),
        ("slimpajama/nonesuch", "Unknown objective in 'slimpajama/nonesuch': choose one of val_loss/common_crawl"),
        ("slimpajama/val_loss/c4@7B", "The target's scale '7B' is unknown"),
        ("slimpajama/val_loss/c4@1B:50000", "was fitted on 100 to 19700 steps, not on 50000"),
        ("slimpajama/val_loss/c4@1B:many", "The steps 'many' in"),
        ("slimpajama/val_loss/c4+magic", r"Unknown option \+magic"),
        ("slimpajama/val_loss/c4+noise=much", "'much' in .* is not a number"),
        ("slimpajama/val_loss/c4+failures=1", r"failures in \[0, 1\)"),
        ("synthetic/nonesuch", "Unknown landscape"),
        ("synthetic/mixing_law@30M", "known at its own target only"),
        ("regmix/loss+noise", "logged runs have their own noise"),
    ],
)
def test_a_wrong_name_is_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        problems.load(name, DATA)


def test_suites_and_patterns_expand_to_names_once_each() -> None:
    assert len(problems.expand(["headline"], [])) == 10
    assert len(problems.SUITES["sums"]) >= 6
    assert problems.expand(["synthetic"], ["synthetic/*", "regmix/loss"]) == (*LANDSCAPES, "regmix/loss")
    with pytest.raises(ValueError, match="Unknown suite 'nonesuch': choose one of headline"):
        problems.expand(["nonesuch"], [])
    with pytest.raises(ValueError, match="No problem of the suites matches 'x\\*'"):
        problems.expand([], ["x*"])


@pytest.mark.parametrize("name", LANDSCAPES)
def test_the_known_optimum_of_a_landscape_is_its_minimum(name: str) -> None:
    problem = problems.load(name)
    assert problem.optimum is not None
    assert problem.regret(problem.optimum) == 0.0
    best, median = problem.truth.best, problem.truth.median
    found = float(problem.truth.losses(dense_minimiser(problem.truth.losses, problem.space, samples=2000)[None])[0])
    assert -1e-12 < (found - best) / (median - best) < 1e-3
    # Along any direction within the simplex the loss goes up: the gradient there is that of an optimum.
    mixtures = problem.space.sample(500, np.random.default_rng(0))
    toward = problem.optimum + 1e-4 * (mixtures - problem.optimum)
    assert (problem.truth.losses(toward) >= best - 1e-12).all()


def test_landscapes_are_what_they_are_called() -> None:
    moving, reversing = (problems.load(f"synthetic/{name}") for name in ("moving_optimum", "rank_reversal"))
    assert isinstance(moving.oracle, synthetic.Landscape)
    assert np.abs(moving.oracle.optimum_at("30M") - moving.optimum).max() > 0.05
    mixtures = reversing.space.sample(500, np.random.default_rng(0))
    small = reversing.oracle.evaluate(mixtures, "30M", 2000)[:, 0]
    assert np.corrcoef(small, reversing.truth.losses(mixtures))[0, 1] < -0.5
    uneven = problems.load("synthetic/uneven_noise+noise=0.02")
    corners = np.eye(5)[:2]
    spread = [np.std([uneven.observe(w, "1B", 20000, (seed,))["loss"] for seed in range(400)]) for w in corners]
    assert spread[0] / spread[1] == pytest.approx(10, rel=0.2)
    assert problems.load("synthetic/30_domains").space.n_domains == 30


def test_noise_is_a_share_of_the_spread_and_depends_on_its_seed_alone() -> None:
    noisy, exact = (problems.load(f"slimpajama/val_loss/c4{option}") for option in ("+noise", ""))
    w = noisy.space.uniform()
    truth = exact.observe(w, "1B", 19700, (0,))
    seen = [noisy.observe(w, "1B", 19700, (seed,)) for seed in range(400)]
    assert set(truth) == set(slimpajama.METRICS)
    for name, spread in zip(slimpajama.METRICS, noisy.spread, strict=True):
        deviation = np.std([values[name] - truth[name] for values in seen])
        assert deviation == pytest.approx(0.01 * spread, rel=0.2)
    assert noisy.observe(w, "1B", 19700, (3,)) == seen[3]


def test_the_embedded_simulator_is_named_in_the_id() -> None:
    problem = problems.load("slimpajama/sum/losses@700M+noise", None)
    assert problem.id == "slimpajama-embedded/sum/losses@700M+noise=0.01"
    assert problem.space.target == ("700M", 19700)
    spread = dict(zip(problem.oracle.metrics, problem.spread, strict=True))
    assert problem.objective == pytest.approx({name: 1 / spread[name] for name in slimpajama.LOSSES})


@needs_data
def test_the_reference_network_is_named_in_the_id() -> None:
    problem = problems.load("slimpajama/val_loss/c4@1B:12000", DATA)
    assert problem.id == "slimpajama-reference/val_loss/c4@1B:12000"
    assert problem.space.target == ("1B", 12000) and problem.space.target_cost == pytest.approx(120)


def test_absent_tables_are_said_to_be_absent(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="give the folder of the data with --data"):
        problems.load("regmix/loss", tmp_path)


@needs_data
@pytest.mark.parametrize(("name", "n"), [("regmix/loss", 64), ("mixinglaws/loss", 20)])
def test_the_truth_of_a_table_is_what_was_logged_at_the_target(name: str, n: int) -> None:
    problem = problems.load(name, DATA)
    space, pool = problem.space, problem.pool
    assert pool is not None and space.target_cost == pytest.approx(1.0)
    there = [w for w in pool.mixtures if problem.logged(w, *space.target)]
    regrets = [problem.regret(w) for w in there]
    assert len(there) == n and min(regrets) == 0.0 and np.median(regrets) == pytest.approx(1.0)
    assert problem.regret(space.uniform()) == 1.0  # never logged: as if drawn at random

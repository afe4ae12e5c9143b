"""What people write at first, and what a sentence tells them to write instead."""

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from worlds import two_scales

from ray_mixopt import Group, MixtureOptimizer, MixtureSpace, Proposal, Scale
from ray_mixopt.analysis.backtest import backtest
from ray_mixopt.core.settings import Settings

SPACE = two_scales(upper={"code": 0.2})


def proposing(**run: Any) -> MixtureOptimizer:
    """A search by a strategy that always proposes the same."""

    class Stubborn:
        def __init__(self, problem) -> None:
            pass

        def propose(self, history) -> Proposal:
            return Proposal(**({"mixture": np.array([0.8, 0.2, 0.0]), "scale": "S", "steps": 100} | run))

        def recommend(self, history) -> None:
            return None

    return MixtureOptimizer(SPACE, strategy=Stubborn)


@pytest.mark.parametrize("mixture", [{"math": 0, "code": 1, "web": 4}, [0.8, 0.2, 0.0], np.array([4.0, 1.0, 0.0])])
def test_a_strategy_may_propose_weights_in_any_form(mixture) -> None:
    assert proposing(mixture=mixture).ask().mixture == pytest.approx({"web": 0.8, "code": 0.2, "math": 0.0})


@pytest.mark.parametrize(
    ("run", "said"),
    [
        ({"mixture": [0.4, 0.6, 0.0]}, "a mixture outside the limits, .*'code': 0.6"),
        ({"mixture": {"web": 1.0}}, r"the mixture \{'web': 1.0\}.*missing: \['code', 'math'\]"),
        ({"mixture": [np.nan, 0.5, 0.5]}, r"the mixture \[nan"),
        ({"mixture": "web"}, "the mixture 'web'"),
        ({"steps": 101}, "a run at 'S' x 101 steps: the space trains S, L to 100, 1000"),
        ({"steps": 0}, "a run at 'S' x 0 steps"),
        ({"scale": "XL"}, "a run at 'XL' x 100 steps"),
    ],
)
def test_what_a_strategy_cannot_propose_is_refused_with_its_name(run, said) -> None:
    optimizer = proposing(**run)
    with pytest.raises(ValueError, match=f"Strategy '.*Stubborn' proposes {said}"):
        optimizer.ask()
    assert len(optimizer.history) == 0


def test_arguments_that_people_try_first() -> None:
    scale = Scale("S", 1.0)
    with pytest.raises(TypeError, match=r"no setting 'metric'.*objective=\{'loss': 1.0\}"):
        MixtureOptimizer(SPACE, metric="loss")
    with pytest.raises(TypeError, match="no setting 'sed': there are mode, objective"):
        MixtureOptimizer(SPACE, sed=1)
    with pytest.raises(ValueError, match=r"steps must be a sequence of rungs, such as \(1000,\)"):
        MixtureSpace(domains=("a", "b"), scales=(scale,), steps=1000)
    with pytest.raises(ValueError, match="scales must be a non-empty sequence of Scale, such as"):
        MixtureSpace(domains=("a", "b"), scales=scale, steps=(1000,))
    with pytest.raises(TypeError, match=r"absorb takes a History, got 'runs.csv': .*read_runs"):
        MixtureOptimizer(SPACE).absorb("runs.csv")
    assert Group(("a", "b"), most=0.3) == Group(domains=("a", "b"), most=0.3)
    optimizer = MixtureOptimizer(SPACE)
    run = optimizer.ask()
    with pytest.raises(ValueError, match=r"told one number a report, got \{'los': 1.0\}: .* objective=\{'los': 1.0\}"):
        optimizer.tell(run.trial_id, 100, {"los": 1.0})
    with pytest.raises(ValueError, match=r"The metrics \['loss'\] are needed by name, got 3.0"):
        MixtureOptimizer(SPACE, objective={"loss": 1.0}).add_evaluated_point(run.mixture, "S", 100, 3.0)


def test_a_backtest_of_one_scale_says_that_a_second_is_needed() -> None:
    optimizer = MixtureOptimizer(two_scales(), objective={"loss": 1.0})
    for w in two_scales().sample(8, np.random.default_rng(0)):
        optimizer.add_evaluated_point(two_scales().named(w), "S", 100, {"loss": float(w[0])})
    with pytest.raises(ValueError, match="All runs that report the objective are at S: .* a second scale are needed"):
        backtest(optimizer.history, Settings(objective={"loss": 1.0}))


def test_the_version_is_later_than_the_one_that_the_readme_speaks_of_in_the_past() -> None:
    root = Path(__file__).parents[2]
    assert "Version 0.1 answered" in (root / "README.md").read_text()
    version = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    assert [int(part) for part in version.split(".")[:2]] > [0, 1]

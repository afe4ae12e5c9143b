"""Runs made earlier taken into a search, and what becomes of them when domains change."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from worlds import DOMAINS, OLD, OLD_LOSS, awkward

from ray_mixopt import DomainMap, MixtureOptimizer, MixtureSpace, Scale
from ray_mixopt.core.history import History
from ray_mixopt.core.merging import common_space, joined, translated


@pytest.fixture
def space() -> MixtureSpace:
    return OLD


@pytest.fixture
def history() -> History:
    return awkward()


def test_old_runs_of_another_scale_and_fewer_domains_count(space, history) -> None:
    """Runs at a scale that is not trained any more, without one of the domains, find the optimum of the rest."""
    old = MixtureSpace(
        domains=("code", "web"), scales=(Scale("XS", 0.02, 2e6), Scale("L", 1.0, 1e8)), steps=(500, 1000)
    )
    loss = replace(OLD_LOSS, space=replace(space, earlier_scales=old.scales[:1]))
    earlier = MixtureOptimizer(old, objective={"loss": 1.0})
    for i, w in enumerate(old.sample(24, np.random.default_rng(1))):
        full = {"web": w[1], "code": w[0], "math": 0.0}
        scale = ("XS", "L")[i % 2]
        earlier.add_evaluated_point(old.named(w), scale, 1000, {"loss": loss(full, scale, 1000)})
    optimizer = MixtureOptimizer(space, objective={"loss": 1.0}, budget=50.0)
    assert optimizer.absorb(earlier.history) == 24
    assert [scale.name for scale in optimizer.space.earlier_scales] == ["XS"]
    assert {t.scale for t in optimizer.history} == {"XS", "L"}
    assert all(t.mixture[2] == 0.0 and t.evaluated for t in optimizer.history)
    assert optimizer.history.spent == 0.0
    answer = optimizer.recommend()
    ratio = answer.mixture["code"] / (answer.mixture["code"] + answer.mixture["web"])
    assert ratio == pytest.approx(0.65, abs=0.12)  # of the best without math: 0.35 web, 0.65 code
    asked = {optimizer.ask().scale for _ in range(4)}
    assert asked <= {"S", "L"}
    again = MixtureOptimizer.from_state_dict(json.loads(json.dumps(optimizer.state_dict())))
    assert again.recommend() == optimizer.recommend()


def test_given_runs_take_the_place_of_the_initial_design(space) -> None:
    from ray_mixopt.strategies.default import DefaultStrategy
    from ray_mixopt.strategies.purchases import still_needed

    optimizer = MixtureOptimizer(space, objective={"loss": 1.0})
    design = DefaultStrategy(optimizer.problem).design
    cells = [(run.scale, run.steps) for run in design]
    assert cells.count(("S", 100)) > 4
    for n, w in enumerate(space.sample(len(design), np.random.default_rng(5))):
        left = [(run.scale, run.steps) for run in still_needed(design, optimizer.history)]
        assert left == [cell for cell in cells if n < cells.count(cell) or n == 0]
        optimizer.add_evaluated_point(space.named(w), "S", 1000, {"loss": 1.0})


def test_a_scale_without_a_size_is_refused_where_sizes_are_known(space) -> None:
    old = MixtureSpace(domains=DOMAINS, scales=(Scale("XS", 0.02),), steps=(100,))
    earlier = MixtureOptimizer(old)
    earlier.add_evaluated_point(dict.fromkeys(DOMAINS, 1.0), "XS", 100, 1.0)
    with pytest.raises(ValueError, match="scale 'XS', and the search has S, L: correct the name if"):
        MixtureOptimizer(space).absorb(earlier.history)


def test_names_never_clash(space, history) -> None:
    optimizer = MixtureOptimizer(space, objective={"loss": 1.0})
    for source in ("a", "b", "b"):
        optimizer.absorb(history, source=source)
    assert len(optimizer.history) == 3 * len(history)
    History.from_state_dict(optimizer.history.state_dict())


def test_sources_are_joined(space, history, tmp_path: Path) -> None:
    other = MixtureSpace(domains=("web", "book"), scales=(Scale("XL", 4.0, 1e9),), steps=(2000,))
    more = MixtureOptimizer(other)
    more.add_evaluated_point({"web": 1.0, "book": 1.0}, "XL", 2000, 1.0)
    sources = {"a": history, "b": more.history}
    total = joined(sources, common_space(sources))
    assert total.space.domains == ("web", "code", "math", "book")
    assert total.space.target == ("XL", 2000)
    assert len(total) == len(history) + 1


# -- domains that changed


def predictions(optimizer: MixtureOptimizer, mixtures: np.ndarray) -> np.ndarray:
    mean, variance = optimizer.posterior().marginal(mixtures)
    return np.stack([mean.mean(0).numpy(), variance.mean(0).sqrt().numpy()])


@pytest.fixture
def many(space) -> History:
    """Enough runs that the prior hardly matters."""
    optimizer = MixtureOptimizer(space, objective={"loss": 1.0})
    for i, w in enumerate(space.sample(60, np.random.default_rng(4))):
        mixture, scale = space.named(w), ("S", "L")[i % 2]
        optimizer.add_evaluated_point(mixture, scale, 1000, {"loss": OLD_LOSS(mixture, scale, 1000)})
    return optimizer.history


def learned(space, history, changes=None) -> MixtureOptimizer:
    optimizer = MixtureOptimizer(space, objective={"loss": 1.0})
    optimizer.absorb(history, changes)
    return optimizer


def test_renamed_domains_leave_predictions_equal(space, history) -> None:
    renamed = replace(space, domains=("web", "source", "math"))
    at = space.sample(50, np.random.default_rng(0))
    before = predictions(learned(space, history), at)
    after = predictions(learned(renamed, history, DomainMap(renamed={"code": "source"})), at)
    assert after == pytest.approx(before, rel=1e-12)


def test_a_split_leaves_predictions_of_mixtures_in_the_old_proportions_equal(space, many) -> None:
    """Up to the prior, which counts domains: by much less than the predictions are unsure of, or differ by."""
    finer = replace(space, domains=("web", "python", "other_code", "math"))
    parts = {"python": 0.25, "other_code": 0.75}
    at = space.sample(50, np.random.default_rng(0))
    split = np.stack([at[:, 0], 0.25 * at[:, 1], 0.75 * at[:, 1], at[:, 2]], axis=1)
    before = predictions(learned(space, many), at)
    after = predictions(learned(finer, many, DomainMap(split={"code": parts})), split)
    assert np.abs(after[0] - before[0]).max() < 0.02 * np.ptp(before[0])


def test_an_added_domain_leaves_predictions_without_it_equal(space, many) -> None:
    """Up to the prior, which counts domains."""
    wider = replace(space, domains=(*DOMAINS, "book"))
    at = space.sample(50, np.random.default_rng(0))
    before = predictions(learned(space, many), at)
    after = predictions(learned(wider, many), np.column_stack([at, np.zeros(50)]))
    assert np.abs(after[0] - before[0]).max() < 0.02 * np.ptp(before[0])
    with_books = predictions(learned(wider, many), np.array([[0.15, 0.4, 0.2, 0.25]]))
    assert with_books[1] > 2 * after[1].mean()  # of books nothing is known


def test_merging_undoes_a_split(space, history) -> None:
    finer = replace(space, domains=("web", "python", "other_code", "math"))
    there = translated(history, finer, DomainMap(split={"code": {"python": 0.25, "other_code": 0.75}}))
    merge = DomainMap(renamed={"python": "code", "other_code": "code"})
    back = translated(there, space, merge)
    for a, b in zip(history, back, strict=True):
        assert b.mixture == pytest.approx(a.mixture, abs=1e-15)
        assert b.observations == a.observations
    at = space.sample(50, np.random.default_rng(0))
    assert predictions(learned(space, back), at) == pytest.approx(predictions(learned(space, history), at), rel=1e-6)


def test_a_dropped_domain_takes_its_runs_with_it(space, history, caplog) -> None:
    narrow = replace(space, domains=("web", "code"))
    optimizer = learned(narrow, history, DomainMap(dropped=("math",)))
    assert [t.mixture for t in optimizer.history][-1] == (1.0, 0.0)
    assert len(optimizer.history) == 2  # another had 0.03% of it
    assert all(sum(t.mixture) == pytest.approx(1.0, abs=1e-15) for t in optimizer.history)
    assert "13 of 15 runs had tokens of dropped domains: left out" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"renamed": {"code": "x"}, "dropped": ["code"]}, "changes code more than once"),
        ({"split": {"code": {"a": 0.5}}}, "sums to 0.5 instead of 1"),
        ({"split": {"code": {"a": 1.5, "b": -0.5}}}, "must give shares >= 0"),
        ({"nonesuch": 1}, "unknown fields nonesuch; known are renamed, split, dropped"),
    ],
)
def test_a_map_that_makes_no_sense_is_refused(changes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DomainMap.from_dict(changes)


def test_a_map_that_does_not_fit_is_refused(space, history) -> None:
    with pytest.raises(ValueError, match="changes book, which the runs do not have"):
        learned(space, history, DomainMap(dropped=("book",)))
    with pytest.raises(ValueError, match="domain 'math', which is not one of web, code: say what became of it"):
        learned(replace(space, domains=("web", "code")), history)

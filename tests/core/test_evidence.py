"""Old runs in, from every format, and out again unchanged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ray_mixopt import MixtureOptimizer, MixtureSpace, Scale
from ray_mixopt.core.history import History
from ray_mixopt.core.merging import DomainMap, common_space, joined, translated
from ray_mixopt.core.recommendation import Prediction
from ray_mixopt.io import searches
from ray_mixopt.io.export import WRITERS
from ray_mixopt.io.runs import Source, read_runs

DOMAINS = ("web", "code", "math")
COST = {"S": 0.1, "L": 1.0}


@pytest.fixture
def space() -> MixtureSpace:
    return MixtureSpace(domains=DOMAINS, scales=(Scale("S", 0.1, 1e7), Scale("L", 1.0, 1e8)), steps=(100, 1000))


def loss(mixture, scale: str, step: int) -> float:
    w = np.array([mixture[name] for name in DOMAINS]) - [0.2, 0.5, 0.3]
    return float(2.0 + 0.4 * (scale == "S") + 0.3 * (step == 100) + 3.0 * np.square(w).sum())


@pytest.fixture
def history(space) -> History:
    """Curves with a metric that is missing here and there, a repeated mixture, and awkward numbers."""
    optimizer = MixtureOptimizer(space, objective={"loss": 1.0})
    rng = np.random.default_rng(0)
    mixtures = [*space.sample(12, rng), np.array([0.1, 0.2, 0.7]), np.array([0.1, 0.2, 0.7]), np.array([1.0, 0.0, 0.0])]
    for i, w in enumerate(mixtures):
        for step in (100, 1000)[: 1 + i % 2]:
            mixture, scale = space.named(w), ("S", "L")[i // 2 % 2]
            metrics = {"loss": loss(mixture, scale, step), "val_loss/code": 1 / 3 + i, "acc": 1e-17 * i}
            if i == 4:
                del metrics["acc"]
            optimizer.add_evaluated_point(mixture, scale, step, metrics, trial_id=f"run {i}")
    return optimizer.history


def runs(history: History) -> list:
    """What a history says, without names."""
    found = [
        (
            trial.mixture,
            trial.scale,
            tuple(sorted((s, tuple(sorted(m.items()))) for s, m in trial.observations.items())),
        )
        for trial in history
    ]
    return sorted(found)


@pytest.mark.parametrize("kind", list(WRITERS))
def test_a_history_goes_out_and_comes_back_unchanged(history, kind: str, tmp_path: Path) -> None:
    paths = WRITERS[kind](history, tmp_path)
    assert all(path.exists() for path in paths)
    place = paths[0] if kind in ("csv", "parquet") else tmp_path
    again = read_runs(place, Source(cost=COST, parameters={"S": 1e7, "L": 1e8}))
    assert runs(again) == runs(history)
    assert {trial.trial_id for trial in again} == {trial.trial_id for trial in history}
    assert again.space == history.space
    assert again.spent == 0.0


@pytest.mark.parametrize("kind", list(WRITERS))
def test_the_answer_is_the_same_after_a_round_trip(history, kind: str, tmp_path: Path) -> None:
    paths = WRITERS[kind](history, tmp_path)
    place = paths[0] if kind in ("csv", "parquet") else tmp_path
    again = read_runs(place, Source(cost=COST, parameters={"S": 1e7, "L": 1e8}))
    answers = [searches.of_history(h, {"loss": 1.0}, "min").recommend() for h in (history, again)]
    # The order of the reports differs between formats, and with it which of them hyper-parameters are fitted to.
    for one, other in (answers, answers[::-1]):
        assert one.uniform.low < other.uniform.mean < one.uniform.high
    assert answers[0].predicted.low < answers[1].predicted.mean < answers[0].predicted.high


def test_our_own_json_is_read(history, tmp_path: Path) -> None:
    path = tmp_path / "history.json"
    path.write_text(json.dumps(history.state_dict()))
    assert runs(read_runs(path)) == runs(history)
    searches.save(searches.of_history(history, {"loss": 1.0}, "min"), path)
    assert runs(read_runs(tmp_path)) == runs(history)


def test_olmix_as_others_write_it(tmp_path: Path) -> None:
    (tmp_path / "ratios.csv").write_text("run_id,name,web,code\na,first,0.25,0.75\nb,second,0.5,0.5\nc,x,1,0\n")
    (tmp_path / "metrics.csv").write_text("run_id,mmlu_bpb,arc_bpb\nb,1.5,\na,1.25,0.5\n")
    history = read_runs(tmp_path, Source(scale="30M", steps=5000))
    assert runs(history) == [
        ((0.25, 0.75), "30M", ((5000, (("arc_bpb", 0.5), ("mmlu_bpb", 1.25))),)),
        ((0.5, 0.5), "30M", ((5000, (("mmlu_bpb", 1.5),)),)),
    ]


@pytest.mark.parametrize(
    ("ratios", "metrics", "message"),
    [
        ("id,a,b\n1,0.5,0.5\n", "run,x\n1,2\n", "ratios.csv needs a column 'run' or 'run_id'"),
        ("run,a,b\n1,0.5,0.5\n1,1,0\n", "run,x\n1,2\n", "row 3: run '1' is repeated"),
        ("run,a,b\n1,0.5,0.5\n", "run,x\n2,2\n", "have no run in common"),
        ("run,a,b\n1,0.5,0.7\n", "run,x\n1,2\n", "row 2: the mixture sums to 1.2"),
        ("run,a\n1,1\n", "run,x\n1,2\n", "needs two domains or more"),
        ("run,a,b\n1,0.5,0.5\n", None, "There is no metrics.csv"),
    ],
)
def test_what_is_wrong_with_olmix_files_is_said(ratios, metrics, message: str, tmp_path: Path) -> None:
    (tmp_path / "ratios.csv").write_text(ratios)
    if metrics is not None:
        (tmp_path / "metrics.csv").write_text(metrics)
    with pytest.raises(ValueError, match=message):
        read_runs(tmp_path)


def test_scales_need_a_cost_and_one_alone_has_it(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    pd.DataFrame({"scale": ["S", "L"], "step": 1, "mixture/a": 0.5, "mixture/b": 0.5, "x": [1.0, 2.0]}).to_csv(path)
    with pytest.raises(ValueError, match="No cost is known for the scales S, L"):
        read_runs(path)
    assert read_runs(path, Source(cost=COST)).space.target == ("L", 1)


# -- into a search


def test_old_runs_of_another_scale_and_fewer_domains_count(space, history) -> None:
    """Runs at a scale that is not trained any more, without one of the domains, find the optimum of the rest."""
    old = MixtureSpace(
        domains=("code", "web"), scales=(Scale("XS", 0.02, 2e6), Scale("L", 1.0, 1e8)), steps=(500, 1000)
    )
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
    from ray_mixopt.strategies.default import DefaultStrategy, _still_needed

    optimizer = MixtureOptimizer(space, objective={"loss": 1.0})
    design = DefaultStrategy(optimizer.problem).design
    cells = [(run.scale, run.steps) for run in design]
    assert cells.count(("S", 100)) > 4
    for n, w in enumerate(space.sample(len(design), np.random.default_rng(5))):
        left = [(run.scale, run.steps) for run in _still_needed(design, optimizer.history)]
        assert left == [cell for cell in cells if n < cells.count(cell) or n == 0]
        optimizer.add_evaluated_point(space.named(w), "S", 1000, {"loss": 1.0})


def test_a_scale_without_a_size_is_refused_where_sizes_are_known(space) -> None:
    old = MixtureSpace(domains=DOMAINS, scales=(Scale("XS", 0.02),), steps=(100,))
    earlier = MixtureOptimizer(old)
    earlier.add_evaluated_point(dict.fromkeys(DOMAINS, 1.0), "XS", 100, 1.0)
    with pytest.raises(ValueError, match="scale 'XS', which the search has not: give its number of parameters"):
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
        optimizer.add_evaluated_point(mixture, scale, 1000, {"loss": loss(mixture, scale, 1000)})
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
        ({"nonesuch": 1}, "has the keys renamed, split and dropped"),
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


# -- with its noise


def test_noisier_evidence_counts_for_less(space, tmp_path: Path) -> None:
    optimizer = MixtureOptimizer(space, objective={"loss": 1.0})
    for i, w in enumerate(space.sample(40, np.random.default_rng(0))):
        scale, step = ("S", "L")[i % 2], (100, 1000)[i // 2 % 2]
        optimizer.add_evaluated_point(space.named(w), scale, step, {"loss": loss(space.named(w), scale, step)})
    WRITERS["csv"](optimizer.history, tmp_path)
    wrong = pd.read_csv(tmp_path / "runs.csv")
    wrong["loss"] += 2 * wrong["mixture/web"]  # an evaluation that dislikes web
    wrong.to_csv(tmp_path / "wrong.csv", index=False)
    given = {"cost": COST, "parameters": {"S": 1e7, "L": 1e8}}

    def contrast(*sources: History) -> Prediction:
        """Of a mixture of much web with one of much code."""
        optimizer = MixtureOptimizer(space, objective={"loss": 1.0})
        for number, source in enumerate(sources):
            optimizer.absorb(source, source=str(number))
        return optimizer.posterior().prediction(np.array([0.6, 0.2, 0.2]), np.array([0.2, 0.6, 0.2]))

    right = read_runs(tmp_path / "runs.csv", Source(**given))
    trusted, doubted = (
        contrast(right, read_runs(tmp_path / "wrong.csv", Source(**given, noise={"loss": sd}))) for sd in (0.0, 0.5)
    )
    alone = contrast(right)
    assert abs(doubted.mean - alone.mean) < 0.5 * abs(trusted.mean - alone.mean)
    assert doubted.high - doubted.low < 0.5 * (trusted.high - trusted.low)  # the contradiction is explained


def test_noise_is_part_of_a_history(history, tmp_path: Path) -> None:
    state = history.state_dict()
    assert all("noise" not in trial for trial in state["trials"])  # as it ever was
    (tmp_path / "history.json").write_text(json.dumps(state))
    noisy = read_runs(tmp_path / "history.json", Source(noise={"loss": 0.1, "acc": 0.01}))
    again = History.from_state_dict(json.loads(json.dumps(noisy.state_dict())))
    assert all(trial.noise == {"loss": 0.1, "acc": 0.01} for trial in again)
    assert again.state_dict() == noisy.state_dict()
    broken = noisy.state_dict()
    broken["trials"][0]["noise"] = {"loss": -1.0}
    with pytest.raises(ValueError, match="has a noise that is no standard deviation"):
        History.from_state_dict(broken)


def test_noise_is_checked(history, tmp_path: Path) -> None:
    for value in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="The noise of loss must be a standard deviation, 0 or more"):
            Source(noise={"loss": value})
    (tmp_path / "history.json").write_text(json.dumps(history.state_dict()))
    with pytest.raises(ValueError, match="The noise is of accuracy, which no run reports: they have loss"):
        read_runs(tmp_path / "history.json", Source(noise={"accuracy": 0.1}))

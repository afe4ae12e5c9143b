"""The suite of backtests and its ablation: what is there is kept, and the tables say what was measured."""

from __future__ import annotations

import importlib
import json
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from worlds import DOMAINS, THREE_SCALES, Bowl

from ray_mixopt.analysis.baselines import surrogate
from ray_mixopt.analysis.scores import SURROGATE
from ray_mixopt.core.history import History, Trial
from ray_mixopt.core.problem import Problem
from ray_mixopt.core.settings import Settings

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"


@pytest.fixture(scope="module")
def suite():
    """The scripts, which import each other by their names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "experiments")
        yield Namespace(
            **{
                name: importlib.import_module(name)
                for name in ("backtest", "backtest_tables", "backtest_0_1", "ablation")
            }
        )


def case(given, mixtures, *, error, rank=0.9, covered=0.95, stated=1.0, level=0.01, n=20.0):
    fields = {"given": given, "mixtures": mixtures, "n": n, "rank": rank, "error": error, "covered": covered}
    return fields | {"stated": stated, "level": level, "level_covered": 1.0, "regret": 0.1, "seconds": 0.5}


def entry(*cases):
    return {"draws": 5, "commit": "abc", "hidden": 20, "cases": list(cases)}


def test_each_question_has_a_folder_and_the_two_smallest_scales_come_first(suite):
    questions = list(suite.backtest.QUESTIONS.values())
    assert len(suite.backtest.QUESTIONS) == len(list(suite.backtest._asked())) == 23
    assert [suite.backtest_tables.is_base({"question": q.name}) for q in questions] == [True] * 5 + [False] * 18
    assert {q.known for q in questions} == {0, 2, 5} and not all(q.nested for q in questions)
    assert any(q.given == () for q in questions)


def test_what_is_there_is_not_computed_again(suite, tmp_path):
    cells = suite.backtest.Cells(tmp_path)
    question = suite.backtest.Question(table="dmsl", hide=("1235M", None), given=("122M",), mixtures=(8, None))
    assert cells.of(question.name, "same differences") == {}
    cells.add(question, "same differences", "a", entry(case(8, 8, error=0.5)))
    cells.add(question, "same differences", "b", entry(case(8, 8, error=0.7)))
    cells.add(question, "same differences", "a", entry(case(8, 8, error=0.6)))
    found = cells.of(question.name, "same differences")
    assert {name: e["cases"][0]["error"] for name, e in found.items()} == {"a": 0.6, "b": 0.7}
    (path,) = tmp_path.rglob("*.json")
    assert path.name == "same-differences.json" and json.loads(path.read_text())["question"]["table"] == "dmsl"


def scores(ours, other):
    """Of the first question, by method."""
    question = "dmsl-1235M_from-122M-310M"
    return {question: {SURROGATE: {"mean of 7": entry(*ours)}, "linear regression": {"mean of 7": entry(*other)}}}


def test_targets_are_held_or_missed_by_what_was_measured(suite, tmp_path):
    sizes = ((8, 8), (16, 16), ("all", 60))
    good = [case(*size, error=e, rank=r) for size, e, r in zip(sizes, (0.4, 0.3, 0.2), (0.9, 0.95, 0.99), strict=True)]
    bad = [case(*size, error=0.9, rank=0.5, covered=0.5, stated=3.0, level=0.2) for size in sizes]
    for ours, other, expected in ((good, bad, "held"), (bad, good, "missed")):
        asked = scores(ours, other)
        for by_method in asked.values():
            for name in set(suite.backtest_tables.METHODS) - set(suite.backtest_tables.OURS) - set(by_method):
                by_method[name] = {"mean of 7": entry()}  # asked, and had nothing to say
        suite.backtest_tables.write_tables(asked, tmp_path)
        text = (tmp_path / "backtest.md").read_text()
        verdicts = {line.split(" | ")[0][2:]: line.split(" | ")[-1][:-2] for line in text.splitlines() if "|" in line}
        verdicts = {what.partition(",")[0].partition(" (of")[0]: verdict for what, verdict in verdicts.items()}
        for what in (
            "rank",
            "error / spread",
            "cells",
            "others",
            "95% intervals of differences hold",
            "stated over true error",
        ):
            assert verdicts[what] == expected, what
        assert verdicts["HellaSwag of the network from 20M and 60M: differences covered"] == "not measured"
        assert "abc" in text and (tmp_path / "backtest" / "rank-and-error.png").stat().st_size > 10_000
        assert (tmp_path / "backtest" / "stated-over-true.png").exists()


def test_nothing_is_held_against_methods_that_were_not_asked(suite, tmp_path):
    sizes = ((8, 8), (16, 16), ("all", 60))
    suite.backtest_tables.write_tables(
        scores([case(*size, error=0.2) for size in sizes], [case(*size, error=0.9, rank=0.1) for size in sizes]),
        tmp_path,
    )
    open_ones = [
        line for line in (tmp_path / "backtest.md").read_text().splitlines() if "% of the others asked" in line
    ]
    assert len(open_ones) == 2 and all("open: 10% of the others asked" in line for line in open_ones)


def test_a_method_that_says_something_of_few_is_not_compared(suite):
    ours, few = [case("all", 60, error=0.5)], [case("all", 60, error=0.1, n=7.0)]
    rows = suite.backtest_tables.flattened(scores(ours, few))
    assert suite.backtest_tables.error_ratios(rows) == {} and suite.backtest_tables.comparison(rows) == {}
    constant = suite.backtest_tables.flattened(scores(ours, [case("all", 60, error=1.0, rank=None)]))
    assert suite.backtest_tables.comparison(constant)["linear regression"][2] == (0.9, 0.0)


def test_means_of_a_figure_are_over_what_all_methods_were_asked(suite):
    rows = [{"method": m, "objective": o} for m, o in (("a", "x"), ("a", "y"), ("b", "y"), ("b", "z"))]
    assert suite.backtest_tables.asked_of_all(rows) == {"y"} and suite.backtest_tables.asked_of_all([]) == set()


def test_nothing_measured_is_said(suite, tmp_path):
    suite.backtest_tables.write_tables({}, tmp_path)
    assert "not measured" in (tmp_path / "backtest.md").read_text()


@pytest.mark.skipif(not DATA.is_dir(), reason="the reference data are not at ../shared/data")
def test_a_table_is_answered_by_each_kind_of_method(suite, monkeypatch):
    monkeypatch.chdir(ROOT)
    question = replace(suite.backtest.QUESTIONS["mixinglaws-410M_from-70M-160M"], mixtures=(8,))
    name, weights = next(iter(suite.backtest.objectives("mixinglaws", "tuning").items()))
    assert name == "mean of 22"
    _, _, found = suite.backtest.answer(question, name, weights, ["linear regression", "regmix-log-linear"], 1)
    assert {m: e["cases"][0]["n"] for m, e in found.items()} == {"linear regression": 20, "regmix-log-linear": 20}
    _, _, found = suite.ablation.predict(question, name, weights, ["default", "no linear effect in shares"], 1)
    whole, without = (e["cases"][0] for e in found.values())
    assert whole["n"] == without["n"] == 20 and whole["error"] != without["error"]


def test_a_part_that_the_kernel_does_not_have_cannot_be_switched_off(suite):
    with pytest.raises(ValueError, match="The kernel has no log_wings: there are log_amplitude"):
        suite.ablation.with_priors(log_wings=(0.0, 1.0))


def test_another_version_is_asked_in_a_process_of_its_own(suite, monkeypatch):
    bowl, history = Bowl(space=THREE_SCALES, best=(0.5, 0.3, 0.2)), History(THREE_SCALES)
    for i, mixture in enumerate(THREE_SCALES.sample(6, np.random.default_rng(0)).tolist()):
        history.add(
            Trial(trial_id=f"{i}", mixture=tuple(mixture), scale="small", steps=400, status="done", evaluated=True)
        )
        for step in THREE_SCALES.steps:
            history.observe(f"{i}", step, {"loss": bowl(dict(zip(DOMAINS, mixture, strict=True)), "small", step)})
    problem = Problem(space=THREE_SCALES, settings=Settings(objective={"loss": 1.0}, seed=3))
    asked = THREE_SCALES.sample(4, np.random.default_rng(1))
    monkeypatch.setenv(suite.backtest_0_1.TREE, str(ROOT))  # this very version stands in for the other
    said, own = suite.backtest_0_1.version_0_1(problem, history, asked), surrogate(problem, history, asked)
    child = suite.backtest_0_1._child(str(ROOT))
    child.stdin.close()
    assert child.wait(30) == 0
    assert said.mean == pytest.approx(own.mean) and said.covariance == pytest.approx(own.covariance)

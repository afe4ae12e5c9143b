"""The run at the target that follows a search, beside what was predicted of it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from worlds import Bowl, given, two_scales

from ray_mixopt import MixtureOptimizer, Objective
from ray_mixopt.analysis.final import FINAL, FinalRun, made_before
from ray_mixopt.analysis.study import Study
from ray_mixopt.report.page import findings

SPACE = two_scales()
LOSS = Bowl(space=SPACE, best=(0.2, 0.6, 0.2))


def searched(objective=None, **settings) -> MixtureOptimizer:
    """A search whose runs were all at the small scale or cut short."""
    optimizer = MixtureOptimizer(SPACE, objective=objective or {"loss": 1.0}, seed=0, **settings)
    return given(optimizer, 36, lambda *of: {"loss": LOSS(*of)}, cells=[("S", 100), ("S", 1000), ("L", 100)])


@pytest.fixture(scope="module")
def optimizer() -> MixtureOptimizer:
    return searched()


@pytest.fixture(scope="module")
def final(optimizer: MixtureOptimizer) -> FinalRun:
    mixture = optimizer.recommend().mixture
    return FinalRun.of(optimizer, mixture, {"step": 1000, "loss": LOSS(mixture, "L", 1000), "seconds": 5, "tag": "x"})


def test_it_is_set_against_what_was_predicted(optimizer: MixtureOptimizer, final: FinalRun) -> None:
    answer = optimizer.recommend()
    assert final.value == LOSS(answer.mixture, "L", 1000) and final.metrics == {"loss": final.value, "seconds": 5.0}
    assert final.predicted == answer.predicted and final.held
    assert final.text == (
        f"The final run, L x 1,000 steps, has loss {final.value:.4f}; predicted was {answer.predicted}, "
        "which holds it. "
        f"For the uniform mixture {answer.uniform} was predicted."
    )
    off = replace(final, value=final.value + 1)
    assert off.held is False and "which does NOT hold it" in off.text


def test_the_decay_that_no_run_of_the_search_had_is_said(final: FinalRun) -> None:
    assert "fell over the last 200 steps, as in no run of the search" in replace(final, decay_steps=200).text
    assert "learning rate" not in final.text


def test_a_run_that_diverged_has_no_value(optimizer: MixtureOptimizer) -> None:
    for report in ({"step": 100, "loss": math.nan}, {"step": 1000, "other": 1.0}):
        found = FinalRun.of(optimizer, optimizer.recommend().mixture, report)
        assert found.value is None and found.held is None and "has no loss: it diverged, or did not" in found.text


def test_a_relative_objective_is_that_of_the_prediction() -> None:
    optimizer = searched(Objective(weights={"loss": 1.0}, relative_to="uniform"))
    mixture = optimizer.recommend().mixture
    loss = LOSS(mixture, "L", 1000)
    found = FinalRun.of(optimizer, mixture, {"step": 1000, "loss": loss})
    uniform = searched().predict([SPACE.named(SPACE.uniform())]).mean[0]
    assert found.objective == "objective" and found.value == pytest.approx(loss / uniform, rel=1e-6)
    assert found.held


def test_a_strategy_without_predictions_has_the_value_alone() -> None:
    optimizer = searched(strategy="random")
    found = FinalRun.of(optimizer, SPACE.named(SPACE.uniform()), {"step": 1000, "loss": 2.5})
    assert found.text == "The final run, L x 1,000 steps, has loss 2.5000."


def test_a_run_that_the_search_has_made_is_not_made_again(optimizer: MixtureOptimizer) -> None:
    mixture = optimizer.recommend().mixture
    assert made_before(optimizer, mixture) is None
    again = searched()
    again.add_evaluated_point(mixture, "L", 1000, {"loss": 2.25})
    report = made_before(again, mixture)
    assert report == {"step": 1000, "loss": 2.25}
    assert "The search had made this run itself" in FinalRun.of(again, mixture, report, before=True).text


def test_it_lies_in_the_folder_of_its_search(final: FinalRun, tmp_path: Path) -> None:
    assert FinalRun.read(str(tmp_path)) is None
    final.write(str(tmp_path))
    for path in (tmp_path, tmp_path / "experiment", tmp_path / "history.json", f"file://{tmp_path}"):
        assert FinalRun.read(str(path)) == final
    data = json.loads((tmp_path / FINAL).read_text())
    for wrong in ({**data, "version": 9}, {**data, "predicted": {"mean": "x"}}, {**data, "steps": -1}, []):
        (tmp_path / FINAL).write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match="is no final run: .*Remove it to report without it"):
            FinalRun.read(str(tmp_path))


def test_the_report_says_what_became_of_it(optimizer: MixtureOptimizer, final: FinalRun) -> None:
    said = {finding.text: finding.warning for finding in findings(Study(optimizer, "search", final=final))}
    assert said[final.text] is False
    off = replace(final, value=final.value + 1)
    assert {f.text: f.warning for f in findings(Study(optimizer, "search", final=off))}[off.text]
    other = replace(final, mixture={"web": 1.0, "code": 0.0, "math": 0.0})
    texts = [finding.text for finding in findings(Study(optimizer, "search", final=other))]
    assert f"Another mixture was trained at the target. {other.text}" in texts

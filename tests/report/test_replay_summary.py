"""What a replay ends with: the verdict, the truth, how it got better, and the picture."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from worlds import search

from ray_mixopt import simulators
from ray_mixopt.analysis.result import result
from ray_mixopt.analysis.trajectory import trajectory
from ray_mixopt.analysis.truth import Truth
from ray_mixopt.core.forecast import Prediction
from ray_mixopt.core.settings import Settings
from ray_mixopt.report.replay import draw_replay, tables
from ray_mixopt.simulators.replay import Replay

METRIC = "val_loss/common_crawl"


@pytest.fixture(scope="module")
def summary() -> dict[str, Any]:
    """Of a short search in a simulator, without Ray."""
    source = simulators.load("slimpajama")
    settings = Settings(objective={METRIC: 1.0}, budget=0.2 * source.space.target_cost)
    optimizer = Replay(source=source, settings=settings).optimizer()
    search(optimizer, 12, source.observe)
    found = result(optimizer, Truth(source, METRIC, "min"), trajectory(optimizer, 5))
    rest = {"source": "slimpajama", "metric": METRIC, "mode": "min", "strategy": "default", "failed": 0, "seconds": 9.0}
    return {**found, **rest, "budget": settings.budget}


def shown(summary: dict[str, Any], width: int) -> str:
    console = Console(file=io.StringIO(), width=width, markup=False)
    for part in tables(summary):
        console.print(part)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, 160])
def test_the_verdict_and_the_truth_come_first(summary: dict[str, Any], width: int) -> None:
    text = shown(summary, width)
    assert max(map(len, text.splitlines())) <= width
    told = " ".join(text.split())
    difference = Prediction(**summary["difference"])
    assert told.startswith("Verdict: ") and f"{difference} against the uniform mixture" in told
    true, other = summary["recommended"]["true"], summary["uniform"]["true"]
    assert summary["true_difference"] == true - other
    inside = "inside" if difference.low <= true - other <= difference.high else "OUTSIDE"
    assert f"In truth: {true - other:+.4f}, from {other:.4f} to {true:.4f}, {inside} the interval." in told
    regrets = [summary[name]["regret"] for name in ("recommended", "uniform")]
    assert f"Regret {regrets[0]:.3f} against {regrets[1]:.3f} of the uniform mixture" in told
    assert told.index("How it got better") < told.index("Where the money went") < told.index("Spent 0.")


def test_the_way_is_from_the_first_recommendation_to_the_last(summary: dict[str, Any]) -> None:
    lines = shown(summary, 160).partition("How it got better")[2].partition("Where the money went")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if line.startswith("│")]
    points = summary["trajectory"]
    assert [rows[0][3], rows[-1][3]] == [f"{point['regret']:.3f}" for point in (points[0], points[-1])]
    assert [float(row[0]) for row in rows] == sorted(float(row[0]) for row in rows)
    assert rows[0][1] == "same mixture" and points[0]["mixture"] == summary["uniform"]["mixture"]
    assert rows[-1][1] == str(Prediction(**points[-1]["difference"]))


def test_an_answer_that_is_the_reference_is_said_to_be_it(summary: dict[str, Any]) -> None:
    told = " ".join(shown({**summary, "recommended": summary["uniform"]}, 160).split())
    assert f"In truth: {summary['uniform']['true']:.4f}; it is the uniform mixture itself. Regret" in told


def test_a_truth_outside_of_the_interval_is_said(summary: dict[str, Any]) -> None:
    wrong = {**summary, "difference": {"mean": 1.0, "low": 0.9, "high": 1.1}}
    assert "OUTSIDE the interval" in shown(wrong, 160)


def test_a_mixture_that_was_not_logged_has_no_truth(summary: dict[str, Any]) -> None:
    unknown = {**summary, "recommended": {**summary["recommended"], "true": None, "regret": None}}
    told = shown(unknown, 160)
    assert "In truth: not known, since the recommended mixture has no run at the target." in told


def test_the_picture_breaks_its_line_where_the_truth_is_unknown_and_names_its_floor(
    summary: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Axes] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **options: drawn.append(figure.axes[0]))
    points = [
        {**point, "regret": regret} for point, regret in zip(summary["trajectory"], [0.4, None, 0.2, 0.0], strict=False)
    ]
    draw_replay({**summary, "trajectory": points, "logged": 64}, tmp_path / "replay.png")
    (axes,) = drawn
    lines = {line.get_label(): line for line in axes.get_lines()}
    seen = lines["recommended mixture"].get_ydata()
    assert len(seen) == len(points) and [value == value for value in seen] == [True, False, True, True][: len(points)]
    assert list(lines["best mixture of the 64 logged at the target"].get_ydata()) == [0.0, 0.0]
    low, high = axes.get_ylim()
    assert low < 0 and high == pytest.approx(1.15 * max(0.4, summary["uniform"]["regret"]))

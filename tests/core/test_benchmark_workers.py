"""Runs side by side on the virtual clock: who trains what when, what is known by then, and the table of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from ray_mixopt.benchmark import methods, problems
from ray_mixopt.benchmark.methods import Entry
from ray_mixopt.benchmark.problem import BenchmarkProblem, Task
from ray_mixopt.benchmark.record import Record, read_all
from ray_mixopt.benchmark.runner import search
from ray_mixopt.benchmark.scores import Curve, reached
from ray_mixopt.benchmark.workers import ONE_WORKER, Fleet
from ray_mixopt.cli.main import main
from ray_mixopt.core.strategy import Suggestion

NAME = "synthetic/mixing_law"


class Diary:
    """Runs a script of (trial, scale, steps, continues), and keeps what it was told between its suggestions."""

    def __init__(self, task: Task, script: list[tuple[str, str, int, str | None]]) -> None:
        self.space, self.script, self.pages = task.space, list(script), [[]]

    def ask(self) -> Suggestion | None:
        if not self.script:
            return None
        trial_id, scale, steps, continues = self.script.pop(0)
        self.pages.append([f"ask {trial_id}"])
        mixture = self.space.named(self.space.uniform())
        return Suggestion(trial_id=trial_id, mixture=mixture, scale=scale, steps=steps, continues=continues, cost=0.0)

    def tell(self, trial_id: str, step: int, metrics: Mapping[str, float]) -> None:
        self.pages[-1].append(f"{trial_id}@{step}")

    def finish(self, trial_id: str, failed: bool = False) -> None:
        self.pages[-1].append(f"end {trial_id}")

    def recommend(self) -> dict[str, float]:
        return self.space.named(self.space.uniform())


Play = Callable[..., tuple[Record, Diary]]


@pytest.fixture(scope="module")
def problem() -> BenchmarkProblem:
    """A step of the largest scale costs 1/20,000."""
    return problems.load(NAME)


@dataclass(frozen=True, kw_only=True)
class Kept(Entry):
    """A method that keeps a diary; ``made`` are its searches."""

    script: list[tuple[str, str, int, str | None]]
    made: list[Diary] = field(default_factory=list)

    def start(self, task: Task) -> Diary:
        self.made.append(Diary(task, self.script))
        return self.made[-1]


@pytest.fixture
def play(problem: BenchmarkProblem) -> Play:
    def run(script: list[tuple[str, str, int, str | None]], workers: Fleet, budget: float = 10.0):
        entry = Kept(name="diary", script=script)
        return search(problem, entry, 0, budget, workers), entry.made[0]

    return run


def test_two_runs_at_a_time_report_in_the_order_of_the_clock(play: Play) -> None:
    script = [("long", "1B", 12000, None), ("short", "1B", 2000, None), ("next", "1B", 6000, None)]
    record, diary = play(script, Fleet((1.0, 1.0)))
    # "next" starts at 0.1, reaches 2,000 at 0.2 and 6,000 at 0.4; "long" reaches 6,000 at 0.3 and 12,000 at 0.6.
    assert diary.pages[1:] == [
        ["ask long"],
        ["ask short", "long@2000", "short@2000", "end short"],
        ["ask next", "next@2000", "long@6000", "next@6000", "end next", "long@12000", "end long"],
    ]
    assert record.trace[-1].time == pytest.approx(0.6) and record.trace[-1].cost == pytest.approx(1.0)
    assert record.spent == pytest.approx(1.0) and record.workers == (1.0, 1.0)


def test_a_slow_worker_takes_longer_and_the_fast_one_is_served_first(play: Play) -> None:
    script = [("first", "1B", 2000, None), ("second", "1B", 2000, None), ("third", "1B", 2000, None)]
    record, diary = play(script, Fleet((0.25, 1.0)))
    assert [page[0] for page in diary.pages[1:]] == ["ask first", "ask second", "ask third"]
    assert diary.pages[2][1:] == ["first@2000", "end first"], "the slow one has the second"
    assert diary.pages[3][1:] == ["third@2000", "end third", "second@2000", "end second"]
    assert record.trace[-1].time == pytest.approx(0.4)


def test_what_runs_is_reserved_in_the_budget(play: Play) -> None:
    script = [(f"run_{n}", "1B", 20000, None) for n in range(5)]
    record, _ = play(script, Fleet((1.0,) * 4), budget=2.5)
    assert record.runs == 2 and record.spent == 2.0 and record.trace[-1].time == 1.0


def test_a_running_trial_cannot_be_asked_for_again(play: Play) -> None:
    with pytest.raises(ValueError, match="asked for trial 'a' again while it runs"):
        play([("a", "1B", 2000, None), ("a", "1B", 6000, "a")], Fleet((1.0, 1.0)))


@pytest.mark.parametrize("workers", [Fleet((1.0,) * 3), Fleet((2.0, 1.0, 0.5))])
def test_our_search_uses_all_workers_and_spends_no_more(problem: BenchmarkProblem, workers: Fleet) -> None:
    entry = methods.find("random")
    alone, together = search(problem, entry, 3, 6.0), search(problem, entry, 3, 6.0, workers)
    assert together.spent == alone.spent == 6.0 and together.runs == alone.runs
    assert together.trace[-1].time < alone.trace[-1].time / 2
    assert all(point.time <= point.cost for point in together.trace)
    assert all(a.cost <= b.cost and a.time <= b.time for a, b in zip(together.trace, together.trace[1:], strict=False))


def test_one_worker_is_the_clock_itself(problem: BenchmarkProblem) -> None:
    record = search(problem, methods.find("random"), 0, 3.0)
    assert [point.time for point in record.trace] == pytest.approx([point.cost for point in record.trace])
    assert record.label == "random"


def test_without_continuation_every_run_starts_afresh(problem: BenchmarkProblem) -> None:
    asked: dict[str, list[str | None]] = {}
    for name in ("default", "default-afresh"):
        method = methods.find(name).start(problem.task(0.2, 1))
        asked[name] = []
        while (suggestion := method.ask()) is not None:
            asked[name].append(suggestion.continues)
            for step in problem.space.steps:
                if step <= suggestion.steps:
                    mixture = problem.space.mixture(suggestion.mixture)
                    method.tell(suggestion.trial_id, step, problem.observe(mixture, suggestion.scale, step, [0]))
            method.finish(suggestion.trial_id)
    assert any(asked["default"]) and not any(asked["default-afresh"])


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=20))
def test_workers_are_written_and_read(speeds: list[float]) -> None:
    workers = Fleet(tuple(speeds))
    assert Fleet.parse(",".join(map(repr, speeds))).speeds == workers.speeds
    assert workers.power == pytest.approx(sum(speeds))


@pytest.mark.parametrize("text", ["0", "-1", "many", "1,,2", "1,0", "inf,1", "nan", "1,-2", "", "99999999999999"])
def test_bad_workers_are_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--workers is a number, or speeds such as 1,1,0.5"):
        Fleet.parse(text)
    result = CliRunner().invoke(main, ["benchmark", "--workers", text, "--out", str(tmp_path)])
    assert result.exit_code == 2 and "--workers is a number" in " ".join(result.stderr.split())


def test_the_table_of_the_command_line(tmp_path: Path) -> None:
    arguments = ["benchmark", "--problems", NAME, "--methods", "random", "--seeds", "0-1", "--budget", "4x"]
    for workers in ("1", "2", "1,0.5", "2"):
        result = CliRunner().invoke(main, [*arguments, "--workers", workers, "--out", str(tmp_path)])
        assert result.exit_code == 0, result.output
    assert "2 searches are there, 0 to do" in result.stderr
    records = {record.label: record for record in read_all(tmp_path) if record.seed == 0}
    assert set(records) == {"random", "random x 2", "random x 1+0.5"}
    rows = [line for line in result.stdout.splitlines() if line.startswith(("| 1 |", "| 2 |", "| 1+0.5 |"))]
    once = ["4 (1x)", "3 (1.3x)", "2 (2x)"]
    assert [row.split(" | ")[3] for row in rows] == once * 2  # first reached, and reached for good


def test_the_first_time_that_a_level_is_reached(problem: BenchmarkProblem) -> None:
    entry = methods.find("random")
    curves = [
        Curve(records=(search(problem, entry, 0, 8.0, workers),), clock=True)
        for workers in (ONE_WORKER, Fleet((1.0,) * 4))
    ]
    last = curves[0].records[0].trace[-1].regret
    for stays in (False, True):
        alone, together = (reached([curve], last, stays=stays) for curve in curves)
        assert together < alone and reached(curves, -1.0, stays=stays) == float("inf")

"""How the benchmark runs a method: cost, regret, failures, and what it keeps."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import dying
import numpy as np
import pytest
from ladder import LadderStrategy

from ray_mixopt.benchmark import campaign, methods, problems
from ray_mixopt.benchmark.campaign import Job
from ray_mixopt.benchmark.methods import Entry
from ray_mixopt.benchmark.problem import BenchmarkProblem, Task
from ray_mixopt.benchmark.record import Record, place, read_all
from ray_mixopt.benchmark.runner import checkpoints, problem_seed, search
from ray_mixopt.core.strategy import Suggestion

NAME = "synthetic/mixing_law"
Step = tuple[str, np.ndarray, str, int, str | None]  # trial, mixture, scale, steps, continues


class Scripted:
    """Runs what it is told to, and recommends the last mixture it ran."""

    def __init__(self, task: Task, script: list[Step]) -> None:
        self.space, self.script = task.space, list(script)
        self.told: list[tuple[str, int]] = []
        self.failed: list[str] = []
        self.last = self.space.uniform()

    def ask(self) -> Suggestion | None:
        if not self.script:
            return None
        trial_id, mixture, scale, steps, continues = self.script.pop(0)
        self.last = mixture
        return Suggestion(
            trial_id=trial_id,
            mixture=self.space.named(mixture),
            scale=scale,
            steps=steps,
            continues=continues,
            cost=0.0,  # what the method says does not matter
        )

    def tell(self, trial_id: str, step: int, metrics: Mapping[str, float]) -> None:
        self.told.append((trial_id, step))

    def finish(self, trial_id: str, failed: bool = False) -> None:
        self.failed += [trial_id] * failed

    def recommend(self) -> dict[str, float]:
        return self.space.named(self.last)


Play = Callable[..., tuple[Record, Scripted]]


@dataclass(frozen=True, kw_only=True)
class Script(Entry):
    """A method that runs a script; ``made`` are its searches."""

    script: list[Step]
    made: list[Scripted] = field(default_factory=list)

    def start(self, task: Task) -> Scripted:
        self.made.append(Scripted(task, self.script))
        return self.made[-1]


@pytest.fixture
def play() -> Play:
    """``play(problem, script, budget)`` runs a script and gives its record and the method."""

    def run(
        problem: BenchmarkProblem, script: list[Step], budget: float = 10.0, seed: int = 0
    ) -> tuple[Record, Scripted]:
        entry = Script(name="scripted", script=script)
        return search(problem, entry, seed, budget), entry.made[0]

    return run


@pytest.fixture
def problem() -> BenchmarkProblem:
    return problems.load(NAME)


def test_a_run_costs_its_steps_and_a_continued_one_the_further_ones(problem: BenchmarkProblem, play: Play) -> None:
    w, v = problem.space.corners()[:2]
    script: list[Step] = [
        ("a", w, "30M", 6000, None),
        ("b", v, "1B", 2000, None),
        ("a", w, "30M", 20000, "a"),
        ("b", v, "1B", 20000, "b"),
    ]
    record, method = play(problem, script)
    assert record.spent_by_scale == pytest.approx({"30M": 0.03, "100M": 0.0, "300M": 0.0, "1B": 1.0})
    assert record.spent == pytest.approx(1.03) and record.runs == 4
    # Every rung passed is told once, at no cost.
    told = [("a", 2000), ("a", 6000), ("b", 2000), ("a", 12000), ("a", 20000), ("b", 6000), ("b", 12000), ("b", 20000)]
    assert method.told == told


def test_regret_is_measured_outside_at_the_recommended_mixture(problem: BenchmarkProblem, play: Play) -> None:
    assert problem.optimum is not None
    w = problem.space.corners()[0]
    script: list[Step] = [("a", w, "1B", 20000, None), ("b", problem.optimum, "30M", 20000, None)]
    script.insert(1, ("early", problem.optimum, "1B", 2000, None))  # is no run at the target
    record, _ = play(problem, script)
    first, middle, last = record.trace[0], record.trace[1], record.trace[-1]
    assert (first.cost, first.trained) == (0.0, False)
    assert first.regret == pytest.approx(problem.regret(problem.space.uniform()))
    assert (middle.cost, middle.trained) == (1.0, True) and middle.regret == pytest.approx(problem.regret(w))
    # The optimum has been run short, and at a small scale, only; it has no regret up to the last bit.
    assert last.cost == pytest.approx(1.13) and not last.trained
    assert last.regret == pytest.approx(0.0, abs=1e-12) and last.mixture == pytest.approx(tuple(problem.optimum))


def test_nothing_is_run_beyond_the_budget(problem: BenchmarkProblem, play: Play) -> None:
    w = problem.space.uniform()
    record, method = play(problem, [("a", w, "1B", 20000, None), ("b", w, "1B", 2000, None)], budget=1.05)
    assert record.spent == 1.0 and record.runs == 1 and method.told[-1] == ("a", 20000)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ([("a", 0, "30M", 2000, None), ("a", 0, "30M", 6000, None)], "started trial 'a' twice"),
        ([("a", 0, "30M", 2000, "a")], "continued trial 'a', which cannot be continued"),
        ([("a", 0, "30M", 2000, None), ("a", 1, "30M", 6000, "a")], "another mixture or scale"),
        ([("a", 0, "30M", 6000, None), ("a", 0, "30M", 2000, "a")], "to a step that it has passed"),
    ],
)
def test_a_method_that_cheats_is_stopped(
    script: list[tuple[str, int, str, int, str | None]], message: str, problem: BenchmarkProblem, play: Play
) -> None:
    corners = problem.space.corners()
    with pytest.raises(ValueError, match=message):
        play(problem, [(trial, corners[i], *rest) for trial, i, *rest in script])


def test_a_failed_run_cannot_go_on(play: Play) -> None:
    problem = problems.load(f"{NAME}+failures=0.99")
    w = problem.space.uniform()
    with pytest.raises(ValueError, match="continued trial 'a', which cannot be continued"):
        play(problem, [("a", w, "30M", 12000, None), ("a", w, "30M", 20000, "a")])


def test_failed_runs_cost_what_they_took_and_show_what_they_reached(play: Play) -> None:
    problem = problems.load(f"{NAME}+failures=0.5")
    w = problem.space.uniform()
    script: list[Step] = [(f"run_{i}", w, "1B", 20000, None) for i in range(200)]
    record, method = play(problem, script, budget=1000)
    assert record.failed == len(method.failed) and 70 < record.failed < 130
    completed = record.runs - record.failed
    # A failed run gets half of the way on average.
    assert record.spent == pytest.approx(completed + 0.5 * record.failed, rel=0.1)
    assert sum(step == 20000 for _, step in method.told) == completed
    assert play(problem, script, budget=1000)[0].spent == record.spent
    assert play(problem, script, budget=1000, seed=1)[0].spent != record.spent


def test_seeds_of_problem_and_method_are_apart(problem: BenchmarkProblem) -> None:
    assert problem_seed(problem, 0) != problem_seed(problem, 1) != 1
    assert problem_seed(problem, 0) != problem_seed(problems.load("synthetic/rank_reversal"), 0)


def test_checkpoints_include_the_scored_costs_and_the_budget(problem: BenchmarkProblem) -> None:
    costs = checkpoints(problem, 3.3)
    assert {0.25, 0.5, 1.0, 2.0, 3.0, 3.3} <= set(costs) and list(costs) == sorted(costs) and costs[-1] == 3.3


@pytest.mark.parametrize(("strategy", "budget"), [("default", 1.0), ("paper", 2.0), ("random", 30.0)])
def test_our_strategies_run(strategy: str, budget: float) -> None:
    problem = problems.load("slimpajama/sum/code_and_commonsense@300M+noise+failures", None)
    record = search(problem, methods.find(strategy), 0, budget)
    assert 0.5 * budget < record.spent <= budget and record.runs > 0
    assert np.isfinite([point.regret for point in record.trace]).all()
    assert search(problem, methods.find(strategy), 0, budget).trace == record.trace


def test_a_strategy_of_ones_own_is_a_method(tmp_path: Path) -> None:
    problem = problems.load(NAME)
    given, named = Entry(name="mine", strategy=LadderStrategy), methods.find("ladder:LadderStrategy")
    records = [search(problem, entry, 1, 0.5) for entry in (given, named)]
    assert records[0].trace == records[1].trace and records[0].runs >= 10
    path = records[1].write(tmp_path)
    assert path.name == "ladder-LadderStrategy-1.json" and Record.read(path).method == "ladder:LadderStrategy"
    for name, message in (
        ("nonesuch:Mine", "strategy 'nonesuch:Mine' cannot be imported: No module named 'nonesuch'"),
        ("ladder:Nonesuch", "cannot be imported: module 'ladder' has no attribute"),
        ("ladder:WIDTH", "'ladder:WIDTH' is no callable from a Problem to a Strategy"),
    ):
        with pytest.raises(ValueError, match=message):
            methods.find(name)


def test_the_paper_gets_its_own_rungs() -> None:
    task = problems.load("slimpajama/val_loss/c4", None).task(10.0, 0)
    assert methods.find("paper").start(task).space.steps == (*range(100, 1000, 100), 6000, 12000, 19700)
    assert methods.find("default").start(task).space.steps == (2000, 6000, 12000, 19700)


# -- many


def plan(out: Path, *, seeds: range = range(2), budget: float = 1.5, names: tuple[str, ...] = (NAME,)) -> campaign.Plan:
    return campaign.plan(names, ("random",), seeds, lambda problem: budget, out=out, data=None)


def test_what_is_there_is_not_run_again(tmp_path: Path) -> None:
    first = plan(tmp_path)
    assert (len(first.done), len(first.missing)) == (0, 2)
    lines: list[str] = []
    failures = campaign.run(first.missing, out=tmp_path, data=None, processes=2, report=lines.append)
    assert failures == [] and len(lines) == 2
    assert [record.seed for record in read_all(tmp_path)] == [0, 1]
    assert len(plan(tmp_path).done) == 2 and not plan(tmp_path).missing
    assert len(plan(tmp_path, seeds=range(3)).missing) == 1
    assert len(plan(tmp_path, budget=2.5).missing) == 2
    # A file that a crash left half-written does not count.
    path = place(tmp_path, NAME, "random", 0)
    path.write_text(path.read_text()[:100])
    assert len(plan(tmp_path).missing) == 1


def test_a_search_that_fails_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    jobs = [
        Job(problem=NAME, method="ranking", seed=0, budget=1.0),  # which searches pools only
        Job(problem=NAME, method="random", seed=0, budget=1.0),
    ]
    lines: list[str] = []
    failures = campaign.run(jobs, out=tmp_path, data=None, processes=1, report=lines.append)
    assert len(failures) == 1 and "ranking on synthetic/mixing_law, seed 0: ValueError" in failures[0]
    assert len(lines) == 2 and [record.method for record in read_all(tmp_path)] == ["random"]


def test_a_search_that_takes_its_process_down_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaign, "_run", dying.run)
    jobs = [Job(problem=NAME, method="random", seed=seed, budget=1.0) for seed in range(4)]
    lines: list[str] = []
    failures = campaign.run(jobs, out=tmp_path, data=None, processes=2, report=lines.append)
    assert failures == [f"random on {NAME}, seed 1: its process died"]
    assert len(lines) == 4 and sum("is done" in line for line in lines) == 3


def test_what_cannot_be_run_is_skipped_with_a_reason(tmp_path: Path) -> None:
    skipped = campaign.plan(
        (NAME, "regmix/loss"), ("ranking", "botorch-mfkg"), [0], lambda problem: 1.0, out=tmp_path, data=tmp_path
    )
    assert not skipped.missing
    text = "\n".join(skipped.skipped)
    assert "regmix/loss: its runs are not at" in text
    assert "ranking on synthetic/mixing_law: it does not search the simplex" in text
    assert "botorch-mfkg: its one-shot optimisation" in text


def test_a_record_goes_through_json_unchanged(tmp_path: Path) -> None:
    record = search(problems.load(NAME), methods.find("random"), 3, 2.0)
    path = record.write(tmp_path)
    assert path == place(tmp_path, NAME, "random", 3)
    assert Record.read(path) == record
    assert json.loads(path.read_text())["machine"]["cores"] >= 1 and record.versions["numpy"]

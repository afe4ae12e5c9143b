"""Scores, tables and figures, from records made by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ray_mixopt.benchmark.figures import draw
from ray_mixopt.benchmark.markdown import tables
from ray_mixopt.benchmark.record import Point, Record
from ray_mixopt.benchmark.scores import Curve, found, speed_up, speed_up_of_mean
from ray_mixopt.cli.main import main

Trace = list[tuple[float, float] | tuple[float, float, bool]]  # cost, regret, whether trained


def record(
    trace: Trace,
    *,
    method: str = "default",
    problem: str = "f/a",
    seed: int = 0,
    budget: float = 3940.0,
    workers: tuple[float, ...] = (1.0,),
) -> Record:
    power = sum(workers)
    points = tuple(
        Point(cost=p[0], time=p[0] / power, regret=p[1], trained=p[2] if len(p) > 2 else False, mixture=(1.0,))
        for p in trace
    )
    return Record(
        problem=problem,
        group="f/all",
        method=method,
        seed=seed,
        budget=budget,
        settings={},
        logged=False,
        cost_unit="100 steps of 1B",
        target_cost=197.0,
        score_costs=(50.0, 100.0, 197.0, 394.0, 788.0),
        best=1.0,
        median=2.0,
        trace=points,
        spent=trace[-1][0],
        spent_by_scale={"1B": trace[-1][0]},
        runs=len(trace),
        failed=0,
        seconds={"median": 0.1, "p95": 0.2, "total": 1.0},
        versions={"python": "3.11"},
        commit="abc",
        machine={"cpu": "fast", "cores": 2},
        workers=workers,
    )


def curve(*traces: Trace, budget: float = 3940.0) -> Curve:
    return Curve(records=tuple(record(trace, seed=i, budget=budget) for i, trace in enumerate(traces)))


def test_a_recommendation_holds_until_the_next() -> None:
    c = curve([(0, 1.0), (10, 0.5), (100, 0.1)], [(0, 0.8), (20, 0.3)])
    assert [c.regret(cost) for cost in (0, 9.9, 10, 19, 20, 99, 100, 3940)] == pytest.approx(
        [0.9, 0.9, 0.65, 0.65, 0.4, 0.4, 0.2, 0.2]
    )
    assert c.regrets([10, 100]).tolist() == [[0.5, 0.1], [0.8, 0.3]]


def test_the_area_is_under_regret_against_log_cost() -> None:
    start = 0.025 * 197
    c = curve([(0, 1.0), (start * math.e, 0.5)])
    assert c.area(start * math.e**4) == pytest.approx((1.0 + 3 * 0.5) / 4)


def test_the_speed_up_is_in_cost_to_the_rivals_final_regret() -> None:
    # The rival is at its final regret of 0.2 from 1,000 on, when it has trained what it recommends.
    rival = curve([(0, 1.0), (197, 0.6, True), (1000, 0.2, True), (3940, 0.2, True)])
    # Ours dips below at 20 but stays there only from 50 on; it never trains what it recommends.
    ours = curve([(0, 1.0), (20, 0.1), (30, 0.4), (50, 0.2), (60, 0.05)], budget=394.0)
    result = speed_up(ours, rival)
    assert result.search == pytest.approx(1000 / 50)
    assert result.with_final == pytest.approx(1000 / (50 + 197))
    assert not result.bound


def test_the_rival_counts_from_where_it_first_is_as_good_as_at_its_end() -> None:
    rival = curve([(0, 1.0), (100, 0.1), (200, 0.5), (3000, 0.3)])
    ours = curve([(0, 1.0), (10, 0.3)])
    assert speed_up(ours, rival).search == pytest.approx(100 / 10)
    assert speed_up(ours, rival).with_final == pytest.approx((100 + 197) / (10 + 197))


def test_the_final_run_is_added_for_the_seeds_that_have_not_paid_for_it() -> None:
    c = curve([(0, 1.0), (200, 0.1, True)], [(0, 1.0), (200, 0.1, False)])
    assert c.final_run(100) == 197 and c.final_run(200) == pytest.approx(197 / 2)


def test_ours_that_never_gets_there_has_a_bound() -> None:
    rival = curve([(0, 1.0), (500, 0.01)])
    ours = curve([(0, 1.0), (50, 0.02)], budget=394.0)
    result = speed_up(ours, rival)
    assert result.bound and result.search == pytest.approx(500 / 394)


def test_the_speed_up_of_the_mean_is_in_cost_to_the_rivals_final_mean() -> None:
    # The rival ends at (0.4 + 0.1) / 2 = 0.25, there from 600 on; ours from 40 on, worse on the second.
    rivals = [curve([(0, 1.0), (600, 0.4)]), curve([(0, 1.0), (100, 0.1)])]
    ours = [
        curve([(0, 1.0), (20, 0.1)], budget=394.0),
        curve([(0, 1.0), (10, 0.2), (30, 0.5), (40, 0.3)], budget=394.0),
    ]
    assert speed_up_of_mean(ours, rivals) == (pytest.approx(600 / 40), False)
    never = [curve([(0, 1.0), (20, 0.3)], budget=394.0)] * 2
    assert speed_up_of_mean(never, rivals) == (pytest.approx(600 / 394), True)


def test_the_level_is_the_mean_over_seeds() -> None:
    rival = curve([(0, 1.0), (100, 0.0)], [(0, 1.0), (300, 0.4)])
    ours = curve([(0, 1.0), (10, 0.0)], [(0, 1.0), (25, 0.4)])
    assert speed_up(ours, rival).search == pytest.approx(300 / 25)


def test_cost_to_find_the_best_logged_mixture() -> None:
    c = curve([(0, 1.0), (2, 0.0), (3, 0.5), (5, 0.0)], [(0, 1.0), (4, 0.1)], budget=8.0)
    assert found(c).cost == pytest.approx((5 + 8) / 2) and found(c).share == 0.5


def write_some(out: Path) -> None:
    for problem, level in (("f/a", 0.2), ("f/b", 0.4)):
        for seed in range(2):
            theirs: Trace = [(0, 1.0), (1000, level, True)]
            record(theirs, method="smac-hyperband", problem=problem, seed=seed).write(out)
            record([(0, 1.0), (50, level), (394, 0.01)], problem=problem, seed=seed, budget=394.0).write(out)


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["benchmark", *map(str, arguments)])


def test_tables_and_figures_come_from_the_files_alone(tmp_path: Path) -> None:
    write_some(tmp_path)
    result = call("--report", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert "## f/all" in lines
    assert "| `default` | 2 | 2 | 0.300 (0.400) | 0.300 (0.400) | 0.300 (0.400) | 0.010 (0.010) |" in result.stdout
    # 1000 / 50 in search; with the final run 1000 / (50 + 197).
    assert "| `smac-hyperband` | 2 | 3940 | 20x | 20x | 4.05x | 4.05x | 20x |" in lines
    assert f"| f/b | `smac-hyperband` |{' 1.000 (1.000) |' * 5}" in lines
    assert (tmp_path / "table.md").read_text() == result.stdout
    assert {path.name for path in tmp_path.glob("*.png")} == {"f-all.png", "f-all-by-problem.png"}


def test_workers_may_stay_where_one_never_does() -> None:
    one = record([(0, 1.0), (40, 0.3), (60, 0.5)], budget=394.0)
    two = record([(0, 1.0), (100, 0.2)], budget=394.0, workers=(1.0, 1.0))
    text = tables([one, two])
    # One worker has 0.3 at 50 units and leaves it again; 0.5 it has for good from 40 on.
    assert "| 2 | 1 | 1 | 50 (1.2x) | 50 (one worker never), cost 100 | 50 (0.8x), cost 100 |" in text


def test_no_results_make_no_table(tmp_path: Path) -> None:
    assert tables([]) == "No results." and draw([], tmp_path) == []
    nothing = call("--report", "--out", tmp_path)
    assert (nothing.exit_code, nothing.stdout) == (2, "")
    assert f"There are no results of a benchmark below '{tmp_path}'" in nothing.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--suite", "nonesuch"], "Unknown suite 'nonesuch': choose one of headline"),
        (["--problems", "nonesuch/loss"], "Unknown family in 'nonesuch/loss'"),
        (["--problems", "nonesuch"], "'nonesuch' names no problem"),
        (["--problems", "x*"], "No problem of the suites matches 'x*'"),
        (["--methods", "nonesuch"], "Unknown method 'nonesuch': choose one of default, paper"),
        (["--seeds", "many"], "--seeds is A-B or a single A, for instance 100-119, got 'many'"),
        (["--seeds", "5-2"], "--seeds runs from small to large"),
        (["--budget", "much"], "--budget is a positive cost, or a number of target runs such as 3x, got 'much'"),
        (["--budget", "0x"], "--budget is a positive cost"),
        (["--budget", "nan"], "--budget is a positive cost"),
        (["--processes", "0"], "0 is not in the range x>=1"),
        (["--data", "nonesuch"], "'nonesuch' does not exist"),
    ],
)
def test_bad_arguments_are_usage_errors(arguments: list[str], message: str, tmp_path: Path) -> None:
    result = call(*arguments, "--out", tmp_path / "out")
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.stderr.split()) and result.stdout == ""
    assert not (tmp_path / "out").exists()


def test_a_foreign_file_among_the_results_is_named(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "other.json").write_text("{}")
    result = call("--report", "--out", tmp_path)
    assert result.exit_code == 2 and "other.json is no record of a run" in " ".join(result.stderr.split())


def test_a_benchmark_runs_from_the_command_line(tmp_path: Path) -> None:
    arguments = ["--problems", "synthetic/mixing_law", "--methods", "random,random-logits", "--seeds", "0-1"]
    result = call(*arguments, "--budget", "2x", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert "0 searches are there, 4 to do" in result.stderr and "| `random-logits` | 1 | 2 |" in result.stdout
    again = call(*arguments, "--budget", "2x", "--out", tmp_path)
    assert "4 searches are there, 0 to do" in again.stderr and again.stdout == result.stdout


def test_problems_and_methods_are_listed() -> None:
    result = call("--list")
    assert result.exit_code == 0
    assert "suite headline: slimpajama/val_loss/common_crawl, " in result.stdout
    assert "method botorch-mfkg: BoTorch's qMFKG (cannot run: its one-shot" in result.stdout

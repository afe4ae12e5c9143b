"""The tables of a benchmark, in Markdown, from the records alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import geometric_mean

import numpy as np

from ray_mixopt.benchmark.record import Record
from ray_mixopt.benchmark.scores import (
    Curve,
    SpeedUp,
    found,
    grouped,
    reached,
    speed_up,
    speed_up_of_mean,
)
from ray_mixopt.benchmark.workers import ONE_WORKER, Fleet

OURS = "default"
NO_RESULT = ""

ByProblem = Mapping[str, Curve]
ByMethod = Mapping[str, ByProblem]


def tables(records: Sequence[Record]) -> str:
    """All tables: for each group a summary by method, speed-ups of ours, and regret by problem."""
    if not records:
        return "No results."
    parts = []
    for group, by_method in grouped(records).items():
        curves = [curve for by_problem in by_method.values() for curve in by_problem.values()]
        logged = curves[0].records[0].logged
        parts += [f"## {group}", _conditions(curves), _summary(by_method)]
        if logged:
            parts += ["Cost to find the best logged mixture (share of the seeds that found it):", _found(by_method)]
        elif OURS in by_method and len(by_method) > 1:
            parts += [
                f"Speed-up of `{OURS}`: what the other method costs to reach its own final mean regret first, over "
                f"what `{OURS}` costs to reach that level and stay there: by problem, and of the mean over problems. "
                f"`<`: `{OURS}` never reached it somewhere.",
                _speed_ups(by_method),
            ]
        for method in dict.fromkeys(curve.records[0].method for curve in curves):
            teams = _teams(by_method, method)
            if len(teams) > 1:
                parts += [
                    f"`{method}` with several workers on a virtual clock: wall clock (one worker's over it) and cost "
                    "of getting first to a mean regret, the one that one worker has at some cost:",
                    _side_by_side(teams, stays=False),
                    "Likewise, of getting to it and staying there:",
                    _side_by_side(teams, stays=True),
                ]
        parts += ["By problem: mean regret over seeds (worst seed):", _by_problem(by_method)]
    return "\n\n".join(parts)


def _conditions(curves: Sequence[Curve]) -> str:
    first = curves[0].records[0]
    records = [record for curve in curves for record in curve.records]
    commits = sorted({record.commit for record in records})
    machines = sorted({f"{record.machine['cpu']}, {record.machine['cores']} cores" for record in records})
    return (
        f"Costs in units of {first.cost_unit}; a target run costs {first.target_cost:.4g}. "
        f"Commit {', '.join(commits)}; {'; '.join(machines)}; one thread a search."
    )


def _costs(by_method: ByMethod) -> list[float]:
    """Costs at which the group is scored, up to the largest budget."""
    curves = [curve for by_problem in by_method.values() for curve in by_problem.values()]
    return max(curves, key=lambda curve: curve.budget).scored


def _summary(by_method: ByMethod) -> str:
    costs = _costs(by_method)
    common = min(curve.budget for by_problem in by_method.values() for curve in by_problem.values())
    head = ["method", "problems", "seeds", *(f"at {cost:.4g}" for cost in costs)]
    head += [f"area to {common:.4g}", "runs", "s per suggestion, median (p95)"]
    rows = []
    for method, by_problem in by_method.items():
        curves = list(by_problem.values())
        cells = []
        for cost in costs:
            if all(curve.pays(cost) for curve in curves):
                means = [curve.regret(cost) for curve in curves]
                cells.append(f"{np.mean(means):.3f} ({max(means):.3f})")
            else:
                cells.append(NO_RESULT)
        records = [record for curve in curves for record in curve.records]
        seeds = sorted({len(curve.records) for curve in curves})
        median, p95 = (np.mean([record.seconds[key] for record in records]) for key in ("median", "p95"))
        cells += [f"{np.mean([curve.area(common) for curve in curves]):.3f}"]
        cells += [f"{np.mean([record.runs for record in records]):.0f}", f"{median:.2g} ({p95:.2g})"]
        rows.append([f"`{method}`", str(len(curves)), "-".join(map(str, seeds)), *cells])
    caption = "Mean regret over problems and seeds (worst problem's mean over seeds):"
    return f"{caption}\n\n{table(head, rows)}"


def _by_problem(by_method: ByMethod) -> str:
    costs = _costs(by_method)
    rows = []
    for problem in dict.fromkeys(problem for by_problem in by_method.values() for problem in by_problem):
        for method, by_problem in by_method.items():
            if problem in by_problem:
                curve = by_problem[problem]
                regrets = curve.regrets(costs).T  # (n_costs, n_seeds)
                cells = [
                    f"{r.mean():.3f} ({r.max():.3f})" if curve.pays(cost) else NO_RESULT
                    for r, cost in zip(regrets, costs, strict=True)
                ]
                rows.append([problem, f"`{method}`", *cells])
    return table(["problem", "method", *(f"at {cost:.4g}" for cost in costs)], rows)


def _speed_ups(by_method: ByMethod) -> str:
    head = ["over", "problems", "its budget", "search only", "worst problem", "with the final run", "worst problem"]
    head += ["of the mean, search only"]
    rows = []
    ours = by_method[OURS]
    for method, by_problem in by_method.items():
        shared = [problem for problem in by_problem if problem in ours]
        if not shared or by_problem[shared[0]].records[0].method == OURS:
            continue
        ratios = [speed_up(ours[problem], by_problem[problem]) for problem in shared]
        budget = min(by_problem[problem].budget for problem in shared)
        cells = [*_mean_and_worst(ratios, "search"), *_mean_and_worst(ratios, "with_final")]
        of_mean = speed_up_of_mean([ours[problem] for problem in shared], [by_problem[problem] for problem in shared])
        cells.append(_times(*of_mean))
        rows.append([f"`{method}`", str(len(shared)), f"{budget:.4g}", *cells])
    return table(head, rows)


def _mean_and_worst(ratios: Sequence[SpeedUp], which: str) -> tuple[str, str]:
    values = [getattr(ratio, which) for ratio in ratios]
    worst = ratios[int(np.argmin(values))]
    mean = _times(geometric_mean(values), any(ratio.bound for ratio in ratios))
    return mean, _times(min(values), worst.bound)


def _times(ratio: float, bound: bool) -> str:
    return f"{'<' if bound else ''}{ratio:.3g}x"


def _teams(by_method: ByMethod, method: str) -> dict[Fleet, list[Curve]]:
    """A method's curves by the workers it had, one worker first; empty without a search by one worker."""
    teams = {}
    for by_problem in by_method.values():
        curves = list(by_problem.values())
        if (first := curves[0].records[0]).method == method:
            teams[Fleet(first.workers)] = curves
    return dict(sorted(teams.items(), key=lambda team: team[0].power)) if ONE_WORKER in teams else {}


def _side_by_side(teams: Mapping[Fleet, list[Curve]], *, stays: bool) -> str:
    one = teams[ONE_WORKER]
    costs = one[0].scored
    levels = [float(np.mean([curve.regret(cost) for curve in one])) for cost in costs]
    head = ["workers", "problems", "seeds", "whole budget"]
    head += [f"{level:.3f}, as one at {cost:.4g}" for level, cost in zip(levels, costs, strict=True)]
    rows = []
    for workers, curves in teams.items():
        on_clock = [Curve(records=curve.records, clock=True) for curve in curves]
        seeds = sorted({len(curve.records) for curve in curves})
        whole = np.mean([record.trace[-1].time for curve in curves for record in curve.records])
        whole_one = np.mean([record.trace[-1].time for curve in one for record in curve.records])
        cells = [f"{whole:.3g} ({whole_one / whole:.2g}x)"]
        for level in levels:
            time, cost, alone = (reached(c, level, stays=stays) for c in (on_clock, curves, one))
            ratio = "one worker never" if math.isinf(alone) else f"{alone / time:.2g}x"
            cells.append("never" if math.isinf(time) else f"{time:.3g} ({ratio}), cost {cost:.3g}")
        rows.append([str(workers), str(len(curves)), "-".join(map(str, seeds)), *cells])
    return table(head, rows)


def _found(by_method: ByMethod) -> str:
    names = dict.fromkeys(problem for by_problem in by_method.values() for problem in by_problem)
    rows = []
    for method, by_problem in by_method.items():
        results = {problem: found(curve) for problem, curve in by_problem.items()}
        cells = [f"{results[p].cost:.3g} ({results[p].share:.0%})" if p in results else NO_RESULT for p in names]
        rows.append([f"`{method}`", f"{np.mean([result.cost for result in results.values()]):.3g}", *cells])
    return table(["method", "mean", *names], rows)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """One table, of a head and rows of cells."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

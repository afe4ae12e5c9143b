"""What each part of the default strategy is worth: the search without it, and what it predicts of real runs.

The ten metrics of the reference network are best near single domains; most of the synthetic problems are best inside.

    python experiments/ablation.py --seeds 100-101 --processes 2
    python experiments/ablation.py --suites tables --draws 5 --part tuning

Writes experiments/results/ablation.json and .md. Of ``tables``, the first questions of ``backtest.py``, there is a file
for each question and variant in experiments/results/ablation; what is there is not computed again. Their table is
table.md beside them.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from backtest import Cells, Question, answer, chosen, fill
from backtest_tables import flattened, is_base, mean, number
from harness import arguments, side_by_side, write

from ray_mixopt import Problem, Strategy
from ray_mixopt.acquisition.gain import RegretPerCost
from ray_mixopt.analysis.baselines import Method
from ray_mixopt.analysis.scores import Hindcast
from ray_mixopt.benchmark import problems, runner
from ray_mixopt.benchmark.markdown import table
from ray_mixopt.benchmark.methods import Entry
from ray_mixopt.benchmark.problem import BenchmarkProblem
from ray_mixopt.core.history import History
from ray_mixopt.optimizer import MixtureOptimizer
from ray_mixopt.strategies.default import DefaultSettings, DefaultStrategy
from ray_mixopt.surrogate.belief import FitSettings
from ray_mixopt.surrogate.kernels import PRIORS, MixtureFidelityKernel, Moments

SUITES = ("headline", "synthetic")


def with_settings(**changes: object) -> Callable[[Problem], Strategy]:
    """The default strategy with other constants."""
    return partial(DefaultStrategy, settings=DefaultSettings(**changes))


def with_priors(**priors: Moments) -> Callable[[Problem], Strategy]:
    """The default strategy with other priors of its kernel.

    Raises:
        ValueError: for a parameter that the kernel does not have.
    """
    if unknown := priors.keys() - PRIORS.keys():
        raise ValueError(f"The kernel has no {', '.join(sorted(unknown))}: there are {', '.join(PRIORS)}.")
    return partial(DefaultStrategy, kernel=partial(MixtureFidelityKernel, priors=priors))


NONE, FIXED = -12.0, 0.01  # a logarithm of nothing; the width of what is not learned


def without(name: str, part: int) -> Moments:
    """The prior of a parameter with several entries, one of which is nothing."""
    centre, width = (np.broadcast_to(value, 2).astype(float) for value in PRIORS[name])
    centre[part], width[part] = NONE, FIXED
    return tuple(centre.tolist()), tuple(width.tolist())


SEARCH: dict[str, Callable[[Problem], Strategy]] = {
    "no pairs late in the budget": with_settings(paired_share=0.0),
    "no limit on a single run": with_settings(largest_share=math.inf),
    "regret per cost, not cost^0.3": partial(DefaultStrategy, acquisition=RegretPerCost(cost_exponent=1.0)),
    "no caution": with_settings(caution=0.0),
    "no continued runs": DefaultStrategy,
}
"""Parts that decide what is run and answered."""

BELIEF: dict[str, Callable[[Problem], Strategy]] = {
    "one draw of the hyper-parameters": with_settings(fit=FitSettings(draws=1)),
    "no error that reports of a mixture share": with_priors(log_own=without("log_own", 0)),
    "no drift": partial(DefaultStrategy, kernel=partial(MixtureFidelityKernel, drift=0.0)),
    "no level of its own": with_priors(log_own=without("log_own", 1)),
    "no linear effect in log-shares": with_priors(log_linear=(NONE, FIXED)),
    "no linear effect in shares": with_priors(log_plain=(NONE, FIXED)),
    "shares instead of log-shares": with_priors(log_knee=(math.log(1e4), FIXED)),
    "no effect that fades with size": with_priors(log_fading=without("log_fading", 0)),
    "no effect that fades with length": with_priors(log_fading=without("log_fading", 1)),
    "the same effect at all fidelities": with_priors(log_fading=(NONE, FIXED)),
    "no curve": with_priors(log_curve=(NONE, FIXED)),
}
"""Parts of what is believed, which are what a backtest sees."""

VARIANTS: dict[str, Callable[[Problem], Strategy]] = {"default": DefaultStrategy, **SEARCH, **BELIEF}


def predicts(strategy: Callable[[Problem], Strategy]) -> Method:
    """The surrogate of a strategy as a method of a backtest."""

    def method(problem: Problem, given: History, asked: np.ndarray) -> Hindcast:
        forecast = MixtureOptimizer.of_history(given, replace(problem.settings, strategy=strategy)).predict(asked)
        return Hindcast(mean=forecast.mean, covariance=forecast.covariance)

    return method


PREDICTORS = {variant: predicts(VARIANTS[variant]) for variant in ("default", *BELIEF)}


def predict(*job: Any) -> tuple[Question, str, dict[str, Any]]:
    """The scores of some variants for an objective of a table."""
    return answer(*job, methods=PREDICTORS)


def of_tables(given: argparse.Namespace) -> None:
    """Backtests each variant on the tables, and writes means over metrics."""
    questions, names = chosen(given, PREDICTORS)
    questions = [question for question in questions if is_base({"question": question.name})]
    cells = Cells(given.out / "ablation")
    fill(cells, questions, names, given, predict)
    rows = flattened({q.name: {name: cells.of(q.name, name) for name in PREDICTORS} for q in questions})
    there = [question.name for question in questions if any(row["question"] == question.name for row in rows)]
    lines = []
    for variant in dict.fromkeys(row["method"] for row in rows):
        line = [variant]
        for question in there:
            of = [row for row in rows if (row["method"], row["question"]) == (variant, question)]
            line += [
                " ".join(number(mean(of, score), ".2f") for score in ("rank", "error")),
                " ".join((number(mean(of, "covered"), ".0%"), number(mean(of, "stated"), ".2f"))),
            ]
        lines.append(line)
    head = ["variant"]
    for question in there:
        head += [f"{question.partition('_')[0]}: rank, error", "95% hold, stated / true"]
    text = table(head, lines)
    print(text)
    (cells.folder / "table.md").write_text(text + "\n")


def search(variant: str, name: str, seed: int, target_runs: float) -> tuple[str, str, int, list[float]]:
    """Regret at the costs that the problem is scored at."""
    problem = problems.load(name, problems.default_data())
    settings = {"continuation": variant != "no continued runs"}
    entry = Entry(name=variant, strategy=VARIANTS[variant], settings=settings, domain="both")
    trace = runner.search(problem, entry, seed, target_runs * problem.space.target_cost).trace
    costs = scored(problem, target_runs)
    return variant, name, seed, [[p for p in trace if p.cost <= cost * (1 + 1e-9)][-1].regret for cost in costs]


def scored(problem: BenchmarkProblem, target_runs: float) -> list[float]:
    """The costs up to the budget at which a problem is scored, or the budget where all are larger."""
    budget = target_runs * problem.space.target_cost
    return [cost for cost in problem.score_costs if cost <= budget * (1 + 1e-9)] or [budget]


def main() -> None:
    """Runs and writes everything."""
    asked = {"draws": 5, "part": "tuning", "tables": "*", "questions": "*", "methods": "*"}
    given = arguments(__doc__, seeds="100-101", budget=2.0, suites=SUITES, **asked)
    names = {suite: problems.SUITES[suite] for suite in given.suites if suite != "tables"}
    jobs = [
        (variant, name, seed, given.budget)
        for variant in VARIANTS
        for suite in names.values()
        for name in suite
        for seed in given.seeds
    ]
    if jobs:
        of_searches(given, names, side_by_side(search, jobs, given.processes))
    if "tables" in given.suites:
        of_tables(given)


def of_searches(
    given: argparse.Namespace, names: Mapping[str, Sequence[str]], found: Sequence[tuple[str, str, int, list[float]]]
) -> None:
    """Writes what searches without each part have found."""
    tables = []
    for suite, members in names.items():
        costs = scored(problems.load(members[0], problems.default_data()), given.budget)
        head = ["variant", *(f"{suite}, {cost:g}" for cost in costs), "worst problem, last"]
        lines = []
        for variant in VARIANTS:
            by_problem = np.array([[row for v, n, _, row in found if (v, n) == (variant, name)] for name in members])
            means = by_problem.mean(1)
            lines.append([variant, *(f"{x:.3f}" for x in (*means.mean(0), means[:, -1].max()))])
        tables.append(table(head, lines))
    rows = [dict(zip(("variant", "problem", "seed", "regret"), row, strict=True)) for row in found]
    write(given.out, "ablation", "\n\n".join(tables), {"target_runs": given.budget, "found": rows})


if __name__ == "__main__":
    main()

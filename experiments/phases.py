"""A search of the mixtures of two phases beside one of a single mixture, where order matters and where it does not.

All search the same landscapes with the same budget. The first has the same mixture in both phases, and its runs pay for
no second phase at each rung; the regret of its answer counts what order could have brought. Of two phases there is a
search whose runs all begin at their start, and one whose runs may begin at a checkpoint of another.

    python experiments/phases.py --members 3 4 5 6 --budgets 0.5 1 2
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np

from ray_mixopt import MixtureOptimizer, MixtureSpace, Suggestion
from ray_mixopt.benchmark.problem import BenchmarkProblem
from ray_mixopt.benchmark.problems import load
from ray_mixopt.core.phased import phased


def regrets(
    problem: BenchmarkProblem, space: MixtureSpace, budgets: list[float], seed: int, *, branches: bool = True
) -> list[tuple[float, bool]]:
    """The regret of the answer at each budget, in target runs, and whether its phases differ."""
    whole = problem.space
    optimizer = MixtureOptimizer(space, budget=max(budgets) * whole.target_cost, seed=seed, branches=branches)
    found: list[tuple[float, bool]] = []

    def answered() -> tuple[float, bool]:
        mixture = whole.mixture(optimizer.answer().mixture)
        apart = phased(whole.simplex).apart(mixture[None])[0]
        return problem.regret(mixture), bool(np.abs(apart - apart[0]).max() > 1e-6)

    run: Suggestion | None
    while (run := optimizer.ask()) is not None:
        while len(found) < len(budgets) and optimizer.history.committed > budgets[len(found)] * whole.target_cost:
            found.append(answered())
        reached = optimizer.history[run.trial_id].reached
        for step in space.rungs(run.scale):
            if reached < step <= run.steps and (run.parent is None or step == run.steps):
                seen = problem.observe(whole.mixture(run.mixture), run.scale, step, (seed, len(optimizer.history)))
                optimizer.tell(run.trial_id, step, seen["loss"])
        optimizer.finish(run.trial_id)
    return found + [answered()] * (len(budgets) - len(found))


def main() -> None:
    """Prints a line a search, and a row a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipes", nargs="+", default=["5_no_order", "5_weak_order", "5_order"])
    parser.add_argument("--members", type=int, nargs="+", default=[3, 4, 5, 6])
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.5, 1.0, 2.0])
    given = parser.parse_args()
    table: dict[tuple[str, str], list[list[tuple[float, bool]]]] = {}
    for member in given.members:
        for recipe in given.recipes:
            problem = load(f"synthetic/{recipe}:{member}+noise=0.005")
            for name, space, branches in (
                ("one mixture", replace(problem.space, phases=()), False),
                ("two phases, no branches", problem.space, False),
                ("two phases", problem.space, True),
            ):
                rows = table.setdefault((recipe, name), [])
                rows.append(regrets(problem, space, given.budgets, member, branches=branches))
                print(recipe, member, name, [(round(r, 4), differs) for r, differs in rows[-1]], flush=True)
    for (recipe, name), rows in sorted(table.items()):
        cells = []
        for column in zip(*rows, strict=True):
            apart = sum(differs for _, differs in column)
            cells.append(f"{np.mean([r for r, _ in column]):.4f} ({apart} of {len(column)} apart)")
        print("|", recipe, "|", name, "|", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()

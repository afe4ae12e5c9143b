"""Whether a model that knows of repetition is right more often, where what passes are worth is known.

Landscapes of five domains, two of them scarce, whose best mixture passes 4 to 16 times over these. First, what the two
smallest scales say of the target: the differences between mixtures there, of which none has run; and what the next two
say that ran when there was a quarter of what is scarce. Then searches: with the passes known to the model, without
them, and both with at most four passes allowed. At the end of those that know of passes, what twice the tokens of a
domain would be worth, beside what it is.

    python experiments/repetition.py --members 3 4 5 6 --budgets 0.5 1 2
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from scipy.stats import spearmanr

from ray_mixopt import MixtureOptimizer, MixtureSpace, Suggestion
from ray_mixopt.benchmark.problem import BenchmarkProblem
from ray_mixopt.benchmark.problems import load
from ray_mixopt.benchmark.synthetic import Landscape

WALL = 4.0  # passes that are often said to be as good as new tokens
Told = Callable[[MixtureSpace], MixtureSpace]
TOLD: dict[str, Told] = {
    "passes known": lambda space: space,
    "not known": lambda space: replace(space, repetition=None),
    f"known, at most {WALL:g}": lambda space: replace(space, max_epochs=WALL),
    f"not known, at most {WALL:g}": lambda space: replace(space, repetition=None, max_epochs=WALL),
}
_HIDDEN = 100  # mixtures whose differences at the target are predicted


def earlier(problem: BenchmarkProblem) -> BenchmarkProblem:
    """The same landscape when there was a quarter of the tokens of each domain that is scarce."""
    landscape, space = problem.oracle, problem.space
    assert isinstance(landscape, Landscape)
    supply = {name: n / 4 if n < space.target_tokens / 10 else n for name, n in space.token_supply.items()}
    return replace(problem, oracle=landscape.supplied(supply))


def predicted(problem: BenchmarkProblem, told: Told, n: int, seed: int, *, old: bool = False) -> list[float]:
    """Of the differences from the mean of the hidden mixtures: rank correlation, error over spread, and coverage.

    Args:
        problem: of which the runs are.
        told: what the model is told of it.
        n: mixtures that ran at the two smallest scales.
        seed: of the mixtures.
        old: whether they ran at the two scales after the smallest, in an earlier search with less data.
    """
    optimizer, ran = MixtureOptimizer(told(problem.space), seed=seed), earlier(problem) if old else problem
    rng, whole = np.random.default_rng([seed, n]), problem.space
    given = MixtureOptimizer(told(ran.space))
    for i, mixture in enumerate(whole.sample(n, rng)):
        for scale in whole.scale_names[1:3] if old else whole.scale_names[:2]:
            for steps in whole.rungs(scale):
                seen = ran.observe(mixture, scale, steps, (seed, i))["loss"]
                given.add_evaluated_point(whole.named(mixture), scale, steps, seen, trial_id=f"{scale}/{i}")
    optimizer.absorb(given.history)
    hidden = whole.sample(_HIDDEN, rng)
    truth = problem.truth.losses(hidden)
    forecast = optimizer.predict(hidden)
    centre = np.eye(_HIDDEN) - 1 / _HIDDEN
    error = centre @ (forecast.mean - truth)
    sd = np.sqrt((centre @ forecast.covariance @ centre).diagonal())
    return [
        float(spearmanr(forecast.mean, truth).statistic),
        float(np.sqrt(np.mean(error**2)) / truth.std()),
        float(np.mean(np.abs(error) <= 1.96 * sd)),
        float(abs(np.mean(forecast.mean - truth)) / truth.mean()),
    ]


def searched(
    problem: BenchmarkProblem, space: MixtureSpace, budgets: list[float], seed: int
) -> tuple[list[float], list[list[float]]]:
    """The regret of the answer at each budget, in target runs, and what more data is worth in the end.

    Of the latter a row for each domain that is repeated: by how much twice its tokens make the objective better, the
    mean and the ends of its interval as predicted, and as it is; before them its passes.
    """
    optimizer = MixtureOptimizer(space, budget=max(budgets) * space.target_cost, seed=seed)
    found: list[float] = []

    def answered() -> float:
        return problem.regret(space.mixture(optimizer.answer().mixture))

    run: Suggestion | None
    while (run := optimizer.ask()) is not None:
        while len(found) < len(budgets) and optimizer.history.committed > budgets[len(found)] * space.target_cost:
            found.append(answered())
        reached = optimizer.history[run.trial_id].reached
        for step in space.rungs(run.scale):
            if reached < step <= run.steps:
                seen = problem.observe(space.mixture(run.mixture), run.scale, step, (seed, len(optimizer.history)))
                optimizer.tell(run.trial_id, step, seen["loss"])
        optimizer.finish(run.trial_id)
    gains = []
    if space.repetition and isinstance(landscape := problem.oracle, Landscape):
        answer = optimizer.recommend(details=True)
        best, at = space.mixture(answer.mixture)[None], (space.target_scale, space.target_steps)
        for more in answer.details.more_data if answer.details else ():
            twice = {**space.token_supply, more.domain: 2 * space.token_supply[more.domain]}
            gained = landscape.evaluate(best, *at) - landscape.supplied(twice).evaluate(best, *at)
            gains.append([more.passes, more.gain.mean, more.gain.low, more.gain.high, float(gained[0, 0])])
    return found + [answered()] * (len(budgets) - len(found)), gains


def main() -> None:
    """Prints a line a search, and a row a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipes", nargs="+", default=["5_scarce", "5_scarce_log", "5_matched"])
    parser.add_argument("--told", nargs="+", choices=list(TOLD), default=list(TOLD))
    parser.add_argument("--members", type=int, nargs="+", default=[3, 4, 5, 6])
    parser.add_argument("--given", type=int, nargs="*", default=[8, 16, 40])
    parser.add_argument(
        "--seed", type=int, default=0, help="of the searches, each of which adds its member to ten of it"
    )
    parser.add_argument("--budgets", type=float, nargs="*", default=[0.5, 1.0, 2.0])
    given = parser.parse_args()
    table: dict[tuple[str, str, str], list[list[float]]] = {}
    for member in given.members:
        for recipe in given.recipes:
            problem = load(f"synthetic/{recipe}:{member}+noise=0.005")
            for name in given.told:
                space = TOLD[name](problem.space)
                cells = {}
                for n in given.given if "most" not in name else ():
                    cells[f"from {n}"] = predicted(problem, TOLD[name], n, member)
                    cells[f"from {n} with less data"] = predicted(problem, TOLD[name], n, member, old=True)
                if given.budgets:
                    cells["searched"], gains = searched(problem, space, given.budgets, 10 * given.seed + member)
                    for gain in gains:
                        print(recipe, member, "more data", [round(x, 4) for x in gain], flush=True)
                for what, numbers in cells.items():
                    table.setdefault((recipe, what, name), []).append(numbers)
                    print(recipe, member, name, what, [round(x, 4) for x in numbers], flush=True)
    for (recipe, what, name), rows in sorted(table.items()):
        print("|", recipe, "|", what, "|", name, "|", " | ".join(f"{x:.4f}" for x in np.mean(rows, 0)), "|", flush=True)


if __name__ == "__main__":
    main()

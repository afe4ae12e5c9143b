"""What no search of a fidelity can beat: regret at the target of the mixture that is best somewhere cheaper.

    python experiments/limits.py

A search that knew every loss at a fidelity exactly, and nothing of larger ones, would recommend that mixture. Beside it
is how much of the landscape transfers: the correlation with the target, over Dirichlet(1) mixtures, of what is left of
the objective when its best fit that is linear in the shares is taken away. The last rows are of the target itself: its
best linear fit, and the best single domain. Without noise.

The same correlation is also between any two scales at the last step, a mean over metrics: of the reference network, and
of logged runs, over the mixtures that both scales have, noise included. Writes experiments/results/limits.json and .md.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
from harness import arguments, write

from ray_mixopt.benchmark import problems
from ray_mixopt.benchmark.markdown import table
from ray_mixopt.benchmark.problem import BenchmarkProblem

SUITES = ("headline", "sums")
SOURCES = ("slimpajama/val_loss/c4", "regmix/loss", "mixinglaws/loss")  # any problem of each
Found = dict[str, dict[str, dict[str, dict[str, float]]]]  # by suite, problem, kind of number, and what is known
LINEAR, SINGLE = "best linear fit at the target", "best single domain"


def limits(problem: BenchmarkProblem, n: int, rng: np.random.Generator) -> tuple[dict[str, float], dict[str, float]]:
    """Regret by what is known, and correlation with the target by fidelity.

    Args:
        problem: what is searched.
        n: number of mixtures of each kind: Dirichlet(1), and Dirichlet(0.3), which reaches edges and corners.
        rng: draws them.
    """
    space, n_domains = problem.space, problem.space.n_domains
    columns = [problem.oracle.metrics.index(name) for name in problem.objective]
    weights = np.array(list(problem.objective.values())) * (1 if problem.mode == "min" else -1)
    uniform = space.sample(n, rng)
    mixtures = np.concatenate([uniform, rng.dirichlet(np.full(n_domains, 0.3), n), np.eye(n_domains)])

    def losses(scale: str, steps: int) -> np.ndarray:
        result: np.ndarray = problem.oracle.evaluate(mixtures, scale, steps)[:, columns] @ weights
        return result

    def regret(values: np.ndarray) -> float:
        return problem.regret(mixtures[values.argmin()])

    fitted, rest = _linear_fit(mixtures[:n])
    target = losses(space.target_scale, space.target_steps)
    regrets, correlations = {}, {}
    for scale in space.scales:
        for steps in space.steps:
            values = losses(scale.name, steps)
            regrets[fidelity(scale.name, steps)] = regret(values)
            remains = np.corrcoef(rest(values[:n]), rest(target[:n]))[0, 1]
            correlations[fidelity(scale.name, steps)] = float(remains)
    regrets[LINEAR] = regret(mixtures @ fitted(target[:n]))
    regrets[SINGLE] = min(problem.regret(corner) for corner in np.eye(n_domains))
    return regrets, correlations


def shared_by_scales(problem: BenchmarkProblem, n: int) -> list[tuple[str, str, int, float]]:
    """Pairs of scales, how many mixtures both have, and the mean correlation over metrics."""
    space, pool = problem.space, problem.pool
    everywhere = space.sample(n, np.random.default_rng(0))
    result = []
    for one, other in combinations(space.scale_names, 2):
        mixtures = everywhere
        if pool is not None:
            last = pool.available[..., space.steps.index(space.target_steps)]
            mixtures = pool.mixtures[last[:, [space.scale_names.index(scale) for scale in (one, other)]].all(axis=1)]
        if len(mixtures) <= 2 * space.n_domains:
            continue
        _, rest = _linear_fit(mixtures)
        left = [rest(problem.oracle.evaluate(mixtures, scale, space.target_steps)).T for scale in (one, other)]
        correlation = np.nanmean([np.corrcoef(*metric)[0, 1] for metric in zip(*left, strict=True)])
        result.append((one, other, len(mixtures), float(correlation)))
    return result


def fidelity(scale: str, steps: int) -> str:
    """How the tables call it."""
    return f"{scale}, {steps:,} steps"


def _linear_fit(
    mixtures: np.ndarray,
) -> tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]:
    """Functions of values at the mixtures: least-squares weights of the shares, and what these leave."""
    inverse = np.linalg.pinv(mixtures)
    return lambda values: inverse @ values, lambda values: values - mixtures @ (inverse @ values)


def main() -> None:
    """Computes and writes everything."""
    given = arguments(__doc__, suites=SUITES, mixtures=20_000)
    rng = np.random.default_rng(0)
    found: Found = {}
    for suite in given.suites:
        for name in problems.SUITES[suite]:
            regrets, correlations = limits(problems.load(name, problems.default_data()), given.mixtures, rng)
            found.setdefault(suite, {})[name] = {"regret": regrets, "correlation": correlations}
    by_scales = {
        name.split("/")[0]: shared_by_scales(problems.load(name, problems.default_data()), given.mixtures)
        for name in SOURCES
    }
    rows = [[name, *map(str, pair[:3]), f"{pair[3]:.2f}"] for name, pairs in by_scales.items() for pair in pairs]
    text = f"{rendered(found)}\n\n{table(['source', 'scale', 'scale', 'mixtures', 'correlation'], rows)}"
    write(given.out, "limits", text, {**found, "scales": by_scales})


def rendered(found: Found) -> str:
    """Fidelities by cost, then the target's rows: means over the problems of a suite, and the worst."""
    space = problems.load(next(iter(found[next(iter(found))])), problems.default_data()).space
    costs = {fidelity(s.name, z): space.cost(s.name, z) for s in space.scales for z in space.steps}
    head = ["known exactly", "cost of a run"]
    head += [f"{suite}: {what}" for suite in found for what in ("regret", "worst", "correlation")]
    lines = []
    for row in [*sorted(costs, key=costs.__getitem__), LINEAR, SINGLE]:
        line = [row, f"{costs[row]:.1f}" if row in costs else ""]
        for suite in found:
            each = list(found[suite].values())
            regrets = [problem["regret"][row] for problem in each]
            correlations = [problem["correlation"][row] for problem in each if row in costs]
            line += [f"{np.mean(regrets):.3f}", f"{max(regrets):.3f}"]
            line.append(f"{np.mean(correlations):.2f}" if correlations else "")
        lines.append(line)
    return table(head, lines)


if __name__ == "__main__":
    main()

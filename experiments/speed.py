"""How long a suggestion takes, with what is known and with the number of domains; beside BoTorch's knowledge gradient.

    python experiments/speed.py

Each row asks and tells 60 times from a history of random runs, no two of the same mixture. The first suggestion fits
the hyper-parameters, and so does each one that finds a tenth more data than the last fit. ``qMFKG`` is BoTorch's
multi-fidelity knowledge gradient on a ``SingleTaskMultiFidelityGP``, with the settings of its tutorial, three
suggestions. ``--most`` leaves out larger numbers of observations. Writes experiments/results/speed.json and .md.
"""

from __future__ import annotations

import resource
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from harness import arguments, write

from ray_mixopt import MixtureOptimizer, MixtureSpace, Scale
from ray_mixopt.benchmark.markdown import table
from ray_mixopt.benchmark.record import machine, versions

SIZES = ((5, 50), (5, 200), (5, 500), (30, 500), (5, 1000), (5, 3000))
QMFKG_SIZES = ((5, 50), (5, 200))
STEPS = (2000, 6000, 12000, 19700)


def space(d: int) -> MixtureSpace:
    """The paper's scales with any number of domains."""
    scales = tuple(Scale(f"{m}M", m / 1000, m * 1e6) for m in (20, 60, 150, 300, 500, 700, 1000))
    return MixtureSpace(domains=tuple(f"d{i}" for i in range(d)), scales=scales, steps=STEPS)


def runs(where: MixtureSpace, n: int) -> list[tuple[np.ndarray, Scale, int, float]]:
    """Random runs of a smooth loss with a little noise: mixture, scale, steps and loss."""
    rng = np.random.default_rng(0)
    best = rng.dirichlet(np.ones(where.n_domains))
    found = []
    for _ in range(n):
        w, scale, steps = rng.dirichlet(np.ones(where.n_domains)), where.scales[rng.integers(7)], STEPS[rng.integers(4)]
        loss = 2 + 3 * np.square(w - best).sum() + 0.1 / scale.cost_per_step**0.2 + 30 / steps**0.5
        found.append((w, scale, steps, float(loss + 0.003 * rng.standard_normal())))
    return found


def ours(d: int, n: int, repeats: int) -> list[float]:
    """Seconds of each suggestion of the default strategy."""
    where = space(d)
    optimizer = MixtureOptimizer(where, seed=0)
    for w, scale, steps, loss in runs(where, n):
        optimizer.add_evaluated_point(where.named(w), scale.name, steps, loss)
    rng, seconds = np.random.default_rng(1), []
    for _ in range(repeats):
        start = time.perf_counter()
        suggestion = optimizer.ask()
        seconds.append(time.perf_counter() - start)
        assert suggestion is not None
        optimizer.tell(suggestion.trial_id, suggestion.steps, 2.5 + 0.1 * rng.standard_normal())
        optimizer.finish(suggestion.trial_id)
    return seconds


def qmfkg(d: int, n: int, repeats: int) -> list[float]:
    """Seconds of each suggestion of BoTorch's tutorial: fit, current value, one-shot knowledge gradient."""
    from botorch.acquisition import PosteriorMean
    from botorch.acquisition.cost_aware import InverseCostWeightedUtility
    from botorch.acquisition.fixed_feature import FixedFeatureAcquisitionFunction
    from botorch.acquisition.knowledge_gradient import qMultiFidelityKnowledgeGradient
    from botorch.acquisition.utils import project_to_target_fidelity
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import AffineFidelityCostModel, SingleTaskMultiFidelityGP
    from botorch.models.transforms import Standardize
    from botorch.optim import optimize_acqf
    from gpytorch.mlls import ExactMarginalLogLikelihood

    warnings.filterwarnings("ignore")
    where, fidelities = space(d), {d - 1: 1.0, d: 1.0}
    x = np.array([[*w[:-1], s.cost_per_step, z / STEPS[-1]] for w, s, z, _ in runs(where, n)])
    train_x = torch.from_numpy(x)
    train_y = -torch.tensor([[loss] for *_, loss in runs(where, n)], dtype=torch.float64)
    bounds = torch.tensor([[0.0] * (d + 1), [1.0] * (d + 1)], dtype=torch.float64)
    simplex = [(torch.arange(d - 1), -torch.ones(d - 1, dtype=torch.float64), -1.0)]
    seconds = []
    torch.manual_seed(0)
    for _ in range(repeats):
        start = time.perf_counter()
        model = SingleTaskMultiFidelityGP(
            train_x, train_y, data_fidelities=list(fidelities), outcome_transform=Standardize(1)
        )
        fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
        at_target = FixedFeatureAcquisitionFunction(PosteriorMean(model), d + 1, list(fidelities), [1.0, 1.0])
        _, current = optimize_acqf(
            at_target, bounds[:, : d - 1], 1, num_restarts=10, raw_samples=1024, inequality_constraints=simplex
        )
        acquisition = qMultiFidelityKnowledgeGradient(
            model=model,
            num_fantasies=128,
            current_value=current,
            cost_aware_utility=InverseCostWeightedUtility(AffineFidelityCostModel(fidelities, fixed_cost=0.01)),
            project=lambda x: project_to_target_fidelity(x, target_fidelities=fidelities, d=d + 1),
        )
        optimize_acqf(
            acquisition, bounds, 1, num_restarts=5, raw_samples=128, options={"batch_limit": 5, "maxiter": 200}
        )
        seconds.append(time.perf_counter() - start)
    return seconds


def main() -> None:
    """Runs and writes everything."""
    given = arguments(__doc__, repeats=60, threads=2, most=3000)
    torch.set_num_threads(given.threads)
    methods: tuple[tuple[str, Callable[..., list[float]], tuple[tuple[int, int], ...], int], ...] = (
        ("default", ours, SIZES, given.repeats),
        ("qMFKG", qmfkg, QMFKG_SIZES, min(3, given.repeats)),
    )
    head = ["method", "domains", "observations", "median (s)", "p95 (s)", "longest (s)", "memory of the process (MiB)"]
    lines, found = [], []
    for name, method, sizes, repeats in methods:
        for d, n in ((d, n) for d, n in sizes if n <= given.most):
            seconds = method(d, n, repeats)
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            numbers = [np.median(seconds), np.quantile(seconds, 0.95), max(seconds)]
            lines.append([name, str(d), str(n), *(f"{x:.2f}" for x in numbers), f"{memory:.0f}"])
            found.append({"method": name, "domains": d, "observations": n, "seconds": seconds, "MiB": memory})
            print(" | ".join(lines[-1]), flush=True)
    about = {"threads": given.threads, "machine": machine(), "versions": versions()}
    write(given.out, "speed", table(head, lines), {**about, "found": found})


if __name__ == "__main__":
    main()

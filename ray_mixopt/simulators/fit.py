"""Fits the embedded simulator: a small smooth network distilled from a reference network with ReLU units.

The reference is the simulator of "Data Mixture Optimization: A Multi-fidelity Multi-scale Bayesian Framework"
(arXiv 2503.21023): a multi-layer perceptron from five shares, millions of parameters and steps to eleven metrics,
fitted by its authors to 472 pre-training runs. Its weights are not shipped. ``fit_simulator`` trains a network of our
own, from a random start, on the reference's answers to random questions.

Rankings of mixtures matter more than levels here: each error is measured against the standard deviation of that metric
over mixtures at the same scale and steps, so that HellaSwag's small differences at 20M count as much as the large ones
at 1B.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING
from zipfile import BadZipFile

import numpy as np

from ray_mixopt.core.space import MixtureSpace, Scale
from ray_mixopt.simulators.fit_report import FitReport
from ray_mixopt.simulators.simulator import Network, Simulator

if TYPE_CHECKING:
    import torch

NAME = "slimpajama"
METRICS = (
    "train_loss",
    *(f"val_loss/{d}" for d in ("common_crawl", "c4", "wikipedia", "stackexchange", "github", "arxiv", "book")),
    *(f"accuracy/{task}" for task in ("hellaswag", "piqa", "arc_easy")),
)
FITTED_STEPS = (100, 19_700)
TESTED_STEPS = (500, 19_700)  # the reference bends most in the first few hundred steps, where nobody decides anything
SPACE = MixtureSpace(
    domains=("wikipedia", "stackexchange", "github", "arxiv", "book"),
    # Costs per step as logged by the paper's authors; 100 steps of 1B cost 1.
    scales=(
        Scale("20M", cost_per_step=0.00012963288309111339, parameters=20e6),
        Scale("60M", cost_per_step=0.00032318410379188076, parameters=60e6),
        Scale("150M", cost_per_step=0.0007484392986066876, parameters=150e6),
        Scale("300M", cost_per_step=0.00147730659731539, parameters=300e6),
        Scale("500M", cost_per_step=0.0021662249349870538, parameters=500e6),
        Scale("700M", cost_per_step=0.0029829799480020447, parameters=700e6),
        Scale("1B", cost_per_step=0.01, parameters=1e9),
    ),
    steps=(2000, 6000, 12000, 19700),
)
HIDDEN = (96, 96, 96)
ITERATIONS = 12_000
GROUPS, GROUP_SIZE = 64, 64  # a batch: fidelities x mixtures at each


def load_reference(path: str | Path) -> Simulator:
    """The reference network as a ``Simulator`` in double precision, with the same space and metrics as the fitted one.

    Args:
        path: an ``.npz`` with ``weight_0..3``, ``bias_0..3``, ``x_mean``, ``x_std``, ``y_mean`` and ``y_std``; ReLU
            between the layers; inputs are the five shares, millions of parameters and steps.

    Raises:
        ValueError: if the file lacks one of these arrays.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: np.asarray(value, dtype=np.float64) for key, value in file.items()}
    except (ValueError, EOFError, BadZipFile, AttributeError) as error:  # numpy's advice would be to trust it
        raise ValueError(f"{str(path)!r} is no reference network: it is not an .npz file, or damaged.") from error
    layers = sum(key.startswith("weight_") for key in arrays)
    needed = {f"{part}_{i}" for part in ("weight", "bias") for i in range(layers)}
    missing = ({"x_mean", "x_std", "y_mean", "y_std", "weight_0"} | needed) - set(arrays)
    if missing:
        raise ValueError(f"{str(path)!r} is no reference network: it lacks {', '.join(sorted(missing))}.")
    weights = [arrays[f"weight_{i}"] for i in range(layers)]
    biases = [arrays[f"bias_{i}"] for i in range(layers)]
    d = SPACE.n_domains
    scaled = weights[0] / arrays["x_std"]
    biases[0] = biases[0] - scaled @ arrays["x_mean"]
    largest = SPACE.scales[-1].parameters
    assert largest is not None
    # The fidelity features are log(m/m*), m/m*, log(z/z*), z/z*; the reference uses m in millions and z only.
    first = np.zeros((len(scaled), d + 4))
    first[:, :d] = scaled[:, :d]
    first[:, d + 1] = scaled[:, d] * largest / 1e6
    first[:, d + 3] = scaled[:, d + 1] * FITTED_STEPS[1]
    weights[0] = first
    return _simulator(weights, biases, arrays["y_mean"], arrays["y_std"], activation="relu", dtype=np.float64)


def sample_mixtures(n: int, rng: np.random.Generator, corners: float = 0.05) -> np.ndarray:
    """Mixtures to fit and test on, ``n x d``: half Dirichlet(1), half Dirichlet(0.3), a share of them exact corners."""
    d = SPACE.n_domains
    concentration = np.where(rng.random(n) < 0.5, 1.0, 0.3)
    weights = np.maximum(rng.standard_gamma(concentration[:, None], (n, d)), 1e-12)
    mixtures: np.ndarray = weights / weights.sum(axis=1, keepdims=True)
    corner = rng.random(n) < corners
    mixtures[corner] = np.eye(d)[rng.integers(d, size=int(corner.sum()))]
    return mixtures


def fit_simulator(
    reference_path: str | Path,
    out_path: str | Path,
    seed: int = 0,
    *,
    iterations: int = ITERATIONS,
    progress: Callable[[str], None] | None = None,
) -> FitReport:
    """Fits the simulator and writes it, with a card in Markdown beside it.

    Takes about four minutes on one core with the default number of iterations.

    Args:
        reference_path: the reference network, see ``load_reference``.
        out_path: where the ``.npz`` goes; the card gets the same name with ``.md``.
        seed: seed of the start, the training questions and the test questions.
        iterations: number of training batches.
        progress: called with a line of text now and then.

    Raises:
        ValueError: if ``out_path`` does not end in ``.npz`` or the reference cannot be read.
    """
    out = Path(out_path)
    if out.suffix != ".npz":
        raise ValueError(f"The simulator is written as .npz, got {str(out)!r}.")
    start = time.process_time()
    reference = load_reference(reference_path)
    fitted = _distill(reference, seed, iterations, progress or (lambda line: None))
    fitted.save(out)
    seconds = time.process_time() - start
    report = compare(Simulator.read(out), reference, seed=seed)
    report = replace(report, iterations=iterations, fit_seconds=seconds)
    out.with_suffix(".md").write_text(_card(report))
    return report


def compare(fitted: Simulator, reference: Simulator, *, seed: int = 0) -> FitReport:
    """Measures how well a simulator agrees with its reference, on random questions."""
    from scipy.stats import spearmanr

    rng = np.random.default_rng([seed, 1])  # not the stream that the fit drew its questions from
    answers: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for scale, steps in _fidelities(700, rng, TESTED_STEPS):
        mixtures = sample_mixtures(200, rng)
        for answer, simulator in zip(answers, (fitted, reference), strict=True):
            answer.append(simulator.evaluate(mixtures, scale, steps))
    got, wanted = map(np.concatenate, answers)
    r2 = 1 - ((got - wanted) ** 2).mean(axis=0) / wanted.var(axis=0)

    target = SPACE.target_scale, FITTED_STEPS[1]
    small = SPACE.scale_names[0], FITTED_STEPS[1]
    mixtures = np.concatenate([sample_mixtures(200_000, rng), SPACE.corners()])
    got, wanted = fitted.evaluate(mixtures, *target), reference.evaluate(mixtures, *target)
    sign = np.array([1.0 if reference.modes[name] == "min" else -1.0 for name in reference.metrics])
    best = (wanted * sign).min(axis=0)
    found = (wanted * sign)[(got * sign).argmin(axis=0), np.arange(len(sign))]
    random = np.median(sign * reference.evaluate(SPACE.sample(100_000, rng), *target), axis=0)

    few = slice(-20_000, None)

    def rank_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.array([spearmanr(a[:, j], b[:, j]).statistic for j in range(len(sign))])

    batch = SPACE.sample(100_000, rng)
    seconds = []
    for _ in range(5):
        start = time.process_time()  # of this process alone, and of all its threads
        fitted.evaluate(batch, *target)
        seconds.append(time.process_time() - start)
    return FitReport(
        metrics=fitted.metrics,
        r2=r2,
        spearman=rank_correlation(got[few], wanted[few]),
        reversal_reference=rank_correlation(reference.evaluate(mixtures[few], *small), wanted[few]),
        reversal_fitted=rank_correlation(fitted.evaluate(mixtures[few], *small), got[few]),
        regret=(found - best) / (random - best),
        mixtures_per_second=len(batch) / float(np.median(seconds)),
        seed=seed,
    )


# -- inside


def _card(report: FitReport) -> str:
    """What was fitted, on what, how, and how well, in Markdown."""
    smallest, largest = SPACE.scale_names[0], SPACE.scale_names[-1]
    longest = f"{FITTED_STEPS[1]:,}"
    what = f"""What a pre-training run on a mixture of {", ".join(SPACE.domains)} would report, at scales from
        {smallest} to {largest} and after {FITTED_STEPS[0]} to {longest} training steps: {len(report.metrics)} metrics,
        of which `loss` is the mean of the seven validation losses."""
    source = """**Fitted on** the answers of the reference simulator of "Data Mixture Optimization: A Multi-fidelity
        Multi-scale Bayesian Framework" (arXiv 2503.21023), which its authors fitted to 472 OLMo 2 pre-training runs on
        SlimPajama. No run and no weight of theirs is in this file."""
    how = f"""**How**: a network of {" x ".join(map(str, HIDDEN))} smooth units, `x + sqrt(x^2 + 1)`, on the five shares
        and on parameters and steps, both as they are and as logarithms, relative to {largest} and {longest}. Trained
        from a random start (seed {report.seed}) on {report.iterations:,} fresh batches of {GROUPS} fidelities x
        {GROUP_SIZE} mixtures: half Dirichlet(1), half Dirichlet(0.3), 5% exact corners; all seven scales; steps
        log-uniform or uniform; a quarter of the fidelities at the target, {largest} x {longest}. Errors are measured
        against each metric's standard deviation over the mixtures at the same fidelity, so that rankings are kept
        where differences are small. Muon for the square matrices, Adam for the rest, cosine decay;
        {report.fit_seconds:.0f} s of processor time on the machine that wrote this card."""
    command = (
        f"    OMP_NUM_THREADS=1 ray-mixopt simulator fit --reference reference_mlp.npz --out {NAME}.npz"
        f" --seed {report.seed}"
    )
    measures = f"""**How well**, against the reference on questions not trained on. R²: over mixtures as above, all
        scales, {TESTED_STEPS[0]} to {TESTED_STEPS[1]:,} steps. Spearman: rank correlation of mixtures at {largest} x
        {longest}. {smallest} vs target: rank correlation of mixtures between {smallest} and {largest}, both at
        {longest} steps; it is negative for HellaSwag, where small models mislead. Regret: by the reference, of the
        mixture that this simulator finds best at the target among 200,000 and the corners; 0 is the best of them, 1
        the median Dirichlet(1) mixture."""
    speed = f"""Throughput of `evaluate` in batches of 100,000 on one core of the machine that wrote this card:
        {report.mixtures_per_second / 1e6:.1f} million mixtures/s."""
    limits = f"""**Limits**: a model of a model. It says nothing about other domains, scales between or beyond the
        seven, or lengths outside {FITTED_STEPS[0]} to {longest} steps, and refuses them. Under {TESTED_STEPS[0]} steps
        it is less exact than the table says. The reference has kinks where this network is smooth, and errors of its
        own against the real runs (R² above 0.95 on held-out runs, by its authors)."""

    def wrapped(text: str) -> str:
        return fill(" ".join(text.split()), 118, break_long_words=False, break_on_hyphens=False)

    before = [f"# Simulator `{NAME}`", *map(wrapped, (what, source, how)), command, wrapped(measures)]
    return "\n\n".join([*before, report.table(), *map(wrapped, (speed, limits))]) + "\n"


def _fidelities(n: int, rng: np.random.Generator, steps: tuple[int, int]) -> list[tuple[str, int]]:
    """Random scales, and steps that are log-uniform for one half and uniform for the other."""
    low, high = steps
    even = rng.uniform(low, high, n)
    log = np.exp(rng.uniform(np.log(low), np.log(high), n))
    drawn = np.clip(np.round(np.where(rng.random(n) < 0.5, even, log)), low, high).astype(int).tolist()
    names = SPACE.scale_names
    return [(names[i], z) for i, z in zip(rng.integers(len(names), size=n).tolist(), drawn, strict=True)]


def _questions(n: int, size: int, rng: np.random.Generator, simulator: Simulator) -> np.ndarray:
    """Inputs of a batch, ``n * size`` rows: ``size`` mixtures at each of ``n`` fidelities, a quarter at the target."""
    fidelities = _fidelities(n, rng, FITTED_STEPS)
    target = SPACE.target_scale, FITTED_STEPS[1]
    fidelities = [target if chosen else f for f, chosen in zip(fidelities, rng.random(n) < 0.25, strict=True)]
    features = np.array([simulator.features(*fidelity) for fidelity in fidelities])
    return np.column_stack([sample_mixtures(n * size, rng), np.repeat(features, size, axis=0)])


def _distill(reference: Simulator, seed: int, iterations: int, progress: Callable[[str], None]) -> Simulator:
    """A smooth network trained on the reference's answers."""
    import torch

    rng = np.random.default_rng([seed, 0])
    generator = torch.Generator().manual_seed(seed)
    teacher = [
        (_tensor(w), _tensor(b)) for w, b in zip(reference.network.weights, reference.network.biases, strict=True)
    ]

    def answers(x: torch.Tensor) -> torch.Tensor:
        for w, b in teacher[:-1]:
            x = torch.relu(x @ w.T + b)
        return x @ teacher[-1][0].T + teacher[-1][1]  # (rows, n_metrics), with the derived loss

    sample = _questions(1000, GROUP_SIZE, rng, reference)
    x_mean, x_std = sample.mean(axis=0), sample.std(axis=0)
    y = answers(_tensor(sample)).double().numpy()
    y_mean, y_std = y[:, : len(METRICS)].mean(axis=0), y[:, : len(METRICS)].std(axis=0)
    floor = _tensor(0.02 * y.std(axis=0))
    # From standardised outputs to errors in the units of all metrics.
    to_metrics = _tensor(_with_loss(np.diag(y_std)))

    sizes = (len(x_mean), *HIDDEN, len(METRICS))
    weights = [torch.randn(b, a, generator=generator) / a**0.5 for a, b in pairwise(sizes)]
    for w in weights[1:]:
        w *= 0.5  # the activation has slope 1 at 0 and 2 far to the right
    biases = [torch.zeros(b) for b in sizes[1:]]
    for parameter in (*weights, *biases):
        parameter.requires_grad_()
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(weights[1:-1], lr=0.02, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
        torch.optim.Adam([weights[0], weights[-1], *biases], lr=0.02, betas=(0.9, 0.99)),
    ]
    warm_up = min(200, 1 + iterations // 10)
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda k: min(1.0, (k + 1) / warm_up) * 0.5 * (1 + np.cos(np.pi * k / iterations))
        )
        for optimizer in optimizers
    ]
    offset = _tensor(_with_loss(y_mean[:, None])[:, 0])
    mean, std = _tensor(x_mean), _tensor(x_std)
    for iteration in range(iterations):
        raw = _tensor(_questions(GROUPS, GROUP_SIZE, rng, reference))
        wanted = answers(raw)
        x = (raw - mean) / std
        for w, b in zip(weights[:-1], biases[:-1], strict=True):
            x = torch.addmm(b, x, w.T)
            x = x + (x * x + 1).sqrt()
        got = torch.addmm(biases[-1], x, weights[-1].T) @ to_metrics.T + offset
        spread = wanted.view(GROUPS, GROUP_SIZE, -1).std(dim=1, keepdim=True).clamp_min(floor)
        error = ((got - wanted).view(GROUPS, GROUP_SIZE, -1) / spread).square().mean()
        for optimizer in optimizers:
            optimizer.zero_grad()
        torch.autograd.backward(error)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        if iteration % 1000 == 0 or iteration == iterations - 1:
            progress(f"batch {iteration:,} of {iterations:,}: mean squared error / variance over mixtures {error:.5f}")

    last_weights = [w.detach().double().numpy() for w in weights]
    last_biases = [b.detach().double().numpy() for b in biases]
    last_weights[0] = last_weights[0] / x_std
    last_biases[0] = last_biases[0] - last_weights[0] @ x_mean
    return _simulator(last_weights, last_biases, y_mean, y_std, activation="squareplus", dtype=np.float32)


def _simulator(
    weights: list[np.ndarray],
    biases: list[np.ndarray],
    y_mean: np.ndarray,
    y_std: np.ndarray,
    *,
    activation: str,
    dtype: type[np.floating],
) -> Simulator:
    """A simulator around layers that answer in standardised units; the last one gets those units and the loss."""
    weights, biases = list(weights), list(biases)
    weights[-1] = _with_loss(weights[-1] * y_std[:, None])
    biases[-1] = _with_loss((biases[-1] * y_std + y_mean)[:, None])[:, 0]
    metrics = (*METRICS, "loss")
    largest = SPACE.scales[-1].parameters
    assert largest is not None
    simulator = Simulator(
        name=NAME,
        space=SPACE,
        metrics=metrics,
        modes={name: "max" if name.startswith("accuracy/") else "min" for name in metrics},
        default_metric="val_loss/common_crawl",  # web text that no domain contains
        network=Network(
            weights=tuple(w.astype(dtype) for w in weights),
            biases=tuple(b.astype(dtype) for b in biases),
            activation=activation,
        ),
        fitted_steps=FITTED_STEPS,
        unit_parameters=largest,
        spread=np.ones(len(metrics)),
    )
    mixtures = SPACE.sample(100_000, np.random.default_rng(0))
    values = simulator.evaluate(mixtures, SPACE.target_scale, FITTED_STEPS[1])
    return replace(simulator, spread=values.std(axis=0))


def _with_loss(rows: np.ndarray) -> np.ndarray:
    """Rows for all metrics, and below them the mean of those of the validation losses."""
    losses = [i for i, name in enumerate(METRICS) if name.startswith("val_loss/")]
    return np.concatenate([rows, rows[losses].mean(axis=0, keepdims=True)])


def _tensor(array: np.ndarray) -> torch.Tensor:
    import torch

    return torch.as_tensor(array, dtype=torch.float32)

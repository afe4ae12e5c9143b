"""Fits the embedded simulator: a small smooth network distilled from a reference network with ReLU units.

``fit_simulator`` trains a network of our own, from a random start, on the reference's answers to random questions.

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
from typing import TYPE_CHECKING

import numpy as np

from ray_mixopt.simulators.card import FitReport, card, compare
from ray_mixopt.simulators.reference import (
    FITTED_STEPS,
    METRICS,
    SPACE,
    load_reference,
    sample_fidelities,
    sample_mixtures,
    simulator_of,
    with_loss,
)
from ray_mixopt.simulators.simulator import Network, Simulator

if TYPE_CHECKING:
    import torch

HIDDEN = (96, 96, 96)
ITERATIONS = 12_000
GROUPS, GROUP_SIZE = 64, 64  # a batch: fidelities x mixtures at each


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

    Returns:
        How well the new simulator agrees with its reference.

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
    out.with_suffix(".md").write_text(card(report, _how(report)))
    return report


def _how(report: FitReport) -> str:
    """The paragraph of the card about the network and its training."""
    largest, longest = SPACE.scale_names[-1], f"{FITTED_STEPS[1]:,}"
    units = " x ".join(map(str, HIDDEN))
    return f"""**How**: a network of {units} smooth units, `x + sqrt(x^2 + 1)`, on the five shares and on parameters and
        steps, both as they are and as logarithms, relative to {largest} and {longest}. Trained
        from a random start (seed {report.seed}) on {report.iterations:,} fresh batches of {GROUPS} fidelities x
        {GROUP_SIZE} mixtures: half Dirichlet(1), half Dirichlet(0.3), 5% exact corners; all seven scales; steps
        log-uniform or uniform; a quarter of the fidelities at the target, {largest} x {longest}. Errors are measured
        against each metric's standard deviation over the mixtures at the same fidelity, so that rankings are kept
        where differences are small. Muon for the square matrices, Adam for the rest, cosine decay;
        {report.fit_seconds:.0f} s of processor time on the machine that wrote this card."""


def _questions(n: int, size: int, rng: np.random.Generator, simulator: Simulator) -> np.ndarray:
    """Inputs of a batch, ``n * size`` rows: ``size`` mixtures at each of ``n`` fidelities, a quarter at the target."""
    fidelities = sample_fidelities(n, rng, FITTED_STEPS)
    target = SPACE.target_scale, FITTED_STEPS[1]
    fidelities = [target if chosen else f for f, chosen in zip(fidelities, rng.random(n) < 0.25, strict=True)]
    features = np.array([simulator.features(*fidelity) for fidelity in fidelities])
    return np.column_stack([sample_mixtures(n * size, rng), np.repeat(features, size, axis=0)])


def _distill(reference: Simulator, seed: int, iterations: int, progress: Callable[[str], None]) -> Simulator:
    """A smooth network trained on the reference's answers."""
    import torch

    rng = np.random.default_rng([seed, 0])
    generator = torch.Generator().manual_seed(seed)
    network = reference.model
    assert isinstance(network, Network)
    teacher = [(_tensor(w), _tensor(b)) for w, b in zip(network.weights, network.biases, strict=True)]

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
    to_metrics = _tensor(with_loss(np.diag(y_std)))

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
    offset = _tensor(with_loss(y_mean[:, None])[:, 0])
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
    return simulator_of(last_weights, last_biases, y_mean, y_std, activation="squareplus", dtype=np.float32)


def _tensor(array: np.ndarray) -> torch.Tensor:
    import torch

    return torch.as_tensor(array, dtype=torch.float32)

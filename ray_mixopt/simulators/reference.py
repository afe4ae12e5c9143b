"""The reference network that a simulator is fitted to, and the questions that it is asked.

It is the simulator of "Data Mixture Optimization: A Multi-fidelity Multi-scale Bayesian Framework" (arXiv 2503.21023),
a multi-layer perceptron from five shares, millions of parameters and steps to eleven metrics, fitted by its authors to
472 pre-training runs. Its weights are not shipped.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from ray_mixopt.core.scale import Scale
from ray_mixopt.core.space import MixtureSpace
from ray_mixopt.simulators.simulator import Network, Simulator

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
    return simulator_of(weights, biases, arrays["y_mean"], arrays["y_std"], activation="relu", dtype=np.float64)


def sample_mixtures(n: int, rng: np.random.Generator, corners: float = 0.05) -> np.ndarray:
    """Mixtures to fit and test on, ``n x d``: half Dirichlet(1), half Dirichlet(0.3), a share of them exact corners."""
    d = SPACE.n_domains
    concentration = np.where(rng.random(n) < 0.5, 1.0, 0.3)
    weights = np.maximum(rng.standard_gamma(concentration[:, None], (n, d)), 1e-12)
    mixtures: np.ndarray = weights / weights.sum(axis=1, keepdims=True)
    corner = rng.random(n) < corners
    mixtures[corner] = np.eye(d)[rng.integers(d, size=int(corner.sum()))]
    return mixtures


def sample_fidelities(n: int, rng: np.random.Generator, steps: tuple[int, int]) -> list[tuple[str, int]]:
    """Random scales, and steps that are log-uniform for one half and uniform for the other."""
    low, high = steps
    even = rng.uniform(low, high, n)
    log = np.exp(rng.uniform(np.log(low), np.log(high), n))
    drawn = np.clip(np.round(np.where(rng.random(n) < 0.5, even, log)), low, high).astype(int).tolist()
    names = SPACE.scale_names
    return [(names[i], z) for i, z in zip(rng.integers(len(names), size=n).tolist(), drawn, strict=True)]


def simulator_of(
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
    weights[-1] = with_loss(weights[-1] * y_std[:, None])
    biases[-1] = with_loss((biases[-1] * y_std + y_mean)[:, None])[:, 0]
    metrics = (*METRICS, "loss")
    largest = SPACE.scales[-1].parameters
    assert largest is not None
    simulator = Simulator(
        name=NAME,
        space=SPACE,
        metrics=metrics,
        modes={name: "max" if name.startswith("accuracy/") else "min" for name in metrics},
        default_metric="val_loss/common_crawl",  # web text that no domain contains
        model=Network(
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


def with_loss(rows: np.ndarray) -> np.ndarray:
    """Rows for all metrics, and below them the mean of those of the validation losses."""
    losses = [i for i, name in enumerate(METRICS) if name.startswith("val_loss/")]
    return np.concatenate([rows, rows[losses].mean(axis=0, keepdims=True)])

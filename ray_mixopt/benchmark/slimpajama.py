"""The paper's problem: a simulator of pre-training runs on five SlimPajama domains at seven scales.

The exact reference network is used where its file is at hand, the embedded simulator elsewhere; the problem's id says
which. Costs are in units of 100 steps of the 1B model: a full run costs 197.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from ray_mixopt import simulators
from ray_mixopt.benchmark.problem import BenchmarkProblem, ProblemName, spread
from ray_mixopt.simulators import Simulator

FAMILY = "slimpajama"
LOSSES = tuple(
    f"val_loss/{domain}" for domain in ("common_crawl", "c4", "wikipedia", "stackexchange", "github", "arxiv", "book")
)
ACCURACIES = tuple(f"accuracy/{task}" for task in ("hellaswag", "piqa", "arc_easy"))
METRICS = (*LOSSES, *ACCURACIES)
TARGETS = ("300M", "700M", "1B:12000")
SCORE_COSTS = (50.0, 100.0, 197.0, 394.0, 788.0)  # at the full target, as in the paper's units
COST_UNIT = "100 steps of 1B"

# Weights by metric; "normalised" sums divide each by the metric's standard deviation over Dirichlet(1) mixtures at the
# target. All are minimised: accuracies have negative weights.
_EQUAL_LOSSES = dict.fromkeys(LOSSES, 1 / len(LOSSES))
_ACCURACIES = dict.fromkeys(ACCURACIES, -1.0)
SUMS: dict[str, tuple[Mapping[str, float], bool]] = {  # weights, whether normalised
    "mean_losses": (_EQUAL_LOSSES, False),
    "losses": (dict.fromkeys(LOSSES, 1.0), True),
    "accuracies": (_ACCURACIES, True),
    "losses_and_accuracies": (dict.fromkeys(LOSSES, 1.0) | _ACCURACIES, True),
    "web_and_accuracies": (dict.fromkeys(LOSSES[:2], 1.0) | _ACCURACIES, True),
    "code_and_commonsense": (
        {"val_loss/github": 1.0, "val_loss/stackexchange": 1.0, "accuracy/hellaswag": -1.0, "accuracy/piqa": -1.0},
        True,
    ),
    "knowledge": ({"val_loss/wikipedia": 1.0, "val_loss/arxiv": 0.5, "accuracy/arc_easy": -2.0}, True),
    "books_over_code": ({"val_loss/book": 0.6, "val_loss/github": 0.3, "val_loss/arxiv": 0.1}, True),
}
OBJECTIVES = (*METRICS, *(f"sum/{name}" for name in SUMS))


def load(name: ProblemName, data: Path | None) -> BenchmarkProblem:
    """The problem of that name.

    Args:
        name: the objective is a metric, or ``sum/`` and a name in ``SUMS``; the target is any scale and length that
            the simulator knows.
        data: folder that may hold ``slimpajama/reference_mlp.npz``.

    Raises:
        ValueError: for an unknown objective or target.
    """
    if name.objective not in OBJECTIVES:
        raise ValueError(f"Unknown objective in {name.text!r}: choose one of {', '.join(OBJECTIVES)}.")
    reference = None if data is None else data / "slimpajama" / "reference_mlp.npz"
    if reference is not None and not reference.is_file():
        reference = None
    simulator = _simulator(reference)
    space = simulator.space
    scale, steps = name.target or (space.target_scale, None)
    steps = space.target_steps if steps is None else steps
    full_target = (scale, steps) == space.target
    space = replace(space, steps=tuple(sorted({*space.steps, steps})), target=(scale, steps))
    simulator = replace(simulator, space=space)
    if name.objective in METRICS:
        mode = simulator.modes[name.objective]
        objective: Mapping[str, float] = {name.objective: 1.0}
        kind = "metrics"
    else:
        weights, normalised = SUMS[name.objective.removeprefix("sum/")]
        deviations = dict(zip(simulator.metrics, spread(simulator, space).tolist(), strict=True))
        objective = {m: w / deviations[m] for m, w in weights.items()} if normalised else weights
        mode, kind = "min", "sums"
    family = f"{FAMILY}-{'embedded' if reference is None else 'reference'}"
    return BenchmarkProblem(
        name=name.text,
        id=name.identity(family),
        group=name.identity(family, kind),
        oracle=_OnlyMetrics(simulator),
        mode="min" if mode == "min" else "max",
        objective=objective,
        cost_unit=COST_UNIT,
        noise=name.noise,
        failures=name.failures,
        score_costs=SCORE_COSTS if full_target else (),
    )


class _OnlyMetrics:
    """The simulator without the training loss and the derived mean loss: what is evaluated, and nothing redundant."""

    def __init__(self, simulator: Simulator) -> None:
        self.space, self.metrics, self.pool = simulator.space, METRICS, None
        self._simulator = simulator
        self._columns = [simulator.metrics.index(name) for name in METRICS]

    def evaluate(self, mixtures: np.ndarray, scale: str, steps: int) -> np.ndarray:
        """Metrics without noise, ``n x n_metrics``."""
        return self._simulator.evaluate(mixtures, scale, steps)[:, self._columns]


@cache
def _simulator(reference: Path | None) -> Simulator:
    if reference is None:
        return simulators.load(FAMILY)
    from ray_mixopt.simulators.reference import load_reference

    return load_reference(reference)

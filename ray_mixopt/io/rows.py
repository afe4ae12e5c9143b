"""Measurements of runs, one a row, as every format of files comes to them."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ray_mixopt.core.history import History
from ray_mixopt.core.safety import check_readable

logger = logging.getLogger(__name__)

VALIDATION = "val_loss/"  # what validation losses are called, before the name of what they are of
DERIVED_METRIC = "loss"  # the mean of all of them


def check_in_tokens(name: str, scales: Collection[str], tokens_per_step: Mapping[str, float]) -> None:
    """Checks that nothing is said of the tokens in a step for runs that say their steps.

    Args:
        name: of their file.
        scales: of the runs.
        tokens_per_step: what is said, by scale.

    Raises:
        ValueError: naming the first of their scales of which it is said.
    """
    for scale, tokens in tokens_per_step.items():
        if scale in scales:
            raise ValueError(
                f"--tokens-per-step {scale}={tokens:g} is for tables that say tokens, and {name} says steps: drop it. "
                "If another table needs it, make one in steps of that first, with ray-mixopt export."
            )


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Checked rows of one or several files: ``k`` measurements."""

    domains: tuple[str, ...]
    mixtures: np.ndarray  # (k, d), rows sum to 1
    scale: list[str]  # (k,)
    steps: np.ndarray  # (k,)
    metrics: tuple[str, ...]
    values: np.ndarray  # (k, n_metrics); NaN was not measured, an infinity is that of a run that diverged
    parameters: dict[str, float]  # by scale
    cost: dict[str, float]  # by scale
    run: list[str] | None = None  # (k,), the run that each row belongs to, where the files say
    supply: dict[str, float] = field(default_factory=dict)  # tokens that there are, by domain
    phases: tuple[str, ...] = ()  # where each has a mixture, one after the other: (k, p * d)

    def __post_init__(self) -> None:
        for what, names in (
            ("domain", self.domains),
            ("phase", self.phases),
            ("metric", self.metrics),
            ("scale", dict.fromkeys(self.scale)),
            ("run", dict.fromkeys(self.run or ())),
        ):
            for name in names:
                check_readable(name, what)

    @classmethod
    def concatenate(cls, parts: list[Rows]) -> Rows:
        """The rows of all parts, with the domains in the order of the first.

        Raises:
            ValueError: if the parts do not have the same domains.
        """
        first = parts[0]
        names = tuple(dict.fromkeys(name for part in parts for name in part.metrics))
        blocks = []
        for part in parts:
            if part.phases != first.phases:
                raise ValueError(f"Runs of scale {part.scale[0]!r} have other phases than the rest.")
            if set(part.domains) != set(first.domains):
                odd = sorted(set(part.domains) ^ set(first.domains))
                raise ValueError(f"Runs of scale {part.scale[0]!r} have other domains than the rest: {odd}.")
            block = np.full((len(part.values), len(names)), np.nan)
            block[:, [names.index(name) for name in part.metrics]] = part.values
            blocks.append(block)
        orders = [
            [
                i * len(part.domains) + part.domains.index(name)
                for i in range(len(part.phases) or 1)
                for name in first.domains
            ]
            for part in parts
        ]
        return cls(
            domains=first.domains,
            mixtures=np.concatenate([part.mixtures[:, order] for part, order in zip(parts, orders, strict=True)]),
            scale=[name for part in parts for name in part.scale],
            steps=np.concatenate([part.steps for part in parts]),
            metrics=names,
            values=np.concatenate(blocks),
            parameters={name: value for part in parts for name, value in part.parameters.items()},
            cost={name: value for part in parts for name, value in part.cost.items()},
            run=None if any(part.run is None for part in parts) else [r for part in parts for r in part.run or ()],
            supply={name: value for part in parts for name, value in part.supply.items()},
            phases=first.phases,
        )

    def with_loss(self) -> Rows:
        """These rows, with the metric ``loss`` derived if there is none."""
        parts = [i for i, name in enumerate(self.metrics) if name.startswith(VALIDATION)]
        if DERIVED_METRIC in self.metrics or not parts:
            return self
        found = self.values[:, parts]
        loss = np.where(np.isinf(found).any(axis=1), np.inf, found.mean(axis=1))
        return replace(self, metrics=(*self.metrics, DERIVED_METRIC), values=np.column_stack([self.values, loss]))

    def keeping(self, metrics: Sequence[str] | None) -> Rows:
        """These rows with some of their metrics, or all for None.

        Raises:
            ValueError: for a metric that they do not have, or none at all.
        """
        if metrics is None:
            return self
        unknown = [name for name in metrics if name not in self.metrics]
        if unknown or not metrics:
            raise ValueError(f"No metric {unknown} in the runs: they have {', '.join(self.metrics)}.")
        return replace(self, metrics=tuple(metrics), values=self.values[:, [self.metrics.index(n) for n in metrics]])

    def known_costs(self, given: Mapping[str, float], parameters: Mapping[str, float]) -> dict[str, float]:
        """Cost of a step by scale, as far as it is known: what is given, else what the files say.

        Where nothing is known of any scale, it is in proportion to the parameters, which is said once: a step of a
        model that has twice the parameters takes twice the computation, as long as its batch is the same.

        Args:
            given: cost by scale.
            parameters: by scale, besides those of the files.
        """
        names = list(dict.fromkeys(self.scale))
        known = dict(self.cost) | dict(given)
        sizes = {name: value for name, value in (self.parameters | dict(parameters)).items() if name in names}
        if len(names) > 1 and not set(known) & set(names) and len(sizes) == len(names):
            known |= {name: size / max(sizes.values()) for name, size in sizes.items()}
            logger.warning(
                "No cost is known, and so a step costs in proportion to the parameters, as it does with the same "
                "batch: %s. --scale-cost SCALE=COST says otherwise (in Python Source(cost=...)).",
                ", ".join(f"{name} {known[name]:.3g}" for name in names),
            )
        return known


def means_of_losses(history: History) -> bool:
    """Whether the metric ``loss`` is the mean of all ``val_loss/*``, as ``Rows.with_loss`` derives it, in each report.

    Reports that lack it, or all the others, do not count.
    """
    reports = [reported for trial in history for reported in trial.observations.values() if DERIVED_METRIC in reported]
    for reported in reports:
        parts = [value for name, value in reported.items() if name.startswith("val_loss/")]
        if parts and not np.isclose(reported[DERIVED_METRIC], np.mean(parts), rtol=1e-9, atol=0.0):
            return False
    return True

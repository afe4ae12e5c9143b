"""Runs made before a search by pre-training, which it starts from at no cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ray_mixopt.core.history import History
from ray_mixopt.core.merging import concerning, translated
from ray_mixopt.io.runs import Source, read_runs
from ray_mixopt.pretraining.config import PretrainConfig

if TYPE_CHECKING:
    from ray_mixopt.tune.searcher import MixOptSearcher


def earlier_runs(config: PretrainConfig) -> dict[str, History]:
    """The runs that a configuration starts from, by path, in the domains and for the target of its search.

    Files that do not say what a step of a scale costs are read with the cost and the size it has in the search.

    Raises:
        ValueError: if they cannot be read or have no place in the search, or none reports a metric of the objective.
    """
    space = config.space
    source = Source(
        cost={scale.name: scale.cost_per_step for scale in space.scales},
        parameters={scale.name: float(scale.parameters or 0) for scale in space.scales},
        noise=config.search.earlier_noise,
    )
    found = {}
    for path in config.search.earlier:
        try:
            history = read_runs(path, source)
            found[path] = translated(history, space, concerning(config.domain_map, history))
        except ValueError as error:
            raise ValueError(f"The earlier runs at {path} cannot be taken in: {error}") from error
        known = found[path].metrics
        if not set(known) & set(config.objective):
            raise ValueError(
                f"None of the runs at {path} reports {' or '.join(config.objective)}: they have "
                f"{', '.join(known) or 'no metrics'}."
            )
    return found


def take_in(searcher: MixOptSearcher, config: PretrainConfig) -> None:
    """Lets a search start from the earlier runs of its configuration.

    Raises:
        ValueError: see ``earlier_runs``.
    """
    for path, history in earlier_runs(config).items():
        searcher.absorb(history, source=Path(path.rstrip("/")).stem)

"""Real runs: only the mixtures in the log can be run, and regret is against the best one logged at the target.

Costs are in target runs. RegMix logs no costs: its runs are priced by parameters alone, as if all had been trained
equally long, although the small ones were in truth shorter, hence cheaper still. ``mixinglaws`` comes with its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ray_mixopt.benchmark.problem import BenchmarkProblem, ProblemName
from ray_mixopt.simulators.run_table import RunTable


@dataclass(frozen=True, kw_only=True)
class Log:
    """A table of runs below the folder of the data.

    Args:
        path: of its files, relative to that folder.
        target: scale and steps wanted.
        scale_cost: cost of a step by scale in any unit; None where the files say.
    """

    path: str
    target: tuple[str, int]
    scale_cost: Mapping[str, float] | None = None


LOGS = {
    "regmix": Log(path="regmix", target=("1B", 1), scale_cost={"1m": 0.001, "60m": 0.06, "1B": 1.0}),
    "mixinglaws": Log(path="mixinglaws/redpajama_runs.csv", target=("410M", 30_000)),
    "dmsl": Log(path="dmsl/slimpajama_7_domains.csv", target=("1235M", 46_080)),
}
# The average loss and some single domains; any metric of a table can be asked for by name.
OBJECTIVES = {
    "regmix": ("loss", *(f"val_loss/{d}" for d in ("arxiv", "github", "pile_cc", "pubmed_central", "wikipedia_en"))),
    "dmsl": ("loss", *(f"val_loss/{d}" for d in ("arxiv", "book", "github", "openhermes", "stackexchange"))),
    "mixinglaws": ("loss", *(f"val_loss/{d}" for d in ("ArXiv", "Books3", "Github", "Pile-CC", "Wikipedia_en"))),
}


def load(name: ProblemName, data: Path | None) -> BenchmarkProblem:
    """The problem of that name: a metric of a table.

    Args:
        name: of the problem; it can have failures, but neither another target nor noise besides that of the log.
        data: folder that holds the tables.

    Raises:
        ValueError: for an unknown metric, or a target or noise.
        FileNotFoundError: if the table is not in the folder.
    """
    log = LOGS[name.family]
    if name.target is not None or name.noise > 0:
        raise ValueError(f"{name.text!r}: logged runs have their own noise, and a single target here.")
    path = Path("../shared/data" if data is None else data) / log.path
    if not path.exists():
        raise FileNotFoundError(f"its runs are not at {path}: give the folder of the data with --data")
    table = _table(path, log.target, None if log.scale_cost is None else tuple(log.scale_cost.items()))
    if name.objective not in table.metrics:
        raise ValueError(f"Unknown metric in {name.text!r}: choose one of {', '.join(table.metrics)}.")
    return BenchmarkProblem(
        name=name.text,
        id=name.identity(name.family),
        group=name.identity(name.family, "metrics"),
        oracle=table,
        mode="min" if table.modes[name.objective] == "min" else "max",
        objective={name.objective: 1.0},
        cost_unit="target runs",
        failures=name.failures,
    )


@cache
def _table(path: Path, target: tuple[str, int], scale_cost: tuple[tuple[str, float], ...] | None) -> RunTable:
    """The table, with costs such that a target run costs 1."""
    given = None if scale_cost is None else dict(scale_cost)
    space = RunTable.read(path, scale_cost=given, target=target).space
    cost = {scale.name: scale.cost_per_step / space.target_cost for scale in space.scales}
    return RunTable.read(path, scale_cost=cost, target=target)

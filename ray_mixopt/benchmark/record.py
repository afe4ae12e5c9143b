"""What is kept of a run: one JSON file, from which all tables and figures are made."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ray_mixopt.benchmark.workers import ONE_WORKER, Workers
from ray_mixopt.core.safety import MiB, check_size, check_version, parse_json, write_atomically

FORMAT_VERSION = 1
MOST_BYTES = 16 * MiB


@dataclass(frozen=True, kw_only=True)
class Point:
    """A recommendation on the way.

    Attributes:
        cost: of all training until it was made.
        time: virtual clock when it was made, in cost units over a worker's speed.
        regret: of the recommended mixture at the target.
        trained: whether that very mixture had been trained at the target by then.
        mixture: the recommended shares in domain order, ``(d,)``.
    """

    cost: float
    time: float
    regret: float
    trained: bool
    mixture: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Record:
    """One search, from nothing to the end of its budget.

    Attributes:
        problem: id of the problem, which says where its metrics come from.
        group: problems that are averaged in one table.
        method: name of the method.
        seed: of the method; the problem's noise and failures have a seed of their own, derived from it.
        budget: most that could be spent.
        settings: of the method, where it is a rival.
        logged: whether only logged runs could be made.
        cost_unit: what a cost of 1 means.
        target_cost: cost of one run at the target.
        score_costs: costs at which the problem is scored.
        best: objective of the best mixture at the target, in its own unit.
        median: the same of a random mixture.
        trace: recommendations, by cost; one holds until the next.
        spent: cost of all runs.
        spent_by_scale: the same by scale.
        runs: number of suggestions that were run.
        failed: number of them that failed.
        seconds: median and 95th percentile of the method's own time per suggestion, and in total.
        versions: of Python and packages.
        commit: of this package.
        machine: where it ran.
        workers: speed of each worker that trained.
    """

    problem: str
    group: str
    method: str
    seed: int
    budget: float
    settings: Mapping[str, Any]
    logged: bool
    cost_unit: str
    target_cost: float
    score_costs: tuple[float, ...]
    best: float
    median: float
    trace: tuple[Point, ...]
    spent: float
    spent_by_scale: Mapping[str, float]
    runs: int
    failed: int
    seconds: Mapping[str, float]
    versions: Mapping[str, str]
    commit: str
    machine: Mapping[str, str | int]
    workers: tuple[float, ...] = (1.0,)

    @property
    def label(self) -> str:
        """The method, and its workers unless that is a single one."""
        workers = Workers(self.workers)
        return self.method if workers == ONE_WORKER else f"{self.method} x {workers}"

    def write(self, out: Path) -> Path:
        """Writes the file atomically to its place below ``out``."""
        path = place(out, self.problem, self.method, self.seed, Workers(self.workers))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps({"version": FORMAT_VERSION, **asdict(self)}, allow_nan=False) + "\n")
        return path

    @classmethod
    def read(cls, path: Path) -> Record:
        """The record in a file.

        Raises:
            ValueError: if the file is no record of this release.
        """
        try:
            check_size(path, path.stat().st_size, MOST_BYTES)
            fields = parse_json(path.read_bytes())
            check_version(fields, "a record", FORMAT_VERSION)
            del fields["version"]
            # Records of a single worker may say no time: it is the cost.
            points = [{"time": point["cost"], **point, "mixture": tuple(point["mixture"])} for point in fields["trace"]]
            fields["trace"] = tuple(Point(**point) for point in points)
            fields["workers"] = tuple(fields.get("workers", ONE_WORKER.speeds))
            fields["score_costs"] = tuple(fields["score_costs"])
            record = cls(**fields)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(
                f"{path} is no record of a run ({error!r}): remove it, or choose another --out."
            ) from error
        if not record.trace:
            raise ValueError(f"{path} is the record of a run without a trace: remove it, or choose another --out.")
        return record


def place(out: Path, problem: str, method: str, seed: int, workers: Workers = ONE_WORKER) -> Path:
    """Where the record of a run lies below ``out``."""
    side_by_side = "" if workers == ONE_WORKER else f"-workers={workers}"
    return out / re.sub(r"[^A-Za-z0-9_.=+@-]", "-", problem) / f"{method}{side_by_side}-{seed}.json"


def read_all(out: Path) -> list[Record]:
    """All records below a folder.

    Raises:
        ValueError: if one of its JSON files is no record.
    """
    return [Record.read(path) for path in sorted(out.glob("*/*.json"))]

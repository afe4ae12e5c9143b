"""What is kept of a search, and what it was measured with: one JSON file, from which all tables are made."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from ray_mixopt.benchmark.workers import ONE_WORKER, Fleet
from ray_mixopt.core.safety import (
    MiB,
    check_fields,
    check_file_name,
    check_size,
    check_version,
    parse_json,
    write_atomically,
)

FORMAT_VERSION = 1
MOST_BYTES = 16 * MiB
PACKAGES = ("ray-mixopt", "numpy", "scipy", "torch", "gpytorch", "botorch")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


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
        workers = Fleet(self.workers)
        return self.method if workers == ONE_WORKER else f"{self.method} x {workers}"

    def write(self, out: Path) -> Path:
        """Writes the file atomically to its place below ``out``."""
        path = place(out, self.problem, self.method, self.seed, Fleet(self.workers))
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
            trace = fields["trace"]
            check_fields(cls, fields | {"trace": [{"time": point["cost"], **point} for point in trace]}, "record")
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


def place(out: Path, problem: str, method: str, seed: int, workers: Fleet = ONE_WORKER) -> Path:
    """Where the record of a run lies below ``out``."""
    side_by_side = "" if workers == ONE_WORKER else f"-workers={workers}"
    plain = (re.sub(r"[^A-Za-z0-9_.=+@-]", "-", name) for name in (problem, method))
    problem, method = (check_file_name(name, what) for name, what in zip(plain, ("A problem", "A method"), strict=True))
    return out / problem / f"{method}{side_by_side}-{seed}.json"


def read_all(out: Path) -> list[Record]:
    """All records below a folder.

    Raises:
        ValueError: if one of its JSON files is no record.
    """
    return [Record.read(path) for path in sorted(out.glob("*/*.json"))]


# -- what the numbers were measured with


def versions(packages: Sequence[str] = ()) -> dict[str, str]:
    """Versions of Python, of ``PACKAGES`` and of some more."""
    found = {"python": platform.python_version()}
    for package in (*PACKAGES, *packages):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def commit() -> str:
    """The commit of the checkout, with "-dirty" where files differ from it; "unknown" outside of one."""
    here = Path(__file__)
    if _git(
        "ls-files", "--error-unmatch", here.name, folder=here.parent
    ):  # not the repository of somebody's virtualenv
        return _git("describe", "--always", "--dirty", folder=here.parent) or "unknown"
    return "unknown"


def _git(*arguments: str, folder: Path) -> str:
    try:
        result = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    except OSError:  # no git
        return ""
    return result.stdout.strip()


def machine() -> dict[str, str | int]:
    """Processor model, number of cores and threads a process may use."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    except OSError:
        pass
    threads = os.environ.get(THREAD_VARIABLES[0], "not limited")
    return {"cpu": model, "cores": os.cpu_count() or 1, "threads": threads, "system": platform.system()}

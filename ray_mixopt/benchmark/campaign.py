"""Many searches: problems x methods x seeds in parallel processes, each kept as soon as it is done."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ray_mixopt.benchmark import methods, problems
from ray_mixopt.benchmark.problem import BenchmarkProblem
from ray_mixopt.benchmark.record import THREAD_VARIABLES, Record, place
from ray_mixopt.benchmark.runner import search
from ray_mixopt.benchmark.workers import ONE_WORKER, Fleet


@dataclass(frozen=True, kw_only=True)
class Job:
    """One search.

    Args:
        problem: name of the problem.
        method: name of the method.
        seed: of the method.
        budget: most to spend, in the problem's cost unit.
        workers: what trains.
    """

    problem: str
    method: str
    seed: int
    budget: float
    workers: Fleet = ONE_WORKER

    def __str__(self) -> str:
        side_by_side = "" if self.workers == ONE_WORKER else f" with {self.workers} workers"
        return f"{self.method} on {self.problem}{side_by_side}, seed {self.seed}"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is there, what is to do, and what cannot be done.

    Attributes:
        done: searches whose records are there.
        missing: searches to run.
        skipped: why some problems or methods are left out, a sentence each.
    """

    done: tuple[Job, ...]
    missing: tuple[Job, ...]
    skipped: tuple[str, ...]


def plan(
    names: Sequence[str],
    method_names: Sequence[str],
    seeds: Sequence[int],
    budget: Callable[[BenchmarkProblem], float],
    *,
    out: Path,
    data: Path | None,
    workers: Fleet = ONE_WORKER,
) -> Plan:
    """The searches of a benchmark. A search is done if its record is of the same problem, settings and budget.

    Args:
        names: of the problems.
        method_names: of the methods, or patterns.
        seeds: of the methods.
        budget: of a problem, in its cost unit.
        out: folder of the records.
        data: folder of the reference data.
        workers: what trains.

    Raises:
        ValueError: for an unknown problem or method, or a budget that is not positive.
    """
    done, missing = [], []
    skipped: dict[str, None] = {}
    entries = methods.expand(method_names)
    loaded = []
    for name in names:
        try:
            loaded.append(_load(name, data))
        except FileNotFoundError as error:
            skipped[f"{name}: {error}"] = None
    for seed in seeds:
        for problem in loaded:
            for entry in entries:
                job = Job(problem=problem.name, method=entry.name, seed=seed, budget=budget(problem), workers=workers)
                if not entry.suits(problem.task(job.budget, seed)):
                    kind = "the simplex" if problem.pool is None else "logged runs"
                    skipped[f"{entry.name} on {problem.name}: it does not search {kind}"] = None
                elif is_done(out, problem, entry, job):
                    done.append(job)
                elif entry.obstacle:
                    skipped[f"{entry.name}: {entry.obstacle}"] = None
                else:
                    missing.append(job)
    return Plan(done=tuple(done), missing=tuple(missing), skipped=tuple(skipped))


def is_done(out: Path, problem: BenchmarkProblem, entry: methods.Entry, job: Job) -> bool:
    """Whether the record of a search is there."""
    path = place(out, problem.id, entry.name, job.seed, job.workers)
    if not path.is_file():
        return False
    try:
        record = Record.read(path)
    except ValueError:
        return False
    found = record.problem, record.budget, dict(record.settings), record.workers
    return found == (problem.id, job.budget, dict(entry.settings), job.workers.speeds)


def run(
    jobs: Sequence[Job],
    *,
    out: Path,
    data: Path | None,
    processes: int,
    report: Callable[[str], None],
) -> list[str]:
    """Runs searches in fresh processes with one thread each, and says how each ended.

    A search that fails is reported by name and the others go on. One that takes its process down ends those beside it;
    what is left is tried again, and alone once that gets nowhere.

    Args:
        jobs: the searches.
        out: folder of the records.
        data: folder of the reference data.
        processes: how many at a time.
        report: called with a line for each search.

    Returns:
        A sentence for each search that failed.

    Raises:
        KeyboardInterrupt: after Ctrl-C, once the processes are gone; the records of finished searches stay.
    """
    failures: list[str] = []
    n_ended = 0

    def ended(job: Job, future: Future[str]) -> bool:
        """Reports how a search ended; False if its process died."""
        nonlocal n_ended
        try:
            line = future.result()
        except BrokenProcessPool:
            return False
        except Exception as error:  # whatever a method raises: the others go on
            failures.append(f"{job}: {type(error).__name__}: {error}")
            line = f"{failures[-1]} (failed)"
        n_ended += 1
        report(f"[{n_ended}/{len(jobs)}] {line}")
        return True

    def together(jobs: Sequence[Job], width: int) -> list[Job]:
        """Runs searches in one pool, and gives those that a dying process left undone."""
        with _pool(width) as pool:
            waiting = {pool.submit(_run, job, out, data): job for job in jobs}
            try:
                return [waiting[future] for future in as_completed(waiting) if not ended(waiting[future], future)]
            except KeyboardInterrupt:
                pool.shutdown(wait=False, cancel_futures=True)
                for child in multiprocessing.active_children():  # or the pool would wait for what they run
                    child.kill()
                raise

    with _single_threaded():
        left = list(jobs)
        while left and len(undone := together(left, processes)) < len(left):
            left = undone
        for job in left:
            if together([job], 1):
                n_ended += 1
                failures.append(f"{job}: its process died")
                report(f"[{n_ended}/{len(jobs)}] {failures[-1]} (failed)")
    return failures


def _run(job: Job, out: Path, data: Path | None) -> str:
    """One search in a worker, kept at once; gives the line that reports it."""
    record = search(_load(job.problem, data), methods.find(job.method), job.seed, job.budget, job.workers)
    record.write(out)
    last = record.trace[-1]
    return f"{job}: regret {last.regret:.3f} at {last.cost:.4g}"


@cache
def _load(name: str, data: Path | None) -> BenchmarkProblem:
    """A problem, kept with its truth for the next search of this process."""
    return problems.load(name, data)


def _pool(processes: int) -> ProcessPoolExecutor:
    # Ctrl-C reaches all processes of a terminal: it is this one's to end the others.
    return ProcessPoolExecutor(
        processes,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=signal.signal,
        initargs=(signal.SIGINT, signal.SIG_IGN),
    )


@contextmanager
def _single_threaded() -> Iterator[None]:
    """One thread a process: new processes read these variables when they load numpy and torch."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value

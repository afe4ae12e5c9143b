"""What the experiments share: their arguments, searches side by side, and where results go."""

from __future__ import annotations

import argparse
import json
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ray_mixopt.cli.benchmark import seeds_of


def arguments(
    doc: str | None, *, seeds: str = "", budget: float | None = None, suites: Sequence[str] = (), **others: Any
) -> argparse.Namespace:
    """What the command line says, of those options that have a default here; and where the results go.

    Args:
        doc: what the experiment is.
        seeds: of the searches, which run side by side.
        budget: of a search.
        suites: of problems.
        others: further numbers by name.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    if seeds:
        parser.add_argument("--seeds", type=seeds_of, default=seeds, help=f"A-B, both ends count (default {seeds})")
        parser.add_argument("--processes", type=int, default=2, help="searches at a time (default 2)")
    if suites:
        default = ",".join(suites)
        parser.add_argument("--suites", type=lambda text: text.split(","), default=default, help=f"(default {default})")
    for name, default in {"budget": budget, **others}.items():
        if default is not None:
            parser.add_argument(f"--{name}", type=type(default), default=default, help=f"(default {default})")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder of the results")
    return parser.parse_args()


def side_by_side(function: Callable[..., Any], jobs: Sequence[tuple[Any, ...]], processes: int) -> list[Any]:
    """What a function makes of each tuple of arguments, in fresh processes with one thread each."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return pool.starmap(function, jobs, chunksize=1)


def as_they_end(function: Callable[..., Any], jobs: Sequence[tuple[Any, ...]], processes: int) -> Iterator[Any]:
    """The same, each as soon as it is there, in any order."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield from pool.imap_unordered(partial(_apply, function), jobs)


def _apply(function: Callable[..., Any], job: tuple[Any, ...]) -> Any:
    return function(*job)


def write(out: Path, name: str, text: str, found: Any) -> None:
    """Prints a table, and keeps it as ``name.md`` beside the numbers in ``name.json``."""
    print(text)
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.md").write_text(text + "\n")
    (out / f"{name}.json").write_text(json.dumps(found) + "\n")

"""Where a training loop gets its last checkpoint from, and where its reports and checkpoints go."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from ray_mixopt.core.safety import write_atomically
from ray_mixopt.pretraining.training.checkpoint import RUN
from ray_mixopt.pretraining.training.workers import Workers

REPORTS = "reports.jsonl"

Write = Callable[[Path], None]
"""Writes a checkpoint into a folder; all workers call it together."""


class Session(Protocol):
    """The surroundings of a training loop; all workers call each method together."""

    def last_checkpoint(self) -> AbstractContextManager[Path | None]:
        """The folder of the newest checkpoint, as long as the context lasts; None where there is none."""
        ...

    def beginning(self) -> AbstractContextManager[Path | None]:
        """The checkpoint of another run that this one begins at, as long as the context lasts; None for nothing."""
        ...

    def report(self, metrics: Mapping[str, float], write: Write | None) -> None:
        """Takes in the report of a rung, unless it has it already; with a checkpoint unless the run has diverged."""
        ...

    def checkpoint(self, step: int, write: Write) -> None:
        """Takes in a checkpoint between two rungs, for crashes."""
        ...


class FolderSession:
    """A session in a folder: ``reports.jsonl``, and the newest checkpoint as ``step-<number>``.

    Args:
        folder: shared by all workers.
        workers: of the run.
        echo: called with every report, on one worker.
        begins: checkpoint of another run to begin at; None to begin with nothing.
    """

    def __init__(
        self, folder: Path, workers: Workers, echo: Callable[[Mapping[str, float]], None], begins: Path | None = None
    ) -> None:
        self._folder, self._workers, self._echo, self._begins = folder, workers, echo, begins
        folder.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def last_checkpoint(self) -> Iterator[Path | None]:
        """The newest whole checkpoint."""
        yield max(self._whole(), default=None, key=lambda path: path.name)

    @contextlib.contextmanager
    def beginning(self) -> Iterator[Path | None]:
        """The checkpoint of another run."""
        yield self._begins

    def report(self, metrics: Mapping[str, float], write: Write | None) -> None:
        """Appends the report, and keeps its checkpoint as the newest."""
        if write is not None:
            self.checkpoint(int(metrics["step"]), write)
        if self._workers.rank == 0 and int(metrics["step"]) not in self._reported():
            write_atomically(self._folder / REPORTS, f"{self._lines()}{json.dumps(dict(metrics))}\n")
            self._echo(metrics)

    def checkpoint(self, step: int, write: Write) -> None:
        """Keeps a checkpoint and removes the one before, which stays if this one cannot be written."""
        target = self._folder / f"step-{step:09d}"
        if self._workers.rank == 0:
            shutil.rmtree(target, ignore_errors=True)
        self._workers.wait()
        try:
            write(target)
        except OSError:  # what there is of it only fills the disk
            shutil.rmtree(target, ignore_errors=True)
            raise
        if self._workers.rank == 0:
            for path in self._folder.glob("step-*"):
                if path != target:
                    shutil.rmtree(path)
        self._workers.wait()

    def _reported(self) -> set[int]:
        return {json.loads(line)["step"] for line in self._lines().splitlines()}

    def _lines(self) -> str:
        """The reports so far. A last line without its end is of a process that was killed: its run reports it again."""
        path = self._folder / REPORTS
        text = path.read_text() if path.exists() else ""
        return text[: text.rfind("\n") + 1]

    def _whole(self) -> list[Path]:
        return [path for path in self._folder.glob("step-*") if (path / RUN).is_file()]


def check_writable(folder: Path) -> None:
    """Checks that checkpoints can be written to a folder, which is made if need be.

    Raises:
        ValueError: if not.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"{folder} cannot be written to: {error.strerror or error}.") from error

"""One run of a command: its folder, the process that trains it, and what becomes of it."""

from __future__ import annotations

import json
import math
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol

from ray_mixopt.command.arguments import checkpoints, filled
from ray_mixopt.command.metrics import LONGEST_LINE, Progress, Reader
from ray_mixopt.command.process import SILENT, CommandError, Process, tail
from ray_mixopt.command.settings import Command
from ray_mixopt.core.safety import MiB, parse_json, write_atomically
from ray_mixopt.core.space import MixtureSpace
from ray_mixopt.core.trial import check_near

_STATE = "state.json"
_VERSION = 1
_POLL_SECONDS = 0.1
_ENVIRONMENT = {"PYTHONUNBUFFERED": "1"}  # else what Python prints comes in parts of 8 KiB
_MOST_NAMED = 12  # names in an error


class FailedRunError(RuntimeError):
    """A run that its command has failed; it would fail again."""


class LostRunError(RuntimeError):
    """A run that ended for no fault of its own; it is worth another try."""


class Processes(Protocol):
    """The processes of a run: ``Process`` is one where there is but one node."""

    def poll(self) -> int | None:
        """The exit code; None while it runs."""

    def stop(self) -> int:
        """Ends all of it, and returns its exit code."""


Fill = Callable[[Mapping[str, object]], list[str]]
"""The arguments of the command, from values of the placeholders about nodes."""
Start = Callable[["Command", Fill, Callable[[int], Path]], Processes]
"""Starts a command, with the log of each node."""


def start_here(command: Command, fill: Fill, log: Callable[[int], Path]) -> Processes:
    """Starts a command on this machine."""
    arguments = fill({"node": 0, "nodes": 1, "address": "127.0.0.1", "port": free_port()})
    return start_process(command, arguments, log(0))


def start_process(command: Command, arguments: Sequence[str], log: Path) -> Process:
    """Starts the process of a node, on that node."""
    return Process(
        arguments,
        directory=command.directory,
        log=log,
        grace_seconds=command.grace_seconds,
        environment=_ENVIRONMENT,
    )


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as free:
        free.bind(("", 0))
        return int(free.getsockname()[1])


@dataclass(frozen=True, kw_only=True)
class Order:
    """What is to be trained.

    Args:
        mixture: weights of the domains.
        scale: name of the model scale.
        steps: to reach.
        seed: of the search.
        begins: step and path of another run's checkpoint to go on from; None to start from nothing.
    """

    mixture: Mapping[str, Any]
    scale: str
    steps: int
    seed: int = 0
    begins: tuple[int, str] | None = None


class CommandRun:
    """A run, from wherever it was left.

    Its folder has the mixture, the log, and a numbered folder for the files of the command: ``{folder}``. A run that
    goes on keeps that folder; one that starts anew gets another.

    Args:
        command: trains it.
        space: its domains and rungs.
        order: what is to be trained.
        folder: of the run, on a file system that all nodes have.
        wanted: metrics without which a report says nothing.
        session: of the search: what has failed is not tried again in the same one.
        start: the processes.

    Raises:
        ValueError: if the mixture cannot be written in the command's format.
    """

    def __init__(
        self,
        command: Command,
        space: MixtureSpace,
        order: Order,
        *,
        folder: Path,
        wanted: Sequence[str],
        session: str = "",
        start: Start = start_here,
    ) -> None:
        self._command, self._space, self._order, self._folder = command, space, order, folder
        self._wanted, self._session, self._start = wanted, session, start
        self._group: Processes | None = None
        self._progress = Progress(wanted)
        folder.mkdir(parents=True, exist_ok=True)
        self._mixture = folder / f"mixture{command.suffix}"
        write_atomically(self._mixture, command.blended(order.mixture, space, order.steps))
        self._state = self._read_state()
        self._reader = self._open()

    # -- what it has to say

    def next_report(self, beyond: int) -> dict[str, Any]:
        """Trains to the next rung, if need be, and returns the report of it.

        Where that is the last one asked for, or one that has diverged, the command has ended by then.

        Args:
            beyond: the step of the last report.

        Raises:
            FailedRunError: if the command failed, or ended without a report of its last step.
            LostRunError: if it is worth another try.
        """
        if (failed := self._state.get("failed")) and failed["session"] == self._session:
            raise FailedRunError(failed["message"])
        heard = time.monotonic()
        while True:
            code = None if self._group is None else self._poll()
            known = self._progress.n_records
            self._read()
            if (report := self._report(beyond)) is not None:
                return report
            if self._group is None:
                self._launch(beyond)
            elif code is not None:
                return self._ended(code, beyond)
            now = time.monotonic()
            heard = now if self._progress.n_records > known else heard
            if now - heard > self._command.silence_seconds:
                self.stop()
                return self._ended(SILENT, beyond)
            time.sleep(_POLL_SECONDS)

    def can_go_on(self) -> bool:
        """Whether the run could go on from where it is."""
        return self._command.continues and (self._command.checkpoint is None or bool(self._checkpoints()))

    def kept(self, step: int) -> str | None:
        """Path of its checkpoint of a step; None where there is none."""
        return next((str(path) for path, of in self._checkpoints().items() if of == step), None)

    def stop(self) -> int | None:
        """Ends the command, if it runs; its exit code."""
        group, self._group = self._group, None
        return None if group is None else group.stop()

    # -- inside

    def _report(self, beyond: int) -> dict[str, Any] | None:
        """The next report that is known already."""
        steps, progress = self._order.steps, self._progress
        # Of a run of several phases no rung on the way is one: a shorter run would have ended in other data by then.
        rungs = () if self._space.phase_names else self._space.rungs(self._order.scale)
        rung = min((rung for rung in (*rungs, steps) if rung > beyond), default=beyond + 1)
        diverged, reached = progress.diverged(beyond), progress.reached(rung)
        if "diverged" in self._state and diverged is None:
            diverged = max(int(self._state["diverged"]), beyond + 1)
            progress.diverge(diverged)
        if diverged is not None and (reached is None or diverged <= reached):
            self.stop()
            return progress.report(diverged)
        if reached is None:
            return None
        report = progress.report(reached)
        if reached >= steps and self._finish(reached) in self._command.diverged_codes:
            report |= dict.fromkeys(self._wanted, math.nan)
        return report

    def _finish(self, step: int) -> int | None:
        """Waits for the end of a command that has reported its last step, and brings it about if it does not come."""
        deadline = time.monotonic() + self._command.end_seconds
        while self._group is not None and time.monotonic() < deadline and self._progress.last <= step:
            if self._poll() is not None:
                break
            self._read()
            time.sleep(_POLL_SECONDS)
        return self.stop()

    def _ended(self, code: int, beyond: int) -> dict[str, Any]:
        """What it means that the command has ended before its last step was reported."""
        self.stop()
        self._read()
        if (report := self._report(beyond)) is not None:
            return report
        command = self._command
        if code in command.diverged_codes:
            self._state["diverged"] = max(self._progress.last, beyond + 1)
            self._write_state()
            report = self._report(beyond)
            assert report is not None
            return report
        message = self._told(code)
        if code in command.retry_codes:
            raise LostRunError(message)
        self._fail(message)

    def _told(self, code: int) -> str:
        """Why a command that has ended is no success."""
        last, steps, metrics = self._progress.last, self._order.steps, self._command.metrics
        how = "was ended, for it had shown no new step for " if code == SILENT else ""
        how = f"{how}{self._command.silence_seconds:g} s" if how else f"ended with exit code {code}"
        where = f"after step {last} of {steps}" if self._progress.n_records else "without a report of any step"
        hint = ""
        source = "what it prints" if metrics.file is None else str(self._reader.path)
        seen = ", ".join(list(self._reader.seen)[:_MOST_NAMED])
        if not self._progress.n_records:
            hint = f" The step is looked for as {metrics.step!r} in {source}, which has {seen or 'no metrics'}."
        elif last >= steps and (missing := [name for name in self._wanted if name not in self._reader.seen]):
            hint = f" No report of step {steps} or later has {', '.join(missing)}: {source} has {seen}."
        elif last == steps - 1:
            hint = " Does it count its steps from 0? Then have it train one more."
        if self._reader.n_passed_over:
            hint += f" Of {source}, lines of more than {LONGEST_LINE // MiB} MiB were passed over: report in less."
        lines = tail(self._log(0))
        shown = f" Its log {self._log(0)} ends with:\n{lines}" if lines else f" Its log {self._log(0)} is empty."
        return f"Run {self._folder.name}: the command {how} {where}.{hint}{shown}"

    def _fail(self, message: str) -> NoReturn:
        self._state["failed"] = {"session": self._session, "message": message}
        self._write_state()
        raise FailedRunError(message)

    def _poll(self) -> int | None:
        assert self._group is not None
        try:
            return self._group.poll()
        except CommandError as error:
            self.stop()
            raise LostRunError(f"Run {self._folder.name}: {error}") from error

    def _read(self) -> None:
        for record in self._reader.poll():
            if self._progress.last < self._order.steps:  # one that trains on after its last step may get anywhere
                self._check(record[0])
            self._progress.add(record)

    def _check(self, step: int) -> None:
        try:
            check_near(step, (*self._space.steps, self._order.steps), f"Run {self._folder.name}: the command reported")
        except ValueError as error:
            self.stop()
            self._fail(f"{error} Say with metrics: {{step: NAME}} what counts them.")

    # -- where it is

    def _launch(self, beyond: int) -> None:
        """Starts the command: from the newest checkpoint, or from nothing in a new folder."""
        command = self._command
        values = self._values()
        more: Sequence[str] = ()
        found = self._checkpoints() if self._state["attempt"] and command.continues else {}
        if found:
            path, step = list(found.items())[-1]
            more = command.resume or ()
            values |= {"resume": path, "resume_step": "" if step is None else step}
        elif beyond and command.continues and command.checkpoint is None:
            more = command.resume or ()
        elif beyond and command.continues:
            self._fail(
                f"Run {self._folder.name} is to go on after step {beyond}, and there is no checkpoint "
                f"{command.checkpoint} in its folder {self._files}."
            )
        else:
            self._state = {"attempt": self._state["attempt"] + 1}
            self._write_state()
            self._files.mkdir()
            self._progress, self._reader = Progress(self._wanted), self._open()
            values = self._values()
            if self._order.begins is not None:
                more = command.resume or ()
                values |= {"resume": self._order.begins[1], "resume_step": self._order.begins[0]}
        texts = [*command.program, *command.arguments.get(self._order.scale, ()), *more]
        self._state.pop("failed", None)
        try:
            self._group = self._start(command, lambda node: filled(texts, {**values, **node}), self._log)
        except CommandError as error:
            self._fail(f"Run {self._folder.name}: {error}")

    @property
    def _files(self) -> Path:
        return self._folder / str(self._state["attempt"])

    def _log(self, node: int) -> Path:
        return self._folder / (f"log-{self._state['attempt']}" + (f"-node-{node}" if node else "") + ".txt")

    def _values(self) -> dict[str, object]:
        return {
            "mixture": self._mixture,
            "scale": self._order.scale,
            "steps": self._order.steps,
            "folder": self._files,
            "name": self._folder.name,
            "seed": self._order.seed,
        }

    def _open(self) -> Reader:
        metrics = self._command.metrics
        path = self._log(0) if metrics.file is None else Path(filled([metrics.file], self._values())[0])
        path = Path(self._command.directory, path)
        return Reader(path, metrics.known_format, step=metrics.step, names=metrics.names)

    def _checkpoints(self) -> dict[Path, int | None]:
        pattern = self._command.checkpoint
        return {} if pattern is None else checkpoints(pattern, self._values())

    def _read_state(self) -> dict[str, Any]:
        try:
            state = parse_json((self._folder / _STATE).read_bytes())
            return {**state, "attempt": int(state["attempt"])}
        except FileNotFoundError:
            return {"attempt": 0}
        except (ValueError, KeyError, TypeError) as error:
            raise FailedRunError(f"{self._folder / _STATE} is damaged: {error}. Remove the folder.") from error

    def _write_state(self) -> None:
        write_atomically(self._folder / _STATE, json.dumps({"version": _VERSION, **self._state}))

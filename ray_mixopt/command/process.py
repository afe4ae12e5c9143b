"""A command that cannot outlive the process that started it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from ray_mixopt.command import supervisor

TERMINATED, KILLED = 128 + signal.SIGTERM, 128 + signal.SIGKILL
SILENT = 124  # as the program timeout(1) says that a command took too long
_POLL_SECONDS = 0.05
_LATE_SECONDS = 10.0  # after the grace, before the supervisor is taken to be gone
_TAIL_BYTES, _TAIL_LINES, _TAIL_WIDTH = 8192, 12, 500


class CommandError(RuntimeError):
    """A command that could not be started, or whose log cannot be written."""


class Process:
    """Starts a command under a ``supervisor``.

    All that it has started ends with it, and it ends with the process that this object is in, however that dies.

    Args:
        arguments: the program and its arguments; no shell sees them.
        directory: where it is run.
        log: file that what it prints is appended to. Values of environment variables that are called keys, tokens,
            secrets or passwords are hidden there; see ``supervisor.Secrets``.
        grace_seconds: between SIGTERM and SIGKILL.
        environment: variables to set besides those of this process.

    Raises:
        CommandError: if it does not start; one sentence.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        directory: str | os.PathLike[str],
        log: Path,
        grace_seconds: float = 10.0,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.log = log
        self._program, self._grace = arguments[0], grace_seconds
        self._code: int | None = None
        self._pid = 0
        self._said = b""
        self._keeper = subprocess.Popen(
            [sys.executable, "-I", "-S", supervisor.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        order = {
            "arguments": list(arguments),
            "directory": os.fspath(directory),
            "log": os.fspath(log),
            "grace_seconds": grace_seconds,
            "environment": dict(environment or {}),
        }
        assert self._keeper.stdin is not None and self._keeper.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._keeper.stdin.write(json.dumps(order).encode() + b"\n")
            self._keeper.stdin.flush()
        self._take_in(self._keeper.stdout.readline())  # waits
        os.set_blocking(self._keeper.stdout.fileno(), False)

    def poll(self) -> int | None:
        """The exit code, 128 + n where signal n ended it; None while it runs.

        Raises:
            CommandError: if its log cannot be written.
        """
        stdout = self._keeper.stdout
        while self._code is None and stdout is not None:
            try:
                content = os.read(stdout.fileno(), 4096)
            except BlockingIOError:
                return None
            if not content:
                self._end_orphans()
                break
            self._said += content
            while b"\n" in self._said:
                line, _, self._said = self._said.partition(b"\n")
                self._take_in(line)
        return self._code

    def stop(self) -> int:
        """Ends it, if it has not ended, and returns its exit code once all of it is gone."""
        assert self._keeper.stdin is not None
        with contextlib.suppress(OSError):
            self._keeper.stdin.close()
        deadline = time.monotonic() + self._grace + _LATE_SECONDS
        while self._code is None and time.monotonic() < deadline:
            with contextlib.suppress(CommandError):  # of a log, which no longer matters
                if self.poll() is not None:
                    break
            time.sleep(_POLL_SECONDS)
        if self._code is None:
            self._end_orphans()
        self._keeper.wait()
        assert self._code is not None
        return self._code

    def tail(self) -> str:
        """The last lines of the log."""
        return tail(self.log)

    def _take_in(self, line: bytes) -> None:
        said = json.loads(line or b"{}")
        self._pid = said.get("started", self._pid)
        self._code = said.get("exit", self._code)
        if "error" in said or not line:
            if not self._pid:
                self._code = KILLED
            raise CommandError(f"{self._program!r} cannot be run: {said.get('error', 'its supervisor was killed')}.")

    def _end_orphans(self) -> None:
        """Ends a command whose supervisor was killed: its group, by what is known of it."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._pid, signal.SIGKILL)
        self._code = KILLED if self._code is None else self._code


def tail(log: Path) -> str:
    """The last lines of a log, the beginning of long ones; empty where there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    lines = text.replace("\r", "\n").splitlines()[-_TAIL_LINES:]
    return "\n".join(line if len(line) <= _TAIL_WIDTH else f"{line[:_TAIL_WIDTH]}..." for line in lines)

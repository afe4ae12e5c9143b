"""Runs a command and ends all of it: a program of its own, which ``process.Process`` starts and talks to.

It reads one line of JSON from standard input, the arguments of ``Supervisor``, starts the command in a session of its
own, and appends what that prints to a log. On standard output it says ``{"started": pid}``, then ``{"exit": code}``,
with 128 + n for signal n; or ``{"error": sentence}``.

The end of its standard input is the order to end the command. It comes when the process that started it closes the
pipe, and also when that process dies, however it dies. The command and all processes that it has started get SIGTERM,
and those that are there after the grace SIGKILL. So do processes that the command leaves behind when it ends by itself.
On Linux none can hide: those whose parents are gone become children of this program.

It is run by its path, and imports the standard library only, so that it is there at once.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from typing import IO, Any

POLL_SECONDS = 0.05
LONGEST_LINE = 2**20  # bytes that are kept back until a line ends
SECRET_NAME = re.compile(r"(^|_)(API_?KEY|KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)(_|$)", re.IGNORECASE)
LEAST_SECRET = 8  # characters: what is shorter may be any word
HIDDEN = b"[hidden]"
_SET_PARENT_DEATH_SIGNAL, _SET_CHILD_SUBREAPER = 1, 36  # of prctl(2)


def main() -> None:
    """Does the work in a child, for Ray kills the children of a worker that ends, but not their children."""
    if os.fork():
        os.close(0)
        os.close(1)  # so that it closes with the one that works
        os.wait()
        os._exit(0)
    os.setsid()
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    line = bytearray()
    while not line.endswith(b"\n"):
        if not (byte := os.read(0, 1)):
            return
        line += byte
    Supervisor(**json.loads(line)).run()


class Supervisor:
    """One command, from its start to its end.

    Args:
        arguments: the program and its arguments.
        directory: where it is run.
        log: file to append what it prints to, but for values of environment variables that are called secrets.
        grace_seconds: between SIGTERM and SIGKILL.
        environment: variables to set besides those of this process.
    """

    def __init__(
        self, arguments: Sequence[str], directory: str, log: str, grace_seconds: float, environment: Mapping[str, str]
    ) -> None:
        self._arguments, self._directory, self._grace = arguments, directory, grace_seconds
        self._environment = {**os.environ, **environment}
        self._secrets = secrets(self._environment)
        self._path, self._log = log, -1  # opened when it runs
        self._held = b""  # of a line that has not ended yet
        self._pid = 0
        self._code: int | None = None
        self._to_end = False
        self._groups: set[int] = set()  # of processes of the command

    def run(self) -> None:
        """Runs the command to its end, whoever brings that about."""

        def terminate(number: int, frame: Any) -> None:
            self._to_end = True

        signal.signal(signal.SIGTERM, terminate)
        linux_call(_SET_CHILD_SUBREAPER, 1)
        try:
            self._log = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            child = subprocess.Popen(
                self._arguments,
                cwd=self._directory,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=lambda: linux_call(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL),
            )
        except (OSError, ValueError) as error:
            say(error=str(error))
            return
        self._pid = child.pid
        self._groups.add(child.pid)
        say(started=child.pid)
        assert child.stdout is not None
        os.set_blocking(child.stdout.fileno(), False)
        try:
            self._watch(child.stdout)
        except OSError as error:  # the log cannot be written
            say(error=str(error))
        with contextlib.suppress(OSError):
            self._end_all(child.stdout)
        child.returncode = self._code  # which was not waited for there
        say(exit=self._code)

    def _watch(self, output: IO[bytes]) -> None:
        """Copies what the command prints until it has ended, or is to end."""
        watched: list[Any] = [0, output]
        while self._code is None and not self._to_end:
            ready, _, _ = select.select(watched, [], [], POLL_SECONDS)
            self._reap()
            if output not in ready:
                self._write(b"", whole=True)
            elif not self._copy(output):
                watched.remove(output)  # closed, which does not mean that it has ended
            if 0 in ready and not os.read(0, 4096):
                self._to_end = True

    def _end_all(self, output: IO[bytes]) -> None:
        """Ends what there is of the command, and copies the rest that it prints."""
        deadline = time.monotonic() + self._grace
        asked: set[int] = set()
        while left := descendants(os.getpid(), self._groups):
            with contextlib.suppress(OSError):
                self._copy(output)
            if time.monotonic() >= deadline:
                send(left, signal.SIGKILL)
            else:
                send(left - asked, signal.SIGTERM)
                asked |= left
            time.sleep(POLL_SECONDS)
            self._reap()
        self._reap()
        with contextlib.suppress(OSError):
            while self._copy(output):
                pass
            self._write(b"", whole=True)

    def _reap(self) -> None:
        """Waits for children that have ended; those of the command that lost their parents are among them."""
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG)) != (0, 0):
                if ended[0] == self._pid:
                    code = os.waitstatus_to_exitcode(ended[1])
                    self._code = code if code >= 0 else 128 - code

    def _copy(self, output: IO[bytes]) -> bool:
        """Copies what the command has printed; False if there is no more to come, or none now."""
        try:
            content = os.read(output.fileno(), 2**16)
        except BlockingIOError:
            return False
        self._write(content, whole=not content)
        return bool(content)

    def _write(self, content: bytes, *, whole: bool) -> None:
        """Writes to the log as far as lines have ended, or all of it; a secret is never torn in two, then."""
        held = self._held + content
        end = len(held) if whole or len(held) > LONGEST_LINE else max(held.rfind(b"\n"), held.rfind(b"\r")) + 1
        lines, self._held = held[:end], held[end:]
        for secret in self._secrets:
            lines = lines.replace(secret, HIDDEN)
        while lines:
            lines = lines[os.write(self._log, lines) :]


def secrets(environment: Mapping[str, str]) -> list[bytes]:
    """Values of variables that are called keys, tokens, secrets or passwords, the longest first."""
    found = {value for name, value in environment.items() if SECRET_NAME.search(name) and len(value) >= LEAST_SECRET}
    return [os.fsencode(value) for value in sorted(found, key=len, reverse=True)]


def descendants(ancestor: int, groups: set[int]) -> set[int]:
    """The processes that descend from one, and those in the groups of such.

    Args:
        ancestor: a process.
        groups: process groups that are known to be theirs; more that are found are added.
    """
    processes = dict(_processes())
    found: set[int] = set()
    while new := {
        process
        for process, (parent, group) in processes.items()
        if process not in found and process != ancestor and (parent in found | {ancestor} or group in groups)
    }:
        found |= new
        groups |= {processes[process][1] for process in new} - {os.getpgid(0)}
    return found


def _processes() -> Collection[tuple[int, tuple[int, int]]]:
    """All processes, with their parents and groups."""
    if sys.platform != "linux":
        listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,pgid="], capture_output=True, text=True, check=False)
        numbers = [list(map(int, line.split())) for line in listed.stdout.splitlines()]
        return [(process, (parent, group)) for process, parent, group in numbers]
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()  # the name before may hold anything
            found.append((int(name), (int(fields[1]), int(fields[2]))))
    return found


def send(processes: Collection[int], number: int) -> None:
    """Sends a signal to processes, as far as they are there."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(process, number)


def linux_call(option: int, value: int) -> None:
    """Sets something about this process that only Linux knows."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def say(**message: Any) -> None:
    """Tells who started this program, if that is still there."""
    with contextlib.suppress(OSError):
        os.write(1, json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    main()

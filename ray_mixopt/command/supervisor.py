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
SECRET_NAME = re.compile(
    # The word ends its part of the name, as in API_KEYS, GITHUBTOKEN and secret2 ...
    r"(?i:key|token|secret|password|passwd|passphrase|credential)(?i:s?)(?![A-Za-z])"
    # ... or another one follows it in camel case, as in dbPasswordOld.
    r"|(?:[Kk]ey|[Tt]oken|[Ss]ecret|[Pp]assword|[Pp]asswd|[Pp]assphrase|[Cc]redential)s?(?=[A-Z])"
)
COUNTED = re.compile(r"(?i:keys|tokens)(?![A-Za-z])")  # with a number as value: MAX_TOKENS=100000000 is no secret
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
        self._secrets = Secrets(self._environment)
        self._path, self._log = log, -1  # opened when it runs
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
            if output in ready and not self._copy(output):
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
            self._write(self._secrets.rest())

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
        self._write(self._secrets.hidden_in(content))
        return bool(content)

    def _write(self, content: bytes) -> None:
        while content:
            content = content[os.write(self._log, content) :]


class Secrets:
    """Hides values of variables that are called keys, tokens, secrets or passwords in what comes by and by.

    Of a value of several lines, each is hidden. What may be the beginning of a value is held back until it is known.

    Args:
        environment: the variables.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        values = [value for name, value in environment.items() if is_secret(name, value)]
        parts = {part.strip() for value in values for part in (value, *value.splitlines())}
        known = sorted((part for part in parts if len(part) >= LEAST_SECRET), key=len, reverse=True)
        self._values = [os.fsencode(value) for value in known]
        self._pattern = re.compile(b"|".join(map(re.escape, self._values)) or b"(?!)")  # the longest first
        self._held = b""

    def hidden_in(self, content: bytes) -> bytes:
        """What can be shown now, of this and of what was held back."""
        text = self._held + content
        end = self._known(text)
        self._held = text[end:]
        return self._pattern.sub(HIDDEN, text[:end])

    def rest(self) -> bytes:
        """What can be shown of what was held back, now that no more comes."""
        text, self._held = self._held, b""
        return HIDDEN if len(text) >= LEAST_SECRET else text

    def _known(self, text: bytes) -> int:
        """Up to where a text holds whole values, and no beginning of one."""
        starts = {len(text) - n for value in self._values for n in range(1, len(value)) if text.endswith(value[:n])}
        if not starts:
            return len(text)
        for match in self._pattern.finditer(text):
            if min(starts) <= match.start():  # of a longer one, perhaps
                break
            starts = {start for start in starts if start >= match.end()} or {len(text)}
        return min(starts)


def is_secret(name: str, value: str) -> bool:
    """Whether a variable is called a key, token, secret or password, in whatever words and capitals."""
    return bool(SECRET_NAME.search(name)) and not (value.strip().isdecimal() and COUNTED.search(name))


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

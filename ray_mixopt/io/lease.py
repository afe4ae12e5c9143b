"""A lease on an experiment's folder: one driver at a time searches in it. No Ray.

The file ``search.lease`` names its holder, who counts up a number in it every few seconds. Whoever finds that number
standing still takes the lease over, and at once where the process is known to be gone; clocks are not compared.
A holder who finds another's name in it has lost it.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

from pyarrow import fs

from ray_mixopt.core.safety import parse_json, write_atomically

logger = logging.getLogger(__name__)

NAME = "search.lease"  # not .json: Tune puts old copies of such files back into a restored folder
BEAT_S = 3.0  # between two signs of life, in a local folder
REMOTE_BEAT_S = 15.0  # the same in other storage, where each is paid for
PATIENCE = 5  # beats without a sign of life, after which a holder counts as dead
ABSENT_S = 60.0  # without a step of its search, after which a holder gives the lease back
MOST_BYTES = 4096


class LeaseError(ValueError):
    """Another driver searches in the folder."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """A process that holds a lease.

    Attributes:
        owner: a name of its own.
        machine: host, boot and process namespace: where ``pid`` means something.
        pid: its number there.
        started: when it was started, as its kernel counts; "" where that is not known.
        beat_s: seconds between its signs of life.
        beats: signs of life so far.
    """

    owner: str
    machine: str
    pid: int
    started: str
    beat_s: float
    beats: int = 0

    @classmethod
    def read(cls, content: bytes) -> Self | None:
        """The holder in a lease's content; None where it is torn or something else."""
        try:
            state = parse_json(content)
            beat_s = float(state["beat_s"])
            return cls(
                owner=str(state["owner"]),
                machine=str(state["machine"]),
                pid=int(state["pid"]),
                started=str(state["started"]),
                beat_s=beat_s if 0 <= beat_s <= REMOTE_BEAT_S else REMOTE_BEAT_S,
                beats=int(state["beats"]),
            )
        except (ValueError, TypeError, KeyError, OverflowError):
            return None

    @property
    def gone(self) -> bool:
        """Whether its process is known to have ended: one of this machine's, that is not there any more."""
        return self.machine == _machine() and _started(self.pid) != self.started

    def __str__(self) -> str:
        return f"process {self.pid} on {self.machine.partition(' ')[0]}"


class Lease:
    """The lease on one folder, as this process sees it.

    Args:
        filesystem: of the folder.
        folder: the experiment's, on it.
    """

    def __init__(self, filesystem: fs.FileSystem, folder: str) -> None:
        self._filesystem, self.folder = filesystem, folder
        self._path = f"{folder}/{NAME}"
        self._local = isinstance(filesystem, fs.LocalFileSystem)
        self._mine = Holder(
            owner=uuid4().hex,
            machine=_machine(),
            pid=os.getpid(),
            started=_started(os.getpid()) or "",
            beat_s=BEAT_S if self._local else REMOTE_BEAT_S,
        )
        self._beats = 0
        self._seen = 0.0  # when the search made its last step
        self._thinking = 0  # calls of the search that may take long
        self._lost: Holder | None = None
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()

    def check(self) -> None:
        """Checks that no other process searches in the folder; takes as long as it takes to see a sign of life.

        Raises:
            LeaseError: if one does.
        """
        holder = self._holder()
        if holder is None or holder.owner in _OWN or holder.gone:
            return
        deadline = time.monotonic() + PATIENCE * holder.beat_s
        while time.monotonic() < deadline:
            time.sleep(min(holder.beat_s / 4, 0.5))
            now = self._holder()
            if now is None or now.owner in _OWN or now.gone:
                return
            if (now.owner, now.beats) != (holder.owner, holder.beats):
                raise LeaseError(_refusal(self.folder, now))
        logger.warning("The search in %s is taken over from %s, which shows no sign of life.", self.folder, holder)

    def hold(self) -> None:
        """Takes the lease, or goes on holding it: to be called with every step of the search.

        A storage that cannot be written to is no reason to end a search: a warning says that it goes on unprotected.

        Raises:
            LeaseError: if another process has it, or has taken it over.
        """
        self._seen = time.monotonic()
        if self._lost is not None:
            raise LeaseError(_refusal(self.folder, self._lost))
        if self._thread is not None and self._thread.is_alive():
            return
        self.check()
        _OWN.add(self._mine.owner)
        self._beat()
        time.sleep(0.05 if self._local else 1.0)  # of two who take it at once, one finds the other's name
        holder = self._holder()
        if holder is not None and holder.owner != self._mine.owner and holder.owner not in _OWN:
            raise LeaseError(_refusal(self.folder, holder))
        self._ended.clear()
        self._thread = threading.Thread(target=self._live, daemon=True, name="mixopt-lease")
        self._thread.start()
        atexit.register(self.release)

    def release(self) -> None:
        """Gives the lease back, if it is held."""
        self._ended.set()
        atexit.unregister(self.release)
        holder = self._holder()
        if holder is not None and holder.owner == self._mine.owner:
            self._try(lambda: self._filesystem.delete_file(self._path))

    def __enter__(self) -> Self:
        """While the context lasts, the search is at work and need not make a step."""
        self._thinking += 1
        return self

    def __exit__(self, *_: object) -> None:
        self._thinking -= 1
        self._seen = time.monotonic()

    def _live(self) -> None:
        """Gives signs of life until the lease is released or lost, or the search has not stepped for long."""
        while not self._ended.wait(self._mine.beat_s):
            if not self._thinking and time.monotonic() - self._seen > ABSENT_S:
                self.release()
                return
            holder = self._holder()
            if holder is not None and holder.owner != self._mine.owner and not holder.gone:
                self._lost = None if holder.owner in _OWN else holder
                return
            self._beat()

    def _beat(self) -> None:
        self._beats += 1
        content = json.dumps(asdict(self._mine) | {"beats": self._beats})
        if not self._try(lambda: self._write(content)) and self._beats == 1:
            logger.warning("%s cannot be written to: nothing keeps another driver from searching there.", self.folder)

    def _write(self, content: str) -> None:
        if self._local:
            write_atomically(Path(self._path), content)
        else:
            with self._filesystem.open_output_stream(self._path) as stream:
                stream.write(content.encode())

    def _holder(self) -> Holder | None:
        """Who has the lease; None where nobody has, or that cannot be read."""
        found: list[bytes] = []

        def read() -> None:
            with self._filesystem.open_input_stream(self._path) as stream:
                found.append(stream.read(MOST_BYTES))

        return Holder.read(found[0]) if self._try(read) else None

    def _try(self, act: Callable[[], Any]) -> bool:
        try:
            act()
        except (OSError, ValueError):
            return False
        return True


_OWN: set[str] = set()  # owners that are this process
os.register_at_fork(after_in_child=_OWN.clear)


def _refusal(folder: str, holder: Holder) -> str:
    return (
        f"{folder} is being searched by {holder}: two drivers would spend twice and overwrite each other's files. End "
        "that one first. A driver whose process is gone, or that gives no sign of life for "
        f"{PATIENCE * holder.beat_s:g} s, is taken over from."
    )


def _machine() -> str:
    """Host, boot and process namespace: two processes with the same can see each other's numbers."""
    parts = [socket.gethostname() or "?"]
    for read in (
        lambda: Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        lambda: os.readlink("/proc/self/ns/pid"),
    ):
        try:
            parts.append(read())
        except OSError:
            parts.append("-")
    return " ".join(parts)


def _started(pid: int) -> str | None:
    """When a process of this machine was started, in ticks of its kernel; "" where unknown, None if it is gone."""
    try:
        # Fields 3 and 22 of proc(5), counted after the name, which is in parentheses and may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    except FileNotFoundError:
        if Path("/proc/self").exists():
            return None
    except (OSError, IndexError):
        return ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass
    return ""

"""Files of searcher state: written atomically with the previous one kept, and the newest readable one back. No Ray.

A snapshot lies in the experiment's folder as ``searcher-state-<session>.json``; every run and every restored run is a
session. Which is the latest is in the files: their names are local times, and clocks are set back. The folder may be
local or remote.

Tune uploads its local folder as a whole, again and again, several files at a time and in place: a kill in the middle
may tear any of them, those of earlier sessions included. What lies in the storage's subfolder ``kept`` is not uploaded:
a generation of the session's files, of which each stays until the next is whole.
"""

from __future__ import annotations

import fnmatch
import json
import logging
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Generic, TypeVar

from pyarrow import fs

from ray_mixopt.core.safety import MiB, check_size, parse_json, write_atomically
from ray_mixopt.core.settings import OwnStrategyError

logger = logging.getLogger(__name__)
T = TypeVar("T")

MOST_BYTES = 512 * MiB  # 100,000 trials take about 50
NAME = "searcher-state-{}.json"
PREVIOUS = "previous-"
COPY = "copy-of-"
KEPT = "kept/"
TUNER = "tuner.pkl"  # how Tune's Tuner was set up, a pickle of Ray's
TUNE_FILES = ("experiment_state-{}.json", "search_gen_state-{}.json")
WRITTEN = "written"
_HEAD = re.compile(rb'\{"written": ([0-9][0-9.e+]*)[,}]')  # of a snapshot, as ``write`` makes it
_YEAR_3000 = 3.25e10  # in seconds since 1970: what is written later than that is no time


def write(path: str | os.PathLike[str], state: Mapping[str, Any]) -> None:
    """Writes a snapshot; at every moment there is a whole file under that name. The one before is kept next to it.

    Args:
        path: a local file.
        state: JSON-able.
    """
    file, content = Path(path), json.dumps({WRITTEN: time.time(), **state})
    if file.exists():
        write_atomically(file.with_name(PREVIOUS + file.name), file.read_bytes())
    write_atomically(file, content)


def keep(staging: str | os.PathLike[str], folder: str) -> None:
    """Makes a generation of whole session files in a local storage, of what Tune has in the folder that it uploads.

    Each file is replaced by a rename once the new one is on the disk. Remote storages replace objects as a whole, and
    need none.

    Args:
        staging: the local folder that Tune uploads.
        folder: of the experiment, in the storage.

    Raises:
        OSError: if the storage cannot be written to.
    """
    for name in (NAME, *TUNE_FILES):
        for file in Path(staging).glob(name.format("*")):
            kept = Path(folder, KEPT + file.name)
            if not kept.exists() or kept.stat().st_mtime < file.stat().st_mtime:
                kept.parent.mkdir(exist_ok=True)
                write_atomically(kept, file.read_bytes(), durable=True)


def keep_tuner(filesystem: fs.FileSystem, folder: str) -> None:
    """Keeps Tune's description of the Tuner that searches in a folder, which the next one replaces when it is made.

    Args:
        filesystem: of the folder.
        folder: of the experiment, on which this process has the lease.

    Raises:
        OSError: if the storage cannot be read from or written to.
    """
    made, kept = content(filesystem, f"{folder}/{TUNER}"), f"{folder}/{KEPT}{TUNER}"
    filesystem.create_dir(f"{folder}/{KEPT}")
    if isinstance(filesystem, fs.LocalFileSystem):
        write_atomically(kept, made, durable=True)
    else:
        with filesystem.open_output_stream(kept) as stream:
            stream.write(made)


def locate(path: str | os.PathLike[str], filesystem: fs.FileSystem | None = None) -> tuple[fs.FileSystem, str]:
    """The file system that a path is on, and the path there.

    Args:
        path: a local path, a URI such as ``s3://bucket/run``, or a path on ``filesystem``.
        filesystem: where the path lies, if it does not say.
    """
    text = os.fspath(path)
    if filesystem is not None:
        return filesystem, text
    if "://" in text:
        return fs.FileSystem.from_uri(text)
    return fs.LocalFileSystem(), os.path.abspath(os.path.expanduser(text))


def content(filesystem: fs.FileSystem, path: str) -> bytes:
    """All bytes of a file of an experiment.

    Raises:
        OSError: if it cannot be opened.
        ValueError: if it is larger than ``MOST_BYTES``.
    """
    check_size(path, filesystem.get_file_info(path).size, MOST_BYTES)
    with filesystem.open_input_file(path) as stream:
        found: bytes = stream.readall()
    return found


def read(filesystem: fs.FileSystem, path: str) -> dict[str, Any]:
    """The JSON object in one file.

    Raises:
        OSError: if it cannot be opened.
        ValueError: if it is too large, not JSON, or not an object.
    """
    state = parse_json(content(filesystem, path))
    if not isinstance(state, dict):
        raise ValueError("it does not hold a JSON object")
    return state


def names(filesystem: fs.FileSystem, folder: str) -> set[str]:
    """Names of the files in a folder; none where there is no such folder."""
    entries = filesystem.get_file_info(fs.FileSelector(folder, allow_not_found=True))
    return {entry.base_name for entry in entries if entry.type == fs.FileType.File}


def candidates(filesystem: fs.FileSystem, path: str) -> list[str]:
    """Paths of the snapshots to try in turn: newest session first, each followed by those to fall back to.

    The newest session is the one that was written last; one whose files do not say has its place by its name.

    Args:
        filesystem: where ``path`` lies.
        path: an experiment's folder; or a snapshot file, which then comes first.
    """
    if filesystem.get_file_info(path).type == fs.FileType.Directory:
        folder, wanted = path, None
    else:
        folder, _, wanted = path.rpartition("/")
    present = names(filesystem, folder) | {KEPT + name for name in names(filesystem, f"{folder}/{KEPT}".rstrip("/"))}
    files = {name.removeprefix(PREVIOUS).removeprefix(KEPT) for name in present}
    sessions = sorted(fnmatch.filter(files, NAME.format("*")), reverse=True)
    of_session = {name: [n for n in (name, KEPT + name, PREVIOUS + name) if n in present] for name in sessions}
    if len(sessions) > 1:
        heads = {
            name: [_time_in_head(filesystem, f"{folder}/{file}") for file in found]
            for name, found in of_session.items()
        }
        sessions = _latest_first({name: max((t for t in times if t), default=None) for name, times in heads.items()})
    if wanted is not None:
        place = sessions.index(wanted) if wanted in sessions else None
        is_session = fnmatch.fnmatch(wanted, NAME.format("*"))
        earlier = [n for n in sessions if is_session and n < wanted] if place is None else sessions[place + 1 :]
        sessions = [wanted, *earlier]
        of_session.setdefault(wanted, [n for n in (wanted, PREVIOUS + wanted) if n in present])
    return [f"{folder}/{name}" for session in sessions for name in of_session[session]]


def _latest_first(written: Mapping[str, float | None]) -> list[str]:
    """Names of sessions by when they were written; where that is not known, before those of lesser names."""
    dated = [(moment, name) for name, moment in written.items() if moment is not None]
    found = [name for _, name in sorted(dated, reverse=True)]
    for undated in sorted(name for name, moment in written.items() if moment is None):
        found.insert(next((i for i, name in enumerate(found) if name < undated), len(found)), undated)
    return found


def _time_in_head(filesystem: fs.FileSystem, path: str) -> float | None:
    """When a snapshot was written, as its first bytes say; None where they do not."""
    try:
        with filesystem.open_input_stream(path, compression=None) as stream:
            head = _HEAD.match(stream.read(64))
        return None if head is None else _moment(float(head[1]))
    except (OSError, ValueError):
        return None


def _moment(value: object) -> float | None:
    """What a state says of when it was written, if that is a time."""
    known = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < _YEAR_3000
    return float(value) if known else None  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class Snapshot(Generic[T]):
    """What comes of a snapshot.

    Attributes:
        value: what it was made into.
        file: its path.
        written: when it was written, in seconds since 1970; None for one of version 0.1, which does not say.
        damaged: paths of newer ones that are damaged and were passed over.
        fallback: a sentence about how old it is and what was passed over; None if it is the newest.
    """

    value: T
    file: str
    written: float | None
    damaged: tuple[str, ...] = ()
    fallback: str | None = None


def newest(filesystem: fs.FileSystem, path: str, take: Callable[[dict[str, Any]], T]) -> Snapshot[T]:
    """What comes of the first of the ``candidates`` that can be read.

    A warning names the damaged ones passed over, and says how much older the one is that was read.

    Args:
        filesystem: where ``path`` lies.
        path: see ``candidates``.
        take: makes something of a state, or raises ValueError.

    Raises:
        ValueError: if no snapshot can be read.
        OwnStrategyError: if ``take`` raises it.
    """
    damaged: dict[str, str] = {}
    for file in candidates(filesystem, path):
        try:
            state = read(filesystem, file)
            found = take(state)
        except OwnStrategyError:
            raise  # no damage: an older snapshot would say the same
        except (OSError, ValueError) as error:
            damaged[file] = str(error)
            continue
        written = _moment(state.get(WRITTEN))
        fallback = None
        if damaged:
            told = "; ".join(f"{name} ({error})" for name, error in damaged.items())
            age = told_age(written, filesystem.get_file_info(next(iter(damaged))).mtime)
            fallback = f"Went on from {file}, {age}, since what is newer is damaged: {told}."
            logger.warning("%s", fallback)
        return Snapshot(value=found, file=file, written=written, damaged=tuple(damaged), fallback=fallback)
    told = "; ".join(f"{name} ({error})" for name, error in damaged.items())
    raise ValueError(f"No readable searcher state at {path}: {told or 'there is none'}.")


def told_age(written: float | None, damaged: datetime | None) -> str:
    """When something that is whole was written, and how much earlier than what is damaged.

    Args:
        written: in seconds since 1970; None where that is not known.
        damaged: when the damaged file was last written to; None where that is not known.
    """
    if written is None:
        return "of unknown age"
    text = f"written {datetime.fromtimestamp(written, UTC):%Y-%m-%d %H:%M:%S} UTC"
    if damaged is None:
        return text
    return f"{text}, {max(damaged.timestamp() - written, 0.0):.1f} s before it"

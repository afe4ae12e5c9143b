"""Files of searcher state: written atomically with the previous one kept, and the newest readable one back. No Ray.

A snapshot lies in the experiment's folder as ``searcher-state-<session>.json``; every run and every restored run is a
session, and later sessions have later names. The folder may be local or remote.
"""

from __future__ import annotations

import fnmatch
import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pyarrow import fs

from ray_mixopt.core.problem import OwnStrategyError
from ray_mixopt.core.safety import MiB, check_size, parse_json, write_atomically

logger = logging.getLogger(__name__)
T = TypeVar("T")

MOST_BYTES = 512 * MiB  # 100,000 trials take about 50
NAME = "searcher-state-{}.json"
PREVIOUS = "previous-"
COPY = "copy-of-"
KEPT = "kept-"
TUNE_FILES = ("experiment_state-{}.json", "search_gen_state-{}.json")


def write(path: str | os.PathLike[str], state: Mapping[str, Any]) -> None:
    """Writes a snapshot; at every moment there is a whole file under that name. The one before is kept next to it.

    Args:
        path: a local file.
        state: JSON-able.
    """
    file, content = Path(path), json.dumps(state)
    if file.exists():
        write_atomically(file.with_name(PREVIOUS + file.name), file.read_bytes())
    write_atomically(file, content)


def keep_session(staging: str | os.PathLike[str], filesystem: fs.FileSystem, folder: str) -> None:
    """Puts whole copies of Tune's session files into a local storage, where Tune uploads all files anew, in place.

    A kill in the middle of an upload may tear a file and the copy that is uploaded with it. Other storages replace
    objects as a whole.

    Args:
        staging: the local folder that Tune uploads.
        filesystem: of the storage.
        folder: of the experiment, in the storage.
    """
    if not isinstance(filesystem, fs.LocalFileSystem) or not os.path.isdir(folder):
        return
    for name in TUNE_FILES:
        for file in Path(staging).glob(name.format("*")):
            kept = Path(folder, KEPT + file.name)
            if not kept.exists() or kept.stat().st_mtime < file.stat().st_mtime:
                write_atomically(kept, file.read_bytes())


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
    """Paths of the snapshots to try in turn: newest session first, each followed by the one that it replaced.

    Args:
        filesystem: where ``path`` lies.
        path: an experiment's folder; or a snapshot file, which then comes first.
    """
    if filesystem.get_file_info(path).type == fs.FileType.Directory:
        folder, wanted = path, None
    else:
        folder, _, wanted = path.rpartition("/")
    present = names(filesystem, folder)
    sessions = sorted(fnmatch.filter({name.removeprefix(PREVIOUS) for name in present}, NAME.format("*")), reverse=True)
    if wanted is not None:
        is_session = fnmatch.fnmatch(wanted, NAME.format("*"))
        sessions = [wanted, *(name for name in sessions if is_session and name < wanted)]
    return [f"{folder}/{name}" for session in sessions for name in (session, PREVIOUS + session) if name in present]


def newest(filesystem: fs.FileSystem, path: str, take: Callable[[dict[str, Any]], T]) -> tuple[T, int]:
    """What comes of the first of the ``candidates`` that can be read, and how many damaged ones were passed over.

    A warning names those.

    Args:
        filesystem: where ``path`` lies.
        path: see ``candidates``.
        take: makes something of a state, or raises ValueError.

    Raises:
        ValueError: if no snapshot can be read.
        OwnStrategyError: if ``take`` raises it.
    """
    damaged: list[str] = []
    for file in candidates(filesystem, path):
        try:
            found = take(read(filesystem, file))
        except OwnStrategyError:
            raise  # no damage: an older snapshot would say the same
        except (OSError, ValueError) as error:
            damaged.append(f"{file} ({error})")
            continue
        if damaged:
            logger.warning("Went on from %s, since what is newer is damaged: %s.", file, "; ".join(damaged))
        return found, len(damaged)
    raise ValueError(f"No readable searcher state at {path}: {'; '.join(damaged) or 'there is none'}.")

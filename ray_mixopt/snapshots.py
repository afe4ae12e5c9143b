"""Files of searcher state: written atomically with the previous one kept, and the newest readable one back.

A snapshot lies in the experiment's folder as ``searcher-state-<session>.json``; every run and every restored run is a
session, and later sessions have later names. The folder may be local or remote.
"""

from __future__ import annotations

import fnmatch
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyarrow import fs

NAME = "searcher-state-{}.json"
PREVIOUS = "previous-"


def write(path: str | os.PathLike[str], state: Mapping[str, Any]) -> None:
    """Writes a snapshot; at every moment there is a whole file under that name. The one before is kept next to it.

    Args:
        path: a local file.
        state: JSON-able.
    """
    file = Path(path)
    draft, copy = (file.with_name(f".{os.getpid()}-{part}-{file.name}") for part in ("new", "old"))
    with open(draft, "w", encoding="utf-8") as stream:
        json.dump(state, stream)
    if file.exists():
        shutil.copyfile(file, copy)
        os.replace(copy, file.with_name(PREVIOUS + file.name))
    os.replace(draft, file)


def locate(path: str | os.PathLike[str], filesystem: fs.FileSystem | None = None) -> tuple[fs.FileSystem, str]:
    """Where a path leads: a local one, a URI such as ``s3://bucket/run``, or one on a given file system."""
    text = os.fspath(path)
    if filesystem is not None:
        return filesystem, text
    if "://" in text:
        return fs.FileSystem.from_uri(text)
    return fs.LocalFileSystem(), os.path.abspath(os.path.expanduser(text))


def read(filesystem: fs.FileSystem, path: str) -> dict[str, Any]:
    """The state in one file.

    Raises:
        OSError: if it cannot be opened.
        ValueError: if it is not JSON, or not an object.
    """
    with filesystem.open_input_file(path) as stream:
        state = json.loads(stream.readall().decode("utf-8"))
    if not isinstance(state, dict):
        raise ValueError("it does not hold a JSON object")
    return state


def names(filesystem: fs.FileSystem, folder: str) -> set[str]:
    """Names of the files in a folder."""
    entries = filesystem.get_file_info(fs.FileSelector(folder, allow_not_found=True))
    return {entry.base_name for entry in entries if entry.type == fs.FileType.File}


def candidates(filesystem: fs.FileSystem, path: str) -> list[str]:
    """Snapshots to try in turn: newest session first, each followed by the one that it replaced.

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

"""Files of searcher state: written atomically with the previous one kept, and the newest readable one back.

A snapshot lies in the experiment's folder as ``searcher-state-<session>.json``; every run and every restored run is a
session, and later sessions have later names. The folder may be local or remote.
"""

from __future__ import annotations

import fnmatch
import json
import logging
import os
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyarrow import fs
from ray.tune.search import Searcher

from ray_mixopt.core.safety import MiB, check_size, parse_json, write_atomically

logger = logging.getLogger(__name__)

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
    """Where a path leads: a local one, a URI such as ``s3://bucket/run``, or one on a given file system."""
    text = os.fspath(path)
    if filesystem is not None:
        return filesystem, text
    if "://" in text:
        return fs.FileSystem.from_uri(text)
    return fs.LocalFileSystem(), os.path.abspath(os.path.expanduser(text))


def content(filesystem: fs.FileSystem, path: str) -> bytes:
    """All of a file of an experiment.

    Raises:
        OSError: if it cannot be opened.
        ValueError: if it is larger than ``MOST_BYTES``.
    """
    check_size(path, filesystem.get_file_info(path).size, MOST_BYTES)
    with filesystem.open_input_file(path) as stream:
        found: bytes = stream.readall()
    return found


def read(filesystem: fs.FileSystem, path: str) -> dict[str, Any]:
    """The state in one file.

    Raises:
        OSError: if it cannot be opened.
        ValueError: if it is too large, not JSON, or not an object.
    """
    state = parse_json(content(filesystem, path))
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


class SnapshotSearcher(Searcher):
    """A Tune searcher whose state is JSON. A subclass has ``state_dict`` and ``load_state_dict``.

    Attributes:
        n_recoveries: damaged files passed over, in all sessions.
        damage: why a restore failed, None if none did.
    """

    CKPT_FILE_TMPL = NAME
    n_recoveries = 0
    damage: str | None = None

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """The state, JSON-able."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over a state, or raises ValueError and changes nothing."""

    def save(self, checkpoint_path: str) -> None:
        """Writes the state as JSON, atomically; what was there before is kept as ``previous-...``."""
        write(checkpoint_path, self.state_dict())

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Writes ``searcher-state-<session>.json`` into a folder, and copies of Tune's files of that session.

        Tune calls this in a local folder, which it then uploads file by file, in place: a kill in the middle leaves a
        torn file in the storage, but hardly ever both it and its copy.
        """
        self.save(os.path.join(checkpoint_dir, NAME.format(session_str)))
        for name in TUNE_FILES:
            file = Path(checkpoint_dir, name.format(session_str))
            if file.exists():
                write_atomically(file.with_name(COPY + file.name), file.read_bytes())

    def restore(self, checkpoint_path: str) -> None:
        """Reads what ``save`` wrote. A damaged file is passed over for the one before it, with a warning.

        Raises:
            ValueError: if no file can be read.
        """
        self.restore_newest(*locate(checkpoint_path))

    def restore_from_dir(self, checkpoint_dir: str) -> None:
        """Reads the newest readable state in an experiment's folder.

        Tune answers an error here by quietly starting the experiment anew: if nothing can be read, ``damage`` says
        so, for ``suggest`` to raise.
        """
        try:
            self.restore_newest(*locate(checkpoint_dir))
        except ValueError as error:
            self.damage = str(error)
            logger.error("%s", error)

    def restore_newest(self, filesystem: fs.FileSystem, path: str) -> None:
        """Reads the first of the ``candidates`` that can be read.

        Raises:
            ValueError: if none can.
        """
        damaged = []
        for file in candidates(filesystem, path):
            try:
                self.load_state_dict(read(filesystem, file))
            except (OSError, ValueError) as error:
                damaged.append(f"{file} ({error})")
                continue
            self.damage = None
            if damaged:
                self.n_recoveries += len(damaged)
                logger.warning("Went on from %s, since what is newer is damaged: %s.", file, "; ".join(damaged))
            return
        raise ValueError(f"No readable searcher state at {path}: {'; '.join(damaged) or 'there is none'}.")

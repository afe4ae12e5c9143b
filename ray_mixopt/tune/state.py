"""A Tune searcher whose state is JSON, in files that survive being killed while they are written."""

from __future__ import annotations

import logging
import os
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray.cloudpickle
from pyarrow import fs
from ray.tune.search import Searcher

from ray_mixopt.core.safety import write_atomically
from ray_mixopt.io import snapshots
from ray_mixopt.tune.storage import Outage

logger = logging.getLogger(__name__)


class SnapshotSearcher(Searcher):
    """A Tune searcher whose state is JSON. A subclass has ``state_dict`` and ``load_state_dict``.

    Attributes:
        n_recoveries: damaged files passed over, in all sessions.
        damage: why a restore failed, None if none did.
        recovered: what was found, and set right, when the folder that is going to be restored was looked through.
    """

    CKPT_FILE_TMPL = snapshots.NAME
    n_recoveries = 0
    damage: str | None = None
    recovered: snapshots.Snapshot[Any] | None = None

    def __init__(self, metric: str | None = None, mode: str | None = None) -> None:
        super().__init__(metric=metric, mode=mode)
        self._outage = Outage(self.note)

    @abstractmethod
    def note(self, incident: str) -> None:
        """Keeps a sentence about what befell the search, for its report."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """The state, JSON-able."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over a state, or raises ValueError and changes nothing."""

    def save(self, checkpoint_path: str) -> None:
        """Writes the state as JSON, atomically; what was there before is kept as ``previous-...``."""
        snapshots.write(checkpoint_path, self.state_dict())

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Writes ``searcher-state-<session>.json`` into a folder, and copies of Tune's files of that session.

        Tune calls this in a local folder, which it then uploads file by file, in place: a kill in the middle leaves a
        torn file in the storage, but hardly ever both it and its copy.

        A full disk does not end the search here: what was written before stays, and a warning says so. It is Tune's
        to say whether it can go on.
        """
        try:
            self.save(os.path.join(checkpoint_dir, snapshots.NAME.format(session_str)))
            for name in snapshots.TUNE_FILES:
                file = Path(checkpoint_dir, name.format(session_str))
                if file.exists():
                    write_atomically(file.with_name(snapshots.COPY + file.name), file.read_bytes())
        except OSError as error:
            self._outage.begin(f"The state of the search cannot be written to {checkpoint_dir} ({error})")
        else:
            self._outage.end()

    def restore(self, checkpoint_path: str) -> None:
        """Reads what ``save`` wrote. A damaged file is passed over for the one before it, with a warning.

        Raises:
            ValueError: if no file can be read.
        """
        self.restore_newest(*snapshots.locate(checkpoint_path))

    def restore_from_dir(self, checkpoint_dir: str) -> None:
        """Reads the newest readable state in an experiment's folder.

        Tune answers an error here by quietly starting the experiment anew: if nothing can be read, ``damage`` says
        so, for ``suggest`` to raise.
        """
        try:
            self.restore_newest(*snapshots.locate(checkpoint_dir))
        except ValueError as error:
            self.damage = str(error)
            logger.error("%s", error)

    def restore_newest(self, filesystem: fs.FileSystem, path: str) -> None:
        """Reads the first of ``snapshots.candidates`` that can be read, with a warning for those passed over.

        Raises:
            ValueError: if none can.
        """
        found = snapshots.newest(filesystem, path, self.load_state_dict)
        self.damage = None
        self.count_recovery(found)
        if self.recovered is not None:
            self.count_recovery(self.recovered)
        self.recovered = None

    def count_recovery(self, found: snapshots.Snapshot[Any]) -> None:
        """Takes note of damaged files that were passed over."""
        self.n_recoveries += len(found.damaged)
        if found.fallback is not None:
            self.note(found.fallback)


def snapshot_often() -> None:
    """Has Tune take a snapshot of the experiment each second, unless ``TUNE_GLOBAL_CHECKPOINT_S`` is set.

    What happens between two snapshots is lost when the driver is killed. Tune's own period is 10 s, or longer.
    """
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "1")


def check_pickled(**parts: Any) -> None:
    """Checks that what a searcher was given can be pickled, as Tune does with it.

    Args:
        **parts: by the names of the arguments.

    Raises:
        ValueError: naming one that cannot.
    """
    for name, part in parts.items():
        try:
            ray.cloudpickle.dumps(part)
        except Exception as error:  # whatever its own code raises
            raise ValueError(
                f"{name}={part!r} cannot be pickled, as Tune needs it to restore the search: {error}. Leave out "
                "what it holds of this process (locks, open files, connections), or make that when it is first used."
            ) from error

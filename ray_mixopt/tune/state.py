"""A Tune searcher whose state is JSON, in files that survive being killed while they are written."""

from __future__ import annotations

import logging
import os
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyarrow import fs
from ray.tune.search import Searcher

from ray_mixopt.core.safety import write_atomically
from ray_mixopt.io import snapshots

logger = logging.getLogger(__name__)


class SnapshotSearcher(Searcher):
    """A Tune searcher whose state is JSON. A subclass has ``state_dict`` and ``load_state_dict``.

    Attributes:
        n_recoveries: damaged files passed over, in all sessions.
        damage: why a restore failed, None if none did.
    """

    CKPT_FILE_TMPL = snapshots.NAME
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
        snapshots.write(checkpoint_path, self.state_dict())

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Writes ``searcher-state-<session>.json`` into a folder, and copies of Tune's files of that session.

        Tune calls this in a local folder, which it then uploads file by file, in place: a kill in the middle leaves a
        torn file in the storage, but hardly ever both it and its copy.
        """
        self.save(os.path.join(checkpoint_dir, snapshots.NAME.format(session_str)))
        for name in snapshots.TUNE_FILES:
            file = Path(checkpoint_dir, name.format(session_str))
            if file.exists():
                write_atomically(file.with_name(snapshots.COPY + file.name), file.read_bytes())

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
        _, n_damaged = snapshots.newest(filesystem, path, self.load_state_dict)
        self.damage = None
        self.n_recoveries += n_damaged

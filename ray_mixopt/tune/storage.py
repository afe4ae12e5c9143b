"""The storage of an experiment as the driver finds it: there, out of reach for a while, or gone."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from pyarrow import fs

from ray_mixopt.io import snapshots
from ray_mixopt.io.lease import Lease

if TYPE_CHECKING:
    from ray.train._internal.storage import StorageContext

logger = logging.getLogger(__name__)

MARKER = ".validate_storage_marker"  # Ray's: no checkpoint of a trial is kept where it is missing
PERIOD_S = 1.0  # between two looks at the storage, at least
SHARE = 0.05  # of the time, at most, is spent on such looks
GONE_S = 20.0  # a folder that is missing for so long was deleted


class Outage:
    """A time in which something cannot be written.

    Args:
        note: keeps a sentence for the report.
    """

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note
        self._since: float | None = None

    def begin(self, what: str) -> None:
        """Says what is wrong, once."""
        if self._since is None:
            self._since = time.monotonic()
            self._tell(f"{what}. The search goes on; if it is killed now, what it learns meanwhile is lost.")

    def end(self) -> None:
        """Says that all is well again, if it was not."""
        if self._since is not None:
            seconds, self._since = time.monotonic() - self._since, None
            self._tell(f"What could not be written is written again, after {seconds:.1f} s.")

    def _tell(self, sentence: str) -> None:
        logger.warning("%s", sentence)
        self._note(sentence)


class Storage:
    """Looks after an experiment's storage while Tune trains.

    Args:
        note: keeps a sentence for the report.

    Attributes:
        context: Tune's description of the storage; None until ``MixOptScheduler`` has seen a trial. Nothing is looked
            after then.
        lease: on its folder, so that only one driver searches there.
    """

    def __init__(self, note: Callable[[str], None]) -> None:
        self.context: StorageContext | None = None
        self.lease: Lease | None = None
        self._note = note
        self._outage = Outage(note)
        self._tuner_kept = False
        self._gone: float | None = None  # since when the folder is missing
        self._next = 0.0

    def attend(self) -> bool:
        """Makes a generation of the session's files where there is something new; called in every step of Tune's loop.

        A storage that is out of reach does not end a search, which Tune alone would survive, too.

        Returns:
            Whether the experiment's folder is there. Where it is not, no run should begin.

        Raises:
            RuntimeError: if the folder has been missing for ``GONE_S``.
            LeaseError: if another driver searches there.
        """
        if self.lease is None and self.context is not None:
            self.lease = Lease(self.context.storage_filesystem, self.context.experiment_fs_path)
        if self.lease is not None:
            self.lease.hold()
        begun = time.monotonic()
        if self.context is None or begun < self._next:
            return self._gone is None
        staging, folder = self.context.experiment_driver_staging_path, self.context.experiment_fs_path
        try:
            there = self.context.storage_filesystem.get_file_info(f"{folder}/{MARKER}").is_file
            if there and not self._tuner_kept:
                snapshots.keep_tuner(self.context.storage_filesystem, folder)
                self._tuner_kept = True
            if there and isinstance(self.context.storage_filesystem, fs.LocalFileSystem):
                snapshots.keep(staging, folder)
        except OSError as error:
            self._outage.begin(f"{folder} cannot be written to ({error})")
        else:
            if there:
                self._outage.end()
            self._missing(there, staging, folder)
        now = time.monotonic()
        self._next = now + max(PERIOD_S, (now - begun) / SHARE)
        return self._gone is None

    def leave(self) -> None:
        """Gives the lease back, for another driver."""
        if self.lease is not None:
            self.lease.release()

    def _missing(self, there: bool, staging: str, folder: str) -> None:
        now = time.monotonic()
        if there:
            if self._gone is not None:
                self._note(f"The experiment's folder {folder} was missing for {now - self._gone:.1f} s.")
            self._gone = None
        elif self._gone is None:
            self._gone = now
            logger.warning("The experiment's folder %s is missing: no run begins until it is back.", folder)
        elif now - self._gone > GONE_S:
            raise RuntimeError(
                f"The experiment's folder {folder} has been missing for {now - self._gone:.0f} s, as if deleted: no "
                "checkpoint can be kept, and this search could not be restored, so it ends. What it has learned is in "
                f"{staging}: search on in a new Tuner with search_alg=MixOptSearcher.load({staging!r})."
            )

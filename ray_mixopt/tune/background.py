"""How the searcher asks the optimizer: on the spot, or in a thread, so that Tune's loop goes on meanwhile."""

from __future__ import annotations

import logging
import math
from concurrent.futures import Future, ThreadPoolExecutor, wait

from ray_mixopt.core.strategy import Proposal, Suggestion
from ray_mixopt.optimizer import MixtureOptimizer

logger = logging.getLogger(__name__)

TRIES = 3  # of a thread that raises, one after the other


class Asking:
    """The next suggestion of an optimizer.

    In a thread it is made from the history as it is when the thread starts: what arrives meanwhile is not considered
    before the suggestion after it.

    Args:
        max_wait_s: longest wait for the thread, in seconds; None for no thread.

    Raises:
        ValueError: for a wait that is no number of seconds.
    """

    def __init__(self, max_wait_s: float | None) -> None:
        number = isinstance(max_wait_s, int | float) and not isinstance(max_wait_s, bool)
        if max_wait_s is not None and not (number and 0 <= max_wait_s < math.inf):
            raise ValueError(f"max_wait_s must be a number of seconds or None, got {max_wait_s!r}.")
        self.max_wait_s = max_wait_s
        self._executor: ThreadPoolExecutor | None = None
        self._work: tuple[int, Future[Proposal | None]] | None = None
        self._failures = 0  # since the last answer

    def ask(self, optimizer: MixtureOptimizer, trial_id: str, *, patient: bool) -> tuple[bool, Suggestion | None]:
        """What ``optimizer.ask(trial_id)`` says, if it is known in time.

        Args:
            optimizer: always the same.
            trial_id: name for a new run.
            patient: whether to wait as long as it takes.

        Returns:
            Whether it is known, and what it is.

        Raises:
            RuntimeError: if the thread has raised ``TRIES`` times in a row; the errors before the last are logged.
        """
        if self.max_wait_s is None:
            return True, optimizer.ask(trial_id)
        while True:
            if self._work is None:
                if self._executor is None:
                    self._executor = ThreadPoolExecutor(1, thread_name_prefix="mixopt")
                future = self._executor.submit(optimizer.propose, optimizer.history.copy())
                self._work = optimizer.history.fingerprint(), future
            before, future = self._work
            wait([future], None if patient else self.max_wait_s)
            if not future.done():
                return False, None
            self._work = None
            if (error := future.exception()) is not None:
                self._failed(error)
                if not patient:
                    return False, None
                continue
            proposal = future.result()
            self._failures = 0
            if proposal is not None and optimizer.still_possible(proposal):
                return True, optimizer.accept(proposal, trial_id)
            if proposal is None and before == optimizer.history.fingerprint():
                return True, None
            # The history went on, and that has changed the answer: think again.
            if not patient:
                return False, None

    def _failed(self, error: BaseException) -> None:
        self._failures += 1
        if self._failures >= TRIES:
            self._failures = 0  # whoever goes on after this may try again
            raise RuntimeError(
                f"No suggestion could be made, {TRIES} times in a row: {type(error).__name__}: {error}. What is known "
                "is kept: once the cause is gone, ray_mixopt.restore goes on."
            ) from error
        logger.warning(
            "No suggestion could be made, %d of %d times in a row; it is tried again.",
            self._failures,
            TRIES,
            exc_info=error,
        )

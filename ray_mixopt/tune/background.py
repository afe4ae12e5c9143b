"""How the searcher asks the optimizer: on the spot, or in a thread, so that Tune's loop goes on meanwhile."""

from __future__ import annotations

import math
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as Late

from ray_mixopt.core.strategy import Proposal, Suggestion
from ray_mixopt.optimizer import MixtureOptimizer


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
        if max_wait_s is not None and not (isinstance(max_wait_s, int | float) and 0 <= max_wait_s < math.inf):
            raise ValueError(f"max_wait_s must be a number of seconds or None, got {max_wait_s!r}.")
        self.max_wait_s = max_wait_s
        self._executor: ThreadPoolExecutor | None = None
        self._work: tuple[int, Future[Proposal | None]] | None = None

    def ask(self, optimizer: MixtureOptimizer, trial_id: str, *, patient: bool) -> tuple[bool, Suggestion | None]:
        """What ``optimizer.ask(trial_id)`` says, if it is known in time.

        Args:
            optimizer: always the same.
            trial_id: name for a new run.
            patient: whether to wait as long as it takes.

        Returns:
            Whether it is known, and what it is.
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
            try:
                proposal = future.result(None if patient else self.max_wait_s)
            except Late:
                return False, None
            self._work = None
            if proposal is not None and optimizer.still_possible(proposal):
                return True, optimizer.accept(proposal, trial_id)
            if proposal is None and before == optimizer.history.fingerprint():
                return True, None
            # The history went on, and that has changed the answer: think again.
            if not patient:
                return False, None

"""One session of Tune on this machine: a Ray to run on, quietly, a look at the search as it goes on, and Ctrl-C."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any

import ray
from ray import tune
from ray.tune.experiment import Trial

from ray_mixopt.optimizer import MixtureOptimizer
from ray_mixopt.tune.searcher import MixOptSearcher

_QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",  # the new output greets, and reports every error, even with verbose=0
    "RAY_USAGE_STATS_ENABLED": "0",
}
_ENDS = (signal.SIGINT, signal.SIGUSR1)


@contextlib.contextmanager
def running_ray(environment: Mapping[str, str] | None = None, **own: Any) -> Iterator[None]:
    """A Ray to run on, and no word from it below an error while the context lasts.

    It is the Ray that is initialised, else the one at ``RAY_ADDRESS``, else a private one of this machine's.

    Args:
        environment: settings of Ray that only the environment takes; what the user has set there stays.
        **own: options of ``ray.init`` for a private Ray.

    Raises:
        RuntimeError: if Ray does not start, or is not at ``RAY_ADDRESS``.
    """
    with _environment({**_QUIET, **(environment or {})}), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        started = not ray.is_initialized()
        if started:
            # "local": never someone else's cluster that happens to run on this machine. Nobody looks at its dashboard.
            private: dict[str, Any] = {"address": "local", "include_dashboard": False, **own}
            where = {} if "RAY_ADDRESS" in os.environ else private
            start(**where)
        logger, tuning = logging.getLogger("ray"), logging.getLogger("ray.tune.tune")
        level = logger.level
        logger.setLevel(logging.ERROR)
        tuning.addFilter(_is_an_error)
        try:
            yield
        finally:
            logger.setLevel(level)
            tuning.removeFilter(_is_an_error)
            if started:
                ray.shutdown()


def _is_an_error(record: logging.LogRecord) -> bool:
    """Whether what Tune logs is one: runs that wait for the search to go on are not."""
    return not str(record.msg).startswith("Trials did not complete")


def start(**options: Any) -> None:
    """Initialises Ray, which says nothing below an error.

    On a busy machine Ray may need longer than the half minute that it grants itself. It is then tried once more.

    Args:
        **options: of ``ray.init``.

    Raises:
        RuntimeError: if Ray does not start.
    """
    for retry in (True, False):
        try:
            ray.init(logging_level=logging.ERROR, log_to_driver=False, **options)
            return
        except Exception as error:  # Ray raises plain ones, too
            if not retry or "timed out" not in str(error):
                raise RuntimeError(f"Ray did not start: {error}") from error
            ray.shutdown()


@contextlib.contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    added = {key: value for key, value in settings.items() if key not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for key in added:
            os.environ.pop(key, None)


@contextlib.contextmanager
def listening() -> Iterator[Callable[[], bool]]:
    """Listens for the signals upon which ``Tuner.fit`` ends: it handles them itself, and its results do not tell.

    Afterwards signals are handled as before: Tune leaves its own handler behind, which would swallow the next Ctrl-C.

    Yields:
        Whether such a signal has come; to be asked while the context lasts. Always False outside of the main thread,
        where there are no signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    heard = bytearray()

    def come() -> bool:
        with contextlib.suppress(BlockingIOError):
            heard.extend(os.read(reading, 4096))
        return any(number in heard for number in _ENDS)

    handlers = {number: signal.getsignal(number) for number in _ENDS}
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        yield come
    finally:
        signal.set_wakeup_fd(before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.close(reading)
        os.close(writing)


class Watch(tune.Callback):
    """Shows the search to a function after each step of Tune's loop. A pickled copy shows nothing until told.

    Args:
        searcher: of the search.
        watch: called with the optimizer as it stands.
    """

    def __init__(self, searcher: MixOptSearcher, watch: Callable[[MixtureOptimizer], None]) -> None:
        self._searcher: MixOptSearcher | None = searcher
        self._watch: Callable[[MixtureOptimizer], None] | None = watch

    @staticmethod
    def restored(tuner: tune.Tuner, watch: Callable[[MixtureOptimizer], None]) -> None:
        """Shows a restored search to a function, if it had a ``Watch``: a Tuner gives out neither of the two."""
        local: Any = tuner._local_tuner
        for callback in local._run_config.callbacks:
            if isinstance(callback, Watch):
                callback._searcher, callback._watch = local._tune_config.search_alg, watch

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Shows the optimizer as it stands."""
        if self._searcher is not None and self._watch is not None:
            self._watch(self._searcher.optimizer)

    def __getstate__(self) -> dict[str, Any]:
        return {"_searcher": None, "_watch": None}


class Rungs(tune.Callback):
    """Tells a function the report of each rung. A pickled copy tells nobody until it is told whom.

    Args:
        heard: called with each report.
    """

    def __init__(self, heard: Callable[[Mapping[str, Any]], None] | None) -> None:
        self._heard = heard

    @staticmethod
    def restored(tuner: tune.Tuner, heard: Callable[[Mapping[str, Any]], None]) -> None:
        """Tells a function of a restored run, if it had ``Rungs``."""
        local: Any = tuner._local_tuner
        for callback in local._run_config.callbacks:
            if isinstance(callback, Rungs):
                callback._heard = heard

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Tells the report."""
        if self._heard is not None:
            self._heard(result)

    def __getstate__(self) -> dict[str, Any]:
        return {"_heard": None}


class Interrupt(tune.Stopper):
    """Ends the experiment after Ctrl-C, at the next step of Tune's loop. A second Ctrl-C ends it on the spot.

    Tune's own handler of Ctrl-C has to be off: ``Interrupt.ENVIRONMENT`` is for ``running_ray``.

    Attributes:
        raised: whether Ctrl-C was pressed.
    """

    ENVIRONMENT = {"TUNE_DISABLE_SIGINT_HANDLER": "1"}

    def __init__(self) -> None:
        self.raised = False

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Never ends a single trial."""
        return False

    def stop_all(self) -> bool:
        """Whether Ctrl-C was pressed."""
        return self.raised

    @contextlib.contextmanager
    def on_sigint(self) -> Iterator[None]:
        """Catches Ctrl-C while the context lasts; in the main thread only, as signals are."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.getsignal(signal.SIGINT)

        def handle(number: int, frame: FrameType | None) -> None:
            self.raised = True
            signal.signal(signal.SIGINT, before)

        signal.signal(signal.SIGINT, handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


def trial_name(trial: Trial) -> str:
    """The name of a trial's folder: its id, and no more. For ``TuneConfig(trial_dirname_creator=...)``."""
    return trial.trial_id

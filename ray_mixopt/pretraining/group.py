"""A group of Ray Train workers that trains one run to its last rung, watched from a trial of Ray Tune.

The group lives in a ``TorchTrainer``, in a thread of the trial's process. Its reports come through a queue. The
controller of the group announces itself there too, so that a run can be aborted and its resources are free at once:
left to themselves they would stay taken for a while, or for good in a Ray without dashboard.

Ray's own ``TuneReportCallback`` is no help here: it needs the session of a function trainable, which can neither wait
until its workers are gone before Tune hears of a rung, nor end them early, nor be used for one trial after another.
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
import ray.train
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchTrainer, get_device
from ray.util.queue import Empty, Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ray_mixopt.pretraining.controller import ANNOUNCES_AT_START, CONTROLLER, announce, announcing_at_start
from ray_mixopt.pretraining.training.settings import Resources, TrainingRun
from ray_mixopt.tune.trials import place_of

if TYPE_CHECKING:
    from ray_mixopt.pretraining.training.session import Write

_POLL_SECONDS = 0.5
_ABORT_SECONDS = 60
_RUNG = "rung"  # marks the reports that Tune is to see, apart from checkpoints for crashes


class TrainingGroup:
    """Starts the training of a run, in the background.

    Args:
        run: what to train; it goes on from the newest checkpoint under the same name and storage.
        name: of the run.
        storage: folder or URI that all nodes reach.
        resources: of its workers.
        seen: the last step whose report is known already.
        retries: how often to start again after a worker has died.
        begins: path or URI of the checkpoint of another run to begin at, where it has none of its own.

    Attributes:
        checkpoint: path or URI of its last checkpoint, once it has ended; None before, or where it has none.
    """

    def __init__(
        self,
        run: TrainingRun,
        *,
        name: str,
        storage: str,
        resources: Resources,
        seen: int = 0,
        retries: int = 1,
        begins: str | None = None,
    ) -> None:
        self.checkpoint: str | None = None
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._queue = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})  # no worker's node: those go
        self._controller: Any = None
        self._error: BaseException | None = None
        per_worker = {"CPU": resources.cpus_per_worker, "GPU": resources.gpus_per_worker}
        self._trainer = TorchTrainer(
            _work,
            train_loop_config={"run": run.model_dump_json(), "seen": seen, "begins": begins},
            scaling_config=ScalingConfig(  # type: ignore[call-arg]  # of Train's second version, which is another
                num_workers=resources.workers,
                use_gpu=resources.gpus_per_worker > 0,
                resources_per_worker={kind: amount for kind, amount in per_worker.items() if amount},
                label_selector=dict(resources.labels) or None,
            ),
            run_config=RunConfig(
                name=name,
                storage_path=storage,
                callbacks=[_Forward(self._queue), *announcing_at_start(self._queue)],  # type: ignore[list-item]
                failure_config=FailureConfig(max_failures=retries),
                checkpoint_config=CheckpointConfig(num_to_keep=1),
            ),
        )
        self._thread = threading.Thread(target=self._fit, name=f"train-{name}", daemon=True)
        self._thread.start()

    def next_report(self) -> dict[str, Any]:
        """Waits for the next rung, and returns its report.

        Raises:
            RuntimeError: if the training ended without one.
            Exception: what ended the training, if it broke down.
        """
        while True:
            alive = self._thread.is_alive()
            try:
                kind, content = self._queue.get(timeout=_POLL_SECONDS)
            except Empty:
                if alive:
                    continue
                if self._error is not None:
                    raise self._error from None
                raise RuntimeError("The training ended before its last rung, without an error.") from None
            if kind == "report":
                return content
            self._controller = content

    def join(self) -> None:
        """Waits until the run has ended and its resources are free.

        Raises:
            Exception: what ended the training, if it broke down.
        """
        self._thread.join()
        self._queue.shutdown(force=True)
        if self._error is not None:
            raise self._error

    def abort(self) -> None:
        """Ends the run on the spot and frees its resources."""
        with contextlib.suppress(Exception):  # the controller's death is the answer to this call
            patience = _ABORT_SECONDS if ANNOUNCES_AT_START else 0
            while self._controller is None and self._thread.is_alive():
                kind, content = self._queue.get(timeout=patience)
                self._controller = content if kind == CONTROLLER else None
            if self._thread.is_alive():
                ray.get(self._controller.abort.remote(), timeout=_ABORT_SECONDS)
        self._thread.join(_ABORT_SECONDS if self._controller is not None else 0)
        self._queue.shutdown(force=True)

    def _fit(self) -> None:
        try:
            result = self._trainer.fit()
            self.checkpoint = None if result.checkpoint is None else place_of(result.checkpoint)
        except BaseException as error:
            self._error = error


class _Forward(UserCallback):
    """Puts the reports of rungs into a queue; runs in the group's controller."""

    def __init__(self, queue: Queue) -> None:
        self._queue, self._announced = queue, ANNOUNCES_AT_START

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        if not self._announced:
            self._announced = True
            announce(self._queue)
        report = dict(metrics[0])
        if report.pop(_RUNG, False):
            self._queue.put(("report", report))


class RaySession:
    """A session among the workers of Ray Train: it keeps the checkpoints, and finds the newest after a restart.

    Args:
        seen: the last step whose report is known already.
        begins: path or URI of the checkpoint of another run to begin at.
    """

    def __init__(self, seen: int, begins: str | None = None) -> None:
        self._seen, self._begins = seen, begins

    @contextlib.contextmanager
    def last_checkpoint(self) -> Iterator[Path | None]:
        """The newest checkpoint of this run."""
        found = ray.train.get_checkpoint()
        if found is None:
            yield None
            return
        with found.as_directory() as folder:
            yield Path(folder)

    @contextlib.contextmanager
    def beginning(self) -> Iterator[Path | None]:
        """The checkpoint of another run."""
        if self._begins is None:
            yield None
            return
        with ray.train.Checkpoint(self._begins).as_directory() as folder:
            yield Path(folder)

    def report(self, metrics: Mapping[str, float], write: Write | None) -> None:
        """Reports a rung, unless that is known."""
        if metrics["step"] > self._seen:
            self._seen = int(metrics["step"])
            _report({**metrics, _RUNG: True}, write)

    def checkpoint(self, step: int, write: Write) -> None:
        """Keeps a checkpoint between two rungs."""
        _report({"step": step}, write)


def _report(metrics: dict[str, Any], write: Write | None) -> None:
    if write is None:
        ray.train.report(metrics)
        return
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))


def _work(config: dict[str, Any]) -> None:
    """What every worker does."""
    from ray_mixopt.pretraining.training.train import train  # takes seconds to import, which only the workers need
    from ray_mixopt.pretraining.training.workers import Workers

    run = TrainingRun.model_validate_json(config["run"])
    train(run, RaySession(config["seen"], config["begins"]), Workers.current(get_device()))

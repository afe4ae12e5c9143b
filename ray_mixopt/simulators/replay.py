"""The main job on a laptop: a real Tune run of the mixture search over instant, simulated training runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ray import tune

from ray_mixopt.core.history import History
from ray_mixopt.core.settings import Settings
from ray_mixopt.optimizer import MixtureOptimizer
from ray_mixopt.simulators import RunTable, Simulator, SimulatorTrainable
from ray_mixopt.tune.scheduler import MixOptScheduler
from ray_mixopt.tune.searcher import MixOptSearcher
from ray_mixopt.tune.session import Interrupt, Watch, running_ray, trial_name

_ENVIRONMENT = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else a warning about GPUs, of which a replay uses none
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # a trial takes 10 ms; its log files would take 25
    **Interrupt.ENVIRONMENT,
}


@dataclass(frozen=True, kw_only=True)
class Replay:
    """A search over simulated or logged runs.

    Args:
        source: answers the runs.
        settings: of the search, which has a budget and is for metrics of the source.
        concurrency: number of runs at a time. With more than 1 the order in which they report may differ from one time
            to the next, and the search with it.
        earlier: runs made before, to be taken in at no cost.

    Raises:
        ValueError: for settings that make no sense, or a budget that buys no run.
    """

    source: Simulator | RunTable
    settings: Settings
    concurrency: int = 1
    earlier: History | None = None

    def __post_init__(self) -> None:
        if self.settings.budget is None:
            raise ValueError("A replay needs a budget: give one in the cost unit of the space.")
        if unknown := [name for name in self.settings.metrics if name not in self.source.metrics]:
            raise ValueError(f"Unknown metric {unknown[0]!r}: choose one of {', '.join(self.source.metrics)}.")
        if self.concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, got {self.concurrency}.")
        optimizer = self.optimizer()
        if optimizer.propose(optimizer.history) is None:
            raise ValueError(optimizer.problem.too_poor)

    def optimizer(self) -> MixtureOptimizer:
        """A fresh optimizer for this search, without Tune."""
        optimizer = MixtureOptimizer(self.source.space, self.settings, pool=self.source.pool)
        if self.earlier is not None:
            optimizer.absorb(self.earlier)
        return optimizer

    def run(self, experiment: Path, watch: Callable[[MixtureOptimizer], None]) -> Outcome:
        """Runs the search with ``tune.Tuner`` to the end of its budget, or until Ctrl-C.

        Starts a private Ray on this machine, unless Ray is initialised or ``RAY_ADDRESS`` names a cluster.

        Args:
            experiment: folder for Tune's files about the search.
            watch: called after each step of Tune's loop with the optimizer as it stands.

        Raises:
            RuntimeError: if Ray does not start, or is not at ``RAY_ADDRESS``.
            ray.tune.error.TuneError: if the search itself breaks down.
        """
        searcher = MixOptSearcher(self.source.space, settings=self.settings, pool=self.source.pool)
        if self.earlier is not None:
            searcher.absorb(self.earlier)
        interrupt = Interrupt()
        trainable = tune.with_parameters(SimulatorTrainable, simulator=self.source)
        private = {"num_cpus": self.concurrency, "num_gpus": 0}
        with running_ray(_ENVIRONMENT, **private), interrupt.on_sigint():
            tuner = tune.Tuner(
                tune.with_resources(trainable, {"CPU": 0.01}),  # the same for all scales, so that actors are reused
                param_space=self.source.space.param_space(),
                tune_config=tune.TuneConfig(
                    search_alg=searcher,
                    scheduler=MixOptScheduler(),
                    num_samples=-1,
                    max_concurrent_trials=self.concurrency,
                    reuse_actors=True,
                    trial_dirname_creator=trial_name,
                ),
                run_config=tune.RunConfig(
                    name=experiment.name,
                    storage_path=str(experiment.resolve().parent),
                    verbose=0,
                    callbacks=[Watch(searcher, watch)],
                    stop=interrupt,
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                ),
            )
            start = time.perf_counter()
            results = tuner.fit()
            seconds = time.perf_counter() - start
        return Outcome(
            optimizer=searcher.optimizer,
            errors=tuple(map(str, results.errors)),
            interrupted=interrupt.raised,
            seconds=seconds,
        )


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a replay left behind.

    Attributes:
        optimizer: the optimizer, with its history.
        errors: of trials that failed.
        interrupted: whether Ctrl-C ended the search.
        seconds: wall-clock time of ``Tuner.fit``.
    """

    optimizer: MixtureOptimizer
    errors: tuple[str, ...]
    interrupted: bool
    seconds: float

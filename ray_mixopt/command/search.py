"""A search in which a command does the training, with Ray Tune."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayTaskError

from ray_mixopt.command.arguments import filled
from ray_mixopt.command.nodes import fitting
from ray_mixopt.command.settings import Command
from ray_mixopt.command.trainable import command_trainable
from ray_mixopt.core.history import History
from ray_mixopt.core.settings import Settings
from ray_mixopt.core.space import MixtureSpace
from ray_mixopt.core.trial import is_sound
from ray_mixopt.core.words import counted, units
from ray_mixopt.io import searches, snapshots
from ray_mixopt.optimizer import MixtureOptimizer
from ray_mixopt.tune.reports import others_of
from ray_mixopt.tune.restore import restore
from ray_mixopt.tune.scheduler import MixOptScheduler
from ray_mixopt.tune.searcher import MixOptSearcher
from ray_mixopt.tune.session import Rungs, Watch, listening, running_ray, trial_name

RUNS = "runs"
"""Folder of the runs, in that of the search."""
_ENVIRONMENT = {
    "TUNE_FORCE_TRIAL_CLEANUP_S": "30",  # after Ctrl-C: a trial hears of it at its next rung only
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # a command that asks for no GPU sees those that there are
}


@dataclass(frozen=True, kw_only=True)
class CommandOutcome:
    """What a search left behind.

    Attributes:
        searcher: with its history and recommendation.
        errors: why runs failed, a text each.
        interrupted: whether Ctrl-C or SIGUSR1 ended it.
    """

    searcher: MixOptSearcher
    errors: tuple[str, ...]
    interrupted: bool


@dataclass(frozen=True, kw_only=True)
class CommandSearch:
    """A search by a command.

    Args:
        command: trains the runs.
        space: what may be trained.
        settings: of the search; its objective names metrics that the command reports.
        folder: of the search, on a file system that all nodes have.
        num_samples: most runs; -1 for no limit but the budget.
        concurrency: runs at a time; None for as many as there is room for.
        earlier: runs made before, by where they come from, to be taken in at no cost.

    Raises:
        ValueError: for what does not fit together, or a budget that buys no run.
    """

    command: Command
    space: MixtureSpace
    settings: Settings
    folder: Path
    num_samples: int = -1
    concurrency: int | None = None
    earlier: Mapping[str, History] | None = None

    def __post_init__(self) -> None:
        self.command.check(self.space)
        if taken := [name for name in self.settings.metrics if not others_of({name: 0.0}, ())]:
            remedy = f"Give it another one, as in metrics: {{names: {{my_{taken[0]}: {taken[0]}}}}}."
            if taken[0] == self.command.metrics.step:
                remedy = "It says how far a run is: name what is to be as small or as large as can be."
            raise ValueError(
                f"{taken[0]!r} can be no metric of a search: Ray Tune or the search has something else of that "
                f"name in each report. {remedy}"
            )
        optimizer = self._searcher().optimizer
        if optimizer.propose(optimizer.history) is None:
            raise ValueError(optimizer.problem.too_poor)

    @property
    def experiment(self) -> Path:
        """The folder of Tune's experiment."""
        return self.folder / searches.EXPERIMENT

    @property
    def begun(self) -> bool:
        """Whether there is an experiment to go on with."""
        return (self.experiment / "tuner.pkl").exists()

    def arguments(self, scale: str) -> list[str]:
        """The command for a run of equal shares at a scale, in full, with made-up names."""
        run = self.folder / RUNS / "NAME"
        values = {"scale": scale, "steps": self.space.rungs(scale)[0], "seed": self.settings.seed, "name": "NAME"}
        files = {"mixture": run / f"mixture{self.command.suffix}", "folder": run / "1"}
        node = {"node": 0, "nodes": self.command.needs(scale).nodes, "address": "ADDRESS", "port": "PORT"}
        texts = [*self.command.program, *self.command.arguments.get(scale, ())]
        return filled(texts, {**values, **files, **node})

    def run(self, watch: Callable[[MixtureOptimizer], None], *, resume: bool = False) -> CommandOutcome:
        """Searches to the end, or until Ctrl-C, on the Ray that is there or one of this machine's own.

        Args:
            watch: called after each step of Tune's loop with the optimizer as it stands.
            resume: whether to go on with the experiment in the folder, whose settings are its own.

        Raises:
            RuntimeError: if Ray does not start, or is not at ``RAY_ADDRESS``.
            ValueError: if a run does not find room.
            ray.tune.error.TuneError: if the search itself breaks down.
        """
        with running_ray(_ENVIRONMENT), listening() as interrupted:
            concurrency = self._room(ray.nodes())
            trainable = command_trainable(
                self.command, self.space, self.folder / RUNS, self.settings.metrics, seed=self.settings.seed
            )
            if resume:
                tuner = restore(self.experiment, trainable)
                Watch.restored(tuner, watch)
            else:
                tuner = self._tuner(trainable, self._searcher(), concurrency, watch)
            results = tuner.fit()
            searcher = MixOptSearcher.load(self.experiment)
            unfinished = results.num_terminated + results.num_errors < len(results)
            return CommandOutcome(
                searcher=searcher,
                errors=tuple(_told(error) for error in results.errors),
                interrupted=interrupted() or unfinished,
            )

    def final_run(
        self, mixture: Mapping[str, Any], heard: Callable[[Mapping[str, Any]], None] = lambda report: None
    ) -> dict[str, Any]:
        """Trains the target with a mixture; one that was interrupted goes on.

        Args:
            mixture: weights by domain, or by phase and domain.
            heard: called with the report of each rung.

        Returns:
            The last report: ``step`` and the metrics.

        Raises:
            KeyboardInterrupt: if Ctrl-C or SIGUSR1 ended it.
            RuntimeError: if Ray does not start, or the run fails.
            ValueError: if the run does not find room.
        """
        space = self.space
        wanted = {"mixture": dict(mixture), "scale": space.target_scale, "steps": space.target_steps}
        name = f"final-{hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:12]}"
        with running_ray(_ENVIRONMENT), listening() as interrupted:
            self._room(ray.nodes())
            trainable = command_trainable(
                self.command, space, self.folder / RUNS, self.settings.metrics, seed=self.settings.seed
            )
            if (self.folder / name / snapshots.TUNER).exists():
                tuner = tune.Tuner.restore(str((self.folder / name).absolute()), trainable, resume_errored=True)
                Rungs.restored(tuner, heard)
            else:
                tuner = tune.Tuner(
                    trainable,
                    param_space=wanted,
                    tune_config=tune.TuneConfig(trial_dirname_creator=trial_name),
                    run_config=self._run_config(name, Rungs(heard)),
                )
            result = tuner.fit()[0]
            if result.error is not None:
                raise RuntimeError(f"the final run failed: {_told(result.error)}")
            seen = result.metrics or {}
            report = {"step": int(seen.get("step", 0)), **others_of(seen, ())}
            sound = all(is_sound(report.get(name, 0.0)) for name in self.settings.metrics)
            if interrupted() or (sound and report["step"] < space.target_steps):
                raise KeyboardInterrupt
            return report

    def _searcher(self) -> MixOptSearcher:
        branches = self.settings.branches and self.command.branches
        searcher = MixOptSearcher(self.space, settings=self.settings, branches=branches)
        for source, history in (self.earlier or {}).items():
            searcher.absorb(history, source=source)
        return searcher

    def _tuner(
        self, trainable: Any, searcher: MixOptSearcher, concurrency: int, watch: Callable[[MixtureOptimizer], None]
    ) -> tune.Tuner:
        return tune.Tuner(
            trainable,
            param_space=self.space.param_space(),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=MixOptScheduler(),
                num_samples=self.num_samples,
                max_concurrent_trials=concurrency,
                reuse_actors=True,  # a new process takes seconds
                trial_dirname_creator=trial_name,
            ),
            run_config=self._run_config(self.experiment.name, Watch(searcher, watch)),
        )

    def _run_config(self, name: str, callback: tune.Callback) -> tune.RunConfig:
        return tune.RunConfig(
            name=name,
            storage_path=str(self.folder.absolute()),
            verbose=0,
            callbacks=[callback],
            failure_config=tune.FailureConfig(max_failures=self.command.retries),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        )

    def _room(self, nodes: Sequence[Mapping[str, Any]]) -> int:
        """Runs at a time.

        Raises:
            ValueError: if those of a scale find no room on this machine. A cluster may grow.
        """
        room = {scale: fitting(self.command.needs(scale), nodes) for scale in self.space.scale_names}
        for scale, runs in room.items():
            if not runs and "RAY_ADDRESS" not in os.environ:
                needs, has = self.command.needs(scale), nodes[0]["Resources"]
                raise ValueError(
                    f"A run of scale {scale!r} needs {counted(needs.nodes, 'node')} with "
                    f"{units(needs.cpus, needs.gpus)} and the labels {dict(needs.labels)}, and this machine has "
                    f"{units(has.get('CPU', 0), has.get('GPU', 0))}: lower its resources, or search on a cluster, with "
                    "RAY_ADDRESS."
                )
        return self.concurrency or max(1, *room.values())


def _told(error: Exception) -> str:
    """What a run failed of, without the way that the error took."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    return str(cause)

"""Any command as a Ray Tune trainable: one ``step()`` waits for the next rung and reports it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from ray import tune
from ray.exceptions import WorkerCrashedError

from ray_mixopt.command.nodes import placement, start_on_nodes
from ray_mixopt.command.run import CommandRun, FailedRunError, LostRunError, Order
from ray_mixopt.command.settings import Command
from ray_mixopt.core.branches import borders
from ray_mixopt.core.history import is_sound
from ray_mixopt.core.space import MixtureSpace
from ray_mixopt.core.trial import BRANCH, Wanted
from ray_mixopt.tune.reports import others_of

_CHECKPOINT_FILE = "command_run.json"


class CommandLostError(WorkerCrashedError):
    """A run whose command ended for no fault of its own: Ray Tune starts it again, as often as it may."""

    def __str__(self) -> str:
        return Exception.__str__(self)


class CommandTrainable(tune.Trainable):
    """Trains with a command; ``command_trainable`` makes one for a search.

    The configuration holds ``mixture`` (non-negative weights by domain, normalised here), ``scale`` and ``steps``; for
    ``continuable`` see ``MixOptScheduler``. Each report holds ``step`` and all numbers that the command gives for it.
    The checkpoint says only how far the run is: the command's own are in the folder of the run.

    Where the space has several phases, the command is started for each rung, in a folder of the run and the rung: from
    the checkpoint of where the first phase ended on the way to the rung before. A branch begins with such a checkpoint
    of its parent.
    """

    _reached: int
    _report: dict[str, Any] | None
    _borders: dict[int, str]  # checkpoints of the rung reached where phases end, by their steps

    def setup(
        self,
        config: dict[str, Any],
        command: Command | None = None,
        space: MixtureSpace | None = None,
        folder: str = "",
        wanted: Sequence[str] = (),
        seed: int = 0,
        session: str = "",
    ) -> None:
        """Prepares the run that ``config`` describes."""
        assert command is not None and space is not None
        self._command, self._space, self._runs = command, space, Path(folder)
        self._wanted, self._seed, self._session = wanted, seed, session
        self._run: CommandRun | None = None
        self._begin(config)

    def step(self) -> dict[str, Any]:
        """Waits for the next rung, and returns its report."""
        if self._report is not None and self._is_over(self._report):
            return {**self._report, "done": True}  # neither paused nor given more steps
        phased = bool(self._space.phase_names)
        if self._run is None:
            order = self._next_order() if phased else self._order
            self._run = CommandRun(
                self._command,
                self._space,
                order,
                folder=self._runs / (f"{self.trial_id}-to-{order.steps}" if phased else self.trial_id),
                wanted=self._wanted,
                session=self._session,
                start=partial(start_on_nodes, scale=self._order.scale),
            )
        run = self._run
        try:
            report = run.next_report(0 if phased else self._reached)
        except LostRunError as error:
            raise CommandLostError(str(error)) from error
        self._reached = int(report["step"])
        report = {"step": self._reached, **others_of(report, ())}  # without what Tune has names for
        self._report = report
        goes_on = self._continuable and self._sound(report)
        if phased:
            self._keep_borders(run)
            self._run = None
            goes_on = goes_on and bool(self._borders)
        else:
            goes_on = goes_on and self._reached < self._space.rungs(self._order.scale)[-1] and run.can_go_on()
        return {**report, "done": self._is_over(report) and not goes_on}

    def _next_order(self) -> Order:
        """What is to be trained for the next rung, and from which checkpoint."""
        rungs, first, begins = self._space.rungs(self._order.scale), 0, None
        if self._branch is not None and not self._reached:
            first = int(self._branch["steps"])
            with tune.Checkpoint(str(self._branch["checkpoint"])).as_directory() as folder:
                self._borders = _read(folder)["borders"]
            begins = self._begun(int(self._branch["from_step"]), f"of run {self._branch['parent']}")
        elif self._reached:
            before = max(rung for rung in rungs if rung <= self._reached)
            begins = self._begun(borders(self._space, before)[0], f"on the way to {before}")
        rung = min((rung for rung in rungs if rung > self._reached and rung >= first), default=self._order.steps)
        return replace(self._order, steps=min(rung, self._order.steps), begins=begins)

    def _begun(self, step: int, where: str) -> tuple[int, str]:
        if step not in self._borders:
            raise FailedRunError(
                f"Run {self.trial_id} is to go on from step {step} {where}, where a phase ended, and there is no "
                f"checkpoint {self._command.checkpoint} of that step: have the command save one there."
            )
        return step, self._borders[step]

    def _keep_borders(self, run: CommandRun) -> None:
        """Takes note of the checkpoints where phases ended, those that it began with among them."""
        reached = max((rung for rung in self._space.rungs(self._order.scale) if rung <= self._reached), default=0)
        if not self._command.branches or not reached:
            self._borders = {}
            return
        there = {step: run.kept(step) or self._borders.get(step) for step in borders(self._space, reached)}
        self._borders = {step: path for step, path in there.items() if path is not None}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Writes how far the run is."""
        content = {"step": self._reached, "report": self._report, "borders": [*self._borders.items()]}
        Path(checkpoint_dir, _CHECKPOINT_FILE).write_text(json.dumps(content))

    def load_checkpoint(self, checkpoint: str) -> None:  # type: ignore[override]
        """Goes on from a checkpoint directory."""
        content = _read(checkpoint)
        self._reached, self._report, self._borders = int(content["step"]), content["report"], content["borders"]

    def cleanup(self) -> None:
        """Ends the command, if it runs, and all that it has started."""
        if self._run is not None:
            run, self._run = self._run, None
            run.stop()

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Turns this process to another run."""
        self.cleanup()
        self._begin(new_config)
        return True

    def _begin(self, config: Mapping[str, Any]) -> None:
        wanted = Wanted.of(config, phased=bool(self._space.phase_names))
        self._order = Order(
            mixture=self._space.named(self._space.mixture(wanted.weights)),
            scale=wanted.scale,
            steps=wanted.steps,
            seed=self._seed + wanted.repeat,
        )
        self._continuable = wanted.continuable and self._command.continues
        self._reached, self._report, self._borders = 0, None, {}
        self._branch: Mapping[str, Any] | None = config.get(BRANCH)

    def _is_over(self, report: Mapping[str, Any]) -> bool:
        return int(report["step"]) >= self._order.steps or not self._sound(report)

    def _sound(self, report: Mapping[str, Any]) -> bool:
        return all(is_sound(report.get(name, 0.0)) for name in self._wanted)


def _read(checkpoint: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(Path(checkpoint, _CHECKPOINT_FILE).read_text())
    return content | {"borders": {int(step): str(path) for step, path in content.get("borders", ())}}


def command_trainable(
    command: Command, space: MixtureSpace, folder: Path, metrics: Sequence[str], *, seed: int = 0
) -> Any:
    """A trainable for ``tune.Tuner``, with the resources of each scale.

    Args:
        command: trains a run; its directory may be relative to this process's.
        space: of the search.
        folder: for the runs, on a file system that all nodes have.
        metrics: without which a report says nothing: those of the objective.
        seed: in the place of ``{seed}``.

    Raises:
        ValueError: if the command does not fit the space.
    """
    command.check(space)
    trainable = tune.with_parameters(
        CommandTrainable,
        command=replace(command, directory=str(Path(command.directory).absolute())),
        space=space,
        folder=str(folder.absolute()),
        wanted=tuple(metrics),
        seed=seed,
        session=uuid4().hex,
    )
    return tune.with_resources(trainable, lambda config: placement(command.needs(str(config["scale"]))))

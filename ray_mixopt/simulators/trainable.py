"""Simulated runs as a Ray Tune trainable: one ``step()`` reports one rung."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray import tune

from ray_mixopt.core.trial import Wanted
from ray_mixopt.simulators.run_table import RunTable
from ray_mixopt.simulators.simulator import Simulator, load

_CHECKPOINT_FILE = "simulated_run.json"


class SimulatorTrainable(tune.Trainable):
    """Replays a pre-training run from a simulator or a table of logged runs.

    The configuration holds ``mixture`` (non-negative weights by domain name, normalised here), ``scale`` and
    ``steps``. Each report holds ``step`` and all metrics: first every rung below ``steps`` in turn, then ``steps``
    itself, which ends the trial.

    With ``continuable: True`` in the configuration, as ``MixOptSearcher`` sets it when ``MixOptScheduler`` runs the
    trials, reaching ``steps`` does not end the trial unless it was the last rung there is: the scheduler pauses it
    and may go on later with larger ``steps``. A trial that is neither paused nor given more steps ends at the next
    ``step()``, which repeats the last report.

    ``repeat`` in the configuration, of a mixture that has run before, draws noise of its own.

    Use another simulator with ``tune.with_parameters(SimulatorTrainable, simulator=...)``: a ``Simulator``, a
    ``RunTable``, or a name that ``simulators.load`` knows. ``reuse_actors=True`` makes replays fast.

    Raises:
        ValueError: if the configuration lacks one of its three keys, or does not fit the simulator.
        TypeError: if ``mixture`` is not a mapping.
    """

    def setup(self, config: dict[str, Any], simulator: Simulator | RunTable | str = "slimpajama") -> None:
        """Prepares the run that ``config`` describes."""
        self._reached = 0
        self._simulator = load(simulator) if isinstance(simulator, str) else simulator
        self._begin(config)

    def step(self) -> dict[str, Any]:
        """Advances to the next rung and reports it."""
        ahead = [rung for rung in self._rungs if rung > self._reached]
        if ahead:
            self._reached = ahead[0]
        ends = self._reached >= (self._last if self._continuable else self._steps)
        report = self._observed_of.observe(self._mixture, self._scale, self._reached)
        return {"step": self._reached, **report, "done": ends or not ahead}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Writes the step that was reached."""
        Path(checkpoint_dir, _CHECKPOINT_FILE).write_text(json.dumps({"step": self._reached}))

    def load_checkpoint(self, checkpoint: str) -> None:  # type: ignore[override]
        """Goes on from a checkpoint directory."""
        self._reached = int(json.loads(Path(checkpoint, _CHECKPOINT_FILE).read_text())["step"])

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Turns this actor to another run; the simulator stays loaded."""
        self._begin(new_config)
        return True

    def _begin(self, config: Mapping[str, Any]) -> None:
        wanted = Wanted.of(config)
        self._mixture = self._simulator.space.mixture(wanted.weights)
        self._scale, self._steps, self._continuable = wanted.scale, wanted.steps, wanted.continuable
        self._observed_of = self._simulator
        if isinstance(self._simulator, Simulator) and wanted.repeat:
            self._observed_of = replace(self._simulator, seed=self._simulator.seed + wanted.repeat)
        rungs = self._simulator.rungs(self._mixture, self._scale)
        self._rungs = sorted({rung for rung in rungs if rung < self._steps} | {self._steps})
        self._last = max(rungs, default=self._steps)
        self._reached = 0

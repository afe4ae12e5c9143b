"""What Ray Tune asks of a trial scheduler, in small real experiments. Ray must be initialised."""

from __future__ import annotations

import math
import os
import pickle
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from ray_mixopt.testing.searchers import SPACE

N_TRIALS = 3
Trouble = Literal["none", "invalid values", "failures"]
INVALID = (math.nan, math.inf, -math.inf)


class Walk(tune.Trainable):
    """Reports every 10 steps up to ``config["steps"]``; can be paused, resumed and retried.

    ``trouble`` makes the first report of each trial NaN or an infinity, or the first attempt at it fail. What has been
    is kept in ``folder``.
    """

    def setup(self, config: dict[str, Any], trouble: Trouble = "none", folder: str = "") -> None:
        """Stands at the start."""
        self.reached, self.trouble, self.folder = 0, trouble, Path(folder)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Stands at the start of another trial."""
        self.reached = 0
        return True

    def step(self) -> dict[str, Any]:
        """Goes on by 10 steps."""
        n_before = len(list(self.folder.glob("trouble-*")))
        mark = self.folder / f"trouble-{self.trial_id}"
        troubled = self.trouble != "none" and not mark.exists()
        if troubled:
            mark.touch()
            if self.trouble == "failures":
                raise RuntimeError("this trial was to fail")
        self.reached += 10
        over = self.reached >= self.config["steps"] and not self.config.get("continuable")
        return {
            "step": self.reached,
            "loss": INVALID[n_before % 3] if troubled else 1 / self.reached,
            "done": over or self.reached >= SPACE.steps[-1],
        }

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Writes where it stands."""
        Path(checkpoint_dir, "step").write_text(str(self.reached))

    def load_checkpoint(self, checkpoint: str) -> None:  # type: ignore[override]
        """Goes on from there."""
        self.reached = int(Path(checkpoint, "step").read_text())


class Interruption(tune.Callback):
    """Sends this process SIGUSR1, once a folder, after some reports, as a cluster does before it takes a node away."""

    def __init__(self, folder: Path, reports: int) -> None:
        self.mark, self.left = folder / "interrupted", reports

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **_: Any
    ) -> None:
        """Counts."""
        self.left -= 1
        if self.left <= 0 and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGUSR1)


class SchedulerConformance:
    """Subclass it, name the class ``Test...``, and give ``make_scheduler``."""

    def make_scheduler(self) -> TrialScheduler:
        """A fresh scheduler that knows no metric."""
        raise NotImplementedError

    def make_searcher(self) -> Searcher | None:
        """The searcher to go with it; Tune's random search by default."""
        return None

    def restore(self, folder: str, trainable: Any) -> tune.Tuner:
        """How an interrupted experiment is taken up again."""
        return tune.Tuner.restore(folder, trainable)

    # -- tests

    def test_every_trial_ends(self, tmp_path: Path) -> None:
        """With a limit on concurrent trials and without; no trial is left paused, for Tune would wait for it."""
        for limit in (2, None):
            self._all_end(self._fit(tmp_path / str(limit), max_concurrent_trials=limit))

    def test_invalid_values(self, tmp_path: Path) -> None:
        """NaN and infinities at the first report."""
        self._all_end(self._fit(tmp_path, trouble="invalid values"))

    def test_failed_trials(self, tmp_path: Path) -> None:
        """All trials fail, and the experiment still ends."""
        results = self._fit(tmp_path, trouble="failures")
        assert len(results) == len(results.errors) == N_TRIALS

    def test_retried_trials(self, tmp_path: Path) -> None:
        """Each trial fails once and is tried again."""
        self._all_end(self._fit(tmp_path, trouble="failures", max_failures=1))

    def test_it_serves_two_tuners_in_turn(self, tmp_path: Path) -> None:
        """The same object in a second Tuner."""
        scheduler = self.make_scheduler()
        for name in "ab":
            self._all_end(self._fit(tmp_path / name, scheduler=scheduler))

    def test_it_can_be_pickled(self) -> None:
        """Tune pickles the scheduler when the Tuner is made."""
        pickle.loads(pickle.dumps(self.make_scheduler()))

    def test_an_interrupted_experiment_goes_on(self, tmp_path: Path) -> None:
        """Tune never saves a scheduler: a restored experiment has a fresh one."""
        first = self._fit(tmp_path, interrupt_after=3, max_concurrent_trials=2)
        assert (tmp_path / "interrupted").exists()
        results = self.restore(str(tmp_path / "run"), self._trainable(tmp_path, "none")).fit()
        self._all_end(results)
        assert _paths(first) <= _paths(results), "trials were lost"

    # -- steps of the tests

    def _fit(
        self,
        folder: Path,
        *,
        trouble: Trouble = "none",
        max_failures: int = 0,
        scheduler: TrialScheduler | None = None,
        interrupt_after: int | None = None,
        max_concurrent_trials: int | None = 1,
    ) -> tune.ResultGrid:
        folder.mkdir(exist_ok=True)
        tuner = tune.Tuner(
            self._trainable(folder, trouble),
            param_space=SPACE.param_space(),
            tune_config=tune.TuneConfig(
                metric="loss",
                mode="min",
                search_alg=self.make_searcher(),
                scheduler=self.make_scheduler() if scheduler is None else scheduler,
                num_samples=N_TRIALS,
                trial_dirname_creator=_trial_id,
                max_concurrent_trials=max_concurrent_trials,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                storage_path=str(folder),
                name="run",
                verbose=0,
                callbacks=[] if interrupt_after is None else [Interruption(folder, interrupt_after)],
                failure_config=tune.FailureConfig(max_failures=max_failures),
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=1, checkpoint_at_end=False),
            ),
        )
        return tuner.fit()

    def _trainable(self, folder: Path, trouble: Trouble) -> Callable[..., Any]:
        trainable: Any = tune.with_parameters(Walk, trouble=trouble, folder=str(folder))
        return tune.with_resources(trainable, {"CPU": 1})

    def _all_end(self, results: tune.ResultGrid) -> None:
        assert len(results) == N_TRIALS and not results.errors, f"{len(results)} trials: {results.errors}"
        assert results.num_terminated == N_TRIALS, f"{N_TRIALS - results.num_terminated} trials did not end"


def _trial_id(trial: Trial) -> str:
    return trial.trial_id


def _paths(results: tune.ResultGrid) -> set[str]:
    return {results[i].path for i in range(len(results))}

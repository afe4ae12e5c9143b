"""One small Ray cluster for all tests, without dashboard or authentication."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from curve import Curve, Watch
from ray import tune

from ray_mixopt import MixOptScheduler, MixtureSpace, Scale

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
# Ray's workers import the helpers of the tests, too.
_PATHS = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, _PATHS))


@pytest.fixture(scope="session", autouse=True)
def cluster() -> Iterator[None]:
    """Four slots, whatever the machine has."""
    ray.init(address="local", num_cpus=4, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def space() -> MixtureSpace:
    """Three domains, two scales, three rungs."""
    return MixtureSpace(
        domains=("web", "code", "math"), scales=(Scale("20M", 1.0, 20e6), Scale("60M", 3.0, 60e6)), steps=(10, 20, 40)
    )


@pytest.fixture
def make_tuner(tmp_path: Path, space: MixtureSpace) -> Callable[..., tune.Tuner]:
    """``make_tuner(searcher, ...)``: a small, quiet Tuner; keywords go to ``TuneConfig``."""

    def make(
        searcher: Any,
        scheduler: Any = None,
        trainable: Any = Curve,
        *,
        param_space: dict[str, Any] | None = None,
        name: str = "run",
        watch: Watch | None = None,
        max_failures: int = 0,
        stop: Any = None,
        **settings: Any,
    ) -> tune.Tuner:
        defaults = {"metric": "loss", "mode": "min", "reuse_actors": trainable is Curve, "max_concurrent_trials": 2}
        return tune.Tuner(
            trainable,
            param_space=space.param_space() if param_space is None else param_space,
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=MixOptScheduler() if scheduler is None else scheduler,
                trial_dirname_creator=lambda trial: trial.trial_id,
                **(defaults | settings),
            ),
            run_config=tune.RunConfig(
                storage_path=str(tmp_path),
                name=name,
                verbose=0,
                stop=stop,
                callbacks=[] if watch is None else [watch],
                failure_config=tune.FailureConfig(max_failures=max_failures),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )

    return make

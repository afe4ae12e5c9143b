"""One line of the configuration sends a search to TensorBoard, Weights & Biases or MLflow."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray
from ray.train._internal.storage import StorageContext
from ray.tune.experiment import Trial
from runs import tiny_search
from small_ray import four_slots

from ray_mixopt.pretraining.config import TRACKER_PACKAGES
from ray_mixopt.pretraining.search import search
from ray_mixopt.pretraining.tracking import TRACKERS


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")  # before Ray starts: what logs runs is an actor
        with four_slots(Path(__file__).parent):
            yield


@pytest.fixture(params=TRACKERS)
def service(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a service that keeps what it is sent below ``tmp_path``."""
    name: str = request.param
    pytest.importorskip(TRACKER_PACKAGES[name], reason=f"needs {TRACKER_PACKAGES[name]}")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    return name


def kept(service: str, folder: Path) -> dict[str, set[str]]:
    """The metrics of every run that a service knows of."""
    if service == "mlflow":
        import mlflow

        runs = mlflow.search_runs(search_all_experiments=True, output_format="list")
        return {run.info.run_id: set(run.data.metrics) for run in runs}
    pattern = {"tensorboard": "events.out.tfevents.*", "wandb": "run-*.wandb"}[service]
    names = ("val_loss/a", "val_loss/b", "tokens/a", "mean_loss")
    found: dict[str, set[str]] = {}
    for path in folder.rglob(pattern):  # names stand in such files as they are
        content = path.read_bytes()
        found.setdefault(path.parent.name, set()).update(name for name in names if name.encode() in content)
    return found


def staged(experiment: str) -> Path:
    """Where Ray keeps what the driver itself writes about the runs of an experiment."""
    context = ray.get_runtime_context()
    (folder,) = Path(context.get_temp_dir(), context.get_session_name()).glob(f"artifacts/*/{experiment}")
    return folder


def wait_for(condition: Callable[[], bool]) -> None:
    """Weights & Biases writes its file a while after a run has ended."""
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_every_run_of_a_search_arrives(small: Path, tmp_path: Path, service: str) -> None:
    settings = tiny_search(
        small, tmp_path, steps=[2, 4], search={"budget": 0.6, "concurrency": 2}, tracking=[service], name="tracked"
    )
    outcome = search(settings)
    assert outcome.errors == () and not outcome.interrupted
    expected = [{"val_loss/a", "val_loss/b", "tokens/a", "mean_loss"}] * len(outcome.searcher.optimizer.history)
    folder = staged("tracked") if service == "wandb" else tmp_path / "tracked"
    wait_for(lambda: [metrics & expected[0] for metrics in kept(service, folder).values()] == expected)


def test_runs_go_on_and_end_without_having_started(tmp_path: Path, service: str) -> None:
    def trial(name: str) -> Trial:
        storage = StorageContext(storage_path=str(tmp_path), experiment_dir_name="continued", trial_dir_name=name)
        made = Trial("mixopt", stub=True, trial_id=name, config={"scale": "S", "steps": 2}, storage=storage)
        made.init_local_path()
        return made

    callback = TRACKERS[service]("continued")
    callback.setup()
    run, restored = trial("run"), trial("restored")
    for iteration, steps in enumerate((2, 4), start=1):
        run.config = {**run.config, "steps": steps}
        callback.on_trial_start(iteration, [run], run)
        callback.on_trial_result(
            iteration, [run], run, {"training_iteration": iteration, "step": steps, "mean_loss": 3.0}
        )
    for ended in (run, restored):
        callback.on_trial_complete(2, [run, restored], ended)
    callback.on_experiment_end([run, restored])
    folder = tmp_path if service == "mlflow" else Path(run.local_path).parent  # before Tune uploads it
    wait_for(lambda: ["mean_loss" in metrics for metrics in kept(service, folder).values()] == [True])
    assert ray.available_resources()["CPU"] == 4

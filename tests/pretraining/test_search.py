"""A search by pre-training in a real Ray Tune: what it starts from, what it leaves behind, and where it is shown."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import pytest
import ray
import yaml
from click.testing import CliRunner
from conftest import SMALL, make_corpus
from ray.train._internal.storage import StorageContext
from ray.tune.experiment import Trial
from runs import tiny_search
from small_ray import all_given_back, start_ray

from ray_mixopt.cli.main import main
from ray_mixopt.optimizer import MixtureOptimizer
from ray_mixopt.pretraining import pruning
from ray_mixopt.pretraining.config import MEAN_LOSS, TRACKER_PACKAGES, PretrainConfig
from ray_mixopt.pretraining.proxies import ScaleRecipe
from ray_mixopt.pretraining.search import SearchOutcome, check_as_begun, exists, final_folder, final_run, search
from ray_mixopt.pretraining.tracking import TRACKERS
from ray_mixopt.pretraining.training.huggingface import write_model
from ray_mixopt.pretraining.training.settings import Execution
from ray_mixopt.report.progress import Display
from ray_mixopt.testing.history import violations
from ray_mixopt.tune.searcher import MixOptSearcher

INSTALLED = [name for name in TRACKERS if find_spec(TRACKER_PACKAGES[name])]


@pytest.fixture(scope="module", autouse=True)
def cluster() -> None:
    start_ray("ray_mixopt.pretraining.trainable", "ray_mixopt.pretraining.training.train")


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    yield
    assert all_given_back()


@dataclass
class Searched:
    """A search that has ended."""

    folder: Path
    settings: PretrainConfig
    outcome: SearchOutcome
    seen: list[int] = field(default_factory=list)
    """Runs in the history, each time that it was shown."""


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Searched:
    """A search from old runs that all services hear of."""
    folder = tmp_path_factory.mktemp("searched")
    data = make_corpus(folder / "data", SMALL)
    rows = "".join(f"S,{step},{i / 5},{1 - i / 5},{5 - i / 9}\n" for i in range(6) for step in (2, 4))
    (folder / "old.csv").write_text("scale,step,mixture/a,mixture/b,val_loss/a\n" + rows)
    plan = {"budget": 0.4, "concurrency": 2, "earlier": [str(folder / "old.csv")]}
    settings = tiny_search(
        data,
        folder,
        name="tracked",
        steps=[2, 4],
        search=plan,
        decay={"steps": 2},
        tracking=INSTALLED,
        keep_checkpoints=True,
    )
    seen: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        outcome = search(settings, lambda optimizer: seen.append(len(optimizer.history)))
    return Searched(folder, settings, outcome, seen)


def test_a_search_from_old_runs(searched: Searched) -> None:
    settings, outcome = searched.settings, searched.outcome
    assert outcome.errors == () and not outcome.interrupted and searched.seen[-1] > 0
    history = outcome.searcher.optimizer.history
    assert history.n_missing == 0 and history.spent <= 0.4 * settings.space.target_cost
    given = [run for run in history if run.evaluated]
    assert len(given) == 6 and all(run.trial_id.startswith("old.csv:") for run in given)
    made = [run for run in history if not run.evaluated]
    assert made
    for run in made:
        assert max(run.observations) == run.steps and set(run.observations) <= {2, 4}
        by_domain = {f"{name}/{domain}" for name in ("val_loss", "val_error", "tokens", "epochs") for domain in "ab"}
        others = {"train_loss", "mean_loss", "flops", "seconds", "tokens_per_second"}
        assert set(run.observations[run.steps]) == by_domain | others
    assert exists(settings)


def test_it_goes_on_as_it_began_or_not_at_all(searched: Searched) -> None:
    """Runs of other settings would be compared with those there are, and an option that nobody heeds would mislead."""
    settings = searched.settings.model_copy(update={"execution": Execution(micro_batch=1), "retries": 3})
    check_as_begun(settings)
    for changes, message in (
        ({"search": settings.search.model_copy(update={"budget": 2.0})}, r"began with search.budget: 0.4, not 2.0"),
        ({"optimization": ScaleRecipe(learning_rate=0.1)}, r"began with optimization.learning_rate: 0.01, not 0.1"),
        ({"scales": settings.scales[:1]}, r"began with scales: .*Put that back"),
        ({"upper": {"a": 0.5}}, r"began with upper: \{\}, not \{\"a\": 0.5\}"),
    ):
        with pytest.raises(ValueError, match=message):
            search(settings.model_copy(update=changes), resume=True)


def test_what_has_begun_and_shown_nothing_can_be_begun_anew(small: Path, tmp_path: Path) -> None:
    settings = tiny_search(small, tmp_path)
    folder = Path(settings.experiment)
    folder.mkdir()
    (folder / "pretrain.json").write_text(json.dumps(settings.lasting()))
    searcher = MixOptSearcher(settings.space, MEAN_LOSS, settings=settings.search_settings)
    searcher.save_to_dir(str(folder))
    other = settings.model_copy(update={"seed": 3})
    message = f"began with seed: 0, not 3, and none of its runs has reported yet: put that back, or remove {folder}"
    with pytest.raises(ValueError, match=re.escape(message)):
        check_as_begun(other)


@pytest.mark.slow
def test_a_search_of_two_phases_branches(tmp_path: Path) -> None:
    data = make_corpus(tmp_path / "data", SMALL)
    rows = "".join(f"S,{step},{i / 5},{1 - i / 5},{5 - i / 9}\n" for i in range(6) for step in (5, 10))
    (tmp_path / "old.csv").write_text("scale,step,mixture/a,mixture/b,val_loss/a\n" + rows)
    phases = [{"name": "main", "fraction": 0.8}, {"name": "anneal", "fraction": 0.2, "upper": {"a": 0.9}}]
    earlier = {"budget": 2.0, "concurrency": 2, "earlier": [str(tmp_path / "old.csv")]}
    settings = tiny_search(
        data, tmp_path, steps=[5, 10], search=earlier | {"objective": {"val_loss/a": 1.0}}, phases=phases
    )
    outcome = search(settings)
    assert not outcome.errors
    history = outcome.searcher.optimizer.history
    branches = [run for run in history if run.branch]
    assert branches and all(min(run.observations) == run.branch.steps for run in branches if run.observations)
    assert set(outcome.searcher.recommend().mixture) == {"main", "anneal"}
    assert list(violations(history, budget=settings.budget)) == []
    check_as_begun(settings)


@pytest.mark.slow
def test_its_final_run(searched: Searched) -> None:
    settings, mixture = searched.settings, searched.outcome.searcher.recommend().mixture
    reports = list(final_run(settings, mixture))
    assert [report["step"] for report in reports] == [2, 4]
    assert write_model(final_folder(settings, mixture), settings.data, searched.folder / "model").step == 4


@pytest.mark.slow
def test_ctrl_c_between_two_runs_does_not_start_the_final_one(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is running or paused then, so that Tune's results look like those of a search that is done."""
    settings = tiny_search(small, tmp_path, steps=[2], search={"strategy": "random", "budget": 5, "concurrency": 1})
    (tmp_path / "search.yaml").write_text(yaml.safe_dump(json.loads(settings.model_dump_json(exclude_none=True))))

    def press(display: Display, optimizer: MixtureOptimizer) -> None:
        if len(optimizer.history) and all(run.status == "done" for run in optimizer.history):
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Display, "update", press)
    result = CliRunner().invoke(main, ["pretrain", str(tmp_path / "search.yaml"), "--final", "--json"])
    answer = json.loads(result.stdout)
    assert result.exit_code == 130 and answer["interrupted"] and answer["final"] == [], result.stderr
    assert "Go on with: ray-mixopt pretrain" in result.stderr and "--resume --final" in result.stderr
    assert "did not complete" not in result.stderr


def test_a_scale_that_the_cluster_cannot_hold_is_refused(small: Path, tmp_path: Path) -> None:
    scales = [{"name": "nano", "resources": {"workers": 4, "cpus_per_worker": 3}}]
    message = "Scale 'nano' needs 4 workers with 3 CPU each, the cluster has room for 1 at most, with 3.99 CPU: lower"
    settings = tiny_search(small, tmp_path, scales=scales)
    with pytest.raises(ValueError, match=message):
        search(settings)
    with pytest.raises(ValueError, match=message):
        next(final_run(settings, {"a": 0.5, "b": 0.5}))
    assert not exists(settings)


# -- services


def needed(service: str) -> None:
    if service not in INSTALLED:
        pytest.skip(f"needs {TRACKER_PACKAGES[service]}")


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


@pytest.mark.parametrize("service", TRACKERS)
def test_every_run_of_a_search_arrives(searched: Searched, monkeypatch: pytest.MonkeyPatch, service: str) -> None:
    needed(service)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{searched.folder}/mlflow.db")
    made = [run for run in searched.outcome.searcher.optimizer.history if not run.evaluated]
    expected = [{"val_loss/a", "val_loss/b", "tokens/a", "mean_loss"}] * len(made)
    folder = staged("tracked") if service == "wandb" else searched.folder / "tracked"
    wait_for(lambda: [metrics & expected[0] for metrics in kept(service, folder).values()] == expected)


@pytest.mark.parametrize("service", TRACKERS)
def test_runs_go_on_and_end_without_having_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, service: str
) -> None:
    needed(service)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")

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


# -- the disk


def size_of(folder: Path) -> int:
    """Bytes of all files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_checkpoints_of_runs_that_are_over_are_removed_while_the_search_goes_on(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "_SAFE_SECONDS", 0.0)
    plan = {"strategy": "random", "budget": 2, "concurrency": 1}
    settings = tiny_search(small, tmp_path, scales=[{"name": "nano"}], steps=[2], search=plan)
    runs, there = tmp_path / "pretrain" / "runs", []

    def watch(optimizer: MixtureOptimizer) -> None:
        there.append((len(optimizer.history), len(list(runs.glob("*"))), size_of(runs)))

    outcome = search(settings, watch)
    assert len(outcome.searcher.optimizer.history) == 2 and outcome.errors == ()
    weights = 4 * settings.model_cost(settings.scale("nano")).parameters
    assert max(size for *_, size in there) > 3 * weights  # with both moments of the optimizer
    assert (2, 1) in {(n, folders) for n, folders, _ in there}, "the first had gone when the second was there"
    assert list(runs.glob("*")) == []


def test_checkpoints_are_kept_where_the_configuration_says_so(searched: Searched) -> None:
    made = [run.trial_id for run in searched.outcome.searcher.optimizer.history if not run.evaluated]
    runs = searched.folder / "tracked" / "runs"
    assert all(list((runs / name).glob("checkpoint_*/run.json")) for name in made)

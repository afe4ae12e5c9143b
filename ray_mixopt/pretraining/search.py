"""The search by pre-training: Ray Tune over ``PretrainTrainable``, and the final run."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import ray
from pyarrow import fs
from ray import tune

from ray_mixopt.core.safety import MiB, parse_json
from ray_mixopt.optimizer import MixtureOptimizer
from ray_mixopt.pretraining.config import MEAN_LOSS, PretrainConfig, ScaleSettings
from ray_mixopt.pretraining.controller import ANNOUNCES_AT_START
from ray_mixopt.pretraining.data.sampler import key_seed
from ray_mixopt.pretraining.group import TrainingGroup
from ray_mixopt.pretraining.plan import check_resources, earlier_runs
from ray_mixopt.pretraining.pruning import Pruning, over, remove
from ray_mixopt.pretraining.tracking import TRACKERS
from ray_mixopt.pretraining.trainable import PretrainTrainable, runs_storage, with_mean
from ray_mixopt.pretraining.training.session import check_writable
from ray_mixopt.pretraining.training.settings import TrainingRun
from ray_mixopt.tune.restore import restore
from ray_mixopt.tune.scheduler import MixOptScheduler
from ray_mixopt.tune.searcher import MixOptSearcher
from ray_mixopt.tune.session import Watch, listening, running_ray, trial_name

DRIVER_NODE = "mixopt_driver"  # custom resource of a node that stays, see cluster.yaml
_ENVIRONMENT = {
    "TUNE_FORCE_TRIAL_CLEANUP_S": "30",  # after Ctrl-C: a trial hears of it at its next rung only
}
_BEGUN = "pretrain.json"
"""File of the experiment: what the configuration said when the search began."""
_TRIALS = 10_000  # that fit on such a node
_TRIAL_CPU = 0.01  # of a trial where there is none: it only waits for its workers


@dataclass(frozen=True, kw_only=True)
class Node:
    """A node of a cluster: what workers can have of it, and its labels."""

    resources: dict[str, float]
    labels: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class SearchOutcome:
    """What a search left behind.

    Attributes:
        searcher: with its history and recommendation.
        errors: of trials that failed.
        interrupted: whether Ctrl-C or SIGUSR1 ended it, be it that no run was going on then.
    """

    searcher: MixOptSearcher
    errors: tuple[str, ...]
    interrupted: bool


def check_storage(config: PretrainConfig) -> None:
    """Checks that the storage can be written to.

    Raises:
        ValueError: if not.
    """
    if "://" not in config.storage:
        check_writable(Path(config.storage))
        return
    try:
        filesystem, path = fs.FileSystem.from_uri(config.storage)
        probe = f"{path.rstrip('/')}/.{config.name}-{uuid4().hex}"
        filesystem.create_dir(path, recursive=True)
        with filesystem.open_output_stream(probe) as stream:
            stream.write(b"")
        filesystem.delete_file(probe)
    except (OSError, ValueError) as error:
        raise ValueError(f"{config.storage} cannot be written to: {error}.") from error


def exists(config: PretrainConfig) -> bool:
    """Whether the storage holds an experiment of that name already."""
    filesystem, path = fs.FileSystem.from_uri(config.experiment)
    return filesystem.get_file_info(f"{path}/tuner.pkl").type != fs.FileType.NotFound


def check_as_begun(config: PretrainConfig) -> None:
    """Checks that a search would go on as it began: runs of other settings cannot be compared with those there are.

    Raises:
        ValueError: naming the first setting that was another one.
    """
    filesystem, path = fs.FileSystem.from_uri(f"{config.experiment}/{_BEGUN}")
    if filesystem.get_file_info(path).type != fs.FileType.File:  # killed before it began, or begun by an older release
        return
    with filesystem.open_input_stream(path) as stream:
        before = parse_json(stream.read(MiB))
    for name, was, wanted in _changes(before, config.lasting()):
        said = f"{config.experiment} began with {name}: {json.dumps(was)}, not {json.dumps(wanted)}"
        if not _reported(config):
            raise ValueError(
                f"{said}, and none of its runs has reported yet: put that back, or remove {config.experiment} and "
                "begin anew, without --resume."
            )
        raise ValueError(
            f"{said}, and goes on as it began. Put that back, or begin another search, of another name, with --from "
            "this one."
        )


def _reported(config: PretrainConfig) -> bool:
    """Whether a run of the experiment has reported; where that cannot be read, it may have."""
    try:
        return bool(MixOptSearcher.load(config.experiment).optimizer.history.arrivals)
    except (ValueError, OSError):
        return True


def _changes(before: Any, now: Mapping[str, Any], at: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The settings that differ, with their values before and now."""
    if not isinstance(before, dict):
        raise ValueError(f"{_BEGUN} of the experiment is damaged: it holds no settings. Remove it to go on unchecked.")
    for name, was in before.items():
        wanted = now.get(name)
        if isinstance(was, dict) and isinstance(wanted, dict) and was.keys() == wanted.keys():
            yield from _changes(was, wanted, f"{at}{name}.")
        elif was != wanted:
            yield f"{at}{name}", was, wanted


def search(
    config: PretrainConfig, watch: Callable[[MixtureOptimizer], None] = lambda optimizer: None, *, resume: bool = False
) -> SearchOutcome:
    """Searches to the end of the budget, or until Ctrl-C, on the Ray that is there or one of this machine's own.

    Ctrl-C is Tune's to handle: it leaves the experiment such that it can be resumed.

    Args:
        config: a checked configuration.
        watch: called after each step of Tune's loop with the optimizer as it stands.
        resume: whether to go on with the experiment in the storage; see ``check_as_begun``.

    Raises:
        ValueError: if a scale does not fit the cluster, earlier runs have no place in the search, or one that goes on
            began with other settings.
        ray.tune.error.TuneError: if the search itself breaks down.
    """
    if resume:
        check_as_begun(config)
    with cluster() as (nodes, trial), listening() as interrupted:
        room = {scale.name: _room(config, scale, nodes) for scale in config.scales}
        for scale in config.scales:
            check_resources([scale], room[scale.name])
        trainable = tune.with_resources(
            tune.with_parameters(PretrainTrainable, settings=config.model_dump_json()), trial
        )
        if resume:
            tuner = restore(config.experiment, trainable)
            Watch.restored(tuner, watch)
            if not config.keep_checkpoints:
                Pruning.restored(tuner)
            results = tuner.fit()
            searcher = MixOptSearcher.load(config.experiment)
        else:
            searcher = MixOptSearcher(config.space, MEAN_LOSS, settings=config.search_settings)
            pruning = [] if config.keep_checkpoints else [Pruning(searcher, runs_storage(config))]
            for source, history in earlier_runs(config).items():
                searcher.absorb(history, source=source)
            tuner = tune.Tuner(
                trainable,
                param_space=config.space.param_space(),
                tune_config=tune.TuneConfig(
                    search_alg=searcher,
                    scheduler=MixOptScheduler(),
                    num_samples=-1,
                    max_concurrent_trials=config.search.concurrency or _concurrency(config, room),
                    reuse_actors=ANNOUNCES_AT_START,  # a new process takes seconds
                    trial_dirname_creator=trial_name,
                ),
                run_config=tune.RunConfig(
                    name=config.name,
                    storage_path=config.storage,
                    verbose=0,
                    callbacks=[
                        Watch(searcher, watch),
                        *pruning,
                        *(TRACKERS[name](config.name) for name in config.tracking),
                    ],
                    failure_config=tune.FailureConfig(max_failures=2),  # of the trial's own process or node
                ),
            )
            _keep(config)
            results = tuner.fit()
        unfinished = results.num_terminated + results.num_errors < len(results)
        ended = interrupted() or unfinished
        if not config.keep_checkpoints:
            made = [run.trial_id for run in searcher.optimizer.history if not run.evaluated and run.status != "failed"]
            remove(runs_storage(config), over(searcher.optimizer, made) if ended else made)
        return SearchOutcome(searcher=searcher, errors=tuple(map(str, results.errors)), interrupted=ended)


def _keep(config: PretrainConfig) -> None:
    filesystem, path = fs.FileSystem.from_uri(config.experiment)
    with filesystem.open_output_stream(f"{path}/{_BEGUN}") as stream:
        stream.write(json.dumps(config.lasting(), indent=1).encode())


def final_run(config: PretrainConfig, mixture: Mapping[str, float]) -> Iterator[dict[str, Any]]:
    """Trains the target with a mixture, with the decay of the learning rate; yields the reports of its rungs.

    Raises:
        ValueError: if the target's scale does not fit the cluster.
    """
    scale, run = config.scale(config.space.target_scale), _final(config, mixture)
    with cluster() as (nodes, _):
        check_resources([scale], _room(config, scale, nodes))
        group = TrainingGroup(
            run,
            name=_final_name(run),
            storage=runs_storage(config),
            resources=scale.resources,
            retries=config.retries,
        )
        ended = False
        try:
            while not ended:
                report = with_mean(group.next_report())
                ended = report["step"] >= run.steps or not all(map(math.isfinite, report.values()))
                yield report
        finally:
            if ended:
                group.join()
            else:
                group.abort()


def final_folder(config: PretrainConfig, mixture: Mapping[str, float]) -> str:
    """Folder or URI of the final run's checkpoint."""
    return f"{runs_storage(config)}/{_final_name(_final(config, mixture))}"


def _final(config: PretrainConfig, mixture: Mapping[str, float]) -> TrainingRun:
    return config.run(mixture, config.space.target_scale, config.target_steps, final=True)


def _final_name(run: TrainingRun) -> str:
    return f"final-{key_seed(run.model_dump_json()):032x}"[:18]  # another mixture is another run


@contextlib.contextmanager
def cluster() -> Iterator[tuple[list[Node], dict[str, float]]]:
    """A Ray to run on: the one at RAY_ADDRESS, or one of this machine's own.

    Yields:
        What workers can have of each node, and what a trial holds while its workers train.

    Raises:
        RuntimeError: if Ray does not start, or is not at RAY_ADDRESS.
    """
    with running_ray(_ENVIRONMENT, resources={DRIVER_NODE: _TRIALS}):
        alive = [node for node in ray.nodes() if node["Alive"]]
        nodes = [Node(resources=dict(node["Resources"]), labels=dict(node.get("Labels", {}))) for node in alive]
        if any(DRIVER_NODE in node.resources for node in nodes):
            yield nodes, {DRIVER_NODE: 1}
        else:  # a trial may take its bit from any node: count on the worst
            largest = max((node.resources for node in nodes), key=lambda resources: resources.get("CPU", 0.0))
            largest["CPU"] = largest.get("CPU", 0.0) - _TRIAL_CPU
            yield nodes, {"CPU": _TRIAL_CPU}


def _room(config: PretrainConfig, scale: ScaleSettings, nodes: Sequence[Node]) -> list[dict[str, float]]:
    """The resources of the nodes that a scale's workers may use: those there are, or what the cluster can grow to."""
    if config.cluster is not None:
        return [config.cluster]
    return [node.resources for node in nodes if scale.resources.may_use(node.labels)]


def _concurrency(config: PretrainConfig, room: Mapping[str, Sequence[Mapping[str, float]]]) -> int:
    """How many groups of the smallest scale fit at a time."""
    return max(1, *(scale.resources.fitting(room[scale.name]) // scale.resources.workers for scale in config.scales))

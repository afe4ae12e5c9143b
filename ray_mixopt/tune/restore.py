"""Restoring an interrupted experiment, checked: Tune itself starts anew, quietly, when it cannot read its files."""

from __future__ import annotations

import fnmatch
import logging
import os
import pickle
import pickletools
from collections.abc import Callable
from typing import Any

import ray.cloudpickle
from pyarrow import fs
from ray import tune

from ray_mixopt.core.safety import parse_json
from ray_mixopt.io import snapshots
from ray_mixopt.io.lease import Lease
from ray_mixopt.tune import salvage
from ray_mixopt.tune.scheduler import MixOptScheduler
from ray_mixopt.tune.searcher import MixOptSearcher
from ray_mixopt.tune.state import snapshot_often

logger = logging.getLogger(__name__)

_ASIDE = "damaged-"


def restore(path: str | os.PathLike[str], trainable: Any, **kwargs: Any) -> tune.Tuner:
    """``Tuner.restore`` for an experiment with ``MixOptSearcher``, after a look at the files it is going to read.

    Tune keeps three files a session: the trials, the search generator and the searcher. Where the newest of a kind is
    damaged, it is renamed to ``damaged-...`` and replaced by its copy; where that is damaged too, the session before
    serves. A warning says what is lost. So it is with ``tuner.pkl``, which every new Tuner in the folder replaces, even
    one that is then refused. Call ``fit()`` on the result to go on: finished trials stay as they are, interrupted ones
    go on from their last checkpoint, paused ones stay paused.

    The experiment must be one you made yourself: Tune's own files are pickles, and reading them runs what they say.

    Args:
        path: the experiment's folder, a path or a URI.
        trainable: the same one as before.
        **kwargs: for ``Tuner.restore``. A ``param_space`` may have other floors, caps, supplies and target than before;
            domains, scales and steps must stay.

    Raises:
        ValueError: if the folder is not an experiment with ``MixOptSearcher``, or too much of it is damaged, or
            ``param_space`` is of another search.
        LeaseError: if another driver searches in the folder. It is taken over from one that is dead.
    """
    filesystem, folder = snapshots.locate(path, kwargs.get("storage_filesystem"))
    lease = Lease(filesystem, folder)
    lease.check()
    names = snapshots.names(filesystem, folder)
    tuner_file = _whole_tuner(filesystem, folder, path)
    # Any strategy will do here: Tune's own files have the one that was given.
    searcher = MixOptSearcher.load(path, strategy="default", storage_filesystem=kwargs.get("storage_filesystem"))
    if kwargs.get("param_space"):
        searcher.check_param_space(kwargs["param_space"])
    for pattern, check in (("experiment_state-*.json", _check_trials), ("search_gen_state-*.json", _check_pickle)):
        _set_aside_damaged(filesystem, folder, sorted(fnmatch.filter(names, pattern), reverse=True), check, path)
    found = searcher.recovered
    assert found is not None
    for file in found.damaged:
        filesystem.move(file, _aside(file))
    if f"/{snapshots.KEPT}" in found.file:  # which Tune does not look into
        filesystem.copy_file(found.file, found.file.replace(f"/{snapshots.KEPT}", "/"))
    if tuner_file != f"{folder}/{snapshots.TUNER}":
        if snapshots.TUNER in names:
            filesystem.move(f"{folder}/{snapshots.TUNER}", _aside(f"{folder}/{snapshots.TUNER}"))
        filesystem.copy_file(tuner_file, f"{folder}/{snapshots.TUNER}")
    snapshot_often()
    local = isinstance(filesystem, fs.LocalFileSystem)
    tuner = tune.Tuner.restore(folder if local else os.fspath(path), trainable, **kwargs)
    scheduler: Any = tuner._local_tuner._tune_config.scheduler if tuner._local_tuner else None
    if (kwargs.get("restart_errored") or kwargs.get("resume_errored")) and not isinstance(scheduler, MixOptScheduler):
        logger.warning(
            "Without MixOptScheduler all failed trials are tried again at once, whatever max_concurrent_trials says."
        )
    lost = _unkept(searcher, filesystem, folder)
    heir = _searcher(tuner)
    if heir is not None:
        heir.recovered, heir.unkept, heir.storage.lease = found, lost, lease
    return tuner


def _whole_tuner(filesystem: fs.FileSystem, folder: str, path: str | os.PathLike[str]) -> str:
    """The file that says how the Tuner was set up whose search is in a folder; a warning, if that is the one kept.

    A Tuner replaces the file when it is made, even if it is then refused, since another driver searches there.

    Raises:
        ValueError: if there is none, or none can be read.
    """
    problems = {}
    newest, kept = f"{folder}/{snapshots.TUNER}", f"{folder}/{snapshots.KEPT}{snapshots.TUNER}"
    there = [file for file in (kept, newest) if filesystem.get_file_info(file).is_file]
    for file in there:
        content = snapshots.content(filesystem, file)
        problem = _check_pickle(content) or _check_tuner(content)
        if problem is not None:
            problems[file] = problem
            continue
        if file == kept and newest not in there:
            logger.warning("%s is missing, and the one that was kept takes its place.", newest)
        elif file == kept:
            if content == snapshots.content(filesystem, newest):
                return newest
            logger.warning(
                "%s is not of the Tuner that searched here, but of another one, made later in the same folder, or is "
                "damaged. It is renamed to %s%s, and the one that was kept takes its place.",
                newest,
                _ASIDE,
                snapshots.TUNER,
            )
        return file
    if not problems:
        raise ValueError(f"{os.fspath(path)!r} is not the folder of a Tune experiment: it has no {snapshots.TUNER}.")
    told = "; ".join(f"{file} is damaged ({problem})" for file, problem in problems.items())
    raise ValueError(
        f"{told}. If it needs a module or a class of yours that this process lacks, import that first.{_advice(path)}"
    )


def _unkept(searcher: MixOptSearcher, filesystem: fs.FileSystem, folder: str) -> float:
    """The cost of what was trained after the state that a search goes on from was written; said if there is any."""
    try:
        history = searcher.optimizer.history
    except RuntimeError:  # nothing was known yet
        return 0.0
    written = None if searcher.recovered is None else searcher.recovered.written
    lost = salvage.unkept(filesystem, folder, history, searcher.layout, written)
    cost = sum(lost.values())
    if lost:
        logger.warning(
            "Trained and not kept: %.4g of cost, %.2g full runs, in the trials %s. Their last reports are younger than "
            "the state that this search goes on from.",
            cost,
            cost / history.space.target_cost,
            ", ".join(sorted(lost)),
        )
    return cost


def _aside(file: str) -> str:
    folder, _, name = file.rpartition("/")
    return f"{folder}/{_ASIDE}{name}"


def _searcher(tuner: tune.Tuner) -> MixOptSearcher | None:
    """The searcher of a Tuner, which does not give it out; None where it is far away."""
    local: Any = getattr(tuner, "_local_tuner", None)
    searcher: Any = None if local is None else local._tune_config.search_alg
    while hasattr(searcher, "searcher"):
        searcher = searcher.searcher
    return searcher if isinstance(searcher, MixOptSearcher) else None


def _set_aside_damaged(
    filesystem: fs.FileSystem,
    folder: str,
    newest_first: list[str],
    check: Callable[[bytes], str | None],
    path: str | os.PathLike[str],
) -> None:
    """Renames damaged files until the newest one is good. Raises ValueError, touching nothing, if none is."""

    def is_whole(file: str) -> bool:
        return filesystem.get_file_info(file).is_file and check(snapshots.content(filesystem, file)) is None

    def age(file: str) -> str:
        """Of what takes the place of the newest damaged file, which is renamed by now."""
        whole, torn = f"{folder}/{file}", _aside(f"{folder}/{next(iter(damaged))}")
        written = filesystem.get_file_info(whole).mtime
        return snapshots.told_age(
            None if written is None else written.timestamp(), filesystem.get_file_info(torn).mtime
        )

    damaged: dict[str, str] = {}
    prefix = None
    for name in newest_first:
        problem = check(snapshots.content(filesystem, f"{folder}/{name}"))
        if problem is None:
            break
        damaged[name] = problem
        prefix = next((p for p in (snapshots.COPY, snapshots.KEPT) if is_whole(f"{folder}/{p}{name}")), None)
        if prefix is not None:
            break
    else:
        raise ValueError(
            f"No {newest_first[0] if newest_first else 'session file'} of {folder} can be read "
            f"({'; '.join(damaged.values()) or 'there is none'}).{_advice(path)}"
        )
    for name, problem in damaged.items():
        filesystem.move(f"{folder}/{name}", _aside(f"{folder}/{name}"))
        logger.warning("%s is damaged (%s) and was renamed to %s%s.", name, problem, _ASIDE, name)
    if prefix is not None:
        filesystem.copy_file(f"{folder}/{prefix}{name}", f"{folder}/{name}")
        logger.warning(
            "Its copy %s%s serves, %s: of trials it may lack the last report.", prefix, name, age(prefix + name)
        )
    elif damaged:
        logger.warning(
            "The session before serves, with %s, %s: trials that only the damaged files knew are lost, as is training "
            "after it; what the searcher observed is kept.",
            name,
            age(name),
        )


def _check_trials(content: bytes) -> str | None:
    """What is wrong with an experiment state, None if nothing is."""
    try:
        state = parse_json(content)
    except ValueError as error:
        return str(error)
    whole = isinstance(state, dict) and isinstance(state.get("runner_data"), dict) and bool(state.get("trial_data"))
    return None if whole else "it holds no trials"


def _check_pickle(content: bytes) -> str | None:
    """What is wrong with a pickle, None if nothing is. It is read through without being executed."""
    try:
        for _ in pickletools.genops(content):
            pass
    except (ValueError, IndexError, OverflowError, pickle.UnpicklingError) as error:
        return f"it ends early or is no pickle: {error}"
    return None


def _check_tuner(content: bytes) -> str | None:
    """What is wrong with what Tune wrote of its Tuner, None if nothing is. Tune itself reads it right after this."""
    try:
        state = ray.cloudpickle.loads(content)
    except Exception as error:  # whatever its classes raise
        return f"{type(error).__name__}: {error}"
    return None if isinstance(state, dict) and "_tune_config" in state else "it describes no Tuner"


def _advice(path: str | os.PathLike[str]) -> str:
    return (
        " The observations may be safe: search on in a new Tuner with "
        f"search_alg=MixOptSearcher.load({os.fspath(path)!r})."
    )

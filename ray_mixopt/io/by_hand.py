"""The state of a search by hand: which runs were suggested, so that they count until their rows are there. No Ray.

What runs have shown is not in it: that is read anew, each time, from the tables that it is logged in.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ray_mixopt.core.arguments import kept_shares
from ray_mixopt.core.branches import price
from ray_mixopt.core.safety import (
    MiB,
    check_fields,
    check_file_name,
    check_known,
    check_size,
    check_version,
    parse_json,
    write_atomically,
)
from ray_mixopt.core.space import MixtureSpace
from ray_mixopt.core.trial import Branch, is_far
from ray_mixopt.core.words import by_name
from ray_mixopt.io.snapshots import COPY

STATE_VERSION = 1
MOST_BYTES = 64 * MiB
DEFAULT = "by-hand.json"
_FIELDS = ("version", "prefix", "space", "runs", "checksum")
_PREFIX = re.compile(r"\w[\w.-]*")
_SUM_TOLERANCE = 1e-6


@dataclass(frozen=True, kw_only=True)
class AskedRun:
    """A run that was suggested, or that a run was suggested to go on.

    Attributes:
        run: its name; a run that goes on keeps its own.
        round: number of the call that suggested it, from 1 on.
        mixture: share of training tokens by domain, or by phase and domain.
        scale: name of the model scale.
        start: step that it goes on from; 0 for a new run.
        steps: the rung to reach, in training steps.
        why: what it is expected to settle, in a sentence.
        counts: whether it is a suggestion of the strategy's own; see ``Proposal``.
        acquisition: what the strategy expected of it, in the strategy's own terms.
        known: of the runs of its mixture and scale that the tables held before, the last step of each: these rows are
            not its own.
        failed: whether it was said to have failed.
        handed: path that its launch file was written to; "" while there is none.
        seen: last step that the tables had of it in any call so far.
        written: SHA-256 of what was written to its launch file and its blend: what holds anything else is somebody's.
        parent: of a branch, the run at whose checkpoint it begins; "" for others, and where it goes on.
        begins: of a branch, the step of that checkpoint.
    """

    run: str
    round: int
    mixture: dict[str, Any]
    scale: str
    start: int
    steps: int
    why: str
    counts: bool = True
    acquisition: float | None = None
    known: tuple[int, ...] = ()
    failed: bool = False
    handed: str = ""
    seen: int = 0
    written: tuple[str, ...] = ()
    parent: str = ""
    begins: int = 0

    @property
    def branch(self) -> Branch | None:
        """Where it begins, if not at its start."""
        return Branch(parent=self.parent, from_step=self.begins, steps=self.steps) if self.parent else None

    @property
    def from_step(self) -> int:
        """Step of the checkpoint that it takes up; 0 for none."""
        return self.begins or self.start

    def cost(self, space: MixtureSpace) -> float:
        """What it adds to the bill, in the space's unit."""
        if self.branch is not None:
            return price(space, self.scale, self.steps, self.branch)
        return space.cost(self.scale, self.steps, start=self.start)

    @property
    def file_name(self) -> str:
        """What files about it are called, without their ending."""
        return f"{self.run}-to-{self.steps}"


@dataclass(frozen=True, kw_only=True)
class ByHand:
    """A search by hand.

    Attributes:
        space: the search space, without limits that options add.
        runs: suggested so far, in order.
        prefix: what names of its runs begin with, so that two searches may be in one table.
    """

    space: MixtureSpace
    runs: tuple[AskedRun, ...] = ()
    prefix: str = "hand"

    @property
    def latest(self) -> int:
        """Number of the last round; 0 before the first."""
        return max((run.round for run in self.runs), default=0)

    @property
    def new_name(self) -> str:
        """A name for the next new run."""
        return f"{self.prefix}-{1 + len({run.run for run in self.runs}):04d}"

    def names(self, run: str) -> bool:
        """Whether a run has a name that this search gives."""
        prefix, _, number = run.rpartition("-")
        return prefix == self.prefix and len(number) >= 4 and number.isdecimal()

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able description, with a checksum, read back by ``from_dict``."""
        state = {
            "version": STATE_VERSION,
            "prefix": self.prefix,
            "space": self.space.to_dict(),
            "runs": [asdict(run) for run in self.runs],
        }
        return state | {"checksum": _checksum(state)}

    @classmethod
    def from_dict(cls, state: Any) -> ByHand:
        """The search that ``to_dict`` described.

        Raises:
            ValueError: if the description is of another version, malformed, or not as it was written.
        """
        check_version(state, "a search by hand", STATE_VERSION)
        check_known(state, _FIELDS, "search by hand")
        if missing := [name for name in _FIELDS if name not in state]:
            raise ValueError(f"Malformed search by hand: {', '.join(missing)} is missing.")
        if state["checksum"] != _checksum({key: value for key, value in state.items() if key != "checksum"}):
            raise ValueError(
                "It was changed since it was written, so that its runs may not be those that were handed out. Put the "
                "file back as it was; a run that will not come is said with --failed RUN, and everything else with "
                "options, too."
            )
        space = MixtureSpace.from_dict(state["space"])
        if not isinstance(state["runs"], list) or not isinstance(state["prefix"], str):
            raise ValueError("Malformed search by hand: its runs are no list, or its prefix is no text.")
        if not _PREFIX.fullmatch(state["prefix"]):  # files are called after it
            raise ValueError(f"Malformed search by hand: no run can be called after {state['prefix'][:100]!r}.")
        runs = tuple(_asked(entry, i) for i, entry in enumerate(state["runs"], 1))
        search, reached, latest = cls(space=space, runs=runs, prefix=state["prefix"]), dict[str, int](), 0
        for run in runs:
            if run.round not in (max(latest, 1), latest + 1):
                raise ValueError(f"Malformed search by hand: {run.run} is of round {run.round}, after {latest}.")
            latest = run.round
            if not search.names(run.run):
                raise ValueError(f"Malformed search by hand: it cannot have called a run {run.run!r}.")
            if (run.start == 0) == (run.run in reached) or run.steps <= max(run.start, reached.get(run.run, 0)):
                raise ValueError(f"Malformed search by hand: {run.run} goes from {run.start} to {run.steps} steps.")
            if run.parent and (run.start or run.parent not in reached or not 0 < run.begins < run.steps):
                raise ValueError(
                    f"Malformed search by hand: {run.run} cannot begin at step {run.begins} of {run.parent} to go to "
                    f"{run.steps}."
                )
            reached[run.run] = run.steps
        return search

    def check_fits(self, space: MixtureSpace, name: object) -> None:
        """Checks that the runs suggested so far can be runs of a space: its limits, rungs and costs may have changed.

        Args:
            space: the search space from now on.
            name: of the state's file.

        Raises:
            ValueError: naming a run that cannot.
        """
        for run in self.runs:
            if by_name(run.mixture).keys() != by_name(space.named(space.uniform())).keys():
                phases = f" in the phases {', '.join(space.phase_names)}" if space.phase_names else ""
                raise ValueError(
                    f"{name} has suggested {run.run}, a mixture of {', '.join(by_name(run.mixture))}, and the space "
                    f"now has the domains {', '.join(space.domains)}{phases}: begin another search with another "
                    "--state, and these runs among its --from."
                )
            if is_far(run.steps, space.steps):
                raise ValueError(
                    f"{name} has suggested {run.run} to step {run.steps:,}, which is far beyond the last of the space "
                    f"now, {max(space.steps):,}: put its steps back, or begin another search with another --state."
                )
            if run.scale not in space.scale_names:
                raise ValueError(
                    f"{name} has suggested {run.run} at scale {run.scale}, and the space now has "
                    f"{', '.join(space.scale_names)}: put the scale back, or begin another search with another --state."
                )

    def marked_failed(self, names: set[str]) -> ByHand:
        """The same search, in which these runs have failed at what they were asked for last."""
        last = {run.run: i for i, run in enumerate(self.runs)}
        lost = {last[name] for name in names}
        return replace(self, runs=tuple(replace(r, failed=True) if i in lost else r for i, r in enumerate(self.runs)))

    def having_seen(self, reached: Mapping[str, int]) -> ByHand:
        """The same search, which knows how far its runs have been seen, by name."""
        return replace(self, runs=tuple(replace(run, seen=max(run.seen, reached[run.run])) for run in self.runs))


def _checksum(state: dict[str, Any]) -> str:
    text = json.dumps(state, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _asked(entry: Any, place: int) -> AskedRun:
    check_fields(AskedRun, entry, f"search by hand, run {place}")
    mixture = kept_shares(entry["mixture"], f"the mixture of run {place}")
    known, seen = entry.get("known", ()), entry.get("seen", 0)
    if entry["round"] < 1 or min(entry["start"], seen, *known) < 0:
        raise ValueError(
            f"Malformed search by hand: run {place} is from step {entry['start']}, round {entry['round']}, and was "
            f"seen at {seen}, others of its mixture at {list(known)}."
        )
    each = mixture.values() if any(isinstance(of, dict) for of in mixture.values()) else [mixture]
    if any(min(of.values(), default=-1.0) < 0 or abs(sum(of.values()) - 1) > _SUM_TOLERANCE for of in each):
        raise ValueError(f"Malformed search by hand: the mixture of {entry['run']} does not sum to 1.")
    lists = {"known": tuple(known), "written": tuple(entry.get("written", ()))}
    return AskedRun(**{**entry, "mixture": mixture, **lists})


def begun(path: Path, space: MixtureSpace) -> ByHand:
    """A new search, whose runs are called after its state's file.

    Raises:
        ValueError: for a name of a file that runs cannot have.
    """
    prefix = "hand" if path.name == DEFAULT else path.stem
    if not _PREFIX.fullmatch(prefix):
        raise ValueError(
            f"Runs are called after the file of the state, and {prefix!r} cannot be in a name: use letters, digits, "
            "'_', '-' and '.' in --state."
        )
    return ByHand(space=space, prefix=prefix)


def read(path: Path) -> ByHand | None:
    """The search in a file; None if neither it nor its copy is there.

    Raises:
        ValueError: if it cannot be read, or only the copy is there; the message says what to do.
    """
    copy = path.with_name(COPY + path.name)
    rescue = f" {copy} is its copy: cp {shlex.quote(str(copy))} {shlex.quote(str(path))}" if copy.exists() else ""
    if not path.exists():
        if rescue:
            raise ValueError(f"{path} is gone.{rescue}, or, to begin anew, move the copy away, too.")
        return None
    check_size(path, path.stat().st_size, MOST_BYTES)
    try:
        try:
            state = parse_json(path.read_bytes())
        except ValueError as error:
            raise ValueError(f"It is not JSON: {error}.") from error
        return ByHand.from_dict(state)
    except ValueError as error:
        raise ValueError(f"{path} is not the state of a search by hand, or is damaged. {error}{rescue}") from error


def write(path: Path, search: ByHand) -> None:
    """Writes the state of a search, and then its copy: at every moment there is a whole file under both names.

    Args:
        path: of the file.
        search: to write.
    """
    content = (json.dumps(search.to_dict(), indent=1) + "\n").encode()
    for file in (path, path.with_name(COPY + path.name)):
        if not file.exists() or file.read_bytes() != content:
            write_atomically(file, content, durable=True)


@contextlib.contextmanager
def held(path: Path) -> Iterator[Path]:
    """While this lasts, no other process on any machine that shares the file system has the search.

    Gives the path of the file itself: a link to it is one way to it of several, and must stay one.

    Raises:
        ValueError: if another has it, its folder is not there, or files beside it cannot be called after it.
        OSError: if there can be no lock in that folder.
    """
    if path.is_symlink():
        path = Path(os.path.realpath(path))
    check_file_name(path.name, "The state of a search")
    if not path.parent.is_dir():
        raise ValueError(f"There is no folder {path.parent} for the state of the search: make it, or change --state.")
    with path.with_name(f".{path.name}.lock").open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"{path} is in use: another call is about to suggest runs. Ask again when it has ended."
            ) from error
        except OSError as error:
            raise ValueError(
                f"{path} cannot be locked ({error.strerror}), so that two calls could hand out the same run: put it on "
                "a file system that has locks, with --state."
            ) from error
        yield path

"""What is said of a command that trains: its arguments, its reports, how it goes on, and what it needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

from ray_mixopt.command.arguments import PLACEHOLDERS, RESUMING, STEP, check_placeholders
from ray_mixopt.command.metrics import SUFFIXES, Format
from ray_mixopt.command.process import SILENT
from ray_mixopt.core.safety import check_fields
from ray_mixopt.core.space import MixtureSpace
from ray_mixopt.io.blends import BLENDS, Sources, blend
from ray_mixopt.io.space_file import meant
from ray_mixopt.io.yaml_file import read_yaml

SECTION = "command"
"""Of the file that describes the space."""


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Where a command says how far it is.

    Args:
        file: path with placeholders, of a folder for TensorBoard; by default it is what the command prints.
        format: "json" (a JSON object a line, at its end), "csv" or "tensorboard"; by default by the file's suffix, and
            JSON where there is none.
        step: key or column of the training step.
        names: what the file calls a metric, by what the search calls it. Keys inside of others are joined by "/".
    """

    file: str | None = None
    format: Format | None = None
    step: str = "step"
    names: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.format == "tensorboard" and self.file is None:
            raise ValueError("metrics: TensorBoard's events are in a folder: say where, file: '{folder}/tensorboard'.")
        if self.file is not None:
            check_placeholders([self.file], ("folder", "name", "scale"), "metrics: file")
        if not self.step or "" in self.names.values():
            raise ValueError("metrics: step and names are keys or columns of what the command says, and none is empty.")
        if same := [ours for ours, theirs in self.names.items() if theirs == self.step]:
            raise ValueError(f"metrics: names: {same[0]} cannot be {self.step!r}, which is the training step.")

    @property
    def known_format(self) -> Format:
        """The format, be it by the suffix."""
        return self.format or SUFFIXES.get(Path(self.file or "").suffix, "json")


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a run of a scale needs, on each of its nodes.

    Args:
        nodes: that the command is started on, once each.
        cpus: of each node.
        gpus: of each node.
        labels: that a node must have, by name, as ``ray start --labels`` gives them.
    """

    nodes: int = 1
    cpus: float = 1.0
    gpus: float = 0.0
    labels: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.nodes < 1 or self.cpus < 0 or self.gpus < 0 or not (self.cpus or self.gpus):
            raise ValueError(
                f"resources must be at least one node with CPUs or GPUs, got nodes {self.nodes}, cpus {self.cpus:g} "
                f"and gpus {self.gpus:g}."
            )

    @property
    def each(self) -> dict[str, float]:
        """What is needed of each node, by Ray's names."""
        return {kind: amount for kind, amount in (("CPU", self.cpus), ("GPU", self.gpus)) if amount}


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command that trains one run.

    Args:
        program: the command and its arguments, with placeholders.
        directory: where it is run; the same on every node.
        blend: format of the file with the mixture, one of ``BLENDS``.
        sources: where the data of the domains are, where the format has them.
        arguments: to add, by scale.
        resume: arguments to add where a run goes on. Without them none does: each ends at its rung.
        checkpoint: path of a checkpoint with placeholders, ``{step}`` among them or not. A run goes on from the newest.
        metrics: where it says how far it is.
        resources: what a run needs, by scale; one CPU where nothing is said.
        diverged_codes: exit codes that mean that the run has diverged.
        retry_codes: exit codes that mean that it was not the run's fault: it is started again. 128 + n is death by
            signal n, 124 the end of a run that showed no new step for ``silence_seconds``.
        retries: how often a run is started again, after such an end or the loss of its node.
        silence_seconds: longest time without a new step, after which a run is ended.
        end_seconds: longest time to end by itself, after the last step was reported.
        grace_seconds: between SIGTERM and SIGKILL.

    Raises:
        ValueError: for what makes no sense; the message says what to change.
    """

    program: tuple[str, ...]
    directory: str
    blend: str = "json"
    sources: Sources = Sources()
    arguments: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    resume: tuple[str, ...] | None = None
    checkpoint: str | None = None
    metrics: Metrics = Metrics()
    resources: Mapping[str, Needs] = field(default_factory=dict)
    diverged_codes: tuple[int, ...] = ()
    retry_codes: tuple[int, ...] = (75, SILENT, 137, 143)
    retries: int = 2
    silence_seconds: float = 3600.0
    end_seconds: float = 600.0
    grace_seconds: float = 10.0

    def __post_init__(self) -> None:
        if not self.program or not self.program[0]:
            raise ValueError("There is no command: write it after --, as in -- python train.py --mixture {mixture}.")
        check_placeholders(self.program, PLACEHOLDERS, "The command")
        for scale, texts in self.arguments.items():
            check_placeholders(texts, PLACEHOLDERS, f"arguments of {scale}")
        check_placeholders(self.resume or (), [*PLACEHOLDERS, *RESUMING], "resume")
        check_placeholders([self.checkpoint or ""], ("folder", "name", "scale", STEP), "checkpoint")
        if self.checkpoint is not None and self.resume is None:
            raise ValueError(
                "checkpoint says where checkpoints are, and nothing says how a run goes on from one: add resume, a "
                "list of arguments, as in resume: [--resume, '{resume}']."
            )
        if self.checkpoint is None and any("{resume" in text for text in self.resume or ()):
            raise ValueError("resume speaks of a checkpoint: say where these are, checkpoint: '{folder}/{step}.pt'.")
        if self.checkpoint is not None and not Path(self.checkpoint.replace("{folder}", "/")).is_absolute():
            raise ValueError(f"checkpoint must be an absolute path or begin with {{folder}}, got {self.checkpoint!r}.")
        if both := set(self.diverged_codes) & set(self.retry_codes):
            raise ValueError(f"The exit code {min(both)} cannot be both in diverged_codes and in retry_codes.")
        if 0 in (*self.diverged_codes, *self.retry_codes):
            raise ValueError(
                "The exit code 0 means that a run is done: leave it out of diverged_codes and retry_codes."
            )
        if not self.silence_seconds > 0:
            raise ValueError(
                f"silence_seconds must be above 0, got {self.silence_seconds}: a run is ended when it has shown no new "
                "step for so long."
            )
        for name in ("retries", "end_seconds", "grace_seconds"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}.")

    @property
    def continues(self) -> bool:
        """Whether a run can go on."""
        return self.resume is not None

    @property
    def branches(self) -> bool:
        """Whether the checkpoint of a step can be told, from which others may go on."""
        return self.continues and f"{{{STEP}}}" in (self.checkpoint or "")

    def needs(self, scale: str) -> Needs:
        """What a run of a scale needs."""
        return self.resources.get(scale, Needs())

    def blended(self, mixture: Mapping[str, Any], space: MixtureSpace, steps: int | None = None) -> str:
        """The content of the file with a mixture, of several phases for a run of so many steps.

        Raises:
            ValueError: if the format cannot hold it, or lacks something.
        """
        return blend(self.blend, mixture, space, self.sources, steps=steps)

    @property
    def suffix(self) -> str:
        """Of the file with the mixture."""
        return BLENDS[self.blend].suffix

    def check(self, space: MixtureSpace) -> None:
        """Checks that it fits a space.

        Raises:
            ValueError: for a scale that the space has not, a format that cannot hold its mixtures, or runs of several
                rungs in a space with phases, where it cannot go on from the beginning of one.
        """
        several = [name for name in space.scale_names if len(space.rungs(name)) > 1]
        if several and len(space.phase_names) == len(space.phases) > 0 and not self.branches:
            raise ValueError(
                f"The space has phases, and nothing says how the command goes on from where one begins: say resume and "
                f"checkpoint: '{{folder}}/{{step}}.pt', with the step, or give {several[0]} one rung only."
            )
        if several and len(space.phase_names) < len(space.phases):
            raise ValueError(
                f"Phases were trained already, and the command has no checkpoint of where they end: give {several[0]} "
                "one rung only."
            )
        for name in ("arguments", "resources"):
            if unknown := sorted(set(getattr(self, name)) - set(space.scale_names)):
                raise ValueError(
                    f"{name} are for the scale {unknown[0]!r}, which the space has not: it has "
                    f"{', '.join(space.scale_names)}."
                )
        self.blended(space.named(space.uniform()), space)


def read_command(path: Path, program: tuple[str, ...], directory: Path) -> Command:
    """A command, with what the file of the space says of it in its section ``command``.

    Args:
        path: of the file.
        program: the command and its arguments.
        directory: where it is run.

    Raises:
        ValueError: for what makes no sense; the message says what to change.
    """
    data = read_yaml(path, "space").get(SECTION) or {}
    try:
        return _command(data, program, directory)
    except ValueError as error:
        raise ValueError(f"{path}, {SECTION}: {error}") from error


def _command(data: object, program: tuple[str, ...], directory: Path) -> Command:
    if not isinstance(data, Mapping):
        raise ValueError(f"it must be settings by name, got {data!r}.")
    given = sorted({"program", "directory"} & set(data))
    if given:
        raise ValueError(f"{given[0]} is not said here: the command stands after --, and is run where you are.")
    parts: dict[str, type] = {"sources": Sources, "metrics": Metrics}
    found: dict[str, Any] = dict(meant(data, get_type_hints(Command)))
    for name, kind in parts.items():
        if name in found:
            found[name] = _section(kind, found[name], name)
    if "resources" in found:
        if not isinstance(found["resources"], Mapping):
            raise ValueError(f"resources must be settings by scale, got {found['resources']!r}.")
        found["resources"] = {
            scale: _section(Needs, needs, f"resources of {scale}") for scale, needs in found["resources"].items()
        }
    plain = {name: value for name, value in found.items() if name not in (*parts, "resources")}
    check_fields(Command, {**plain, "program": list(program), "directory": str(directory)}, "section")
    return Command(program=program, directory=str(directory), **{key: _frozen(value) for key, value in found.items()})


def _section(kind: type, data: object, where: str) -> Any:
    if not isinstance(data, Mapping):
        known = ", ".join(one.name for one in fields(kind))
        raise ValueError(f"{where} must be settings by name ({known}), got {data!r}.")
    found = meant(data, get_type_hints(kind))
    check_fields(kind, found, where)
    return kind(**{key: _frozen(value) for key, value in found.items()})


def _frozen(value: Any) -> Any:
    """Lists as tuples, inside of mappings, too."""
    if isinstance(value, list):
        return tuple(map(_frozen, value))
    return {key: _frozen(inner) for key, inner in value.items()} if isinstance(value, Mapping) else value

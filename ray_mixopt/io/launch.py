"""Launch files: one a run, from a template of the user's, with the blend that it trains on next to it.

Templates are Jinja2 in its sandbox: they see the variables of a run, and neither files nor Python; see ``filling``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ray_mixopt.core.safety import MiB, check_size, write_atomically
from ray_mixopt.core.space import MixtureSpace
from ray_mixopt.core.words import by_name
from ray_mixopt.io.blends import BLENDS, NO_SOURCES, Sources, blend
from ray_mixopt.io.by_hand import AskedRun
from ray_mixopt.io.filling import TemplateError, filled_in

MOST_BYTES = MiB  # of a template
OF_ONE_RUN = ("blend", "mixture", "run", "folder", "seed")  # variables by which a job knows what to train on
ENDINGS = (".j2", ".jinja", ".jinja2")
VARIABLES = (
    *("run", "mixture", "blend", "scale", "steps", "from_step", "continues", "parent", "parent_folder"),
    *("seed", "folder", "cost", "round", "why"),
)


@dataclass(frozen=True, kw_only=True)
class LaunchFile:
    """What is written for a run, and where.

    Attributes:
        run: the run.
        path: of the launch file.
        text: its content.
        blend: path of the blend.
        blend_text: its content.
        folder: the run's own, in which it keeps its checkpoints.
    """

    run: AskedRun
    path: Path
    text: str
    blend: Path
    blend_text: str
    folder: Path

    @property
    def taken(self) -> bool:
        """Whether it was written to this folder before, and is no longer there: somebody has taken it."""
        return self.run.handed == str(self.path) and not self.path.exists()

    @property
    def _contents(self) -> dict[Path, bytes]:
        return {self.blend: self.blend_text.encode(), self.path: self.text.encode()}

    def check(self) -> None:
        """Checks that nothing would be written over but what this search wrote.

        Raises:
            ValueError: naming the file that is in the way.
        """
        for path, content in self._contents.items() if not self.taken else ():
            if path.exists() and (there := path.read_bytes()) != content and _digest(there) not in self.run.written:
                raise ValueError(
                    f"{path} is there already, and this search did not write what is in it. If it is of another "
                    "search, give another --out, or a --state of another name, after which runs are called. If you "
                    "changed it, move it away once it is submitted; what all such files are to say, the template says."
                )

    def write(self) -> AskedRun:
        """Writes what is not there as it should be, unless it was ``taken``.

        Returns:
            The run, which knows where its launch file is, and what was written.
        """
        if self.taken:
            return self.run
        self.folder.mkdir(exist_ok=True)
        for path, content in self._contents.items():
            if not path.exists() or path.read_bytes() != content:
                write_atomically(path, content)
        return replace(self.run, handed=str(self.path), written=tuple(map(_digest, self._contents.values())))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def taken_back(runs: Iterable[AskedRun]) -> Iterator[str]:
    """Renames the launch files of runs, so that no loop over them submits one; says of each what it is called now.

    Args:
        runs: that will not come.
    """
    for run in runs:
        path = Path(run.handed)
        ours = path.name in (run.file_name, run.file_name + path.suffix)  # a state may be anyone's
        if ours and path.is_file():
            path = path.replace(path.with_name(f"{path.name}.failed"))
            yield f"The launch file of {run.run}, which failed, is now called {path}."


class Template:
    """A template of launch files.

    Args:
        path: of its file.

    Raises:
        ValueError: if there is none, or it is no template, or needs what is not known; the message says where.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise ValueError(f"There is no template {path}.")
        check_size(path, path.stat().st_size, MOST_BYTES)
        self.path = path
        try:
            self._text = path.read_text(encoding="utf-8")
            self.variables, _ = filled_in(self._text, [])
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not text in UTF-8: {error}.") from error
        except TemplateError as error:
            where = f"{path}, line {error.line}" if error.line else f"{path} cannot be filled in"
            raise ValueError(f"{where}: {error}") from error
        if unknown := sorted(self.variables - set(VARIABLES)):
            raise ValueError(f"{path} uses {', '.join(unknown)}, which no run has: known are {', '.join(VARIABLES)}.")
        if not self.variables.intersection(OF_ONE_RUN):
            raise ValueError(
                f"{path} uses none of {', '.join(OF_ONE_RUN)}, so that the files of all runs would be the same, and no "
                "job would know its mixture: write {{ blend }} for the path of a file with it, or {{ run }} for a name."
            )

    @property
    def goes_on(self) -> bool:
        """Whether it heeds from where a run goes on."""
        return bool(self.variables & {"from_step", "continues"})

    @property
    def branches(self) -> bool:
        """Whether it heeds at whose checkpoint a run begins, and at which."""
        return "from_step" in self.variables and bool(self.variables & {"parent", "parent_folder"})

    @property
    def suffix(self) -> str:
        """What launch files end with: what the template does, without its own ending."""
        name = self.path.name
        for ending in ENDINGS:
            name = name.removesuffix(ending)
        return Path(name).suffix

    def files(
        self,
        runs: Iterable[AskedRun],
        space: MixtureSpace,
        folder: Path,
        *,
        kind: str = "json",
        sources: Sources = NO_SOURCES,
    ) -> Iterator[LaunchFile]:
        """The files of runs; nothing is written.

        Args:
            runs: to be launched.
            space: that they are of.
            folder: to write to.
            kind: format of the blends, one of ``BLENDS``.
            sources: what the blends say of data.

        Raises:
            ValueError: if a run cannot be filled in.
        """
        place = folder.resolve()
        runs = list(runs)
        blends = [place / f"{run.file_name}.blend{BLENDS[kind].suffix}" for run in runs]
        told: list[dict[str, Any]] = [
            {
                "run": run.run,
                "mixture": dict(run.mixture),
                "blend": str(file),
                "scale": run.scale,
                "steps": run.steps,
                "from_step": run.from_step,
                "continues": run.run if run.start else None,
                "parent": run.parent or None,
                "parent_folder": str(place / run.parent) if run.parent else None,
                "seed": int(run.run.rpartition("-")[2]),
                "folder": str(place / run.run),
                "cost": run.cost(space),
                "round": run.round,
                "why": run.why,
            }
            for run, file in zip(runs, blends, strict=True)
        ]
        for run, file, text in zip(runs, blends, self._filled(told), strict=True):
            yield LaunchFile(
                run=run,
                path=place / f"{run.file_name}{self.suffix}",
                text=text,
                blend=file,
                blend_text=blend(kind, run.mixture, space, sources, steps=run.steps),
                folder=place / run.run,
            )

    def _filled(self, told: Sequence[Mapping[str, Any]]) -> list[str]:
        for of_run in told:
            _check_printable([*map(str, of_run.values()), *of_run["mixture"], *by_name(of_run["mixture"])])
        try:
            return filled_in(self._text, told)[1]
        except TemplateError as error:
            raise ValueError(f"{self.path} cannot be filled in for {told[error.run]['run']}: {error}") from error


def _check_printable(texts: Sequence[str]) -> None:
    """Checks that no name holds a line break or the like, which would be a line of its own in a launch file."""
    for text in texts:
        if not text.isprintable():
            raise ValueError(f"{text!r} holds characters that cannot be printed, and would go into a launch file.")

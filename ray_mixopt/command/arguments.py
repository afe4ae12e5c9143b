"""Placeholders in the arguments of a command, and what takes their place."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from string import Formatter

PLACEHOLDERS: Mapping[str, str] = {
    "mixture": "path of a file with the mixture",
    "scale": "name of the model scale",
    "steps": "training steps to reach, from the start of the run",
    "folder": "a folder of the run's own; a run that goes on has the same",
    "name": "name of the run",
    "seed": "seed of the search, the same for all runs but those that repeat one",
    "node": "number of the node that the command is started on, from 0",
    "nodes": "number of nodes",
    "address": "address of node 0",
    "port": "a free port of node 0",
}
RESUMING: Mapping[str, str] = {
    "resume": "path of the newest checkpoint",
    "resume_step": "step of the newest checkpoint, where its path has one",
}
"""Placeholders of the arguments that are added to the command of a run that goes on."""
STEP = "step"
"""Placeholder of the step in the path of a checkpoint."""


def check_placeholders(texts: Iterable[str], known: Iterable[str], where: str) -> None:
    """Checks that texts hold no placeholders but those that are known.

    Args:
        texts: for instance arguments.
        known: names.
        where: what the error calls them: "The command".

    Raises:
        ValueError: naming the first that is wrong, and all that there are.
    """
    known = list(known)
    for text in texts:
        try:
            parts = [part for part in Formatter().parse(text) if part[1] is not None]
        except ValueError:
            parts = [("", text, "", None)]
        for _, name, layout, conversion in parts:
            if name not in known or layout or conversion:
                names = ", ".join(f"{{{one}}}" for one in known)
                raise ValueError(
                    f"{where} has the placeholder {{{name}}} in {text!r}, which is not known: there are {names}. Write "
                    "braces that are meant as such twice, {{ and }}."
                )


def filled(texts: Sequence[str], values: Mapping[str, object]) -> list[str]:
    """Texts with values in the place of their placeholders, and single braces in the place of double ones."""
    return [text.format_map(values) for text in texts]


def checkpoints(pattern: str, values: Mapping[str, object]) -> dict[Path, int | None]:
    """The checkpoints that are there, the newest last, with their steps; None where the pattern has no step.

    Args:
        pattern: a path with placeholders, ``STEP`` among them or not.
        values: of the placeholders but the step.
    """
    # The pattern is split before it is filled: what takes a placeholder's place may look like anything.
    pieces: list[str | None] = [""]
    for literal, name, _, _ in Formatter().parse(pattern):
        pieces.append(literal)
        if name is not None:
            pieces.append(None if name == STEP else str(values[name]))
    if None not in pieces:
        path = Path("".join(filter(None, pieces)))
        return {path: None} if path.exists() else {}
    text = "".join("\0" if piece is None else piece for piece in pieces)
    folder, _, rest = text.partition("\0")
    folder, _, start = folder.rpartition("/")
    found: dict[Path, int | None] = {}
    for path, steps in _children(Path(folder or "/"), f"{start}\0{rest}".split("/")):
        if len(set(steps)) == 1:
            found[path] = steps[0]
    return dict(sorted(found.items(), key=lambda item: item[1] or 0))


def _children(folder: Path, names: Sequence[str]) -> list[tuple[Path, list[int]]]:
    """The paths in a folder that names lead to, with the numbers that stand for each step."""
    if not names:
        return [(folder, [])]
    first, *rest = names
    there: list[tuple[Path, list[int]]] = []
    if "\0" in first:
        layout = re.compile("(\\d{1,15})".join(map(re.escape, first.split("\0"))))
        for path in sorted(folder.iterdir()) if folder.is_dir() else []:
            if (match := layout.fullmatch(path.name)) is not None:
                there.append((path, [int(step) for step in match.groups()]))
    elif (folder / first).exists():
        there.append((folder / first, []))
    return [(end, [*steps, *more]) for path, steps in there for end, more in _children(path, rest)]

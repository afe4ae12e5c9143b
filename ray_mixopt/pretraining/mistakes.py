"""What is wrong with settings, in words for those who wrote them: where it is, what stands there, what is meant."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from ray_mixopt.core.words import listed, near

_MOST_NAMED = 10  # mistakes
_SHOWN = 80  # characters of a value
_SAYS_ALL = ("value_error", "assertion_error")  # of our own, which name the values that do not go together
_SECTION_WANTED = ("model_type", "dict_type", "model_attributes_type", "mapping_type")


def explain(error: ValidationError, kind: type[BaseModel] | None = None, where: object = "") -> str:
    """What is wrong with settings, one mistake a line, each with its place and its value.

    Args:
        error: as pydantic has it.
        kind: of settings that people write, for the names that they may have meant. None for what programs write: of
            that the first mistake says enough.
        where: what each line begins with: the file, or what else holds the settings.
    """
    found = error.errors()
    lines = [_line(one, kind) for one in found[: _MOST_NAMED if kind else 1]]
    if kind and (more := len(found) - len(lines)):
        lines.append(f"and {more} more.")
    return "\n".join(f"{where}: {line}" if where else line for line in lines)


def _line(one: Any, kind: type[BaseModel] | None) -> str:
    place, message = _path(one["loc"]), one["msg"].rstrip(".")
    if one["type"] in _SAYS_ALL:
        return f"{place and f'{place}: '}{message.partition(', ')[2]}."
    if one["type"] == "missing":
        return f"{place} is missing."
    if one["type"] == "extra_forbidden":
        return f"{place} is unknown: {_meant(one['loc'], kind)}"
    if one["type"] in _SECTION_WANTED:
        message = "it should be settings by name"
    message = message.replace("Input should", "it should")
    return f"{place and f'{place}: '}{_shown(one['input'])} cannot be used: {message[0].lower()}{message[1:]}."


def _path(loc: Sequence[str | int]) -> str:
    """Where something stands, such as ``scales[1].learning_rate``."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc if part != "[key]")
    return "".join(parts).removeprefix(".")


def _shown(value: object) -> str:
    """A value as YAML has it."""
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def _meant(loc: Sequence[str | int], kind: type[BaseModel] | None) -> str:
    """What may have been meant by an unknown name: the same elsewhere, or a like one beside it; else all beside it."""
    *above, name = loc
    beside = None if kind is None else _within(kind, above)
    if kind is None or beside is None:
        return "remove it."
    if (places := _places(kind)).get(str(name)):
        return f"did you mean {listed(places[str(name)], 'or')}?"
    if (found := near(str(name), beside.model_fields)) is not None:
        return f"did you mean {_path([*above, found])}?"
    return f"known there are {', '.join(beside.model_fields)}."


def _within(kind: type[BaseModel], loc: Sequence[str | int]) -> type[BaseModel] | None:
    """The settings that stand at a place; None where there are none."""
    for part in loc:
        if isinstance(part, int):  # of a list, whose settings the field leads to
            continue
        if part not in kind.model_fields or (inner := _settings(kind.model_fields[part].annotation)) is None:
            return None
        kind = inner
    return kind


def _settings(annotation: Any) -> type[BaseModel] | None:
    """The kind of settings in an annotation, be they optional or several."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _settings(part)) is not None), None)


def _places(kind: type[BaseModel], above: str = "") -> dict[str, list[str]]:
    """The paths at which each name of a setting stands."""
    found: dict[str, list[str]] = {}
    for name, field in kind.model_fields.items():
        inner = _settings(field.annotation)
        found.setdefault(name, []).append(f"{above}{name}")
        each = "[]" if get_origin(field.annotation) is list else ""
        for deeper, paths in ({} if inner is None else _places(inner, f"{above}{name}{each}.")).items():
            found.setdefault(deeper, []).extend(paths)
    return found

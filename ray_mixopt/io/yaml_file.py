"""YAML that people write, read with distrust: plain values only, of a size that a person could have typed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from ray_mixopt.core.safety import MiB, check_size

MOST_BYTES = MiB
_ODD_NUMBER = re.compile(r"[+-]?0[0-7_]+|.*:.*")  # octal, or of minutes and seconds
MOST_VALUES = 100_000  # with all that stands for others written out


class _Loader(yaml.SafeLoader):
    """YAML of plain values, in which no setting is given twice: one of them would not be used."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        known: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in known:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is given twice", key.start_mark)
            known.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        text = node.value
        if _ODD_NUMBER.fullmatch(text):
            raise yaml.constructor.ConstructorError(
                None, None, f"YAML takes {text} for {super().construct_yaml_int(node)}: write that", node.start_mark
            )
        return super().construct_yaml_int(node)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        if len(node.value) > MOST_VALUES:
            raise yaml.constructor.ConstructorError(None, None, "more is merged than is read", node.start_mark)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def read_yaml(path: Path, what: str) -> dict[str, Any]:
    """The settings in a YAML file, by name.

    Args:
        path: of the file.
        what: what it should hold, for errors: "configuration".

    Raises:
        ValueError: if there is no such file, or it is too large, no YAML, or no settings; the message says where.
    """
    if not path.is_file():
        raise ValueError(f"There is no {what} {path}.")
    check_size(path, path.stat().st_size, MOST_BYTES)
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), _Loader)
        _extent(data, {})
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date that no calendar has is a ValueError
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path} holds {type(data).__name__}, not the settings of a {what}.")
    return data


def _extent(value: object, known: dict[int, int]) -> int:
    """How many values there are in one, with those behind an alias counted each time.

    Raises:
        ValueError: if they are too many, or one is inside itself: nobody could write it out.
    """
    if not isinstance(value, dict | list | tuple | set):
        return 1
    if id(value) not in known:
        known[id(value)] = MOST_VALUES + 1  # until it is counted; who comes back to it is inside it
        parts = [*value, *value.values()] if isinstance(value, dict) else list(value)
        known[id(value)] = 1 + sum(_extent(part, known) for part in parts)
    if known[id(value)] > MOST_VALUES:
        raise ValueError(f"with its aliases written out, it has more than the {MOST_VALUES:,} values that are read")
    return known[id(value)]

"""A search space as people write it, in YAML.

::

    domains: [web, code, math]
    scales:
      - {name: 60M, cost_per_step: 0.03, parameters: 6e7}
      - {name: 1B, cost_per_step: 1, parameters: 1e9}
    steps: [1000, 4000, 16000]

A scale may have ``steps`` of its own, and ``tokens_per_step``. Further fields are those of ``MixtureSpace``:
``target``, ``lower``, ``upper``, ``token_supply``, ``target_tokens``, ``max_epochs``, ``groups``, ``earlier_scales``,
``phases`` and ``repetition``. The JSON that ``MixtureSpace.to_json`` writes is read, too. A section ``command`` says
how it is trained; see ``command.settings.Command``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from ray_mixopt.core.phases import Phase
from ray_mixopt.core.safety import check_fields, check_known, check_readable
from ray_mixopt.core.scale import Scale
from ray_mixopt.core.simplex import Group
from ray_mixopt.core.space import FORMAT_VERSION, MixtureSpace
from ray_mixopt.io.yaml_file import read_yaml

_PARTS = {"scales": Scale, "earlier_scales": Scale, "groups": Group, "phases": Phase}
_EXAMPLES = {
    Scale: "{name: 60M, cost_per_step: 0.03}",
    Group: "{domains: [code, math], most: 0.3}",
    Phase: "{name: anneal, fraction: 0.2}",
}
_COMMAND = "command"  # how to train it, which is for ray-mixopt search
_WORDS = {True: "yes, on or true", False: "no, off or false"}


def read_space(path: str | Path) -> MixtureSpace:
    """The search space in a YAML file.

    Raises:
        ValueError: if there is no such file, it is no YAML, or describes no space; the message names the file and says
            what to change.
    """
    place = Path(path)
    data = read_yaml(place, "space")
    try:
        return _space(data)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error


def _space(data: Mapping[Any, Any]) -> MixtureSpace:
    known = [field.name for field in fields(MixtureSpace)]
    check_known(data, [*known, "version", _COMMAND], "space")
    data = {name: value for name, value in data.items() if name != _COMMAND}
    scales = data.get("scales")
    own = isinstance(scales, list) and all(isinstance(scale, Mapping) and scale.get("steps") for scale in scales)
    needed = ("domains", "scales") if own else ("domains", "scales", "steps")
    if missing := [name for name in needed if data.get(name) is None]:
        raise ValueError(
            f"A space needs {' and '.join(missing)}, as in domains: [web, code], scales: [{_EXAMPLES[Scale]}], "
            "steps: [1000, 4000], each on a line of its own."
        )
    for name in ("domains", *_PARTS):
        if not isinstance(data.get(name), list | None):
            raise ValueError(f"{name} must be a list, got {data[name]!r}.")
    found = {
        name: [_part(kind, entry, f"{name}, entry {i}") for i, entry in enumerate(data.get(name) or (), 1)]
        for name, kind in _PARTS.items()
    }
    rest = meant({name: value for name, value in data.items() if name not in _PARTS}, get_type_hints(MixtureSpace))
    if isinstance(target := rest.get("target"), Mapping):
        check_known(target, ("scale", "steps"), "target")
        rest["target"] = [_as(target.get("scale"), str | None, "target, scale"), _number(target.get("steps"), int)]
    steps = rest.get("steps") or []
    rest["steps"] = steps if isinstance(steps, list) else [steps]
    space = MixtureSpace.from_dict(
        {"version": FORMAT_VERSION, **{key: value for key, value in (found | rest).items() if value is not None}}
    )
    for domain in space.domains:
        check_readable(domain, "domain")
    for scale in (*space.scales, *space.earlier_scales):
        check_readable(scale.name, "scale")
    return space


def _part(kind: type, entry: object, where: str) -> dict[str, Any]:
    """A scale, a group or a phase, as plain values of the right types.

    Raises:
        ValueError: naming the first that is wrong.
    """
    if not isinstance(entry, Mapping):
        raise ValueError(f"{where} must be a mapping such as {_EXAMPLES[kind]}, got {entry!r}.")
    found = meant(entry, get_type_hints(kind))
    check_fields(kind, found, where)
    return found


def meant(data: Mapping[Any, Any], hints: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a dataclass, with what YAML takes for something else than its writer: 6e7 for text, no for false.

    Raises:
        ValueError: for a name that YAML took for something else; the message says to quote it.
    """
    return {key: _as(value, hints[key], str(key)) if key in hints else value for key, value in data.items()}


def _as(value: Any, hint: Any, where: str) -> Any:
    """A value where a type is wanted; what does not fit stays as it is, for those that say what is wrong."""
    origin, inside = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        wanted = [part for part in inside if part is not NoneType]
        return value if value is None or len(wanted) != 1 else _as(value, wanted[0], where)
    if origin is tuple and isinstance(value, list):
        parts = [inside[0]] * len(value) if inside[-1] is Ellipsis else inside
        return [_as(one, part, where) for one, part in zip(value, parts, strict=False)] + value[len(parts) :]
    if origin in (list, Sequence) and isinstance(value, list):
        return [_as(one, inside[0], where) for one in value]
    if origin in (dict, Mapping) and isinstance(value, dict):
        return {_as(key, inside[0], where): _as(one, inside[1], f"{where}, {key}") for key, one in value.items()}
    if hint in (int, float):
        return _number(value, hint)
    if hint is str and isinstance(value, dict):
        raise ValueError(f"{where} must be text, and YAML takes what is in braces for settings: put it in quotes.")
    if hint is str and not isinstance(value, str) and not isinstance(value, list):
        said = _WORDS[value] if isinstance(value, bool) else f"{value}"
        raise ValueError(f"{where} must be text, and YAML takes {said} for something else: put it in quotes.")
    return value


def _number(value: Any, kind: type) -> Any:
    """The number in a text such as 6e7, which YAML 1.1 does not take for one; anything else as it is."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return value
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    return value

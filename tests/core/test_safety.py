"""Files are written whole or not at all, and a state of another version is refused in one sentence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from ray_mixopt.core.safety import (
    Unpacked,
    check_fields,
    check_file_name,
    check_file_names,
    check_unpacked,
    check_version,
    named_numbers,
    number,
    parse_json,
    whole,
    write_atomically,
)


@pytest.mark.parametrize("durable", [False, True])
def test_a_file_is_replaced_as_a_whole(tmp_path: Path, full_disk: Callable[[], Any], durable: bool) -> None:
    file = tmp_path / "state.json"
    write_atomically(file, "é", durable=durable)
    write_atomically(str(file), b"new", durable=durable)
    assert file.read_bytes() == b"new" and list(tmp_path.iterdir()) == [file]

    with full_disk(), pytest.raises(OSError, match="File too large"):
        write_atomically(file, "newer", durable=durable)
    assert file.read_bytes() == b"new" and list(tmp_path.iterdir()) == [file]


def test_versions() -> None:
    assert check_version({"version": 2}, "a history", 1, 2) == 2
    with pytest.raises(ValueError, match="^Cannot read a history of version 3: this release reads 1 and 2.$"):
        check_version({"version": 3}, "a history", 1, 2)
    with pytest.raises(ValueError, match="of version None: this release reads 1; fit it again.$"):
        check_version({}, "a history", 1, remedy="fit it again")
    with pytest.raises(ValueError, match="^Cannot read a history: it is of type list, not a JSON object.$"):
        check_version([1], "a history", 1)


@pytest.mark.parametrize("version", [True, "1", [1], None, 1.5, 1.0])
def test_what_is_no_version(version: object) -> None:
    with pytest.raises(ValueError, match="of version"):
        check_version({"version": version}, "a history", 1)


@pytest.mark.parametrize("name", ["60M", "web-crawl", "a b", "é" * 100, "v1.5", "C++", "-x"])
def test_names_of_files(name: str) -> None:
    assert check_file_name(name, "A scale") == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "a/b", "a\\b", ".hidden", " a", "a\n", "a\0b", "a\x1b[2J", "é" * 101, "\ud800"],
)
def test_what_is_no_name_of_a_file_is_refused_before_the_system_sees_it(name: str) -> None:
    with pytest.raises(
        ValueError, match="^A scale also gives files their names, and .* cannot: rename it, to at most 200"
    ):
        check_file_name(name, "A scale")


@pytest.mark.parametrize(("one", "other"), [("Web", "web"), ("é", "e\u0301"), ("straße", "STRASSE")])
def test_names_that_are_one_file_somewhere(one: str, other: str) -> None:
    check_file_names([one, one, "else"], "A domain")
    with pytest.raises(ValueError, match=f"^A domain .* '{one}' and '{other}' are one where capitals do not count"):
        check_file_names([one, other], "A domain")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"a": 1, "b": 2, "a": 1}', "the key 'a' is there more than once"),
        ('{"a": [{"b": {}, "b": 3}]}', "the key 'b' is there more than once"),
        ('{"name": "\\ud83d"}', "surrogates not allowed"),
    ],
)
def test_json_that_does_not_say_one_thing(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        parse_json(text)
    assert parse_json('{"name": "\\ud83d\\ude00", "other": {"name": 1}}') == {
        "name": "\U0001f600",
        "other": {"name": 1},
    }


@pytest.mark.parametrize("value", [True, "1", None, [1.0], float("nan"), float("inf"), 10**400, 1j])
def test_what_is_no_number(value: object) -> None:
    with pytest.raises(ValueError, match="the loss must be a (finite )?number, got"):
        number(value, "the loss")
    with pytest.raises(ValueError, match="losses, 'a', must be a (finite )?number, got"):
        named_numbers({"a": value}, "losses")


@pytest.mark.parametrize("value", [1, 1.0, np.float32(1), np.int64(1)])
def test_what_is_a_number(value: object) -> None:
    assert number(value, "the loss") == 1.0 and type(number(value, "the loss")) is float


@pytest.mark.parametrize("value", [True, 1.0, "1", -1, 2**53 + 1, None])
def test_what_is_no_whole_number(value: object) -> None:
    with pytest.raises(ValueError, match="steps must be a whole number >= 0, got"):
        whole(value, "steps")


@dataclass
class Inner:
    share: float


@dataclass
class Outer:
    """Of every kind of field."""

    name: str
    n: int
    kind: Literal["a", "b"] = "a"
    flag: bool = False
    pair: tuple[str, int] | None = None
    inner: tuple[Inner, ...] = ()
    by_name: Mapping[str, float] = field(default_factory=dict)
    anything: Any = None


GOOD = {"name": "x", "n": 1, "pair": ["a", 1], "inner": [{"share": 1}], "by_name": {"a": 0.5}, "anything": [None]}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"name": 1}, "Malformed thing: name cannot be 1"),
        ({"n": True}, "n cannot be True"),
        ({"n": 1.0}, "n cannot be 1.0"),
        ({"kind": "c"}, "kind cannot be 'c'"),
        ({"flag": 1}, "flag cannot be 1"),
        ({"pair": ["a"]}, "pair cannot be"),
        ({"pair": ["a", "b"]}, "pair cannot be"),
        ({"inner": [{"share": "1"}]}, "inner cannot be"),
        ({"inner": {"share": 1}}, "inner cannot be"),
        ({"inner": [{"share": float("nan")}]}, "inner cannot be"),
        ({"by_name": [1]}, "by_name cannot be"),
        ({"by_name": {"a": True}}, "by_name cannot be"),
        ({"other": 1}, "it has the unknown fields other; known are name, n, kind"),
    ],
)
def test_fields_have_their_types(change: dict[str, Any], sentence: str) -> None:
    check_fields(Outer, GOOD, "thing")
    with pytest.raises(ValueError, match=sentence):
        check_fields(Outer, GOOD | change, "thing")
    with pytest.raises(ValueError, match="n is missing"):
        check_fields(Outer, {"name": "x"}, "thing")
    with pytest.raises(ValueError, match="Malformed thing: it is None, not a JSON object"):
        check_fields(Outer, None, "thing")


def test_what_unpacks_to_too_much_is_read_no_further() -> None:
    packed, endless = BytesIO(bytes(1000)), BytesIO(bytes(100 * 2**20))
    packed.read()
    stream = Unpacked("x.gz", endless, packed)
    n_read = 0
    with pytest.raises(ValueError, match="x.gz unpacks to .* times its size, which no text does"):
        while part := stream.read(2**20):
            n_read += len(part)
    assert 64 * 2**20 <= n_read < 66 * 2**20
    check_unpacked("x", 10**12, 10**10)

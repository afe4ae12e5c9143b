"""Files are written whole or not at all, and a state of another version is refused in one sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ray_mixopt.core.safety import check_file_name, check_file_names, check_version, write_atomically


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


@pytest.mark.parametrize("version", [True, "1", [1], None, 1.5])
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

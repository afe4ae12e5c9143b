"""Every line of docs/failures.md names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINES = [
    line
    for line in (ROOT / "docs" / "failures.md").read_text().splitlines()
    if line.startswith("| ") and not line.startswith("| event")
]


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.split("|")[1].strip()[:40])
def test_every_line_has_a_test(line: str) -> None:
    named = re.findall(r"`(tests/\w+/\w+\.py)::(\w+)`", line.split("|")[-2])
    assert named, "no test is named"
    for file, test in named:
        assert f"def {test}(" in (ROOT / file).read_text(), f"{file} has no {test}"


def test_the_table_was_found() -> None:
    assert len(LINES) >= 15

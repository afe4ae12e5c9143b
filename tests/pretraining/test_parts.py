"""Large files in parts hold what they hold as a whole, and near-duplicates go to one side."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_mixopt.pretraining.data import documents
from ray_mixopt.pretraining.data.holdout import is_held_out
from ray_mixopt.pretraining.data.parts import Part, cut

TEXTS = [f"Document {n}, {'naïve ' * (n % 3)}with some text, {'and more, ' * (n % 40)}." for n in range(3000)]
TABLE = pa.table({"text": TEXTS, "id": range(len(TEXTS))})


def jsonl(path: Path) -> Path:
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in TEXTS]
    path.write_bytes(("\ufeff" + "\r\n".join(lines) + "\n\n").encode())
    return path


def parquet(path: Path) -> Path:
    pq.write_table(TABLE, path, row_group_size=100)
    return path


def arrow(stream: bool) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        with (pa.ipc.new_stream if stream else pa.ipc.new_file)(str(path), TABLE.schema) as writer:
            writer.write_table(TABLE, max_chunksize=100)
        return path

    return write


@pytest.mark.parametrize(
    ("name", "write"),
    [("a.jsonl", jsonl), ("a.parquet", parquet), ("a.arrow", arrow(stream=True)), ("b.arrow", arrow(stream=False))],
)
def test_parts_hold_what_the_file_holds(tmp_path: Path, name: str, write: Callable[[Path], Path]) -> None:
    path = write(tmp_path / name)
    size = path.stat().st_size
    parts = cut(path, size // 10)
    assert 5 <= len(parts) <= 11 and sum(part.size for part in parts) == size
    found = [list(documents.read(part)) for part in parts]
    assert all(found) and [text for texts in found for text in texts] == TEXTS
    assert cut(path, size) == [Part.whole(path)]


@given(lines=st.lists(st.integers(0, 30), min_size=1, max_size=30), most=st.integers(1, 60), ends=st.booleans())
def test_lines_are_cut_between_them(
    tmp_path_factory: pytest.TempPathFactory, lines: list[int], most: int, ends: bool
) -> None:
    path = tmp_path_factory.mktemp("lines") / "a.jsonl"
    texts = [f"{number}{'x' * length}" for number, length in enumerate(lines)]
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts) + "\n" * ends)
    assert [text for part in cut(path, most) for text in documents.read(part)] == texts


def test_what_cannot_be_cut_is_one_part(tmp_path: Path) -> None:
    jsonl(tmp_path / "a.jsonl")
    content = (tmp_path / "a.jsonl").read_bytes()
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(content))
    (tmp_path / "b.jsonl").write_bytes(content.decode().encode("utf-16"))
    (tmp_path / "a.txt").write_bytes(content)
    (tmp_path / "a.csv").write_bytes(content)
    parquet(tmp_path / "a.parquet")
    (tmp_path / "a.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-9])
    for name in ("a.jsonl.gz", "b.jsonl", "a.txt", "a.csv", "a.parquet"):
        assert cut(tmp_path / name, 1000) == [Part.whole(tmp_path / name)], name


def test_a_bad_line_of_a_part_has_its_number_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS[:100]) + "{\n")
    last = cut(path, 1000)[-1]
    assert last.start > 0
    with pytest.raises(ValueError, match="a.jsonl, line 101, is not JSON"):
        list(documents.read(last))
    counts = Counter[str]()
    assert list(documents.read(last, oddities=counts, on_error="skip")) and counts == {"broken": 1}


# -- which documents are for validation


def pseudo_text(draw: np.random.Generator, n_words: int) -> list[str]:
    """Words of five letters or so."""
    return ["".join(map(chr, draw.integers(97, 123, draw.integers(2, 9)))) for _ in range(n_words)]


def passages(words: list[str]) -> set[str]:
    text = " ".join(words)
    return {text[place : place + 32] for place in range(len(text) - 31)}


def test_near_duplicates_are_on_one_side_as_often_as_is_said() -> None:
    draw = np.random.default_rng(0)
    share, pairs = 0.3, 1500
    straddle, likeness, held_out = 0, [], 0
    for _ in range(pairs):
        words = pseudo_text(draw, 120)
        changed = list(words)
        for place in draw.choice(120, 2, replace=False):
            changed[place] = "changed"
        one, other = passages(words), passages(changed)
        likeness.append(len(one & other) / len(one | other))
        sides = [is_held_out(" ".join(text), share, seed=1) for text in (words, changed)]
        straddle += sides[0] != sides[1]
        held_out += sides[0]
    said = 2 * share * (1 - share) * (1 - np.mean(likeness))  # 8.4% where the hash of the text would give 42%
    assert 0.7 < np.mean(likeness) < 0.9
    assert abs(straddle / pairs - said) < 4 * np.sqrt(said / pairs)
    assert abs(held_out / pairs - share) < 4 * np.sqrt(share * (1 - share) / pairs)


def test_case_and_white_space_do_not_tell_documents_apart() -> None:
    draw = np.random.default_rng(0)
    for seed in range(3):
        texts = [" ".join(pseudo_text(draw, n)) for n in (1, 3, 60) for _ in range(100)]
        sides = [is_held_out(text, 0.5, seed) for text in texts]
        assert sides == [is_held_out(f"\n{text.title().replace(' ', '  ')} ", 0.5, seed) for text in texts]
        assert 0.3 < np.mean(sides) < 0.7
        assert sides != [is_held_out(text, 0.5, seed + 1) for text in texts]

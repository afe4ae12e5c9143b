"""Files of documents are what they are, or refused by name; what is odd about a document is put right and counted."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from ray_mixopt.pretraining.data import documents

TEXTS = [f"Document {n}, {'naïve ' * (n % 3)}with some text." for n in range(60)]
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": zstandard.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


def lines(texts: list[str | None], ascii: bool = True) -> bytes:
    return "".join(json.dumps({"text": text}, ensure_ascii=ascii) + "\n" for text in texts).encode()


def table(texts: list[str], delimiter: str = ",") -> bytes:
    file = io.StringIO()
    csv.writer(file, delimiter=delimiter).writerows([("id", "text"), *enumerate(texts)])
    return file.getvalue().encode()


def noise(n: int) -> str:
    """Text that does not compress well."""
    return " ".join(map(str, np.random.default_rng(0).integers(0, 2**60, n)))


def read(path: Path, content: bytes) -> list[str]:
    path.write_bytes(content)
    return list(documents.read(path))


# -- what a file is


@pytest.mark.parametrize("suffix", PACKERS)
@pytest.mark.parametrize("capitals", [False, True], ids=["small", "CAPITALS"])
def test_lines_and_cells_are_read_however_they_are_packed_and_called(
    tmp_path: Path, suffix: str, capitals: bool
) -> None:
    for kind, content in ((".jsonl", lines(TEXTS)), (".csv", table(TEXTS)), (".tsv", table(TEXTS, "\t"))):
        name = f"part{kind}{suffix}"
        path = tmp_path / (name.upper() if capitals else name)
        assert read(path, PACKERS[suffix](content)) == TEXTS
        assert documents.find([str(tmp_path)])[0] == [path]
        path.unlink()


def test_the_first_bytes_say_more_than_the_name(tmp_path: Path) -> None:
    assert read(tmp_path / "part-00000", lines(TEXTS)) == TEXTS  # as Spark calls them
    assert read(tmp_path / "packed.jsonl", gzip.compress(lines(TEXTS))) == TEXTS
    pq.write_table(pa.table({"text": TEXTS}), tmp_path / "table.pq")
    assert list(documents.read(tmp_path / "table.pq")) == TEXTS
    assert read(tmp_path / "page.html", b'{"no": "row"}\n<p>') == ['{"no": "row"}\n<p>']
    assert read(tmp_path / "notes.ipynb", b'{\n "cells": []\n}') == ['{\n "cells": []\n}']


@pytest.mark.parametrize("name", ["part-00000", "a.jl", "a.jsonl.part", "a.jsonl.1", "part-00000.gz"])
@pytest.mark.parametrize(
    "before",
    [b"\n \n", b"\xef\xbb\xbf", lines([None]), lines([noise(5000)]), b"\n" + lines([noise(5000)])],
    ids=["blank lines", "a mark", "null", "more than is looked at", "both"],
)
def test_json_lines_are_known_by_their_beginning_alone(tmp_path: Path, name: str, before: bytes) -> None:
    content = before + lines(TEXTS)
    assert read(tmp_path / name, gzip.compress(content) if name.endswith(".gz") else content)[-60:] == TEXTS
    content = content.replace(b'"text"', b'"content"')
    with pytest.raises(ValueError, match=r"has no text under 'text': it has \['content'\]; see --field"):
        read(tmp_path / name, gzip.compress(content) if name.endswith(".gz") else content)


@pytest.mark.parametrize(
    "content, message",
    [
        (b'{"content": "alone"}', "line 1, has no text under 'text'"),
        (b'\n[{"text": "a"}]', "holds a JSON array: write one object a line"),
        (b'[\n  {\n "text": "a"}\n]', "holds a JSON array: write one object a line"),
        (b'{"text": "cut\n{"text": "b"}\n', "line 1, is not JSON"),
    ],
)
def test_json_that_is_no_json_lines_is_not_text(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "part-00000", content)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_encodings_with_a_mark_are_known(tmp_path: Path, encoding: str) -> None:
    assert read(tmp_path / "a.txt", TEXTS[1].encode(encoding)) == [TEXTS[1]]
    assert read(tmp_path / "a.jsonl", lines(TEXTS, ascii=False).decode().encode(encoding)) == TEXTS


@pytest.mark.parametrize(
    "kind",
    [
        *(pa.string(), pa.large_string(), pa.binary(), pa.large_binary(), pa.dictionary(pa.int32(), pa.string())),
        *(pa.string_view(), pa.null()),
    ],
    ids=str,
)
def test_columns_of_text_or_bytes_are_read(tmp_path: Path, kind: pa.DataType) -> None:
    texts = [None] * 3 if kind == pa.null() else TEXTS
    values = pa.array([text and text.encode() for text in texts] if "binary" in str(kind) else texts)
    column = values.dictionary_encode() if pa.types.is_dictionary(kind) else values.cast(kind)
    found = pa.table({"text": column, "id": range(len(texts))})
    if kind != pa.string_view():  # which pyarrow does not write everywhere
        pq.write_table(found, tmp_path / "a.parquet")
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as file, pa.ipc.new_stream(file, found.schema) as stream:
        stream.write_table(found)
    with pa.OSFile(str(tmp_path / "b.arrow"), "wb") as file, pa.ipc.new_file(file, found.schema) as whole:
        whole.write_table(found)
    for path in documents.find([str(tmp_path)])[0]:
        assert list(documents.read(path)) == [text for text in texts if text is not None], path


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([[text] for text in TEXTS], "list<"),
        ([{"content": text} for text in TEXTS], "struct<content"),
        (list(range(60)), "int64"),
        ([0.5] * 60, "double"),
        ([True] * 60, "bool"),
    ],
)
def test_columns_of_anything_else_are_refused(tmp_path: Path, values: list[object], kind: str) -> None:
    pq.write_table(pa.table({"text": values}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=rf"The column 'text' of .*a.parquet holds {kind}.*, no text; see --field"):
        list(documents.read(tmp_path / "a.parquet"))


PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(range(256))
JAPANESE = "日本語の文章です。 Some ASCII, too.\n"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d7a" * 16 + b"\nsize 12345\n"


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (PNG, "holds an image, no documents: leave it out"),
        (gzip.compress(b"text", mtime=0), "holds gzip, no documents: unpack it"),
        (zstandard.compress(b"text"), "holds zstd, no documents"),
        (
            "Text in two bytes each.".encode("utf-16-le"),
            "holds bytes that are not UTF-8, which (49|50)% of the first ones",
        ),
        (JAPANESE.encode("utf-16"), "holds bytes that are not UTF-8"),
        ("où ça, déjà vu".encode("latin-1"), "holds bytes that are not UTF-8"),
        (JAPANESE.encode("iso-2022-jp"), "is ISO 2022 .*, not UTF-8: write the column as text"),
    ],
)
@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.dictionary(pa.int32(), pa.binary())], ids=str)
def test_columns_of_bytes_that_are_no_text_are_refused(
    tmp_path: Path, kind: pa.DataType, cell: bytes, message: str
) -> None:
    column = pa.array([None, cell, cell[:-1]], pa.binary())
    column = column.dictionary_encode() if pa.types.is_dictionary(kind) else column.cast(kind)
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    found = pa.table({"text": column})
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as file, pa.ipc.new_stream(file, found.schema) as stream:
        stream.write_table(found)
    for name in ("a.parquet", "a.arrow"):
        with pytest.raises(ValueError, match=f"The column 'text' of .*{name} {message}"):
            list(documents.read(tmp_path / name))


@pytest.mark.parametrize(
    "text",
    [
        "a + b, 1+1=2, C++11, call +49-123-4567 or +foo-bar; x+abc- " * 50,
        "\x1b[1mbold\x1b[0m output of a terminal, esc ( and $ B\n" * 50,
        "Rar! cried the PDF, OggS, and %PDF is only a word here. BZh9 too.",
        "RIFF about the version https://git-lfs.github.com/spec/v1 of git-lfs",
        "A text about {\\rtf1 and \x89PNG",
    ],
)
def test_text_that_looks_a_little_like_something_else_is_text(tmp_path: Path, text: str) -> None:
    assert read(tmp_path / "a.txt", text.encode()) == [text]
    pq.write_table(pa.table({"text": [text.encode(), r"{\rtf1 code}", POINTER]}), tmp_path / "a.parquet")
    assert list(documents.read(tmp_path / "a.parquet"))[0] == text


TOKENS = np.random.default_rng(0).integers(0, 50_257, 5000)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.bin", TOKENS.astype("<u2").tobytes(), "tokens .*--in-place"),
        ("tokens", TOKENS.astype("<u2").tobytes(), "binary data.*--in-place"),
        ("tokens.txt", TOKENS.astype("<u4").tobytes(), "binary data.*--in-place"),
        ("a.npy", b"\x93NUMPY\1\0", "an array of NumPy, no documents: .*--in-place"),
        ("a.dat", b"MMIDIDX\0\0\1", "an index of Megatron"),
        ("a.jsonl.lz4", b"\x04\x22\x4d\x18rest", "holds lz4, no documents: unpack it"),
        ("a.jsonl.br", bytes(range(1, 256)) * 9, "not UTF-8"),
        ("a.zip", b"PK\x03\x04rest", "a zip archive"),
        ("a.pdf", b"%PDF-1.7\nrest", "a PDF, no documents: convert it to JSONL, Parquet or text"),
        ("a.warc.gz", gzip.compress(b"WARC/1.0\r\n", mtime=0), "a WARC archive"),
        ("a.txt", "déjà vu, où ça".encode("latin-1"), "not UTF-8, which 29% of its first bytes do not fit"),
        ("a.txt", "ohne Marke".encode("utf-16-le"), "UTF-16 without its mark"),
        ("a.json", b'[{"text": "a"}]', "a JSON array: write one object a line"),
        ("a.csv", b"id,body\n1,a\n", "no column 'text': it has id, body; see --field"),
        ("a.csv", b"id,text\n1,a,b\n", "line 2, has 3 cells, and the header 2"),
        ("a.csv", b"text,text\na,b\n", "has the column 'text' twice"),
        ("a.jsonl", b'{"text": 5}', "line 1, has int under 'text', no text; see --field"),
        ("a.jsonl", b'{"text": ["a"]}', "line 1, has list under 'text', no text; see --field"),
        ("a.pkl", b"(dp0\nVtext\np1\ns.", "a pickle by its name"),
        ("a.jsonl.gz", lines(TEXTS), "its name says gzip, its first bytes do not"),
        ("a.arrow.gz", gzip.compress(b"ARROW1\0\0", mtime=0), "a table within gzip: unpack it"),
        ("a.txt.gz", gzip.compress(gzip.compress(b"a", mtime=0), mtime=0), "holds gzip, no documents: unpack it"),
        ("a.txt", PNG, "an image, no documents: leave it out"),
        ("a.csv", b"\xff\xd8\xff\xe0\0\x10JFIF", "an image"),
        ("a.md", rb"{\rtf1\ansi Text\par}", "RTF, a format of word processors, no documents: convert it"),
        ("a.txt", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old document of Office"),
        ("a.txt", JAPANESE.encode("iso-2022-jp"), r"is ISO 2022 \(as ISO-2022-JP\), not UTF-8: convert it"),
        ("a.jsonl", lines([JAPANESE], ascii=False).decode().encode("iso-2022-jp"), "is ISO 2022"),
        ("a.txt", (JAPANESE * 3).encode("utf-7"), "is UTF-7, not UTF-8"),
        *(
            (name, POINTER, "says where they are, as Git LFS or git-annex has it: fetch .* `git lfs pull`")
            for name in ("a.txt", "a.jsonl", "a.parquet", "a.jsonl.zst", "train.arrow", "part-00000")
        ),
        ("a.parquet", b"/annex/objects/SHA256E-s9--ab.parquet\n", "`git annex get`"),
    ],
)
def test_what_holds_no_documents_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=rf"{name}.*({message})"):
        read(tmp_path / name, content)


# -- files that end early


@pytest.mark.parametrize("suffix", [suffix for suffix in PACKERS if suffix])
@pytest.mark.parametrize("share", [0.2, 0.9, 0.9999])
def test_packed_files_that_end_early_are_refused(tmp_path: Path, suffix: str, share: float) -> None:
    packed = PACKERS[suffix](noise(10_000).encode())
    path = tmp_path / f"a.txt{suffix}"
    assert len("".join(read(path, packed))) == len(noise(10_000))
    with pytest.raises(ValueError, match=f"a.txt{suffix} cannot be read: "):
        read(path, packed[: int(share * len(packed))])


@pytest.mark.parametrize("suffix", [suffix for suffix in PACKERS if suffix])
def test_what_stands_behind_the_end_is_a_stream_or_refused(tmp_path: Path, suffix: str) -> None:
    one = PACKERS[suffix](lines(TEXTS))
    padding = bytes(4096) if suffix in (".gz", ".xz") else b""
    assert read(tmp_path / f"a.jsonl{suffix}", one + padding + one + padding) == TEXTS * 2
    for junk in (b"junkjunk" * 1000, b"jnk"):
        with pytest.raises(ValueError, match=f"a.jsonl{suffix} cannot be read"):
            read(tmp_path / f"a.jsonl{suffix}", one + junk)


def test_many_frames_are_one_file_and_a_part_of_one_is_none(tmp_path: Path) -> None:
    skipped = b"\x50\x2a\x4d\x18\x04\0\0\0info"  # as parallel writers put in front
    frames = [zstandard.compress(lines([text])) for text in TEXTS]
    assert read(tmp_path / "a.jsonl.zst", skipped + b"".join(frames)) == TEXTS
    with pytest.raises(ValueError, match="ends within a frame"):
        read(tmp_path / "a.jsonl.zst", b"".join(frames[:9]) + frames[9][:7])


def test_tables_that_end_early_are_refused(tmp_path: Path) -> None:
    found = pa.table({"text": TEXTS})
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as file, pa.ipc.new_stream(file, found.schema) as stream:
        stream.write_table(found, max_chunksize=20)
    pq.write_table(found, tmp_path / "a.parquet")
    for name in ("a.arrow", "a.parquet"):
        whole = (tmp_path / name).read_bytes()
        for kept in (len(whole) - 8, len(whole) // 2, 9):
            with pytest.raises(ValueError, match=f"{name} cannot be read"):
                read(tmp_path / name, whole[:kept])
    with pytest.raises(ValueError, match="a.csv cannot be read: unexpected end of data"):
        read(tmp_path / "a.csv", b'text\n"one\n')
    with pytest.raises(ValueError, match="its utf-16.* ends early"):
        read(tmp_path / "a.txt", "ab".encode("utf-16")[:-1])


# -- what is odd about a document


@pytest.mark.parametrize(
    ("texts", "expected", "counted"),
    [
        (["a", None, " \n", "b"], ["a", "b"], {"empty": 2}),
        (["half \ud83d of one", "\ud83d\ude00 whole"], ["half \ufffd of one", "\U0001f600 whole"], {"replaced": 1}),
        (["\ufeffa", "b\ufeffc"], ["a", "bc"], {"marks": 1}),
        (["\ufeff"], [], {"empty": 1}),
    ],
)
def test_odd_documents_are_put_right_and_counted(
    tmp_path: Path, texts: list[str | None], expected: list[str], counted: dict[str, int]
) -> None:
    path, found = tmp_path / "a.jsonl", Counter[str]()
    path.write_bytes(lines(texts))
    assert list(documents.read(path, oddities=found)) == expected
    assert found == counted and set(found) <= set(documents.ODDITIES)


def test_stray_bytes_are_replaced_and_counted_in_every_format(tmp_path: Path) -> None:
    good, bad = "good " * 100, b"stray \xe9 byte " + b"good " * 100
    (tmp_path / "a.jsonl").write_bytes(lines([good]) + b'{"text": "' + bad + b'"}\n')
    (tmp_path / "a.csv").write_bytes(b"text\n" + good.encode() + b"\n" + bad + b"\n")
    (tmp_path / "a.txt").write_bytes(bad)
    pq.write_table(pa.table({"text": pa.array([good.encode(), bad])}), tmp_path / "b.parquet")
    unchecked = pa.array([good.encode(), bad]).view(pa.string())  # text by its type that is none
    pq.write_table(pa.table({"text": unchecked}), tmp_path / "c.parquet")
    for path in documents.find([str(tmp_path)])[0]:
        found = Counter[str]()
        *_, last = documents.read(path, oddities=found)
        assert last.startswith("stray \ufffd byte good ") and found == {"replaced": 1}, path


def test_marks_between_files_put_together_are_no_text(tmp_path: Path) -> None:
    mark = "\ufeff".encode()
    assert read(tmp_path / "a.jsonl", mark + lines(TEXTS[:2]) + mark + lines(TEXTS[2:])) == TEXTS


# -- folders


def test_parts_to_test_with_stay_out_of_a_folder(tmp_path: Path) -> None:
    taken = ["data/train-00000-of-00001.parquet", "data/contest.jsonl", "latest.txt", "test/notes.md"]
    left = [
        *("data/test-00000-of-00001.parquet", "data/c4-validation.00000-of-00008.json.gz", "val.jsonl.zst"),
        *("dev/0.jsonl", ".cache/train.jsonl", "_part.jsonl", "read.me", "LICENSE", "tokens.bin"),
    ]
    for name in (*taken, *left):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    found, remarks = documents.find([str(tmp_path)])
    assert [path.relative_to(tmp_path).as_posix() for path in found] == sorted(taken)
    held_out, others = remarks
    assert "to test or validate with: " in held_out and "dev (1)" in held_out and "val (1)" in held_out
    assert ".bin (1)" in others and "no suffix (1)" in others and others.endswith("name those to take.")
    assert documents.find([str(tmp_path / left[0])]) == ([tmp_path / left[0]], [])  # named, they are taken


def test_a_saved_datasets_folder_is_read_without_its_test_split(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="the format is that of the datasets library")
    splits = {"train": TEXTS, "test": ["secret"], "validation_unseen": ["secret"]}
    whole = datasets.DatasetDict({name: datasets.Dataset.from_dict({"text": texts}) for name, texts in splits.items()})
    whole.save_to_disk(str(tmp_path / "set"))
    found, remarks = documents.find([str(tmp_path / "set")])
    assert [text for path in found for text in documents.read(path)] == TEXTS
    assert len(remarks) == 1 and "test (1)" in remarks[0] and "validation (1)" in remarks[0]
    assert len(documents.find([str(tmp_path / "set" / "test")])[0]) == 1

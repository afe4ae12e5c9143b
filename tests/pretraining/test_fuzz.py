"""Readers of pre-training's files: whatever is in them, they say what is wrong or give what is right.

MIXOPT_FUZZ_EXAMPLES sets how many cases each test tries, 25 by default.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ray_mixopt.pretraining.config import PretrainConfig
from ray_mixopt.pretraining.data import documents
from ray_mixopt.pretraining.data.manifest import Manifest
from ray_mixopt.pretraining.data.shards import inspect
from ray_mixopt.pretraining.data.tokenizer import JsonTokenizer, train_bpe
from ray_mixopt.pretraining.training.train import read_run

fuzz = settings(
    max_examples=int(os.environ.get("MIXOPT_FUZZ_EXAMPLES", "25")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
TEXTS = [f"document {n} " * 20 for n in range(50)]
LINES = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode()
TOKENS = np.arange(2000, dtype="<u2")
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=5,
)


def parquet() -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table({"text": TEXTS, "id": range(50)}), file)
    return file.getvalue()


def arrow(stream: bool) -> bytes:
    found, file = pa.table({"text": TEXTS}), io.BytesIO()
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(file, found.schema) as writer:
        writer.write_table(found)
    return file.getvalue()


def npy() -> bytes:
    file = io.BytesIO()
    np.save(file, TOKENS)
    return file.getvalue()


DOCUMENTS = {
    "a.jsonl": LINES,
    "a.csv": b"id,text\n" + b"".join(b'%d,"a ""b"" c"\n' % n for n in range(50)),
    "a.jsonl.gz": gzip.compress(LINES),
    "a.jsonl.zst": zstandard.compress(LINES),
    "a.jsonl.bz2": bz2.compress(LINES),
    "a.jsonl.xz": lzma.compress(LINES),
    "a.parquet": parquet(),
    "stream.arrow": arrow(True),
    "file.arrow": arrow(False),
    "a.txt": " ".join(TEXTS).encode("utf-16"),
    "part-00000": LINES,
}
LLMC = np.array([20240520, 1, len(TOKENS), *[0] * 253], "<i4").tobytes() + TOKENS.tobytes()
SHARDS = {"a.npy": npy(), "a.bin": LLMC, "b.bin": TOKENS.tobytes()}


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Bytes with a few changed, cut out, or put in, or none of the whole left."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(content)))
        what = draw(st.sampled_from(["change", "cut", "end", "insert", "random"]))
        if what == "change":
            content[place : place + 1] = draw(st.binary(min_size=1, max_size=1))
        elif what == "cut":
            del content[place : place + draw(st.integers(1, 50))]
        elif what == "end":
            del content[place:]
        elif what == "insert":
            content[place:place] = draw(st.binary(max_size=20))
        else:
            content[:] = draw(st.binary(max_size=60))
    return bytes(content)


def refuses_or_reads(read: Any, each: str = "") -> Any:
    """What is read, None where it is refused with a sentence; with one for each mistake, which begin alike."""
    try:
        return read()
    except ValueError as error:
        assert type(error) is not UnicodeDecodeError
        sentences = str(error).split("\n")
        assert all(sentences) and (len(sentences) == 1 or (each and all(line.startswith(each) for line in sentences)))
        return None


@pytest.mark.parametrize("name", DOCUMENTS)
@fuzz
@given(st.data())
def test_documents(tmp_path: Path, name: str, data: st.DataObject) -> None:
    path = tmp_path / name
    path.write_bytes(data.draw(damaged(DOCUMENTS[name])))
    for text in refuses_or_reads(lambda: list(documents.read(path))) or ():
        assert text.strip() and text.encode() is not None and "\ufeff" not in text


@pytest.mark.parametrize("name", SHARDS)
@fuzz
@given(st.data())
def test_token_files(tmp_path: Path, name: str, data: st.DataObject) -> None:
    path = tmp_path / name
    path.write_bytes(data.draw(damaged(SHARDS[name])))
    found = refuses_or_reads(lambda: inspect(path, "uint16"))
    if found is not None:
        width = np.dtype(found.dtype).itemsize
        assert found.offset + found.tokens * width == path.stat().st_size


@fuzz
@given(st.data())
def test_tokenizers(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.getbasetemp()
    if not (folder / "whole.json").exists():
        train_bpe(TEXTS, 270, folder / "whole.json")
    (folder / "t.json").write_bytes(data.draw(damaged((folder / "whole.json").read_bytes())))
    tokenizer = refuses_or_reads(lambda: JsonTokenizer(folder / "t.json"))
    if tokenizer is not None:
        (tokens,) = tokenizer.encode(["document \ud800 <|endoftext|>"])
        assert tokens[-1] == tokenizer.eos_id < tokenizer.vocab_size


@fuzz
@given(st.data())
def test_manifests(small: Path, data: st.DataObject) -> None:
    content = json.loads((small / "manifest.json").read_text())
    places = ["version", "dtype", "fingerprint", "remarks", "tokenizer", "domains"]
    content[data.draw(st.sampled_from([*places, "other"]))] = data.draw(VALUES)
    kept = (small / "manifest.json").read_bytes()
    (small / "manifest.json").write_bytes(data.draw(damaged(kept) | st.just(json.dumps(content).encode())))
    found = refuses_or_reads(lambda: Manifest.read(small))
    (small / "manifest.json").write_bytes(kept)
    assert found is None or found.fingerprint == Manifest.read(small).fingerprint


@fuzz
@given(st.dictionaries(st.sampled_from([*PretrainConfig.model_fields, "other"]), VALUES, max_size=3), st.data())
def test_configurations(tmp_path: Path, changes: dict[str, Any], data: st.DataObject) -> None:
    whole = {"data": "x", "scales": [{"name": "nano"}], "steps": [1, 2], "batch_tokens": 1024}
    content = yaml.safe_dump(whole | changes).encode()
    (tmp_path / "search.yaml").write_bytes(data.draw(damaged(content)))
    refuses_or_reads(lambda: PretrainConfig.read(tmp_path / "search.yaml"), each=f"{tmp_path / 'search.yaml'}: ")
    run = {"data": "x", "mixture": {"a": 1}, "shape": {"d_model": 8, "heads": 2, "layers": 1}, "steps": 2}
    content = json.dumps(run | {"batch_tokens": 1024} | changes).encode()
    (tmp_path / "run.json").write_bytes(data.draw(damaged(content)))
    refuses_or_reads(lambda: read_run(tmp_path / "run.json"), each=f"{tmp_path / 'run.json'}: ")

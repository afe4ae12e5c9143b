"""From documents to shards, and what is refused on the way."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from click.testing import CliRunner

from ray_mixopt.cli.main import main
from ray_mixopt.pretraining.data import documents
from ray_mixopt.pretraining.data.adopt import Adoption
from ray_mixopt.pretraining.data.demo import DOMAINS, write_demo
from ray_mixopt.pretraining.data.manifest import Manifest
from ray_mixopt.pretraining.data.prepare import Preparation
from ray_mixopt.pretraining.data.shards import Corpus, checksum, tokens_of
from ray_mixopt.pretraining.data.tokenizer import ByteTokenizer, load

TEXTS = [f"Document {n}: the quick brown fox, {n * n} times.\n" * (1 + n % 3) for n in range(120)]


def intact(corpus: Corpus) -> bool:
    """Whether all shards have the checksums that the manifest says."""
    shards = [s for domain in corpus.manifest.domains.values() for s in (*domain.train.shards, *domain.val.shards)]
    dtype, vocab_size = corpus.manifest.dtype, corpus.manifest.tokenizer.vocab_size
    return all(checksum(tokens_of(corpus.folder, s, dtype), vocab_size, s.path) == s.sha256 for s in shards)


def lines(texts: list[str]) -> str:
    return "".join(json.dumps({"text": text, "id": 1}) + "\n" for text in texts)


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, list[str]]:
    """The same documents in every format, one a domain."""
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "plain.jsonl").write_text(lines(TEXTS))
    (folder / "gz.jsonl.gz").write_bytes(gzip.compress(lines(TEXTS).encode()))
    packed = [zstandard.compress(lines(part).encode()) for part in (TEXTS[:60], TEXTS[60:])]
    (folder / "zst.jsonl.zst").write_bytes(b"".join(packed))  # two frames, as parallel writers make them
    pq.write_table(pa.table({"text": TEXTS}), folder / "table.parquet")
    (folder / "text").mkdir()
    for number, text in enumerate(TEXTS):
        (folder / "text" / f"{number:03d}.txt").write_text(text)
    names = {"plain": "plain.jsonl", "gz": "gz.jsonl.gz", "zst": "zst*", "table": "table.parquet", "text": "text"}
    return {name: [str(folder / path)] for name, path in names.items()}


def test_all_formats_give_the_same_tokens(tmp_path: Path, sources: dict[str, list[str]]) -> None:
    manifest = Preparation(out=tmp_path / "out", sources=sources).run()
    corpus = Corpus(tmp_path / "out")
    assert intact(corpus)
    for split in ("train", "val"):
        streams = [corpus.stream(name, split) for name in sources]
        first = streams[0].read(0, streams[0].tokens)
        assert all(np.array_equal(stream.read(0, stream.tokens), first) for stream in streams[1:])
    assert manifest.domains["plain"].train.documents + manifest.domains["plain"].val.documents == len(TEXTS)
    assert manifest.dtype == "uint16" and manifest.tokenizer.vocab_size == 257
    documents_back = bytes(first.clip(max=255).astype(np.uint8)).split(b"\xff")[:-1]
    assert {text.decode() for text in documents_back} < set(TEXTS)


def test_a_saved_datasets_folder_is_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="the format is that of the datasets library")
    datasets.Dataset.from_dict({"text": TEXTS}).save_to_disk(str(tmp_path / "set"))
    found = [text for path in documents.find([str(tmp_path / "set")]) for text in documents.read(path)]
    assert found == TEXTS


def test_more_workers_and_a_restart_change_nothing(tmp_path: Path, sources: dict[str, list[str]]) -> None:
    once = Preparation(out=tmp_path / "one", sources=sources).run()
    assert Preparation(out=tmp_path / "two", sources=sources, workers=2).run() == once
    shard = tmp_path / "two" / once.domains["gz"].train.shards[0].path
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "two").rglob("*.bin")}
    shard.write_bytes(shard.read_bytes()[:-2])  # as if it had been cut off
    (tmp_path / "two" / "manifest.json").unlink()
    assert Preparation(out=tmp_path / "two", sources=sources).run() == once
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "two").rglob("*.bin")}
    assert {path for path in before if before[path] != after[path]} >= {shard}
    assert sum(before[path] != after[path] for path in before) == 2  # one unit: its train and val shard


def test_other_settings_are_another_corpus(tmp_path: Path, sources: dict[str, list[str]]) -> None:
    first = Preparation(out=tmp_path / "out", sources=sources).run()
    other = Preparation(out=tmp_path / "out", sources={"plain": sources["plain"]}, seed=1).run()
    assert other.fingerprint != first.fingerprint
    assert other.domains["plain"].val != first.domains["plain"].val
    assert intact(Corpus(tmp_path / "out"))
    assert {path.parent.name for path in (tmp_path / "out").glob("*/*.bin")} == {"plain"}  # the others' are gone


def test_shards_of_others_are_not_overwritten(tmp_path: Path, sources: dict[str, list[str]]) -> None:
    (tmp_path / "out" / "plain").mkdir(parents=True)
    (tmp_path / "out" / "plain" / "train-00000.bin").write_bytes(b"precious")
    with pytest.raises(ValueError, match="holds shards that were made elsewhere: choose another folder"):
        Preparation(out=tmp_path / "out", sources=sources).run()


def test_duplicates_stay_on_one_side(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(lines(TEXTS * 3))
    Preparation(out=tmp_path / "out", sources={"a": [str(tmp_path / "in.jsonl")]}, val_share=0.3).run()
    corpus, sides = Corpus(tmp_path / "out"), []
    for split in ("train", "val"):
        stream = corpus.stream("a", split)
        content = stream.read(0, stream.tokens)
        sides.append({bytes(part[1:].astype(np.uint8)) for part in np.split(content, np.flatnonzero(content == 256))})
    assert sides[0] & sides[1] <= {b""}


def test_a_trained_bpe_reads_its_own_shards(tmp_path: Path, sources: dict[str, list[str]]) -> None:
    preparation = Preparation(out=tmp_path / "out", sources={"plain": sources["plain"]}, train_bpe=300)
    manifest = preparation.run()
    assert manifest.tokenizer.kind == "json" and 257 <= manifest.tokenizer.vocab_size <= 300
    assert preparation.run() == manifest
    tokenizer = load(manifest.tokenizer, tmp_path / "out")
    (tokens,) = tokenizer.encode(["the quick brown fox"])
    assert len(tokens) < 12 and tokens[-1] == manifest.tokenizer.eos_id
    again = Preparation(
        out=tmp_path / "again", sources={"plain": sources["plain"]}, tokenizer=tmp_path / "out" / "tokenizer.json"
    ).run()
    assert again.fingerprint == manifest.fingerprint
    with (tmp_path / "out" / "tokenizer.json").open("a") as file:
        file.write("\n")
    with pytest.raises(ValueError, match="is not the tokenizer that made the data"):
        load(manifest.tokenizer, tmp_path / "out")


def test_bytes_survive_any_text() -> None:
    (tokens,) = ByteTokenizer().encode(["é\x00\ud800"])
    assert tokens.tolist() == [0xC3, 0xA9, 0, ord("?"), 256]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("bad.jsonl", b'{"text": "a"}\n{"text": \n', "bad.jsonl, line 2, is not JSON"),
        ("key.jsonl", b'{"body": "a"}\n', r"line 1, has no text under 'text': it has \['body'\]; see --field"),
        ("bad.jsonl.gz", b"no gzip", "bad.jsonl.gz cannot be read"),
        ("bad.jsonl.zst", b"no zstd", "bad.jsonl.zst cannot be read"),
        ("bad.parquet", b"no parquet", "bad.parquet cannot be read"),
        ("empty.jsonl", b"\n", "The domain 'a' has no train tokens"),
    ],
)
def test_bad_documents_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        Preparation(out=tmp_path / "out", sources={"a": [str(tmp_path / name)]}).run()
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_shards_of_others_are_used_in_place(tmp_path: Path) -> None:
    tokens = np.arange(3000, dtype=np.uint16) % 500
    for name in ("olmo", "npy", "llmc", "nano"):
        (tmp_path / name).mkdir()
    tokens.tofile(tmp_path / "olmo" / "part-0.npy")
    np.save(tmp_path / "npy" / "part-0.npy", tokens)
    header = np.zeros(256, dtype=np.int32)
    header[:3] = 20240520, 1, len(tokens)
    (tmp_path / "llmc" / "shard_000.bin").write_bytes(header.tobytes() + tokens.tobytes())
    tokens[:2000].tofile(tmp_path / "nano" / "train.bin")
    tokens[2000:].tofile(tmp_path / "nano" / "val.bin")
    sources = {name: [f"{name}/*"] for name in ("olmo", "npy", "llmc", "nano")}
    Adoption(folder=tmp_path, sources=sources, vocab_size=500, val_tokens=1000).run()
    corpus = Corpus(tmp_path)
    assert intact(corpus)
    for name in sources:
        assert np.array_equal(corpus.stream(name, "train").read(0, 2000), tokens[:2000])
        assert np.array_equal(corpus.stream(name, "val").read(0, 1000), tokens[2000:])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab_size": 9}, "holds the token id 9, beyond the vocabulary of 9 tokens"),
        ({"dtype": "uint32"}, "b.npy holds uint16 tokens, the others uint32: see --dtype"),
        ({"sources": {"a": ["../*.bin"]}}, "must be relative to .* and stay in it"),
        ({"sources": {"a": ["*.none"]}}, "No file in .* matches"),
        ({"val_tokens": 600}, "fewer than twice the 600 tokens to keep"),
    ],
)
def test_foreign_shards_are_checked(tmp_path: Path, options: dict[str, object], message: str) -> None:
    np.save(tmp_path / "b.npy", np.arange(1000, dtype=np.uint16) % 10)
    settings = {"sources": {"a": ["b.npy"]}, "vocab_size": 10, "val_tokens": 100} | options
    with pytest.raises(ValueError, match=message):
        Adoption(folder=tmp_path, **settings).run()  # type: ignore[arg-type]


def test_the_demo_has_distinct_domains(tmp_path: Path) -> None:
    found = write_demo(tmp_path, 0.3, lambda name: None)
    assert set(found) == set(DOMAINS) and len(found) >= 4
    manifest = Preparation(out=tmp_path, sources=found, val_share=0.3).run()
    assert all(domain.train.tokens > 50_000 for domain in manifest.domains.values())
    assert "do not redistribute" in (tmp_path / "NOTICE").read_text()


def test_the_command(tmp_path: Path, sources: dict[str, list[str]]) -> None:
    def call(*arguments: object) -> tuple[int, str]:
        result = CliRunner().invoke(main, ["prepare", *map(str, arguments)])
        return result.exit_code, " ".join(result.output.split())

    out = tmp_path / "out"
    code, output = call(out, "--domain", f"a={sources['plain'][0]}", "--workers", 1)
    assert code == 0, output
    manifest = Manifest.read(out)
    assert manifest.fingerprint[:12] in output
    result = CliRunner().invoke(main, ["prepare", str(out), "--domain", f"a={sources['plain'][0]}", "--json"])
    answer = json.loads(result.stdout)
    assert answer["fingerprint"] == manifest.fingerprint and answer["tokenizer"]["kind"] == "bytes"
    assert answer["domains"]["a"]["train"]["tokens"] == manifest.domains["a"].train.tokens
    for arguments, message in (
        ((out,), "Nothing to prepare"),
        ((out, "--domain", "a"), "--domain is NAME=SOURCE"),
        ((out, "--domain", "a=/nonesuch"), "/nonesuch has no documents"),
        ((out, "--domain", "../a=/nonesuch"), "'../a' cannot be its name"),
        ((out, "--domain", f"a={sources['plain'][0]}", "--val-share", 1), "must lie between 0 and 1"),
        ((out, "--domain", f"a={sources['plain'][0]}", "--tokenizer", "none.json"), "There is no tokenizer file"),
        ((out, "--demo", "--in-place"), "--demo brings its own domains"),
        ((out, "--domain", "a=*.bin", "--in-place"), "--in-place needs --vocab-size"),
    ):
        code, output = call(*arguments)
        assert code == 2 and message in output, (arguments, output)

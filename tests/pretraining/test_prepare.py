"""From documents to shards, and what is refused on the way."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from click.testing import CliRunner

from ray_mixopt.cli.main import main
from ray_mixopt.pretraining.data import documents, prepare
from ray_mixopt.pretraining.data.adopt import Adoption
from ray_mixopt.pretraining.data.demo import DOMAINS, write_demo
from ray_mixopt.pretraining.data.manifest import Manifest, TokenizerCard
from ray_mixopt.pretraining.data.prepare import Preparation
from ray_mixopt.pretraining.data.shards import Corpus, checksum, tokens_of
from ray_mixopt.pretraining.data.tokenizer import ByteTokenizer, JsonTokenizer, load

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
    whole = shard.read_bytes()
    shard.write_bytes(whole[::-1])  # other tokens, as many
    assert Preparation(out=tmp_path / "two", sources=sources).run() == once and shard.read_bytes() == whole


def test_a_large_file_is_shared_out_among_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    texts = [f"{n}: {text}" for n, text in enumerate(TEXTS * 20)]
    (tmp_path / "in" / "a.jsonl").write_text(lines(texts))
    whole = Preparation(out=tmp_path / "whole", sources={"a": [str(tmp_path / "in")]}).run()
    monkeypatch.setattr(prepare, "_UNIT_BYTES", 20_000)
    parts = Preparation(out=tmp_path / "parts", sources={"a": [str(tmp_path / "in")]}, workers=2).run()
    assert len(whole.domains["a"].train.shards) == 1 and len(parts.domains["a"].train.shards) > 9
    for split in ("train", "val"):
        one, other = (Corpus(tmp_path / name).stream("a", split) for name in ("whole", "parts"))
        assert np.array_equal(one.read(0, one.tokens), other.read(0, other.tokens))
    assert Preparation(out=tmp_path / "alone", sources={"a": [str(tmp_path / "in")]}, workers=1).run() == parts


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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokenizer": Path("none.json")}, "There is no tokenizer file"),
        ({"train_bpe": 9}, "A BPE needs at least 257 tokens"),
        ({"field": "no"}, "has no text under 'no'"),
        ({"field": "no", "train_bpe": 300}, "has no text under 'no'"),
    ],
)
def test_what_is_refused_leaves_a_finished_folder(
    tmp_path: Path, sources: dict[str, list[str]], options: dict[str, Any], message: str
) -> None:
    settings = {"out": tmp_path / "out", "sources": {"plain": sources["plain"]}}
    manifest = Preparation(**settings).run()
    with pytest.raises(ValueError, match=message):
        Preparation(**settings, **options).run()
    with pytest.raises(ValueError, match="was made by prepare from documents"):
        Adoption(folder=tmp_path / "out", sources={"plain": ["plain/*.bin"]}, vocab_size=257, val_tokens=9).run()
    assert Manifest.read(tmp_path / "out") == manifest and intact(Corpus(tmp_path / "out"))


@pytest.mark.parametrize("how", ["another field", "another tokenizer", "a BPE", "other documents"])
def test_what_is_refused_halfway_leaves_a_finished_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    (tmp_path / "in").mkdir()
    first, last = (tmp_path / "in" / f"{name}.jsonl" for name in "az")
    first.write_text("".join(json.dumps({"text": text, "body": text[::-1]}) + "\n" for text in TEXTS))
    last.write_text(lines(TEXTS[:60]))
    monkeypatch.setattr(prepare, "_UNIT_BYTES", first.stat().st_size)  # each file is a unit
    settings: dict[str, Any] = {"out": tmp_path / "out", "sources": {"a": [str(tmp_path / "in")]}, "val_share": 0.3}
    manifest = Preparation(**settings, train_bpe=280).run()
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert len(manifest.domains["a"].train.shards) == 2 and not list((tmp_path / "out" / ".prepare").glob("*/"))
    options: dict[str, Any] = {
        "another field": {"train_bpe": 280, "field": "body"},
        "another tokenizer": {"tokenizer": tokenizer_file(tmp_path / "t.json", ["</s>"])},
        "a BPE": {"train_bpe": 270},
        "other documents": {"train_bpe": 280},
    }[how]
    good = first.read_text(), last.read_text()
    if how != "another field":
        first.write_text(lines(TEXTS[:90]))
        last.write_text(lines(TEXTS[:60]) + "{")
    with pytest.raises(ValueError, match="z.jsonl, line|has no text under 'body'"):
        Preparation(**settings, **options).run()
    assert {path: path.read_bytes() for path in before} == before and intact(Corpus(tmp_path / "out"))
    last.write_text(lines([text[::-1] for text in TEXTS[:60]]).replace('"text"', '"body"'))
    if how != "another field":
        last.write_text(good[1])
    assert Preparation(**settings, **options).run() != manifest and intact(Corpus(tmp_path / "out"))
    assert not (tmp_path / "out" / ".prepare" / "new").exists()
    fresh = Preparation(**settings | {"out": tmp_path / "fresh"}, **options).run()
    assert fresh == Manifest.read(tmp_path / "out")


def test_a_bpe_is_not_taken_for_the_one_trained_before(tmp_path: Path, sources: dict[str, list[str]]) -> None:
    settings: dict[str, Any] = {"out": tmp_path / "out", "sources": {"plain": sources["plain"]}}
    trained = Preparation(**settings, train_bpe=300).run()
    Preparation(**settings, tokenizer=tokenizer_file(tmp_path / "t.json", ["</s>"])).run()
    assert Preparation(**settings, train_bpe=300).run() == trained


def test_adopted_shards_keep_their_manifest(tmp_path: Path, sources: dict[str, list[str]]) -> None:
    np.save(tmp_path / "a.npy", np.arange(1000, dtype=np.uint16))
    manifest = Adoption(folder=tmp_path, sources={"a": ["a.npy"]}, vocab_size=1000, val_tokens=100).run()
    with pytest.raises(ValueError, match="holds shards that were made elsewhere: choose another folder"):
        Preparation(out=tmp_path, sources=sources).run()
    assert Manifest.read(tmp_path) == manifest


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


# -- special tokens


def tokenizer_file(path: Path, words: list[str], *, special: bool = True, bpe: bool = True) -> Path:
    """A tokenizer of bytes, or of whole words, with added tokens that are special or not."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {word: number for number, word in enumerate(alphabet if bpe else ["?", "EOS", "=", *words])}
    made = Tokenizer(models.BPE(vocab=vocab, merges=[]) if bpe else models.WordLevel(vocab, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False) if bpe else pre_tokenizers.WhitespaceSplit()
    if bpe:
        made.add_tokens([AddedToken(word, special=special, normalized=False) for word in words])
    made.save(str(path))
    return path


@pytest.mark.parametrize("eos", ["</s>", "<|im_end|>"])
def test_documents_end_with_the_token_that_was_asked_for(tmp_path: Path, eos: str) -> None:
    (tmp_path / "in.jsonl").write_text(lines(TEXTS))
    for name, words in (("both", ["</s>", "<|im_end|>"]), ("one", [eos])):
        path = tokenizer_file(tmp_path / f"{name}.json", words)
        sources = {"a": [str(tmp_path / "in.jsonl")]}
        manifest = Preparation(out=tmp_path / name, sources=sources, tokenizer=path, eos=eos, val_share=0.3).run()
        read_again = load(manifest.tokenizer, tmp_path / name)
        assert read_again.eos_id == manifest.tokenizer.eos_id == 256 + words.index(eos)
        stream = Corpus(tmp_path / name).stream("a", "train")
        tokens = stream.read(0, stream.tokens)
        assert (tokens == manifest.tokenizer.eos_id).sum() == manifest.domains["a"].train.documents
        assert (tokens >= 256).sum() == manifest.domains["a"].train.documents


def pieces(kind: str, words: list[str], unknown: str | None = "<unk>") -> Any:
    """A tokenizer whose vocabulary has its special tokens among its words or pieces."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    letters = [*map(chr, range(33, 127)), "hello"]
    vocab = {word: number for number, word in enumerate([*words, *letters])}
    if kind == "Unigram":
        scores = [*((word, 0.0) for word in words), *((letter, -5.0) for letter in letters)]
        model = models.Unigram(scores, unk_id=None if unknown is None else words.index(unknown))
    else:
        model = getattr(models, kind)(vocab, unk_token=unknown or "?!")
    made = Tokenizer(model)
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens(words)
    made.add_tokens(["two words"])
    return made


@pytest.mark.parametrize("kind", ["Unigram", "WordLevel", "WordPiece"])
def test_special_tokens_among_the_pieces_are_text_too(tmp_path: Path, kind: str) -> None:
    words = ["<pad>", "</s>", "<unk>", "<extra_id_0>"]
    made = pieces(kind, words)
    made.save(str(tmp_path / "t.json"))
    tokenizer = JsonTokenizer(tmp_path / "t.json")
    (tokens,) = tokenizer.encode(["hello <pad> two words </s> <extra_id_0> hello"])
    assert tokens[-1] == tokenizer.eos_id == 1
    assert tokenizer.vocab_size == max(made.get_vocab().values()) + 1
    assert not {0, 1, 3} & set(tokens[:-1].tolist())
    hello = made.token_to_id("hello")
    assert tokens[0] == tokens[-2] == hello and made.token_to_id("two words") in tokens


def test_two_tokens_of_one_id_are_refused(tmp_path: Path) -> None:
    content = json.loads(tokenizer_file(tmp_path / "t.json", ["</s>"]).read_text())
    content["model"]["vocab"]["b"] = content["model"]["vocab"]["a"]
    (tmp_path / "t.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"t.json gives 'a' and 'b' the same id, \d+: mend the file"):
        JsonTokenizer(tmp_path / "t.json")


@pytest.mark.parametrize("kind", ["Unigram", "WordLevel", "WordPiece"])
def test_words_without_a_token_are_refused(tmp_path: Path, kind: str) -> None:
    pieces(kind, ["</s>"], unknown=None).save(str(tmp_path / "t.json"))
    tokenizer = JsonTokenizer(tmp_path / "t.json")
    assert len(tokenizer.encode(["hello"])[0]) == 2
    with pytest.raises(ValueError, match=r"t.json cannot take a document: .* needs a token for unknown ones"):
        tokenizer.encode(["日"])


def test_characters_that_a_bpe_passes_over_are_counted_and_said(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    letters = [chr(code) for code in range(32, 127)]
    model = models.BPE(vocab={letter: n for n, letter in enumerate([*letters, "ab"])}, merges=[("a", "b")])
    made = Tokenizer(model)
    made.pre_tokenizer = pre_tokenizers.Split(" ", "isolated")
    made.add_special_tokens(["</s>"])
    made.add_tokens(["日本"])
    made.save(str(tmp_path / "t.json"))
    tokenizer = JsonTokenizer(tmp_path / "t.json")
    assert tokenizer.lost(["plain ab </s>", "naïve 日本 日", "aéb"]) == [0, 2, 1]
    assert tokenizer.encode(["aéb"])[0].tolist() == [*made.encode("aéb").ids, tokenizer.eos_id]
    assert ByteTokenizer().lost(["é", "日"]) == [0, 0]
    assert JsonTokenizer(tokenizer_file(tmp_path / "b.json", ["</s>"])).lost(["é", "日"]) == [0, 0]
    (tmp_path / "in.jsonl").write_text(lines([f"{n} naïve" if n < 7 else f"{n} été" for n in range(50)]))
    sources = {"a": [str(tmp_path / "in.jsonl")]}
    preparation = Preparation(out=tmp_path / "out", sources=sources, tokenizer=tmp_path / "t.json", val_share=0.3)
    said = ["a: 50 documents with characters that the tokenizer has no token for: left out, 93 characters."]
    assert preparation.run().remarks == said == preparation.run().remarks
    given = ["--domain", f"a={tmp_path / 'in.jsonl'}", "--tokenizer", tmp_path / "t.json", "--val-share", 0.3]
    result = CliRunner().invoke(main, ["prepare", str(tmp_path / "out"), *map(str, given)])
    assert said[0] in result.output


@pytest.mark.parametrize("kind", ["special", "plain", "words", "trained"])
def test_special_tokens_in_a_document_are_text(tmp_path: Path, kind: str) -> None:
    eos = "<|endoftext|>"
    (tmp_path / "in.jsonl").write_text(lines([f"EOS = {eos} {n}" for n in range(100)]))
    options: dict[str, Any] = {"train_bpe": 300}
    if kind != "trained":
        words = [eos, "<|user|>"]
        path = tokenizer_file(tmp_path / "t.json", words, special=kind == "special", bpe=kind != "words")
        options = {"tokenizer": path}
    manifest = Preparation(
        out=tmp_path / "out", sources={"a": [str(tmp_path / "in.jsonl")]}, val_share=0.3, **options
    ).run()
    stream = Corpus(tmp_path / "out").stream("a", "train")
    tokens = stream.read(0, stream.tokens)
    assert (tokens == manifest.tokenizer.eos_id).sum() == manifest.domains["a"].train.documents
    # A vocabulary of words has no other way to write it.
    left_out = ["a: 100 documents spelling the token that ends a document, also as text: left out."]
    assert manifest.remarks == (left_out if kind == "words" else [])
    found = load(manifest.tokenizer, tmp_path / "out").encode(["<|user|>"])[0]
    assert (len(found) == 2) is (kind in ("plain", "words"))  # what was added without being special stays a token


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eos": "</s>"}, "eos='</s>' is the token of a tokenizer, and bytes are tokens here"),
        ({"eos": "<none>", "tokenizer": "t.json"}, "has no token <none>: name the one that ends a document"),
        ({"sources": {"a": ["in.jsonl"], "A": ["in.jsonl"]}}, "'a' and 'A' are one where capitals do not count"),
        ({"sources": {"é" * 101: ["in.jsonl"]}}, "rename it, to at most 200 bytes"),
    ],
)
def test_settings_that_would_not_be_used_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    tokenizer_file(tmp_path / "t.json", ["</s>"])
    (tmp_path / "in.jsonl").write_text(lines(TEXTS))
    settings = {"out": tmp_path / "out", "sources": {"a": [str(tmp_path / "in.jsonl")]}} | options
    if "tokenizer" in options:
        settings["tokenizer"] = tmp_path / "t.json"
    with pytest.raises(ValueError, match=message):
        Preparation(**settings).run()


def test_the_end_of_a_document_can_be_called_otherwise_in_a_trained_bpe(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(lines(TEXTS))
    sources = {"a": [str(tmp_path / "in.jsonl")]}
    manifest = Preparation(out=tmp_path / "out", sources=sources, train_bpe=300, eos="<stop>").run()
    vocabulary = json.loads((tmp_path / "out" / "tokenizer.json").read_text())["model"]["vocab"]
    assert vocabulary["<stop>"] == manifest.tokenizer.eos_id and "<|endoftext|>" not in vocabulary


@pytest.mark.parametrize("change", [{"vocab_size": 200}, {"eos_id": 5}, {"eos_id": None}])
def test_a_card_that_does_not_fit_its_tokenizer_is_refused(tmp_path: Path, change: dict[str, int | None]) -> None:
    card = TokenizerCard(kind="bytes", vocab_size=257, eos_id=256)
    assert isinstance(load(card, tmp_path), ByteTokenizer)
    with pytest.raises(ValueError, match="were not made with the tokenizer they name: it has 257 tokens"):
        load(card.model_copy(update=change), tmp_path)


def test_the_tokenizer_of_a_folder_lies_in_it(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    path = tokenizer_file(tmp_path / "t.json", ["</s>"])
    (tmp_path / "in" / "t.json").symlink_to(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    card = TokenizerCard(kind="json", vocab_size=257, eos_id=256, path="t.json", sha256=digest)
    assert load(card, tmp_path).eos_id == 256
    with pytest.raises(ValueError, match="leads out of the folder"):
        load(card, tmp_path / "in")


@pytest.mark.parametrize("kind", ["bytes", "json"])
def test_tokenizers_take_any_text(tmp_path: Path, kind: str) -> None:
    tokenizer = ByteTokenizer() if kind == "bytes" else JsonTokenizer(tokenizer_file(tmp_path / "t.json", ["</s>"]))
    (tokens,) = tokenizer.encode(["é\x00\ud800"])
    assert len(tokens) == 5 and tokens[-1] == tokenizer.eos_id
    if kind == "bytes":
        assert tokens.tolist() == [0xC3, 0xA9, 0, ord("?"), 256]


def test_what_was_odd_is_said_also_by_a_run_that_goes_on(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_text(lines([*TEXTS, "half \ud800", "  "]))
    (tmp_path / "in" / "a.parq").write_text("")
    preparation = Preparation(out=tmp_path / "out", sources={"a": [str(tmp_path / "in")]})
    manifest = preparation.run()
    left_out, empty, replaced = manifest.remarks
    assert left_out.startswith("a: ") and left_out.endswith(
        "files left out as other formats: .parq (1); name those to take."
    )
    assert empty == "a: 1 document without text (null or blank): left out."
    assert replaced.startswith("a: 1 document with bytes that are not UTF-8, or halves of characters: each replaced")
    assert preparation.run() == manifest == Manifest.read(tmp_path / "out")
    plain = manifest.model_copy(update={"remarks": []})
    plain.write(tmp_path / "out")
    assert Manifest.read(tmp_path / "out").fingerprint == manifest.fingerprint  # they tell nothing of the tokens


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


def test_what_cannot_be_read_is_left_out_if_the_user_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    good = lines(TEXTS)
    (folder / "a.jsonl").write_text(good + '{"text": "cut o\n' + '{"body": "x"}\n[1]\n' + lines(["half \ud800"]))
    (folder / "b.csv").write_text('text,id\n"one, two",1\nlonely\n')
    (folder / "c.jsonl.gz").write_bytes(gzip.compress(good.encode() * 100)[:-4])
    (folder / "d.txt").write_bytes("latin é".encode("latin-1") * 20)
    settings: dict[str, Any] = {"out": tmp_path / "out", "sources": {"a": [str(folder)]}}
    with pytest.raises(ValueError, match="a.jsonl, line 121, is not JSON"):
        Preparation(**settings).run()
    manifest = Preparation(**settings, on_error="skip").run()
    n = sum(part.documents or 0 for part in (manifest.domains["a"].train, manifest.domains["a"].val))
    assert 90 * len(TEXTS) < n < 101 * len(TEXTS)  # most of the packed file could be read
    broken, stray, files = manifest.remarks
    assert broken == f"a: 4 documents {documents.ODDITIES['broken']}."
    assert stray == f"a: 1 document {documents.ODDITIES['stray']}."
    assert files.startswith("a: 2 files that cannot be read, or only in part: the rest is left out. ")
    assert "c.jsonl.gz cannot be read" in files and "d.txt is not UTF-8" in files
    assert Preparation(**settings, on_error="skip").run() == manifest  # also by a run that finds all done


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "a document without text"),
        ("half \ud800", "a document with bytes that are not UTF-8"),
        ("a\ufeffb", "a document with byte order marks"),
    ],
)
def test_odd_documents_are_refused_if_the_user_says_so(tmp_path: Path, text: str | None, message: str) -> None:
    (tmp_path / "a.jsonl").write_text(lines([*TEXTS[:2], text]))  # type: ignore[list-item]
    with pytest.raises(ValueError, match=f"a.jsonl has, as number 3, {message}.*drop --on-error strict"):
        list(documents.read(tmp_path / "a.jsonl", on_error="strict"))
    assert len(list(documents.read(tmp_path / "a.jsonl", on_error="skip"))) == 2 + (text == "a\ufeffb")


# -- token files of others


def llmc(tokens: np.ndarray, magic: int = 20240520, version: int = 1) -> bytes:
    header = np.zeros(256, dtype="<i4")
    header[:3] = magic, version, len(tokens)
    return header.tobytes() + tokens.tobytes()


def megatron(
    folder: Path, tokens: np.ndarray, code: int, lengths: list[int], firsts: Sequence[int] | None = None
) -> None:
    """Tokens as ``IndexedDatasetBuilder`` writes them; each sequence is a document unless ``firsts`` says otherwise."""
    (folder / "text.bin").write_bytes(tokens.tobytes())
    places = np.cumsum([0, *lengths[:-1]]) * tokens.itemsize
    borders = range(len(lengths) + 1) if firsts is None else firsts
    head = b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, code, len(lengths), len(borders))
    rows = np.array(lengths, "<i4").tobytes() + places.astype("<i8").tobytes() + np.array(borders, "<i8").tobytes()
    (folder / "text.idx").write_bytes(head + rows)


def test_shards_of_others_are_used_in_place(tmp_path: Path) -> None:
    for dtype, names in (("uint16", "olmo npy llmc nano megatron"), ("uint32", "olmo npy signed llmc megatron")):
        folder, tokens = tmp_path / dtype, np.arange(3000, dtype=dtype) % 500
        for name in names.split():
            (folder / name).mkdir(parents=True)
        tokens.tofile(folder / "olmo" / "part-0.npy")
        np.save(folder / "npy" / "part-0.npy", tokens)
        code = llmc(tokens) if dtype == "uint16" else llmc(tokens, 20240801, 7)
        (folder / "llmc" / "shard_000.bin").write_bytes(code)
        megatron(folder / "megatron", tokens, 8 if dtype == "uint16" else 4, [1000, 1999, 1])
        if "nano" in names:
            tokens[:2000].tofile(folder / "nano" / "train.bin")
            tokens[2000:].tofile(folder / "nano" / "val.bin")
        if "signed" in names:
            np.save(folder / "signed" / "part-0.npy", tokens.astype(np.int32))
        sources = {name: [f"{name}/*.[bn][ip][ny]"] for name in names.split()}
        Adoption(folder=folder, sources=sources, dtype=dtype, vocab_size=500, val_tokens=1000).run()
        corpus = Corpus(folder)
        assert intact(corpus)
        for name in sources:
            assert np.array_equal(corpus.stream(name, "train").read(0, 2000), tokens[:2000]), (dtype, name)
            assert np.array_equal(corpus.stream(name, "val").read(0, 1000), tokens[2000:]), (dtype, name)


TOKENS = np.random.default_rng(0).integers(1, 5000, 3000).astype("<u2")
NPY = io.BytesIO()
np.save(NPY, TOKENS)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.bin", TOKENS.astype("<u4").tobytes(), "holds wider numbers than uint16.*say --dtype uint32"),
        ("a.bin", TOKENS.astype("<u8").tobytes(), "holds wider numbers than uint16"),
        ("a.bin", TOKENS.astype(">u4").tobytes(), "holds wider numbers than uint16"),
        ("a.npy", TOKENS.tobytes()[:-1], "has 5999 bytes, which is no whole number of uint16 tokens"),
        (
            "a.bin",
            llmc(TOKENS)[:-1],
            r"ends early: its header promises 3000 uint16 tokens, 7024 bytes; it has 7023",
        ),
        ("a.bin", llmc(TOKENS)[:-4], "ends early: its header promises 3000"),
        ("a.bin", llmc(TOKENS)[:500], "ends early"),
        ("a.bin", llmc(TOKENS) + b"\0\0", "has more than it should: its header promises 3000"),
        ("a.bin", llmc(TOKENS.astype("<u4"), 20240801, 7), "holds uint32 tokens, the others uint16: see --dtype"),
        ("a.bin", llmc(TOKENS, 20240520, 2), "of llm.c of kind 20240520, version 2, which holds no shard"),
        ("a.bin", llmc(TOKENS, 20240522), "of llm.c of kind 20240522, version 1, which holds no shard"),
        ("a.npy", NPY.getvalue()[:-2], "ends early: its header promises 3000"),
        ("a.npy", NPY.getvalue() + b"\0\0", "has more than it should"),
        ("a.npy", NPY.getvalue()[:40], "is a damaged NPY file"),
        ("a.idx", b"MMIDIDX\0\0rest", "is an index of Megatron: name the .bin next to it"),
    ],
)
def test_token_files_that_are_not_what_they_seem(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        Adoption(folder=tmp_path, sources={"a": [name]}, vocab_size=2**16, val_tokens=100).run()
    assert not (tmp_path / "manifest.json").exists()


@pytest.mark.parametrize(
    ("code", "lengths", "cut", "message"),
    [
        (8, [2000, 999], 0, "the index text.idx promises 2999 uint16 tokens, 5998 bytes; it has 6000"),
        (8, [2000, 1001], 0, "ends early: the index text.idx promises 3001"),
        (5, [3000], 0, "holds int64 by the index text.idx"),
        (8, [3000], 44, "text.idx has the name of an index of Megatron and is none"),
        (8, [3000], 25, "text.idx ends early: it promises 1 sequences"),
        (8, [3000], 24, "text.idx ends early: it promises 1 sequences in 2 documents, 62 bytes; it has 38"),
        (8, [1000, 2000], 1, "text.idx ends early: it promises 2 sequences in 3 documents, 82 bytes; it has 81"),
    ],
)
def test_tokens_of_megatron_fit_their_index(
    tmp_path: Path, code: int, lengths: list[int], cut: int, message: str
) -> None:
    megatron(tmp_path, TOKENS, code, lengths)
    index = (tmp_path / "text.idx").read_bytes()
    (tmp_path / "text.idx").write_bytes(index[: len(index) - cut])
    with pytest.raises(ValueError, match=message):
        Adoption(folder=tmp_path, sources={"a": ["*.bin"]}, vocab_size=5000, val_tokens=100).run()


@pytest.mark.parametrize(
    ("firsts", "shift", "message"),
    [
        ([1, 3], 0, "text.idx has documents that do not begin with its sequences, in order"),
        ([0, 2, 1, 3], 0, "text.idx has documents that do not begin with its sequences, in order"),
        ([0, 2], 0, "text.idx has documents that do not begin with its sequences, in order"),
        ([0, 3], 8, "text.idx has sequences that do not follow one another in text.bin"),
    ],
)
def test_an_index_of_megatron_that_contradicts_itself_is_refused(
    tmp_path: Path, firsts: list[int], shift: int, message: str
) -> None:
    megatron(tmp_path, TOKENS, 8, [1000, 1000, 1000], firsts)
    index = bytearray((tmp_path / "text.idx").read_bytes())
    index[34 + 4 * 3 + 8] ^= shift  # of where the second sequence begins
    (tmp_path / "text.idx").write_bytes(index)
    with pytest.raises(ValueError, match=message):
        Adoption(folder=tmp_path, sources={"a": ["*.bin"]}, vocab_size=5000, val_tokens=100).run()


def test_the_index_of_megatron_says_where_documents_end(tmp_path: Path) -> None:
    tokens, lengths = TOKENS.copy(), [1000, 950, 30, 1020]
    ends = np.cumsum(lengths) - 1

    def adopted(**options: Any) -> Manifest:
        megatron(tmp_path, tokens, 8, lengths, [0, 1, 3, 4])  # the second document has two sequences
        return Adoption(folder=tmp_path, sources={"a": ["*.bin"]}, vocab_size=5000, **options).run()

    near = adopted(val_tokens=1000)
    assert near.domains["a"].val.tokens == 1020  # to the beginning of its document, which is near
    assert (near.domains["a"].train.documents, near.domains["a"].val.documents) == (2, 1)
    far = adopted(val_tokens=900)
    assert far.domains["a"].val.tokens == 900
    assert not near.remarks
    tokens[ends] = 7
    (said,) = adopted(val_tokens=1000).remarks
    assert said == "a: its documents end with the token 7: say --eos-id 7, if that is what it stands for."
    assert not adopted(val_tokens=1000, eos_id=7).remarks
    (said,) = adopted(val_tokens=1000, eos_id=6).remarks
    assert said.startswith("a: 0% of its documents end with the token 6 (--eos-id)")


def test_documents_are_not_cut_where_the_token_between_them_is_known(tmp_path: Path) -> None:
    tokens = TOKENS.copy()
    tokens[[1979, 2400]] = 0
    tokens.tofile(tmp_path / "a.bin")
    for eos_id, expected in ((0, 1020), (None, 1000)):
        adoption = Adoption(folder=tmp_path, sources={"a": ["a.bin"]}, vocab_size=5000, val_tokens=1000, eos_id=eos_id)
        assert adoption.run().domains["a"].val.tokens == expected


@pytest.mark.parametrize("vocab_size", [50_000, 2**16 + 1, 128_256, 262_144])
def test_a_wrong_width_is_noticed_whatever_the_vocabulary(tmp_path: Path, vocab_size: int) -> None:
    draw = np.random.default_rng(0)
    tokens = (vocab_size * draw.random(3000) ** 3).astype(np.int64)  # small ids are frequent
    tokens.astype("<u4").tofile(tmp_path / "wide.bin")
    (tokens % 2**16).astype("<u2").tofile(tmp_path / "narrow.bin")

    def adopt(name: str, dtype: str, most: int) -> None:
        Adoption(folder=tmp_path, sources={"a": [name]}, dtype=dtype, vocab_size=most, val_tokens=100).run()

    with pytest.raises(ValueError, match="wide.bin holds wider numbers than uint16.*say --dtype uint32"):
        adopt("wide.bin", "uint16", 2**16)
    with pytest.raises(ValueError, match="narrow.bin holds narrower numbers than uint32.*say --dtype uint16"):
        adopt("narrow.bin", "uint32", 2**32)
    adopt("wide.bin", "uint32", 2**32)
    adopt("narrow.bin", "uint16", 2**16)


def test_a_width_that_an_earlier_release_took_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(TOKENS.tobytes())
    Adoption(folder=tmp_path, sources={"a": ["a.bin"]}, vocab_size=5000, val_tokens=1000).run()
    (tmp_path / "a.bin").write_bytes(TOKENS[:1500].astype("<u4").tobytes())
    with pytest.raises(ValueError, match="The shard a.bin of .* holds wider numbers than uint16"):
        Corpus(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab_size": 9}, "holds the token id 9, beyond the vocabulary of 9 tokens"),
        ({"vocab_size": 70_000}, "A vocabulary of 70000 tokens does not fit uint16: see --dtype"),
        ({"dtype": "uint32"}, "b.npy holds uint16 tokens, the others uint32: see --dtype"),
        ({"sources": {"a": ["../*.bin"]}}, "must be relative to .* and stay in it"),
        ({"sources": {"a": ["."]}}, "'.' is the folder itself: name its files"),
        ({"sources": {"a": ["*.none"]}}, "No file in .* matches"),
        ({"sources": {"../a": ["b.npy"]}}, "'../a' cannot: rename it"),
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
        ((out, "--domain", "../a=/nonesuch"), "'../a' cannot: rename it"),
        ((out, "--domain", f"a={sources['plain'][0]}", "--val-share", 1), "must lie between 0 and 1"),
        ((out, "--domain", f"a={sources['plain'][0]}", "--tokenizer", "none.json"), "There is no tokenizer file"),
        ((out, "--demo", "--in-place"), "--demo brings its own domains"),
        ((out, "--domain", "a=*.bin", "--in-place"), "--in-place needs --vocab-size"),
        ((out, "--domain", "a=x", "--train-bpe", 300, "--eos", ""), "must be text of whole characters, got ''"),
        ((out, "--domain", "a=x", "--train-bpe", 300, "--eos", "\udc80"), "must be text of whole characters"),
        ((out, "--domain", "a=x", "--eos", "</s>"), "eos='</s>' is the token of a tokenizer"),
        ((out, "--domain", "a=x", "--in-place", "--eos", "</s>"), "--eos does not go with --in-place"),
        ((out, "--domain", "a=x", "--vocab-size", 9), "--vocab-size does not go with sources of text"),
        ((out, "--domain", "a=x", "--megabytes", 9), "--megabytes does not go with sources of text"),
        ((out, "--demo", "--dtype", "uint16"), "--dtype does not go with --demo"),
        ((out, "--demo", "--megabytes", "inf"), "a positive, finite number of them, got inf"),
        ((out, "--demo", "--megabytes", "nan"), "a positive, finite number of them, got nan"),
    ):
        code, output = call(*arguments)
        assert code == 2 and message in output, (arguments, output)


def test_names_are_no_markup(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(lines(TEXTS))
    names = ["[bold]", "a[b]", "[x]", ":x:", "[]"]
    options = [part for name in names for part in ("--domain", f"{name}={tmp_path}/in.jsonl")]
    out = tmp_path / "q[" / "y]"
    result = CliRunner().invoke(main, ["prepare", str(out), *options, "--workers", "1", "--val-share", "0.3"])
    assert result.exit_code == 0, result.output
    assert all(f" {name} " in result.stdout for name in names), result.stdout
    assert f"{out}: uint16" in result.stdout


def _bomb(kind: str, path: Path) -> Path:
    """A small file that unpacks to 256 MiB of lines, of text in every row, or to rows without end."""
    lines = b'{"text": "%s"}\n' % (b"x" * 2**20)
    if kind == "rows":
        index = pa.array(np.zeros(3_000_000, dtype=np.int32))
        pq.write_table(pa.table({"text": pa.DictionaryArray.from_arrays(index, [""])}), path)
    elif kind == "text":
        index = pa.array(np.zeros(300, dtype=np.int32))
        pq.write_table(pa.table({"text": pa.DictionaryArray.from_arrays(index, ["x" * 2**20])}), path)
    elif kind == "zst":
        frame = zstandard.compress(lines, 3)
        path.write_bytes(frame * 300)
    else:
        member = gzip.compress(lines) if kind == "gz" else bz2.compress(lines)
        path.write_bytes(member * 300)
    return path


@pytest.mark.parametrize(
    ("kind", "name"),
    [("gz", "a.jsonl.gz"), ("zst", "a.jsonl.zst"), ("bz2", "a.txt.bz2"), ("text", "a.parquet"), ("rows", "a.parquet")],
)
def test_bombs_are_read_no_further_than_64_mib(kind: str, name: str, tmp_path: Path) -> None:
    path = _bomb(kind, tmp_path / name)
    assert path.stat().st_size < 2**21
    n_read = 0
    sentence = "has 3,000,000 rows, which is more than" if kind == "rows" else "times its size, which no text does"
    with pytest.raises(ValueError, match=sentence):
        for document in documents.read(path):
            n_read += len(document)
    assert n_read < 500 * 2**20

"""Damaged and hostile folders of shards are refused with one clear sentence."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ray_mixopt.pretraining.data.adopt import Adoption
from ray_mixopt.pretraining.data.manifest import Manifest, fingerprint
from ray_mixopt.pretraining.data.shards import Corpus, Stream


def edit(folder: Path, change: Callable[[dict[str, Any]], object], sign: bool = True) -> None:
    """Changes a manifest, and its fingerprint with it unless told otherwise."""
    data = json.loads((folder / "manifest.json").read_text())
    change(data)
    if sign:
        data["fingerprint"] = fingerprint(data)
    (folder / "manifest.json").write_text(json.dumps(data))


def refused(folder: Path) -> str:
    with pytest.raises(ValueError) as caught:
        Corpus(folder)
    return str(caught.value)


def test_the_manifest_survives_a_round_trip(small: Path) -> None:
    manifest = Manifest.read(small)
    manifest.write(small)
    assert Manifest.read(small) == manifest


def test_missing_shard(small: Path) -> None:
    (small / "b" / "val-00000.bin").unlink()
    assert "The shard b/val-00000.bin" in refused(small) and "is missing" in refused(small)


def test_short_shard(small: Path) -> None:
    path = small / "a" / "train-00000.bin"
    path.write_bytes(path.read_bytes()[:-2])
    assert "has 9998 bytes; the manifest promises 10000, 5000 uint16 tokens" in refused(small)


@pytest.mark.parametrize("n_tokens", [1, 100, 65_536, 65_537, 3_000_000])
def test_other_tokens_in_place_of_those_of_the_manifest(tmp_path: Path, n_tokens: int) -> None:
    """Of the same number, and all of them possible."""
    for name in ("train", "val"):
        tokens = np.random.default_rng(0).integers(1, 200, n_tokens, dtype=np.uint16) + (name == "val")
        (tmp_path / "a").mkdir(exist_ok=True)
        tokens.tofile(tmp_path / "a" / f"{name}.bin")
    Adoption(folder=tmp_path, sources={"a": ["a/*.bin"]}, vocab_size=257).run()
    Corpus(tmp_path)
    path = tmp_path / "a" / "train.bin"
    told = f"The shard a/train.bin of {tmp_path} holds other tokens than those that the manifest was made of: put the"
    tokens = np.fromfile(path, np.uint16)
    for change in (slice(None), slice(0, 1), slice(-1, None), slice(n_tokens // 3, None)):
        other = tokens.copy()
        other[change] = 201
        other.tofile(path)
        assert told in refused(tmp_path)
    tokens.tofile(path)
    Corpus(tmp_path)


def test_shards_of_an_earlier_release_have_no_samples(small: Path) -> None:
    before = Manifest.read(small).fingerprint

    def forget(data: dict[str, Any]) -> None:
        for domain in data["domains"].values():
            for split in domain.values():
                for shard in split["shards"]:
                    assert len(shard.pop("sample")) == 64

    edit(small, forget, sign=False)
    assert Corpus(small).manifest.fingerprint == before  # and a run that began with it goes on


def test_wrong_dtype(small: Path) -> None:
    edit(small, lambda data: data.update(dtype="uint32"))
    assert "has 10000 bytes; the manifest promises 20000" in refused(small)


def test_token_beyond_the_vocabulary(small: Path) -> None:
    edit(small, lambda data: data["tokenizer"].update(vocab_size=110))
    assert "beyond the vocabulary of 110 tokens" in refused(small)


def test_unknown_domain(small: Path) -> None:
    with pytest.raises(ValueError, match="has no domain 'c': it has a, b"):
        Corpus(small).stream("c", "train")


@pytest.mark.parametrize(
    ("change", "sign", "message"),
    [
        (lambda data: data["tokenizer"].update(eos_id=3), False, "its fingerprint does not fit its contents"),
        (lambda data: data.update(version=2), True, "Cannot read a manifest of version 2: this release reads 1"),
        (lambda data: data["domains"]["a"]["train"].update(shards=[]), True, "'a' is empty: it has no train tokens"),
        (
            lambda data: data["domains"]["a"]["train"]["shards"][0].update(path="../x.bin"),
            True,
            "leads out of the folder",
        ),
        (
            lambda data: data["domains"]["a"]["train"]["shards"][0].update(path="/x.bin"),
            True,
            "leads out of the folder",
        ),
        (
            lambda data: data["domains"]["a"]["train"]["shards"][0].update(tokens=-1),
            True,
            "tokens: -1 cannot be used: it should be greater than 0",
        ),
        (
            lambda data: data["domains"]["a"]["train"]["shards"][0].update(tokens="9"),
            True,
            'tokens: "9" cannot be used: it should be a valid integer',
        ),
        (
            lambda data: data.update(extra=1),
            True,
            "manifest.json cannot be used: extra is unknown: remove it.",
        ),
        (lambda data: data["tokenizer"].update(vocab_size=70_000), True, "70000 tokens does not fit uint16"),
    ],
)
def test_malformed_manifests(small: Path, change: Callable[[dict[str, Any]], object], sign: bool, message: str) -> None:
    edit(small, change, sign)
    assert message in refused(small)


def test_no_token_is_there_twice(small: Path) -> None:
    """Be it that patterns overlap, or that a file is there under two names."""
    shutil.copy(small / "a" / "train-00000.bin", small / "a" / "val-00001.bin")
    (small / "b" / "val-00001.bin").symlink_to(small / "b" / "train-00000.bin")
    for sources, message in (
        ({"a": ["a/*0.bin"], "b": ["*/*0.bin"]}, "a/train-00000.bin is among the train tokens of 'a' and again among"),
        ({"a": ["a/*.bin"]}, "a/val-00001.bin, of the val tokens of 'a', holds the same as a/train-00000.bin, of"),
        ({"b": ["b/*.bin"]}, "b/val-00001.bin, of the val tokens of 'b', holds the same as b/train-00000.bin, of"),
    ):
        with pytest.raises(ValueError, match=message):
            Adoption(folder=small, sources=sources, vocab_size=257).run()


def test_no_or_broken_manifest(small: Path) -> None:
    (small / "manifest.json").write_text("{")
    assert "is not JSON" in refused(small)
    (small / "manifest.json").unlink()
    assert "holds no manifest.json: make it with `ray-mixopt prepare`" in refused(small)


def test_links_do_not_lead_out(small: Path, tmp_path: Path) -> None:
    shard = small / "a" / "train-00000.bin"
    os.replace(shard, tmp_path / "elsewhere.bin")
    shard.symlink_to(tmp_path / "elsewhere.bin")
    assert "leads out of the folder" in refused(small)


def test_windows_cross_shards() -> None:
    parts = [np.arange(first, end, dtype=np.uint16) for first, end in ((0, 3), (3, 4), (4, 9))]
    stream = Stream([len(part) for part in parts], parts.__getitem__)
    assert [stream.read(start, 4).tolist() for start in range(6)] == [list(range(s, s + 4)) for s in range(6)]
    with pytest.raises(IndexError):
        stream.read(6, 4)

"""From documents to a folder of token shards: in parallel, and going on where an interrupted run stopped.

The input files of a domain are cut into units of a few megabytes. A worker process turns a unit into one shard of
training and one of validation tokens, and then writes a note of it. A unit whose note fits its inputs and settings is
not done again. What is new waits in a folder of its own until all of it is there and nothing can be refused any more: a
finished folder stays as it was until then. The manifest comes last: a folder without one is not finished.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from ray_mixopt.core.safety import check_file_names, write_atomically
from ray_mixopt.core.words import counted
from ray_mixopt.pretraining.data import documents
from ray_mixopt.pretraining.data.manifest import (
    MANIFEST,
    SPLITS,
    Domain,
    Manifest,
    Shard,
    Split,
    TokenizerCard,
)
from ray_mixopt.pretraining.data.shards import check_ids
from ray_mixopt.pretraining.data.tokenizer import ByteTokenizer, JsonTokenizer, load, train_bpe

TOKENIZER = "tokenizer.json"
_NOTES = ".prepare"
_NEW = "new"  # within the notes: what is to take its place in the folder, where it has the same paths
_BPE = "bpe.json"
_METHOD = 4  # how documents become tokens: what an earlier release made otherwise is made again
_ENDS = "spelling the token that ends a document, also as text: left out"
_LOST = "with characters that the tokenizer has no token for: left out, {:,} characters"
_UNIT_BYTES = 16 * 2**20
_BATCH = 256  # documents that are tokenized together
_BPE_SAMPLE = 64 * 2**20  # characters that a BPE is trained on

Advance = Callable[[str, int, int], None]
"""Called with a domain, how much of its input was just done, and how much it has: in bytes, or tokens if adopted."""


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """What to turn into shards, and how.

    Args:
        out: folder of the shards.
        sources: files, patterns or folders by domain; see ``documents.find``.
        tokenizer: a JSON file of the ``tokenizers`` library; without one, bytes are tokens.
        train_bpe: size of a vocabulary to train on the input instead.
        eos: token of the tokenizer that ends a document.
        field: JSON key or column of the text.
        val_share: share of the documents kept for validation, by the hash of their text: duplicates stay together.
        seed: of the choice of documents for validation, and of those that a BPE is trained on.
        workers: number of processes.

    Raises:
        ValueError: for settings that make no sense.
    """

    out: Path
    sources: Mapping[str, Sequence[str]]
    tokenizer: Path | None = None
    train_bpe: int | None = None
    eos: str | None = None
    field: str = "text"
    val_share: float = 0.05
    seed: int = 0
    workers: int = 1

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("There is nothing to prepare: name at least one domain.")
        if self.tokenizer is not None and self.train_bpe is not None:
            raise ValueError("A tokenizer is either given or trained, not both.")
        if not 0 < self.val_share < 1:
            raise ValueError(f"The share of validation documents must lie between 0 and 1, got {self.val_share}.")
        if self.eos is not None and self.tokenizer is None and self.train_bpe is None:
            raise ValueError(
                f"eos={self.eos!r} is the token of a tokenizer, and bytes are tokens here: give --tokenizer or "
                "--train-bpe."
            )
        if self.eos is not None and (not self.eos or documents.SURROGATE.search(self.eos)):
            raise ValueError(
                f"The token that ends a document, --eos, must be text of whole characters, got {self.eos!r}."
            )
        check_file_names(self.sources, "A domain")

    def run(self, progress: Advance = lambda domain, done, total: None) -> Manifest:
        """Does it, and returns the manifest that was written.

        Raises:
            ValueError: if an input cannot be read, or a domain ends up without training or validation tokens.
        """
        files, remarks = {}, []
        for name, sources in self.sources.items():
            files[name], left_out = documents.find(sources)
            remarks += [f"{name}: {sentence}" for sentence in left_out]
        made_elsewhere = (self.out / MANIFEST).is_file() and not is_prepared(self.out)
        if not (self.out / _NOTES).is_dir():
            made_elsewhere |= any(any((self.out / name).glob("*.bin")) for name in files)
        if made_elsewhere:
            raise ValueError(f"{self.out} holds shards that were made elsewhere: choose another folder.")
        self._new.mkdir(parents=True, exist_ok=True)
        card, tokenizer = self._card(files)
        units = [unit for name, paths in files.items() for unit in self._units(name, paths, card, tokenizer)]
        totals = {name: sum(unit.size for unit in units if unit.domain == name) for name in files}
        notes: dict[Unit, dict[str, Any]] = {}
        for unit in units:
            if (note := unit.finished()) is not None:
                notes[unit] = note
                progress(unit.domain, unit.size, totals[unit.domain])
        for unit, note in _tokenized([unit for unit in units if unit not in notes], self.workers):
            notes[unit] = note
            progress(unit.domain, unit.size, totals[unit.domain])
        by_domain = {name: [notes[unit] for unit in units if unit.domain == name] for name in files}
        domains = {name: _domain(name, found) for name, found in by_domain.items()}
        for name, found in by_domain.items():
            remarks += [f"{name}: {sentence}" for sentence in _remarks(found)]
        manifest = Manifest.of(dtype=_dtype(card), tokenizer=card, domains=domains, remarks=remarks)
        manifest.write(self._new)  # from here on nothing takes room on the disk
        (self.out / MANIFEST).unlink(missing_ok=True)  # before what it describes changes
        for unit in units:
            if unit.in_place() is None:
                unit.settle()
        if tokenizer != self.out:
            self._settle_tokenizer()
        _remove_stale(self.out, units, domains)
        os.replace(self._new / MANIFEST, self.out / MANIFEST)
        shutil.rmtree(self._new)
        return manifest

    @property
    def _new(self) -> Path:
        return self.out / _NOTES / _NEW

    def _units(self, domain: str, paths: Sequence[Path], card: TokenizerCard, tokenizer: Path) -> Iterator[Unit]:
        group: list[Path] = []
        size, number = 0, 0
        for path in [*paths, None]:
            step = path.stat().st_size if path is not None else 0
            if group and (path is None or size + step > _UNIT_BYTES):
                yield Unit(
                    out=self.out,
                    domain=domain,
                    number=number,
                    paths=tuple(group),
                    size=size,
                    field=self.field,
                    val_share=self.val_share,
                    seed=self.seed,
                    card=card,
                    tokenizer=tokenizer,
                )
                group, size, number = [], 0, number + 1
            if path is not None:
                group.append(path)
                size += step

    def _card(self, files: Mapping[str, Sequence[Path]]) -> tuple[TokenizerCard, Path]:
        """The tokenizer, and the folder that its file is in: that of the shards, or the one of what is new."""
        if self.train_bpe is not None:
            folder = self._trained(files, self.train_bpe)
        elif self.tokenizer is not None:
            folder = self._given(self.tokenizer)
        else:
            card = TokenizerCard(kind="bytes", vocab_size=ByteTokenizer.vocab_size, eos_id=ByteTokenizer.eos_id)
            return card, self.out
        path = folder / TOKENIZER
        made, digest = JsonTokenizer(path, self.eos), hashlib.sha256(path.read_bytes()).hexdigest()
        card = TokenizerCard(kind="json", vocab_size=made.vocab_size, eos_id=made.eos_id, path=TOKENIZER, sha256=digest)
        return card, folder

    def _given(self, tokenizer: Path) -> Path:
        JsonTokenizer(tokenizer, self.eos)
        content, known = tokenizer.read_bytes(), self.out / TOKENIZER
        if known.is_file() and known.read_bytes() == content:
            return self.out
        (self._new / _BPE).unlink(missing_ok=True)
        write_atomically(self._new / TOKENIZER, content)
        return self._new

    def _trained(self, files: Mapping[str, Sequence[Path]], vocab_size: int) -> Path:
        """Trains a BPE on equal amounts of each domain, unless that was done before."""
        stamps = {name: _stamps(paths) for name, paths in files.items()}
        key = _key(_METHOD, self.seed, vocab_size, self.eos, self.field, stamps)
        for folder, note in ((self.out, self.out / _NOTES / _BPE), (self._new, self._new / _BPE)):
            if (folder / TOKENIZER).is_file() and note.is_file() and json.loads(note.read_text()) == key:
                return folder
        each = _BPE_SAMPLE // len(files)
        texts = (text for paths in files.values() for text in _sample(paths, self.field, each, self.seed))
        (self._new / _BPE).unlink(missing_ok=True)
        train_bpe(texts, vocab_size, self._new / TOKENIZER, self.eos)
        write_atomically(self._new / _BPE, json.dumps(key))
        return self._new

    def _settle_tokenizer(self) -> None:
        note = self.out / _NOTES / _BPE
        note.unlink(missing_ok=True)  # it is of the tokenizer that goes
        os.replace(self._new / TOKENIZER, self.out / TOKENIZER)
        if (self._new / _BPE).is_file():
            os.replace(self._new / _BPE, note)


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A few input files of one domain, that become one shard of training and one of validation tokens."""

    out: Path
    domain: str
    number: int
    paths: tuple[Path, ...]
    size: int
    field: str
    val_share: float
    seed: int
    card: TokenizerCard
    tokenizer: Path

    @property
    def note(self) -> Path:
        """Where the note of the finished unit lies."""
        return self.out / _NOTES / f"{self.domain}-{self.number:05d}.json"

    @property
    def _new(self) -> Path:
        return self.out / _NOTES / _NEW

    def _key(self) -> str:
        return _key(_METHOD, _stamps(self.paths), self.field, self.val_share, self.seed, self.card.model_dump())

    def finished(self) -> dict[str, Any] | None:
        """The note of an earlier run, if it and its shards are whole and fit, in their place or not yet."""
        return self.in_place() or self._read(self._new / self.note.name, self._new)

    def in_place(self) -> dict[str, Any] | None:
        """The note, if it and the shards are whole and fit, and where they are to be."""
        return self._read(self.note, self.out)

    def settle(self) -> None:
        """Puts the shards, and then the note, in the place of earlier ones."""
        note = json.loads((self._new / self.note.name).read_text())
        self.note.unlink(missing_ok=True)  # it is of the shards that go
        (self.out / self.domain).mkdir(exist_ok=True)
        for label in SPLITS:
            if note[label]["shards"]:
                os.replace(self._new / self._shard(label), self.out / self._shard(label))
            else:
                (self.out / self._shard(label)).unlink(missing_ok=True)
        os.replace(self._new / self.note.name, self.note)

    def _shard(self, label: str) -> str:
        return f"{self.domain}/{label}-{self.number:05d}.bin"

    def _read(self, path: Path, folder: Path) -> dict[str, Any] | None:
        try:
            note: dict[str, Any] = json.loads(path.read_text())
            width = np.dtype(_dtype(self.card)).itemsize
            fits = note["key"] == self._key() and all(
                (folder / shard["path"]).stat().st_size == shard["tokens"] * width
                for label in SPLITS
                for shard in note[label]["shards"]
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return note if fits else None

    def tokenize(self) -> dict[str, Any]:
        """Writes the shards and the note to where what is new waits, and returns the note."""
        tokenizer = load(self.card, self.tokenizer)
        (self._new / self.note.name).unlink(missing_ok=True)
        (self._new / self.domain).mkdir(exist_ok=True)
        writers = {label: _ShardWriter(self._new / self._shard(label), self.card) for label in SPLITS}
        oddities: Counter[str] = Counter()
        texts = (text for path in self.paths for text in documents.read(path, self.field, oddities))
        while batch := list(itertools.islice(texts, _BATCH)):
            lost = tokenizer.lost(batch)
            oddities["lost"] += sum(n > 0 for n in lost)
            oddities["lost characters"] += sum(lost)
            for text, tokens in zip(batch, tokenizer.encode(batch), strict=True):
                if (tokens[:-1] == tokenizer.eos_id).any():  # where even as text it is that token
                    oddities["ends"] += 1
                    tokens = np.append(tokens[tokens != tokenizer.eos_id], tokens[-1])
                writers["val" if self._is_validation(text) else "train"].add(tokens)
        shards = {label: writer.close(self._shard(label)) for label, writer in writers.items()}
        note = {"key": self._key(), "oddities": {what: n for what, n in oddities.items() if n}, **shards}
        write_atomically(self._new / self.note.name, json.dumps(note))
        return note

    def _is_validation(self, text: str) -> bool:
        digest = hashlib.blake2b(f"{self.seed}:{text}".encode("utf-8", "replace"), digest_size=8)
        return int.from_bytes(digest.digest(), "little") < self.val_share * 2**64


class _ShardWriter:
    """Writes one headerless file of tokens; none at all if there are no tokens."""

    def __init__(self, path: Path, card: TokenizerCard) -> None:
        self._path = path
        self._file = path.open("wb")
        self._digest = hashlib.sha256()
        self._dtype = np.dtype(_dtype(card)).newbyteorder("<")
        self._vocab_size = card.vocab_size
        self._tokens = self._documents = 0

    def add(self, tokens: np.ndarray) -> None:
        check_ids(tokens, self._vocab_size, "The tokenizer's output")
        content = tokens.astype(self._dtype).tobytes()
        self._file.write(content)
        self._digest.update(content)
        self._tokens += len(tokens)
        self._documents += 1

    def close(self, path: str) -> dict[str, Any]:
        """What the note says of the file, which is ``path`` to a manifest."""
        self._file.close()
        if not self._tokens:
            self._path.unlink()
            return {"documents": 0, "shards": []}
        shard = Shard(path=path, tokens=self._tokens, sha256=self._digest.hexdigest())
        return {"documents": self._documents, "shards": [shard.model_dump()]}


def _tokenized(units: Sequence[Unit], workers: int) -> Iterator[tuple[Unit, dict[str, Any]]]:
    """The units as they are finished."""
    if workers == 1 or len(units) <= 1:
        for unit in units:
            yield unit, unit.tokenize()
        return
    with ProcessPoolExecutor(min(workers, len(units)), get_context("spawn"), _one_thread) as pool:
        futures = {pool.submit(unit.tokenize): unit for unit in units}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _one_thread() -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def is_prepared(folder: Path) -> bool:
    """Whether shards in a folder were made here, rather than adopted or not at all."""
    return any((folder / _NOTES).rglob("*.json"))


def _domain(name: str, notes: Sequence[Mapping[str, Any]]) -> Domain:
    splits = {}
    for label in SPLITS:
        shards = [Shard(**shard) for note in notes for shard in note[label]["shards"]]
        n_documents = sum(note[label]["documents"] for note in notes)
        if not shards:
            raise ValueError(
                f"The domain {name!r} has no {label} tokens: its documents are too few, or the share of validation "
                "documents (--val-share) does not suit them."
            )
        splits[label] = Split(documents=n_documents, shards=shards)
    return Domain(**splits)


def _remarks(notes: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What was odd about the documents of a domain, in sentences."""
    counts = sum((Counter(note["oddities"]) for note in notes), Counter())
    lost = _LOST.format(counts["lost characters"])
    for key, what in {**documents.ODDITIES, "ends": _ENDS, "lost": lost}.items():
        if counts[key]:
            yield f"{counted(counts[key], 'document')} {what}."


def _remove_stale(out: Path, units: Sequence[Unit], domains: Mapping[str, Domain]) -> None:
    """Removes the shards of units that an earlier run had and this one has not."""
    kept = {unit.note for unit in units}
    used = {shard.path for domain in domains.values() for label in SPLITS for shard in getattr(domain, label).shards}
    for path in (out / _NOTES).glob("*-[0-9][0-9][0-9][0-9][0-9].json"):
        if path in kept:
            continue
        note = json.loads(path.read_text())
        for shard in (Shard(**shard) for label in SPLITS for shard in note[label]["shards"]):
            if shard.path not in used:
                (out / shard.path).unlink(missing_ok=True)
        path.unlink()


def _sample(paths: Sequence[Path], field: str, characters: int, seed: int) -> Iterator[str]:
    order = list(paths)
    random.Random(seed).shuffle(order)
    for path in order:
        for text in documents.read(path, field):
            yield text[:characters]
            characters -= len(text)
            if characters <= 0:
                return


def _stamps(paths: Sequence[Path]) -> list[tuple[str, int, int]]:
    return [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]


def _key(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _dtype(card: TokenizerCard) -> str:
    return "uint16" if card.vocab_size <= 2**16 else "uint32"

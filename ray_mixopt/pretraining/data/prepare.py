"""From documents to a folder of token shards: in parallel, and going on where an interrupted run stopped.

The input of a domain is cut into units of a few megabytes, several files or a part of one. A worker process turns a
unit into one shard of training and one of validation tokens, and then writes a note of it. A unit whose note fits its
inputs and settings is not done again. What is new waits in a folder of its own until all of it is there and nothing can
be refused any more: a finished folder stays as it was until then. The manifest comes last: a folder without one is not
finished.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_mixopt.core.safety import check_file_names, write_atomically
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
from ray_mixopt.pretraining.data.parts import Part, cut
from ray_mixopt.pretraining.data.tokenizer import ByteTokenizer, JsonTokenizer, train_bpe
from ray_mixopt.pretraining.data.units import (
    METHOD,
    NEW,
    NOTES,
    Unit,
    dtype_of,
    key_of,
    remarks_about,
    stamps,
    tokenized,
)

TOKENIZER = "tokenizer.json"
_BPE = "bpe.json"
_UNIT_BYTES = 16 * 2**20
_MOST_UNITS = 10_000  # of a domain: those of a larger one are larger
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
        on_error: what becomes of what cannot be used as it is; see ``documents.OnError``.
        val_share: share of the documents kept for validation; near-duplicates stay together, see ``holdout``.
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
    on_error: documents.OnError = "stop"
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
        if not (self.out / NOTES).is_dir():
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
        for unit, note in tokenized([unit for unit in units if unit not in notes], self.workers):
            notes[unit] = note
            progress(unit.domain, unit.size, totals[unit.domain])
        by_domain = {name: [notes[unit] for unit in units if unit.domain == name] for name in files}
        domains = {name: _domain(name, found) for name, found in by_domain.items()}
        for name, found in by_domain.items():
            remarks += [f"{name}: {sentence}" for sentence in remarks_about(found)]
        manifest = Manifest.of(dtype=dtype_of(card), tokenizer=card, domains=domains, remarks=remarks)
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
        return self.out / NOTES / NEW

    def _units(self, domain: str, paths: Sequence[Path], card: TokenizerCard, tokenizer: Path) -> Iterator[Unit]:
        group: list[Part] = []
        most = max(_UNIT_BYTES, sum(path.stat().st_size for path in paths) // _MOST_UNITS)
        parts = [part for path in paths for part in cut(path, most)]
        number = 0
        for part in [*parts, None]:
            if group and (part is None or sum(other.size for other in group) + part.size > most):
                yield Unit(
                    out=self.out,
                    domain=domain,
                    number=number,
                    parts=tuple(group),
                    field=self.field,
                    on_error=self.on_error,
                    val_share=self.val_share,
                    seed=self.seed,
                    card=card,
                    tokenizer=tokenizer,
                )
                group, number = [], number + 1
            if part is not None:
                group.append(part)

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
        found = {name: stamps(paths) for name, paths in files.items()}
        key = key_of(METHOD, self.seed, vocab_size, self.eos, self.field, self.on_error, found)
        for folder, note in ((self.out, self.out / NOTES / _BPE), (self._new, self._new / _BPE)):
            if (folder / TOKENIZER).is_file() and note.is_file() and json.loads(note.read_text()) == key:
                return folder
        each = _BPE_SAMPLE // len(files)
        texts = (text for paths in files.values() for text in self._sample(paths, each))
        (self._new / _BPE).unlink(missing_ok=True)
        train_bpe(texts, vocab_size, self._new / TOKENIZER, self.eos)
        write_atomically(self._new / _BPE, json.dumps(key))
        return self._new

    def _sample(self, paths: Sequence[Path], characters: int) -> Iterator[str]:
        """Documents of files in random order, until there are so many characters."""
        order = list(paths)
        random.Random(self.seed).shuffle(order)
        for path in order:
            for text in documents.read(path, self.field, on_error=self.on_error):
                yield text[:characters]
                characters -= len(text)
                if characters <= 0:
                    return

    def _settle_tokenizer(self) -> None:
        note = self.out / NOTES / _BPE
        note.unlink(missing_ok=True)  # it is of the tokenizer that goes
        os.replace(self._new / TOKENIZER, self.out / TOKENIZER)
        if (self._new / _BPE).is_file():
            os.replace(self._new / _BPE, note)


def is_prepared(folder: Path) -> bool:
    """Whether shards in a folder were made here, rather than adopted or not at all."""
    return any((folder / NOTES).rglob("*.json"))


def _domain(name: str, notes: Sequence[Mapping[str, Any]]) -> Domain:
    splits = {}
    for label in SPLITS:
        shards = [Shard(**shard) for note in notes for shard in note[label]["shards"]]
        n_documents = sum(note[label]["documents"] for note in notes)
        if not shards:
            raise ValueError(
                f"The domain {name!r} has no {label} tokens: its documents are too few or nearly all alike, or the "
                "share of validation documents (--val-share) does not suit them."
            )
        splits[label] = Split(documents=n_documents, shards=shards)
    return Domain(**splits)


def _remove_stale(out: Path, units: Sequence[Unit], domains: Mapping[str, Domain]) -> None:
    """Removes the shards of units that an earlier run had and this one has not."""
    kept = {unit.note for unit in units}
    used = {shard.path for domain in domains.values() for label in SPLITS for shard in getattr(domain, label).shards}
    for path in (out / NOTES).glob("*-[0-9][0-9][0-9][0-9][0-9].json"):
        if path in kept:
            continue
        note = json.loads(path.read_text())
        for shard in (Shard(**shard) for label in SPLITS for shard in note[label]["shards"]):
            if shard.path not in used:
                (out / shard.path).unlink(missing_ok=True)
        path.unlink()

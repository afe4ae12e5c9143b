"""Pieces of the work of ``prepare``: some megabytes of documents that become two shards, and a note of that."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import signal
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

import numpy as np

from ray_mixopt.core.safety import write_atomically
from ray_mixopt.core.words import counted
from ray_mixopt.pretraining.data import documents
from ray_mixopt.pretraining.data.holdout import is_held_out
from ray_mixopt.pretraining.data.manifest import SPLITS, Shard, TokenizerCard
from ray_mixopt.pretraining.data.parts import Part
from ray_mixopt.pretraining.data.shards import check_ids, sample
from ray_mixopt.pretraining.data.tokenizer import load

NOTES = ".prepare"
NEW = "new"  # within the notes: what is to take its place in the folder, where it has the same paths
METHOD = 5  # how documents become tokens: what an earlier release made otherwise is made again
_ENDS = "spelling the token that ends a document, also as text: left out"
_LOST = "with characters that the tokenizer has no token for: left out, {:,} characters"
_BATCH = 256  # documents that are tokenized together
_MOST_NAMED = 3  # files that could not be read, of a domain


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A few input files of one domain, or parts of them, that become a shard of training and one of validation tokens.

    Args:
        out: folder of all shards.
        domain: by its name.
        number: of the unit within it.
        parts: what to read.
        field: JSON key or column of the text.
        on_error: see ``documents.OnError``.
        val_share: share of validation documents.
        seed: of their choice.
        card: of the tokenizer.
        tokenizer: folder of its file.
    """

    out: Path
    domain: str
    number: int
    parts: tuple[Part, ...]
    field: str
    on_error: documents.OnError
    val_share: float
    seed: int
    card: TokenizerCard
    tokenizer: Path

    @property
    def size(self) -> int:
        """Of its input, in bytes."""
        return sum(part.size for part in self.parts)

    @property
    def note(self) -> Path:
        """Where the note of the finished unit lies."""
        return self.out / NOTES / f"{self.domain}-{self.number:05d}.json"

    @property
    def _new(self) -> Path:
        return self.out / NOTES / NEW

    def _key(self) -> str:
        places = [(part.start, part.stop) for part in self.parts]
        inputs = stamps([part.path for part in self.parts]), places, self.field, self.on_error
        return key_of(METHOD, *inputs, self.val_share, self.seed, self.card.model_dump())

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
            shards = [Shard(**shard) for label in SPLITS for shard in note[label]["shards"]]
            fits = note["key"] == self._key() and all(self._there(shard, folder) for shard in shards)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return note if fits else None

    def _there(self, shard: Shard, folder: Path) -> bool:
        """Whether a file holds what was written to it."""
        kind = np.dtype(dtype_of(self.card)).newbyteorder("<")
        if (folder / shard.path).stat().st_size != shard.tokens * kind.itemsize:
            return False
        return shard.sample is None or sample(np.memmap(folder / shard.path, kind, "r")) == shard.sample

    def tokenize(self) -> dict[str, Any]:
        """Writes the shards and the note to where what is new waits, and returns the note."""
        tokenizer = _loaded(self.card, self.tokenizer)
        (self._new / self.note.name).unlink(missing_ok=True)
        (self._new / self.domain).mkdir(exist_ok=True)
        writers = {label: _ShardWriter(self._new / self._shard(label), self.card) for label in SPLITS}
        oddities: Counter[str] = Counter()
        broken: list[str] = []
        how: dict[str, Any] = {"on_error": self.on_error, "broken": broken}
        texts = (text for part in self.parts for text in documents.read(part, self.field, oddities, **how))
        while batch := list(itertools.islice(texts, _BATCH)):
            lost = tokenizer.lost(batch)
            oddities["lost"] += sum(n > 0 for n in lost)
            oddities["lost characters"] += sum(lost)
            for text, tokens in zip(batch, tokenizer.encode(batch), strict=True):
                if (tokens[:-1] == tokenizer.eos_id).any():  # where even as text it is that token
                    oddities["ends"] += 1
                    tokens = np.append(tokens[tokens != tokenizer.eos_id], tokens[-1])
                writers["val" if is_held_out(text, self.val_share, self.seed) else "train"].add(tokens)
        shards = {label: writer.close(self._shard(label)) for label, writer in writers.items()}
        odd = {what: n for what, n in oddities.items() if n}
        note = {"key": self._key(), "oddities": odd, "broken": broken, **shards}
        write_atomically(self._new / self.note.name, json.dumps(note))
        return note


class _ShardWriter:
    """Writes one headerless file of tokens; none at all if there are no tokens."""

    def __init__(self, path: Path, card: TokenizerCard) -> None:
        self._path = path
        self._file = path.open("wb")
        self._digest = hashlib.sha256()
        self._dtype = np.dtype(dtype_of(card)).newbyteorder("<")
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
        tokens = np.memmap(self._path, self._dtype, "r")
        shard = Shard(path=path, tokens=self._tokens, sha256=self._digest.hexdigest(), sample=sample(tokens))
        return {"documents": self._documents, "shards": [shard.model_dump()]}


def tokenized(units: Sequence[Unit], workers: int) -> Iterator[tuple[Unit, dict[str, Any]]]:
    """The units as they are finished."""
    if workers == 1 or len(units) <= 1:
        for unit in units:
            yield unit, unit.tokenize()
        return
    with ProcessPoolExecutor(min(workers, len(units)), get_context("spawn"), _one_thread) as pool:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        futures = {pool.submit(unit.tokenize): unit for unit in units}  # in processes that begin with this mask
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            for future in as_completed(futures):
                yield futures[future], future.result()
        except (KeyboardInterrupt, GeneratorExit):  # nobody waits for them; Ctrl-C is this process's to heed
            for child in active_children():
                child.kill()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


_loaded = lru_cache(maxsize=1)(load)  # a large vocabulary takes a second


def _one_thread() -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def remarks_about(notes: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What was odd about the documents of a domain, in sentences."""
    counts = sum((Counter(note["oddities"]) for note in notes), Counter())
    lost = _LOST.format(counts["lost characters"])
    for key, what in {**documents.ODDITIES, "ends": _ENDS, "lost": lost}.items():
        if counts[key]:
            yield f"{counted(counts[key], 'document')} {what}."
    if broken := list(dict.fromkeys(sentence for note in notes for sentence in note["broken"])):
        more = f" And {len(broken) - _MOST_NAMED:,} more." if len(broken) > _MOST_NAMED else ""
        yield (
            f"{counted(len(broken), 'file')} that cannot be read, or only in part: the rest is left out. "
            f"{' '.join(broken[:_MOST_NAMED])}{more}"
        )


def stamps(paths: Sequence[Path]) -> list[tuple[str, int, int]]:
    """What tells whether files are still the same: path, size and time."""
    return [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]


def key_of(*parts: Any) -> str:
    """What tells whether settings are still the same."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def dtype_of(card: TokenizerCard) -> str:
    """The narrowest dtype that holds all ids."""
    return "uint16" if card.vocab_size <= 2**16 else "uint32"

"""Token shards made elsewhere (OLMo, nanoGPT, llm.c, Megatron, NPY), used where they lie, with a manifest alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ray_mixopt.core.safety import check_file_names
from ray_mixopt.pretraining.data.manifest import SPLITS, Domain, Manifest, Shard, Split, TokenizerCard
from ray_mixopt.pretraining.data.prepare import Advance, is_prepared
from ray_mixopt.pretraining.data.shards import (
    CHUNK,
    Tokens,
    check_width,
    checksum,
    inside,
    inspect,
    megatron_index,
    sample,
)

_ENDS = 1000  # ends of documents that are looked at, of a shard
_NEARLY_ALL = 0.99  # of documents


@dataclass(frozen=True, kw_only=True)
class Adoption:
    """Which files to take in.

    Args:
        folder: where the manifest goes; all files lie below it.
        sources: patterns relative to the folder, by domain. Files whose name starts with "val" are validation data.
            Where there are none, the last ``val_tokens`` of the last files are, from the beginning of a document if
            one lies up to a tenth of them before, and Megatron's index or ``eos_id`` tells.
        dtype: of headerless files, "uint16" or "uint32"; files with a header or an index say it themselves.
        vocab_size: all token ids must be below it.
        eos_id: id that ends a document, if known.
        val_tokens: tokens to keep for validation, by domain.
        workers: number of threads that read the files.
    """

    folder: Path
    sources: Mapping[str, Sequence[str]]
    dtype: str = "uint16"
    vocab_size: int = 2**16
    eos_id: int | None = None
    val_tokens: int = 2**20
    workers: int = 1

    def run(self, progress: Advance = lambda domain, done, total: None) -> Manifest:
        """Reads all files once, for checksums and token ids, and writes the manifest.

        Raises:
            ValueError: if a file is no shard, is of another dtype, lies outside the folder or has unknown token ids.
        """
        check_file_names(self.sources, "A domain")
        if is_prepared(self.folder):
            raise ValueError(
                f"{self.folder} was made by prepare from documents, and its manifest knows their tokenizer: drop "
                "--in-place to go on with it, or name a folder of shards made elsewhere."
            )
        if self.vocab_size > np.iinfo(self.dtype).max + 1:
            raise ValueError(f"A vocabulary of {self.vocab_size} tokens does not fit {self.dtype}: see --dtype.")
        splits = {name: self._found(name) for name in self.sources}
        totals = {
            name: sum(shard.tokens for shards in split.values() for shard in shards) for name, split in splits.items()
        }
        domains, remarks = {}, [f"{name}: {said}" for name, split in splits.items() for said in self._ends(split)]
        with ThreadPoolExecutor(self.workers) as pool:
            for name, split in splits.items():
                checked: dict[str, Split] = {}
                for label in SPLITS:
                    shards = []
                    for shard in pool.map(self._checked, split[label]):
                        shards.append(shard)
                        progress(name, shard.tokens, totals[name])
                    checked[label] = Split(documents=self._documents(shards), shards=shards)
                domains[name] = Domain(**checked)
        card = TokenizerCard(kind="unknown", vocab_size=self.vocab_size, eos_id=self.eos_id)
        manifest = Manifest.of(dtype=self.dtype, tokenizer=card, domains=domains, remarks=remarks)
        manifest.write(self.folder)
        return manifest

    def _found(self, domain: str) -> dict[str, list[Shard]]:
        """The shards of a domain by split, without their checksums."""
        paths = sorted({path for pattern in self.sources[domain] for path in self._matches(pattern)})
        found: dict[str, list[Shard]] = {label: [] for label in SPLITS}
        for path in paths:
            file = inspect(path, self.dtype)
            if file.dtype != self.dtype:
                raise ValueError(f"{path} holds {file.dtype} tokens, the others {self.dtype}: see --dtype.")
            if not file.tokens:
                raise ValueError(f"{path} is empty.")
            relative = path.relative_to(self.folder).as_posix()
            shard = Shard(path=relative, offset=file.offset, tokens=file.tokens, sha256="0" * 64)
            inside(self.folder, shard.path)
            found["val" if path.name.startswith("val") else "train"].append(shard)
        if not found["val"]:
            self._hold_out(domain, found)
        if not found["train"]:
            raise ValueError(f"The domain {domain!r} has only validation files: one is to start with another word.")
        return found

    def _matches(self, pattern: str) -> list[Path]:
        if Path(pattern).is_absolute() or ".." in Path(pattern).parts:
            raise ValueError(f"{pattern!r} must be relative to {self.folder} and stay in it.")
        if not Path(pattern).parts:
            raise ValueError(f"{pattern!r} is the folder itself: name its files, for instance web/*.bin.")
        paths = [path for path in self.folder.glob(pattern) if path.is_file()]
        if not paths:
            raise ValueError(f"No file in {self.folder} matches {pattern!r}.")
        return paths

    def _hold_out(self, domain: str, found: dict[str, list[Shard]]) -> None:
        """Moves the last tokens from training to validation."""
        if sum(shard.tokens for shard in found["train"]) < 2 * self.val_tokens:
            raise ValueError(
                f"The domain {domain!r} has fewer than twice the {self.val_tokens} tokens to keep for validation: see "
                "--val-tokens."
            )
        width = np.dtype(self.dtype).itemsize
        wanted = self.val_tokens
        while wanted:
            last = found["train"].pop()
            taken = min(wanted, last.tokens)
            if taken == wanted:
                taken += self._back_to_border(last, last.tokens - taken)
            kept = last.tokens - taken
            if kept:
                found["train"].append(last.model_copy(update={"tokens": kept}))
            part = {"offset": last.offset + kept * width, "tokens": taken}
            found["val"].insert(0, last.model_copy(update=part))
            wanted -= min(wanted, taken)

    def _back_to_border(self, shard: Shard, place: int) -> int:
        """Tokens from a token of a shard back to the beginning of its document; 0 if that is not known, or too far."""
        reach = min(place, self.val_tokens // 10)
        if (borders := self._borders(shard)) is not None:
            before = borders[np.searchsorted(borders, place, side="right") - 1]
            return int(place - before) if place - before <= reach else 0
        if self.eos_id is None or not reach:
            return 0
        ends = np.flatnonzero(self._tokens(shard)[place - reach : place] == self.eos_id)
        return reach - int(ends[-1]) - 1 if len(ends) else 0

    def _borders(self, shard: Shard) -> NDArray[np.int64] | None:
        """Tokens before each document of a shard, and all of them, ``(n_documents + 1,)``; None without an index."""
        index = megatron_index(self.folder / shard.path)
        if index is None:
            return None
        first = shard.offset // np.dtype(self.dtype).itemsize
        inner = index.borders[(index.borders >= first) & (index.borders <= first + shard.tokens)]
        return np.unique(np.concatenate([[first], inner, [first + shard.tokens]])) - first

    def _documents(self, shards: Sequence[Shard]) -> int | None:
        """How many there are in shards, if that is known of all."""
        found = [borders for shard in shards if (borders := self._borders(shard)) is not None]
        return sum(len(borders) - 1 for borders in found) if len(found) == len(shards) else None

    def _ends(self, split: Mapping[str, Sequence[Shard]]) -> Iterator[str]:
        """What there is to say of the tokens that documents end with, where Megatron's index tells."""
        ends: Counter[int] = Counter()
        for shard in (shard for shards in split.values() for shard in shards):
            if (borders := self._borders(shard)) is not None:
                some = borders[1 :: max(1, len(borders) // _ENDS)]
                ends.update(self._tokens(shard)[some - 1].tolist())
        if not ends:
            return
        ((usual, n),), total = ends.most_common(1), ends.total()
        if self.eos_id is None and n >= _NEARLY_ALL * total > 1:
            yield f"its documents end with the token {usual}: say --eos-id {usual}, if that is what it stands for."
        elif self.eos_id is not None and ends[self.eos_id] < _NEARLY_ALL * total:
            share = ends[self.eos_id] / total
            yield (
                f"{share:.0%} of its documents end with the token {self.eos_id} (--eos-id): nothing stands between the "
                "others. Megatron's preprocess_data writes it with --append-eod."
            )

    def _tokens(self, shard: Shard) -> Tokens:
        kind = np.dtype(self.dtype).newbyteorder("<")
        return np.memmap(self.folder / shard.path, kind, "r", offset=shard.offset, shape=(shard.tokens,))

    def _checked(self, shard: Shard) -> Shard:
        """The shard with its checksums."""
        tokens = self._tokens(shard)
        check_width(tokens[:CHUNK], str(self.folder / shard.path))
        digest = checksum(tokens, self.vocab_size, str(self.folder / shard.path))
        return shard.model_copy(update={"sha256": digest, "sample": sample(tokens)})

"""``manifest.json``: what a folder of token shards holds.

A folder has one sub-folder a domain with shards of its training and its validation tokens. A shard is a run of
little-endian ``uint16`` or ``uint32`` token ids in a file: a headerless file as a whole, or a part of a file with a
header, such as a true NPY file. The manifest names them all, with sizes and checksums; its fingerprint stands for the
data as a whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from ray_mixopt.core.safety import MiB, check_file_name, check_size, check_version, parse_json, write_atomically
from ray_mixopt.pretraining.mistakes import explain

MANIFEST = "manifest.json"
VERSION = 1
MOST_BYTES = 64 * MiB
MAX_DOMAINS = 1000
MAX_SHARDS = 100_000

SPLITS = ("train", "val")


def _inside(path: str) -> str:
    parts = PurePosixPath(path)
    if not path or parts.is_absolute() or ".." in parts.parts or "\\" in path or "\0" in path:
        raise ValueError(f"the path {path!r} leads out of the folder of the manifest")
    return path


RelativePath = Annotated[str, StringConstraints(max_length=1024), AfterValidator(_inside)]
Remark = Annotated[str, StringConstraints(max_length=4096, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]
Checksum = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
DomainName = Annotated[str, AfterValidator(lambda name: check_file_name(name, "A domain"))]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Shard(_Model):
    """A run of tokens in a file.

    Args:
        path: of the file, relative to the folder.
        offset: bytes before the first token.
        tokens: number of tokens.
        sha256: of the bytes of these tokens.
        sample: SHA-256 of some of them, see ``shards.sample``, by which others in their place are noticed when the data
            are opened; manifests of earlier releases have none.
    """

    path: RelativePath
    offset: int = Field(default=0, ge=0)
    tokens: int = Field(gt=0)
    sha256: Checksum
    sample: Checksum | None = None


class Split(_Model):
    """The shards of one domain for training or for validation; ``documents`` where they were counted."""

    documents: int | None = Field(default=None, ge=0)
    shards: list[Shard] = Field(max_length=MAX_SHARDS)

    @property
    def tokens(self) -> int:
        """Tokens in all shards."""
        return sum(shard.tokens for shard in self.shards)


class Domain(_Model):
    """Training and validation tokens of one domain."""

    train: Split
    val: Split


class TokenizerCard(_Model):
    """Which tokenizer made the tokens.

    Args:
        kind: "bytes", "json" (``path`` is a file of the ``tokenizers`` library), or "unknown" (made elsewhere).
        vocab_size: token ids are below it.
        eos_id: id that ends every document, if there is one.
        path: of the tokenizer's file, relative to the folder.
        sha256: of that file.
    """

    kind: Literal["bytes", "json", "unknown"]
    vocab_size: int = Field(gt=0, le=2**32)
    eos_id: int | None = Field(default=None, ge=0)
    path: RelativePath | None = None
    sha256: Checksum | None = None


class Manifest(_Model):
    """The contents of a folder of token shards.

    ``remarks`` are sentences about what was odd about the documents. They tell nothing of the tokens: the fingerprint
    leaves them out.
    """

    version: Literal[1]
    dtype: Literal["uint16", "uint32"]
    tokenizer: TokenizerCard
    domains: dict[DomainName, Domain] = Field(min_length=1, max_length=MAX_DOMAINS)
    fingerprint: Checksum
    remarks: list[Remark] = Field(default=[], max_length=MAX_DOMAINS * 10)

    @model_validator(mode="before")
    @classmethod
    def _known_version(cls, data: object) -> object:
        check_version(data, "a manifest", VERSION)
        return data

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        if self.tokenizer.vocab_size > np.iinfo(self.dtype).max + 1:
            raise ValueError(f"a vocabulary of {self.tokenizer.vocab_size} tokens does not fit {self.dtype}")
        if self.tokenizer.eos_id is not None and self.tokenizer.eos_id >= self.tokenizer.vocab_size:
            raise ValueError(f"eos_id {self.tokenizer.eos_id} is beyond the {self.tokenizer.vocab_size} tokens")
        for name, domain in self.domains.items():
            for label in SPLITS:
                if not getattr(domain, label).shards:
                    raise ValueError(f"the domain {name!r} is empty: it has no {label} tokens")
        self._check_overlaps()
        if self.fingerprint != fingerprint(self.model_dump()):
            raise ValueError("its fingerprint does not fit its contents: it was edited or is damaged; prepare again")
        return self

    def _check_overlaps(self) -> None:
        """Checks that no token is there twice, above all not for training and for validation."""
        width = np.dtype(self.dtype).itemsize
        shards = [
            (label, f"the {label} tokens of {name!r}", shard)
            for name, domain in self.domains.items()
            for label in SPLITS
            for shard in getattr(domain, label).shards
        ]
        shards.sort(key=lambda item: (item[-1].path, item[-1].offset))
        for (_, one, before), (_, other, shard) in pairwise(shards):
            if shard.path == before.path and shard.offset < before.offset + before.tokens * width:
                raise ValueError(f"{shard.path} is among {one} and again among {other}: a token can be there once")
        seen: dict[str, tuple[str, str, Shard]] = {}
        for label, which, shard in shards:  # copies and links have other names
            first, other, same = seen.setdefault(shard.sha256, (label, which, shard))
            if first != label:
                raise ValueError(
                    f"{shard.path}, of {which}, holds the same as {same.path}, of {other}: what a model is validated "
                    "with, it must not be trained on"
                )

    @classmethod
    def of(
        cls, *, dtype: str, tokenizer: TokenizerCard, domains: dict[str, Domain], remarks: Sequence[str] = ()
    ) -> Manifest:
        """The manifest of these domains, with its fingerprint.

        Raises:
            ValueError: if they make no valid manifest.
        """
        content = {
            "version": VERSION,
            "dtype": dtype,
            "tokenizer": tokenizer.model_dump(),
            "domains": {name: domain.model_dump() for name, domain in domains.items()},
        }
        about = {"fingerprint": fingerprint(content), "remarks": [_printable(remark) for remark in remarks]}
        return _validated(content | about, "The data")

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """The manifest of a folder.

        Raises:
            ValueError: if there is none, or it is malformed; the message says what and where.
        """
        path = folder / MANIFEST
        if not path.is_file():
            raise ValueError(f"{folder} holds no {MANIFEST}: make it with `ray-mixopt prepare`.")
        check_size(path, path.stat().st_size, MOST_BYTES)
        try:
            data = parse_json(path.read_bytes())
        except ValueError as error:
            raise ValueError(f"{path} is not JSON: {error}.") from error
        return _validated(data, str(path))

    def write(self, folder: Path) -> None:
        """Writes the manifest, all of it or nothing."""
        write_atomically(folder / MANIFEST, json.dumps(self.model_dump(), indent=1, ensure_ascii=False))


def _printable(remark: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in remark)[:4096]


def fingerprint(content: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest's contents, which hold the checksums of all shards; samples say no more of them."""
    plain = {key: value for key, value in content.items() if key not in ("fingerprint", "remarks", "domains")}
    plain["domains"] = {
        name: {
            label: split
            | {"shards": [{key: shard[key] for key in shard if key != "sample"} for shard in split["shards"]]}
            for label, split in domain.items()
        }
        for name, domain in content["domains"].items()
    }
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _validated(data: object, what: str) -> Manifest:
    try:
        return Manifest.model_validate(data)
    except ValidationError as error:
        raise ValueError(explain(error, where=f"{what} cannot be used")) from error

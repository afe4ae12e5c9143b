"""What every format of a blend starts from: the shares of its domains, where their data are, and names as text."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ray_mixopt.core.safety import number
from ray_mixopt.core.space import MixtureSpace

DIGITS = 6
# What YAML 1.1 takes for the end of a line, or for a character that must not stand in a file, and JSON does not.
_ESCAPED = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
_LONGEST_KEY = 1000  # YAML allows 1024
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where the data of the domains are, and how long their documents.

    Args:
        paths: files, folders or names of datasets, by domain, as the format's program takes them. A domain without
            any stands in the blend with its own name.
        tokens_per_document: mean length of a domain's documents in tokens, by domain. A format whose weights count
            documents needs it of every domain that has a share; where all examples have one length, as packed
            sequences do, any one number will do.

    Raises:
        ValueError: for paths that are not text, or a length that is not a positive number.
    """

    paths: Mapping[str, Sequence[str]] = field(default_factory=dict)
    tokens_per_document: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        paths = {}
        for domain, given in self.paths.items():
            if isinstance(given, str) or not all(isinstance(path, str) and path.strip() for path in given):
                raise ValueError(f"The paths of {domain!r} must be a list of non-empty strings, got {given!r}.")
            paths[domain] = tuple(given)
        lengths = {}
        for domain, length in self.tokens_per_document.items():
            lengths[domain] = number(length, f"The tokens per document of {domain!r}")
            if lengths[domain] <= 0:
                raise ValueError(f"The tokens per document of {domain!r} must be above 0, got {length!r}.")
        object.__setattr__(self, "paths", paths)
        object.__setattr__(self, "tokens_per_document", lengths)

    def of(self, domain: str) -> tuple[str, ...]:
        """The paths of a domain, or its name where none is known."""
        return tuple(self.paths.get(domain, ())) or (domain,)


NO_SOURCES = Sources()


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A phase of a run as a program is told it.

    Attributes:
        phase: its name.
        start: training step at which it begins.
        shares: in the format's unit, by domain.
        trained: whether that is past.
    """

    phase: str
    start: int
    shares: Mapping[str, float]
    trained: bool = False


@dataclass(frozen=True, kw_only=True)
class Blend:
    """A format in which training code takes a mixture.

    Args:
        write: the text of a file, from shares in the format's unit, the space, and the sources.
        schedule: the text of a file with the mixtures of all phases of a run; None where a file holds one mixture.
        reader: what reads the file, for people.
        suffix: of the file, with its dot.
        counts: what a weight is a share of. Documents may be samples or rows: whatever is drawn at once.
        paths: whether the program looks for data at what stands in the file; "one" if a weight is that of one path.
        caution: what must be so for the weights to be right, as a sentence; "" where nothing must.
    """

    write: Callable[[Mapping[str, float], MixtureSpace, Sources], str]
    reader: str
    suffix: str
    schedule: Callable[[Sequence[Stage], Sources], str] | None = None
    counts: Literal["tokens", "documents"] = "tokens"
    paths: Literal["any", "one", "none"] = "any"
    caution: str = ""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One path of a domain, for a format in which every path has a weight.

    Attributes:
        domain: whose it is.
        path: where the data are.
        place: of the path among those of its domain, from 0.
        among: how many those are; each has an equal part of the domain's share.
        weight: that part, as text.
    """

    domain: str
    path: str
    place: int
    among: int
    weight: str


def pieces(shares: Mapping[str, float], sources: Sources) -> list[Piece]:
    """The paths of the domains that have a share, with their weights."""
    found = []
    for domain, share in shares.items():
        if share > 0:
            paths = sources.of(domain)
            weight = decimal(share) if len(paths) == 1 else f"{share / len(paths):.{DIGITS + 4}f}"
            found += [
                Piece(domain=domain, path=path, place=place, among=len(paths), weight=weight)
                for place, path in enumerate(paths)
            ]
    return found


def rounded(mixture: Mapping[str, float]) -> dict[str, float]:
    """Shares to six digits that sum to exactly 1; the rounding error goes to the largest."""
    units = {domain: round(share * 10**DIGITS) for domain, share in mixture.items()}
    largest = max(units, key=lambda domain: units[domain])
    units[largest] += 10**DIGITS - sum(units.values())
    return {domain: n / 10**DIGITS for domain, n in units.items()}


def of_documents(mixture: Mapping[str, float], lengths: Mapping[str, float], reader: str) -> dict[str, float]:
    """Shares of documents that give these shares of tokens.

    Args:
        mixture: shares of tokens by domain.
        lengths: mean tokens of a document, by domain.
        reader: for the error.

    Raises:
        ValueError: if a domain that has a share has no length.
    """
    if missing := [domain for domain, share in mixture.items() if share > 0 and domain not in lengths]:
        raise ValueError(
            f"{reader} draws documents, not tokens, so that shares of tokens would be wrong as its weights, by as much "
            f"as documents differ in length. Say the mean length of those of {', '.join(map(repr, missing))}: "
            "Sources(tokens_per_document={domain: tokens}) or --tokens-per-document DOMAIN=TOKENS, once a domain; "
            "where all examples have one length, as packed sequences do, that length for all, "
            "--tokens-per-document TOKENS."
        )
    weights = {domain: share / lengths[domain] if share > 0 else 0.0 for domain, share in mixture.items()}
    total = sum(weights.values())
    return {domain: weight / total for domain, weight in weights.items()}


def decimal(share: float) -> str:
    """A share with its six digits, never as a power of ten, which YAML 1.1 would take for text."""
    return f"{share:.{DIGITS}f}"


def quoted(text: str) -> str:
    """A text in double quotes that JSON and YAML read as the same.

    Raises:
        ValueError: for half of a character, which no file can hold.
    """
    if _SURROGATE.search(text):
        raise ValueError(f"{text!r} holds half a character (a surrogate), which no file can hold: rename it.")
    text = json.dumps(text, ensure_ascii=False)
    return _ESCAPED.sub(lambda found: f"\\u{ord(found.group()):04x}", text)


def yaml_key(text: str) -> str:
    """``quoted``, as a key of YAML.

    Raises:
        ValueError: as ``quoted``, and for a text that is too long for one.
    """
    key = quoted(text)
    if len(key) > _LONGEST_KEY:
        raise ValueError(f"{text[:20]!r}... has {len(text):,} characters, too many for a name in YAML: shorten it.")
    return key


def unresolved(text: str) -> str:
    """The text itself, if OmegaConf would leave it as it is.

    Raises:
        ValueError: if OmegaConf, which reads the file, would put another value in the place of ``${...}``.
    """
    if "${" in text:
        raise ValueError(f"{text!r} holds '${{', in the place of which OmegaConf puts another value: rename it.")
    return text

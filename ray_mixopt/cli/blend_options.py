"""Options of commands that write blends: where the data are that a blend is of, and how long its documents."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ray_mixopt.core.space import MixtureSpace
    from ray_mixopt.io.blends import Sources

# Those of io.blends, which a command does not load to say so.
FORMATS = (
    *("json", "yaml", "megatron", "nemo", "olmo-core", "torchtitan", "litgpt", "interleave", "ray-data", "mosaic"),
    *("levanter", "energon"),
)
_PATH, _LENGTH = "DOMAIN=PATH, for instance web=/data/web", "DOMAIN=TOKENS, for instance web=1200"


@dataclass(frozen=True)
class AboutData:
    """What the options say of the data.

    Args:
        paths: ``DOMAIN=PATH`` each.
        lengths: ``DOMAIN=TOKENS`` each, or one ``TOKENS`` for all domains.
    """

    paths: Sequence[str] = ()
    lengths: Sequence[str] = ()

    def check(self, kind: str | None, option: str) -> None:
        """Checks, before anything is computed, that a format heeds what is said.

        Args:
            kind: name of the format; None where no blend is asked for.
            option: which asks for one.

        Raises:
            ValueError: naming an option that would not be heeded.
        """
        from ray_mixopt.io.blends import BLENDS

        if kind is None and (self.paths or self.lengths):
            raise ValueError(f"--path and --tokens-per-document are about a blend: give {option} FORMAT, or drop them.")
        if kind is not None and self.paths and BLENDS[kind].paths == "none":
            raise ValueError(f"--path says where data are, for which {option} {kind} has no place: drop it.")
        if kind is not None and self.lengths and BLENDS[kind].counts == "tokens":
            raise ValueError(
                f"--tokens-per-document is for formats whose weights count documents, and those of {kind} count "
                "tokens: drop it."
            )

    def sources(self, space: MixtureSpace) -> Sources:
        """The same by domain.

        Raises:
            ValueError: for a text that is none, or an unknown domain.
        """
        from ray_mixopt.io.blends import Sources

        paths: dict[str, list[str]] = {}
        for text in self.paths:
            domain, path = _parted(text, space, "--path", _PATH)
            paths.setdefault(domain, []).append(path)
        lengths: dict[str, float] = {}
        for text in self.lengths:
            if (number := _number(text)) is not None:
                found = dict.fromkeys(space.domains, number)
            else:
                domain, rest = _parted(text, space, "--tokens-per-document", _LENGTH)
                if (number := _number(rest)) is None:
                    raise ValueError(
                        f"--tokens-per-document is {_LENGTH}, or one number for all domains, got {text!r}."
                    )
                found = {domain: number}
            if twice := sorted(found.keys() & lengths):
                raise ValueError(f"--tokens-per-document names {twice[0]!r} twice.")
            lengths |= found
        return Sources(paths=paths, tokens_per_document=lengths)


def data_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that say what a blend has to know of the data; the command gets ``data``, an ``AboutData``."""

    @click.option("--path", "paths", metavar="DOMAIN=PATH", multiple=True, help="Where its data are; repeatable.")
    @click.option(
        "--tokens-per-document",
        "lengths",
        metavar="DOMAIN=TOKENS",
        multiple=True,
        help="Mean length of its documents, for weights that count these; TOKENS alone for all domains; repeatable.",
    )
    @functools.wraps(command)
    def wrapped(*, paths: Sequence[str], lengths: Sequence[str], **rest: Any) -> Any:
        return command(data=AboutData(paths, lengths), **rest)

    return wrapped


def _parted(text: str, space: MixtureSpace, option: str, example: str) -> tuple[str, str]:
    """The domain and the rest of ``DOMAIN=REST``; both may hold "=", and the longest domain that fits is meant."""
    fitting = [domain for domain in space.domains if text.startswith(f"{domain}=")]
    if not fitting:
        if "=" not in text:
            raise ValueError(f"{option} is {example}, got {text!r}.")
        raise ValueError(f"{option} {text!r} begins with no domain: there are {', '.join(space.domains)}.")
    domain = max(fitting, key=len)
    return domain, text[len(domain) + 1 :]


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None

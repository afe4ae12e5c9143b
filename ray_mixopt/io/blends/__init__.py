"""A mixture as a file that training code takes: one format a program, by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ray_mixopt.core.space import MixtureSpace
from ray_mixopt.io.blends import formats
from ray_mixopt.io.blends.base import NO_SOURCES, Blend, Sources, of_documents, rounded

__all__ = ["BLENDS", "Blend", "Sources", "blend", "remarks"]

BLENDS: Mapping[str, Blend] = MappingProxyType(
    {
        "json": Blend(write=formats.json_text, reader="JSON", suffix=".json", needs_paths=False),
        "yaml": Blend(write=formats.yaml_text, reader="YAML", suffix=".yaml", needs_paths=False),
        "olmo-core": Blend(write=formats.olmo_core, reader="OLMo-core", suffix=".yaml"),
        "megatron": Blend(write=formats.megatron, reader="Megatron-LM", suffix=".txt"),
    }
)


def blend(kind: str, mixture: Mapping[str, float], space: MixtureSpace, sources: Sources = NO_SOURCES) -> str:
    """A mixture as the text of a file, which ends with a newline.

    Args:
        kind: name of the format, one of ``BLENDS``.
        mixture: shares of tokens by domain, all of the space's. They are rounded to six digits.
        space: whose mixture it is.
        sources: where the data of the domains are, and how long their documents.

    Raises:
        ValueError: for an unknown format or domain, a name or a path that the format cannot hold, or a format whose
            weights count documents where it is not known how long these are.
    """
    form = _known(kind)
    unknown = sorted({*sources.paths, *sources.tokens_per_document} - set(space.domains))
    if unknown:
        raise ValueError(f"The sources name {unknown}, which are no domains: the space has {', '.join(space.domains)}.")
    shares = space.named(space.mixture(mixture))
    if form.counts == "documents":
        shares = of_documents(shares, sources.tokens_per_document, form.reader)
    return form.write(rounded(shares), space, sources)


def remarks(kind: str, mixture: Mapping[str, float], sources: Sources = NO_SOURCES) -> tuple[str, ...]:
    """What to know about a blend before it is used, in sentences; none where it can be used as it is."""
    form = _known(kind)
    bare = [domain for domain, share in rounded(mixture).items() if share > 0 and not sources.paths.get(domain)]
    if not form.needs_paths or not bare:
        return ()
    names = ", ".join(map(repr, bare))
    return (f"No path is known for {names}: the name stands where {form.reader} looks for data.",)


def _known(kind: str) -> Blend:
    if kind not in BLENDS:
        raise ValueError(f"Unknown format {kind!r} of a blend: choose one of {', '.join(BLENDS)}.")
    return BLENDS[kind]

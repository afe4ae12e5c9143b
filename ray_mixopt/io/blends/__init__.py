"""A mixture as a file that training code takes: one format a program, by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType

from ray_mixopt.core.space import MixtureSpace
from ray_mixopt.io.blends import arguments, configs, megatron
from ray_mixopt.io.blends.base import DIGITS, NO_SOURCES, Blend, Sources, of_documents, rounded

__all__ = ["BLENDS", "NO_SOURCES", "Blend", "Sources", "blend", "remarks"]

BLENDS: Mapping[str, Blend] = MappingProxyType(
    {
        "json": Blend(write=arguments.json_text, reader="JSON", suffix=".json", paths="none"),
        "yaml": Blend(write=arguments.yaml_text, reader="YAML", suffix=".yaml", paths="none"),
        "megatron": Blend(write=megatron.megatron, reader="Megatron-LM", suffix=".txt", paths="one"),
        "nemo": Blend(write=megatron.nemo, reader="Megatron-Bridge", suffix=".yaml", paths="one"),
        "olmo-core": Blend(write=configs.olmo_core, reader="OLMo-core", suffix=".yaml"),
        "torchtitan": Blend(
            write=arguments.torchtitan,
            reader="torchtitan",
            suffix=".json",
            paths="one",
            caution="The weights are shares of tokens if every dataset is packed before it is mixed, as torchtitan 0.3 "
            "does; where documents are mixed and packed afterwards, they are wrong.",
        ),
        "litgpt": Blend(
            write=arguments.litgpt,
            reader="LitGPT",
            suffix=".json",
            paths="one",
            caution="The weights are shares of tokens if the datasets have items of one length, as those that "
            "TokensLoader(block_size) cuts have.",
        ),
        "interleave": Blend(
            write=arguments.interleave, reader="interleave_datasets", suffix=".json", counts="documents"
        ),
        "ray-data": Blend(write=arguments.ray_data, reader="Ray Data", suffix=".json", counts="documents"),
        "mosaic": Blend(
            write=configs.mosaic, reader="MosaicML Streaming", suffix=".yaml", counts="documents", paths="one"
        ),
        "levanter": Blend(write=configs.levanter, reader="Levanter", suffix=".yaml"),
        "energon": Blend(write=megatron.energon, reader="Energon", suffix=".yaml", counts="documents", paths="one"),
    }
)


def blend(
    kind: str, mixture: Mapping[str, float], space: MixtureSpace, sources: Sources = NO_SOURCES, *, note: str = ""
) -> str:
    """A mixture as the text of a file, which ends with a newline.

    YAML begins with the ``remarks`` as comments; JSON and the list of Megatron-LM have no place for them.

    Args:
        kind: name of the format, one of ``BLENDS``.
        mixture: shares of tokens by domain, all of the space's. They are rounded to six digits. Of several phases, such
            shares by phase, which JSON alone holds.
        space: whose mixture it is.
        sources: where the data of the domains are, and how long their documents.
        note: a further comment, before the remarks.

    Raises:
        ValueError: for an unknown format or domain, a name or a path that the format cannot hold, or a format whose
            weights count documents where it is not known how long these are.
    """
    form = _known(kind)
    if space.phase_names:
        if kind != "json":
            space.check_one_mixture(f"{form.reader} takes")
        each = {phase: rounded(shares) for phase, shares in space.named(space.mixture(mixture)).items()}
        return json.dumps(each, indent=2, ensure_ascii=False) + "\n"
    unknown = sorted({*sources.paths, *sources.tokens_per_document} - set(space.domains))
    if unknown:
        raise ValueError(f"The sources name {unknown}, which are no domains: the space has {', '.join(space.domains)}.")
    shares = space.named(space.mixture(mixture))
    if form.counts == "documents":
        shares = of_documents(shares, sources.tokens_per_document, form.reader)
    notes = [line for line in note.splitlines() if line]
    said = (*("".join(c if c.isprintable() else "?" for c in line) for line in notes), *remarks(kind, shares, sources))
    head = "".join(f"# {one}\n" for one in said) if form.suffix == ".yaml" else ""
    return head + form.write(rounded(shares), space, sources)


def remarks(kind: str, mixture: Mapping[str, float], sources: Sources = NO_SOURCES) -> tuple[str, ...]:
    """What to know about a blend before it is used, in sentences; none where it can be used as it is.

    Args:
        kind: name of the format.
        mixture: shares by domain.
        sources: as for ``blend``.

    Raises:
        ValueError: for an unknown format.
    """
    form, said = _known(kind), []
    used = [domain for domain, share in mixture.items() if round(share, DIGITS) > 0]
    bare = [domain for domain in used if not sources.paths.get(domain)]
    if form.paths != "none" and bare:
        names = ", ".join(map(repr, bare))
        said.append(f"No path is known for {names}: the name stands where {form.reader} looks for data.")
    several = [domain for domain in used if len(sources.of(domain)) > 1]
    if form.paths == "one" and several:
        names = ", ".join(map(repr, several))
        said.append(
            f"The share of {names} is divided equally among its paths, whatever they hold: where they differ in size, "
            "the small ones are repeated first."
        )
    lengths = {sources.tokens_per_document[domain] for domain in used if domain in sources.tokens_per_document}
    if form.counts == "documents" and len(lengths) > 1:
        said.append("The weights count documents: shares of tokens, divided by the mean length of the documents.")
    return (*said, *([form.caution] if form.caution else []))


def _known(kind: str) -> Blend:
    if kind not in BLENDS:
        raise ValueError(f"Unknown format {kind!r} of a blend: choose one of {', '.join(BLENDS)}.")
    return BLENDS[kind]

"""A mixture as a file that training code takes: one format a program, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from ray_mixopt.core.phases import searched
from ray_mixopt.core.space import MixtureSpace
from ray_mixopt.core.words import by_phase
from ray_mixopt.io.blends import arguments, configs, megatron
from ray_mixopt.io.blends.base import DIGITS, NO_SOURCES, Blend, Sources, Stage, of_documents, rounded

__all__ = ["BLENDS", "NO_SOURCES", "Blend", "Sources", "blend", "parts", "remarks"]

BLENDS: Mapping[str, Blend] = MappingProxyType(
    {
        "json": Blend(
            write=arguments.json_text,
            schedule=arguments.json_schedule,
            reader="JSON",
            suffix=".json",
            paths="none",
        ),
        "yaml": Blend(
            write=arguments.yaml_text,
            schedule=arguments.yaml_schedule,
            reader="YAML",
            suffix=".yaml",
            paths="none",
        ),
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
        "levanter": Blend(
            write=configs.levanter, schedule=configs.levanter_schedule, reader="Levanter", suffix=".yaml"
        ),
        "energon": Blend(write=megatron.energon, reader="Energon", suffix=".yaml", counts="documents", paths="one"),
    }
)


def parts(kind: str, space: MixtureSpace) -> tuple[str, ...]:
    """The phases of which a format needs a file each; one part, "", where a file holds all of a run's.

    Raises:
        ValueError: for an unknown format.
    """
    return ("",) if _known(kind).schedule else space.phase_names or ("",)


def blend(
    kind: str,
    mixture: Mapping[str, Any],
    space: MixtureSpace,
    sources: Sources = NO_SOURCES,
    *,
    note: str = "",
    phase: str = "",
    steps: int | None = None,
) -> str:
    """A mixture as the text of a file, which ends with a newline.

    YAML begins with the ``remarks`` as comments; JSON and the list of Megatron-LM have no place for them.

    Args:
        kind: name of the format, one of ``BLENDS``.
        mixture: shares of tokens by domain, all of the space's, or such shares by phase. They are rounded to six
            digits.
        space: whose mixture it is.
        sources: where the data of the domains are, and how long their documents.
        note: a further comment, before the remarks.
        phase: of several, the one that the file is of; "" for all, which not all formats hold, see ``parts``.
        steps: training steps of the whole run, which say where its phases begin; those of the target by default.

    Raises:
        ValueError: for an unknown format, domain or phase, a name or a path that the format cannot hold, several phases
            where it holds one, or a format whose weights count documents where it is not known how long these are.
    """
    form = _known(kind)
    unknown = sorted({*sources.paths, *sources.tokens_per_document} - set(space.domains))
    if unknown:
        raise ValueError(f"The sources name {unknown}, which are no domains: the space has {', '.join(space.domains)}.")
    each = by_phase(space.named(space.mixture(mixture)))
    if phase and phase not in space.phase_names:
        raise ValueError(f"There is no phase {phase!r} to write: there are {', '.join(space.phase_names) or 'none'}.")
    if len(each) > 1 and not phase and form.schedule is None:
        raise ValueError(
            f"{form.reader} takes one mixture a file, and the space has one for each of the phases "
            f"{', '.join(space.phase_names)}: say of which (recommend --phase, in Python blend(phase=...)), or take a "
            f"format that holds all: {', '.join(name for name in BLENDS if BLENDS[name].schedule)}."
        )

    def weights(shares: Mapping[str, float]) -> dict[str, float]:
        counted = shares
        if form.counts == "documents":
            counted = of_documents(shares, sources.tokens_per_document, form.reader)
        return rounded(counted)

    if len(each) > 1 and phase:
        each, space = {phase: each[phase]}, _alone(space, phase)
    said = [line for line in note.splitlines() if line]
    if form.schedule is not None and len(each) > 1:
        text = form.schedule(_stages(space, {name: weights(of) for name, of in each.items()}, steps), sources)
        about: Mapping[str, Any] = each
    else:
        (about,) = each.values()
        text = form.write(weights(about), space, sources)
        alone = phase or "".join(of.name for of in searched(space.phases))
        said += [f"Of the phase {alone}."] if alone else []
    printable = ["".join(c if c.isprintable() else "?" for c in line) for line in said]
    head = [*printable, *remarks(kind, about, sources)] if form.suffix == ".yaml" else []
    return "".join(f"# {one}\n" for one in head) + text


def _alone(space: MixtureSpace, phase: str) -> MixtureSpace:
    """A space of runs that are the phase alone, as far as blends heed it: domains, supply and demand."""
    (fraction,) = (of.fraction for of in space.phases if of.name == phase)
    tokens = None if space.target_tokens is None else fraction * space.target_tokens
    return replace(space, phases=(), lower={}, upper={}, groups=(), target_tokens=tokens)


def _stages(space: MixtureSpace, each: Mapping[str, Mapping[str, float]], steps: int | None) -> list[Stage]:
    """All phases of a run of so many steps, those trained already too, given the weights of those that are searched."""
    whole, before, found = steps or space.target_steps, 0.0, list[Stage]()
    for phase in space.phases:
        if trained := phase.mixture is not None:
            shares: Mapping[str, float] = rounded({name: phase.mixture.get(name, 0.0) for name in space.domains})
        else:
            shares = each[phase.name]
        found.append(Stage(phase=phase.name, start=round(before * whole), shares=shares, trained=trained))
        before += phase.fraction
    if len({whole, *(stage.start for stage in found)}) <= len(found):
        names = ", ".join(map(str, space.phases))
        raise ValueError(f"A run of {whole} steps is too short for its phases to begin at different ones: {names}.")
    return found


def remarks(kind: str, mixture: Mapping[str, Any], sources: Sources = NO_SOURCES) -> tuple[str, ...]:
    """What to know about a blend before it is used, in sentences; none where it can be used as it is.

    Args:
        kind: name of the format.
        mixture: shares by domain, or by phase and domain.
        sources: as for ``blend``.

    Raises:
        ValueError: for an unknown format.
    """
    form, said, each = _known(kind), [], by_phase(mixture)
    domains = next(iter(each.values()), {})
    used = [domain for domain in domains if any(round(shares[domain], DIGITS) > 0 for shares in each.values())]
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
    if kind == "levanter" and len(each) > 1:
        said.append("Steps at which weights change, times the batch size, must be multiples of mixture_block_size.")
    return (*said, *([form.caution] if form.caution else []))


def _known(kind: str) -> Blend:
    if kind not in BLENDS:
        raise ValueError(f"Unknown format {kind!r} of a blend: choose one of {', '.join(BLENDS)}.")
    return BLENDS[kind]

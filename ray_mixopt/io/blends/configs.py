"""Blends as YAML configurations of their programs: OLMo-core, Levanter, MosaicML Streaming."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ray_mixopt.core.safety import check_file_names
from ray_mixopt.core.space import MixtureSpace
from ray_mixopt.io.blends.base import Sources, Stage, decimal, pieces, quoted, unresolved, yaml_key

_FINE = 1e4  # a ratio of repetition is written to four digits, rounded up: below what is needed, OLMo-core stops


def olmo_core(shares: Mapping[str, float], space: MixtureSpace, sources: Sources) -> str:
    """YAML of an OLMo-core ``SourceMixtureList``: one source a domain that has a share.

    Where the space knows supply and demand, ``max_repetition_ratio`` is what it allows, and a comment says
    ``requested_tokens``, which belongs to the ``SourceMixtureDatasetConfig`` around it.
    """
    lines = []
    if space.mixture_tokens is not None:
        lines.append(f"# requested_tokens of the SourceMixtureDatasetConfig: {math.ceil(space.mixture_tokens)}")
    lines.append("sources:")
    for domain, share in shares.items():
        if share > 0:
            lines += [f"  - source_name: {quoted(domain)}", f"    target_ratio: {decimal(share)}"]
            if space.mixture_tokens is not None and domain in space.token_supply:
                needed = share * math.ceil(space.mixture_tokens) / space.token_supply[domain]
                ratio = max(space.max_epochs, math.ceil(needed * _FINE) / _FINE, 1.0)
                lines.append(f"    max_repetition_ratio: {ratio:.10g}")
            lines.append(f"    paths: [{', '.join(map(quoted, sources.of(domain)))}]")
    return "\n".join(lines) + "\n"


def levanter(shares: Mapping[str, float], space: MixtureSpace, sources: Sources) -> str:
    """YAML of the ``data`` of a configuration of Levanter: ``components`` and ``train_weights``.

    Raises:
        ValueError: for a domain that cannot be the name of a folder, which a component's cache has.
    """
    used = [domain for domain, share in shares.items() if share > 0]
    lines = [*_components(used, sources), "train_weights:"]
    lines += [f"  {yaml_key(domain)}: {decimal(shares[domain])}" for domain in used]
    return "\n".join(lines) + "\n"


def levanter_schedule(stages: Sequence[Stage], sources: Sources) -> str:
    """The same, whose ``train_weights`` are a list of ``[step, weights]``: from which training step on which hold.

    Raises:
        ValueError: as ``levanter``.
    """
    used = [domain for domain in stages[0].shares if any(stage.shares[domain] > 0 for stage in stages)]
    lines = [*_components(used, sources), "train_weights:"]
    for stage in stages:
        weights = ", ".join(f"{yaml_key(domain)}: {decimal(stage.shares[domain])}" for domain in used)
        lines.append(f"  - [{stage.start}, {{{weights}}}]")
    return "\n".join(lines) + "\n"


def _components(domains: Sequence[str], sources: Sources) -> list[str]:
    check_file_names(domains, "The name of a domain")
    lines = ["components:"]
    for domain in domains:
        urls = ", ".join(map(quoted, sources.of(domain)))
        lines += [f"  {yaml_key(domain)}:", "    source:", "      type: url", f"      train_urls: [{urls}]"]
    return lines


def mosaic(shares: Mapping[str, float], space: MixtureSpace, sources: Sources) -> str:
    """YAML of the ``streams`` of a MosaicML ``StreamingDataset``, by name, each with its ``proportion``.

    A path with ``://`` is where to stream from, ``remote``, any other where the data are, ``local``.

    Raises:
        ValueError: if the name of a stream would be there twice, since a domain with several paths has several.
    """
    lines, names = ["streams:"], set()
    for piece in pieces(shares, sources):
        name = f"{piece.domain} {piece.place + 1}" if piece.among > 1 else piece.domain
        if name in names:
            raise ValueError(f"The stream {name!r} would be there twice: rename the domain, or give it one path.")
        names.add(name)
        where = "remote" if "://" in piece.path else "local"
        lines += [f"  {yaml_key(unresolved(name))}:", f"    {where}: {quoted(unresolved(piece.path))}"]
        lines.append(f"    proportion: {piece.weight}")
    return "\n".join(lines) + "\n"

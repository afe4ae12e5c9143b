"""The formats of blends: a function each, from shares that are rounded already."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ray_mixopt.core.space import MixtureSpace
from ray_mixopt.io.blends.base import Sources, decimal, quoted


def json_text(shares: Mapping[str, float], space: MixtureSpace, sources: Sources) -> str:
    """One JSON object, ``{domain: share}``; sources are not for it."""
    lines = ",\n".join(f"  {quoted(domain)}: {decimal(share)}" for domain, share in shares.items())
    return f"{{\n{lines}\n}}\n"


def yaml_text(shares: Mapping[str, float], space: MixtureSpace, sources: Sources) -> str:
    """The same as YAML, one line a domain, with names in quotes so that ``no`` and ``1`` stay names."""
    return "".join(f"{quoted(domain)}: {decimal(share)}\n" for domain, share in shares.items())


def olmo_core(shares: Mapping[str, float], space: MixtureSpace, sources: Sources) -> str:
    """YAML of an OLMo-core ``SourceMixtureDatasetConfig``: one source a domain that has a share.

    ``max_repetition_ratio`` and ``requested_tokens`` are there where the space knows them.
    """
    lines = []
    if space.target_tokens is not None:
        lines.append(f"requested_tokens: {math.ceil(space.target_tokens)}")
    lines += ["source_list:", "  sources:"]
    for domain, share in shares.items():
        if share > 0:
            lines += [f"    - source_name: {quoted(domain)}", f"      target_ratio: {decimal(share)}"]
            if space.target_tokens is not None and domain in space.token_supply:
                lines.append(f"      max_repetition_ratio: {max(space.max_epochs, 1.0):g}")
            lines.append(f"      paths: [{', '.join(map(quoted, sources.of(domain)))}]")
    return "\n".join(lines) + "\n"


def megatron(shares: Mapping[str, float], space: MixtureSpace, sources: Sources) -> str:
    """Weights and prefixes of datasets in turn, as ``--data-args-path`` reads them from a file.

    Raises:
        ValueError: for a prefix that the arguments of a command could not hold.
    """
    lines = []
    for domain, share in shares.items():
        if share > 0:
            paths = sources.of(domain)
            for path in paths:
                if path.split() != [path] or path.startswith("-"):
                    raise ValueError(
                        f"Megatron splits its list at blanks and takes a leading '-' for an option: {path!r} of the "
                        f"domain {domain!r} cannot stand in it; give it another path."
                    )
            lines += [f"{decimal(share / len(paths))} {path}" for path in paths]
    return "\n".join(lines) + "\n"

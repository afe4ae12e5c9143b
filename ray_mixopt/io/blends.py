"""A mixture in the words of training code."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

from ray_mixopt.core.space import MixtureSpace

_DIGITS = 6


def rounded(mixture: Mapping[str, float]) -> dict[str, float]:
    """Shares to six digits that sum to exactly 1; the rounding error goes to the largest."""
    units = {domain: round(share * 10**_DIGITS) for domain, share in mixture.items()}
    largest = max(units, key=lambda domain: units[domain])
    units[largest] += 10**_DIGITS - sum(units.values())
    return {domain: n / 10**_DIGITS for domain, n in units.items()}


def olmo_core(mixture: Mapping[str, float], space: MixtureSpace) -> str:
    """YAML of an OLMo-core ``SourceMixtureDatasetConfig``: one source a domain that has a share.

    ``max_repetition_ratio`` and ``requested_tokens`` are there where the space knows them; ``paths`` are the user's.
    """
    lines = []
    if space.target_tokens is not None:
        lines.append(f"requested_tokens: {math.ceil(space.target_tokens)}")
    lines += ["source_list:", "  sources:"]
    for domain, share in rounded(mixture).items():
        if share > 0:
            lines += [f"    - source_name: {json.dumps(domain)}", f"      target_ratio: {share:.{_DIGITS}f}"]
            if space.target_tokens is not None and domain in space.token_supply:
                lines.append(f"      max_repetition_ratio: {max(space.max_epochs, 1.0):g}")
            lines.append("      paths: []  # the token files of this domain")
    return "\n".join(lines) + "\n"


def weight_list(mixture: Mapping[str, float]) -> str:
    """YAML of two lists in the same order, as torchtitan, litgpt and others take datasets and their weights."""
    shares = {domain: share for domain, share in rounded(mixture).items() if share > 0}
    names = ", ".join(map(json.dumps, shares))
    weights = ", ".join(f"{share:.{_DIGITS}f}" for share in shares.values())
    return f"datasets: [{names}]\nweights: [{weights}]\n"

"""Whether the data can feed the target run: its length, the limits on shares, and how often data may be repeated."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ray_mixopt.core.supply import WORTHLESS
from ray_mixopt.core.words import fidelity, listed
from ray_mixopt.pretraining.config import PretrainConfig

_SLACK = 1e-9
_REMEDY = "lower steps or batch_tokens, or prepare more data"
_UNCUT = "lower simulate_tokens, steps or batch_tokens, or prepare more data"  # which is what cuts them


def check_supply(config: PretrainConfig) -> None:
    """Checks that there is a mixture which the target can be trained on.

    Args:
        config: of a search, whose domains are known.

    Raises:
        ValueError: naming the domain, the tokens that it has and those that are wanted of it, and what to change.
    """
    _check_shares(config)
    asked, most = config.target_tokens, config.max_repetition_ratio
    run = f"{fidelity(config.target_scale, config.target_steps)} of {config.batch(config.target_scale):,} tokens"
    there = {name: config.usable_tokens(name) for name in config.mixed_domains}
    simulated = config.simulate_tokens
    cut = "" if simulated is None else f", cut down for simulate_tokens: {simulated:g}"
    remedy = _REMEDY if simulated is None else _UNCUT
    for name, share in config.lower.items():
        if name in there and (passes := share * asked / there[name]) > most * (1 + _SLACK):
            raise ValueError(
                f"lower.{name}: {share:g} of the target's {asked:,} tokens ({run}) is {share * asked:,.0f}, and "
                f"{name!r} has {there[name]:,.0f}{cut}: that is {passes:.3g} passes, and max_repetition_ratio allows "
                f"{most:g}. Lower that share, {_more(passes)}{remedy}."
            )
    caps = {name: min(config.upper.get(name, 1.0), most * tokens / asked) for name, tokens in there.items()}
    if sum(caps.values()) >= 1 - _SLACK:
        return
    given = sum(caps.values()) * asked
    limited = " and the shares in upper" if any(caps[name] < most * there[name] / asked for name in caps) else ""
    change = _more(_least(config)) + remedy
    raise ValueError(
        f"The target, {run}, asks for {asked:,} tokens, and with max_repetition_ratio: {most:g}{limited} the "
        f"data{cut and f'{cut},'} give {given:,.0f}: {listed(list(_gives(config, caps)))}. "
        f"{change[0].upper()}{change[1:]}."
    )


def _check_shares(config: PretrainConfig) -> None:
    """Checks the limits on shares as such, whatever the data."""
    domains = config.mixed_domains
    for name in domains:
        if (least := config.lower.get(name, 0.0)) > (largest := config.upper.get(name, 1.0)):
            raise ValueError(
                f"lower.{name}: {least:g} is above upper.{name}: {largest:g}: lower the one or raise the other."
            )
    if (total := sum(config.lower.values())) > 1 + _SLACK:
        raise ValueError(f"lower: the shares {_pairs(config.lower)} sum to {total:g}, above 1: lower some of them.")
    if (total := sum(config.upper.get(name, 1.0) for name in domains)) < 1 - _SLACK:
        raise ValueError(f"upper: the shares {_pairs(config.upper)} sum to {total:g}, below 1: raise some of them.")


def _gives(config: PretrainConfig, caps: dict[str, float]) -> Iterator[str]:
    """What each domain can give, such as "code 1,000 x 4 passes"."""
    for name, cap in caps.items():
        passes = cap * config.target_tokens / config.usable_tokens(name)
        yield f"{name} {config.usable_tokens(name):,.0f} x {passes:.3g} passes"


def _least(config: PretrainConfig) -> float:
    """The fewest passes with which all domains together feed the target."""
    free = {name: config.usable_tokens(name) for name in config.mixed_domains}
    wanted = float(config.target_tokens)
    while True:  # a domain at its upper limit gives no more, however often it is repeated: the others must
        passes = wanted / sum(free.values())
        full = [
            name
            for name in free
            if passes * free[name] > config.upper.get(name, 1.0) * config.target_tokens * (1 + _SLACK)
        ]
        if not full:
            return passes
        for name in full:
            wanted -= config.upper[name] * config.target_tokens
            del free[name]


def _more(passes: float) -> str:
    """What is said of passes that would do: nothing where the later ones are worth nothing."""
    return f"raise max_repetition_ratio to {_up(passes):g}, " if passes <= WORTHLESS else ""


def _up(passes: float) -> float:
    """Passes as one would write them, and no fewer."""
    scale = 10 ** (1 - math.floor(math.log10(passes)))
    return math.ceil(passes * scale - _SLACK) / scale


def _pairs(shares: dict[str, float]) -> str:
    return ", ".join(f"{name}: {share:g}" for name, share in shares.items())

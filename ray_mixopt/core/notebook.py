"""What a notebook shows of a space, a history or a recommendation: HTML of a sentence and tables, nothing more.

Names of domains, scales and runs are strangers' text: all of it is escaped, here and nowhere else.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

MOST_ROWS = 20


def paragraph(text: str) -> str:
    """A sentence or two."""
    return f"<p>{html.escape(text)}</p>"


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table whose first column names its rows.

    Args:
        caption: what it is about.
        head: a name a column.
        rows: as many cells each; None is shown as a dash, a number as it is written here.
    """
    top = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in head)
    body = "".join(
        f'<tr><th scope="row">{_cell(first)}</th>{"".join(f"<td>{_cell(value)}</td>" for value in rest)}</tr>'
        for first, *rest in rows
    )
    return f"<table><caption>{html.escape(caption)}</caption><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def of_space(space: Mapping[str, Any]) -> str:
    """A space as tables.

    Args:
        space: what ``MixtureSpace.to_dict`` says of it.
    """
    scale, steps = space["target"]
    lower, upper, supply = space["lower"], space["upper"], space["token_supply"]
    domains: list[tuple[Any, ...]] = [
        (name, f"{lower.get(name, 0):.1%}", f"{upper.get(name, 1):.1%}", supply.get(name)) for name in space["domains"]
    ]
    groups = [(" and ".join(g["domains"]), f"{g['least']:.1%}", f"{g['most']:.1%}", None) for g in space["groups"]]
    scales = [
        (s["name"], s["parameters"], s["cost_per_step"], ", ".join(f"{z:,}" for z in s.get("steps", space["steps"])))
        for s in space["scales"]
    ]
    phases = [(p["name"], f"{p['fraction']:.1%}", _trained_on(p.get("mixture"))) for p in space.get("phases", ())]
    return (
        paragraph(f"{len(domains)} domains; the target is {scale} at step {steps:,}.")
        + table("Domains", ("Domain", "At least", "At most", "Tokens there are"), domains + groups)
        + table("Scales", ("Scale", "Parameters", "Cost of a step", "Rungs"), scales)
        + (table("Phases", ("Phase", "Of a run", "Mixture"), phases) if phases else "")
    )


def _trained_on(mixture: Mapping[str, float] | None) -> str:
    if mixture is None:
        return "searched"
    return ", ".join(f"{name} {share:.1%}" for name, share in mixture.items() if share)


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return html.escape(f"{value:,.10g}" if isinstance(value, int | float) else str(value))

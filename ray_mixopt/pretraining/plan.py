"""What a search by pre-training is going to do and to cost, before anything runs."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from ray_mixopt.pretraining.config import PretrainConfig


def plan_tables(config: PretrainConfig) -> Iterator[Table | str]:
    """The plan of a checked configuration, as tables and sentences."""
    yield _scales(config)
    yield _domains(config)
    yield from _budget(config)


def _scales(config: PretrainConfig) -> Table:
    space = config.space
    table = Table(title="Models")
    for name in ("scale", "parameters", "FLOPs/token"):
        table.add_column(name, no_wrap=True)  # in a narrow terminal the others are
    table.add_column("memory")
    table.add_column("workers", min_width=7)
    for rung in space.steps:
        table.add_column(f"to {rung}", justify="right")
    for scale in config.scales:
        cost, execution = config.model_cost(scale), scale.execution or config.execution
        needs = ", ".join(f"{amount:g} {kind}" for kind, amount in scale.resources.total.items())
        table.add_row(
            scale.name,
            f"{cost.parameters:,}",
            f"{cost.flops_per_token:.3g}",
            f"~{_bytes(cost.memory_bytes(execution, scale.resources.workers))}",
            f"{scale.resources.workers} ({needs})",
            *(f"{space.cost(scale.name, rung) / space.target_cost:.1%}" for rung in space.steps),
        )
    table.caption = (
        f"{config.batch_tokens:,} tokens a step, in sequences of {config.sequence_length}. Memory is an "
        "estimate, of one worker. The last columns are costs, in runs at the target."
    )
    return table


def _domains(config: PretrainConfig) -> Table:
    space, manifest = config.space, config.manifest
    mixtures = {"uniform": space.uniform(), "proportional": space.proportional()}
    highest = space.corners().max(0)  # (d,)
    table = Table("domain", "train tokens", "used", "highest", title="Data")
    for name in mixtures:
        table.add_column(name, justify="right")
    for number, name in enumerate(space.domains):
        used = space.token_supply[name]
        epochs = []
        for mixture in mixtures.values():
            share = 0.0 if mixture is None else float(mixture[number])
            epochs.append(f"{share * config.target_tokens / used:.2f}")
        tokens = manifest.domains[name].train.tokens
        table.add_row(name, f"{tokens:,}", f"{used:,.0f}", f"{highest[number]:.1%}", *epochs)
    table.caption = (
        f"The last columns are epochs of these mixtures at the target, {space.target_scale} x {space.target_steps:,} "
        f"steps, {config.target_tokens:,} tokens; at most {config.max_repetition_ratio:g}."
    )
    return table


def _budget(config: PretrainConfig) -> Iterator[str]:
    space, search = config.space, config.search
    budget = search.budget * space.target_cost
    unit = "seconds" if config.cost == "seconds" else "FLOPs"
    small, rung = space.scales[0].name, space.steps[0]
    n_small = int(budget / space.cost(small, rung))
    yield (
        f"Budget: {search.budget:g} runs at the target, {budget:.3g} {unit}; as much as {n_small:,} runs of {small} to "
        f"{rung:,} steps."
    )
    objective = " + ".join(f"{weight:g} {name}" for name, weight in config.objective.items())
    yield f"Objective: {search.mode} {objective}, strategy {search.strategy}, seed {search.seed}."
    yield f"Results go to {config.storage}/{config.name}."


def _bytes(n: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n < 1024:
            return f"{n:.3g} {unit}"
        n /= 1024
    return f"{n:.3g} TiB"

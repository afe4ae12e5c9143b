"""Before anything runs: whether a search by pre-training can be done, what it starts from, does and costs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from rich.table import Table

from ray_mixopt.core.history import History
from ray_mixopt.core.merging import concerning, translated
from ray_mixopt.core.words import amount, counted, duration, fidelity
from ray_mixopt.io.runs import Source, read_runs, told_apart
from ray_mixopt.optimizer import MixtureOptimizer
from ray_mixopt.pretraining.config import MEAN_LOSS, TRACKER_PACKAGES, PretrainConfig
from ray_mixopt.pretraining.estimate import device_speed, estimate
from ray_mixopt.pretraining.proxies import PROXY_SHARE
from ray_mixopt.pretraining.sections import ScaleSettings
from ray_mixopt.pretraining.supply import check_supply

_MOST_NAMED = 5  # tasks in an error


def check(config: PretrainConfig) -> None:
    """Checks all that can be checked before a worker starts, without Ray.

    Args:
        config: of the search.

    Raises:
        ValueError: for the first thing that does not fit; one sentence.
    """
    from ray_mixopt.pretraining.training.downstream import check_evaluation
    from ray_mixopt.pretraining.training.train import open_data

    check_supply(config)
    space = config.space
    MixtureOptimizer(space, config.search_settings)  # which checks them
    least, small, rung = min((space.cost(name, rung), name, rung) for name, rung in space.fidelities)
    if config.budget < least:
        raise ValueError(
            f"search.budget={config.search.budget:g} runs at the target buys none at all: the cheapest, "
            f"{fidelity(small, rung)}, costs {least / space.target_cost:.2g}."
        )
    losses = ["val_loss"] if config.manifest.tokenizer.kind == "unknown" else ["val_loss", "bits_per_byte"]
    metrics = {f"{loss}/{name}" for loss in losses for name in config.manifest.domains} | {MEAN_LOSS, "train_loss"}
    tasks = () if config.evaluation is None else check_evaluation(config.evaluation, config.manifest)
    if unknown := sorted(
        name for name in set(config.objective) - metrics if not name.startswith(tuple(f"lm_eval/{t}/" for t in tasks))
    ):
        there = sorted(metrics) + [f"lm_eval/{task}/..." for task in tasks[:_MOST_NAMED]]
        more = f" and {len(tasks) - _MOST_NAMED} more tasks" if len(tasks) > _MOST_NAMED else ""
        raise ValueError(f"No run reports the metric {unknown[0]!r}: there are {', '.join(there)}{more}.")
    for scale in config.scales:
        run = config.run(space.named(space.uniform()), scale.name, config.rungs(scale.name)[-1])
        if run.optimization.warmup_steps > run.steps:
            raise ValueError(
                f"A warm-up of {run.optimization.warmup_steps} steps is longer than the longest run of scale "
                f"{scale.name!r}, {run.steps} steps, which would never reach its learning rate: give the scale "
                "warmup_steps of its own, or none to have them by rule."
            )
        groups = run.execution.groups(scale.resources.workers)
        if run.batch_sequences % groups:
            raise ValueError(
                f"A step's {run.batch_sequences} sequences cannot be dealt out evenly to the "
                f"{scale.resources.workers} workers of scale {scale.name!r}."
            )
    open_data(config.run(space.named(space.uniform()), space.target_scale, space.target_steps))
    if config.decay is not None and config.decay.steps > config.target_steps:
        raise ValueError(f"decay.steps={config.decay.steps} is more than the target's {config.target_steps} steps.")
    for name in config.tracking:
        if find_spec(TRACKER_PACKAGES[name]) is None:
            raise ValueError(f"tracking with {name} needs a package: pip install {TRACKER_PACKAGES[name]}.")
    if config.cluster is not None:
        check_resources(config.scales, [config.cluster])


def check_resources(scales: list[ScaleSettings], nodes: Sequence[Mapping[str, float]]) -> None:
    """Checks that every scale finds room on the nodes that there can ever be.

    Args:
        scales: to check.
        nodes: resources of each node; those of a cluster as a whole where its nodes are not known.

    Raises:
        ValueError: naming the scale, what it needs and what there is.
    """
    for scale in scales:
        resources = scale.resources
        each = _amounts(resources.each) + (f" and the labels {resources.labels}" if resources.labels else "")
        if (fitting := resources.fitting(nodes)) < resources.workers:
            raise ValueError(
                f"Scale {scale.name!r} needs {resources.workers} workers with {each} each, the "
                f"cluster has room for {fitting} at most, with {', '.join(map(_amounts, nodes)) or 'no nodes'}: lower "
                "its resources, or say with `cluster` how far it can grow."
            )


def _amounts(resources: Mapping[str, float]) -> str:
    return " and ".join(f"{amount:g} {kind}" for kind, amount in resources.items() if kind in ("CPU", "GPU"))


def earlier_runs(config: PretrainConfig) -> dict[str, History]:
    """The runs that a configuration starts from, by their source, in the domains and for the target of its search.

    Files that do not say what a step of a scale costs are read with the cost and the size it has in the search.

    Raises:
        ValueError: if they cannot be read or have no place in the search, or none reports a metric of the objective.
    """
    space = config.space
    source = Source(
        cost={scale.name: scale.cost_per_step for scale in space.scales},
        parameters={scale.name: float(scale.parameters or 0) for scale in space.scales},
        noise=config.search.earlier_noise,
    )
    found = {}
    for name, path in told_apart(config.search.earlier).items():
        try:
            history = read_runs(path, source)
            found[name] = translated(history, space, concerning(config.domain_map, history))
        except ValueError as error:
            raise ValueError(f"The earlier runs at {path} cannot be taken in: {error}") from error
        known = found[name].metrics
        if not set(known) & set(config.objective):
            raise ValueError(
                f"None of the runs at {path} reports {' or '.join(config.objective)}: they have "
                f"{', '.join(known) or 'no metrics'}."
            )
    return found


def plan(config: PretrainConfig, earlier: Mapping[str, History]) -> dict[str, Any]:
    """The plan of a checked configuration, JSON-able. Costs are in runs at the target, memory in bytes a worker.

    Args:
        config: what is planned.
        earlier: the runs that the search starts from, by path; see ``earlier_runs``.
    """
    space, search = config.space, config.search
    budget = config.budget
    small, rung = space.fidelities[0]
    return {
        "models": [_model(config, scale.name) for scale in config.scales],
        "sequence_length": config.sequence_length,
        "phases": config.phases,
        "domains": {name: _domain(config, number) for number, name in enumerate(space.domains)},
        "target": {"scale": space.target_scale, "steps": space.target_steps, "tokens": config.target_tokens},
        "max_repetition_ratio": config.max_repetition_ratio,
        "proxy_share": _proxy_share(config),
        "budget": {
            "target_runs": search.budget,
            "cost": budget,
            "unit": "seconds" if config.cost == "seconds" else "FLOPs",
            "smallest_runs": int(budget / space.cost(small, rung)),
        },
        "objective": config.objective,
        "mode": search.mode,
        "strategy": search.strategy,
        "seed": search.seed,
        "estimate": estimate(config, None if config.cost == "seconds" else device_speed(config)),
        "earlier_runs": {path: len(history) for path, history in earlier.items()},
        "remarks": config.manifest.remarks,
        "results": config.experiment,
    }


def plan_tables(plan: Mapping[str, Any]) -> Iterator[Table | str]:
    """A plan as tables and sentences, to be printed one after the other."""
    yield _models_table(plan)
    yield _runs_table(plan)
    yield _costs_table(plan)
    yield _domains_table(plan)
    if plan["phases"]:
        yield f"Phases of each run, all of which are searched: {', then '.join(map(_phase, plan['phases']))}."
    budget, small = plan["budget"], plan["models"][0]
    rung, full = next(iter(small["cost"])), budget["target_runs"]
    lasts = f", {duration(budget['cost'])} of training" if budget["unit"] == "seconds" else ""
    yield (
        f"Budget: {full:g} run{'' if full == 1 else 's'} at the target{lasts}; as much "
        f"as {counted(budget['smallest_runs'], 'run')} of {small['scale']} to {counted(int(rung), 'step')}."
    )
    yield _lasts(plan["estimate"])
    objective = " + ".join(f"{weight:g} {name}" for name, weight in plan["objective"].items())
    yield f"Objective: {plan['mode']} {objective}, strategy {plan['strategy']}, seed {plan['seed']}."
    if plan["earlier_runs"]:
        given = ", ".join(f"{number} of {path}" for path, number in plan["earlier_runs"].items())
        yield f"Earlier runs, at no cost: {given}."
    yield from (f"Data, {remark}" for remark in plan["remarks"])
    yield f"Results go to {plan['results']}."


def _model(config: PretrainConfig, name: str) -> dict[str, Any]:
    space, scale = config.space, config.scale(name)
    cost, execution = config.model_cost(scale), scale.execution or config.execution
    return {
        "scale": scale.name,
        "parameters": cost.parameters,
        "flops_per_token": cost.flops_per_token,
        "batch_tokens": config.batch(scale.name),
        "learning_rate": config.recipe(scale.name).learning_rate,
        "warmup_steps": config.recipe(scale.name).warmup_steps,
        "supply_fraction": config.supply_fraction(scale.name),
        "matched_epochs": config.matched(scale.name),
        "tokens": space.rungs(scale.name)[-1] * config.batch(scale.name),
        "checkpoint_bytes": cost.bytes_of_checkpoint,
        "memory_bytes": cost.memory_bytes(execution, scale.resources.workers),
        "workers": scale.resources.workers,
        "resources": dict(scale.resources.total),
        "cost": {str(rung): space.cost(scale.name, rung) / space.target_cost for rung in space.rungs(scale.name)},
    }


def _phase(phase: Mapping[str, Any]) -> str:
    """Its name, its part of a run, and its own limits."""
    limits = "; ".join(f"{name} {json.dumps(of)}" for name, of in phase.items() if name not in ("name", "fraction"))
    return f"{phase['name']} ({phase['fraction']:.0%}{limits and f'; {limits}'})"


def _proxy_share(config: PretrainConfig) -> float | None:
    """The share of the rule's learning rate that scales below the target take; None where none goes by the rule."""
    by_rule = any(scale.learning_rate is None and scale.name != config.target_scale for scale in config.scales)
    if config.optimization.learning_rate is not None or not by_rule:
        return None
    return config.optimization.proxy_share or PROXY_SHARE


def _domain(config: PretrainConfig, number: int) -> dict[str, Any]:
    space = config.space
    name = space.domains[number]
    used = space.token_supply[name]
    mixtures = {"uniform": space.uniform(), "proportional": space.proportional()}
    known = {label: space.simplex.mean(mixture[None])[0] for label, mixture in mixtures.items() if mixture is not None}
    shares = {label: float(known[label][number]) if label in known else 0.0 for label in mixtures}
    return {
        "train_tokens": config.manifest.domains[name].train.tokens,
        "used_tokens": used,
        "highest_share": float(space.simplex.mean(space.corners()).max(0)[number]),
        "epochs": {label: share * config.target_tokens / used for label, share in shares.items()},
    }


def _models_table(plan: Mapping[str, Any]) -> Table:
    models: Sequence[Mapping[str, Any]] = plan["models"]
    table = _table("scale", "parameters", "FLOPs\n/token", "memory", "batch", "rate", title="Models")
    table.add_column("workers", min_width=7)  # which alone may take several lines
    for model in models:
        needs = ", ".join(f"{number:g} {kind}" for kind, number in model["resources"].items())
        table.add_row(
            model["scale"],
            f"{model['parameters']:,}",
            f"{model['flops_per_token']:.3g}",
            f"~{_bytes(model['memory_bytes'])}",
            f"{model['batch_tokens']:,}",
            f"{model['learning_rate']:.2g}",
            f"{model['workers']} ({needs})",
        )
    batches = {model["batch_tokens"] for model in models}
    batch = f"{batches.pop():,} tokens a step" if len(batches) == 1 else "The batch is the tokens of a step"
    share = plan["proxy_share"]
    gently = ""
    if share is not None:
        gently = (
            f" Below the target the rate is {share:g} of the rule's: small models trained gently rank mixtures more "
            "like the target does (optimization.proxy_share)."
        )
    table.caption = (
        f"{batch}, in sequences of {plan['sequence_length']}. Memory is an estimate for one worker, of weights, "
        f"gradients, optimizer and activations: Python and its libraries come on top.{gently}"
    )
    return table


def _runs_table(plan: Mapping[str, Any]) -> Table:
    hours = plan["estimate"]["run_hours"]
    table = _table(
        "scale",
        "steps",
        "tokens",
        "warm-\nup",
        "data\nused",
        "epochs /\ntarget's",
        "check-\npoint",
        title="Longest runs",
    )
    table.add_column("time", justify="right", min_width=6)
    for model in plan["models"]:
        table.add_row(
            model["scale"],
            f"{int(max(model['cost'], key=int)):,}",
            f"{model['tokens']:.3g}",
            f"{model['warmup_steps']:,}",
            f"{model['supply_fraction']:.2g}",
            f"{model['matched_epochs']:.3g}",
            f"~{_bytes(model['checkpoint_bytes'])}",
            duration(3600 * hours[model["scale"]]) if hours else "unknown",
        )
    table.caption = (
        "A run uses so much of each domain that at its end it has passed over it as often as the target at its own, "
        "where the ratio of epochs is 1."
    )
    return table


def _costs_table(plan: Mapping[str, Any]) -> Table:
    table = _table("scale", title="Costs, in runs at the target")
    table.add_column("to its rungs")
    for model in plan["models"]:
        table.add_row(model["scale"], ", ".join(f"{cost:.1%} to {int(rung):,}" for rung, cost in model["cost"].items()))
    return table


def _table(*columns: str, title: str) -> Table:
    """A table whose columns keep their width: in a narrow terminal others give way, and no number is cut."""
    table = Table(title=title)
    for number, name in enumerate(columns):
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    return table


def _lasts(estimate: Mapping[str, Any]) -> str:
    """How long the training of the whole budget takes."""
    if estimate["basis"] is None:
        return (
            "How long it takes is not known before the first runs: give the peak_flops of a device in execution to "
            "have it estimated."
        )
    time, workers = duration(3600 * estimate["hours"]), counted(estimate["workers"], "worker")
    return (
        f"Its training takes about {time} with {workers} at a time ({estimate['device_hours']:,.3g} worker-hours), "
        f"{estimate['basis']}. Each run's start and validation come on top."
    )


def _domains_table(plan: Mapping[str, Any]) -> Table:
    table = _table("domain", "train\ntokens", "used", "highest", "uniform", "propor-\ntional", title="Data")
    for name, domain in plan["domains"].items():
        epochs = (f"{number:.3g}" for number in domain["epochs"].values())
        used, highest = amount(domain["used_tokens"]), f"{domain['highest_share']:.1%}"
        table.add_row(name, amount(domain["train_tokens"]), used, highest, *epochs)
    target = plan["target"]
    table.caption = (
        "Highest is the largest share that a mixture can have of a domain, by upper, lower and max_repetition_ratio. "
        "The last columns are epochs, passes over the tokens used, in a target run of that mixture: "
        f"{target['scale']} x {target['steps']:,} steps, {target['tokens']:,} tokens. A mixture may have "
        f"{plan['max_repetition_ratio']:g} at most."
    )
    return table


def _bytes(n: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n < 1024:
            return f"{n:.3g} {unit}"
        n /= 1024
    return f"{n:.3g} TiB"

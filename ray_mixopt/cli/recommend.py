"""``ray-mixopt recommend`` and ``ray-mixopt export``: answers from runs that were made already."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ray_mixopt.cli.options import (
    as_json_option,
    bad_arguments,
    examples,
    objective_options,
    one_thread,
    pairs,
    scatter_option,
)

if TYPE_CHECKING:
    from ray_mixopt.core.history import History
    from ray_mixopt.core.merging import DomainMap
    from ray_mixopt.core.objective import Mode, Objective
    from ray_mixopt.core.space import MixtureSpace
    from ray_mixopt.optimizer import MixtureOptimizer

FORMATS = ("csv", "parquet", "olmix", "regmix")


def source_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that say where old runs are; the command gets ``histories`` by name, and more."""

    @click.option(
        "--from",
        "sources",
        metavar="PATH",
        multiple=True,
        required=True,
        help="Tune experiment, replay, history JSON, CSV, Parquet, RegMix or olmix folder, or pickle; repeatable.",
    )
    @click.option("--scale-cost", metavar="SCALE=COST", multiple=True, help="Cost of a step; once a scale.")
    @click.option("--scale-parameters", metavar="SCALE=NUMBER", multiple=True, help="Parameters; once a scale.")
    @click.option("--scale", default="model", show_default=True, help="Scale of olmix's runs, which do not say.")
    @click.option("--steps", type=click.IntRange(min=1), default=1, show_default=True, help="Of olmix and RegMix runs.")
    @click.option(
        "--target", metavar="SCALE:STEPS", help="Where the best mixture is wanted.  [default: the largest run]"
    )
    @scatter_option
    @click.option("--unpickle", is_flag=True, help="Read a pickle of data-recipes, pandas and numpy objects only.")
    @click.option(
        "--domains",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="JSON file with what became of domains: renamed, split, dropped.",
    )
    @wraps(command)
    def wrapped(
        *,
        sources: Sequence[str],
        scale_cost: Sequence[str],
        scale_parameters: Sequence[str],
        scale: str,
        steps: int,
        target: str | None,
        scatter: Mapping[str, float],
        unpickle: bool,
        domains: Path | None,
        **rest: Any,
    ) -> Any:
        from ray_mixopt.core.merging import DomainMap
        from ray_mixopt.io import searches
        from ray_mixopt.io.runs import Source, read_runs

        with bad_arguments():
            source = Source(
                cost=pairs(scale_cost, "--scale-cost", "SCALE=COST, for instance 60M=0.03"),
                parameters=pairs(scale_parameters, "--scale-parameters", "SCALE=NUMBER, for instance 60M=6e7"),
                scale=scale,
                steps=steps,
                target=parsed_target(target),
                unpickle=unpickle,
                noise=scatter,
            )
            histories = {_name(path, sources): read_runs(path, source) for path in sources}
            scales = sorted({name for history in histories.values() for name in history.space.scale_names})
            if unknown := sorted({*source.cost, *source.parameters} - set(scales)):
                raise ValueError(f"No run is of scale {unknown[0]!r}: there are {', '.join(scales)}.")
            own = searches.load(sources[0]) if len(sources) == 1 and searches.is_search(sources[0]) else None
            changes = None if domains is None else DomainMap.read(domains)
        return command(histories=histories, changes=changes, target=source.target, own=own, **rest)

    return wrapped


def limit_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that limit the mixture; the command gets ``limits``, a function of a space."""

    @click.option("--floor", metavar="DOMAIN=SHARE", multiple=True, help="Least share of a domain; repeatable.")
    @click.option("--cap", metavar="DOMAIN=SHARE", multiple=True, help="Largest share of a domain; repeatable.")
    @click.option("--group", metavar="A+B=LEAST:MOST", multiple=True, help="Share of domains together; repeatable.")
    @click.option("--supply", metavar="DOMAIN=TOKENS", multiple=True, help="Tokens there are; once a domain.")
    @click.option("--target-tokens", type=float, help="Tokens of the target run, for --supply to be a limit.")
    @click.option("--max-epochs", type=float, default=1.0, show_default=True, help="Most passes over a supply.")
    @wraps(command)
    def wrapped(
        *,
        floor: Sequence[str],
        cap: Sequence[str],
        group: Sequence[str],
        supply: Sequence[str],
        target_tokens: float | None,
        max_epochs: float,
        **rest: Any,
    ) -> Any:
        with bad_arguments():
            share = "DOMAIN=SHARE, for instance code=0.3"
            found: dict[str, Any] = {
                "lower": pairs(floor, "--floor", share),
                "upper": pairs(cap, "--cap", share),
                "groups": tuple(_group(text) for text in group),
                "token_supply": pairs(supply, "--supply", "DOMAIN=TOKENS, for instance code=6e10"),
            }
            if target_tokens is not None or max_epochs != 1:
                found |= {"target_tokens": target_tokens, "max_epochs": max_epochs}

        def limits(space: MixtureSpace) -> MixtureSpace:
            return replace(space, **{key: value for key, value in found.items() if value})

        return command(limits=limits, **rest)

    return wrapped


@click.command(
    epilog=examples(
        "ray-mixopt recommend --from runs.csv --weight val_loss/arxiv=1",
        "ray-mixopt recommend --from swarm/ --scale 30M --steps 10000 --weight mmlu_bpb=1 --cap code=0.3 --yaml olmo",
        "ray-mixopt recommend --from regmix/data --scale-cost 1m=0.001 --scale-cost 1B=1 --json",
        "ray-mixopt recommend --from ~/ray_results/my-search --group code+math=0:0.3 --report decision",
    )
)
@source_options
@objective_options
@limit_options
@click.option("--reference", metavar="DOMAIN=SHARE", multiple=True, help="Mixture to compare with; once a domain.")
@click.option("--yaml", type=click.Choice(["olmo", "weights"]), help="Print the mixture for training code instead.")
@click.option("--report", type=click.Path(file_okay=False, path_type=Path), help="Also write a report to this folder.")
@as_json_option
def recommend(
    histories: Mapping[str, History],
    changes: DomainMap | None,
    target: tuple[str, int] | None,
    own: MixtureOptimizer | None,
    objective: Objective | None,
    mode: Mode | None,
    limits: Callable[[MixtureSpace], MixtureSpace],
    reference: Sequence[str],
    yaml: str | None,
    report: Path | None,
    as_json: bool,
) -> None:
    """Recommends a mixture from old runs alone, without a search.

    Without --weight the objective is that of the search at PATH, or "loss", the mean of all val_loss/*.
    """
    from rich.console import Console

    from ray_mixopt.io.blends import olmo_core, weight_list

    one_thread()
    with bad_arguments(), Console(stderr=True).status("Asking the surrogate"):
        compare = pairs(reference, "--reference", "DOMAIN=SHARE, for instance web=0.7") or None
        optimizer = _optimizer(histories, changes, target, own, objective, mode, limits, compare)
        answer = optimizer.recommend(details=True)
        if answer.predicted is None:
            raise ValueError("Fewer than two runs report the metrics of the objective: nothing can be recommended.")
    if report is not None:
        from ray_mixopt.analysis.study import Study
        from ray_mixopt.report.page import write_report

        with bad_arguments(), Console(stderr=True).status("Writing the report") as status:
            page = write_report(Study(optimizer, ", ".join(histories), status.update), report)
        click.echo(f"Report: {page}", err=True)
    if as_json:
        click.echo(json.dumps(answer.to_dict()))
    elif yaml is not None:
        text = olmo_core(answer.mixture, optimizer.space) if yaml == "olmo" else weight_list(answer.mixture)
        click.echo(text, nl=False)
    else:
        click.echo(str(answer))


@click.command(
    epilog=examples(
        "ray-mixopt export --from ~/ray_results/my-search --format olmix --out swarm",
        "ray-mixopt export --from results/replay-slimpajama-loss-default-0 --format parquet --out .",
    )
)
@source_options
@click.option("--format", "kind", type=click.Choice(FORMATS), required=True, help="What to write.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder of the files.")
@as_json_option
def export(
    histories: Mapping[str, History],
    changes: DomainMap | None,
    target: tuple[str, int] | None,
    own: MixtureOptimizer | None,
    kind: str,
    out: Path,
    as_json: bool,
) -> None:
    """Writes runs as files that other programs read, with all their digits."""
    from ray_mixopt.core.merging import common_space, joined
    from ray_mixopt.io.export import WRITERS

    with bad_arguments():
        if len(histories) == 1 and changes is None:
            (history,) = histories.values()
        else:
            history = joined(histories, common_space(histories, changes), changes)
        out.mkdir(parents=True, exist_ok=True)
        paths = WRITERS[kind](history, out)
    if as_json:
        click.echo(json.dumps({"runs": len(history), "files": list(map(str, paths))}))
    else:
        click.echo(f"{len(history)} runs: {', '.join(map(str, paths))}")


def _optimizer(
    histories: Mapping[str, History],
    changes: DomainMap | None,
    target: tuple[str, int] | None,
    own: MixtureOptimizer | None,
    objective: Objective | Mapping[str, float] | None,
    mode: Mode | None,
    limits: Callable[[MixtureSpace], MixtureSpace],
    reference: Mapping[str, float] | None,
) -> MixtureOptimizer:
    from ray_mixopt.core.merging import common_space, joined
    from ray_mixopt.core.objective import Objective as Goal
    from ray_mixopt.io.read import DERIVED_METRIC
    from ray_mixopt.optimizer import MixtureOptimizer

    space = common_space(histories, changes)
    space = limits(space if target is None else replace(space, target=target))
    history = joined(histories, space, changes)
    known = history.metrics
    if objective is None and own is not None:
        objective, mode = own.problem.goal or dict(own.problem.objective), mode or own.problem.mode
    if objective is None and DERIVED_METRIC in known:
        objective = Goal(weights={DERIVED_METRIC: 1.0})
    if objective is None and len(known) == 1:
        objective = Goal(weights={known[0]: 1.0})
    if objective is None:
        raise ValueError(f"Say what the mixture is to be best for, --weight METRIC=1: {', '.join(known)}.")
    wanted = objective.metrics if isinstance(objective, Goal) else tuple(objective)
    missing = [name for name in wanted if name not in known]
    if missing:
        raise ValueError(f"No run reported {', '.join(missing)}: they have {', '.join(known)}.")
    optimizer = MixtureOptimizer(history.space, objective=objective, mode=mode or "min", reference=reference)
    optimizer.history = history
    return optimizer


def parsed_target(text: str | None) -> tuple[str, int] | None:
    """``SCALE:STEPS``.

    Raises:
        ValueError: for another text.
    """
    if text is None:
        return None
    scale, separator, steps = text.rpartition(":")
    if not separator or not scale or not steps.isdecimal():
        raise ValueError(f"--target is SCALE:STEPS, for instance 1B:19700, got {text!r}.")
    return scale, int(steps)


def _group(text: str) -> Any:
    from ray_mixopt.core.simplex import Group

    names, separator, limits = text.rpartition("=")
    least, colon, most = limits.partition(":")
    try:
        shares = float(least), float(most)
    except ValueError:
        colon = ""
    if not separator or not colon:
        raise ValueError(f"--group is A+B=LEAST:MOST, for instance code+math=0:0.3, got {text!r}.")
    return Group(domains=tuple(names.split("+")), least=shares[0], most=shares[1])


def _name(path: str, sources: Sequence[str]) -> str:
    name = Path(path.rstrip("/")).name or path
    return name if sum(Path(other.rstrip("/")).name == name for other in sources) == 1 else path

"""``ray-mixopt recommend``: an answer from runs that were made already."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ray_mixopt.cli.blend_options import FORMATS, AboutData, data_options
from ray_mixopt.cli.options import (
    as_json_option,
    bad_arguments,
    examples,
    limit_options,
    objective_of,
    objective_options,
    one_thread,
    reference_of,
    reference_option,
)
from ray_mixopt.cli.sources import source_options

if TYPE_CHECKING:
    from ray_mixopt.core.baselines import Baseline
    from ray_mixopt.core.history import History
    from ray_mixopt.core.merging import DomainMap
    from ray_mixopt.core.objective import Mode, Objective
    from ray_mixopt.core.space import MixtureSpace
    from ray_mixopt.optimizer import MixtureOptimizer


@click.command(
    epilog=examples(
        "ray-mixopt recommend --from runs.csv --weight val_loss/arxiv=1",
        "ray-mixopt recommend --from swarm/ --scale 30M --steps 10000 --weight mmlu_bpb=1 --cap code=0.3 --as nemo",
        "ray-mixopt recommend --from regmix/data --scale-cost 1m=0.001 --scale-cost 1B=1 --json",
        "ray-mixopt recommend --from ~/ray_results/my-search --group code+math=0:0.3 --report decision",
    )
)
@functools.partial(source_options, with_space=True)
@objective_options
@limit_options
@reference_option
@click.option("--as", "kind", type=click.Choice(FORMATS), help="Print the mixture as training code takes it.")
@click.option("--phase", default="", help="--as: of several, the one that the blend is of.")
@data_options
@click.option("--report", type=click.Path(file_okay=False, path_type=Path), help="Also write a report to this folder.")
@as_json_option
def recommend(
    histories: Mapping[str, History],
    changes: DomainMap | None,
    target: tuple[str, int] | None,
    own: MixtureOptimizer | None,
    space: MixtureSpace | None,
    objective: Objective | None,
    mode: Mode | None,
    limits: Callable[[MixtureSpace], MixtureSpace],
    reference: Sequence[str],
    kind: str | None,
    phase: str,
    data: AboutData,
    report: Path | None,
    as_json: bool,
) -> None:
    """Recommends a mixture from old runs alone, without a search.

    Without --weight the objective is that of the search at PATH, or "loss", the mean of all val_loss/*.
    """
    from rich.console import Console

    from ray_mixopt.core.objective import in_words
    from ray_mixopt.core.words import fidelity
    from ray_mixopt.io.blends import blend, remarks

    one_thread()
    if kind is not None and as_json:
        raise click.UsageError("--as does not go with --json: drop one of them.")
    with bad_arguments(), Console(stderr=True, markup=False, emoji=False).status("Asking the surrogate"):
        data.check(kind, "--as")
        if phase and kind is None:
            raise ValueError("--phase is about a blend: give --as FORMAT, or drop it.")
        against = reference_of(reference)
        optimizer = _optimizer(histories, changes, target, own, space, objective, mode, limits, against)
        answer = optimizer.recommend(details=True)
        if answer.predicted is None:
            raise ValueError("Fewer than two runs report the metrics of the objective: nothing can be recommended.")
    if target is None and own is None and space is None:
        aim = fidelity(answer.scale, answer.steps)
        click.echo(f"The target is {aim}: --target SCALE:STEPS asks about another.", err=True)
    asked = in_words(optimizer.settings.weights, optimizer.settings.mode)
    verdict = "" if answer.verdict is None else f"Verdict for {asked}: {answer.verdict}"
    if report is not None:
        from ray_mixopt.analysis.study import Study
        from ray_mixopt.report.page import write_report

        with bad_arguments(), Console(stderr=True, markup=False, emoji=False).status("Writing the report") as status:
            page = write_report(Study(optimizer, ", ".join(histories), status.update), report)
        click.echo(f"Report: {page}", err=True)
    if as_json:
        click.echo(json.dumps(answer.to_dict()))
    elif kind is not None:
        with bad_arguments():
            sources = data.sources(optimizer.space)
            text = blend(kind, answer.mixture, optimizer.space, sources, note=verdict, phase=phase)
        about = answer.mixture[phase] if phase else answer.mixture
        for remark in (*remarks(kind, about, sources), *([verdict] if verdict else [])):
            click.echo(remark, err=True)
        click.echo(text, nl=False)
    else:
        click.echo(f"Objective: {asked}\n{answer}")


def _optimizer(
    histories: Mapping[str, History],
    changes: DomainMap | None,
    target: tuple[str, int] | None,
    own: MixtureOptimizer | None,
    given: MixtureSpace | None,
    objective: Objective | Mapping[str, float] | None,
    mode: Mode | None,
    limits: Callable[[MixtureSpace], MixtureSpace],
    reference: Baseline | None,
) -> MixtureOptimizer:
    """The optimizer that knows the old runs, and what is asked of it."""
    from ray_mixopt.core.merging import common_space, joined
    from ray_mixopt.core.settings import Settings
    from ray_mixopt.io import searches
    from ray_mixopt.optimizer import MixtureOptimizer

    space = given or common_space(histories, changes)
    space = limits(space if target is None else replace(space, target=target))
    history = joined(histories, space, changes)
    asked, direction = objective_of(history, objective, mode, own)
    settings = Settings(objective=asked, mode=direction, reference=reference)
    searches.check_reported(settings.metrics, history)
    return MixtureOptimizer.of_history(history, settings)

"""Options of commands that say where old runs are, and what these do not say about themselves."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ray_mixopt.cli.options import bad_arguments, opened, pairs, parsed_target, scatter_option
from ray_mixopt.core.words import counted

if TYPE_CHECKING:
    from ray_mixopt.core.history import History
    from ray_mixopt.core.space import MixtureSpace
    from ray_mixopt.io.runs import Source


def table_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that say what tables of runs do not; the command gets them as ``table``, an ``io.runs.Source``."""

    @click.option("--scale-cost", metavar="SCALE=COST", multiple=True, help="Cost of a step; once a scale.")
    @click.option("--scale-parameters", metavar="SCALE=NUMBER", multiple=True, help="Parameters; once a scale.")
    @click.option("--scale", help="Scale of all runs, if they do not say it.  [default: model]")
    @click.option("--steps", type=click.IntRange(min=1), help="Steps of all runs, likewise.  [default: 1]")
    @click.option("--scale-column", metavar="COLUMN", help="Column of the scale.  [default: scale, model_size ...]")
    @click.option("--step-column", metavar="COLUMN", help="Column of the steps, or tokens.  [default: step, _step ...]")
    @click.option("--run-column", metavar="COLUMN", help="Column of the run's name.  [default: run, Name ...]")
    @click.option(
        "--mixture-columns",
        metavar="COLUMNS",
        multiple=True,
        help="Columns of the shares: web,code or weights/*.  [default: mixture/*, config/mixture/* ...]",
    )
    @click.option(
        "--mixture-unit",
        type=click.Choice(["shares", "percent", "weights"]),
        help="What the shares are; weights count in proportion, as tokens do.  [default: as they sum up]",
    )
    @click.option("--tokens-per-step", metavar="SCALE=TOKENS", multiple=True, help="To make steps of tokens; a scale.")
    @functools.wraps(command)
    def wrapped(
        *,
        scale_cost: Sequence[str],
        scale_parameters: Sequence[str],
        scale: str | None,
        steps: int | None,
        scale_column: str | None,
        step_column: str | None,
        run_column: str | None,
        mixture_columns: Sequence[str],
        mixture_unit: Any,
        tokens_per_step: Sequence[str],
        **rest: Any,
    ) -> Any:
        from ray_mixopt.io.columns import Columns
        from ray_mixopt.io.runs import Source

        with bad_arguments():
            table = Source(
                cost=pairs(scale_cost, "--scale-cost", "SCALE=COST, for instance 60M=0.03"),
                parameters=pairs(scale_parameters, "--scale-parameters", "SCALE=NUMBER, for instance 60M=6e7"),
                scale=scale,
                steps=steps,
                columns=Columns(
                    mixture=tuple(mixture_columns),
                    scale=scale_column,
                    step=step_column,
                    run=run_column,
                    unit=mixture_unit,
                ),
                tokens_per_step=pairs(tokens_per_step, "--tokens-per-step", "SCALE=TOKENS, for instance 60M=524288"),
            )
        return command(table=table, **rest)

    return wrapped


def source_options(
    command: Callable[..., Any],
    *,
    needed: bool = True,
    with_space: bool = False,
    priced: Callable[[Mapping[str, Any]], bool] = lambda options: True,
) -> Callable[..., Any]:
    """Options that say where old runs are.

    The command gets ``histories`` by name; ``changes``, what became of domains; the ``target``; and ``own``, the
    optimizer of the one source if that is a search. All but the histories may be None.

    Args:
        command: that gets them.
        needed: whether there must be some.
        with_space: whether there is an option ``--space``, too; the command also gets ``space``, that of the file,
            which may be None.
        priced: whether the costs of scales matter, given the other options.
    """

    @click.option(
        "--from",
        "--runs",
        "sources",
        metavar="PATH",
        multiple=True,
        required=needed,
        help="Tune experiment, replay, history JSON, table of runs, RegMix or olmix folder; repeatable.",
    )
    @table_options
    @click.option(
        "--target",
        metavar="SCALE:STEPS",
        help=f"Where it is wanted.  [default: {'that of --space, else ' if with_space else ''}the largest run]",
    )
    @scatter_option
    @click.option(
        "--domains",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="JSON file with what became of domains: renamed, split, dropped.",
    )
    @functools.wraps(command)
    def wrapped(
        *,
        sources: Sequence[str],
        table: Source,
        target: str | None,
        scatter: Mapping[str, float],
        domains: Path | None,
        space_file: Path | None = None,
        **rest: Any,
    ) -> Any:
        from ray_mixopt.core.merging import DomainMap
        from ray_mixopt.io import searches
        from ray_mixopt.io.runs import Source, are_tables, read_runs, told_apart
        from ray_mixopt.io.space_file import read_space
        from ray_mixopt.io.table import NoRowsError

        with bad_arguments():
            if not sources and (table != Source() or scatter or domains):
                raise ValueError(
                    "Options about scales, steps and columns, --metric-noise and --domains are about old runs: give "
                    "--from, too."
                )
            source = replace(table, target=parsed_target(target), noise=scatter, priced=priced(rest))
            asked = source
            if with_space:
                rest["space"] = space = None if space_file is None else read_space(space_file)
                asked = source if space is None else _knowing(source, space)
            histories, empty = {}, False
            for name, path in told_apart(sources).items():
                try:
                    histories[name] = read_runs(path, asked)
                except NoRowsError as error:
                    if needed:
                        raise
                    empty = True
                    click.echo(f"{error} No run of it is finished yet.", err=True)
            if not empty:  # else nothing is known of what the options speak of
                check_heeded(source, histories.values())
            only = sources[0] if len(sources) == 1 else None
            own = opened(only) if only and not are_tables(only) and searches.is_search(only) else None
            changes = None if domains is None else DomainMap.read(domains)
        return command(histories=histories, changes=changes, target=source.target, own=own, **rest)

    if with_space:
        return click.option(
            "--space",
            "space_file",
            type=click.Path(dir_okay=False, path_type=Path),
            help="YAML file with the domains, scales and steps to search.  [default: those of the runs]",
        )(wrapped)
    return wrapped


def _knowing(source: Source, space: MixtureSpace) -> Source:
    """What is said of old runs, and what the search space says of its scales besides; its target need not be theirs."""
    scales = (*space.scales, *space.earlier_scales)
    cost = {scale.name: scale.cost_per_step for scale in scales}
    parameters = {scale.name: scale.parameters for scale in scales if scale.parameters is not None}
    return replace(
        source,
        cost=cost | dict(source.cost),
        parameters=parameters | dict(source.parameters),
        target=None,
        rungs=space.steps,
        phases=space.phases if space.phase_names else (),
    )


def check_heeded(source: Source, histories: Collection[History]) -> None:
    """Checks that what options say of old runs is so: files that say it themselves are not asked twice.

    Args:
        source: as the options have it.
        histories: what was read.

    Raises:
        ValueError: naming an option that was not heeded.
    """
    scales = [one for history in histories for one in history.space.scales]
    names = sorted({one.name for one in scales})
    source.check_scales(names)
    theirs = "is for files that do not say it, and these do"
    scale, steps = source.scale, source.steps
    if scale is not None and scale not in names:
        raise ValueError(f"--scale {scale} {theirs}: their runs are of scale {', '.join(names)}. Drop it.")
    lengths = {step for history in histories for trial in history for step in trial.observations}
    if steps is not None and lengths and steps not in lengths:
        known = f"{min(lengths)} to {max(lengths)} steps" if len(lengths) > 1 else counted(min(lengths), "step")
        raise ValueError(f"--steps {steps} {theirs}: their runs were seen at {known}. Drop it.")
    for option, given, field in (
        ("--scale-cost", source.cost, "cost_per_step"),
        ("--scale-parameters", source.parameters, "parameters"),
    ):
        for name, value in given.items():
            known_values = [getattr(one, field) for one in scales if one.name == name]
            if value not in known_values:
                raise ValueError(
                    f"{option} {name}={value:g} is for tables of runs, and a saved search says it itself: there it is "
                    f"{' and '.join('unknown' if one is None else f'{one:g}' for one in known_values)}. Drop it."
                )

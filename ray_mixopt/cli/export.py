"""``ray-mixopt export``: runs that were made already, or their mixtures, as files of other programs."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ray_mixopt.cli.blend_options import FORMATS as BLENDS
from ray_mixopt.cli.blend_options import AboutData, data_options
from ray_mixopt.cli.options import as_json_option, bad_arguments, examples
from ray_mixopt.cli.sources import source_options
from ray_mixopt.core.words import counted

if TYPE_CHECKING:
    from ray_mixopt.core.history import History
    from ray_mixopt.core.merging import DomainMap
    from ray_mixopt.core.space import MixtureSpace
    from ray_mixopt.optimizer import MixtureOptimizer

_MOST_NAMED = 4  # files, or runs
_ROUNDING = 1e-6  # of tokens
FORMATS = ("csv", "parquet", "olmix", "regmix")


def _to_new_files(command: Callable[..., Any]) -> Callable[..., Any]:
    """Refuses, before any run is read, to write to files that are there."""

    @functools.wraps(command)
    def wrapped(*, kind: str, out: Path, **rest: Any) -> Any:
        from ray_mixopt.io.export import FILES, check_free

        with bad_arguments():
            check_free(out / name for name in FILES.get(kind, ()))
        return command(kind=kind, out=out, **rest)

    return wrapped


@click.command(
    epilog=examples(
        "ray-mixopt export --from ~/ray_results/my-search --format olmix --out swarm",
        "ray-mixopt export --from results/replay-slimpajama-loss-default-0 --format parquet --out tables",
        "ray-mixopt export --from runs.csv --run 1B-best --format megatron --path web=/data/web_document --out blends",
    )
)
@_to_new_files
@functools.partial(source_options, with_space=True, priced=lambda options: options["kind"] in FORMATS)
@click.option(
    "--format",
    "kind",
    type=click.Choice((*FORMATS, *BLENDS)),
    required=True,
    help="What to write: tables of all runs, the first four, or a blend of each.",
)
@click.option("--run", "runs", metavar="NAME", multiple=True, help="Only the blend of this run; repeatable.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder of the files.")
@data_options
@as_json_option
def export(
    histories: Mapping[str, History],
    changes: DomainMap | None,
    target: tuple[str, int] | None,
    own: MixtureOptimizer | None,
    space: MixtureSpace | None,
    kind: str,
    runs: Sequence[str],
    out: Path,
    data: AboutData,
    as_json: bool,
) -> None:
    """Writes runs as tables that other programs read, with all their digits, or their mixtures as blends.

    A blend is a file named after its run, with the mixture as training code takes it. Of several phases there is one
    for each, RUN.PHASE, where a program has no place for all.
    """
    import numpy as np

    from ray_mixopt.core.merging import common_space, joined
    from ray_mixopt.io.blends import remarks
    from ray_mixopt.io.export import WRITERS, without_reports, write_blends
    from ray_mixopt.io.rows import DERIVED_METRIC, means_of_losses

    with bad_arguments():
        if target is not None:
            raise ValueError("--target says where a mixture is wanted, which no file of runs has a place for: drop it.")
        if click.get_current_context().params.get("scatter"):
            raise ValueError("--metric-noise says how to read runs, which no file of runs has a place for: drop it.")
        data.check(kind if kind in BLENDS else None, "--format")
        if runs and kind not in BLENDS:
            raise ValueError(f"--run chooses a blend, and --format {kind} is a table of all runs: drop it.")
        if len(histories) == 1:
            histories = {"": next(iter(histories.values()))}  # whose runs keep their names
        if len(histories) == 1 and changes is None and space is None:
            (history,) = histories.values()
        else:
            history = joined(histories, space or common_space(histories, changes), changes)
        out.mkdir(parents=True, exist_ok=True)
        if kind in BLENDS:
            sources = data.sources(history.space)
            paths = write_blends(history, out, kind, runs=runs, sources=sources)
            mixtures = np.array([trial.mixture for trial in history if not runs or trial.trial_id in runs])
            said, number = remarks(kind, history.space.named(mixtures.max(0)), sources), len(mixtures)
            said = (*said, *_repeated(history, runs))
        else:
            paths, silent = WRITERS[kind](history, out), without_reports(history)
            more = ", ..." if len(silent) > _MOST_NAMED else ""
            said = (
                (f"Left out, with no number of any metric: {', '.join(silent[:_MOST_NAMED])}{more}.",) if silent else ()
            )
            parts = [name for name in history.metrics if name.startswith("val_loss/")]
            if parts and DERIVED_METRIC in history.metrics and means_of_losses(history):
                said = (*said, f"The column {DERIVED_METRIC} is the mean of all val_loss/*.")
            number = len(history) - len(silent)
    for remark in said:
        click.echo(remark, err=True)
    if as_json:
        click.echo(json.dumps({"runs": number, "files": list(map(str, paths))}))
    else:
        more = f" and {len(paths) - _MOST_NAMED} more" if len(paths) > _MOST_NAMED else ""
        click.echo(f"{counted(number, 'run')}: {', '.join(map(str, paths[:_MOST_NAMED]))}{more}")


def _repeated(history: History, runs: Sequence[str]) -> list[str]:
    """A sentence for each domain that blends repeat more often than its supply allows; none where no target is known.

    Args:
        history: the runs.
        runs: whose blends are written; all where none is named.
    """
    import numpy as np

    space, said = history.space, []
    whole = {trial.trial_id: space.simplex.mean(np.array([trial.mixture]))[0] for trial in history}
    for k, domain in enumerate(space.domains if space.target_tokens else ()):
        share, run = max((of[k], run) for run, of in whole.items() if not runs or run in runs)
        wanted, supply = space.taken(domain, share), space.token_supply.get(domain, math.inf)
        if wanted > space.max_epochs * supply * (1 + _ROUNDING):
            times = f"{wanted / supply:.3g} times" if supply else "and there is none of it"
            said.append(
                f"The blend of {run} takes {wanted:.4g} tokens of {domain} in a run of {space.target_tokens:.4g}, of "
                f"which there are {supply:.4g}: {times}, and the space allows {space.max_epochs:g} (max_epochs)."
            )
    return said

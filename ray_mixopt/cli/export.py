"""``ray-mixopt export``: runs that were made already, as files of other programs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ray_mixopt.cli.options import as_json_option, bad_arguments, examples
from ray_mixopt.cli.sources import source_options

if TYPE_CHECKING:
    from ray_mixopt.core.history import History
    from ray_mixopt.core.merging import DomainMap
    from ray_mixopt.optimizer import MixtureOptimizer

FORMATS = ("csv", "parquet", "olmix", "regmix")


@click.command(
    epilog=examples(
        "ray-mixopt export --from ~/ray_results/my-search --format olmix --out swarm",
        "ray-mixopt export --from results/replay-slimpajama-loss-default-0 --format parquet --out tables",
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
        if target is not None:
            raise ValueError("--target says where a mixture is wanted, which no file of runs has a place for: drop it.")
        if click.get_current_context().params.get("scatter"):
            raise ValueError("--metric-noise says how to read runs, which no file of runs has a place for: drop it.")
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

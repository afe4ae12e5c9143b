"""``ray-mixopt simulator``: simulated pre-training runs, and how to make them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ray_mixopt.cli.options import as_json_option, bad_arguments, examples, parsed_target
from ray_mixopt.cli.sources import table_options

if TYPE_CHECKING:
    from ray_mixopt.io.runs import Source
    from ray_mixopt.simulators.card import FitReport
    from ray_mixopt.simulators.emulator_card import EmulatorReport


@click.group()
def simulator() -> None:
    """Simulated pre-training runs."""


@simulator.command(
    epilog=examples(
        "ray-mixopt simulator fit --runs runs.csv --out mine.npz",
        "ray-mixopt simulator fit --runs runs.csv --target 1B:20000 --metric val_loss/web --out mine.npz",
        "ray-mixopt simulator fit --reference reference_mlp.npz --out mine.npz",
    )
)
@click.option("--runs", metavar="PATH", help="Real runs, as recommend --from takes them.")
@click.option(
    "--reference",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A reference network instead, an .npz file.",
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="Where the .npz file goes.")
@click.option("--target", metavar="SCALE:STEPS", help="Where the best mixture is wanted.  [default: the largest run]")
@click.option("--metric", "metrics", metavar="METRIC", multiple=True, help="Fit this one; repeatable.  [default: all]")
@table_options
@click.option("--about", default="", help="Where the runs come from, a sentence for the card.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@as_json_option
def fit(
    runs: str | None,
    reference: Path | None,
    out: Path,
    target: str | None,
    metrics: Sequence[str],
    table: Source,
    about: str,
    seed: int,
    as_json: bool,
) -> None:
    """Fits a simulator, and writes it with a card that says how well. Takes minutes.

    To real runs: a law with diminishing returns of each domain and power laws of size and length. The card says how
    well it predicts mixtures, and scales, that were left out of the fit. Scales larger than the target's take part in
    the fit only.

    To a reference network: ReLU between its layers, from five shares, millions of parameters and steps to eleven
    metrics; arrays weight_0, bias_0, weight_1 and so on, x_mean, x_std, y_mean and y_std.

    The card is a Markdown file beside the simulator.
    """
    with bad_arguments():
        report: FitReport | EmulatorReport
        if (runs is None) == (reference is None):
            raise ValueError("Give one of --runs, for a fit to real runs, and --reference, for a fit to a network.")
        if runs is not None:
            # Read when NumPy is loaded, as it is below. For such small matrices threads only wait for each other.
            os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
            from ray_mixopt.simulators.emulator_card import fit_emulator

            source = replace(table, target=parsed_target(target))
            report = fit_emulator(
                runs, out, source=source, metrics=metrics or None, about=about, seed=seed, progress=_say
            )
        else:
            from ray_mixopt.io.runs import Source
            from ray_mixopt.simulators.fit import fit_simulator

            if target or metrics or table != Source() or about:
                raise ValueError(
                    "--target, --metric, --about and options about scales, steps and columns are about runs: give "
                    "--runs, or drop them."
                )
            assert reference is not None
            report = fit_simulator(reference, out, seed, progress=_say)
    click.echo(json.dumps({"simulator": str(out), **report.to_dict()}) if as_json else report.table())


def _say(line: str) -> None:
    click.echo(line, err=True)

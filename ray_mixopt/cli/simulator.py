"""``ray-mixopt simulator``: simulated pre-training runs, and how to make them."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ray_mixopt.cli.options import as_json_option, bad_arguments, examples


@click.group()
def simulator() -> None:
    """Simulated pre-training runs."""


@simulator.command(epilog=examples("ray-mixopt simulator fit --reference reference_mlp.npz --out mine.npz"))
@click.option(
    "--reference",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    help="The reference network, an .npz file.",
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="Where the .npz file goes.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@as_json_option
def fit(reference: Path, out: Path, seed: int, as_json: bool) -> None:
    """Fits a simulator to a reference network, and writes it with a card that says how well. Takes minutes.

    The reference is a network with ReLU between its layers, from five shares, millions of parameters and steps to
    eleven metrics: arrays weight_0, bias_0, weight_1 and so on, x_mean, x_std, y_mean and y_std.

    The card is a Markdown file beside the simulator.
    """
    from ray_mixopt.simulators.fit import fit_simulator

    with bad_arguments():
        report = fit_simulator(reference, out, seed, progress=lambda line: click.echo(line, err=True))
    click.echo(json.dumps({"simulator": str(out), **report.to_dict()}) if as_json else report.table())

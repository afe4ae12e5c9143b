"""``ray-mixopt checkpoint``: the model that a run has trained, for other programs."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from ray_mixopt.cli.options import as_json_option, bad_arguments, examples


@click.command(
    epilog=examples(
        "ray-mixopt checkpoint results/mixtures/runs/final-0123456789ab --data data/shards --out model",
    )
)
@click.argument("run")
@click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    help="The token shards that it was trained on, for their tokenizer.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="New folder of the model.")
@as_json_option
def checkpoint(run: str, data: Path, out: Path, as_json: bool) -> None:
    """Writes the newest checkpoint of a run as a Hugging Face model, with its tokenizer.

    RUN is the folder or URI of a run of `pretrain`, in <storage>/<name>/runs, or that of a training by hand. What is
    written can be loaded by name: `lm_eval --model hf --model_args pretrained=model --tasks arc_easy`.
    """
    with bad_arguments():
        from ray_mixopt.pretraining.training.huggingface import write_model

        written = write_model(run, data, out)
    if as_json:
        click.echo(json.dumps({"model": str(out)} | asdict(written)))
        return
    click.echo(
        f"{out}: a model of {written.parameters:,} parameters after {written.step:,} steps, of {written.checkpoint}."
    )
    if not written.tokenizer:
        click.echo("It has no tokenizer, since shards used in place do not say theirs: put your own into the folder.")

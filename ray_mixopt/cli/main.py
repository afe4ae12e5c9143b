"""The command ``ray-mixopt``."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Sequence
from typing import Any

import click

from ray_mixopt.cli.interrupts import INTERRUPTED, listen, quietly

# Each command lies in the module of its name, which is loaded only when the command is asked for.
SHORT_HELP = {
    "replay": "Searches with Ray Tune over simulated or logged pre-training runs.",
    "suggest": (
        "Suggests the next runs, from those that are finished and those under way, and writes a launch file for each."
    ),
    "recommend": "Recommends a mixture from old runs alone, without a search.",
    "backtest": "Says how well old runs would have been predicted.",
    "report": "Writes report.html about a search: one file that works offline, on a phone and on paper.",
    "export": "Writes runs as tables that other programs read, with all their digits, or their mixtures as blends.",
    "prepare": "Turns documents into token shards with a manifest in the folder OUT.",
    "search": "Searches by running COMMAND for each run, over the space in the YAML file SPACE.",
    "pretrain": "Searches by really training language models, as the YAML file CONFIG says.",
    "checkpoint": "Writes the newest checkpoint of a run as a Hugging Face model, with its tokenizer.",
    "benchmark": "Runs search methods on problems with a known truth, and scores them.",
    "simulator": "Simulated pre-training runs.",
}


class Commands(click.Group):
    """The commands, which Ctrl-C ends with the exit code of an interrupted program."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the commands, the most used first."""
        return list(SHORT_HELP)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, None if there is none."""
        if cmd_name not in SHORT_HELP:
            return None
        command: click.Command = getattr(importlib.import_module(f"ray_mixopt.cli.{cmd_name}"), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the list of commands for ``--help``, for which none is loaded."""
        with formatter.section("Commands"):
            formatter.write_dl(list(SHORT_HELP.items()))

    def main(self, args: Sequence[str] | None = None, *rest: Any, **options: Any) -> Any:
        """Runs the program; with arguments of a caller, whose Ctrl-C is left alone."""
        if args is not None:
            return super().main(args, *rest, **options)
        listen()
        try:
            return super().main(args, *rest, **options)
        finally:
            quietly()

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command."""
        # GPyTorch's own, of which no user can make anything.
        warnings.filterwarnings("ignore", message=r".*torch\.jit\.script")
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            ctx.exit(INTERRUPTED)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ray-mixopt")
def main() -> None:
    """Finds the mixture of training data that is best for a large model, from cheap runs of small ones."""

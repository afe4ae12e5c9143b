"""What the commands have in common: errors, examples, and options about the objective and the limits."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import click

if TYPE_CHECKING:
    from ray_mixopt.core.objective import Objective

INTERRUPTED = 130  # the shell's exit code of a program that Ctrl-C ended
EXIT_CODES = """\b
Exit codes: 0 done, 1 runs failed or the search broke down, 2 wrong arguments or files, 130 ended by Ctrl-C."""

as_json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print the result as one JSON object and nothing else."
)


class Commands(click.Group):
    """A group of commands that Ctrl-C ends with the exit code of an interrupted program."""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            ctx.exit(INTERRUPTED)


@contextlib.contextmanager
def resumable(how: str) -> Iterator[None]:
    """Ctrl-C is followed by a sentence that says how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo(f"Interrupted: {how}", err=True)
        sys.exit(INTERRUPTED)


@contextlib.contextmanager
def bad_arguments() -> Iterator[None]:
    """What the library refuses, or lacks, is a usage error here: exit code 2."""
    try:
        yield
    except OSError as error:
        known = error.filename is not None and error.strerror is not None
        raise click.UsageError(f"{error.filename}: {error.strerror}." if known else str(error)) from error
    except (ValueError, ImportError, BadZipFile) as error:
        raise click.UsageError(str(error)) from error


def one_thread() -> None:
    """One thread for torch in the process of a command, unless ``OMP_NUM_THREADS`` says how many.

    The matrices of the surrogate are small: on a busy machine threads wait for each other, which took a report ten
    times as long.
    """
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)


def examples(*lines: str) -> str:
    """An epilog of ``--help`` with examples and the exit codes."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines) + "\n\n" + EXIT_CODES


def pairs(texts: Sequence[str], option: str, example: str) -> dict[str, float]:
    """``NAME=NUMBER`` options as a mapping.

    Raises:
        ValueError: for a text that is none, or a name given twice.
    """
    found: dict[str, float] = {}
    for text in texts:
        name, separator, number = text.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            separator = ""
        if not separator or not name:
            raise ValueError(f"{option} is {example}, got {text!r}.")
        if name in found:
            raise ValueError(f"{option} names {name!r} twice.")
        found[name] = value
    return found


def _scatter(context: click.Context, parameter: click.Parameter, texts: Sequence[str]) -> dict[str, float]:
    with bad_arguments():
        return pairs(texts, "--metric-noise", "METRIC=DEVIATION, for instance loss=0.01")


scatter_option = click.option(
    "--metric-noise",
    "scatter",
    metavar="METRIC=DEVIATION",
    multiple=True,
    callback=_scatter,
    help="Scatter of old runs; repeatable.",
)


def objective_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that say what the mixture is to be best for; the command gets ``objective`` and ``mode``."""

    @click.option("--weight", metavar="METRIC=WEIGHT", multiple=True, help="Metric of the objective; repeatable.")
    @click.option(
        "--mode",
        type=click.Choice(["min", "max"]),
        help="Direction.  [default: min with --weight, else the search's]",
    )
    @click.option("--flip", metavar="METRIC", multiple=True, help="Metric with the other direction; repeatable.")
    @click.option(
        "--relative-to", metavar="BASELINE", help="Divide metrics by their value there: uniform, proportional."
    )
    @click.option(
        "--guardrail",
        metavar="METRIC=TOLERANCE",
        multiple=True,
        help="No worse than the baseline by more than this share (0.02 is 2%); repeatable.",
    )
    @click.option("--guard-max", metavar="METRIC", multiple=True, help="Guardrail metric of which more is better.")
    @click.option("--baseline", default="proportional", show_default=True, help="Of guardrails and --closeness.")
    @click.option("--closeness", type=float, default=0.0, help="Objective units a nat of distance from it is worth.")
    @functools.wraps(command)
    def wrapped(
        *,
        weight: Sequence[str],
        mode: str | None,
        flip: Sequence[str],
        relative_to: str | None,
        guardrail: Sequence[str],
        guard_max: Sequence[str],
        baseline: str,
        closeness: float,
        **rest: Any,
    ) -> Any:
        with bad_arguments():
            weights = pairs(weight, "--weight", "METRIC=WEIGHT, for instance loss=1")
            rails = pairs(guardrail, "--guardrail", "METRIC=TOLERANCE, for instance loss=0.02")
            extras: dict[str, Any] = {"relative_to": relative_to, "closeness": closeness, "prior": baseline}
            mode = "min" if weights and mode is None else mode
            objective = _objective(weights, mode, flip, rails, guard_max, baseline, extras)
        return command(objective=objective, mode=mode, **rest)

    return wrapped


def _objective(
    weights: Mapping[str, float],
    mode: str | None,
    flip: Sequence[str],
    rails: Mapping[str, float],
    guard_max: Sequence[str],
    baseline: str,
    extras: Mapping[str, Any],
) -> Objective | None:
    from ray_mixopt.core.objective import Guardrail, Objective

    if not weights:
        if flip or rails or guard_max or extras["relative_to"] or extras["closeness"]:
            raise ValueError("--flip, --guardrail, --relative-to and --closeness need --weight METRIC=WEIGHT.")
        return None
    other: Any = "max" if mode == "min" else "min"
    unknown = set(guard_max) - set(rails)
    if unknown:
        raise ValueError(f"--guard-max names {sorted(unknown)}, which have no --guardrail.")
    return Objective(
        weights=weights,
        directions=dict.fromkeys(flip, other),
        guardrails=tuple(
            Guardrail(metric=name, tolerance=value, baseline=baseline, mode="max" if name in guard_max else "min")
            for name, value in rails.items()
        ),
        **extras,
    )

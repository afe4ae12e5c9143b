"""What the commands have in common: exit codes, examples, and options about the objective and the limits."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import re
import shlex
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import click

if TYPE_CHECKING:
    from ray_mixopt.core.baselines import Baseline
    from ray_mixopt.core.history import History
    from ray_mixopt.core.objective import Mode, Objective
    from ray_mixopt.core.simplex import Group
    from ray_mixopt.core.space import MixtureSpace
    from ray_mixopt.optimizer import MixtureOptimizer

_FLAGS = {
    "lower": "--floor",
    "upper": "--cap",
    "token_supply": "--supply",
    "target_tokens": "--target-tokens",
    "max_epochs": "--max-epochs",
    "repetition": "--repetition",
}  # what gives an argument of a space

_MOST_NAMED = 3  # metrics of a mean
EXIT_CODES = """\b
Exit codes: 0 done, 1 runs failed or the search broke down, 2 wrong arguments or files, 130 ended by Ctrl-C."""

as_json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print the result as one JSON object and nothing else."
)


def checked_budget(context: click.Context, parameter: click.Parameter, value: float | None) -> float | None:
    """What ``--budget`` says; a usage error if no run could be bought for it, or any number of them."""
    if value is not None and not 0 < value < math.inf:
        raise click.BadParameter(f"a budget is a finite cost above 0, got {value:g}.")
    return value


strategy_option = click.option(
    "--strategy", default="default", show_default=True, help="default, random, paper, or as in paper:kernel=tv."
)
earlier_option = click.option(
    "--from",
    "earlier",
    metavar="PATH",
    multiple=True,
    help="Old runs to take in at no cost, see recommend; repeatable.",
)


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


def opened(path: str, **asked: Any) -> MixtureOptimizer:
    """The search at a path; where its strategy is one of the user's own, the default one answers, which is said.

    Args:
        path: see ``io.searches.load``.
        **asked: for it.

    Raises:
        ValueError: if there is no search at that path, or it is damaged.
    """
    from ray_mixopt.core.settings import OwnStrategyError
    from ray_mixopt.io import searches

    try:
        return searches.load(path, **asked)
    except OwnStrategyError:
        click.echo(f"{path} was searched with a strategy of your own: the default strategy answers here.", err=True)
        return searches.load(path, strategy="default", **asked)


def nothing_known(optimizer: MixtureOptimizer) -> str:
    """A sentence for a search whose runs have shown nothing of the objective, since it has no answer; else ""."""
    return optimizer.problem.nothing_known(optimizer.history)


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
        return pairs(texts, parameter.opts[0], "METRIC=DEVIATION, for instance loss=0.01")


scatter_option = click.option(
    "--metric-noise",
    "scatter",
    metavar="METRIC=DEVIATION",
    multiple=True,
    callback=_scatter,
    help="Scatter of old runs beyond that of all; repeatable.",
)
noise_option = click.option(
    "--run-noise",
    "noise",
    metavar="METRIC=DEVIATION",
    multiple=True,
    callback=_scatter,
    help="Known scatter between seeds; repeatable.  [default: learned]",
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
    @click.option("--baseline", help="Of guardrails and --closeness.  [default: proportional]")
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
        baseline: str | None,
        closeness: float,
        **rest: Any,
    ) -> Any:
        with bad_arguments():
            weights = pairs(weight, "--weight", "METRIC=WEIGHT, for instance loss=1")
            rails = pairs(guardrail, "--guardrail", "METRIC=TOLERANCE, for instance loss=0.02")
            if baseline is not None and not rails and not closeness:
                raise ValueError(
                    f"--baseline {baseline} is what --guardrail and --closeness compare with: give one of them, or "
                    "drop it."
                )
            baseline = "proportional" if baseline is None else baseline
            extras: dict[str, Any] = {"relative_to": relative_to, "closeness": closeness, "prior": baseline}
            if mode is None and weights:
                _check_directions(weights, flip)
                mode = "min"
            objective = _objective(weights, mode, flip, rails, guard_max, baseline, extras)
        return command(objective=objective, mode=mode, **rest)

    return wrapped


def _check_directions(metrics: Collection[str], flipped: Collection[str] = ()) -> None:
    """Checks that nothing of which more is better by its name is minimised because nobody said a direction.

    Raises:
        ValueError: naming such a metric, and what says its direction.
    """
    from ray_mixopt.core.objective import is_score

    if doubtful := [name for name in metrics if is_score(name) and name not in flipped]:
        metric = doubtful[0]
        if len(metrics) > 1:
            most = f"--flip {shlex.quote(metric)} if it is to be maximised while the others are minimised, --mode max"
            most += " if all are to be maximised"
        else:
            most = "--mode max if it is to be maximised"
        raise ValueError(
            f"More of {metric} is better by its name, and no direction was said: give {most}, or --mode min if "
            f"{'all are' if len(metrics) > 1 else 'it is'} to be minimised all the same."
        )


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
    if odd := [metric for metric in flip if metric not in weights]:
        raise ValueError(
            f"--flip {odd[0]} turns the direction of a metric of the objective, which has {', '.join(weights)}: "
            f"correct it, or add --weight {odd[0]}=WEIGHT."
        )
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


reference_option = click.option(
    "--reference",
    metavar="DOMAIN=SHARE",
    multiple=True,
    help="Mixture to compare with; once a domain. Or uniform, proportional.",
)


def reference_of(texts: Sequence[str]) -> Baseline | None:
    """The mixture that ``--reference`` names; None where it does not.

    Raises:
        ValueError: for a text that is neither a baseline's name nor a domain's share.
    """
    if len(texts) == 1 and "=" not in texts[0]:
        if texts[0] not in ("uniform", "proportional"):
            raise ValueError(f"--reference is uniform, proportional or DOMAIN=SHARE once a domain, got {texts[0]!r}.")
        return texts[0]
    from ray_mixopt.io.shares import SUM_TOLERANCE

    shares = pairs(texts, "--reference", "DOMAIN=SHARE, for instance web=0.7")
    total = sum(shares.values())
    if shares and not any(abs(total / whole - 1) <= SUM_TOLERANCE for whole in (1, 100)):
        raise ValueError(
            f"{' '.join(f'--reference {text}' for text in texts)}: the shares of a mixture sum to 1, or in per cent to "
            f"100, and these sum to {total:g}. Name every domain once."
        )
    return shares or None


def objective_of(
    history: History, objective: Objective | Mapping[str, float] | None, mode: Mode | None, own: MixtureOptimizer | None
) -> tuple[Objective | Mapping[str, float] | None, Mode]:
    """What is asked of old runs, and its direction: what is given, else as in the search, else the loss.

    Which it is is said where neither the user nor a search has said it.

    Raises:
        ValueError: if nothing is given, and it is not clear from the runs.
    """
    from ray_mixopt.core.words import counted
    from ray_mixopt.io.rows import DERIVED_METRIC, means_of_losses

    if objective is None and own is not None:
        objective, mode = own.settings.objective, mode or own.settings.mode
    if objective is None:
        if not (known := history.metrics):
            lost = sum(trial.status == "diverged" for trial in history)
            raise ValueError(
                "No run has a number of any metric, so that there is nothing to go by: of "
                f"{counted(len(history), 'run')} {lost} diverged. Give runs that did not."
            )
        if DERIVED_METRIC not in known and len(known) != 1:
            raise ValueError(f"Say what the mixture is to be best for, --weight METRIC=1: {', '.join(known)}.")
        metric = DERIVED_METRIC if DERIVED_METRIC in known else known[0]
        if mode is None:
            _check_directions([metric])
        objective, mode, text = {metric: 1.0}, mode or "min", metric
        parts = [name for name in known if name.startswith("val_loss/")]
        if metric == DERIVED_METRIC and parts:
            mean = f"the mean of {', '.join(parts[:_MOST_NAMED])}{', ...' if len(parts) > _MOST_NAMED else ''}"
            text += f", {mean}" if means_of_losses(history) else f" as the runs have it, which is not {mean}"
        way = "minimised" if mode == "min" else "maximised"
        click.echo(f"No --weight is given, and so the objective is {text}; it is {way}.", err=True)
    return objective, mode or "min"


def limit_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that limit the mixture; the command gets ``limits``, a function of a space."""

    @click.option("--floor", metavar="DOMAIN=SHARE", multiple=True, help="Least share of a domain; repeatable.")
    @click.option("--cap", metavar="DOMAIN=SHARE", multiple=True, help="Largest share of a domain; repeatable.")
    @click.option("--group", metavar="A+B=LEAST:MOST", multiple=True, help="Share of domains together; repeatable.")
    @click.option("--supply", metavar="DOMAIN=TOKENS", multiple=True, help="Tokens there are; once a domain.")
    @click.option("--target-tokens", type=float, help="Tokens of the target run, for --supply to be a limit.")
    @click.option("--max-epochs", type=float, default=1.0, show_default=True, help="Most passes over a supply.")
    @click.option("--repetition", type=click.Choice(("real", "matched")), help="Of tokens, in shorter runs.")
    @functools.wraps(command)
    def wrapped(
        *,
        floor: Sequence[str],
        cap: Sequence[str],
        group: Sequence[str],
        supply: Sequence[str],
        target_tokens: float | None,
        max_epochs: float,
        repetition: str | None,
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
            found["repetition"] = repetition

        def limits(space: MixtureSpace) -> MixtureSpace:
            try:
                return replace(space, **{key: value for key, value in found.items() if value not in ({}, (), None)})
            except ValueError as error:
                raise ValueError(_in_flags(str(error))) from error

        return command(limits=limits, **rest)

    return wrapped


def _in_flags(sentence: str) -> str:
    """A sentence of a space about its arguments, in the words of the options that gave them."""
    for argument, flag in _FLAGS.items():
        sentence = re.sub(rf"^{argument}(?= names )", flag, sentence)
        sentence = re.sub(rf"^{argument}(?:\['(.*?)'\](?= )|='(.*?)')", rf"{flag} \1\2", sentence)
        if "_" in argument:  # else it may be a verb
            sentence = re.sub(rf"(?<![\w'])({argument})=", f"{flag} ", sentence)
            sentence = re.sub(rf"(?<![\w'])({argument})(?![\w'])", flag, sentence)
    return sentence


def parsed_target(text: str | None) -> tuple[str, int] | None:
    """The scale and the steps that ``SCALE:STEPS`` names; None where nothing is given.

    Raises:
        ValueError: for another text.
    """
    if text is None:
        return None
    scale, separator, steps = text.rpartition(":")
    if not separator or not scale or not steps.isdecimal():
        raise ValueError(f"--target is SCALE:STEPS, for instance 1B:19700, got {text!r}.")
    return scale, int(steps)


def _group(text: str) -> Group:
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

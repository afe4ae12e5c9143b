"""Searches the mixture that a run should end on, by short branches of one main run, and trains what it finds.

    python experiments/pretraining/branches.py

The main phase has the proportional mixture. Each branch begins at the checkpoint where that ends and costs only itself.
What is found is then trained with seeds that the search has not used, each with a main run of its own, beside other
ends: the main mixture continued, the uniform mixture, and the domains of the objective, by their weights in it. So is
the answer of a search for one mixture of whole runs that spends as much. Ray has no part in this: it is the training
loop alone. What is trained already is not trained again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import torch
from compare import objective, objective_mixture

from ray_mixopt import MixtureOptimizer, MixtureSpace, Phase
from ray_mixopt.benchmark.record import commit
from ray_mixopt.core.safety import write_atomically
from ray_mixopt.pretraining.config import PretrainConfig
from ray_mixopt.pretraining.training.session import REPORTS, FolderSession
from ray_mixopt.pretraining.training.train import train
from ray_mixopt.pretraining.training.workers import Workers

HERE = Path(__file__).parent
Mixture = Mapping[str, float]


class Runs:
    """Whole runs, and branches of their main phase.

    Args:
        settings: of all runs, which have a main phase and one more.
        main: mixture of the main phase.
    """

    def __init__(self, settings: PretrainConfig, main: Mixture) -> None:
        self.settings, self.main = settings, dict(main)
        self.scale, self.steps = settings.space.target_scale, settings.target_steps
        self.names = tuple(phase.name for phase in settings.searched_phases)

    def branch(self, end: Mixture, seed: int, name: str) -> float:
        """The objective of a run of the main phase that ends on a mixture; the main phase is trained once a seed."""
        (begins,) = self._trained(self.main, self.main, seed, "main").glob("step-*")
        return self._value(self._trained(self.main, end, seed, name, begins))

    def continued(self, seed: int) -> float:
        """That of the run that ends on the mixture of its main phase."""
        return self._value(self._trained(self.main, self.main, seed, "main"))

    def whole(self, mixture: Mixture, seed: int, name: str) -> float:
        """That of a run of one mixture."""
        return self._value(self._trained(mixture, mixture, seed, name))

    def _trained(self, main: Mixture, end: Mixture, seed: int, name: str, begins: Path | None = None) -> Path:
        run = self.settings.run(dict(zip(self.names, (main, end), strict=True)), self.scale, self.steps)
        workers = Workers.current(torch.device("cpu"))
        folder = Path(self.settings.experiment, f"{name}-{seed}")
        session = FolderSession(folder, workers, lambda report: None, begins)
        train(run.model_copy(update={"seed": seed}), session, workers)
        return folder

    def _value(self, folder: Path) -> float:
        return objective(self.settings, json.loads((folder / REPORTS).read_text().splitlines()[-1]))


def searched(space: MixtureSpace, reference: Mixture, budget: float, value: Callable[[Mixture, str], float]) -> Mixture:
    """The answer of a search whose runs are trained one after the other, on the objective."""
    optimizer = MixtureOptimizer(space, budget=budget, reference=reference)
    while (suggestion := optimizer.ask()) is not None:
        optimizer.tell(suggestion.trial_id, suggestion.steps, value(suggestion.mixture, suggestion.trial_id))
        optimizer.finish(suggestion.trial_id)
    found = optimizer.recommend()
    click.echo(f"{len(optimizer.history)} runs: {found}", err=True)
    return found.mixture


@click.command()
@click.option("--config", type=click.Path(path_type=Path), default=HERE / "branches.yaml", help="Of the runs.")
@click.option("--branches", type=click.IntRange(min=2), default=20, show_default=True, help="That are searched.")
@click.option("--seeds", type=click.IntRange(min=2), default=6, show_default=True, help="Of each end: 1 and up.")
@click.option("--out", type=click.Path(path_type=Path), default=HERE.parent / "results" / "pretraining")
def main(config: Path, branches: int, seeds: int, out: Path) -> None:
    """Compares the end that is found with others; writes JSON and prints a table."""
    torch.set_num_threads(1)
    settings = PretrainConfig.read(config)
    whole = replace(settings.space, phases=())
    proportional = whole.proportional()
    assert proportional is not None  # the supply of tokens is known
    given = whole.named(proportional)
    runs = Runs(settings, given)
    first, last = settings.searched_phases
    space = replace(whole, phases=(Phase(first.name, first.fraction, mixture=given), Phase(last.name, last.fraction)))
    spent = branches * space.target_cost + first.fraction * whole.target_cost
    click.echo(f"{branches} branches and their main phase cost {spent / whole.target_cost:.2f} whole runs.", err=True)
    end = searched(space, given, branches * space.target_cost, lambda w, name: runs.branch(w, 0, f"branch-{name}"))
    one = searched(whole, given, spent, lambda w, name: runs.whole(w, 0, f"whole-{name}"))
    ends = {"found": end, "uniform": whole.named(whole.uniform()), "objective's weights": objective_mixture(settings)}
    values: dict[str, list[float]] = {}
    for seed in range(1, seeds + 1):
        for name, mixture in ends.items():
            values.setdefault(name, []).append(runs.branch(mixture, seed, f"end-{name.split()[0]}"))
        values.setdefault("main mixture continued", []).append(runs.continued(seed))
        values.setdefault("one mixture, searched with as much", []).append(runs.whole(one, seed, "one"))
    mixtures = {**ends, "main mixture continued": given, "one mixture, searched with as much": one}
    result = {"spent": spent / whole.target_cost, "mixtures": mixtures, "objective": values, "commit": commit()}
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "branches.json", json.dumps(result, indent=1) + "\n")
    click.echo(table(values))


def table(values: Mapping[str, list[float]]) -> str:
    """Means over seeds with their standard errors, and the same of the differences from what was found."""
    lines = ["| end | objective | minus found | worse than found |", "|---|---|---|---|"]
    for name, of in values.items():
        differences = np.subtract(of, values["found"])
        error = np.std([of, differences], axis=1, ddof=1) / np.sqrt(len(of))
        compared = f"{differences.mean():+.4f} ± {error[1]:.4f} | {(differences > 0).sum()} of {len(of)} seeds"
        lines.append(f"| {name} | {np.mean(of):.4f} ± {error[0]:.4f} | {compared if name != 'found' else ' | '} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

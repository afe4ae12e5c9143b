"""BoTorch's own multi-fidelity search: ``SingleTaskMultiFidelityGP`` and GIBBON, divided by a multiplicative cost."""

from __future__ import annotations

import math

import numpy as np
import torch
from botorch.acquisition.cost_aware import InverseCostWeightedUtility
from botorch.acquisition.max_value_entropy_search import qMultiFidelityLowerBoundMaxValueEntropy
from botorch.acquisition.utils import project_to_target_fidelity
from botorch.fit import fit_gpytorch_mll
from botorch.models import SingleTaskMultiFidelityGP
from botorch.models.deterministic import GenericDeterministicModel
from botorch.utils.sampling import manual_seed
from gpytorch.mlls import ExactMarginalLogLikelihood
from torch import Tensor

from ray_mixopt.benchmark.problem import Task
from ray_mixopt.benchmark.rivals.base import Rival
from ray_mixopt.core.strategy import Suggestion

DESIGN_CELLS = 4  # fidelities, at least, of the first runs


class BotorchGibbon(Rival):
    """GIBBON per cost over mixtures, scales and rungs; recommends the best posterior mean at the target.

    Inputs are the shares, and scale and steps on log axes from 0 to 1, where 1 is the target; the cost is that of a
    step at the scale times the steps. Every report enters as an observation.

    Args:
        task: what is searched.
        design_per_domain: first runs, Dirichlet(1) mixtures at random cheap fidelities, for each domain.
        design_share: most that one of them costs, in target runs.
        candidates: mixtures that the acquisition is evaluated on, at every fidelity; half of them are near the best.
        max_value_samples: samples of the optimum's value.
        linear_truncated: which of BoTorch's fidelity kernels; False is the downsampling kernel.
    """

    def __init__(
        self,
        task: Task,
        *,
        design_per_domain: int,
        design_share: float,
        candidates: int,
        max_value_samples: int,
        linear_truncated: bool,
    ) -> None:
        super().__init__(task)
        self.n_design = design_per_domain * self.d
        self.candidates, self.max_value_samples = candidates, max_value_samples
        self.linear_truncated = linear_truncated
        self._model: SingleTaskMultiFidelityGP | None = None
        cheapest = self.cells()
        within = [cell for cell in cheapest if self.space.cost(*cell) <= design_share * self.space.target_cost]
        self.cheap = max(within, cheapest[:DESIGN_CELLS], key=len)

    def ask(self) -> Suggestion | None:
        """The design first, then the run with the most information about the optimum's value per cost."""
        if len(self.runs) < self.n_design or len(self._data()[1]) < 2:
            scale, steps = self.cheap[self.rng.integers(len(self.cheap))]
            return self.start(self.space.sample(1, self.rng)[0], scale, steps)
        best = self._best_run()
        return None if best is None else self.start(*best)

    def recommend(self) -> dict[str, float]:
        """The mixture of the best posterior mean at the target."""
        if len(self._data()[1]) < 2:
            return self.space.named(self.space.uniform())
        model = self._fitted()

        def mean(mixtures: np.ndarray) -> np.ndarray:
            # In small parts: a posterior is joint, and its covariance is computed with it.
            with torch.no_grad():
                parts = [model.posterior(part).mean for part in self._at_target(mixtures).split(128)]
            found: np.ndarray = torch.cat(parts).squeeze(-1).numpy()
            return found

        rng = np.random.default_rng([self.task.seed, 2, len(self.runs)])  # what is recommended changes no later run
        best = self._near_best(4 * self.candidates, rng)
        for reach in (None, *np.geomspace(0.1, 1e-3, 8)):
            if reach is not None:
                near = np.repeat(best, 16, axis=0) + rng.normal(0, reach, (16 * len(best), self.d))
                best = np.concatenate([best, self.space.simplex.project(near)])
            best = best[np.argsort(-mean(best), kind="stable")[:8]]
        return self.space.named(best[0])

    def _best_run(self) -> tuple[np.ndarray, str, int] | None:
        left = self.task.budget - math.fsum(self.space.cost(run.scale, run.steps) for run in self.runs.values())
        cells = [cell for cell in self.cells() if self.space.cost(*cell) <= left]
        if not cells:
            return None
        model = self._fitted()
        mixtures = self._near_best(self.candidates, self.rng)
        fidelities = np.array([self._fidelity(*cell) for cell in self.cells()])
        # The cost is a product, so its logarithm is linear in the two fidelities.
        basis = np.column_stack([fidelities, np.ones(len(fidelities))])
        log_costs = np.log([self.space.cost(*cell) for cell in self.cells()])
        slopes = torch.from_numpy(np.linalg.lstsq(basis, log_costs, rcond=None)[0])
        cost = GenericDeterministicModel(lambda x: (x[..., self.d :] @ slopes[:2] + slopes[2]).exp().unsqueeze(-1))
        with manual_seed(int(self.rng.integers(2**31))):
            gibbon = qMultiFidelityLowerBoundMaxValueEntropy(
                model,
                candidate_set=self._at_target(mixtures),
                num_mv_samples=self.max_value_samples,
                cost_aware_utility=InverseCostWeightedUtility(cost),
                project=lambda x: project_to_target_fidelity(x, {self.d: 1.0, self.d + 1: 1.0}, d=self.d + 2),
            )
            fidelities = np.array([self._fidelity(*cell) for cell in cells])  # (n_cells, 2)
            x = np.column_stack([np.tile(mixtures, (len(fidelities), 1)), np.repeat(fidelities, len(mixtures), axis=0)])
            with torch.no_grad():
                values = torch.cat([gibbon(part.unsqueeze(-2)) for part in torch.from_numpy(x).split(1024)])
        best = int(values.argmax())
        scale, steps = cells[best // len(mixtures)]
        return mixtures[best % len(mixtures)], scale, steps

    def _near_best(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Mixtures ``k x d``: Dirichlet(1), the corners, and neighbours of the ten best observed ones."""
        space = self.space
        ranked = sorted(self.runs.values(), key=lambda run: (-space.cost(run.scale, run.steps), run.loss))[:10]
        centres = np.array([run.mixture for run in ranked])
        reach = 10 ** rng.uniform(-2.5, -0.5, (n // 2, 1))
        near = centres[rng.integers(len(centres), size=n // 2)] + reach * rng.standard_normal((n // 2, self.d))
        return np.concatenate([space.sample(n - n // 2, rng), space.corners(), space.simplex.project(near)])

    # -- the model

    def _fitted(self) -> SingleTaskMultiFidelityGP:
        x, y = self._data()
        if self._model is None or len(self._model.train_inputs[0]) != len(x):
            fidelities = [self.d, self.d + 1]
            model = SingleTaskMultiFidelityGP(x, y, data_fidelities=fidelities, linear_truncated=self.linear_truncated)
            fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
            self._model = model
        return self._model

    def _data(self) -> tuple[Tensor, Tensor]:
        """Inputs ``n x (d + 2)`` and values to maximise ``n x 1``."""
        reports = [(run, step, loss) for run in self.runs.values() for step, loss in run.losses.items()]
        x = [[*run.mixture, *self._fidelity(run.scale, step)] for run, step, _ in reports]
        y = [[-loss] for *_, loss in reports]
        return (
            torch.tensor(x, dtype=torch.float64).reshape(len(x), self.d + 2),
            torch.tensor(y, dtype=torch.float64).reshape(len(y), 1),
        )

    def _fidelity(self, scale: str, steps: int) -> tuple[float, float]:
        space = self.space

        def along(value: float, low: float, high: float) -> float:
            return 1.0 if low == high else math.log(value / low) / math.log(high / low)

        price, lowest, highest = (
            space.scale(name).cost_per_step for name in (scale, self.cells()[0][0], space.target_scale)
        )
        return along(price, lowest, highest), along(steps, space.steps[0], space.target_steps)

    def _at_target(self, mixtures: np.ndarray) -> Tensor:
        return torch.from_numpy(np.column_stack([mixtures, np.ones((len(mixtures), 2))]))

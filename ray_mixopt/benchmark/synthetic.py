"""Landscapes whose best mixture is known by construction.

Each is a data-mixing law. Domain ``i`` of ``d`` has the validation loss

    L_i(w, m, z) = c(m, z) + a(m, z) (m z)^-b_i k_i exp(-t_i . w)

with scale ``m`` and steps ``z`` relative to the target, and the objective is their mean. At the target it is ``c``
plus the mean of ``k_i exp(-t_i . w)``. For positive ``k`` that is convex in ``w``, so ``w*`` is the optimum if and only
if the gradient there is the same in every domain that ``w*`` uses and no smaller in those it does not:
``sum_i y_i t_ij = 1 - s_j`` with ``y_i = k_i exp(-t_i . w*)``, ``s_j = 0`` where ``w*_j > 0`` and ``s_j >= 0``
elsewhere. So draw ``t``, choose ``w*`` and ``s``, solve for ``y``, and read off ``k``.

In families of power laws a domain's loss is ``k_i (w_i + e)^-g_i`` instead, a function of its own share, and ``w*`` is
the optimum if and only if ``k_i`` is in proportion to ``(w*_i + e)^(1 + g_i) / g_i``.

Where runs have two phases, there are such losses of the mean of both, and besides, weighed with the strength of order,
those of the second phase, which models see last: each sum has its own ``w*``. Both are met at once, since the first
phase may be what the mean needs beside the second.

Where runs repeat domains, a loss is a power of the effective share ``e_i = w_i (1 + R_i (1 - exp(-(n - 1) / R_i))) /
n`` of ``n > 1`` passes (Muennighoff et al. 2023, Sec. 3). It is concave in ``w_i``, so that the sum of losses stays
convex, and ``w*`` is the optimum if and only if ``k_i`` is in proportion to ``(e*_i + e)^(1 + g_i) / (g_i
e'_i(w*_i))``, with ``e'_i = exp(-(n - 1) / R_i)``. Supplies are such that two domains are scarce at ``w*``.
Another family has ``1 + R_i log(1 + (n - 1) / R_i)`` there: what passes are worth, the surrogate does not know either.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from ray_mixopt.benchmark.problem import BenchmarkProblem, ProblemName
from ray_mixopt.core.phased import phased
from ray_mixopt.core.phases import Phase
from ray_mixopt.core.scale import Scale
from ray_mixopt.core.space import MixtureSpace
from ray_mixopt.core.supply import WORTHLESS, Repetition, passes

FAMILY = "synthetic"
PARAMETERS = {"30M": 30e6, "100M": 100e6, "300M": 300e6, "1B": 1e9}
STEPS = (2000, 6000, 12000, 20000)
LEAST_SHARE = 0.01  # e, of power laws
LATE = 0.2  # fraction of the second of two phases
SLACK = 0.3  # s_j of a domain that the best mixture does without
TOKENS = 20e9  # of the target run, where domains are repeated
SCARCE, PLENTY = (4.0, 16.0), (0.05, 0.5)  # passes of the best mixture over two domains, and over the others

Amplitude = Callable[[float, float], float]


def _steady(size: float, length: float) -> float:
    """The same at every scale and number of steps."""
    return 1.0


def _reversing(size: float, length: float) -> float:
    """Small and short runs prefer the opposite mixtures, a little."""
    smallest = min(PARAMETERS.values()) / max(PARAMETERS.values())
    along = 0.5 * (math.log(size / smallest) / -math.log(smallest)) + 0.5 * (
        math.log(length * STEPS[-1] / STEPS[0]) / math.log(STEPS[-1] / STEPS[0])
    )
    return -0.25 + 1.25 * along


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What sets one family of landscapes apart.

    Args:
        d: number of domains.
        unused: number of domains that the best mixture does without.
        moves: whether the best mixture of the smallest scale is another one, and moves to the target's with log scale.
        amplitude: of the mixture's effect, given scale and steps relative to the target.
        uneven_noise: whether the noise is up to ten times as strong, the more so the more of the first domain there is.
        power: whether each domain's loss is a power of its own share.
        order: of families of powers whose runs have two phases, what the second one counts for besides, as a part of
            what the mean does; None for runs of one mixture.
        repetition: of families of powers of which some domains are scarce, what their runs pass over, see
            ``MixtureSpace``. Scales have lengths in proportion to their size.
        reach: median of ``R``, which differs between domains by a factor of 1.6 (a standard deviation).
        logarithmic: whether passes go on to be worth something, as a logarithm does, rather than saturate.
    """

    d: int = 5
    unused: int = 0
    moves: bool = False
    amplitude: Amplitude = _steady
    uneven_noise: bool = False
    power: bool = False
    order: float | None = None
    repetition: Repetition | None = None
    reach: float = 15.0
    logarithmic: bool = False


RECIPES = {
    "mixing_law": Recipe(),
    "moving_optimum": Recipe(moves=True),
    "rank_reversal": Recipe(amplitude=_reversing),
    "30_domains": Recipe(d=30, unused=20),
    "uneven_noise": Recipe(uneven_noise=True),
    "2_domains": Recipe(d=2),
    "50_domains": Recipe(d=50, unused=35),
    "3_domains": Recipe(d=3, moves=True),
    "8_domains": Recipe(d=8, moves=True),
    "20_domains": Recipe(d=20, unused=8),
    "3_powers": Recipe(d=3, power=True),
    "8_powers": Recipe(d=8, power=True, moves=True),
    "20_powers": Recipe(d=20, power=True),
    "5_order": Recipe(power=True, order=1.0),
    "5_weak_order": Recipe(power=True, order=0.2),
    "5_no_order": Recipe(power=True, order=0.0),
    "5_scarce": Recipe(power=True, repetition="real"),
    "5_matched": Recipe(power=True, repetition="matched"),
    "5_scarce_log": Recipe(power=True, repetition="real", logarithmic=True),
    "5_scarce_free": Recipe(power=True, repetition="real", reach=1e6),  # all passes are worth as much
}
PROBLEMS = ("mixing_law", "moving_optimum", "rank_reversal", "30_domains", "uneven_noise+noise=0.02")


class Landscape:
    """A data-mixing law with a known optimum; the only metric is the mean loss.

    Args:
        recipe: the family.
        number: which member of it.
    """

    metrics = ("loss",)
    pool = None

    def __init__(self, recipe: Recipe, number: int) -> None:
        d = recipe.d
        largest = PARAMETERS["1B"]
        self.recipe = recipe
        self.space = MixtureSpace(
            domains=tuple(f"domain_{i}" for i in range(d)),
            scales=tuple(
                Scale(name, cost_per_step=size / largest / STEPS[-1], parameters=size)
                for name, size in PARAMETERS.items()
            ),
            steps=STEPS,
            phases=() if recipe.order is None else (Phase("main", 1 - LATE), Phase("anneal", LATE)),
        )
        rng = np.random.default_rng([number, list(RECIPES.values()).index(recipe)])
        self._exponents = rng.uniform(0.0, 0.3, d)  # b
        self._at_best: tuple[np.ndarray, np.ndarray] | None = None  # effective shares and their slope, if there are
        if recipe.power:
            self._powers = rng.uniform(0.1, 0.6, d)  # g
            self.optimum = _mixture(rng, d, 0)
            self._start = 0.7 * self.optimum + 0.3 * _mixture(rng, d, 0) if recipe.moves else self.optimum
            if recipe.order is not None:  # the last phase has up to e times as much of a domain, or as little
                self._late = self.optimum * np.exp(rng.uniform(-1.0, 1.0, d))
                self._late /= self._late.sum()
            if recipe.repetition is not None:
                self._reach = recipe.reach * np.exp(0.5 * rng.standard_normal(d))
                often = np.concatenate([rng.uniform(*SCARCE, 2), rng.uniform(*PLENTY, d - 2)])
                self.space = _scarce(self.space, recipe.repetition, self.optimum / rng.permutation(often))
                (at_best,), (slope,) = self._effective(
                    self.optimum[None], self.space.rates(self.space.target_scale, self.space.target_steps)
                )
                self._at_best = at_best, slope
        while not recipe.power:
            self._t = rng.uniform(0.0, 0.5, (d, d))  # (losses, domains)
            np.fill_diagonal(self._t, d * rng.uniform(0.5, 1.5, d))
            self.optimum = _mixture(rng, d, recipe.unused)
            self._start = _mixture(rng, d, recipe.unused) if recipe.moves else self.optimum
            slack = np.where(self.optimum > 0, 0.0, SLACK)
            self._y = np.linalg.solve(self._t.T, 1.0 - slack)
            if self._y.min() > 0:
                break

    @property
    def answer(self) -> np.ndarray:
        """The best mixture at the target, of all phases, ``(n_shares,)``."""
        if self.recipe.order is None:
            return self.optimum
        late = self._late if self.recipe.order else self.optimum
        return np.concatenate([(self.optimum - LATE * late) / (1 - LATE), late])

    def optimum_at(self, scale: str) -> np.ndarray:
        """The best mixture at a scale, if the mixture's effect has a positive amplitude there, ``(d,)``."""
        sizes = [math.log(size) for size in PARAMETERS.values()]
        along = (math.log(PARAMETERS[scale]) - sizes[0]) / (sizes[-1] - sizes[0])
        return (1 - along) * self._start + along * self.optimum

    def evaluate(self, mixtures: np.ndarray, scale: str, steps: int) -> np.ndarray:
        """The mean loss of ``n x d`` mixtures, or of as many of two phases, ``n x 1``."""
        size, length = PARAMETERS[scale] / PARAMETERS["1B"], steps / STEPS[-1]
        base = 1.5 + 0.4 * size**-0.25 + 0.3 * length**-0.3
        if self.recipe.power:
            fading = (size * length) ** -(self._exponents / 3)
            if self.recipe.order is None:
                rates = self.space.rates(scale, steps) if self.recipe.repetition else None
                losses = self._losses(mixtures, self.optimum_at(scale), rates)
            else:
                phases = phased(self.space.simplex)
                losses = self._losses(phases.mean(mixtures), self.optimum_at(scale))
                losses = losses + self.recipe.order * self._losses(phases.apart(mixtures)[:, 1], self._late)
            effect = 0.2 * (losses * fading).sum(axis=1, keepdims=True)
            return np.asarray(base + self.recipe.amplitude(size, length) * effect)
        exponents = (self.optimum_at(scale) - mixtures) @ self._t.T  # (n, losses)
        weights = self._y * (size * length) ** -self._exponents
        effect = (np.exp(exponents) * weights).mean(axis=1, keepdims=True)
        values: np.ndarray = base + self.recipe.amplitude(size, length) * effect
        return values

    def supplied(self, supply: Mapping[str, float]) -> Landscape:
        """The same losses with another supply of tokens, by domain: the best mixture is then another one."""
        other = copy.copy(self)
        other.space = replace(self.space, token_supply=dict(supply))
        return other

    def _losses(self, mixtures: np.ndarray, best: np.ndarray, rates: np.ndarray | None = None) -> np.ndarray:
        """Powers of each share of ``n x d`` mixtures, whose sum is least at ``best`` ``(d,)``, ``n x d``.

        Args:
            mixtures: ``n x d``.
            best: at the target, as are the passes where domains are repeated.
            rates: of the passes of the runs, where domains are repeated, ``(d,)``.
        """
        at_best, slope = (best, 1.0) if self._at_best is None else self._at_best
        factors = (at_best + LEAST_SHARE) ** (1 + self._powers) / (self._powers * slope)
        shares = mixtures if rates is None else self._effective(mixtures, rates)[0]
        found: np.ndarray = factors * (shares + LEAST_SHARE) ** -self._powers
        return found

    def _effective(self, mixtures: np.ndarray, rates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Effective shares ``n x d``, and by how much they rise with the share."""
        often = passes(mixtures, rates)
        further = (often - 1) / self._reach
        if self.recipe.logarithmic:
            return mixtures * (1 + self._reach * np.log1p(further)) / often, 1 / (1 + further)
        return mixtures * (1 + self._reach * (1 - np.exp(-further))) / often, np.exp(-further)

    def noise_factor(self, mixtures: np.ndarray) -> np.ndarray:
        """What the noise of ``n x d`` mixtures is multiplied with, ``(n,)``."""
        return 1.0 + 9.0 * mixtures[:, 0]


def _scarce(space: MixtureSpace, repetition: Repetition, supply: np.ndarray) -> MixtureSpace:
    """The space where a target run's tokens are so many times a supply ``(d,)``, and small models train for less."""
    top = PARAMETERS["1B"]
    rungs = {name: tuple(round(s * size / top) for s in STEPS) for name, size in PARAMETERS.items()}
    return replace(
        space,
        scales=tuple(replace(scale, steps=rungs[scale.name]) for scale in space.scales),
        steps=(),
        token_supply=dict(zip(space.domains, (TOKENS * supply).tolist(), strict=True)),
        target_tokens=TOKENS,
        max_epochs=WORTHLESS,
        repetition=repetition,
    )


def load(name: ProblemName, data: object = None) -> BenchmarkProblem:
    """The problem of that name: ``synthetic/<recipe>``, or ``synthetic/<recipe>:<number>`` for another member.

    Raises:
        ValueError: for an unknown recipe or target, or a number that is none.
    """
    recipe, separator, number = name.objective.partition(":")
    if recipe not in RECIPES or (separator and not number.isdecimal()):
        raise ValueError(f"Unknown landscape in {name.text!r}: choose one of {', '.join(RECIPES)}, or name:number.")
    if name.target is not None:
        raise ValueError(f"{name.text!r}: the best mixture of a landscape is known at its own target only.")
    landscape = Landscape(RECIPES[recipe], int(number or 0))
    return BenchmarkProblem(
        name=name.text,
        id=name.identity(FAMILY),
        group=name.identity(FAMILY),
        oracle=landscape,
        mode="min",
        objective={"loss": 1.0},
        cost_unit="target runs",
        noise=name.noise,
        noise_factor=landscape.noise_factor if landscape.recipe.uneven_noise else None,
        failures=name.failures,
        optimum=landscape.answer,
    )


def _mixture(rng: np.random.Generator, d: int, unused: int) -> np.ndarray:
    """A mixture ``(d,)`` well inside the face of the domains that it uses."""
    shares = np.zeros(d)
    used = np.sort(rng.permutation(d)[unused:])
    shares[used] = rng.dirichlet(np.full(len(used), 3.0))
    return shares

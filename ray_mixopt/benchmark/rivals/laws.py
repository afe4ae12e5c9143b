"""The laws of Scaling Laws for Optimal Data Mixtures (Shukor et al., 2025, arXiv 2507.09404).

With ``N`` parameters, ``D`` tokens and shares ``h_i`` of ``k`` domains, a loss is

    additive   E + 1 / sum_i C_i h_i^gamma_i + A / N^alpha + B / D^beta
    joint      the same with A = (sum_i C^A_i h_i)^gamma_A and B = (sum_i C^B_i h_i)^gamma_B

with 5 + 2 k and 5 + 4 k parameters. The sum of Huber losses of all reports is minimised by L-BFGS from several
random parameters. ``N`` and ``D`` are relative to the target and losses are standardised here, which changes the values
of parameters and none of the laws.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import OptimizeResult, minimize

_HUBER = 1e-3  # nats
_STARTS, _ITERATIONS = 4, 300
_TINY = 1e-9  # a share that is none
_BOUNDS = {"E": (-50, 50), "C": (-15, 15), "gamma": (-5, 2.5), "A": (-20, 6), "rate": (-4, 1.5), "power": (-20, 20)}
"""Of the parameters as they are stored: all but ``E``, ``gamma_A`` and ``gamma_B`` as logarithms."""


class MixtureLaw:
    """A law fitted to what runs showed; a function of mixtures that gives their losses at the target.

    Args:
        mixtures: of the reports, ``n x k``.
        sizes: of their models, relative to the target, ``(n,)``.
        lengths: at which they were made, in tokens or steps relative to the target, ``(n,)``.
        losses: what they say, ``(n,)``.
        joint: whether it is the joint law.
        seed: of the fit.
    """

    def __init__(
        self,
        mixtures: np.ndarray,
        sizes: np.ndarray,
        lengths: np.ndarray,
        losses: np.ndarray,
        *,
        joint: bool,
        seed: int,
    ) -> None:
        self.joint, self.k = joint, mixtures.shape[1]
        self._shares, self._which = np.unique(mixtures, axis=0, return_inverse=True)
        self._which = self._which.reshape(-1)
        self._axes = (np.log(sizes), np.log(lengths))
        self._mean, self._spread = float(losses.mean()), max(float(losses.std()), 1e-12)
        self._target = (losses - self._mean) / self._spread
        self._delta = _HUBER / self._spread
        rng = np.random.default_rng(seed)
        # Not by basinhopping(): of fits that reach the limit of iterations it keeps one that is worse.
        fits = [self._minimum(self._start(rng)) for _ in range(_STARTS)]
        self.parameters: np.ndarray = min(fits, key=lambda fit: fit.fun).x

    def __call__(self, mixtures: np.ndarray) -> np.ndarray:
        """Losses ``(m,)`` at the target of ``m x k`` mixtures."""
        target = np.zeros(len(mixtures))
        value, _ = self._evaluated(self.parameters, mixtures, np.arange(len(mixtures)), (target, target))
        return value * self._spread + self._mean

    def _sizes(self) -> list[tuple[str, int]]:
        """Kind and number of the parameters, in order; then for each axis its rate and amplitude."""
        axis = [("rate", 1), ("C", self.k), ("power", 1)] if self.joint else [("rate", 1), ("A", 1)]
        return [("E", 1), ("C", self.k), ("gamma", self.k), *axis, *axis]

    def _bounds(self) -> list[tuple[float, float]]:
        return [_BOUNDS[kind] for kind, size in self._sizes() for _ in range(size)]

    def _start(self, rng: np.random.Generator) -> np.ndarray:
        means = {"E": -2.0, "C": 0.0, "gamma": -0.7, "A": -0.7, "rate": -1.1, "power": 0.3}
        widths = {"E": 0.5, "C": 0.5, "gamma": 0.3, "A": 0.5, "rate": 0.3, "power": 0.2}
        return np.concatenate([rng.normal(means[kind], widths[kind], size) for kind, size in self._sizes()])

    def _minimum(self, start: np.ndarray) -> OptimizeResult:
        options = {"maxiter": _ITERATIONS, "maxfun": 2 * _ITERATIONS}
        return minimize(self._objective, start, jac=True, method="L-BFGS-B", bounds=self._bounds(), options=options)

    def _objective(self, p: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = self._evaluated(p, self._shares, self._which, self._axes)
        wrong = value - self._target
        size, delta = np.abs(wrong), self._delta
        huber = np.where(size <= delta, 0.5 * wrong**2, delta * (size - 0.5 * delta)) / delta
        slope = np.clip(wrong / delta, -1.0, 1.0)
        return float(huber.mean()), gradient(slope / len(slope))

    def _evaluated(self, p, shares, which, axes):  # type: ignore[no-untyped-def]
        """Standardised losses, and a function that gives their gradient when weighted."""
        parts = np.split(p, np.cumsum([size for _, size in self._sizes()])[:-1])
        (level,), c, log_gamma, *rest = parts
        logs, gamma = np.log(np.maximum(shares, _TINY)), np.exp(log_gamma)
        each = np.exp(c + gamma * logs)  # (mixtures, k)
        own = 1 / each.sum(1)
        value = level + own[which]
        width = len(rest) // 2
        fidelity = []
        for x, (rate, *amplitude) in zip(axes, (rest[:width], rest[width:]), strict=True):
            fading = np.exp(-np.exp(rate[0]) * x)
            if self.joint:
                weights = np.exp(amplitude[0])
                total = np.maximum(shares @ weights, 1e-300)
                height = np.exp(np.clip(amplitude[1][0] * np.log(total), -30, 30))
            else:
                weights = total = None
                height = np.full(len(shares), np.exp(amplitude[0][0]))
            term = height[which] * fading
            value = value + term
            fidelity.append((x, rate[0], amplitude, weights, total, term))

        def gradient(of: np.ndarray) -> np.ndarray:
            by_mixture = np.bincount(which, of, len(shares))
            on_each = -(by_mixture * own**2)[:, None] * each
            found = [np.array([of.sum()]), on_each.sum(0), (on_each * logs).sum(0) * gamma]
            for x, rate, amplitude, weights, total, term in fidelity:
                weighted = of * term
                found.append(np.array([-np.exp(rate) * (weighted * x).sum()]))
                by_mixture = np.bincount(which, weighted, len(shares))
                if weights is None:
                    found.append(np.array([by_mixture.sum()]))
                else:
                    found.append(amplitude[1][0] * weights * ((by_mixture / total) @ shares))
                    found.append(np.array([(by_mixture * np.log(total)).sum()]))
            return np.concatenate(found)

        return value, gradient

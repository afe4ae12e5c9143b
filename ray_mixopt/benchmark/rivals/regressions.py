"""The regressions of the one-shot methods: of losses on mixtures, and of a mixture's losses on size and length."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
from scipy.optimize import least_squares

_USUAL_EXPONENT = 0.34  # that of Hoffmann et al. (2022), where the data do not say one


def boosted_trees(w: np.ndarray, y: np.ndarray, asked: np.ndarray, parameters: Mapping[str, object]) -> np.ndarray:
    """Predictions ``(k,)`` at ``k x d`` mixtures of LightGBM fitted to ``n x d`` mixtures and their losses.

    Args:
        w: mixtures, ``n x d``.
        y: their losses, ``(n,)``.
        asked: mixtures, ``k x d``.
        parameters: of LightGBM, the number of trees among them.
    """
    import lightgbm

    settings = {"objective": "regression", "verbosity": -1, "num_threads": 1, "deterministic": True, **parameters}
    rounds = int(str(settings.pop("num_iterations")))
    mean, spread = float(y.mean()), max(float(y.std()), 1e-12)
    model = lightgbm.train(settings, lightgbm.Dataset(w, (y - mean) / spread), num_boost_round=rounds)
    return np.asarray(model.predict(asked)) * spread + mean


def log_linear(w: np.ndarray, y: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Losses ``(k,)`` at ``k x d`` mixtures, whose logarithm above a floor is linear in the shares.

    The floor is one range below the lowest of the losses ``y`` of ``n x d`` mixtures ``w``.
    """
    floor = float(y.min()) - max(float(np.ptp(y)), 1e-12)
    weights, *_ = np.linalg.lstsq(w, np.log(y - floor), rcond=None)
    predicted: np.ndarray = floor + np.exp(np.minimum(asked @ weights, 700.0))
    return predicted


def extrapolated(sizes: np.ndarray, lengths: np.ndarray, values: np.ndarray, exponents: Sequence[float]) -> np.ndarray:
    """Losses ``(n,)`` at the target by ``E + A m^-a + B z^-b``, one law a mixture; all share ``a``, ``b``.

    Args:
        sizes: of the models, relative to the target, ``(cells,)``.
        lengths: of their runs, relative to the target, ``(cells,)``.
        values: losses, ``(n, cells)``.
        exponents: values of ``a`` and ``b`` that are tried. Of two sizes or two lengths all fit equally well, and the
            one nearest to what is usual is taken.
    """
    varied = [x for x in (sizes, lengths) if np.ptp(x) > 0]
    usual = min(exponents, key=lambda x: abs(x - _USUAL_EXPONENT))
    tried = [exponents if len(np.unique(x)) > 2 else [usual] for x in varied]
    best = None
    for powers in product(*tried):
        columns = [np.ones(len(sizes)), *(x**-p for x, p in zip(varied, powers, strict=True))]
        basis = np.stack(columns, axis=1)  # (cells, terms); every term is 1 at the target
        weights, *_ = np.linalg.lstsq(basis, values.T, rcond=None)
        error = float(((basis @ weights - values.T) ** 2).sum())
        if best is None or error < best[0]:
            best = error, weights.sum(axis=0)
    assert best is not None
    return best[1]


class ExponentialLaw:
    """``c + sum_i k_i exp(t_i . w)`` fitted robustly to ``n x d`` mixtures and their losses; a function of mixtures.

    Args:
        w: mixtures, ``n x d``.
        y: their losses, ``(n,)``.
        terms: number of exponentials.
        starts: of the fit, from random parameters.
        rng: draws them.
    """

    def __init__(self, w: np.ndarray, y: np.ndarray, terms: int, starts: int, rng: np.random.Generator) -> None:
        n, d = w.shape
        self._mean, self._spread = float(y.mean()), max(float(y.std()), 1e-12)
        target = (y - self._mean) / self._spread
        self._terms = terms

        def residuals(p: np.ndarray) -> np.ndarray:
            return np.concatenate([self._predict(p, w) - target, 1e-3 * p])

        def jacobian(p: np.ndarray) -> np.ndarray:
            powers = self._powers(p, w)  # (n, terms)
            slopes = (powers * p[1 : 1 + terms])[:, :, None] * w[:, None, :]
            of_data = np.concatenate([np.ones((n, 1)), powers, slopes.reshape(n, terms * d)], axis=1)
            return np.concatenate([of_data, 1e-3 * np.eye(len(p))])

        best = None
        for _ in range(starts):
            start = np.concatenate([[-1.0], rng.normal(0, 1, terms), rng.normal(0, 1, terms * d)])
            fit = least_squares(residuals, start, jac=jacobian, loss="soft_l1", max_nfev=200)
            if best is None or fit.cost < best.cost:
                best = fit
        assert best is not None and math.isfinite(best.cost)
        self._parameters = best.x

    def __call__(self, mixtures: np.ndarray) -> np.ndarray:
        """Losses ``(k,)`` at ``k x d`` mixtures."""
        return self._predict(self._parameters, mixtures) * self._spread + self._mean

    def _powers(self, p: np.ndarray, at: np.ndarray) -> np.ndarray:
        powers: np.ndarray = np.exp(np.clip(at @ p[1 + self._terms :].reshape(self._terms, -1).T, -30, 30))
        return powers

    def _predict(self, p: np.ndarray, at: np.ndarray) -> np.ndarray:
        value: np.ndarray = p[0] + self._powers(p, at) @ p[1 : 1 + self._terms]
        return value

"""Candidate mixtures: where the surrogate is asked for its opinion."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ray_mixopt.space import MixtureSpace


def spread_out(space: MixtureSpace, n: int, rng: np.random.Generator) -> np.ndarray:
    """Half uniform on the capped simplex, half near its faces (Dirichlet 0.3), the corners and near-corners."""
    corners = space.corners()
    near = space.simplex.project(0.9 * corners + 0.1 * space.uniform())
    half = n // 2
    return np.concatenate(
        [space.uniform()[None], corners, near, space.sample(half, rng), space.sample(n - half, rng, 0.3)]
    )


def perturbed(space: MixtureSpace, centers: np.ndarray, n: int, rng: np.random.Generator, reach: float) -> np.ndarray:
    """``n`` mixtures around some ``centers`` (``c x d``): moved towards random mixtures by up to ``reach``.

    A third of them also drop one domain, since optima often lie on a face.
    """
    base = centers[rng.integers(len(centers), size=n)]
    size = reach * rng.random((n, 1)) ** 2
    moved = (1 - size) * base + size * rng.dirichlet(np.full(space.n_domains, 0.5), n)
    dropped = rng.random(n) < 1 / 3
    moved[np.flatnonzero(dropped), rng.integers(space.n_domains, size=int(dropped.sum()))] = 0.0
    total = moved.sum(1, keepdims=True)
    return space.simplex.project(np.divide(moved, total, out=base.copy(), where=total > 0))


def refined(
    space: MixtureSpace,
    start: np.ndarray,
    score: Callable[[np.ndarray], np.ndarray],
    rng: np.random.Generator,
    *,
    rounds: int = 4,
    n: int = 256,
) -> np.ndarray:
    """Local search from the best of ``start`` (``c x d``): lowest ``score`` first, ``c' x d`` sorted."""
    pool, values = start, score(start)
    for i in range(rounds):
        keep = np.argsort(values, kind="stable")[:16]
        pool, values = pool[keep], values[keep]
        new = perturbed(space, pool[:4], n, rng, reach=0.4 * 0.4**i)
        pool, values = np.concatenate([pool, new]), np.concatenate([values, score(new)])
    return pool[np.argsort(values, kind="stable")]

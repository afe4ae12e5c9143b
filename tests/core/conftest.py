"""The paper's kind of space, and an objective with a known optimum."""

from __future__ import annotations

import math
from functools import partial

import pytest
from worlds import PAPER, Bowl, search

from ray_mixopt.core.space import MixtureSpace


@pytest.fixture
def space() -> MixtureSpace:
    """Three domains, three scales, the paper's design rungs and three search rungs."""
    return PAPER


@pytest.fixture
def loss() -> Bowl:
    """``loss(mixture, scale, step)``: falls with scale and steps, lowest where most of the tokens are books."""
    best = (0.1, 0.2, 0.7)
    return Bowl(space=PAPER, best=best, depth=1.5, size=0.1 * math.log(10), length=0.06 * math.log(10))


@pytest.fixture
def drive(loss):
    """``drive(optimizer, n)`` runs up to n suggestions one after the other and returns them."""
    return partial(search, value=loss)

"""Fronts against a truth that is known."""

from __future__ import annotations

import numpy as np
import pytest

from ray_mixopt import MixtureOptimizer, MixtureSpace, Scale
from ray_mixopt.analysis.pareto import pareto_front, undominated


def test_undominated_rows() -> None:
    values = np.random.default_rng(0).random((300, 2))
    front = undominated(values)
    for i in range(300):
        beaten = ((values <= values[i]).all(1) & (values < values[i]).any(1)).any()
        assert (i in front) == (not beaten)
    assert (np.diff(values[front], axis=0) * [1, -1] > 0).all()


@pytest.mark.parametrize("repeats", [1, 600])  # botorch has one way for few rows and another for many
def test_of_equal_rows_the_first_is_on_the_front(repeats: int) -> None:
    values = np.tile([[2.0, 1.0], [1.0, 2.0], [1.0, 2.0], [1.0, 3.0], [3.0, 1.0]], (repeats, 1))
    assert undominated(values).tolist() == [1, 0]


def test_the_front_of_two_distances_is_the_line_between_their_optima() -> None:
    space = MixtureSpace(domains=("a", "b", "c"), scales=(Scale("S", 1.0),), steps=(10,))
    ends = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]])
    optimizer = MixtureOptimizer(space, objective={"x": 1.0, "y": 1.0})
    for w in space.sample(60, np.random.default_rng(0)):
        x, y = (float(np.square(w - end).sum()) for end in ends)
        optimizer.add_evaluated_point(space.named(w), "S", 10, {"x": x, "y": -y})
    front = pareto_front(optimizer.problem, optimizer.history, {"x": "min", "y": "max"})
    assert 5 < len(front) <= 24
    along = (ends[1] - ends[0]) / np.linalg.norm(ends[1] - ends[0])
    for point in front:
        offset = space.mixture(point.mixture) - ends[0]
        assert np.linalg.norm(offset - (offset @ along) * along) < 0.08
    assert front[0].first.mean == pytest.approx(0.0, abs=0.02)
    assert front[-1].second.mean == pytest.approx(0.0, abs=0.02)

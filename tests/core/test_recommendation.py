"""Answers and forecasts as plain data."""

import math

import numpy as np
import pytest

from ray_mixopt import Forecast
from ray_mixopt.core.forecast import NORMAL_95, Prediction


def test_prediction_of_a_normal_has_its_95_interval():
    found = Prediction.of(2.0, 0.5)
    assert (found.low, found.mean, found.high) == (2.0 - NORMAL_95 * 0.5, 2.0, 2.0 + NORMAL_95 * 0.5)
    assert math.erf(NORMAL_95 / math.sqrt(2)) == pytest.approx(0.95, abs=1e-12)


def _forecast(covariance):
    covariance = np.asarray(covariance, dtype=float)
    return Forecast(mean=np.arange(len(covariance)), std=np.sqrt(covariance.diagonal()), covariance=covariance)


def test_difference_has_the_variance_of_the_contrast():
    root = np.random.default_rng(0).normal(size=(4, 4))
    forecast = _forecast(root @ root.T)
    assert len(forecast) == 4
    for i in range(4):
        for j in range(4):
            found = forecast.difference(i, j)
            half = NORMAL_95 * np.linalg.norm(root[i] - root[j])  # |r_i - r_j|^2 = c_ii + c_jj - 2 c_ij
            assert found.mean == i - j
            assert (found.low, found.high) == pytest.approx((i - j - half, i - j + half), abs=1e-6)


def test_difference_of_mixtures_that_go_together_is_certain_and_never_of_negative_variance():
    forecast = _forecast([[1.0, 1.0 + 1e-12], [1.0 + 1e-12, 1.0]])  # rounding: the contrast's variance is below 0
    assert forecast.difference(1, 0) == Prediction(mean=1.0, low=1.0, high=1.0)
    assert forecast.difference(0, 0) == Prediction(mean=0.0, low=0.0, high=0.0)


@pytest.mark.parametrize("wrong", ["mean", "std", "covariance"])
def test_shapes_of_a_forecast_must_agree(wrong):
    parts = {"mean": np.zeros(2), "std": np.ones(2), "covariance": np.eye(2)}
    parts[wrong] = {"mean": np.zeros((2, 1)), "std": np.ones(3), "covariance": np.ones(2)}[wrong]
    with pytest.raises(ValueError, match=r"mean \(n,\)"):
        Forecast(**parts)

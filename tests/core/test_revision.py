"""A restored search in an edited space."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ray_mixopt import MixOptSearcher, MixtureSpace


@pytest.fixture
def state(space: MixtureSpace) -> dict:
    searcher = MixOptSearcher(strategy="random", seed=3)
    searcher.set_search_properties("loss", "min", space.param_space())
    searcher.suggest("a")
    return searcher.state_dict()


def restored(space: MixtureSpace, state: dict) -> MixOptSearcher:
    """As Tune does it: the space is handed over before the state is read."""
    searcher = MixOptSearcher()
    searcher.set_search_properties("loss", "min", space.param_space())
    searcher.load_state_dict(state)
    return searcher


def test_bounds_and_target_may_change(space: MixtureSpace, state: dict) -> None:
    new = replace(space, upper={"book": 0.1}, lower={"github": 0.3}, target=("150M", 19700))
    searcher = restored(new, state)
    assert searcher.optimizer.space == searcher.optimizer.history.space == new
    config = searcher.suggest("b")
    assert config["mixture"]["book"] <= 0.1 + 1e-9 and config["mixture"]["github"] >= 0.3 - 1e-9
    assert config["scale"] == "150M" and list(searcher.optimizer.history.trials) == ["a", "b"]


def test_domains_scales_and_steps_may_not(space: MixtureSpace, state: dict) -> None:
    for new in (
        replace(space, domains=(*space.domains, "math")),
        replace(space, domains=space.domains[::-1]),
        replace(space, steps=space.steps[1:]),
        replace(space, scales=space.scales[1:]),
    ):
        with pytest.raises(ValueError, match="these cannot be changed"):
            restored(new, state)


def test_an_unedited_space_goes_on(space: MixtureSpace, state: dict) -> None:
    one, two = restored(space, state), MixOptSearcher()
    two.load_state_dict(state)
    assert one.suggest("b") == two.suggest("b")

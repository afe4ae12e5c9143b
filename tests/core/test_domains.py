"""The space as Tune domains and back. Imports ray.tune for its domains; nothing is started."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from ray import tune
from ray.tune.search.sample import Categorical, Float
from ray.tune.search.variant_generator import generate_variants

from ray_mixopt.core.scale import Scale
from ray_mixopt.core.space import MixtureSpace


def hand_written(**changes):
    """A param_space that someone may have had before they knew this package."""
    config = {
        "mixture": {"web": tune.uniform(0, 1), "code": tune.uniform(0, 1)},
        "scale": tune.choice(["small", "large"]),
        "steps": tune.choice([200, 100]),
        "lr": 1e-3,
    }
    return {**config, **changes}


COSTS = {"small": 1.0, "large": 8.0}


def test_our_own_space_comes_back_as_it_was(space) -> None:
    config = space.param_space()
    assert MixtureSpace.from_param_space(config) == space
    assert MixtureSpace.from_param_space(pickle.loads(pickle.dumps(config))) == space
    assert list(config) == ["mixture", "scale", "steps"]
    assert tuple(config["mixture"]) == space.domains


def test_other_searchers_see_plain_tune_domains(space) -> None:
    config = space.param_space()
    assert all(isinstance(d, Float) and (d.lower, d.upper) == (0.0, 1.0) for d in config["mixture"].values())
    assert isinstance(config["scale"], Categorical)
    assert isinstance(config["steps"], Categorical)
    assert config["scale"].categories == ["20M", "150M", "1B"]
    assert config["steps"].categories == list(space.steps)


def test_random_search_draws_uniform_mixtures(space) -> None:
    config = space.param_space()
    rng = np.random.RandomState(0)
    draws = []
    for _ in range(4000):
        (_, variant), *_ = generate_variants(config, random_state=rng)
        assert variant["scale"] in space.scale_names
        assert variant["steps"] in space.steps
        draws.append([variant["mixture"][name] for name in space.domains])
    weights = np.array(draws)
    assert weights.min() > 0
    assert weights.max() <= 1
    w = weights / weights.sum(1, keepdims=True)
    # Dirichlet(1, 1, 1): mean 1/3, variance 1/18; five standard errors
    np.testing.assert_allclose(w.mean(0), 1 / 3, atol=5 * np.sqrt(1 / 18 / 4000))
    np.testing.assert_allclose(w.var(0), 1 / 18, rtol=0.12)


def test_samples_depend_on_tunes_seed(space) -> None:
    weight = space.param_space()["mixture"]["book"]
    first, second, other = (weight.sample(size=3, random_state=seed).tolist() for seed in (1, 1, 2))
    assert first == second != other


def test_hand_written_spaces_are_understood() -> None:
    space = MixtureSpace.from_param_space(hand_written(), cost_per_step=COSTS)
    assert space == MixtureSpace(
        domains=("web", "code"), scales=(Scale("small", 1.0), Scale("large", 8.0)), steps=(100, 200)
    )


def test_other_key_names() -> None:
    group = {"web": tune.uniform(0, 1), "code": tune.uniform(0, 1)}
    config = {"proportions": group, "size": "small", "budget": tune.choice([10, 20])}
    space = MixtureSpace.from_param_space(config, mixture_key="proportions", scale_key="size", steps_key="budget")
    assert (space.domains, space.scale_names, space.steps) == (("web", "code"), ("small",), (10, 20))
    assert MixtureSpace.from_param_space({"p": group}).domains == ("web", "code")  # the only sub-dict of weights


def test_without_scale_and_steps_there_is_one_of_each() -> None:
    space = MixtureSpace.from_param_space({"mixture": {"a": tune.uniform(0, 1), "b": tune.uniform(0, 2)}})
    assert (space.scale_names, space.steps, space.target_cost) == (("model",), (1,), 1.0)


WEIGHTS = {"web": tune.uniform(0, 1), "code": tune.uniform(0, 1)}


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ([], "param_space must be a dict, got list"),
        ({"lr": tune.uniform(0, 1)}, r"no mixture under 'mixture' \(candidates: \[\]\): name the sub-dict"),
        ({"p": WEIGHTS, "q": WEIGHTS}, r"no mixture under 'mixture' \(candidates: \['p', 'q'\]\)"),
        (hand_written(mixture={"web": tune.uniform(0, 1)}), r"param_space\['mixture'\] must be a dict of at least two"),
        (hand_written(mixture={"a": tune.uniform(-1, 1), "b": tune.uniform(0, 1)}), "with tune.uniform"),
        (hand_written(mixture={"a": tune.grid_search([0, 1]), "b": tune.uniform(0, 1)}), "with tune.uniform"),
        (hand_written(mixture={"a/b": tune.uniform(0, 1), "c": tune.uniform(0, 1)}), "Domain 'a/b' contains '/'"),
        (hand_written(steps=tune.grid_search([1, 2])), r"\['steps'\] must be tune.choice.* got a grid_search"),
        (hand_written(scale=tune.grid_search(["s", "l"])), r"\['scale'\] must be tune.choice.* got a grid_search"),
        (
            hand_written(steps=tune.randint(1, 9)),
            r"param_space\['steps'\] must be tune.choice\(\[...\]\) or a constant",
        ),
        (hand_written(steps=tune.choice([0, 100])), "positive whole numbers of training steps, got 0"),
        (hand_written(scale=tune.choice(["small", "huge"])), "No cost is known for the scales huge:"),
    ],
)
def test_bad_spaces_are_refused(config, sentence) -> None:
    with pytest.raises(ValueError, match=sentence):
        MixtureSpace.from_param_space(config, cost_per_step=COSTS)


def test_a_choice_of_scales_needs_costs() -> None:
    with pytest.raises(ValueError, match="No cost is known for the scales .*a name never implies a cost"):
        MixtureSpace.from_param_space(hand_written())

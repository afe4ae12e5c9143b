"""MixtureSpace: what it accepts, what it refuses and why, and its exchange formats."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest

from ray_mixopt.core.scale import Scale
from ray_mixopt.core.space import MixtureSpace

SCALES = (Scale("small", 1.0, 1e6), Scale("large", 10.0, 1e8))


def make(**changes):
    """A valid space with some fields replaced."""
    fields = {"domains": ("a", "b", "c"), "scales": SCALES, "steps": (10, 20, 40)}
    return MixtureSpace(**{**fields, **changes})


# -- bad input: each with the sentence it gets

BAD_SPACES = {
    "duplicate domains": ({"domains": ("a", "b", "a")}, r"Domains must be distinct, repeated: \['a'\]"),
    "empty domain": ({"domains": ("a", "")}, "A domain's name must be a non-empty string, got ''"),
    "blank domain": ({"domains": ("a", "  ")}, "A domain's name must be a non-empty string, got '  '"),
    "domain not a string": ({"domains": ("a", 3)}, "A domain's name must be a non-empty string, got 3"),
    "slash": ({"domains": ("a", "b/c")}, "Domain 'b/c' contains '/', which separates levels .*: rename it"),
    "one domain": ({"domains": ("a",)}, r"needs at least two domains, got \['a'\]"),
    "no domain": ({"domains": ()}, r"needs at least two domains, got \[\]"),
    "a string of domains": ({"domains": "abc"}, "must be a sequence of names, got 'abc'"),
    "no scales": ({"scales": ()}, r"scales must be a non-empty sequence of Scale, such as .*, got \(\)"),
    "scales by name": ({"scales": ("small",)}, r"sequence of Scale, such as .*, got \('small',\)"),
    "duplicate scales": ({"scales": (SCALES[0], SCALES[0])}, r"distinct names, got \['small', 'small'\]: rename"),
    "no steps": ({"steps": ()}, "steps must name at least one rung"),
    "unsorted steps": ({"steps": (20, 10)}, r"strictly ascending, got \[20, 10\]: sort them"),
    "repeated steps": ({"steps": (10, 10, 20)}, r"strictly ascending, got \[10, 10, 20\]: sort them and drop repeats"),
    "zero steps": ({"steps": (0, 10)}, "positive whole numbers of training steps, got 0"),
    "negative steps": ({"steps": (-10, 10)}, "positive whole numbers of training steps, got -10"),
    "steps beyond all floats": ({"steps": (10, 10**400)}, "A rung of 1000.* steps is beyond 9007199254740992"),
    "fractional steps": ({"steps": (10.5,)}, "positive whole numbers of training steps, got 10.5"),
    "unknown target scale": ({"target": ("huge", 40)}, "target's scale 'huge' is unknown: the space has small, large"),
    "unknown target steps": ({"target": ("large", 50)}, r"steps 50 are not one of the rungs \(10, 20, 40\): add it"),
    "target not a pair": ({"target": "large"}, r"must be a pair \(scale name, steps\), got 'large'"),
    "floor above 1": ({"lower": {"a": 1.5}}, r"lower\['a'\] is a share of the tokens and cannot be above 1, got 1.5"),
    "cap above 1": ({"upper": {"a": 50}}, r"upper\['a'\] is a share of the tokens and cannot be above 1, got 50"),
    "negative floor": ({"lower": {"a": -0.1}}, r"lower\['a'\] must be a finite number >= 0, got -0.1"),
    "NaN cap": ({"upper": {"b": math.nan}}, r"upper\['b'\] must be a finite number >= 0, got nan"),
    "floor of an unknown domain": ({"lower": {"z": 0.1}}, "lower names the unknown domain 'z': the space has a, b, c"),
    "floors not a mapping": ({"lower": [0.1, 0.2, 0.3]}, "lower must be a mapping from domain names to numbers"),
    "floors sum above 1": (
        {"lower": {"a": 0.6, "b": 0.7}},
        "The floors sum to 1.3, above 1: lower some of a=0.6, b=0.7",
    ),
    "caps sum below 1": (
        {"upper": {"a": 0.2, "b": 0.3, "c": 0.4}},
        "The caps sum to 0.9, below 1, so no mixture fits: raise some of a=0.2, b=0.3, c=0.4",
    ),
    "floor above cap": ({"lower": {"a": 0.5}, "upper": {"a": 0.4}}, "floor is above the cap for a: lower the floor"),
    "supply too small": (
        {"token_supply": {"a": 1e9, "b": 2e9, "c": 3e9}, "target_tokens": 12e9},
        r"The caps sum to 0.5, below 1.*token_supply or max_epochs",
    ),
    "zero target tokens": (
        {"token_supply": {"a": 1e9}, "target_tokens": 0},
        "target_tokens must be a positive finite number, got 0",
    ),
    "target tokens beyond all floats": (
        {"token_supply": {"a": 1e9}, "target_tokens": 10**400},
        "target_tokens must be a positive finite number, got 1000",
    ),
    "zero epochs": (
        {"token_supply": {"a": 1e9}, "target_tokens": 1e9, "max_epochs": 0},
        "max_epochs must be a positive finite number, got 0",
    ),
    "epochs without target tokens": (
        {"token_supply": {"a": 1e9}, "max_epochs": 4},
        "max_epochs=4 caps nothing without target_tokens: give the tokens seen by the target run",
    ),
    "target tokens without supply": (
        {"target_tokens": 1e9},
        "target_tokens caps nothing without token_supply: give the tokens available, by domain",
    ),
}


@pytest.mark.parametrize(("changes", "sentence"), BAD_SPACES.values(), ids=BAD_SPACES.keys())
def test_bad_spaces_are_refused(changes, sentence) -> None:
    with pytest.raises(ValueError, match=sentence):
        make(**changes)


@pytest.mark.parametrize("cost", [0, -1.0, math.nan, math.inf, 10**400, np.float64("inf"), "3", None, True])
def test_scale_needs_a_positive_cost(cost) -> None:
    with pytest.raises(ValueError, match=r"Scale 'x': cost_per_step must be a positive finite number, got "):
        Scale("x", cost)


@pytest.mark.parametrize("costs", [(1e-300, 1.0), (1.0, 1e300), (1e-7, 1e6), (1e-300, 1e-299), (1e300, 1e301)])
def test_costs_that_no_budget_can_count_together_are_refused(costs: tuple[float, float]) -> None:
    scales = tuple(Scale(name, cost) for name, cost in zip("ab", costs, strict=True))
    with pytest.raises(ValueError, match=r"Runs of this space cost from .*, which no budget can count together: give"):
        make(scales=scales, steps=(10, 20), target=None)
    assert make(scales=(Scale("a", 1e-6), Scale("b", 1e5)), steps=(10, 20), target=None).target_cost == 2e6


@pytest.mark.parametrize("parameters", [0, -5, math.nan, math.inf, 10**400, "20M"])
def test_scale_needs_positive_parameters(parameters) -> None:
    with pytest.raises(ValueError, match=r"Scale 'x': parameters must be a positive finite number, got "):
        Scale("x", 1.0, parameters)


@pytest.mark.parametrize("name", ["", None, 20])
def test_scale_needs_a_name(name) -> None:
    with pytest.raises(ValueError, match="A scale's name must be a non-empty string, got "):
        Scale(name, 1.0)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"a": 1.0, "b": 1.0}, r"must name every domain once; missing: \['c'\], unknown: \[\]"),
        ({"a": 1, "b": 1, "c": 1, "d": 1}, r"missing: \[\], unknown: \['d'\]"),
        ([0.5, 0.5], r"needs 3 shares, one a domain; got shape \(2,\)"),
        ([-0.1, 0.6, 0.5], "must be finite, non-negative and not all zero, got "),
        ([math.nan, 0.5, 0.5], "must be finite, non-negative and not all zero, got "),
        ([math.inf, 0.5, 0.5], "must be finite, non-negative and not all zero, got "),
        ([0, 0, 0], "must be finite, non-negative and not all zero, got "),
        ([1.7e308, 1.7e308, 0.0], "must be finite, non-negative and not all zero, got "),
    ],
)
def test_bad_mixtures_are_refused(values, sentence) -> None:
    with pytest.raises(ValueError, match=sentence):
        make().mixture(values)


def test_unknown_scale_is_named() -> None:
    with pytest.raises(ValueError, match="Unknown scale 'huge': the space has small, large"):
        make().scale("huge")
    with pytest.raises(ValueError, match="Unknown scale 'huge'"):
        make().cost("huge", 10)


def test_runs_do_not_go_back() -> None:
    with pytest.raises(ValueError, match="cannot go back from step 20 to step 10"):
        make().cost("small", 10, start=20)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"version": 2}, "Cannot read a space of version 2: this release reads 1"),
        ({"colour": "red"}, "description of a space: it has the unknown fields colour; known are"),
        ({"scales": [{"name": "x"}]}, "Malformed description of a space"),
        ({"scales": None}, "Malformed description of a space"),
        ({"steps": [20, 10]}, "strictly ascending"),
    ],
)
def test_bad_descriptions_are_refused(change, sentence) -> None:
    with pytest.raises(ValueError, match=sentence):
        MixtureSpace.from_dict({**make().to_dict(), **change})


@pytest.mark.parametrize("text", ["", "{", "[1, 2]"])
def test_text_that_is_no_space_is_refused(text) -> None:
    with pytest.raises(ValueError, match="space"):
        MixtureSpace.from_json(text)


# -- what a space says


def test_target_is_the_largest_run_by_default() -> None:
    space = make()
    assert space.target == ("large", 40)
    assert (space.target_scale, space.target_steps, space.target_cost) == ("large", 40, 400.0)


def test_target_may_be_elsewhere() -> None:
    assert make(target=("small", 20)).target_cost == 20.0


def test_cost_is_that_of_the_steps_and_never_of_the_label() -> None:
    space = make(scales=(Scale("7B", 1.0), Scale("1B", 5.0)))
    assert space.cost("7B", 10) == 10.0
    assert space.cost("1B", 40, start=10) == 150.0


def test_mixtures_are_normalised_in_the_order_of_the_domains() -> None:
    assert make().mixture({"c": 2, "a": 1, "b": 1}).tolist() == [0.25, 0.25, 0.5]
    assert make().named([0.25, 0.25, 0.5]) == {"a": 0.25, "b": 0.25, "c": 0.5}


def test_uniform_and_proportional_respect_the_bounds() -> None:
    space = make(upper={"a": 0.2}, token_supply={"a": 6.0, "b": 3.0, "c": 1.0})
    np.testing.assert_allclose(space.uniform(), [0.2, 0.4, 0.4])
    proportional = space.proportional()
    assert proportional is not None
    np.testing.assert_allclose(proportional, [0.2, 0.5, 0.3])  # nearest to 0.6, 0.3, 0.1
    assert make(token_supply={"a": 6.0}).proportional() is None


def test_caps_follow_from_the_token_supply() -> None:
    space = make(token_supply={"a": 1e9, "b": 4e9}, target_tokens=10e9, max_epochs=2, upper={"b": 0.7})
    assert space.simplex.upper.tolist() == [0.2, 0.7, 1.0]  # b: min(0.8, 0.7); c: no supply given, no cap


def test_samples_and_corners_stay_in_the_bounds() -> None:
    space = make(lower={"a": 0.1}, upper={"b": 0.3})
    samples = np.concatenate([space.sample(500, np.random.default_rng(0)), space.corners()])
    assert space.simplex.contains(samples, tolerance=1e-12).all()


def test_two_hundred_domains() -> None:
    names = tuple(f"domain_{i}" for i in range(200))
    space = make(domains=names, upper={name: 0.01 for name in names[:150]})
    samples = space.sample(64, np.random.default_rng(0))
    assert samples.shape == (64, 200)
    assert space.simplex.contains(samples).all()
    assert space.simplex.contains(space.corners()).all()
    assert MixtureSpace.from_json(space.to_json()) == space


# -- exchange

ODD = 0.1 + 0.2  # 0.30000000000000004


def test_json_round_trip_is_exact() -> None:
    space = make(
        scales=(Scale("s", ODD), Scale("l", 1 / 3, 7e9)),
        lower={"a": ODD / 7},
        upper={"c": 2 / 3},
        token_supply={"a": 1e9 / 3, "b": 1e10, "c": 1e10},
        target_tokens=2e9 / 3,
        max_epochs=4.0,
        target=("l", 20),
    )
    again = MixtureSpace.from_json(space.to_json())
    assert again == space
    assert again.to_json() == space.to_json()
    assert again.simplex.upper.tolist() == space.simplex.upper.tolist()


def test_numpy_numbers_survive_json() -> None:
    space = make(
        scales=(Scale("s", np.float32(0.5), np.int64(10)),),
        steps=tuple(np.array([5, 10])),
        lower={"a": np.float32(0.25)},
        token_supply={"a": np.int64(5), "b": 9, "c": 9},
        target_tokens=np.int64(10),
        max_epochs=np.int64(2),
    )
    assert MixtureSpace.from_json(space.to_json()) == space


def test_spaces_are_immutable_and_can_be_pickled() -> None:
    space = make()
    with pytest.raises(AttributeError):
        space.steps = (1,)  # type: ignore[misc]
    again = pickle.loads(pickle.dumps(space))
    assert again == space
    assert again.corners().tolist() == space.corners().tolist()


@pytest.mark.parametrize("sized", [True, False])
def test_scales_come_in_any_order(sized):
    small, middle, large = (
        Scale(name, cost, parameters if sized else None)
        for name, cost, parameters in (("60M", 0.03, 6e7), ("x", 0.2, 3e8), ("1B", 1.0, 1e9))
    )
    one, two, three = (make(scales=s) for s in ((small, middle, large), (large, middle, small), (middle, large, small)))
    assert one == two == three
    assert two.scale_names == ("60M", "x", "1B") and two.target == ("1B", 40)
    assert three.listed_scales == ("x", "1B", "60M")
    told = make(scales=(large, small), target=("60M", 10))
    assert told.target == ("60M", 10) and MixtureSpace.from_dict(told.to_dict()) == told


def test_parameters_say_which_scale_is_larger_where_all_are_known():
    space = make(scales=(Scale("7B", 1.0, 7e9), Scale("1B", 2.0, 1e9)))  # measured on other machines
    assert space.target == ("7B", 40) and space.scale_names == ("1B", "7B")
    assert make(scales=(Scale("7B", 1.0, 7e9), Scale("1B", 2.0))).target == ("1B", 40)


def test_of_scales_that_cost_the_same_and_have_no_size_the_target_must_be_said():
    twins = (Scale("1B", 1.0), Scale("60M", 1.0))
    with pytest.raises(ValueError, match="The scales 1B and 60M cost the same, and nothing else says which is larger"):
        MixtureSpace(domains=("a", "b"), scales=twins, steps=(10,))
    assert MixtureSpace(domains=("a", "b"), scales=twins, steps=(10,), target=("1B", 10)).target == ("1B", 10)
    sized = (Scale("1B", 1.0, 1e9), Scale("60M", 1.0, 6e7))
    assert MixtureSpace(domains=("a", "b"), scales=sized, steps=(10,)).target == ("1B", 10)


OWN = MixtureSpace(
    domains=("web", "code", "math"),
    scales=(
        Scale("L", 1.0, 1e9, steps=(500, 2000), tokens_per_step=4e6),
        Scale("S", 0.1, 1e8, tokens_per_step=1e6),
    ),
    steps=(100, 400),
)


def test_a_scale_may_have_rungs_of_its_own():
    assert OWN.rungs("S") == (100, 400) and OWN.rungs("L") == (500, 2000)
    assert OWN.steps == (100, 400, 500, 2000)
    assert OWN.fidelities == (("S", 100), ("S", 400), ("L", 500), ("L", 2000))
    assert OWN.target == ("L", 2000) and OWN.trains == "S to 100, 400; L to 500, 2000"
    assert MixtureSpace.from_json(OWN.to_json()) == OWN
    assert MixtureSpace(domains=OWN.domains, scales=OWN.scales).fidelities == OWN.fidelities
    assert make().fidelities == tuple((s.name, z) for s in make().scales for z in make().steps)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": ()}, "No rungs are given for S: give steps, for all scales without their own"),
        ({"target": ("S", 2000)}, r"2000 are not one of the rungs \(100, 400\)"),
        ({"scales": (Scale("L", 1.0, steps=(500,)),)}, "steps has the rungs 100, 400, and every scale has others"),
        ({"scales": (Scale("L", 1.0, tokens_per_step=1e6), Scale("S", 0.1))}, "not given for S, and for others it is"),
        ({"earlier_scales": (Scale("M", 0.3, 3e8),)}, "tokens_per_step is not given for M"),
    ],
)
def test_rungs_and_batches_that_do_not_fit_together_are_refused(change, message):
    fields = {"domains": OWN.domains, "scales": (OWN.scales[1], Scale("S", 0.1, 1e8, tokens_per_step=1e6))}
    with pytest.raises(ValueError, match=message):
        MixtureSpace(**(fields | {"steps": (100, 400)} | change))


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"steps": (400, 100)}, "Scale 'S': steps: rungs must be strictly ascending"),
        ({"steps": (0,)}, "Scale 'S': Rungs must be positive whole numbers"),
        ({"tokens_per_step": 0}, "Scale 'S': tokens_per_step must be a positive finite number, got 0"),
    ],
)
def test_rungs_and_batches_of_a_scale_that_make_no_sense_are_refused(field, message):
    with pytest.raises(ValueError, match=message):
        Scale("S", 1.0, **field)

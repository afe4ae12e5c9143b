"""The stream of sequences depends on seed, mixture and data, and on nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_mixopt.pretraining.data.sampler import BLOCK, Mixture, MixtureSampler, Permutation
from ray_mixopt.pretraining.data.shards import Corpus


def sampler(folder: Path, weights: dict[str, float], **options: object) -> MixtureSampler:
    mixture = Mixture(weights=weights, **{"sequence_length": 10, **options})  # type: ignore[arg-type]
    return MixtureSampler(Corpus(folder), mixture)


@settings(deadline=None, max_examples=60)
@given(n=st.integers(1, 3000), seed=st.integers(0, 2**40))
def test_permutations_visit_each_number_once(n: int, seed: int) -> None:
    order = Permutation(n, seed, "key")(np.arange(n))
    assert np.array_equal(np.sort(order), np.arange(n))


def test_permutations_look_random() -> None:
    order = Permutation(10_000, 3, "web", 0)(np.arange(10_000))
    assert abs(np.corrcoef(np.arange(10_000), order)[0, 1]) < 0.05
    assert (order != Permutation(10_000, 3, "web", 1)(np.arange(10_000))).mean() > 0.99
    assert int(Permutation(2**40, 0)([2**39])[0]) < 2**40


def test_any_order_of_asking_gives_the_same_stream(small: Path) -> None:
    weights = {"a": 0.7, "b": 0.3}
    whole = sampler(small, weights).sequences(np.arange(1000))
    fresh = sampler(small, weights)
    assert np.array_equal(fresh.sequences(np.arange(999, -1, -1))[::-1], whole)
    for world in (1, 2, 4):
        ranks = [fresh.sequences(np.arange(rank, 1000, world)) for rank in range(world)]
        for rank in range(world):
            assert np.array_equal(ranks[rank], whole[rank::world])


@pytest.mark.parametrize(
    "weights", [{"a": 0.7, "b": 0.3}, {"a": 1.0, "b": 0.0}, {"a": 0.0, "b": 1.0}, {"a": 0.999, "b": 0.001}]
)
@pytest.mark.parametrize("seed", [0, 1])
def test_shares_and_counts(small: Path, weights: dict[str, float], seed: int) -> None:
    stream = sampler(small, weights, seed=seed)
    domains, _ = stream.places(np.arange(8 * BLOCK + 37))
    for n in (0, 1, 37, BLOCK, 3 * BLOCK + 5, len(domains)):
        assert stream.counts(n).tolist() == np.bincount(domains[:n], minlength=2).tolist()
    n = 8 * BLOCK
    for name, count in zip(("a", "b"), stream.counts(n), strict=True):
        assert abs(count - weights[name] * n) < 2
    assert all(weights[name] > 0 or not count for name, count in stream.tokens(n).items())


def test_an_epoch_visits_every_window_once(small: Path) -> None:
    stream = sampler(small, {"a": 0.5, "b": 0.5})
    domains, windows = stream.places(np.arange(700))
    visits = windows[domains == 1]  # b has 99 windows
    assert stream.windows.tolist() == [499, 99]
    first, second = visits[:99], visits[99:198]
    assert sorted(first) == sorted(second) == list(range(99)) and first.tolist() != second.tolist()
    assert stream.epochs(700)["b"] == pytest.approx(len(visits) / 99)


def test_tokens_come_from_their_domain(small: Path) -> None:
    stream = sampler(small, {"a": 0.5, "b": 0.5})
    domains, windows = stream.places(np.arange(50))
    for domain, window, tokens in zip(domains, windows, stream.sequences(np.arange(50)), strict=True):
        places = window * 10 + np.arange(11)
        assert tokens.tolist() == (1 + places % 50 if domain == 0 else 100 + places % 21).tolist()


def test_two_mixtures_share_what_they_can(small: Path) -> None:
    one, other = sampler(small, {"a": 0.5, "b": 0.5}), sampler(small, {"a": 0.6, "b": 0.4})
    differ = one.places(np.arange(BLOCK))[0] != other.places(np.arange(BLOCK))[0]
    assert 0.08 < differ.mean() < 0.12


def test_a_further_domain_leaves_the_order_within_the_others(corpus_folder: Callable[..., Path]) -> None:
    folder = corpus_folder({"a": [1] * 500, "b": [2] * 500, "c": [3] * 500})
    visits = []
    for weights in ({"a": 0.5, "b": 0.5}, {"a": 0.5, "b": 0.25, "c": 0.25}):
        domains, windows = sampler(folder, weights).places(np.arange(40))
        visits.append(windows[domains == 0][:15].tolist())
    assert visits[0] == visits[1]


def test_simulated_epoching_repeats_a_fixed_part(small: Path) -> None:
    stream = sampler(small, {"a": 0.5, "b": 0.5}, supply_fraction=0.1)
    assert stream.windows.tolist() == [50, 10]
    domains, windows = stream.places(np.arange(400))
    counts = Counter(windows[domains == 1].tolist())
    assert len(counts) == 10 and max(counts.values()) - min(counts.values()) <= 1
    assert stream.epochs(400)["b"] == pytest.approx(20, rel=0.1)


def test_supply_is_respected(small: Path) -> None:
    stream = sampler(small, {"a": 0.5, "b": 0.5})
    stream.check_supply(390, 2)
    with pytest.raises(ValueError, match=r"50.0% from 'b' repeat its 990 tokens .* more than max_repetition_ratio=2"):
        stream.check_supply(600, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": {"a": 0.5, "c": 0.5}}, "has no domain 'c': it has a, b"),
        ({"sequence_length": 1000}, "'b' has 1000 training tokens, too few for one sequence of 1000"),
        ({"weights": {"a": 0.5, "b": 0.6}}, "sum to 1"),
        ({"weights": {"a": float("nan"), "b": 1.0}}, "finite"),
        ({"weights": {"a": -0.5, "b": 1.5}}, "not negative"),
        ({"supply_fraction": 0.0}, "supply_fraction must be above 0"),
        ({"sequence_length": 0}, "sequence_length must be at least 1"),
    ],
)
def test_refusals(small: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sampler(small, **{"weights": {"a": 0.5, "b": 0.5}, **options})  # type: ignore[arg-type]


def test_a_domain_without_weight_may_be_short(small: Path) -> None:
    assert sampler(small, {"a": 1.0, "b": 0.0}, sequence_length=2000).counts(3).tolist() == [3, 0]

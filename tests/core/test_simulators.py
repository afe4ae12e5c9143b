"""The embedded simulator, its reference and its fit."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from ray_mixopt import simulators
from ray_mixopt.cli.main import main
from ray_mixopt.simulators import fit
from ray_mixopt.simulators.card import compare
from ray_mixopt.simulators.reference import SPACE, load_reference, sample_mixtures
from ray_mixopt.simulators.simulator import CHUNK, Network, Simulator

SHARED = Path(__file__).parents[3] / "shared"
REFERENCE = SHARED / "data" / "slimpajama" / "reference_mlp.npz"
needs_reference = pytest.mark.skipif(not REFERENCE.exists(), reason=f"needs the reference network {REFERENCE.name}")

UNIFORM = {name: 0.2 for name in ("wikipedia", "stackexchange", "github", "arxiv", "book")}


@pytest.fixture(scope="module")
def simulator() -> Simulator:
    return simulators.load("slimpajama")


@pytest.fixture(scope="module")
def reference() -> Simulator:
    return load_reference(REFERENCE)


# -- what comes with the package


def test_the_embedded_simulator_is_what_the_design_says(simulator: Simulator) -> None:
    space = simulator.space
    assert space.domains == tuple(UNIFORM)
    assert space.scale_names == ("20M", "60M", "150M", "300M", "500M", "700M", "1B")
    assert space.steps == (2000, 6000, 12000, 19700)
    assert space.target == ("1B", 19700)
    assert space.cost("1B", 100) == pytest.approx(1.0)
    assert space.target_cost == pytest.approx(197.0)
    assert space.cost("700M", 100) == pytest.approx(0.2983, abs=1e-4)
    assert [s.parameters for s in space.scales] == [20e6, 60e6, 150e6, 300e6, 500e6, 700e6, 1e9]
    assert len(simulator.metrics) == 12 and simulator.metrics[-1] == "loss"
    assert simulator.default_metric == "val_loss/common_crawl"
    assert {name for name, mode in simulator.modes.items() if mode == "max"} == {
        f"accuracy/{task}" for task in ("hellaswag", "piqa", "arc_easy")
    }


def test_the_files_are_small_and_carry_a_card(simulator: Simulator) -> None:
    folder = Path(simulators.__file__).parent
    assert (folder / "slimpajama.npz").stat().st_size <= 300_000
    card = (folder / "slimpajama.md").read_text()
    assert all(f"| {name} |" in card for name in simulator.metrics)
    with np.load(folder / "slimpajama.npz", allow_pickle=False) as arrays:
        assert all(arrays[key].dtype == np.float32 for key in arrays if key.startswith(("weight", "bias")))


def test_importing_costs_nothing_that_is_not_needed() -> None:
    script = (
        "import sys, ray_mixopt.simulators as s\n"
        "assert not {'ray', 'torch', 'pandas'} & set(sys.modules), sorted(sys.modules)\n"
        "s.load('slimpajama').observe(dict.fromkeys(s.load('slimpajama').space.domains, 1), '1B', 19700)\n"
        "assert not {'ray', 'torch', 'pandas'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_public_names() -> None:
    assert simulators.names() == ("dmsl", "slimpajama")
    assert simulators.RunTable.__name__ == "RunTable"
    with pytest.raises(AttributeError, match="nonsense"):
        simulators.nonsense  # noqa: B018


# -- answers


@given(
    weights=st.lists(st.floats(0, 1), min_size=5, max_size=5).filter(lambda w: sum(w) > 0.01),
    scale=st.sampled_from(SPACE.scale_names),
    steps=st.integers(100, 19_700),
)
@settings(max_examples=60, deadline=None)
def test_any_mixture_has_plausible_metrics(weights: list[float], scale: str, steps: int) -> None:
    simulator = simulators.load("slimpajama")
    report = simulator.observe(weights, scale, steps)
    assert tuple(report) == simulator.metrics
    losses = [report[name] for name in simulator.metrics if name.startswith("val_loss/")]
    assert report["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert all(0 < loss < 15 for loss in losses)
    assert all(0.1 < report[name] < 0.95 for name in simulator.metrics if name.startswith("accuracy/"))


def test_a_batch_is_its_rows_whatever_the_chunks(simulator: Simulator) -> None:
    mixtures = simulator.space.sample(CHUNK + 5, np.random.default_rng(0))
    batch = simulator.evaluate(mixtures, "150M", 6000)
    assert batch.shape == (CHUNK + 5, 12) and batch.dtype == np.float64
    for row in (0, CHUNK - 1, CHUNK, CHUNK + 4):
        np.testing.assert_allclose(batch[row], simulator.evaluate(mixtures[row : row + 1], "150M", 6000)[0], rtol=1e-5)
    assert simulator.evaluate(np.empty((0, 5)), "150M", 6000).shape == (0, 12)


def test_more_of_a_domain_and_more_training_help_its_loss(simulator: Simulator) -> None:
    corners = simulator.evaluate(simulator.space.corners(), "1B", 19700)
    uniform = simulator.space.uniform()[None]
    for i, domain in enumerate(simulator.space.domains):
        metric = simulator.metrics.index(f"val_loss/{domain}")
        assert corners[:, metric].argmin() == i or domain == "github"  # StackExchange helps code as much
    early, late = (simulator.evaluate(uniform, "1B", steps)[0] for steps in (2000, 19700))
    assert (late[:8] < early[:8]).all()


def test_hellaswag_misleads_at_the_smallest_scale(simulator: Simulator) -> None:
    mixtures = simulator.space.sample(2000, np.random.default_rng(1))
    small, large = (
        simulator.evaluate(mixtures, scale, 19700)[:, simulator.metrics.index("accuracy/hellaswag")]
        for scale in ("20M", "1B")
    )
    assert spearmanr(small, large).statistic < -0.5


# -- noise


def test_noise_has_the_promised_size_and_is_reproducible() -> None:
    clean, noisy = simulators.load("slimpajama"), simulators.load("slimpajama", noise=0.1, seed=3)
    mixtures = clean.space.sample(3000, np.random.default_rng(2))
    truth = clean.evaluate(mixtures, "1B", 19700)
    seen = np.array([list(noisy.observe(w, "1B", 19700).values()) for w in mixtures])
    np.testing.assert_allclose((seen - truth).std(axis=0) / truth.std(axis=0), 0.1, rtol=0.1)
    assert np.abs((seen - truth).mean(axis=0) / truth.std(axis=0)).max() < 0.01
    correlation = np.corrcoef((seen - truth).T) - np.eye(12)
    assert np.abs(correlation).max() < 0.1
    np.testing.assert_array_equal(noisy.evaluate(mixtures, "1B", 19700), truth)

    again = simulators.load("slimpajama", noise=0.1, seed=3)
    by_name = again.space.named(mixtures[0])
    reread = json.loads(json.dumps({name: 2 * share for name, share in by_name.items()}))
    first = noisy.observe(mixtures[0], "1B", 19700)
    assert again.observe(by_name, "1B", 19700) == first
    assert again.observe(reread, "1B", 19700) == first


def test_noise_differs_between_runs() -> None:
    noisy = simulators.load("slimpajama", noise=0.5, seed=0)
    clean = simulators.load("slimpajama")

    def error(simulator: Simulator, mixture: dict[str, float], scale: str, steps: int) -> float:
        return simulator.observe(mixture, scale, steps)["loss"] - clean.observe(mixture, scale, steps)["loss"]

    other = UNIFORM | {"book": 0.3, "arxiv": 0.1}
    errors = [
        error(noisy, UNIFORM, "1B", 19700),
        error(noisy, UNIFORM, "1B", 12000),
        error(noisy, UNIFORM, "700M", 19700),
        error(noisy, other, "1B", 19700),
        error(replace(noisy, seed=1), UNIFORM, "1B", 19700),
    ]
    assert len({round(e, 6) for e in errors}) == len(errors)


# -- refusals


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        ([[0.2] * 4], r"n x 5, one column a domain; got shape \(1, 4\)"),
        ([0.2] * 5, r"got shape \(5,\)"),
        ([[0.2] * 5, [-0.2, 0.4, 0.4, 0.2, 0.2]], r"Mixture 1 .* non-negative"),
        ([[0.2] * 5, [0.2] * 5, [0.3, 0.3, 0.3, 0.3, 0.3]], r"Mixture 2 .* sums to 1.5"),
        ([[np.nan, 0.25, 0.25, 0.25, 0.25]], r"Mixture 0 "),
    ],
)
def test_evaluate_refuses_what_is_no_mixture(simulator: Simulator, mixture: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        simulator.evaluate(mixture, "1B", 19700)


@pytest.mark.parametrize(
    ("scale", "steps", "message"),
    [
        ("2B", 6000, "Unknown scale '2B'"),
        ("1B", 99, "fitted on 100 to 19700 steps, not on 99"),
        ("1B", 19701, "not on 19701"),
    ],
)
def test_refuses_scales_and_steps_it_was_not_fitted_on(
    simulator: Simulator, scale: str, steps: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        simulator.evaluate([[0.2] * 5], scale, steps)
    with pytest.raises(ValueError, match=message):
        simulator.observe(UNIFORM, scale, steps)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "nonsense"}, "Unknown simulator 'nonsense': use one of dmsl, slimpajama"),
        ({"name": "missing/file.npz"}, "no simulator file 'missing/file.npz'"),
        ({"name": "slimpajama", "noise": -1}, "noise .* must be >= 0, got -1"),
        ({"name": "slimpajama", "noise": float("nan")}, "noise"),
        ({"name": "slimpajama", "steps": (50, 1000)}, "not on 50"),
        ({"name": "slimpajama", "steps": (1000, 50000)}, "not on 50000"),
        ({"name": "slimpajama", "steps": (2000, 1000)}, "ascending"),
    ],
)
def test_load_refuses(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        simulators.load(**arguments)


def test_rungs_can_be_chosen() -> None:
    simulator = simulators.load("slimpajama", steps=(500, 1000))
    assert simulator.space.steps == (500, 1000) and simulator.space.target == ("1B", 1000)
    assert simulator.rungs([0.2] * 5, "20M") == (500, 1000)
    with pytest.raises(ValueError, match="Unknown scale"):
        simulator.rungs([0.2] * 5, "2B")


def test_layers_must_fit() -> None:
    with pytest.raises(ValueError, match="Layers do not fit"):
        Network(weights=(np.ones((3, 6)), np.ones((2, 4))), biases=(np.ones(3), np.ones(2)))
    with pytest.raises(ValueError, match="Unknown activation 'tanh'"):
        Network(weights=(np.ones((3, 6)),), biases=(np.ones(3),), activation="tanh")


# -- files


def test_files_and_pickles_round_trip(simulator: Simulator, tmp_path: Path) -> None:
    simulator.save(tmp_path / "copy.npz")
    copies = [simulators.load(str(tmp_path / "copy.npz")), pickle.loads(pickle.dumps(simulator))]
    mixtures = simulator.space.sample(10, np.random.default_rng(0))
    for copy in copies:
        assert copy.space == simulator.space and copy.modes == simulator.modes
        np.testing.assert_array_equal(copy.evaluate(mixtures, "60M", 777), simulator.evaluate(mixtures, "60M", 777))


def test_a_foreign_npz_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", x=np.ones(3))
    with pytest.raises(ValueError, match="not a simulator"):
        simulators.load(str(tmp_path / "other.npz"))
    np.savez(tmp_path / "old.npz", header=np.array(json.dumps({"version": 0})))
    with pytest.raises(ValueError, match="of version 0: this release reads 1 and 2; fit it again"):
        simulators.load(str(tmp_path / "old.npz"))


# -- against the reference


@needs_reference
def test_the_reference_is_evaluated_as_published(reference: Simulator) -> None:
    """Written out from the description of the file, apart from ``Network``."""
    with np.load(REFERENCE) as file:
        arrays = dict(file)
    mixtures = sample_mixtures(200, np.random.default_rng(0))
    for scale, steps in (("20M", 100), ("150M", 6000), ("1B", 19700)):
        millions = {"20M": 20, "150M": 150, "1B": 1000}[scale]
        x = (np.column_stack([mixtures, np.full((200, 2), [millions, steps])]) - arrays["x_mean"]) / arrays["x_std"]
        for i in range(4):
            x = x @ arrays[f"weight_{i}"].T + arrays[f"bias_{i}"]
            x = np.maximum(x, 0) if i < 3 else x
        wanted = x * arrays["y_std"] + arrays["y_mean"]
        got = reference.evaluate(mixtures, scale, steps)
        np.testing.assert_allclose(got[:, :11], wanted, rtol=1e-6)
        np.testing.assert_allclose(got[:, 11], wanted[:, 1:8].mean(axis=1), rtol=1e-6)


@needs_reference
def test_costs_are_those_logged(simulator: Simulator) -> None:
    logged = json.loads(REFERENCE.with_name("flops.json").read_text())["relative_to_1B"]
    for scale in simulator.space.scales:
        millions = scale.name.replace("1B", "1000M").removesuffix("M")
        assert scale.cost_per_step == pytest.approx(logged[millions] / 100, rel=1e-12)


@needs_reference
def test_the_embedded_simulator_agrees_with_the_reference(simulator: Simulator, reference: Simulator) -> None:
    report = compare(simulator, reference, seed=12345)
    table = report.table()
    assert (report.r2[:11] >= 0.995).all(), table
    assert (report.spearman >= 0.99).all(), table
    hellaswag = simulator.metrics.index("accuracy/hellaswag")
    assert report.reversal_reference[hellaswag] < -0.8 and report.reversal_fitted[hellaswag] < -0.8, table
    assert np.abs(report.reversal_fitted - report.reversal_reference).max() < 0.05, table
    assert report.regret.max() < 0.1, table


@needs_reference
def test_a_short_fit_learns(tmp_path: Path) -> None:
    lines: list[str] = []
    report = fit.fit_simulator(REFERENCE, tmp_path / "a.npz", 7, iterations=200, progress=lines.append)
    assert (report.r2 > 0.9).all() and (report.spearman > 0.7).all(), report.table()
    assert lines and "of 200" in lines[-1]
    assert report.table() in (tmp_path / "a.md").read_text()


@needs_reference
def test_a_fit_is_repeatable_by_seed(tmp_path: Path) -> None:
    mixtures = sample_mixtures(50, np.random.default_rng(0))
    answers = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        fit.fit_simulator(REFERENCE, tmp_path / f"{name}.npz", seed, iterations=5)
        answers.append(simulators.load(str(tmp_path / f"{name}.npz")).evaluate(mixtures, "1B", 19700))
    np.testing.assert_array_equal(answers[0], answers[1])
    assert np.abs(answers[0] - answers[2]).max() > 1e-3


@needs_reference
def test_the_command_fits_for_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "fit_simulator", partial(fit.fit_simulator, iterations=5))  # instead of minutes
    arguments = ["simulator", "fit", "--reference", str(REFERENCE), "--out", str(tmp_path / "a.npz"), "--json"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert answer["simulator"] == str(tmp_path / "a.npz") and answer["iterations"] == 5
    assert set(answer["metrics"]["accuracy/hellaswag"]) >= {"r2", "spearman", "regret"}
    assert "of 5" in result.stderr


@needs_reference
def test_fit_refuses(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="written as .npz"):
        fit.fit_simulator(REFERENCE, tmp_path / "a.pt")
    np.savez(tmp_path / "half.npz", weight_0=np.ones((3, 7)), x_mean=np.ones(7))
    with pytest.raises(ValueError, match="lacks bias_0, x_std, y_mean, y_std"):
        load_reference(tmp_path / "half.npz")


def test_test_mixtures_are_mixtures() -> None:
    mixtures = sample_mixtures(4000, np.random.default_rng(0))
    np.testing.assert_allclose(mixtures.sum(axis=1), 1, atol=1e-12)
    assert mixtures.min() >= 0
    assert 0.03 < (mixtures.max(axis=1) == 1).mean() < 0.08

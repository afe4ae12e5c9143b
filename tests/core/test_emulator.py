"""Emulators of real runs: the law, its fit to a table, what the card says, and tables that cannot be fitted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from scipy.stats import spearmanr

from ray_mixopt import MixtureOptimizer, simulators
from ray_mixopt.cli.main import main
from ray_mixopt.io.runs import read_runs
from ray_mixopt.simulators import law
from ray_mixopt.simulators.emulator import errors, measurements, mixture_groups, predictions_left_out
from ray_mixopt.simulators.emulator_card import best_mixtures, fit_emulator
from ray_mixopt.simulators.law import SMOOTHING, Law, fit_law
from ray_mixopt.simulators.simulator import Simulator

TABLE = Path(__file__).parents[3] / "shared" / "data" / "dmsl" / "slimpajama_7_domains.csv"
needs_table = pytest.mark.skipif(not TABLE.exists(), reason=f"needs the table of runs {TABLE.name}")

DOMAINS = ("web", "code", "math")
NEED = np.array([0.5, 0.3, 0.2])  # how much of each domain ``val_loss/all`` wants
PARAMETERS = {"60M": 60e6, "150M": 150e6, "1B": 1e9}


def losses(shares: np.ndarray, parameters: float, step: int) -> dict[str, np.ndarray]:
    """Made up: each domain's loss falls with the tokens of it, slower the more there are; accuracy rises with code."""
    tokens = shares * (step / 8000) + 0.05
    power = (parameters / 1e9) ** -0.3
    wanted = (NEED * (shares + 0.05) ** -1.0).sum(axis=1)
    return {
        "val_loss/web": 1.5 + 0.4 * power + 0.5 * tokens[:, 0] ** -0.3,
        "val_loss/all": 1.5 + 0.4 * power + 0.3 * (step / 8000) ** -0.4 + 0.05 * wanted,
        "accuracy/code": 0.7 - 0.1 * power - 0.1 * tokens[:, 1] ** -0.3,
    }


def best_of_all() -> np.ndarray:
    """The mixture that ``val_loss/all`` is least for: its slopes are the same in all domains."""
    best: np.ndarray = np.sqrt(NEED) / np.sqrt(NEED).sum() * 1.15 - 0.05
    return best


def table(
    n: int = 30, scales: int = 3, steps: tuple[int, ...] = (1000, 2000, 4000, 8000), seed: int = 0
) -> pd.DataFrame:
    """Runs of ``n`` mixtures at each scale."""
    shares = np.random.default_rng(seed).dirichlet(np.ones(3), n)
    frames = []
    for scale, parameters in list(PARAMETERS.items())[:scales]:
        for step in steps:
            frame = pd.DataFrame({f"mixture/{name}": shares[:, i] for i, name in enumerate(DOMAINS)})
            frame = frame.assign(scale=scale, parameters=parameters, step=step, cost_per_step=parameters / 1e9)
            frames.append(frame.assign(**losses(shares, parameters, step)))
    return pd.concat(frames, ignore_index=True)


def written(frame: pd.DataFrame, folder: Path) -> Path:
    path = folder / "runs.csv"
    frame.to_csv(path, index=False)
    return path


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["simulator", "fit", *map(str, arguments)])


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fitted")
    result = call("--runs", written(table(), folder), "--out", folder / "mine.npz", "--about", "Made up.", "--json")
    assert result.exit_code == 0, result.output
    (folder / "answer.json").write_text(result.stdout)
    return folder / "mine.npz"


# -- the law


def a_law(n_laws: int = 2, d: int = 3) -> Law:
    rng = np.random.default_rng(0)
    return Law(
        exponents=rng.uniform(0.1, 1, (n_laws, 2)),
        level=rng.normal(size=(n_laws, 3)),
        slope=rng.normal(size=(n_laws, 3, d)),
        gain=rng.uniform(0, 1, (n_laws, 3, 2)),
        reach=rng.dirichlet(np.ones(d), (n_laws, 2)),
        combine=np.concatenate([np.eye(n_laws), np.full((1, n_laws), 1 / n_laws)]),
    )


def test_a_law_is_what_its_module_says() -> None:
    some, m, z = a_law(), 0.3, 0.6
    mixtures = np.random.default_rng(1).dirichlet(np.ones(3), law.CHUNK + 3)
    got = some(mixtures, np.array([np.log(m), m, np.log(z), z]))
    assert got.shape == (law.CHUNK + 3, 3)
    for row in (0, law.CHUNK, law.CHUNK + 2):
        w, wanted = mixtures[row], []
        for a in range(2):
            parts = [
                some.level[a, p]
                + some.slope[a, p] @ (w - 1 / 3)
                + sum(some.gain[a, p, r] * (some.reach[a, r] @ w + SMOOTHING) ** -0.25 for r in range(2))
                for p in range(3)
            ]
            wanted.append(parts[0] + parts[1] * m ** -some.exponents[a, 0] + parts[2] * z ** -some.exponents[a, 1])
        np.testing.assert_allclose(got[row], [*wanted, np.mean(wanted)], rtol=1e-12)
    assert some(np.empty((0, 3)), np.zeros(4)).shape == (0, 3)


def test_its_derivatives_are_right() -> None:
    rng = np.random.default_rng(0)
    problem = law._Problem(rng.dirichlet(np.ones(3), 9), rng.normal(size=9), rng.normal(size=9))
    x = problem.start(rng.normal(size=9))[0] + 0.2 * rng.normal(size=sum(problem.sizes))
    numeric = [(problem.values(x + 1e-6 * e) - problem.values(x - 1e-6 * e)) / 2e-6 for e in np.eye(len(x))]
    np.testing.assert_allclose(problem.slopes(x), np.transpose(numeric), atol=1e-6)


def test_a_fit_is_convex_beyond_what_was_tried_and_concave_for_accuracies() -> None:
    rng = np.random.default_rng(0)
    tried = 0.6 / 3 + 0.4 * rng.dirichlet(np.ones(3), 40)  # no share below 0.2
    values = losses(tried, 1e9, 8000)
    zeros, ends = np.zeros(40), rng.dirichlet(np.full(3, 0.3), (2, 2000))
    for name, sign in (("val_loss/all", 1), ("accuracy/code", -1)):
        noisy = values[name] + 0.002 * rng.normal(size=40)
        one = fit_law(tried, zeros, zeros, noisy, np.ones(40), spread=noisy.std(), maximise=sign < 0)
        middle, a, b = (sign * one(w, np.zeros(4)) for w in (ends.mean(axis=0), *ends))
        assert (middle <= (a + b) / 2 + 1e-9).all()
        assert np.abs(one(np.eye(3), np.zeros(4))).max() < 4


# -- a fit


def test_the_known_optimum_is_found(fitted: Path) -> None:
    simulator = simulators.load(str(fitted))
    space = simulator.space
    assert (simulator.name, space.domains, space.target) == ("mine", DOMAINS, ("1B", 8000))
    assert space.steps[0] == 1000 and space.steps[-1] == 8000 and len(space.steps) == 7
    assert [s.parameters for s in space.scales] == list(PARAMETERS.values())
    assert simulator.modes == {"val_loss/web": "min", "val_loss/all": "min", "accuracy/code": "max", "loss": "min"}
    best = best_mixtures(simulator, np.random.default_rng(0))
    np.testing.assert_allclose(best[simulator.metrics.index("val_loss/all")], best_of_all(), atol=0.05)
    assert best[simulator.metrics.index("accuracy/code"), 1] > 0.9
    sample = space.sample(200, np.random.default_rng(1))
    for scale, steps in (("150M", 3000), ("1B", 8000)):
        values = simulator.evaluate(sample, scale, steps)
        wanted = losses(sample, PARAMETERS[scale], steps)
        for name, truth in wanted.items():
            assert np.abs(values[:, simulator.metrics.index(name)] - truth).mean() < 0.1 * truth.std() + 0.01
        np.testing.assert_allclose(values[:, 3], values[:, :2].mean(axis=1), rtol=1e-12)
    for steps in (999, 8001):
        with pytest.raises(ValueError, match="fitted on 1000 to 8000 steps"):
            simulator.evaluate(sample, "1B", steps)


def test_a_search_runs_on_it(fitted: Path) -> None:
    simulator = simulators.load(str(fitted), noise=0.01)
    optimizer = MixtureOptimizer(
        simulator.space, objective={"val_loss/all": 1.0}, budget=2 * simulator.space.target_cost
    )
    run = optimizer.ask()
    assert run is not None
    optimizer.tell(run.trial_id, run.steps, simulator.observe(run.mixture, run.scale, run.steps))


def test_the_card_and_the_answer_say_how_well(fitted: Path) -> None:
    text, answer = fitted.with_suffix(".md").read_text(), json.loads((fitted.parent / "answer.json").read_text())
    assert "Fitted on** 90 runs of 30 mixtures at 3 scales, 60M to 1B. Made up." in " ".join(text.split())
    for kind in ("left_out_mixtures", "left_out_scales"):
        for metric, found in answer["metrics"].items():
            assert found[kind]["spearman"] > 0.95 and found[kind]["contrast"] < 0.3, metric
    some = answer["metrics"]["val_loss/web"]["left_out_mixtures"]
    assert f"| val_loss/web | {some['spearman']:.3f} | {some['worst']:.3f} | {some['contrast']:.3f} |" in text
    assert "| 150M | 30 | 8,000 |" in text
    assert answer["simulator"] == str(fitted) and answer["runs"] == 90 and answer["not_fitted"] == []


def test_the_file_holds_coefficients_only(fitted: Path, tmp_path: Path) -> None:
    values = pd.read_csv(fitted.parent / "runs.csv")[["val_loss/web", "val_loss/all", "accuracy/code"]].to_numpy()
    with np.load(fitted, allow_pickle=False) as arrays:
        numbers = np.concatenate([arrays[key].ravel() for key in arrays if key.startswith("law_")])
    assert len(numbers) < 200 and not np.isin(values, numbers).any()
    copy = tmp_path / "copy.npz"
    simulators.load(str(fitted)).save(copy)
    mixtures = np.random.default_rng(0).dirichlet(np.ones(3), 5)
    one, other = (simulators.load(str(path)).evaluate(mixtures, "60M", 2000) for path in (fitted, copy))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("law_level", np.full((3, 3), np.nan), "'level' of a law must be finite"),
        ("law_gain", np.array(["x"]), "'gain' of a law must be finite"),
        ("law_slope", np.zeros((1, 3, 3)), "do not fit each other: slope"),
        ("law_reach", np.full((3, 4, 3), -1.0), "reach of a law must not be negative"),
        ("law_reach", np.zeros(3), "do not fit each other"),
        ("law_combine", np.ones((2, 3)), "from 3 domains to 2 metrics does not fit 3 domains and 4 metrics"),
        ("law_level", None, "malformed simulator"),
    ],
)
def test_damaged_laws_are_refused(
    fitted: Path, tmp_path: Path, name: str, array: np.ndarray | None, message: str
) -> None:
    with np.load(fitted) as file:
        arrays = {key: file[key] for key in file if key != name}
    np.savez(tmp_path / "damaged.npz", **(arrays if array is None else arrays | {name: array}))
    with pytest.raises(ValueError, match=message):
        Simulator.read(tmp_path / "damaged.npz")


# -- tables of all kinds


def test_scales_above_the_target_serve_the_fit_only(tmp_path: Path) -> None:
    path = written(
        table(12)[["scale", "step", "parameters", "cost_per_step", *(f"mixture/{d}" for d in DOMAINS), "val_loss/web"]],
        tmp_path,
    )
    result = call("--runs", path, "--out", tmp_path / "a.npz", "--target", "150M:4000", "--metric", "val_loss/web")
    assert result.exit_code == 0, result.output
    simulator = simulators.load(str(tmp_path / "a.npz"))
    assert simulator.space.scale_names == ("60M", "150M") and simulator.space.target == ("150M", 4000)
    assert simulator.metrics == ("val_loss/web",)
    assert "at 3 scales, 60M to 1B" in " ".join((tmp_path / "a.md").read_text().split())


@pytest.mark.parametrize(("scales", "steps"), [(1, (1000, 2000)), (2, (2000,)), (1, (2000,))])
def test_one_scale_or_one_length_is_fitted(tmp_path: Path, scales: int, steps: tuple[int, ...]) -> None:
    report = fit_emulator(written(table(24, scales, steps), tmp_path), tmp_path / "a.npz", metrics=["val_loss/all"])
    assert report.mixtures.spearman.min() > 0.9
    assert np.isnan(report.scales.spearman).all() == (scales == 1)
    assert report.simulator.space.steps[-1] == steps[-1]
    assert json.dumps(report.to_dict(), allow_nan=False)
    np.testing.assert_allclose(report.best[0], best_of_all(), atol=0.07)


def test_metrics_with_gaps_are_fitted_and_those_without_content_are_said(tmp_path: Path) -> None:
    frame = table(24, 2, (1000, 2000)).assign(constant=0.25)
    frame["rare"] = np.where(frame.index < 5, 1.0 + frame.index, np.nan)
    frame.loc[frame["scale"] == "60M", "accuracy/code"] = np.nan
    frame.loc[[3, 7], "val_loss/web"] = np.nan
    result = call("--runs", written(frame, tmp_path), "--out", tmp_path / "a.npz")
    assert result.exit_code == 0, result.output
    assert "Not fitted: constant is the same for all mixtures (0.25)" in result.stderr
    assert "Not fitted: rare was measured on 5 distinct mixtures, and a fit needs 8" in result.stderr
    simulator = simulators.load(str(tmp_path / "a.npz"))
    assert set(simulator.metrics) == {"val_loss/web", "val_loss/all", "accuracy/code", "loss"}
    assert np.isfinite(simulator.evaluate(np.eye(3), "60M", 1000)).all()
    assert "**Not fitted**: constant" in (tmp_path / "a.md").read_text()


def test_a_metric_that_diverged_everywhere_is_said_and_the_others_are_fitted(tmp_path: Path, caplog) -> None:
    frame = table(24, 2, (1000, 2000)).assign(**{"val_loss/web": np.inf})
    result = call("--runs", written(frame, tmp_path), "--out", tmp_path / "a.npz", "--metric", "accuracy/code")
    assert result.exit_code == 0, result.output
    assert "diverged" in caplog.text
    assert simulators.load(str(tmp_path / "a.npz")).metrics == ("accuracy/code",)
    alone = call("--runs", written(frame, tmp_path), "--out", tmp_path / "b.npz", "--metric", "val_loss/web")
    assert alone.exit_code == 2 and "val_loss/web" in alone.output, alone.output


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda t: t.head(6), (), "No metric of the runs can be fitted. val_loss/web was measured on 6 distinct"),
        (
            lambda t: t[["scale", "step", "parameters", *MIXTURE]].assign(loss=2.0, cost_per_step=1),
            (),
            "same for all mixtures (2)",
        ),
        (
            lambda t: t.drop(columns="parameters"),
            (),
            "The parameters of 60M, 150M, 1B are not known: give --scale-para",
        ),
        (lambda t: t.drop(columns=["cost_per_step", "parameters"]), (), "--scale-cost SCALE=COST"),
        (lambda t: t[["scale", "step", *MIXTURE]], (), "has no metric"),
        (lambda t: t, ("--metric", "los"), "No run reports 'los': choose metrics among val_loss/web"),
        (lambda t: t, ("--target", "1B:77"), "The target's steps 77 are not one of the rungs"),
        (lambda t: t, ("--target", "1B"), "--target is SCALE:STEPS"),
        (lambda t: t, ("--scale-cost", "2B=1"), "No run is of scale '2B': there are 60M, 150M, 1B"),
        (lambda t: t.assign(step=0), (), "step is 0 in all rows"),
    ],
)
def test_tables_that_say_nothing_are_refused(tmp_path: Path, change, options, message) -> None:
    result = call("--runs", written(change(table(12)), tmp_path), "--out", tmp_path / "a.npz", *options)
    assert result.exit_code == 2 and message in result.output, result.output
    assert not (tmp_path / "a.npz").exists()


MIXTURE = [f"mixture/{name}" for name in DOMAINS]


def test_the_command_wants_one_source_and_a_place(tmp_path: Path) -> None:
    path, out = written(table(9, 1, (1000,)), tmp_path), tmp_path / "a.npz"
    assert "Give one of --runs" in call("--out", out).output
    assert "Give one of --runs" in call("--out", out, "--runs", path, "--reference", path).output
    assert "are about runs" in call("--out", out, "--reference", path, "--about", "x").output
    assert "There is no folder" in call("--out", tmp_path / "no" / "a.npz", "--runs", path).output
    assert "written as .npz" in call("--out", tmp_path / "a.csv", "--runs", path).output
    assert (
        "is no such" in call("--out", out, "--runs", tmp_path / "none.csv").output
        or "There is no" in call("--out", out, "--runs", tmp_path / "none.csv").output
    )


# -- real runs


def test_the_shipped_emulator_is_what_its_card_says() -> None:
    simulator = simulators.load("dmsl")
    space = simulator.space
    assert space.domains == ("arxiv", "book", "c4", "github", "commoncrawl", "stackexchange", "wikipedia")
    assert space.scale_names == ("122M", "310M", "680M", "937M", "1235M") and space.target == ("1235M", 46080)
    assert len(space.steps) == 7 and space.scale("1235M").cost_per_step == pytest.approx(0.00741)
    folder = Path(simulators.__file__).parent
    assert (folder / "dmsl.npz").stat().st_size <= 300_000
    card = (folder / "dmsl.md").read_text()
    assert all(f"| {name} |" in card for name in simulator.metrics)


def test_the_best_averages_of_the_shipped_emulator_are_inside() -> None:
    simulator, rng = simulators.load("dmsl"), np.random.default_rng(0)
    space = simulator.space
    own = [simulator.metrics.index(f"val_loss/{domain}") for domain in space.domains]
    sample = np.concatenate([space.sample(50_000, rng), space.sample(50_000, rng, 0.3), space.corners()])
    values = simulator.evaluate(sample, *space.target)
    assert sample[values[:, own].mean(axis=1).argmin()].min() > 0.02
    assert sample[values[:, -1].argmin()].max() < 0.5
    for i, j in enumerate(own):  # beyond what was tried, too
        assert values[-7:, j].argmin() == i
        assert values[:, j].min() > 0.5 and values[:, j].max() < 4
    for small, large in (("122M", "310M"), ("937M", "1235M")):
        assert (simulator.evaluate(sample, small, 9600) > simulator.evaluate(sample, large, 9600)).all()
    assert (simulator.evaluate(sample, "122M", 27000) > simulator.evaluate(sample, "122M", 46080)).all()


@needs_table
def test_the_shipped_emulator_agrees_with_the_runs_and_holds_none() -> None:
    found = measurements(read_runs(TABLE))
    simulator = simulators.load("dmsl")
    for scale, steps in (("122M", 20000), ("680M", 25920), ("1235M", 46080)):
        here = (found.scale == simulator.space.scale_names.index(scale)) & (found.steps == steps)
        got, wanted = simulator.evaluate(found.shares[here], scale, steps), found.values[here]
        assert all(spearmanr(got[:, j], wanted[:, j]).statistic > 0.97 for j in range(7))
        assert np.abs(got - wanted).max() < 0.15
    with np.load(Path(simulators.__file__).parent / "dmsl.npz", allow_pickle=False) as arrays:
        numbers = np.concatenate([arrays[key].ravel() for key in arrays if key != "header"])
    assert len(numbers) < 1500 and not np.isin(found.values, numbers).any()


@needs_table
def test_left_out_mixtures_of_real_runs_are_ranked() -> None:
    found = measurements(read_runs(TABLE), ["val_loss/arxiv"])
    left_out = errors(found, predictions_left_out(found, mixture_groups(found, 7), "groups", lambda line: None))
    assert np.nanmean(left_out.spearman) > 0.97 and np.nanmean(left_out.contrast) < 0.15

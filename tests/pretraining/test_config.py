"""The configuration of a search: the plan it leads to, and all that is refused before a worker starts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from runs import tiny_search

from ray_mixopt.cli.main import main
from ray_mixopt.optimizer import MixtureOptimizer
from ray_mixopt.pretraining.config import PretrainConfig
from ray_mixopt.pretraining.data.manifest import Manifest
from ray_mixopt.pretraining.estimate import device_speed, estimate
from ray_mixopt.pretraining.plan import check_resources, earlier_runs
from ray_mixopt.pretraining.training.settings import Resources, TrainingRun

ROOT = Path(__file__).parents[2]

SETTINGS: dict[str, Any] = {
    "scales": [
        {"name": "mine", "shape": {"d_model": 32, "heads": 2, "layers": 1}, "resources": {"workers": 2}},
        {"name": "nano"},
    ],
    "steps": [2, 4, 6],
    "sequence_length": 16,
    "batch_tokens": 64,
    "validation_tokens": 32,
}


@pytest.fixture
def write(small: Path, tmp_path: Path) -> Callable[..., Path]:
    """``write(changes)``: a configuration file."""

    def make(**changes: Any) -> Path:
        path = tmp_path / "pretrain.yaml"
        settings = {"data": str(small), "storage": str(tmp_path / "results"), **SETTINGS, **changes}
        path.write_text(yaml.safe_dump({key: value for key, value in settings.items() if value is not None}))
        return path

    return make


def call(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["pretrain", *map(str, arguments)], env={"COLUMNS": "200"})
    return result.exit_code, " ".join(result.output.replace("\n", " ").split())


def test_the_plan(write: Callable[..., Path]) -> None:
    code, output = call(write(search={"budget": 2}), "--dry-run")
    assert code == 0, output
    for part in (
        "152,128",
        "64 tokens a step, in sequences of 16",
        "2 (2 CPU)",
        "4,992",
        "Budget: 2 runs at the target; as much as",  # and no FLOPs, which nobody pays in
        "0.5 val_loss/a",
        "~1.74 MiB",  # a checkpoint: three numbers of four bytes for each parameter
        "Its training takes about",
        "worker-hours), at the speed that mine has here on one core.",
        "gradients, optimizer and activations: Python and its libraries come on top.",
        "Below the target the rate is 0.1 of the rule's: small models trained gently rank mixtures more like",
        "Highest is the largest share that a mixture can have of a domain",
        "passes over the tokens used, in a target run of that mixture: nano x 6 steps, 384 tokens.",
    ):
        assert part in output, part
    for changes in ({"optimization": {"learning_rate": 0.01}}, {"scales": [{"name": "nano"}]}):
        code, output = call(write(**changes), "--dry-run")
        assert code == 0 and "of the rule's" not in output, output  # nobody trains gently
    assert "0.5 of the rule's" in call(write(optimization={"proxy_share": 0.5}), "--dry-run")[1]
    scales = [{**scale, "seconds_per_step": 600} for scale in SETTINGS["scales"]]
    _, output = call(write(search={"budget": 2}, cost="seconds", scales=scales), "--dry-run")
    assert "Budget: 2 runs at the target, 2 h 0 min of training; as much as" in output
    on_gpus = PretrainConfig.read(write(scales=[{"name": "nano", "resources": {"gpus_per_worker": 1}}]))
    assert device_speed(on_gpus) is None and estimate(on_gpus, None)["hours"] is None  # nobody knows these GPUs
    config = PretrainConfig.read(write(upper={"a": 0.7}, max_repetition_ratio=0.2))
    assert config.space.upper == {"a": 0.7}
    assert config.space.corners().max(0)[1] == pytest.approx(0.2 * 992 / 384)


def test_the_plan_of_two_phases(write: Callable[..., Path]) -> None:
    phases = [{"name": "main", "fraction": 0.8}, {"name": "late", "fraction": 0.2, "upper": {"a": 0.5}}]
    path = write(phases=phases, steps=[5, 10], search={"budget": 2})
    code, output = call(path, "--dry-run")
    assert code == 0, output
    assert 'all of which are searched: main (80%), then late (20%; upper {"a": 0.5}).' in " ".join(output.split())
    config = PretrainConfig.read(path)
    assert config.space.phase_names == ("main", "late") and config.space.repetition is None
    run = config.run({"main": {"a": 3, "b": 1}, "late": {"a": 1, "b": 3}}, "mine", 10)
    assert (run.mixture, run.leaves(10), run.leaves(5)) == ({"a": 0.75, "b": 0.25}, 8, 4)
    assert [(stage.begins, stage.mixture) for stage in run.later] == [(0.8, {"a": 1, "b": 3})]
    assert config.run({"a": 1, "b": 1}, "mine", 10).mixtures == ({"a": 0.5, "b": 0.5},) * 2


def test_the_plan_for_a_program(write: Callable[..., Path]) -> None:
    result = CliRunner().invoke(main, ["pretrain", str(write(search={"budget": 2})), "--dry-run", "--json"])
    assert result.exit_code == 0, result.output
    plan = json.loads(result.stdout)
    assert [model["scale"] for model in plan["models"]] == [scale["name"] for scale in SETTINGS["scales"]]
    assert [model["parameters"] for model in plan["models"]].count(152128) == 1
    assert plan["models"][-1]["cost"]["6"] == pytest.approx(1.0)
    assert plan["domains"]["a"]["used_tokens"] == 4992 and plan["budget"]["target_runs"] == 2
    assert plan["earlier_runs"] == {}
    assert "Budget: 2 runs at the target" in result.stderr


def test_the_plan_of_a_large_search(write: Callable[..., Path]) -> None:
    """1B x 19,700 steps, of 512K tokens on eight GPUs of 989 TFLOP/s at 40%."""
    resources = {"workers": 8, "cpus_per_worker": 4, "gpus_per_worker": 1}
    execution = {"parallel": "fsdp", "precision": "bf16", "micro_batch": 8, "peak_flops": 989e12}
    scales = [{"name": "150M", "steps": [6000], "batch_tokens": 131072}, {"name": "1B", "resources": resources}]
    settings = write(
        scales=scales,
        steps=[6000, 19700],
        batch_tokens=524288,
        sequence_length=128,
        simulate_tokens=4e12,
        max_repetition_ratio=1e9,
        execution=execution,
        search={"budget": 3},
        cluster={"CPU": 128, "GPU": 16},
    )
    result = CliRunner().invoke(main, ["pretrain", str(settings), "--dry-run", "--json"], env={"COLUMNS": "240"})
    assert result.exit_code == 0, result.output
    plan = json.loads(result.stdout)
    small, large = plan["models"]
    assert large["tokens"] == 19700 * 524288 and small["tokens"] == 6000 * 131072
    assert large["checkpoint_bytes"] == 12 * large["parameters"]
    assert small["matched_epochs"] == large["matched_epochs"] == pytest.approx(1)
    assert small["supply_fraction"] / large["supply_fraction"] == pytest.approx(small["tokens"] / large["tokens"])
    flops = large["flops_per_token"] * large["tokens"]
    hours = flops / (0.4 * 989e12) / 3600
    assert plan["estimate"]["run_hours"]["1B"] == pytest.approx(hours / 8)
    assert plan["estimate"]["device_hours"] == pytest.approx(3 * hours)
    assert plan["estimate"]["workers"] == 16 and plan["estimate"]["hours"] == pytest.approx(3 * hours / 16)
    assert "at 40% of 9.89e+14 operations a second, which is assumed." in " ".join(result.stderr.split())
    narrow = CliRunner().invoke(main, ["pretrain", str(settings), "--dry-run"], env={"COLUMNS": "80"}).output
    assert "…" not in narrow and "30.5% to 6,000" in narrow, narrow  # every number is there


def test_the_plan_says_what_was_odd_about_the_data(write: Callable[..., Path], small: Path) -> None:
    odd = Manifest.read(small).model_copy(update={"remarks": ["a: 3 documents [without] text"]})
    odd.write(small)
    code, output = call(write(), "--dry-run")
    assert code == 0 and "Data, a: 3 documents [without] text" in output


# -- a start from old runs

OLD = """scale,cost_per_step,parameters,step,mixture/a,mixture/old,val_loss/a
mine,1,1000,4,0.3,0.7,4.0
tiny0,1,1000,4,1,0,3.9
"""


def test_old_runs_are_a_start(write: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "old.csv").write_text(OLD)
    search = {"domain_map": {"renamed": {"old": "b"}}}
    config = write(search=search)
    code, output = call(config, "--dry-run", "--from", tmp_path / "old.csv")
    assert code == 0, output
    assert "Earlier runs, at no cost: 2 of old.csv." in output
    started = PretrainConfig.read(config).starting_from([str(tmp_path / "old.csv")])
    settings = PretrainConfig.read(write(search=search | {"earlier": [str(tmp_path / "old.csv")]}))
    assert PretrainConfig.model_validate_json(settings.model_dump_json()) == settings
    assert started == settings
    (history,) = earlier_runs(settings).values()
    assert all(trial.noise == {} for trial in history)
    assert [trial.mixture for trial in history] == [(0.3, 0.7), (1.0, 0.0)]
    assert [scale.name for scale in history.space.earlier_scales] == ["tiny0"]


def test_old_runs_may_scatter_more(write: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "old.csv").write_text(OLD)
    config = write(search={"domain_map": {"renamed": {"old": "b"}}, "earlier_noise": {"val_loss/a": 0.1}})
    started = PretrainConfig.read(config).starting_from([str(tmp_path / "old.csv")], {"val_loss/a": 0.2})
    (history,) = earlier_runs(started).values()
    assert [trial.noise for trial in history] == [{"val_loss/a": 0.2}] * 2
    code, output = call(config, "--dry-run", "--from", tmp_path / "old.csv", "--metric-noise", "val_loss/z=1")
    assert code == 2 and "The noise is of val_loss/z, which no run reports" in output


def test_a_setting_that_is_given_twice_is_refused(write: Callable[..., Path]) -> None:
    path = write()
    path.write_text(f"{path.read_text()}\nsearch: {{budget: 1, seed: 0, budget: 2}}\n")
    with pytest.raises(ValueError, match="is not YAML: 'budget' is given twice in .*, line "):
        PretrainConfig.read(path)


@pytest.mark.parametrize(
    ("content", "search", "message"),
    [
        (OLD, {}, "cannot be taken in: The runs have the domain 'old', which is not one of a, b: say what became"),
        (
            OLD,
            {"domain_map": {"lost": ["old"]}},
            "domain map: it has the unknown fields lost; known are renamed, split, dropped",
        ),
        (OLD.replace("val_loss/a", "loss"), {"domain_map": {"dropped": ["old"]}}, "reports val_loss/a or val_loss/b"),
        ("", {}, "cannot be taken in: "),
    ],
)
def test_old_runs_are_checked(
    write: Callable[..., Path], tmp_path: Path, content: str, search: dict[str, Any], message: str
) -> None:
    (tmp_path / "old.csv").write_text(content)
    code, output = call(write(search=search), "--dry-run", "--from", tmp_path / "old.csv")
    assert code == 2 and message in output, output


def test_what_a_search_took_in_is_not_taken_in_again(write: Callable[..., Path], tmp_path: Path) -> None:
    code, output = call(write(), "--resume", "--from", tmp_path / "old.csv")
    assert code == 2 and "--from and --metric-noise are about the start of a search" in output


def test_simulated_epoching_cuts_every_domain_down(write: Callable[..., Path]) -> None:
    config = PretrainConfig.read(write(simulate_tokens=3840.0, max_repetition_ratio=4))
    assert config.supply_fraction("nano") == 0.1
    assert config.space.token_supply == {"a": 32 * 16, "b": 7 * 16}
    run = config.run({"a": 1, "b": 1}, "nano", 4)
    assert run.supply_fraction == 0.1 and run.rungs == (2, 4, 6) and run.steps == 4


def test_the_model_knows_what_runs_repeat(write: Callable[..., Path]) -> None:
    matched = PretrainConfig.read(write()).space
    ends = [matched.rates(scale, matched.rungs(scale)[-1]) for scale in matched.scale_names]
    assert matched.repetition == "matched"
    np.testing.assert_allclose(ends, [ends[-1]] * len(ends), err_msg="at its end each passes as often as the target")
    supply = np.array(list(matched.token_supply.values()))
    np.testing.assert_allclose(ends[-1], matched.target_tokens / supply)
    assert PretrainConfig.read(write(match_repetition=False)).space.repetition == "real"
    assert PretrainConfig.read(write(max_repetition_ratio=1, validation_tokens=16)).space.repetition is None


def test_costs_are_operations_or_seconds(write: Callable[..., Path]) -> None:
    config = PretrainConfig.read(write())
    cost = config.model_cost(config.scale("mine"))
    assert config.space.scale("mine").cost_per_step == cost.flops_per_token * 64
    scales = [
        {**scale, "seconds_per_step": seconds} for scale, seconds in zip(SETTINGS["scales"], (1.5, 4), strict=True)
    ]
    timed = PretrainConfig.read(write(cost="seconds", scales=scales))
    assert [scale.cost_per_step for scale in timed.space.scales] == [1.5, 4]


def test_trackers_that_are_not_installed(write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray_mixopt.pretraining.plan.find_spec", lambda name: None)
    code, output = call(write(tracking=["wandb"]), "--dry-run")
    assert code == 2 and "tracking with wandb needs a package: pip install wandb." in output


def shaped(**changes: Any) -> dict[str, Any]:
    """A scale of that shape."""
    return {"name": "shaped", "shape": {"d_model": 32, "heads": 2, "layers": 1, **changes}}


def shared(workers: int, **execution: Any) -> dict[str, Any]:
    """A scale that so many workers share."""
    return {"name": "nano", "resources": {"workers": workers}, "execution": {"parallel": "fsdp", **execution}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "/nonesuch"}, "/nonesuch holds no manifest.json: make it with `ray-mixopt prepare`."),
        ({"steps": None}, "steps: no rungs are given for mine, nano: give steps or tokens_per_parameter."),
        (
            {"tokens_per_parameter": [1, 2]},
            "pretrain.yaml: the search: give its rungs as steps or as tokens_per_parameter, not as both.",
        ),
        ({"steps": None, "tokens_per_parameter": [1e-4, 2e-4]}, "they must be ascending and differ: take others"),
        ({"anneal": {}, "decay": {"steps": 2}}, "decay: with anneal all runs end with a decay of the learning rate"),
        ({"setps": [1]}, "pretrain.yaml: setps is unknown: did you mean steps?"),
        ({"search": {"bugdet": 1}}, "pretrain.yaml: search.bugdet is unknown: did you mean search.budget?"),
        ({"budget": 1}, "pretrain.yaml: budget is unknown: did you mean search.budget?"),
        ({"d_model": 1}, "pretrain.yaml: d_model is unknown: did you mean scales[].shape.d_model?"),
        ({"target": {"colour": 1}}, "target.scale is missing. "),
        ({"target": {"colour": 1}}, "pretrain.yaml: target.colour is unknown: known there are scale, steps."),
        ({"cost": "flop"}, "pretrain.yaml: cost: \"flop\" cannot be used: it should be 'flops' or 'seconds'."),
        ({"search": "random"}, 'pretrain.yaml: search: "random" cannot be used: it should be settings by name.'),
        ({"lower": {"a": 2}}, "pretrain.yaml: lower.a: 2 cannot be used: it should be less than or equal to 1."),
        ({"scales": [{"name": "2B"}]}, "'2B' is no preset: give its shape, or use one of nano, micro, tiny, 20M"),
        ({"scales": []}, "scales: [] cannot be used: list should have at least 1 item"),
        ({"domains": ["a", "c"]}, "has no domain 'c': it has a, b."),
        ({"upper": {"c": 1.0}}, "has no domain 'c': it has a, b."),
        ({"upper": {"a": 0.2, "b": 0.2}}, "upper: the shares a: 0.2, b: 0.2 sum to 0.4, below 1: raise some of them."),
        ({"lower": {"a": 0.7, "b": 0.7}}, "lower: the shares a: 0.7, b: 0.7 sum to 1.4, above 1: lower some of them."),
        ({"lower": {"a": 0.7}, "upper": {"a": 0.2}}, "lower.a: 0.7 is above upper.a: 0.2: lower the one or raise"),
        (
            {"max_repetition_ratio": 0.01},
            "pretrain.yaml: The target, nano x 6 steps of 64 tokens, asks for 384 tokens, and with "
            "max_repetition_ratio: 0.01 the data give 60: a 4,992 x 0.01 passes and b 992 x 0.01 passes. Raise "
            "max_repetition_ratio to 0.065, lower steps or batch_tokens, or prepare more data.",
        ),
        (
            {"steps": [400]},
            "asks for 25,600 tokens, and with max_repetition_ratio: 4 the data give 23,936: a 4,992 x 4",
        ),
        ({"batch_tokens": 6400}, "nano x 6 steps of 6,400 tokens, asks for 38,400 tokens, and with"),
        (
            {"steps": [200], "upper": {"a": 0.5}},  # half of 12,800 from b, which has 992
            "max_repetition_ratio: 4 and the shares in upper the data give 10,368: a 4,992 x 1.28 passes and b 992 x 4 "
            "passes. Raise max_repetition_ratio to 6.5, lower",
        ),
        (
            {"steps": [100], "lower": {"b": 0.7}},
            "lower.b: 0.7 of the target's 6,400 tokens (nano x 100 steps of 64 tokens) is 4,480, and 'b' has 992: that "
            "is 4.52 passes, and max_repetition_ratio allows 4. Lower that share, raise max_repetition_ratio to 4.6,",
        ),
        (
            {"simulate_tokens": 384e2},
            "the data, cut down for simulate_tokens: 38400, give 320: a 64 x 4 passes and b 16 x 4 passes. Raise "
            "max_repetition_ratio to 4.8, lower simulate_tokens, steps or",
        ),
        (
            {"steps": [10**7]},
            "b 992 x 4 passes. Lower steps or batch_tokens, or prepare more data.",
        ),
        (
            {"search": {"budget": 1e99}},
            "search.budget: 1e+99 cannot be used: it should be less than or equal",
        ),
        ({"steps": [4, 2]}, "steps: rungs must be strictly ascending"),
        ({"target": {"scale": "mine", "steps": 5}}, "steps 5 are not one of the rungs"),
        ({"batch_tokens": 65}, "no whole number of sequences of 16 tokens: take a multiple"),
        ({"batch_tokens": 48}, "3 sequences cannot be dealt out evenly to the 2 workers of scale 'mine'"),
        ({"sequence_length": 512, "batch_tokens": 1024}, "200 validation tokens, too few for one window of 512"),
        (
            {"sequence_length": 1024, "batch_tokens": 2048, "max_repetition_ratio": 100},
            "has 1000 training tokens, too few",
        ),
        ({"cluster": {"CPU": 1}}, "Scale 'mine' needs 2 workers with 1 CPU each, the cluster has room for 1 at most"),
        ({"search": {"objective": {"val_loss/c": 1.0}}}, "No run reports the metric 'val_loss/c'"),
        ({"simulate_tokens": 100}, "simulate_tokens=100 is less than the target's 384 tokens"),
        ({"cost": "seconds"}, "cost: seconds needs the measured seconds_per_step of mine, nano."),
        ({"phases": [{"name": "main", "fraction": 1}]}, "'main' is a fraction of the run between 0 and 1"),
        ({"phases": [{"name": "main", "fraction": 0.5}]}, "one phase is the whole of a run"),
        ({"phases": [{"name": "main", "fraction": 0.5}] * 2}, "Phases must have distinct names"),
        (
            {"phases": [{"name": "main", "fraction": 0.8, "mixture": {"a": 1}}, {"name": "late", "fraction": 0.2}]},
            "main has a mixture, and all phases are trained here",
        ),
        ({"decay": {"steps": 7}}, "decay.steps=7 is more than the target's 6 steps"),
        ({"storage": "/dev/null/results"}, "/dev/null/results cannot be written to: Not a directory."),
        ({"storage": "nonesuch://results"}, "nonesuch://results cannot be written to"),
        ({"name": "../up"}, 'name: "../up" cannot be used: string should match pattern'),
        ({"name": ".."}, "name: An experiment also gives files their names, and '..' cannot"),
        ({"search": {"strategy": "nonesuch"}}, "Unknown strategy 'nonesuch'"),
        ({"search": {"noise": {"val_loss/c": 0.1}}}, "val_loss/c"),
        ({"search": {"budget": 0.01}}, "buys none at all: the cheapest, mine x 2 steps, costs"),
        ({"domains": []}, "domains: [] cannot be used: list should have at least 1 item"),
        (
            {"steps": None, "tokens_per_parameter": [0]},
            "tokens_per_parameter[0]: 0 cannot be used: it should be greater than",
        ),
        ({"optimization": {"learning_rate": 1e30}}, "optimization.learning_rate: 1e+30 cannot be used: it should be"),
        ({"scales": [{"name": "nano", "learning_rate": 2}]}, "scales[0].learning_rate: 2 cannot be used: it should be"),
        ({"optimization": {"learning_rate": 0.1, "proxy_share": 0.5}}, "learning_rate replaces the rule: give one"),
        ({"optimization": {"warmup_steps": 7}}, "A warm-up of 7 steps is longer than the longest run of scale 'mine'"),
        ({"execution": {"peak_flops": 1e-300}}, "execution.peak_flops: 1e-300 cannot be used: it should be"),
        ({"scales": [shaped(mlp_ratio=1e12)]}, "mlp_ratio=1e+12 makes an MLP 16000000000000 wide: 1 to 1048576 can be"),
        ({"scales": [shaped(mlp_ratio=1e-9)]}, "mlp_ratio=1e-09 makes an MLP 0 wide"),
        ({"scales": [shared(2, shards=3)]}, "2 workers cannot be grouped by 1 tensor-parallel workers x 3 shards"),
        ({"scales": [shared(2, tensor=5)]}, "tensor=5 workers cannot share out a width of 64 evenly"),
        ({"scales": [shared(3, tensor=2)]}, "3 workers cannot be grouped by 2 tensor-parallel workers: change workers"),
    ],
)
def test_refusals(write: Callable[..., Path], changes: dict[str, Any], message: str) -> None:
    code, output = call(write(**changes), "--dry-run")
    assert code == 2 and message in output, output


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "a" / "train-00000.bin").unlink(), "The shard a/train-00000.bin of .* is missing."),
        (lambda folder: (folder / "b" / "val-00000.bin").write_bytes(b"abc"), "has 3 bytes; the manifest promises 400"),
        (
            lambda folder: np.full(5000, 300, dtype=np.uint16).tofile(folder / "a" / "train-00000.bin"),
            "The shard a/train-00000.bin of .* holds the token id 300, beyond the vocabulary of 257 tokens.",
        ),
        (lambda folder: edit(folder, "uint16", "uint32"), "its fingerprint does not fit its contents"),
        (
            lambda folder: edit(folder, '"version": 1', '"version": 2'),
            "Cannot read a manifest of version 2: this release reads 1",
        ),
    ],
)
def test_damaged_data(write: Callable[..., Path], small: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(small)
    code, output = call(write(), "--dry-run")
    assert code == 2 and re.search(message, output), output


def edit(folder: Path, old: str, new: str) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace(old, new))


def test_every_worker_needs_room_on_a_node(write: Callable[..., Path]) -> None:
    scales = [{"name": "nano", "resources": {"workers": 3, "cpus_per_worker": 2}}]
    config = PretrainConfig.read(write(scales=scales))
    check_resources(config.scales, [{"CPU": 4}, {"CPU": 3}])
    message = "needs 3 workers with 2 CPU each, the cluster has room for 2 at most, with 4 CPU, 1 CPU, 1 CPU: lower"
    with pytest.raises(ValueError, match=message):
        check_resources(config.scales, [{"CPU": 4}, {"CPU": 1}, {"CPU": 1}])  # 6 CPUs, too, but in pieces


def test_unreadable_files(tmp_path: Path) -> None:
    for content, message in (
        (b"a: [", "is not YAML"),
        (b"[1]", "holds list, not the settings"),
        (b"\xff", "is not YAML"),
    ):
        (tmp_path / "bad.yaml").write_bytes(content)
        code, output = call(tmp_path / "bad.yaml")
        assert code == 2 and message in output
    code, output = call(tmp_path / "none.yaml")
    assert code == 2 and "There is no configuration" in output


def test_what_is_there_is_not_overwritten(write: Callable[..., Path], tmp_path: Path) -> None:
    path = write()
    code, output = call(path, "--resume")
    assert code == 2 and "results/pretrain holds no search." in output
    (tmp_path / "results" / "pretrain").mkdir(parents=True)
    (tmp_path / "results" / "pretrain" / "tuner.pkl").touch()
    code, output = call(path)
    assert code == 2 and "holds a search already: add --resume, or change its name" in output


def test_the_shown_configurations_are_valid(small: Path) -> None:
    page = (ROOT / "docs" / "pretraining.md").read_text()
    texts = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    least, defaults, shown, *additions = map(yaml.safe_load, texts)
    assert PretrainConfig.model_validate(least) == PretrainConfig.model_validate(least | defaults)
    assert len(least) == 3 and Resources() == Resources(workers=1, cpus_per_worker=1, gpus_per_worker=0)
    ours = [yaml.safe_load(path.read_text()) for path in (ROOT / "experiments" / "pretraining").glob("*.yaml")]
    assert ours and len(additions) == 3
    for settings in (shown, *(shown | addition for addition in additions), *ours):
        config = PretrainConfig.model_validate(settings)
        check_resources(config.scales, [config.cluster or {"CPU": 2}])
        assert config.domain_map.renamed == settings.get("search", {}).get("domain_map", {}).get("renamed", {})
    (run,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    TrainingRun.model_validate_json(run)


def test_a_search_that_knows_nothing_yet_has_no_answer(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether Ctrl-C came before the first report, or all runs failed before theirs."""
    from ray_mixopt.pretraining import search as module

    settings = tiny_search(small, tmp_path, search={"strategy": "random", "budget": 5})
    (tmp_path / "search.yaml").write_text(yaml.safe_dump(json.loads(settings.model_dump_json(exclude_none=True))))
    optimizer = MixtureOptimizer(settings.space, settings.search_settings)
    searcher = SimpleNamespace(optimizer=optimizer, recommend=optimizer.recommend)
    outcome = SimpleNamespace(searcher=searcher, errors=(), interrupted=True)
    monkeypatch.setattr(module, "search", lambda *args, **options: outcome)
    result = CliRunner().invoke(main, ["pretrain", str(tmp_path / "search.yaml"), "--json"])
    assert (result.exit_code, json.loads(result.stdout)["recommendation"]) == (130, None), result.stderr
    assert "Nothing is known yet: no run has reported" in " ".join(result.stderr.split())
    assert "Recommended mixture" not in result.stderr and "Interrupted: go on with: ray-mixopt" in result.stderr
    outcome.interrupted = False
    result = CliRunner().invoke(main, ["pretrain", str(tmp_path / "search.yaml"), "--final"])
    assert result.exit_code == 1 and "no mixture to recommend, nor to train the target with" in result.stderr


@pytest.mark.parametrize(
    ("begins", "said"),
    [
        (False, "Interrupted: the search had not begun, and nothing is lost: give the same command again."),
        (True, "Interrupted: go on with: ray-mixopt pretrain {path} --resume --final"),
    ],
)
def test_ctrl_c_says_how_to_go_on_from_where_it_came(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begins: bool, said: str
) -> None:
    from ray_mixopt.pretraining import search as module

    def interrupted(config: PretrainConfig, *args: Any, **options: Any) -> None:
        if begins:
            Path(config.experiment).mkdir()
            (Path(config.experiment) / "tuner.pkl").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "search", interrupted)
    path = write()
    code, output = call(path, "--final")
    assert code == 130 and output.endswith(said.format(path=path)), output


def test_what_is_known_of_noise_and_when_to_stop_reaches_the_search(small: Path, tmp_path: Path) -> None:
    said = {"noise": {"val_loss/mean": 0.01}, "stop_when_sure": True}
    asked = tiny_search(small, tmp_path, search=said).search_settings
    assert asked.noise == {"val_loss/mean": 0.01} and asked.stop_when_sure
    asked = tiny_search(small, tmp_path).search_settings
    assert not asked.noise and not asked.stop_when_sure

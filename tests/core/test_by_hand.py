"""A search by hand: its how-to from start to end, and what may go wrong between two calls."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner, Result

from ray_mixopt.cli.main import main
from ray_mixopt.io import by_hand, filling

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "how-to" / "by-hand.md").read_text()
SBATCH = """#!/bin/sh
# Runs the job at once, and prints its number; that of one run breaks down.
[ "$1" = --parsable ] && shift
echo "$1" >> submitted
case "$1" in *hand-0012*) sed 's/^python3 train.py/exit 1; &/' "$1" > broken.sh; sh broken.sh;; *) sh "$1";; esac
echo $$
"""
SPACE = "domains: [a, b]\nscales: [{name: s, cost_per_step: 1}, {name: l, cost_per_step: 10}]\nsteps: [10, 20]\n"
JOB = "train {{ run }} {{ blend | quote }} {{ steps }} {{ from_step }}\n"


def block(language: str, place: int = 0) -> str:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)[place]


def typed(line: str) -> Result:
    return CliRunner().invoke(main, shlex.split(line)[1:])


def suggest(line: str = "", *, code: int = 0) -> Any:
    """What ``suggest --json`` answers; the sentence where it refuses."""
    result = typed(f"ray-mixopt suggest --json {line}")
    assert result.exit_code == code, result.output
    return result.output if code else json.loads(result.stdout)


def names(answer: dict[str, Any]) -> list[str]:
    return [run["run"] for run in answer["runs"]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("space.yaml").write_text(SPACE)
    Path("job.sh.j2").write_text(JOB)
    return tmp_path


def log(runs: list[dict[str, Any]], *, name: bool = True, digits: int | None = None, upto: int | None = None) -> None:
    """Writes rows of runs to runs.csv, as a trainer would: at every step that they pass."""
    rows = []
    for run in runs:
        for step in (z for z in (10, 20) if run["from_step"] < z <= (upto or run["steps"])):
            shares = {f"mixture/{d}": v if digits is None else round(v, digits) for d, v in run["mixture"].items()}
            loss = (run["mixture"]["a"] - 0.3) ** 2 + 1 / step
            rows.append({"run": run["run"]} | {"scale": run["scale"], "step": step} | shares | {"loss": loss})
    table = pd.DataFrame(rows)
    if not name:
        table = table.drop(columns="run")
    if Path("runs.csv").exists():
        table = pd.concat([pd.read_csv("runs.csv", dtype={"run": str}), table])
    table.to_csv("runs.csv", index=False)


def forget() -> None:
    """Begins anew."""
    for name in ("by-hand.json", "copy-of-by-hand.json", "runs.csv"):
        Path(name).unlink(missing_ok=True)


# -- the page


def test_the_page_from_start_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("space.yaml").write_text(block("yaml"))
    Path("job.sh.j2").write_text(block("jinja"))
    shutil.copy(ROOT / "tests" / "toy_training.py", "train.py")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sbatch").write_text(SBATCH)
    (tmp_path / "bin" / "sbatch").chmod(0o755)
    (tmp_path / "bin" / "python3").symlink_to(sys.executable)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    commands = re.findall(r"^```bash\n(.*)\n```", PAGE, re.MULTILINE)
    first, submit, second, third, answer = commands
    for place, command in enumerate((first, second, third)):
        result = typed(command)
        assert result.exit_code == 0, result.output
        assert f"Round {place + 1}: " in result.output
        state = Path("by-hand.json").read_bytes()
        written = {path.name: path.read_bytes() for path in Path("jobs").glob("*.*")}
        again = typed(command)
        assert (again.exit_code, again.stdout) == (0, result.stdout), "the same question, the same answer"
        assert Path("by-hand.json").read_bytes() == state
        assert {path.name: path.read_bytes() for path in Path("jobs").glob("*.*")} == written
        for _ in range(2):  # the second time there is nothing to submit
            subprocess.run(["bash", "-c", submit], check=True)
    submitted = Path("submitted").read_text().split()
    assert len(submitted) == len(set(submitted)) == 24, "three rounds of eight, none twice"
    table = pd.read_csv("runs.csv")
    assert not table.duplicated(["run", "step"]).any()
    assert "hand-0012" not in set(table["run"])
    reached = table.groupby(["run", "scale"])["step"].max().reset_index()
    spent = sum({"60M": 0.06, "400M": 0.4}[scale] * step for _, scale, step in reached.itertuples(index=False))
    assert 0 < spent <= 2400
    assert len({name.partition("-to-")[0] for name in submitted}) < 24, "some went on"
    result = typed(f"{answer} --json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["mixture"]["web"] == pytest.approx(0.55, abs=0.2)


# -- what counts as running


def test_what_is_under_way_counts_and_a_larger_number_asks_for_more(folder: Path) -> None:
    three = suggest("--space space.yaml -n 3")
    assert names(three) == ["hand-0001", "hand-0002", "hand-0003"]
    assert suggest("--space space.yaml -n 3") == three == suggest("-n 3")  # the state knows the space
    five = suggest("--space space.yaml -n 5")
    assert (five["round"], names(five)) == (2, ["hand-0004", "hand-0005"])
    assert [run["run"] for run in five["under_way"]] == names(three)
    forget()
    at_once = suggest("--space space.yaml -n 5")
    mixtures = [run["mixture"] for run in (*five["under_way"], *five["runs"])]
    assert [run["mixture"] for run in at_once["runs"]] == mixtures


@pytest.mark.parametrize("how", [{}, {"name": False}, {"name": False, "digits": 2}], ids=["named", "alike", "rounded"])
def test_rows_find_their_runs(how: dict[str, Any], folder: Path) -> None:
    four = suggest("--space space.yaml -n 4")
    log(four["runs"][1:3], **how)
    after = suggest("--space space.yaml --from runs.csv --weight loss=1 -n 4")
    assert (after["finished"], after["spent"]) == (2, sum(run["cost"] for run in four["runs"][1:3]))
    assert [run["run"] for run in after["under_way"]] == ["hand-0001", "hand-0004"]
    assert len(after["runs"]) == 2
    assert suggest("--space space.yaml --from runs.csv --weight loss=1 -n 4") == after


def test_a_table_with_its_header_alone_says_that_nothing_is_finished(folder: Path) -> None:
    first = suggest("--space space.yaml --weight loss=1 -n 1 --strategy random")
    Path("runs.csv").write_text("run,scale,step,mixture/a,mixture/b,loss\n")
    asked = "--space space.yaml --from runs.csv --weight loss=1 --strategy random --scale-cost s=1"
    result = typed(f"ray-mixopt suggest {asked}")
    assert result.exit_code == 0, result.output
    assert "runs.csv has no rows. No run of it is finished yet." in result.stderr and names(first)[0] in result.stdout
    refused = typed("ray-mixopt recommend --from runs.csv")
    assert refused.exit_code == 2 and "runs.csv has no rows." in refused.stderr


def test_a_budget_that_buys_no_run_says_what_one_costs(folder: Path) -> None:
    said = suggest("--space space.yaml --weight loss=1 --budget 9", code=2)
    assert "the cheapest, s x 10 steps, costs 10, and one full run," in " ".join(said.split())


def test_half_a_run_is_under_way(folder: Path) -> None:
    space = SPACE.replace("[10, 20]", "[20]")
    Path("space.yaml").write_text(space)
    one = suggest("--space space.yaml")
    log(one["runs"], upto=10)
    again = suggest("--space space.yaml --from runs.csv --weight loss=1")
    assert names(again) == names(one) and again["runs"][0]["seen"] == 10
    assert (
        "\n  Seen up to step 10\n"
        in typed("ray-mixopt suggest --space space.yaml --from runs.csv --weight loss=1").stdout
    )
    assert (again["spent"], again["committed"]) == (10, 20)


def test_old_runs_cost_nothing_and_are_no_suggested_ones(folder: Path) -> None:
    old = {"run": "old", "scale": "s", "steps": 20, "from_step": 0, "mixture": {"a": 0.5, "b": 0.5}}
    log([old])
    answer = suggest("--space space.yaml --from runs.csv --weight loss=1 -n 2")
    assert (answer["finished"], answer["spent"], len(answer["runs"])) == (0, 0, 2)
    forget()
    log([old], name=False)
    first = suggest("--space space.yaml --from runs.csv --weight loss=1 -n 6")
    even = next(run for run in first["runs"] if run["mixture"]["a"] == pytest.approx(0.5) and run["scale"] == "s")
    assert even["run"] not in [run["run"] for run in first["under_way"]]
    log([even], name=False)
    after = suggest("--space space.yaml --from runs.csv --weight loss=1 -n 6")
    assert after["finished"] == 1 and even["run"] not in names(after)


def test_the_space_of_a_table_stays_what_it_was(folder: Path) -> None:
    line = "--from runs.csv --weight loss=1 --scale-cost s=1 --target s:20"
    old = [
        {"run": f"o{i}", "scale": "s", "steps": 20, "from_step": 0, "mixture": {"a": i / 5, "b": 1 - i / 5}}
        for i in range(6)
    ]
    log(old)
    one = suggest(f"{line} -n 1")["runs"][0]
    table = pd.read_csv("runs.csv")
    between = table.iloc[:1].assign(run=one["run"], step=7, **{f"mixture/{d}": s for d, s in one["mixture"].items()})
    pd.concat([table, between]).to_csv("runs.csv", index=False)
    suggest(f"{line} -n 2")
    assert json.loads(Path("by-hand.json").read_text())["space"]["steps"] == [10, 20], "7 is no rung"


def test_a_run_that_diverged_makes_room(folder: Path) -> None:
    two = suggest("--space space.yaml -n 2")["runs"]
    log(two)
    Path("runs.csv").write_text(re.sub(r"[\d.]+\n$", "nan\n", Path("runs.csv").read_text()))
    after = suggest("--space space.yaml --from runs.csv --weight loss=1 -n 1 --no-continue")
    assert (after["failed"], after["spent"]) == (["hand-0002"], sum(run["cost"] for run in two))
    assert names(after) == ["hand-0003"]


def test_a_first_round_that_diverged_as_a_whole_makes_room(folder: Path) -> None:
    two = suggest("--space space.yaml -n 2")["runs"]
    log(two)
    Path("runs.csv").write_text(re.sub(r"[\d.]+$", "nan", Path("runs.csv").read_text(), flags=re.MULTILINE))
    after = suggest("--space space.yaml --from runs.csv --weight loss=1 -n 2")
    assert after["failed"] == ["hand-0001", "hand-0002"] and names(after) == ["hand-0003", "hand-0004"]


def test_a_run_that_diverged_is_not_finished(folder: Path) -> None:
    log(suggest("--space space.yaml -n 2")["runs"])
    Path("runs.csv").write_text(re.sub(r"[\d.]+\n$", "nan\n", Path("runs.csv").read_text()))
    after = suggest("--space space.yaml --from runs.csv --weight loss=1 -n 1 --no-continue")
    assert (after["finished"], after["failed"]) == (1, ["hand-0002"])


def test_rows_that_are_gone_are_said_to_be(folder: Path) -> None:
    log(suggest("--space space.yaml -n 2")["runs"])
    line = "ray-mixopt suggest --space space.yaml --weight loss=1 -n 3"
    assert "are gone" not in typed(f"{line} --from runs.csv").output
    gone = "Rows that an earlier call has read are gone, of hand-0001 (to step 10), hand-0002 (to step 10): what they"
    for _ in range(2):
        assert gone in typed(line).stderr, "--from is missing"
    table = pd.read_csv("runs.csv")
    table.iloc[1:].to_csv("runs.csv", index=False)
    said = typed(f"{line} --from runs.csv").stderr
    assert "of hand-0001 (to step 10): what they" in said
    table.to_csv("runs.csv", index=False)
    assert "are gone" not in typed(f"{line} --from runs.csv").output


def test_what_is_printed_is_clear(folder: Path) -> None:
    Path("space.yaml").write_text(SPACE.replace("[a, b]", "[a, b, c]"))
    line = "ray-mixopt suggest --space space.yaml --weight loss=1"
    first = typed(f"{line} -n 3 --budget 45").stdout
    shares = [re.findall(r"[abc] (0\.\d+)", row) for row in first.splitlines() if row.startswith("  a ")]
    assert len(shares) == 3 and all(sum(int(share[2:]) for share in three) == 10**6 for three in shares), first
    assert "Suggested in round 1, and under way:" in first
    assert "3 runs under way, and not the 30 of -n: no further run that is worth its cost is to be had for the " in (
        typed(f"{line} -n 30 --budget {suggest('-n 3')['committed'] + 1}").stdout
    )


def test_failed_runs_make_room(folder: Path) -> None:
    three = suggest("--space space.yaml -n 3")
    after = suggest("--space space.yaml -n 3 --failed hand-0002")
    assert after["failed"] == ["hand-0002"] and names(after) == ["hand-0004"]
    assert suggest("--space space.yaml -n 3") == after == suggest("--space space.yaml -n 3 --failed hand-0002")
    assert "--failed hand-0009: by-hand.json has not suggested such a run; it has hand-0001, " in suggest(
        "--failed hand-0009", code=2
    )
    log([three["runs"][1]])  # it came after all
    assert suggest("--from runs.csv --space space.yaml -n 3 --weight loss=1")["failed"] == []
    assert "hand-0002 was said to have failed, and its rows go to step 10 now: it counts as finished." in (
        typed("ray-mixopt suggest --from runs.csv --space space.yaml -n 3 --weight loss=1").stderr
    )
    before = Path("by-hand.json").read_bytes()
    again = suggest("--from runs.csv --space space.yaml -n 3 --weight loss=1 --failed hand-0002", code=2)
    assert "--failed hand-0002: its rows go to step 10, so that it has done what it was asked for" in again
    assert Path("by-hand.json").read_bytes() == before


def test_the_budget_is_kept(folder: Path) -> None:
    answer = suggest("--space space.yaml -n 8 --budget 45")
    spent = sum(run["cost"] for run in answer["runs"])
    assert spent == answer["committed"] <= 45 and answer["unfilled"] > 0
    assert suggest("--space space.yaml -n 8 --budget 45") == answer
    log(answer["runs"])
    after = suggest("--space space.yaml --from runs.csv --weight loss=1 -n 8 --budget 45")
    assert after["committed"] <= 45 and after["spent"] == spent
    forget()
    assert "A budget of 1 buys no run" in suggest("--space space.yaml --budget 1", code=2)


def test_a_budget_that_is_spent_is_said_to_be(folder: Path) -> None:
    answer = suggest("--space space.yaml -n 8 --budget 45")
    log(answer["runs"][:-1])
    line = "ray-mixopt suggest --space space.yaml --from runs.csv --weight loss=1 -n 8 --budget"
    spent, rest = sum(run["cost"] for run in answer["runs"][:-1]), answer["runs"][-1]["cost"]
    assert "The budget" not in typed(f"{line} 45").output
    less = typed(f"{line} {spent + rest / 2}").stderr
    assert f"less than the {spent:g} that suggested runs have cost and the {rest:g} that those under way will" in less
    assert f"still cost, {spent + rest:g} together: no run is suggested until" in less
    less = typed(f"{line} {spent - 1}").stderr
    assert f"The budget of {spent - 1:g} is less than the {spent:g} that suggested runs have cost: no run is" in less


def test_one_answer_has_one_best_mixture(folder: Path) -> None:
    Path("space.yaml").write_text(SPACE.replace("[a, b]", "[a, b, c, d]"))
    log(suggest("--space space.yaml -n 12")["runs"])
    line = "--space space.yaml --from runs.csv --weight loss=1 --no-continue -n"
    reasons = [run["why"] for run in suggest(f"{line} 6")["runs"] + suggest(f"{line} 8")["runs"]]
    best = [dict(re.findall(r"([abcd]) (\d+)% ->", reason)) for reason in reasons]
    assert sum(map(bool, best)) > 4 and all(len({of[d] for of in best if d in of}) <= 1 for d in "abcd"), reasons


def test_runs_go_on_unless_they_cannot(folder: Path) -> None:
    rounds = {}
    for flag in ("", "--no-continue"):
        forget()
        log(suggest(f"--space space.yaml -n 8 {flag}")["runs"])
        rounds[flag] = suggest(f"--space space.yaml --from runs.csv --weight loss=1 -n 6 {flag}")["runs"]
    goes_on = [run for run in rounds[""] if run["continues"]]
    assert goes_on and all(run["continues"] == run["run"] and run["from_step"] == 10 for run in goes_on)
    price = {"s": 1, "l": 10}
    assert all(run["cost"] == price[run["scale"]] * (run["steps"] - run["from_step"]) for run in rounds[""])
    assert not any(run["continues"] for run in rounds["--no-continue"])
    assert all("Expected to remove " in run["why"] for run in rounds[""])


def test_runs_that_will_not_go_on_are_named(folder: Path) -> None:
    runs = suggest("--space space.yaml -n 6")["runs"]
    log(runs)
    line = "--space space.yaml --from runs.csv --weight loss=1 -n 1"
    spent = sum(run["cost"] for run in runs)
    said = typed(f"ray-mixopt suggest {line} --budget {spent}").stdout  # there is nothing left to continue them with
    assert "Not to be continued any more, so that their checkpoints can go: hand-0001, hand-0002, hand-0003" in said
    assert suggest(line)["over"] == []
    assert len(suggest(f"{line} --no-continue")["over"]) >= 5  # one may be under way
    forget()
    log(suggest("--space space.yaml -n 2")["runs"], upto=20)
    assert suggest(line)["over"] == ["hand-0001", "hand-0002"]


def test_a_few_and_then_more_are_the_same_as_all_at_once(folder: Path) -> None:
    log(suggest("--space space.yaml -n 8")["runs"])
    line = "--space space.yaml --from runs.csv --weight loss=1 -n"
    state = Path("by-hand.json").read_text()
    few = suggest(f"{line} 2")["runs"]
    more = suggest(f"{line} 4")["runs"]
    Path("by-hand.json").write_text(state)
    assert [run | {"round": 2} for run in (*few, *more)] == suggest(f"{line} 4")["runs"]


# -- the state


def test_a_lost_state_is_noticed(folder: Path) -> None:
    runs = suggest("--space space.yaml -n 2")["runs"]
    log(runs[:1])
    line = "--space space.yaml --from runs.csv --weight loss=1 -n 2"
    second = suggest(line)
    log(second["runs"])
    before = suggest(line)
    Path("by-hand.json").unlink()
    said = suggest(line, code=2)
    assert "by-hand.json is gone. copy-of-by-hand.json is its copy: cp copy-of-by-hand.json by-hand.json, or" in said
    subprocess.run(shlex.split(said[said.index("cp ") : said.index(", or")]), check=True)
    assert suggest(line) == before, "though all rows of the last round are there"
    for name in ("by-hand.json", "copy-of-by-hand.json"):
        Path(name).unlink()
    said = suggest(line, code=2)
    assert "runs.csv has the run hand-0001, which the state of this search has not suggested: the state is lost" in said
    assert not Path("by-hand.json").exists()
    new = suggest(f"{line} {said[said.index('--state second') :].split(':')[0]}")
    assert names(new) == ["second-0001", "second-0002"] and new["spent"] == 0


def test_the_copy_follows_a_call_that_was_killed_before_it(folder: Path) -> None:
    suggest("--space space.yaml -n 1")
    old = Path("copy-of-by-hand.json").read_bytes()
    two = suggest("--space space.yaml -n 2")
    Path("copy-of-by-hand.json").write_bytes(old)
    assert suggest("--space space.yaml -n 2") == two
    assert Path("copy-of-by-hand.json").read_bytes() == Path("by-hand.json").read_bytes() != old


def edited(change: Any, *, honest: bool) -> str:
    state = json.loads(Path("by-hand.json").read_text())
    change(state)
    if honest:
        state["checksum"] = by_hand._checksum({key: value for key, value in state.items() if key != "checksum"})
    return json.dumps(state)


def _renamed(state: Any, prefix: str) -> None:
    """Another name for the search, and so for its runs."""
    state["prefix"] = prefix
    for run in state["runs"]:
        run["run"] = run["run"].replace("hand", prefix)


DAMAGE = {
    "torn": (lambda: Path("by-hand.json").read_text()[:-40], "is damaged. It is not JSON"),
    "empty": (lambda: "", "is damaged. It is not JSON"),
    "a list": (lambda: "[]", "it is of type list, not a JSON object"),
    "another version": (lambda: edited(lambda s: s.update(version=2), honest=True), "of version 2: this release reads"),
    "a share": (
        lambda: edited(lambda s: s["runs"][0].update(mixture={"a": 0.4, "b": 0.6}), honest=False),
        "It was changed since it was written",
    ),
    "a run less": (lambda: edited(lambda s: s["runs"].pop(), honest=False), "It was changed since it was written"),
    "an unknown field": (lambda: edited(lambda s: s.update(extra=1), honest=True), "the unknown fields extra"),
    "no runs": (lambda: edited(lambda s: s.pop("runs"), honest=True), "runs is missing"),
    "a run that is none": (lambda: edited(lambda s: s["runs"].append(1), honest=True), "run 3: it is 1, not a JSON"),
    "steps of text": (
        lambda: edited(lambda s: s["runs"][0].update(steps="10"), honest=True),
        "run 1: steps cannot be '10'",
    ),
    "backwards": (
        lambda: edited(lambda s: s["runs"][0].update(steps=0), honest=True),
        "hand-0001 goes from 0 to 0 steps",
    ),
    "a path for a name": (
        lambda: edited(lambda s: s["runs"][0].update(run="../x"), honest=True),
        "it cannot have called a run '../x'",
    ),
    "another's name": (
        lambda: edited(lambda s: s.update(prefix="foot"), honest=True),
        "it cannot have called a run 'hand-0001'",
    ),
    "a number for a prefix": (lambda: edited(lambda s: s.update(prefix=1), honest=True), "its prefix is no text"),
    "round 0": (lambda: edited(lambda s: s["runs"][0].update(round=0), honest=True), "run 1 is from step 0, round 0"),
    "round 3 after 0": (
        lambda: edited(lambda s: s["runs"][0].update(round=3), honest=True),
        "hand-0001 is of round 3, after 0",
    ),
    "a path for a prefix": (
        lambda: edited(lambda s: _renamed(s, "../x"), honest=True),
        "no run can be called after '../x'",
    ),
    "a place for a prefix": (
        lambda: edited(lambda s: _renamed(s, "/abs/path/x"), honest=True),
        "no run can be called after '/abs/path/x'",
    ),
    "known before the start": (
        lambda: edited(lambda s: s["runs"][0].update(known=[-5]), honest=True),
        "others of its mixture at [-5]",
    ),
    "no mixture": (
        lambda: edited(lambda s: s["runs"][0].update(mixture={"a": 2.0, "b": -1.0}), honest=True),
        "the mixture of hand-0001 does not sum to 1",
    ),
}


@pytest.mark.parametrize(("content", "message"), DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_state_is_refused(content: Any, message: str, folder: Path) -> None:
    suggest("--space space.yaml -n 1")
    suggest("--space space.yaml -n 2")
    Path("by-hand.json").write_text(content())
    said = suggest("--space space.yaml -n 2", code=2)
    assert message in said and "copy-of-by-hand.json is its copy: cp copy-of-by-hand.json by-hand.json" in said
    shutil.copy("copy-of-by-hand.json", "by-hand.json")
    assert names(suggest("--space space.yaml -n 2")) == ["hand-0002"]


def test_the_space_may_not_change_under_the_runs(folder: Path) -> None:
    suggest("--space space.yaml")
    Path("space.yaml").write_text(SPACE.replace("[a, b]", "[a, b, c]"))
    assert "by-hand.json has suggested hand-0001, a mixture of a, b, and the space now has the domains a, b, c" in (
        suggest("--space space.yaml", code=2)
    )
    Path("space.yaml").write_text(SPACE.replace("{name: s, cost_per_step: 1}, ", ""))
    assert "hand-0001 at scale s, and the space now has l" in suggest("--space space.yaml", code=2)
    Path("space.yaml").write_text(SPACE + "upper: {a: 0.6}")
    assert all(run["mixture"]["a"] <= 0.6 for run in suggest("--space space.yaml -n 4")["runs"])


def test_runs_far_beyond_the_rungs_are_no_runs_of_the_space(folder: Path) -> None:
    suggest("--space space.yaml")
    Path("by-hand.json").write_text(edited(lambda state: state["runs"][0].update(steps=10**15), honest=True))
    said = suggest("--space space.yaml", code=2)
    assert "has suggested hand-0001 to step 1,000,000,000,000,000, which is far beyond the last of the space" in said
    assert "now, 20: put its steps back" in said


def test_a_run_under_way_that_no_longer_keeps_to_the_limits_is_named(folder: Path) -> None:
    line = "ray-mixopt suggest --space space.yaml -n 1"
    typed(line)
    assert "keep to" not in typed(f"{line} --floor a=0.5").stderr
    said = typed(f"{line} --floor a=0.6").stderr
    assert "hand-0001 was suggested before the mixture had the limits that it has now, and does not keep to" in said
    assert "add --failed hand-0001." in said
    (new,) = suggest("--space space.yaml --floor a=0.6 --failed hand-0001")["runs"]
    assert new["mixture"]["a"] >= 0.6


def test_more_runs_than_one_call_chooses_are_refused(folder: Path) -> None:
    assert "1001 is not in the range 1<=x<=1000" in suggest("--space space.yaml -n 1001", code=2)


def test_without_anything_to_go_by(folder: Path) -> None:
    assert "There is neither a space nor a run nor a state by-hand.json: give --space FILE" in suggest(code=2)
    assert "There is no space none.yaml" in suggest("--space none.yaml", code=2)
    assert "are about old runs: give --from, too" in suggest("--space space.yaml --scale-cost s=1", code=2)
    assert "Unknown strategy 'best'" in suggest("--space space.yaml --strategy best", code=2)
    assert not Path("by-hand.json").exists()


def test_one_call_at_a_time(folder: Path) -> None:
    with by_hand.held(Path("by-hand.json")):
        assert "by-hand.json is in use: another call is about to suggest runs." in suggest("--space space.yaml", code=2)
    assert names(suggest("--space space.yaml")) == ["hand-0001"]


def test_a_link_to_a_state_is_that_state(folder: Path) -> None:
    Path("shared").mkdir()
    Path("mine.json").symlink_to("shared/ours.json")
    assert names(suggest("--space space.yaml --state mine.json -n 2")) == ["ours-0001", "ours-0002"]
    assert Path("mine.json").is_symlink() and Path("shared/copy-of-ours.json").exists()
    more = suggest("--state shared/ours.json -n 3")
    assert names(more) == ["ours-0003"] and suggest("--state mine.json -n 3") == more
    with by_hand.held(Path("mine.json")):
        assert "is in use" in suggest("--state shared/ours.json -n 3", code=2)


def test_a_state_whose_name_is_too_long_is_refused_before_anything_is_suggested(folder: Path) -> None:
    name = 240 * "x" + ".json"
    said = suggest(f"--space space.yaml --state {name}", code=2)
    assert "The state of a search also gives files their names, and 'xxx" in said and "to at most 200 bytes" in said
    assert {path.name for path in folder.iterdir()} == {"space.yaml", "job.sh.j2"}


def test_two_searches_have_one_table(folder: Path) -> None:
    log(suggest("--space space.yaml -n 2")["runs"])
    line = "--space space.yaml --from runs.csv --weight loss=1 -n 3 --state second.json"
    second = suggest(line)
    assert names(second) == ["second-0001", "second-0002", "second-0003"] and second["spent"] == 0
    log(second["runs"])
    assert suggest(line)["finished"] == 3
    assert suggest(line.replace("second.json", "by-hand.json"))["finished"] == 2
    assert "Runs are called after the file of the state, and 'a b' cannot be in a name" in suggest(
        "--space space.yaml --state 'a b.json'", code=2
    )


# -- launch files


LAUNCH = "--space space.yaml -n 3 --launch job.sh.j2 --out jobs"


def written(place: str = "jobs") -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(place).iterdir() if path.is_file()}


def test_what_a_launch_file_says(folder: Path) -> None:
    Path("space.yaml").write_text(SPACE.replace("name: s", "name: '$(rm) \"x\"'"))
    template = (
        "{% for name, share in mixture.items() %}{{ name }}={{ share }} {% endfor %}\n{{ scale | quote }} {{ steps }} "
        "{{ from_step }} {{ continues }} {{ seed }} {{ cost }} {{ round }}\n{{ folder }}\n{{ blend }}\n{{ why }}"
    )
    Path("job.sh.j2").write_text(template)
    (run, *_) = suggest(LAUNCH + " --as yaml")["runs"]
    assert run["launch"] == str(folder / "jobs" / "hand-0001-to-10.sh")
    shares, values, place, blend, why = Path(run["launch"]).read_text().splitlines()
    assert shares.split() == [f"{name}={share}" for name, share in run["mixture"].items()]
    assert shlex.split(values) == ['$(rm) "x"', "10", "0", "None", "1", "10.0", "1"]
    assert Path(place).is_dir() and place == str(folder / "jobs" / "hand-0001")
    assert blend == run["blend"] == str(folder / "jobs" / "hand-0001-to-10.blend.yaml")
    assert Path(blend).read_text().splitlines()[-2:] == ['"a": 0.500000', '"b": 0.500000']
    assert why == run["why"] and why.startswith("How good the mixture 'uniform' is at ")


def test_the_launch_file_of_a_run_that_failed_is_out_of_the_way(folder: Path) -> None:
    suggest(LAUNCH)
    Path("jobs/hand-0002-to-10.sh.id").write_text("17")
    said = typed("ray-mixopt suggest --space space.yaml -n 3 --failed hand-0002")  # without --launch, too
    place = folder / "jobs" / "hand-0002-to-10.sh.failed"
    assert f"The launch file of hand-0002, which failed, is now called {place}." in said.stderr
    assert place.read_text().startswith("train hand-0002 ") and Path("jobs/hand-0002-to-10.sh.id").exists()
    again = typed(f"ray-mixopt suggest {LAUNCH}")
    assert "is now called" not in again.stderr and "hand-0004" in again.stdout
    assert {path.name for path in Path("jobs").glob("*.sh")} == {f"hand-000{n}-to-10.sh" for n in (1, 3, 4)}
    # A state of somebody else's has nothing renamed that is not called after its runs.
    Path("precious.sh").touch()
    change = lambda state: state["runs"][0].update(failed=True, handed=str(Path("precious.sh").resolve()))  # noqa: E731
    Path("by-hand.json").write_text(edited(change, honest=True))
    suggest("--space space.yaml -n 3")
    assert Path("precious.sh").exists()


def test_blends_say_where_data_are(folder: Path) -> None:
    said = typed(f"ray-mixopt suggest {LAUNCH} --as megatron --path a=/data/a")
    assert said.exit_code == 0, said.output
    assert "No path is known for 'b': the name stands where Megatron-LM looks for data." in said.stderr
    assert Path("jobs/hand-0001-to-10.blend.txt").read_text() == "0.500000 /data/a\n0.500000 b\n"
    assert "--path says where data are, for which --as json has no place" in suggest(
        f"{LAUNCH} --as json --path a=/data/a", code=2
    )


class Killed(BaseException):
    """As if the process had ended there."""


@pytest.mark.parametrize("place", [1, 2, 3, 4, 7], ids=lambda i: f"before write {i}")
def test_a_call_that_is_killed_is_made_again(place: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray_mixopt.io import launch

    whole = suggest(LAUNCH)
    files = written()
    shutil.rmtree("jobs")
    forget()
    done = []

    def dying(module: Any) -> None:
        write = module.write_atomically

        def write_or_die(*args: Any, **options: Any) -> None:
            done.append(args)
            if len(done) == place:
                raise Killed
            write(*args, **options)

        monkeypatch.setattr(module, "write_atomically", write_or_die)

    dying(by_hand)
    dying(launch)
    with pytest.raises(Killed):
        CliRunner().invoke(main, shlex.split(f"suggest {LAUNCH}"))
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    assert suggest(LAUNCH) == whole
    assert written() == files


def test_launch_files_that_were_taken_are_not_written_again(folder: Path) -> None:
    suggest(LAUNCH)
    files = written()
    Path("jobs/hand-0002-to-10.sh").unlink()
    Path("job.sh.j2").write_text(JOB + "# corrected\n")
    said = typed(f"ray-mixopt suggest {LAUNCH}")
    assert f"Not written again, since they were taken: {folder}/jobs/hand-0002-to-10.sh" in said.stdout
    assert "hand-0002-to-10.sh" not in written() and len(written()) == len(files) - 1
    assert written()["hand-0001-to-10.sh"].endswith(b"# corrected\n")
    suggest(LAUNCH.replace("jobs", "others"))
    assert len(written("others")) == len(files)


def test_nobody_elses_file_is_written_over(folder: Path) -> None:
    suggest(LAUNCH)
    files, state = written(), Path("by-hand.json").read_bytes()
    Path("other").mkdir()
    space = SPACE.replace("[10, 20]", "[10, 30]").replace("[a, b]", "[a, c]")
    Path("other/space.yaml").write_text(space)
    line = LAUNCH.replace("space.yaml", "other/space.yaml") + " --state other/by-hand.json"
    said = suggest(line, code=2)
    assert (
        f"{folder}/jobs/hand-0001-to-10.blend.json is there already, and this search did not write what is in" in said
    )
    assert written() == files and not Path("other/by-hand.json").exists(), "nothing was suggested"
    assert names(suggest(line.replace("by-hand", "second"))) == ["second-0001", "second-0002", "second-0003"]
    mine = Path("jobs/hand-0001-to-10.sh")
    mine.write_text("#SBATCH --qos high\n" + mine.read_text())
    for wanted in (LAUNCH, LAUNCH.replace("-n 3", "-n 4")):
        said = suggest(wanted, code=2)
        assert f"{mine.resolve()} is there already" in said and "move it away once it is submitted" in said
    assert mine.read_text().startswith("#SBATCH") and Path("by-hand.json").read_bytes() == state
    mine.rename("taken.sh")
    assert names(suggest(LAUNCH.replace("-n 3", "-n 4"))) == ["hand-0004"] and not mine.exists()


FILLED = "cannot be filled in for hand-0001: "
TEMPLATES = {
    "an unknown variable": (
        "{{ setps }} {{ from_step }}",
        "job.sh.j2 uses setps, which no run has: known are run, mix",
    ),
    "a mistake": ("{{ from_step }}\n{% if %}", "job.sh.j2, line 2: "),
    "an unknown filter": ("{{ from_step | upside }}", "job.sh.j2, line 1: No filter named 'upside'"),
    "another file": ("{{ run }} {{ from_step }}{% include '/etc/passwd' %}", "job.sh.j2, line 1: a template is one"),
    "a parent": ("{{ run }}\n{% extends 'a' %}{{ from_step }}", "job.sh.j2, line 2: a template is one file"),
    "nested": ("{{ " + 3000 * "(" + "run" + 3000 * ")" + " }}", "job.sh.j2, line 1: it is nested too deeply"),
    "chance": ("{{ run }} {{ from_step }} {{ [1, 2] | random }}", "job.sh.j2, line 1: No filter named 'random'"),
    "chance in words": ("{{ run }} {{ from_step }} {{ lipsum() }}", "job.sh.j2 uses lipsum, which no run has"),
    "much": ("{{ run }} {{ from_step }} {{ 'x' * 10**7 }}", FILLED + "it makes a file of 10 MiB, more than 1 MiB"),
    "more": ("{{ run }} {{ from_step }} {{ run * 10**9 }}", FILLED + "it takes more than 1,024 MiB"),
    "wide": ("{{ run }} {{ '%1000000000d' % from_step }}", FILLED + "it takes more than 1,024 MiB"),
    "loops": (
        "{{ run }}{% for i in range(99999) %}{% for j in range(99999) %}{{ '' if from_step }}{% endfor %}{% endfor %}",
        FILLED + "it takes more than 1 s or 1,024 MiB: it loops",
    ),
    "an unknown domain": ("{{ run }} {{ from_step }}{{ mixture.c }}", FILLED + "'dict object' has no attribute 'c'"),
    "nothing to divide by": ("{{ run }} {{ steps / from_step }}", FILLED + "division by zero"),
    "a way out": ("{{ run }} {{ from_step.__class__.__mro__ }}", FILLED + "access to attribute '__class__'"),
    "without end": ("{{ run }} {% for i in range(10**9) %}{{ from_step }}{% endfor %}", FILLED + "Range too big"),
    "no going on": ("{{ run }}", "uses neither from_step nor continues, so that a run that is to go on would begin"),
    "nothing of a run": (
        "train {{ scale }} {{ steps }} {{ from_step }}",
        "job.sh.j2 uses none of blend, mixture, run, ",
    ),
    "no text": (b"\xff", "job.sh.j2 is not text in UTF-8"),
    "a huge one": (b" " * (2**20 + 1), "which is more than the 1 MiB that are read"),
}


@pytest.mark.parametrize(("template", "message"), TEMPLATES.values(), ids=TEMPLATES.keys())
def test_templates_that_will_not_do(
    template: str | bytes, message: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filling, "SECONDS", 1)
    Path("job.sh.j2").write_bytes(template if isinstance(template, bytes) else template.encode())
    assert message in suggest(LAUNCH, code=2)
    assert not Path("by-hand.json").exists(), "nothing was suggested"
    assert not Path("jobs").exists() or written() == {}


def test_what_cannot_be_written(folder: Path) -> None:
    assert "There is no template none.j2" in suggest(LAUNCH.replace("job.sh.j2", "none.j2"), code=2)
    for part, message in (
        ("--launch job.sh.j2", "--launch job.sh.j2 makes launch files: say where to write them, --out FOLDER."),
        (
            "--out jobs",
            "--out jobs says where each launch file is written, and there is none: give --launch TEMPLATE, too",
        ),
        (
            "--as yaml",
            "--as yaml says how the blend next to each launch file is written, and there is none: give --launch",
        ),
    ):
        said = " ".join(suggest(f"--space space.yaml {part}", code=2).split())
        assert message in said
    assert "/proc/none: " in suggest(LAUNCH.replace("jobs", "/proc/none"), code=2)
    assert "There is no folder none for the state of the search: make it, or change --state." in suggest(
        "--space space.yaml --state none/by-hand.json", code=2
    )
    assert not Path("by-hand.json").exists()
    Path("space.yaml").write_text(SPACE.replace("name: s", 'name: "s\\nrm"'))
    assert r"'s\nrm' holds characters that cannot be printed" in suggest(LAUNCH, code=2)


def test_ctrl_c_says_how_to_go_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray_mixopt.optimizer import MixtureOptimizer

    def interrupted(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(MixtureOptimizer, "propose", interrupted)
    result = typed(f"ray-mixopt suggest {LAUNCH}")
    assert result.exit_code == 130
    assert "Interrupted: the same command goes on. What was suggested so far stays so, and is not" in result.output
    assert not Path("by-hand.json").exists()


def _call(number: int, told: Any) -> None:
    result = typed(f"ray-mixopt suggest --json --space space.yaml -n {number}")
    told.put((result.exit_code, result.output if result.exit_code else result.stdout))


def test_two_calls_at_once_hand_out_no_run_twice(folder: Path) -> None:
    processes = multiprocessing.get_context("fork")
    told = processes.SimpleQueue()
    calls = [processes.Process(target=_call, args=(number, told)) for number in (3, 5)]
    for call in calls:
        call.start()
    answers = []
    for code, text in [told.get() for _ in calls]:
        assert code == 0 or "by-hand.json is in use" in text, text
        answers += [json.loads(text)] if code == 0 else []
    for call in calls:
        call.join()
    state = by_hand.read(Path("by-hand.json"))
    assert answers and state is not None
    kept = {(run.run, *run.mixture.values()) for run in state.runs}
    heard = {(run["run"], *run["mixture"].values()) for answer in answers for run in answer["runs"]}
    assert heard <= kept and len({run for run, *_ in kept}) == len(kept) and len(kept) in (3, 5)


@pytest.mark.parametrize("scales", [["S"], ["S", "l"]], ids=" and ".join)
def test_a_scale_by_another_name_is_to_be_corrected(scales: list[str], folder: Path) -> None:
    sized = SPACE.replace("step: 10}", "step: 10, parameters: 10}").replace("step: 1}", "step: 1, parameters: 1}")
    Path("space.yaml").write_text(sized)
    rows = [{"scale": scale, "step": 10, "mixture/a": 0.5, "mixture/b": 0.5, "loss": 1.0} for scale in scales]
    pd.DataFrame(rows).to_csv("runs.csv", index=False)
    said = suggest("--space space.yaml --from runs.csv", code=2)
    assert "has s, l" in said and "correct the name if it is one of these" in said
    assert said.index("correct the name") < said.index("--scale-parameters" if len(scales) == 1 else "--scale-cost")


def test_known_noise_reaches_the_search(folder: Path) -> None:
    assert "--run-noise is METRIC=DEVIATION, for instance loss=0.01" in suggest(
        "--space space.yaml --run-noise loss", code=2
    )
    asked = "--space space.yaml --weight loss=1 -n 3"
    log(suggest(asked + " --run-noise loss=0.1")["runs"])
    again = f"{asked} --from runs.csv --run-noise"
    assert "noise is said of lose, and the search heeds loss" in suggest(f"{again} lose=0.1", code=2)
    assert len(suggest(f"{again} loss=0.1")["runs"]) == 3

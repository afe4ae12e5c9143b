"""History: events, money, views, and a JSON state that refuses damage."""

from __future__ import annotations

import base64
import json
import math
import re
import struct

import pytest

from ray_mixopt.core.history import History, Trial

W = (0.2, 0.3, 0.5)


@pytest.fixture
def history(space) -> History:
    """Two trials: "a" at 20M to 900 steps, "b" at 1B to 12,000."""
    history = History(space)
    history.add(Trial(trial_id="a", mixture=W, scale="20M", steps=900))
    history.add(Trial(trial_id="b", mixture=W, scale="1B", steps=12000))
    return history


def test_reports_arrive_in_any_order(history) -> None:
    assert history.observe("b", 300, {"value": 2.0})
    assert history.observe("a", 100, {"value": 3.0})
    assert history.observe("b", 100, {"value": 2.5})
    assert history.arrivals == [("b", 300), ("a", 100), ("b", 100)]
    assert history["b"].reached == 300


def test_repeated_reports_are_counted_and_dropped(history) -> None:
    assert history.observe("a", 100, {"value": 3.0})
    assert not history.observe("a", 100, {"value": 9.0})
    assert not history.observe("a", 100.0, {"value": 9.0})
    assert history["a"].observations == {100: {"value": 3.0}}
    assert (history.n_duplicates, len(history.arrivals)) == (2, 1)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e10, -1e300])
def test_nan_and_inf_mark_a_run_as_diverged(history, value) -> None:
    history.observe("a", 100, {"loss": 3.0, "accuracy": value})
    assert history["a"].status == "diverged"
    assert history["a"].observations == {100: {"loss": 3.0}}
    assert history.n_missing == 0


def test_reports_without_metrics_are_counted(history) -> None:
    history.observe("a", 100, {})
    assert history.n_missing == 1
    assert history["a"].status == "running"


@pytest.mark.parametrize("step", [0, -100, 0.5, 100.5, math.nan])
def test_bad_steps_are_refused(history, step) -> None:
    with pytest.raises(ValueError, match=r"Trial 'a' reported step .*: steps are whole numbers, counted from 1"):
        history.observe("a", step, {"value": 1.0})
    assert history["a"].observations == {}


def test_unknown_trials_are_refused(history) -> None:
    with pytest.raises(ValueError, match="Unknown trial 'z': ask for it, or add it as an evaluated point"):
        history.observe("z", 100, {"value": 1.0})


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"trial_id": "a"}, "Trial 'a' exists already: every run needs an id of its own"),
        ({"mixture": (0.5, 0.5)}, "needs 3 shares"),
        ({"scale": "7B"}, "Unknown scale '7B'"),
    ],
)
def test_bad_trials_are_refused(history, fields, sentence) -> None:
    with pytest.raises(ValueError, match=sentence):
        history.add(Trial(**{"trial_id": "c", "mixture": W, "scale": "20M", "steps": 100, **fields}))
    assert len(history) == 2


def test_money_counts_the_steps_seen_and_commits_those_to_come(history) -> None:
    assert history.spent == 0
    assert history.committed == pytest.approx(900 * 0.01 + 12000 * 1.0)
    history.observe("a", 900, {"value": 3.0})
    history.observe("b", 6000, {"value": 2.0})
    assert history.spent == pytest.approx(9 + 6000)
    assert history.spent_by_scale() == {"20M": pytest.approx(9), "150M": 0.0, "1B": pytest.approx(6000)}
    assert history.committed == pytest.approx(9 + 12000)
    history["b"].status = "failed"  # what it did not reach will not be paid
    assert history.committed == pytest.approx(9 + 6000)


def test_points_given_to_the_search_are_free(history) -> None:
    history.add(Trial(trial_id="given", mixture=W, scale="1B", steps=19700, status="done", evaluated=True))
    history.observe("given", 19700, {"value": 1.0})
    assert history.spent == 0
    assert history.spent_by_scale()["1B"] == 0


def test_pending_and_paused(history) -> None:
    assert [t.trial_id for t in history.pending()] == ["a", "b"]
    history.observe("a", 900, {"value": 3.0})
    assert [t.trial_id for t in history.pending()] == ["b"]
    history["a"].status = "paused"
    assert [t.trial_id for t in history.paused()] == ["a"]
    assert history.mixtures().tolist() == [list(W), list(W)]
    assert History(history.space).mixtures().shape == (0, 3)


# -- state


def filled(history: History) -> History:
    history.observe("a", 100, {"loss": 0.1 + 0.2, "accuracy": 1 / 3})
    history.observe("b", 100, {"loss": math.nan})
    history.observe("a", 100, {"loss": 1.0})
    history["a"].acquisition = 1e-5 / 3
    history.n_asked = 2
    return history


def test_json_round_trip_is_exact(history) -> None:
    state = filled(history).state_dict()
    text = json.dumps(state, allow_nan=False)
    again = History.from_state_dict(json.loads(text))
    assert again.state_dict() == state
    assert again.trials == history.trials
    assert list(again.trials) == list(history.trials)
    assert (again.space, again.arrivals, again.n_asked) == (history.space, history.arrivals, 2)
    assert (again.n_duplicates, again.n_missing) == (1, 0)


def test_the_state_does_not_change_with_the_history(history) -> None:
    state = filled(history).state_dict()
    before = json.dumps(state)
    history.observe("a", 300, {"loss": 1.0})
    history["a"].status = "failed"
    assert json.dumps(state) == before


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda s: s.update(version=99), "Cannot read a history of version 99: this release reads 1"),
        (lambda s: s.pop("trials"), "Malformed history: KeyError"),
        (lambda s: s.update(trials=None), "Malformed history: TypeError"),
        (lambda s: s["trials"][0].pop("mixture"), "Malformed history: KeyError"),
        (lambda s: s["trials"][0].update(colour="red"), "unknown fields .*colour"),
        (lambda s: s["trials"][0].update(status="asleep"), "the unknown status 'asleep'"),
        (lambda s: s["trials"].append(s["trials"][0]), "Trial 'a' exists already"),
        (lambda s: s["trials"][0].update(acquisition=math.nan), "acquisition of trial 'a' must be a finite number"),
        (lambda s: s["trials"][0].update(acquisition="1"), "acquisition of trial 'a' must be a number, got '1'"),
        (lambda s: s["trials"][0]["mixture"].__setitem__(0, "0.2"), "A share of trial 'a' must be a number"),
        (lambda s: s["trials"][0]["observations"][0][1].update(loss="3.0"), "metrics, 'loss', must be a number"),
        (lambda s: s["trials"][0]["observations"][0][1].update(loss=True), "metrics, 'loss', must be a number"),
        (lambda s: s["trials"][0]["observations"].append([100, {}]), "trial 'a' has two observations at step 100"),
        (lambda s: s["trials"][0].update(steps=True), "The rung of trial 'a' must be a whole number >= 1, got True"),
        (lambda s: s["trials"][0].update(noise={"loss": -1}), "a noise that is no standard deviation"),
        (lambda s: s.update(version=True), "Cannot read a history of version True"),
        (lambda s: s.update(version=1.0), "Cannot read a history of version 1.0"),
        (lambda s: s.update(n_duplicates=-1), "n_duplicates must be a whole number >= 0, got -1"),
        (lambda s: s.update(n_missing=1.0), "n_missing must be a whole number >= 0, got 1.0"),
        (lambda s: s.update(n_asked=0, n_apart=0), "it has 2 trials, but says that 0 were asked for"),
        (lambda s: s["arrivals"].pop(), "Inconsistent history: its arrivals do not match"),
        (lambda s: s["arrivals"].append(s["arrivals"][0]), "Inconsistent history: its arrivals do not match"),
        (lambda s: s["space"].update(version=5), "Cannot read a space of version 5"),
    ],
)
def test_damaged_states_are_refused(history, damage, sentence) -> None:
    state = json.loads(json.dumps(filled(history).state_dict()))
    damage(state)
    with pytest.raises(ValueError, match=sentence):
        History.from_state_dict(state)


def long_run(history: History, n: int = 1200) -> History:
    """A run that reports often, now and then without one of two metrics."""
    for step in range(1, n + 1):
        history.observe("a", step, {"loss": 1 / step}, {"other": 0.1 * step} if step % 7 else {})
    history.n_asked = 2
    return history


INFINITIES = base64.b64encode(struct.pack("<d", math.inf) * 1200).decode()


def test_many_reports_are_packed(history) -> None:
    state = long_run(history).state_dict()
    assert state["version"] == 2 and History(history.space).state_dict()["version"] == 1
    text = json.dumps(state)
    assert len(text) < 60 * 1200, "half of what it takes to write them out"
    again = History.from_state_dict(json.loads(text))
    assert again["a"].observations == history["a"].observations
    assert again.metrics == history.metrics == ("loss", "other")
    assert again.state_dict() == state
    assert history.observe("a", 5000, {"loss": 0.1})
    assert History.from_state_dict(history.state_dict())["a"].observations[5000] == {"loss": 0.1}
    assert history.copy().state_dict() == history.state_dict()


def test_many_numbers_are_packed_and_many_gaps_are_not(history) -> None:
    for step in range(1, 21):
        history.observe("a", step, {f"m{i}": 1.0 + i for i in range(21)})  # few reports of many metrics
        history.observe("b", step, {f"m{step}": 1.0})
    for step in range(21, 401):
        history.observe("b", step, {f"m{step}": 1.0})  # of which a table would be a number in 400
    history.n_asked = 2
    a, b = (entry["observations"] for entry in history.state_dict()["trials"])
    assert set(a) == {"steps", "metrics"} and b[:2] == [[1, {"m1": 1.0}], [2, {"m2": 1.0}]]
    again = History.from_state_dict(json.loads(json.dumps(history.state_dict())))
    assert [trial.observations for trial in again] == [trial.observations for trial in history]


def test_who_reports_often_is_told(history, caplog) -> None:
    long_run(history)
    for step in range(1, 1100):
        history.observe("b", step, {"loss": 1.0})
    assert caplog.text.count("has reported 1000 times") == caplog.text.count("Trial 'a' has reported") == 1
    assert "Reports at the rungs (100, 300, 500, 700, 900, 6000, 12000, 19700) are enough" in caplog.text


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda o: o["steps"].__setitem__(1, 1), "two observations at one step"),
        (lambda o: o["steps"].__setitem__(1, True), "A step of trial 'a' must be a whole number"),
        (lambda o: o["steps"].pop(), "metric 'loss', has 9600 bytes, not 8 for each of 1199 steps"),
        (lambda o: o["metrics"].update(loss=1.0), "metric 'loss', is packed as float, not as text"),
        (lambda o: o["metrics"].update(loss="?" * 12800), "metric 'loss', is no base64"),
        (lambda o: o["metrics"].update(loss=INFINITIES), "metric 'loss', holds an infinity"),
        (lambda o: o.pop("metrics"), "neither a list nor packed"),
        (lambda o: o.update(metrics=[]), "packed metrics that have no names"),
    ],
)
def test_damaged_packed_reports_are_refused(history, damage, sentence) -> None:
    state = json.loads(json.dumps(long_run(history).state_dict()))
    damage(state["trials"][0]["observations"])
    with pytest.raises(ValueError, match=sentence):
        History.from_state_dict(state)


@pytest.mark.parametrize("state", [None, [], {}])
def test_what_is_no_history_is_refused(state) -> None:
    with pytest.raises(ValueError, match="Cannot read a history"):
        History.from_state_dict(state)


def test_what_befell_a_search_is_kept(space) -> None:
    history = History(space)
    assert "incidents" not in history.state_dict() and "unkept" not in history.state_dict()
    for number in range(120):
        history.note(f"The disk was full, number {number}.")
    history.unkept = 2.5
    again = History.from_state_dict(json.loads(json.dumps(history.state_dict())))
    assert again.unkept == 2.5 and again.incidents == history.incidents and len(again.incidents) == 100
    assert re.fullmatch(r"20..-..-.. ..:..:.. UTC: The disk was full, number 119\.", again.incidents[-1])
    other = history.copy()
    history.note("later")
    assert len(other.incidents) == 100 and other.incidents[-1] != history.incidents[-1]


@pytest.mark.parametrize("unkept", [-1.0, math.nan, math.inf, "much"])
def test_the_cost_of_what_was_not_kept_is_a_cost(space, unkept) -> None:
    with pytest.raises(ValueError):
        History.from_state_dict(History(space).state_dict() | {"unkept": unkept})


def test_what_was_asked_for_in_vain_is_withdrawn(history) -> None:
    before = history.state_dict()
    history.add(Trial(trial_id="c", mixture=W, scale="20M", steps=100))
    history.withdraw(history.asked(history["c"], None, counts=True))
    assert history.state_dict() == before
    history.observe("a", 900, {"loss": 3.0})
    history.finish("a")
    before = history.state_dict()
    history.withdraw(history.asked(history.resume("a", 6000), 900, counts=False))
    assert history.state_dict() == before and history["a"].status == "paused"


def test_what_others_were_asked_for_after_is_lost_rather_than_withdrawn(history) -> None:
    taken, history.n_asked = [], 2
    for name in "cde":
        history.add(Trial(trial_id=name, mixture=W, scale="20M", steps=100))
        taken.append(history.asked(history[name], None, counts=True))
    history.observe("d", 100, {"loss": 3.0})
    n = history.n_asked
    for asked in taken:
        history.withdraw(asked)
    assert [run.status for run in history][-2:] == ["lost", "lost"] and "e" not in history.trials
    assert history["d"].observations and history.n_asked == n - 1
    history.observe("a", 900, {"loss": 3.0})
    history.finish("a")
    asked = history.asked(history.resume("a", 6000), 900, counts=True)
    history.observe("a", 6000, {"loss": 2.0})
    history.withdraw(asked)  # somebody ran it all the same
    assert history["a"].status == "lost" and history["a"].reached == 6000
    restored = History.from_state_dict(json.loads(json.dumps(history.state_dict())))
    assert restored.state_dict() == history.state_dict()


def test_a_run_stays_as_it_ended(history) -> None:
    for how, status in (({"failed": True}, "failed"), ({"lost": True}, "lost"), ({"continuable": False}, "done")):
        history.observe("a", 100, {"loss": 3.0})
        history.finish("a", **how)
        for late in ({}, {"failed": True}, {"lost": True}):
            history.finish("a", **late)
            if status == "done" and late:  # its end failed after all
                status = next(iter(late))
            assert history["a"].status == status
        history["a"].status = "running"


def test_given_runs_are_over(history) -> None:
    history.add(Trial(trial_id="given", mixture=W, scale="20M", steps=100, status="done", evaluated=True))
    history.observe("given", 100, {"loss": 3.0})
    with pytest.raises(ValueError, match="Trial 'given' was made elsewhere and given to the search: it is over"):
        history.finish("given")
    state = history.state_dict() | {"n_asked": 2}
    state["trials"][-1]["status"] = "paused"  # which earlier releases let happen
    assert History.from_state_dict(state)["given"].status == "done"


def test_names_that_are_free(history) -> None:
    history.add(Trial(trial_id="trial_00003", mixture=W, scale="20M", steps=100))
    assert history.free_name("trial") == "trial_00004" and history.free_name("evaluated") == "evaluated_00003"


def test_a_run_is_tried_again_unless_it_is_over_for_good(history) -> None:
    history.observe("a", 100, {"loss": 3.0})
    for how in ({"failed": True}, {"lost": True}, {}):
        history.finish("a", **how)
        assert history.retry("a").status == "running" and history["a"].pending
    history.finish("a", continuable=False)
    with pytest.raises(ValueError, match="Trial 'a' is done: it cannot be tried again"):
        history.retry("a")

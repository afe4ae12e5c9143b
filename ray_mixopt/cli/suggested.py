"""What ``ray-mixopt suggest`` prints."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ray_mixopt.core.words import by_phase, counted

if TYPE_CHECKING:
    from ray_mixopt.core.space import MixtureSpace
    from ray_mixopt.io.bookkeeping import Books
    from ray_mixopt.io.by_hand import AskedRun, ByHand
    from ray_mixopt.io.launch import LaunchFile

_ROUNDING = 1e-9  # of sums of costs
_MOST_NAMED = 10  # runs that are over


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What is printed.

    Attributes:
        latest: number of the last round.
        runs: under way, in order; each is described by a mapping.
        spent: cost of what suggested runs have shown.
        committed: that, and what is under way will still cost.
        budget: most to spend; None for no limit.
        finished: how many of the runs that were suggested, goings-on included, are at their rung and did not diverge.
        failed: names of those that diverged, or were said to have failed.
        over: names of runs that no later call will continue, with this budget.
        unfilled: how many more runs were asked for.
        kept_back: paths of launch files that somebody has taken.
    """

    latest: int
    runs: tuple[Mapping[str, Any], ...]
    spent: float
    committed: float
    budget: float | None
    finished: int
    failed: tuple[str, ...]
    over: tuple[str, ...]
    unfilled: int
    kept_back: tuple[str, ...]

    @classmethod
    def of(
        cls,
        search: ByHand,
        books: Books,
        *,
        number: int,
        space: MixtureSpace,
        budget: float | None,
        continues: bool,
        branches: bool,
        files: Sequence[LaunchFile],
    ) -> Answer:
        """The answer that a search and its books give.

        Args:
            search: with the runs suggested so far.
            books: of what they have shown.
            number: of runs that are to be under way.
            space: the search space.
            budget: most to spend.
            continues: whether runs at their rung can go on.
            branches: whether others can begin at their checkpoints.
            files: the launch files.
        """
        from ray_mixopt.core.problem import may_go_on

        history = books.history(continues=continues)
        left = math.inf if budget is None else budget - history.spent
        launched = {(file.run.run, file.run.steps): file for file in files}
        names = dict.fromkeys(run.run for run in search.runs)
        states = {name: books.status(name) for name in names}
        return cls(
            latest=search.latest,
            runs=tuple(_described(run, books, space, launched.get((run.run, run.steps))) for run in books.under_way()),
            spent=history.spent,
            committed=history.committed,
            budget=budget,
            finished=len(books.finished()),
            failed=tuple(name for name, state in states.items() if state in ("failed", "diverged")),
            over=tuple(name for name in names if not may_go_on(history[name], space, left, branches)),
            unfilled=max(number - len(books.under_way()), 0),
            kept_back=tuple(str(file.path) for file in files if file.taken),
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        new = [run for run in self.runs if run["round"] == self.latest]
        return {
            "round": self.latest,
            "runs": new,
            "under_way": [run for run in self.runs if run["round"] != self.latest],
            "finished": self.finished,
            "failed": list(self.failed),
            "over": list(self.over),
            "unfilled": self.unfilled,
            "spent": self.spent,
            "committed": self.committed,
            "budget": self.budget,
        }

    @property
    def _nothing_more(self) -> str:
        """Why there are not as many runs as asked for, in words."""
        if self.budget is None:
            return "no further run is worth its cost"
        left = max(self.budget - self.committed, 0.0)
        return f"no further run that is worth its cost is to be had for the {left:.6g} that are left of the budget"

    @property
    def warnings(self) -> list[str]:
        """That the budget is less than the suggested runs cost; empty if it is not."""
        rest = self.committed - self.spent
        if self.budget is None or self.committed <= self.budget * (1 + _ROUNDING):
            return []
        text = f"The budget of {self.budget:.6g} is less than the {self.spent:.6g} that suggested runs have cost"
        if self.spent <= self.budget:
            text += f" and the {rest:.6g} that those under way will still cost, {self.committed:.6g} together"
        return [f"{text}: no run is suggested until --budget is raised."]

    def __str__(self) -> str:
        money = f"{self.spent:.6g} spent, {self.committed - self.spent:.6g} under way"
        if self.budget is not None:
            money += f", {max(self.budget - self.committed, 0.0):.6g} of {self.budget:.6g} left"
        lines = [f"Round {self.latest}: {money}; {counted(self.finished, 'run')} finished, {len(self.failed)} failed."]
        new = [run for run in self.runs if run["round"] == self.latest]
        if new:
            lines += ["", f"Suggested in round {self.latest}, and under way:"]
        for run in new:
            begins = f"goes on from {run['parent']}, " if run["parent"] else "goes on, " if run["continues"] else ""
            steps = f"{run['from_step']} to {run['steps']}" if begins else f"{run['steps']}"
            lines += [
                "",
                f"{run['run']}: {begins}{run['scale']}, {steps} steps, cost {run['cost']:.6g}",
                *(
                    f"  {phase and f'{phase}: '}{_in_a_row(shares)}"
                    for phase, shares in by_phase(run["mixture"]).items()
                ),
                f"  {run['why']}",
            ]
            if run["seen"] > run["from_step"]:
                lines.append(f"  Seen up to step {run['seen']}")
            if run["launch"]:
                lines.append(f"  {run['launch']}")
        others = [run for run in self.runs if run["round"] != self.latest]
        if others:
            lines += ["", "Under way since earlier rounds:"]
            lines += [f"  {run['run']}, seen up to step {run['seen']} of {run['steps']}" for run in others]
        if self.unfilled:
            asked, there = self.unfilled + len(self.runs), len(self.runs)
            lines += ["", f"{counted(there, 'run')} under way, and not the {asked} of -n: {self._nothing_more}."]
        if self.over:
            more = f" and {len(self.over) - _MOST_NAMED} more" if len(self.over) > _MOST_NAMED else ""
            names = ", ".join(self.over[:_MOST_NAMED])
            lines += ["", f"Not to be continued any more, so that their checkpoints can go: {names}{more}"]
        if self.kept_back:
            lines += ["", f"Not written again, since they were taken: {', '.join(self.kept_back)}"]
        return "\n".join(lines)


def _in_a_row(shares: Mapping[str, float]) -> str:
    from ray_mixopt.io.blends.base import decimal, rounded

    return "  ".join(f"{name} {decimal(share)}" for name, share in rounded(shares).items())


def _described(run: AskedRun, books: Books, space: MixtureSpace, file: LaunchFile | None) -> dict[str, Any]:
    return {
        "run": run.run,
        "round": run.round,
        "mixture": dict(run.mixture),
        "scale": run.scale,
        "steps": run.steps,
        "from_step": run.from_step,
        "continues": run.run if run.start else None,
        "parent": run.parent or None,
        "cost": run.cost(space),
        "why": run.why,
        "seen": books.reached(run.run),
        "launch": None if file is None else str(file.path),
        "blend": None if file is None else str(file.blend),
    }

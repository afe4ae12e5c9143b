"""The rungs of the paper's algorithm: short runs for its initial design, then three lengths to search over."""

from __future__ import annotations

PAPER_RUNGS = (*range(100, 1000, 100), 6000, 12000, 19700)


def paper_rungs(target_steps: int) -> tuple[int, ...]:
    """The paper's rungs, in proportion to the training steps of the target."""
    return tuple(sorted({max(1, round(rung * target_steps / PAPER_RUNGS[-1])) for rung in PAPER_RUNGS}))

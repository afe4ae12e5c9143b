"""The learning rate: warm-up, then constant, whatever the run's length; a decay at the end of the final run only."""

from __future__ import annotations

from ray_mixopt.pretraining.settings import Run


def learning_rate(run: Run, step: int) -> float:
    """Rate of the step that follows ``step`` steps."""
    optimization = run.optimization
    rate = optimization.learning_rate
    if step < optimization.warmup_steps:
        rate *= (step + 1) / optimization.warmup_steps
    if run.decay is not None:
        done = (step + 1 - (run.steps - run.decay.steps)) / run.decay.steps
        rate *= 1 - (1 - run.decay.final_share) * max(0.0, done)
    return rate

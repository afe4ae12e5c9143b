"""How long the training of a search will take: by the operations that devices do, at a share that is assumed."""

from __future__ import annotations

import os
import time
from typing import Any

from ray_mixopt.pretraining.config import PretrainConfig

_TIMED_SECONDS = 1.0


def device_speed(config: PretrainConfig) -> tuple[float, str] | None:
    """Floating-point operations a second that a worker is expected to do, and where that is known from.

    With the ``peak_flops`` of a device it is the assumed share of them. Else, where workers have no GPUs, it is what
    the smallest model does here, now, on one core. None where nothing is known.
    """
    execution = config.scale(config.target_scale).execution or config.execution
    if execution.peak_flops is not None:
        basis = f"at {config.assumed_mfu:.0%} of {execution.peak_flops:.3g} operations a second, which is assumed"
        return config.assumed_mfu * execution.peak_flops, basis
    if any(scale.resources.gpus_per_worker for scale in config.scales):
        return None
    small = min(config.scales, key=lambda scale: config.model_cost(scale).parameters)
    needed = config.model_cost(small).memory_bytes(small.execution or config.execution, workers=1)
    if needed > os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"):
        return None
    return _measured(config, small.name), f"at the speed that {small.name} has here on one core"


def estimate(config: PretrainConfig, speed: tuple[float, str] | None) -> dict[str, Any]:
    """What the training takes, without validation, the start of workers and decisions; JSON-able.

    Args:
        config: of the search.
        speed: of a worker, see ``device_speed``; with ``cost: seconds`` it is not asked.

    Returns:
        ``basis`` in words; ``workers`` at a time; ``device_hours`` and ``hours`` of the whole budget, and ``run_hours``
        of the longest run by scale, where they are known.
    """
    target, space = config.scale(config.target_scale), config.space
    room = config.cluster
    if room is None and not any(scale.resources.gpus_per_worker for scale in config.scales):
        room = {"CPU": float(os.cpu_count() or 1)}
    at_a_time = target.resources.workers
    if config.search.concurrency is not None:
        at_a_time *= config.search.concurrency
    elif room is not None:
        at_a_time = max(at_a_time, target.resources.fitting([room]))
    if config.cost == "seconds":
        seconds = {scale.name: 1.0 for scale in config.scales}
        basis = "by the seconds_per_step given"
        device_seconds = config.budget * target.resources.workers
    elif speed is not None:
        seconds = {scale.name: 1 / (speed[0] * scale.resources.workers) for scale in config.scales}
        basis = speed[1]
        device_seconds = config.budget / speed[0]
    else:
        return {"basis": None, "workers": at_a_time, "device_hours": None, "hours": None, "run_hours": {}}
    longest = {scale.name: space.cost(scale.name, space.rungs(scale.name)[-1]) for scale in config.scales}
    return {
        "basis": basis,
        "workers": at_a_time,
        "device_hours": device_seconds / 3600,
        "hours": device_seconds / 3600 / at_a_time,
        "run_hours": {name: cost * seconds[name] / 3600 for name, cost in longest.items()},
    }


def _measured(config: PretrainConfig, scale: str) -> float:
    """Operations a second in training a scale's model on one sequence at a time, on one core of this machine."""
    import torch

    from ray_mixopt.pretraining.training import model

    settings = config.scale(scale)
    size = min(config.batch(scale) // config.sequence_length, (settings.execution or config.execution).micro_batch)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            network = model.build(settings.model_shape, config.manifest.tokenizer.vocab_size, config.sequence_length)
        windows = torch.zeros(max(1, size), config.sequence_length + 1, dtype=torch.long)
        begun, passes = 0.0, 0
        while not passes or time.perf_counter() - begun < _TIMED_SECONDS:
            model.token_losses(network, windows)[0].mean().backward()
            if not begun:  # the first pass is slower than all others
                begun = time.perf_counter()
                continue
            passes += 1
        seconds = time.perf_counter() - begun
    finally:
        torch.set_num_threads(threads)
    n_tokens = passes * windows.shape[0] * config.sequence_length
    return config.model_cost(settings).flops_per_token * n_tokens / seconds

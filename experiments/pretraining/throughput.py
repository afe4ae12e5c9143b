"""Tokens a second of our training loop beside a plain one around `transformers`, in turns, on one core.

The plain loop is what one would write in an afternoon: Olmo2ForCausalLM, cross-entropy and z-loss of its scores, AdamW,
clipped gradients, windows read from the shard in order. Ours reads ahead in a thread, deals out domains, and looks for
losses that are not finite. Blocks of steps alternate, so that whatever else the machine does meets both.

    ray-mixopt prepare data/demo --demo
    python experiments/pretraining/throughput.py --scale nano

It prints the median of each, and the median ratio of neighbouring blocks with its quartiles, by the clock and by the
time that processors spent, which a busy machine disturbs less.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import torch
from torch.nn import functional
from transformers import Olmo2ForCausalLM

from ray_mixopt.pretraining.config import PretrainConfig
from ray_mixopt.pretraining.training import model
from ray_mixopt.pretraining.training.loop import Loop
from ray_mixopt.pretraining.training.train import open_data
from ray_mixopt.pretraining.training.workers import Workers

HERE = Path(__file__).parent


def plain_loop(settings: PretrainConfig, scale: str) -> Callable[[int], None]:
    """Trains so many steps more, as simply as can be."""
    run = settings.run(settings.space.named(settings.space.uniform()), scale, settings.rungs(scale)[-1])
    corpus, _, _ = open_data(run)
    stream = corpus.stream(next(iter(run.mixture)), "train")
    torch.manual_seed(run.seed)
    built = model.build(run.shape, corpus.manifest.tokenizer.vocab_size, run.sequence_length)
    network = Olmo2ForCausalLM(built.config)
    optimizer = torch.optim.AdamW(network.parameters(), lr=run.optimization.learning_rate, weight_decay=0.1)
    size, done = min(run.execution.micro_batch, run.batch_sequences), 0

    def advance(n_steps: int) -> None:
        nonlocal done
        for _ in range(n_steps):
            for _ in range(run.batch_sequences // size):
                first = done * (run.sequence_length + 1)
                length = run.sequence_length + 1
                windows = stream.read(first, size * length).reshape(size, length)
                batch = torch.from_numpy(windows)
                scores = network(input_ids=batch[:, :-1], use_cache=False).logits.float().flatten(0, 1)
                loss = functional.cross_entropy(scores, batch[:, 1:].flatten())
                loss = loss + run.optimization.z_loss * scores.logsumexp(-1).square().mean()
                (loss * size / run.batch_sequences).backward()
                done += size
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

    return advance


def our_loop(settings: PretrainConfig, scale: str) -> Callable[[int], None]:
    """Trains so many steps more, as our runs do."""
    run = settings.run(settings.space.named(settings.space.uniform()), scale, settings.rungs(scale)[-1])
    corpus, sampler, _ = open_data(run)
    loop = Loop(run, sampler, corpus.manifest.tokenizer, Workers.current(torch.device("cpu")))

    def advance(n_steps: int) -> None:
        assert loop.advance(loop.progress.step + n_steps)

    return advance


@click.command()
@click.option("--config", type=click.Path(path_type=Path), default=HERE / "demo.yaml", help="With the scale.")
@click.option("--scale", default="nano", show_default=True)
@click.option("--blocks", type=click.IntRange(min=4), default=20, show_default=True, help="Of each loop.")
@click.option("--steps", type=click.IntRange(min=1), default=5, show_default=True, help="Of a block.")
def main(config: Path, scale: str, blocks: int, steps: int) -> None:
    """Times both loops in turns."""
    torch.set_num_threads(1)
    settings = PretrainConfig.read(config)
    loops = {"plain": plain_loop(settings, scale), "ours": our_loop(settings, scale)}
    for advance in loops.values():
        advance(2)
    seconds: dict[str, list[list[float]]] = {name: [] for name in loops}  # by the clock, and of processors
    for number in range(blocks):
        for name in sorted(loops, reverse=bool(number % 2)):
            begun = time.perf_counter(), time.process_time()
            loops[name](steps)
            seconds[name].append([time.perf_counter() - begun[0], time.process_time() - begun[1]])
    tokens = steps * settings.batch(scale)
    ratios = np.array(seconds["plain"]) / np.array(seconds["ours"])
    for place, label in enumerate(("by the clock", "by processors' time")):
        speeds = [f"{name} {tokens / np.median([row[place] for row in rows]):,.0f}" for name, rows in seconds.items()]
        low, middle, high = np.quantile(ratios[:, place], [0.25, 0.5, 0.75])
        quartiles = f"{low:.2f} to {high:.2f}, quartiles of {blocks} pairs of {steps} steps"
        click.echo(f"{label}: {', '.join(speeds)} tokens/s; ours / plain {middle:.2f} ({quartiles})")


if __name__ == "__main__":
    main()

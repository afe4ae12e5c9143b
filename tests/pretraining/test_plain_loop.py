"""A run is what a plain loop around `transformers` would make of the same sequences, to the last bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from runs import run_in, tensors, tiny_run
from torch.nn import functional
from transformers import Olmo2ForCausalLM

from ray_mixopt.pretraining.training import model
from ray_mixopt.pretraining.training.loop import learning_rate
from ray_mixopt.pretraining.training.train import open_data


@pytest.mark.parametrize("z_loss", [0.0, 1e-2])
def test_losses_and_weights_are_those_of_a_plain_loop(small: Path, tmp_path: Path, z_loss: float) -> None:
    optimization = {"learning_rate": 1e-2, "warmup_steps": 5, "z_loss": z_loss}
    run = tiny_run(small, steps=40, rungs=(), optimization=optimization, execution={"micro_batch": 4})
    corpus, sampler, _ = open_data(run)
    torch.manual_seed(run.seed)
    built = model.build(run.shape, corpus.manifest.tokenizer.vocab_size, run.sequence_length)
    plain = Olmo2ForCausalLM(built.config)
    plain.load_state_dict(built.state_dict())
    embeddings = plain.get_input_embeddings().weight  # the only ones that do not decay
    others = [parameter for parameter in plain.parameters() if parameter is not embeddings]
    groups = [{"params": others, "weight_decay": 0.1}, {"params": [embeddings], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95))
    total = 0.0
    for step in range(run.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(run, step)
        first = step * run.batch_sequences
        batch = torch.from_numpy(sampler.sequences(np.arange(first, first + run.batch_sequences)))
        scores = plain(input_ids=batch[:, :-1], use_cache=False).logits.flatten(0, 1)
        targets = batch[:, 1:].flatten()
        losses = functional.cross_entropy(scores, targets, reduction="none")
        logs = losses + scores.gather(1, targets[:, None])[:, 0]  # of the softmax's normaliser
        (losses.mean() + z_loss * logs.square().mean()).backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        total += losses.mean().item()
    (report,) = run_in(tmp_path / "run", run)
    assert report["train_loss"] == total / run.steps
    found = tensors(tmp_path / "run")
    for name, weight in plain.state_dict().items():
        (same,) = (tensor for label, tensor in found.items() if label.endswith(f":model.{name}"))
        assert torch.equal(same, weight), name

"""Parameters and operations are counted right, and the presets are what they are named."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from ray_mixopt.pretraining.training import model
from ray_mixopt.pretraining.training.loop import learning_rate
from ray_mixopt.pretraining.training.settings import PRESETS, Decay, Execution, Optimization, Shape, TrainingRun

SHAPE = Shape(d_model=32, heads=2, layers=3)


@pytest.mark.parametrize(
    ("name", "millions"),
    [("20M", 20), ("60M", 60), ("150M", 150), ("300M", 300), ("500M", 500), ("700M", 700), ("1B", 1150)],
)
def test_presets_have_the_parameters_of_their_names(name: str, millions: float) -> None:
    assert model.cost(PRESETS[name], 50_257, 1024).parameters == pytest.approx(millions * 1e6, rel=0.08)


@pytest.mark.parametrize("tied", [True, False])
def test_operations_agree_with_torch(tied: bool) -> None:
    shape = SHAPE.model_copy(update={"tie_embeddings": tied})
    network = model.build(shape, 100, 16, attention="eager")
    inputs = torch.zeros(4, 16, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        model.logits(network, inputs).sum().backward()
    # RoPE's frequencies are a product of two vectors, a vanishing part of the whole.
    assert counter.get_total_flops() / inputs.numel() == pytest.approx(
        model.cost(shape, 100, 16).flops_per_token, rel=1e-3
    )
    assert sum(p.numel() for p in network.parameters()) == model.cost(shape, 100, 16).parameters


def test_every_embedding_is_trained_and_norms_do_not_decay() -> None:
    network = model.build(SHAPE.model_copy(update={"tie_embeddings": True}), 100, 16)
    model.logits(network, torch.arange(100)[None, :16]).logsumexp(-1).sum().backward()
    assert (network.get_input_embeddings().weight.grad[:100].abs().sum(1) > 0).all()
    matrices, gains = model.parameter_groups(network, 0.1)
    assert matrices["weight_decay"] == 0.1 and gains["weight_decay"] == 0.0
    assert sum(len(group["params"]) for group in (matrices, gains)) == len(list(network.parameters()))
    assert {p.ndim for p in gains["params"]} == {1}


def test_what_decays_in_olmo_2() -> None:
    network, names = model.build(SHAPE, 100, 16), {}
    for group in model.parameter_groups(network, 0.1, embeddings=False, norms=True):
        names[group["weight_decay"]] = {id(parameter) for parameter in group["params"]}
    assert names[0.0] == {id(network.get_input_embeddings().weight)}
    assert id(network.get_output_embeddings().weight) in names[0.1] and id(network.model.norm.weight) in names[0.1]
    assert Optimization().decay_norms and not Optimization().decay_embeddings and Optimization().z_loss == 1e-5
    frequencies = network.model.rotary_emb.inv_freq
    assert float(frequencies[1]) == pytest.approx(500_000 ** (-1 / 8))  # of heads of 16


def test_losses_do_not_need_all_scores_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    network = model.build(SHAPE, 100, 16)
    windows = torch.randint(0, 100, (3, 17), generator=torch.Generator().manual_seed(0))
    found = []
    for most in (10**9, 128 * 5):  # the second holds five tokens of the padded vocabulary, of 48
        monkeypatch.setattr(model, "_MOST_SCORES", most)
        losses, logs = model.token_losses(network, windows)
        (losses.mean() + 0.1 * logs.square().mean()).backward()
        gradients = torch.cat([parameter.grad.flatten() for parameter in network.parameters()])
        found.append((losses.detach(), logs.detach(), gradients))
        network.zero_grad()
    for whole, parts in zip(*found, strict=True):
        torch.testing.assert_close(parts, whole)
    scores = model.logits(network, windows[:, :-1])
    torch.testing.assert_close(found[0][0], functional.cross_entropy(scores.mT, windows[:, 1:], reduction="none"))
    torch.testing.assert_close(found[0][1], scores.logsumexp(-1))


def test_gradients_of_losses_and_normalisers_are_those_of_torch() -> None:
    """In double precision, each alone and together, and by differences."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(6, 20, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 20, (6,), generator=generator)
    ours = model._NextTokens.apply(scores, targets)
    plain = functional.cross_entropy(scores, targets, reduction="none"), scores.logsumexp(-1)
    for found, wanted in zip(ours, plain, strict=True):
        torch.testing.assert_close(found, wanted)
    for losses, logs in ((1.0, 0.0), (0.0, 1.0), (1.0, 0.3)):
        sums = [(losses * pair[0] + logs * pair[1].square()).sum() for pair in (ours, plain)]
        found, wanted = (torch.autograd.grad(total, scores, retain_graph=True)[0] for total in sums)
        torch.testing.assert_close(found, wanted)
    assert torch.autograd.gradcheck(lambda scores: model._NextTokens.apply(scores, targets), scores)


def test_documents_keep_to_themselves_when_asked() -> None:
    network = model.build(SHAPE, 100, 16)
    torch.nn.init.normal_(network.get_input_embeddings().weight, std=0.5)  # far from indifferent
    windows = torch.tensor([[5, 6, 7, 0, 8, 9, 0, 0, 10, 11]])
    assert model.document_positions(windows, 0).tolist() == [[0, 1, 2, 3, 0, 1, 2, 0, 0, 1]]
    other = windows.clone()
    other[0, 1] = 50
    for end, same in ((None, False), (0, True)):
        one, two = (model.token_losses(network, given, end)[0] for given in (windows, other))
        assert torch.equal(one[0, 4:], two[0, 4:]) == same  # these predict from the second document on
        assert not torch.equal(one[0, :3], two[0, :3])


def test_memory_falls_where_it_should() -> None:
    cost = model.cost(SHAPE, 100, 64)
    ddp, fsdp = Execution(micro_batch=4), Execution(micro_batch=4, parallel="fsdp")
    assert cost.memory_bytes(fsdp, 4) < cost.memory_bytes(ddp, 4) == cost.memory_bytes(ddp, 1)
    saving = model.cost(SHAPE, 100, 64, Execution(activation_checkpointing=True, precision="bf16"))
    assert saving.bytes_of_activations < cost.bytes_of_activations
    assert cost.bytes_of_state == 16 * cost.parameters


def test_learning_rate() -> None:
    settings = {"data": "x", "mixture": {"a": 1}, "shape": SHAPE, "sequence_length": 8, "batch_tokens": 16}
    run = TrainingRun(**settings, steps=100, optimization=Optimization(learning_rate=1.0, warmup_steps=4))
    assert [learning_rate(run, step) for step in (0, 1, 3, 4, 99)] == [0.25, 0.5, 1, 1, 1]
    longer = run.model_copy(update={"steps": 1000})
    assert [learning_rate(longer, step) for step in range(100)] == [learning_rate(run, step) for step in range(100)]
    final = run.model_copy(update={"decay": Decay(steps=10, final_share=0.1)})
    assert [round(learning_rate(final, step), 6) for step in (0, 89, 90, 94, 99)] == [0.25, 1, 0.91, 0.55, 0.1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mixture": {"a": -1, "b": 2}}, "shares must be finite, not negative"),
        ({"mixture": {"a": float("nan")}}, "shares must be finite"),
        ({"mixture": {}}, "at least 1 item|not all zero"),
        ({"batch_tokens": 12}, "no whole number of sequences of 8 tokens"),
        ({"decay": {"steps": 11}}, "more than the run's 10 steps"),
        ({"shape": {"d_model": 30, "heads": 4, "layers": 1}}, "no even multiple of heads=4"),
        ({"learning_rate": 1}, "Extra inputs"),
        ({"steps": 0}, "greater than 0"),
    ],
)
def test_settings_are_validated(change: dict[str, object], message: str) -> None:
    settings = {"data": "x", "mixture": {"a": 2}, "shape": SHAPE, "sequence_length": 8, "batch_tokens": 16, "steps": 10}
    assert TrainingRun.model_validate(settings).mixture == {"a": 1}
    with pytest.raises(ValidationError, match=message):
        TrainingRun.model_validate({**settings, **change})


def test_settings_survive_json() -> None:
    run = TrainingRun(
        data="x", mixture={"a": 1, "b": 2}, shape=SHAPE, sequence_length=8, batch_tokens=16, steps=10, rungs=(5, 20)
    )
    assert TrainingRun.model_validate_json(run.model_dump_json()) == run
    assert run.reports == (5, 10)

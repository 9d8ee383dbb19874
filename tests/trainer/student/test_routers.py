"""Mixtures of experts as students: the loss of their routers, document by document. One process."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny_experts
import tiny_step
import torch
from tiny_experts import COEFFICIENT, SHAPES
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.kernels.pack import PackedBatch, pack
from tracestill.trainer.metrics.telemetry import Meter
from tracestill.trainer.recipe.monitor import events
from tracestill.trainer.recipe.student_settings import StudentConfig
from tracestill.trainer.student import adapt as adapt_module
from tracestill.trainer.student.adapt import adapt
from tracestill.trainer.student.check import check_trainable
from tracestill.trainer.student.student import Student, build_student
from tracestill.trainer.student.tiled_mlp import tile_mlps

CPU = torch.device("cpu")


def build(kind: str = "mixtral", *, more: dict[str, Any] | None = None, **block: Any) -> Student:
    config = StudentConfig(config={**tiny_experts.shape(kind), **(more or {})}, **block)
    ids = {"bos_id": 1, "eos_id": 2, "pad_id": 0, "num_kinds": tiny_step.NUM_KINDS}
    student = build_student(config, vocab_size=tiny_step.VOCABULARY, **ids)
    if kind != "llama":
        student.model.load_state_dict(tiny_experts.plain(kind).state_dict())
    adapt(student, config, seed=0, device=CPU)
    return student


def packed(documents: list[tiny_step.Document]) -> PackedBatch:
    tokens, kinds = (np.concatenate([getattr(d, name) for d in documents]) for name in ("tokens", "kinds"))
    offsets = np.cumsum([0, *(len(d.tokens) for d in documents)]).astype(np.int64)
    weights = np.array([d.weight for d in documents], dtype=np.float32)
    return pack(tokens, kinds, offsets, weights, tiny_step.TABLE, length=len(tokens) + 3, pad_id=0)


def learned(
    student: Student, packs: list[list[tiny_step.Document]], scale: Any = None
) -> tuple[float, dict[str, torch.Tensor]]:
    total = 0.0
    for documents in packs:
        loss, _ = student(packed(documents), tiny_step.normaliser(0) if scale is None else scale)
        loss.backward()
        total += float(loss.detach())
    return total, {name: p.grad for name, p in student.model.named_parameters() if p.grad is not None}


def distance(found: dict[str, torch.Tensor], exact: dict[str, torch.Tensor]) -> float:
    assert found.keys() == exact.keys()
    one, other = (torch.cat([held[name].double().flatten() for name in sorted(held)]) for held in (found, exact))
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("kind", SHAPES)
def test_loss_and_gradient_are_those_of_the_plain_model_of_each_document_however_they_are_packed(kind):
    documents = tiny_step.documents(0)
    model = tiny_experts.plain(kind, torch.float64)
    loss = tiny_experts.plain_loss(model, documents, tiny_step.normaliser(0), COEFFICIENT)
    loss.backward()
    exact = {name: p.grad for name, p in model.named_parameters()}
    for packs in ([documents], [documents[:5], documents[5:]], [[d] for d in reversed(documents)]):
        found, gradient = learned(build(kind, router_loss=COEFFICIENT), packs)
        assert found == pytest.approx(loss.item(), rel=1e-6)
        assert distance(gradient, exact) <= 2e-6


def test_a_normaliser_of_each_kind_weighs_the_routers_too():
    """`spans` has a c for each kind."""
    scale, documents = torch.linspace(0.01, 0.08, tiny_step.NUM_KINDS), tiny_step.documents(0)
    model = tiny_experts.plain("mixtral", torch.float64)
    loss = tiny_experts.plain_loss(model, documents, scale.double(), COEFFICIENT)
    loss.backward()
    found, gradient = learned(build(router_loss=COEFFICIENT), [documents[:4], documents[4:]], scale)
    assert found == pytest.approx(loss.item(), rel=1e-6)
    assert distance(gradient, {name: p.grad for name, p in model.named_parameters()}) <= 2e-6


def test_experts_that_most_tokens_go_to_get_fewer():
    told = []
    for coefficient in (0.0, 0.3):
        student = build(router_loss=coefficient)
        with torch.no_grad():  # so that all prefer the first two
            for layer in student.model.model.layers:
                layer.mlp.gate.weight[:2] *= 3
        optimizer = torch.optim.Adam(student.parameters(), lr=3e-3)
        for step in range(30):
            student(packed(tiny_step.documents(step)), tiny_step.normaliser(step))[0].backward()
            student.routers.end_step(faulty=step < 25)
            optimizer.step()
            optimizer.zero_grad()
        told.append(student.routers.read())
    assert told[1]["busiest"] < 0.9 * told[0]["busiest"]
    assert told[1]["loss"] < told[0]["loss"]


def test_of_one_document_it_is_the_models_own_and_of_a_batch_it_is_not():
    table, c = np.ones(tiny_step.NUM_KINDS, dtype=np.float32), 1 / 39
    student, own = build(router_loss=1.0), tiny_experts.plain("mixtral")
    one, two = (tiny_step.documents(0)[index] for index in (0, 3))
    logits = []
    for document in (one, two):
        n = len(document.tokens)
        row = pack(document.tokens, document.kinds, [0, n], [1.0], table, length=n, pad_id=0)
        ids = torch.from_numpy(document.tokens.astype(np.int64))[None]
        found = own(input_ids=ids, use_cache=False, output_router_logits=True).router_logits
        logits.append(tuple(layer[:-1] for layer in found))  # the last token predicts nothing
        expected = load_balancing_loss_func(logits[-1], 6, 2) * (n - 1) * c
        plain, _ = build()(row, c)
        assert (student(row, c)[0] - plain).item() == pytest.approx(expected.item(), rel=1e-4)
    lengths = [len(layers[0]) for layers in logits]
    apart = sum(load_balancing_loss_func(layers, 6, 2) * n for layers, n in zip(logits, lengths, strict=True)) / sum(
        lengths
    )
    together = load_balancing_loss_func(tuple(map(torch.cat, zip(*logits, strict=True))), 6, 2)
    assert abs(together / apart - 1) > 0.01, "the batch's own would depend on the packing"


def test_documents_without_weight_and_evaluation_take_no_part():
    student = build(router_loss=COEFFICIENT)
    document = tiny_step.documents(0)[0]
    _, alone = learned(student, [[document]])
    alone = {name: gradient.clone() for name, gradient in alone.items()}
    student.zero_grad()
    _, beside = learned(student, [[document, tiny_step.weightless(0)]])
    assert distance(beside, alone) <= 2e-6
    student.zero_grad()
    loss, nothing = learned(student, [[tiny_step.weightless(0)]])
    assert loss == 0
    assert not any(gradient.any() for gradient in nothing.values())
    row, scale = packed([document]), tiny_step.normaliser(0)
    plain = build().eval()(row, scale)[0]
    assert student.eval()(row, scale)[0].item() == plain.item()
    assert student.train()(row, scale)[0].item() > plain.item()


@pytest.mark.parametrize("how", ["checkpointed", "tiled", pytest.param("compiled", marks=pytest.mark.soak)])
def test_layers_that_compute_otherwise_learn_the_same(how, monkeypatch):
    monkeypatch.setattr(adapt_module, "BACKEND", "aot_eager")
    documents = [tiny_step.documents(0)]
    loss, exact = learned(build(router_loss=COEFFICIENT), documents)
    block = {"checkpointed": {"activation_checkpointing": True}, "compiled": {"compile": True}}.get(how, {})
    student = build(router_loss=COEFFICIENT, **block)
    if how == "tiled":
        tile_mlps(student.model, 3, 64)
    found, gradient = learned(student, documents)
    torch._dynamo.reset()
    assert found == pytest.approx(loss, rel=1e-6)
    assert distance(gradient, exact) <= 2e-6


def test_the_config_says_how_much_unless_the_recipe_does():
    wants = {"output_router_logits": True, "router_aux_loss_coef": 0.02}
    assert build().routers is None
    assert build(more=wants).routers.coefficient == 0.02
    assert build(more=wants, router_loss=0.0).routers.coefficient == 0.0
    documents = [tiny_step.documents(0)[:3]]
    assert learned(build(router_loss=0.0), documents)[0] == learned(build(), documents)[0]


def test_models_whose_routers_are_not_known_are_refused(monkeypatch):
    for block in ({"router_loss": 0.1}, {"router_loss": 0.0}):
        config = StudentConfig(config=tiny_step.SHAPE, **block)
        with pytest.raises(InputError, match=r"student\.router_loss: LlamaForCausalLM has no routers"):
            check_trainable(config)
    config = StudentConfig(config=tiny_experts.shape("mixtral"), router_loss=0.1)
    check_trainable(config)
    with pytest.raises(ValueError, match="router_loss"):
        StudentConfig(config=tiny_step.SHAPE, router_loss=-1.0)
    own = "transformers.models.mixtral.modeling_mixtral.load_balancing_loss_func"
    monkeypatch.setattr(own, lambda *_: torch.tensor(0.5))
    with pytest.raises(InputError, match="MixtralForCausalLM balances its experts by another loss"):
        build(router_loss=0.1)


def test_the_log_tells_loss_and_load_of_the_routers():
    student = build(router_loss=COEFFICIENT)
    meter = Meter(Kinds(), CPU, student.routers)
    documents = tiny_step.documents(0)
    model, rows = tiny_experts.plain("mixtral"), []
    expected = 0.0
    for document in documents:
        ids = torch.from_numpy(document.tokens.astype(np.int64))[None]
        logits = model(input_ids=ids, use_cache=False, output_router_logits=True).router_logits
        weights = torch.from_numpy(document.weights()).float()
        if weights.sum() > 0:
            expected += float(weights.sum() * tiny_experts.router_loss(logits, weights, 2)) * tiny_step.normaliser(0)
        rows.append(torch.stack([layer[:-1][weights > 0].topk(2).indices for layer in logits]).flatten(1))
    counts = torch.stack([row.bincount(minlength=6) for row in torch.cat(rows, dim=1)])
    for faulty in (False, True, False):
        student(packed(documents), tiny_step.normaliser(0))
        meter.end_step(1.0, faulty=faulty)
    found = meter.read()["routers"]
    assert found["loss"] == pytest.approx(expected, rel=1e-5)
    assert found["busiest"] == pytest.approx(float((counts.max(1).values / counts.float().mean(1)).max()))
    assert found["idle"] == int((counts == 0).sum())
    assert events({"step": 3, "routers": found})[0] == ("train/routers/loss", found["loss"], 3)

"""Encoder-decoders: each document's loss and gradient in a pack are those of transformers' own model on it alone."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tiny_pairs
import tiny_step
import torch
from distributed_support import run_workers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny_export import save_tokenizer
from tiny_step import NUM_KINDS, TABLE, VOCABULARY
from transformers import T5Config, UMT5Config

from tracestill.data_pipeline.base.errors import InputError
from tracestill.trainer.batches.rectangles import PairedBatch, group_documents, paired_row
from tracestill.trainer.export.export import export
from tracestill.trainer.recipe.settings import StudentConfig
from tracestill.trainer.recipe.student_settings import check_together
from tracestill.trainer.student import encoder_decoder
from tracestill.trainer.student.adapt import adapt
from tracestill.trainer.student.check import check_student
from tracestill.trainer.student.reading_model import use_weighting
from tracestill.trainer.student.student import Student, build_student
from tracestill.trainer.weighting import WeightingConfig, make_weighting
from tracestill.trainer.writing.generate import generate, load_exported

WORKER = Path(__file__).with_name("encoder_decoder_worker.py")
CPU = torch.device("cpu")


def packed(student: Student, documents: list[tiny_pairs.Pair], groups: int = 3, table=TABLE) -> PairedBatch:
    start = student.model.config.decoder_start_token_id
    return paired_row(*tiny_pairs.flat(documents), table, tiny_pairs.PAD, CPU, start_id=start, groups=groups)


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad.double().clone() for name, p in model.named_parameters()}


def whole(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensors[name].flatten() for name in sorted(tensors)])


@pytest.mark.parametrize("family", tiny_pairs.FAMILIES)
def test_loss_and_gradient_of_a_pack_are_those_of_its_documents_alone(family):
    documents = tiny_pairs.pairs(0)
    student = tiny_pairs.student(family, seed=3)
    found = {}
    for dtype in (torch.float32, torch.float64):
        model = tiny_pairs.plain_model(student.model, dtype)
        loss = tiny_pairs.plain_loss(model, documents, 0.25)
        loss.backward()
        found[dtype] = loss.item(), gradients(model)
    exact, gradient = found[torch.float64]
    for groups in (1, 3, 20):
        student.zero_grad()
        loss, statistics = student(packed(student, documents, groups), 0.25)
        loss.backward()
        assert loss.item() == pytest.approx(exact, rel=1e-6)
        assert float(statistics[:, 1].sum()) == pytest.approx(exact, rel=1e-6)
        own = gradients(student.model)
        assert own.keys() == gradient.keys()
        assert (whole(own) - whole(gradient)).norm() <= 2e-6 * whole(gradient).norm()
        for name, reference in gradient.items():
            # a key's bias has no gradient but for rounding: it is measured against the whole
            error = max((found[torch.float32][1][name] - reference).norm(), 1e-7 * whole(gradient).norm())
            assert (own[name] - reference).norm() <= 4 * error, name


def test_a_question_moves_no_other_document_by_one_bit():
    documents = tiny_pairs.pairs(0)
    student = tiny_pairs.student()

    def hidden(pairs):
        row = packed(student, pairs)
        found = student.hidden_states(row).detach()
        bounds = row.cu_seqlens[: len(pairs) + 1].tolist()
        return [found[begin : end - 1] for begin, end in pairwise(bounds)]

    before = hidden(documents)
    for changed in (0, 4, 11):
        other = documents[changed].question[::-1] % (VOCABULARY - 3) + 3
        after = hidden([*documents[:changed], replace(documents[changed], question=other), *documents[changed + 1 :]])
        assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [
            at != changed for at in range(len(documents))
        ]


def test_a_document_may_get_longer_and_others_stay_as_they_were():
    documents = tiny_pairs.pairs(0)
    student = tiny_pairs.student()
    longer = replace(documents[3], question=np.tile(documents[3].question, 9), weight=0.0)
    rest = [*documents[:3], *documents[4:]]
    alone, _ = student(packed(student, rest), 1.0)
    beside, _ = student(packed(student, [*documents[:3], longer, *documents[4:]]), 1.0)
    assert beside.item() == pytest.approx(alone.item(), rel=1e-6)


def test_positions_without_weight_get_exactly_zero_gradient_even_if_they_are_nan():
    student = tiny_pairs.student()
    row = packed(student, tiny_pairs.pairs(0))
    idle = torch.ones(len(row.labels), dtype=torch.bool)
    idle[row.active] = False
    hidden = student.hidden_states(row).detach()
    hidden[idle] = float("nan")
    hidden.requires_grad_()
    loss, _ = student.head[0](hidden, row, 1.0)
    loss.backward()
    assert torch.isfinite(loss)
    assert 0 < int(idle.sum()) < len(idle)
    assert not hidden.grad[idle].any()
    assert hidden.grad[~idle].any()


@pytest.mark.parametrize("documents", [[], [replace(pair, weight=0.0) for pair in tiny_pairs.pairs(1, 3)]])
def test_a_pack_without_weight_reaches_every_parameter_with_exactly_zero(documents):
    student = tiny_pairs.student()
    row = packed(student, documents)
    assert len(row.rectangles) == 3
    loss, statistics = student(row, 1.0)
    loss.backward()
    assert loss.item() == 0
    assert not statistics.any()
    assert not any(gradient.any() for gradient in gradients(student.model).values())


def test_the_flat_row_holds_the_decoders_side():
    pair = tiny_pairs.Pair(np.array([9, 8, 2]), np.array([5, 6, 7]), np.array([3, 6, 7], np.uint8), 0.5)
    row = packed(tiny_pairs.student(), [pair, pair], groups=1)
    assert row.input_ids[0, :8].tolist() == [0, 5, 6, 7, 0, 5, 6, 7], "the decoder starts from padding"
    assert row.labels[:8].tolist() == [5, 6, 7, -100, 5, 6, 7, -100]
    assert row.kinds[:4].tolist() == [3, 6, 7, 0]
    assert row.loss_weight[:4].tolist() == [0.5, 1.0, 0.5, 0.0]
    (rectangle,) = row.rectangles
    assert rectangle.encoder_ids.tolist() == [[9, 8, 2]] * 2
    assert rectangle.decoder_ids.tolist() == [[0, 5, 6]] * 2
    assert row.places[:7].tolist() == [0, 1, 2, 0, 3, 4, 5]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 90), st.integers(1, 90)), max_size=40), st.integers(1, 9))
def test_groups_hold_every_document_once_and_more_of_them_pad_less(lengths, groups):
    read, written = np.array(lengths, np.int64).reshape(-1, 2).T
    found = group_documents(read, written, groups)
    assert len(found) <= groups
    assert sorted(np.concatenate([np.zeros(0, np.int64), *found]).tolist()) == list(range(len(lengths)))
    areas = [area(read, written, group_documents(read, written, n)) for n in range(1, groups + 1)]
    assert areas == sorted(areas, reverse=True)
    if groups >= 2 and len(set(lengths)) > 1:
        assert areas[1] < areas[0] or all(area(read, written, halves(read, cut)) >= areas[0] for cut in set(read))


def area(read, written, groups):
    return sum(len(group) * int(read[group].max() + written[group].max()) for group in groups)


def halves(read, cut):
    return [half for half in (np.flatnonzero(read <= cut), np.flatnonzero(read > cut)) if len(half)]


def test_two_shapes_make_two_groups_without_padding():
    read, written = np.array([3, 9, 3, 9]), np.array([7, 7, 7, 7])
    assert sorted(group.tolist() for group in group_documents(read, written, 2)) == [[0, 2], [1, 3]]
    assert sorted(group.tolist() for group in group_documents(written, read, 8)) == [[0, 2], [1, 3]]


def test_documents_for_a_decoder_are_refused():
    pair = replace(tiny_pairs.pairs(0)[0], question=np.zeros(0, np.int32))
    with pytest.raises(InputError, match="has nothing for the encoder to read"):
        packed(tiny_pairs.student(), [pair])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            StudentConfig(config={**tiny_pairs.FAMILIES["t5"], "num_decoder_layers": 3}),
            "cannot generate with 3 decoder layers behind 2 encoder layers",
        ),
        (StudentConfig(config={"model_type": "led"}), "nobody has tried whether led keeps documents apart"),
        (StudentConfig(config=tiny_pairs.FAMILIES["t5"], attention="sdpa"), r"student\.attention: an encoder-decoder"),
        (StudentConfig(config={"model_type": "t5", "d_modle": 3}), "t5 has no key 'd_modle'; did you mean 'd_model'"),
        (
            StudentConfig(config={"model_type": "t5", "decoder_start_token_id": 3}),
            "decoder_start_token_id: it follows from the tokenizer",
        ),
    ],
)
def test_what_cannot_be_a_student_is_refused(config, message):
    with pytest.raises(InputError, match=message):
        check_student(config, CPU, torch.float32)
    with pytest.raises(InputError, match=message):
        build_student(config, vocab_size=VOCABULARY, bos_id=1, eos_id=2, pad_id=0, num_kinds=NUM_KINDS)


def test_a_pretrained_one_keeps_its_start_symbol(tmp_path):
    first = tiny_pairs.student("bart", seed=4).eval()
    first.model.config.decoder_start_token_id = 17
    first.model.save_pretrained(tmp_path)
    config = StudentConfig(config=None, pretrained=tmp_path)
    assert config.encoder_decoder
    check_student(config, CPU, torch.float32)
    again = build_student(config, vocab_size=VOCABULARY, bos_id=1, eos_id=2, pad_id=0, num_kinds=NUM_KINDS).eval()
    assert again.model.generation_config.decoder_start_token_id == 17
    row = packed(again, tiny_pairs.pairs(0))
    assert row.input_ids[0, 0] == 17
    assert again(row, 1.0)[0].item() == first(row, 1.0)[0].item()


@pytest.mark.parametrize("ranks", [pytest.param(1, marks=pytest.mark.soak), 2])
def test_loss_and_gradient_hold_for_every_zero_stage_and_with_an_empty_pack(ranks, tmp_path):
    run_workers(WORKER, tmp_path, ranks, ranks=0 if ranks == 1 else ranks)
    results = json.loads((tmp_path / "results.json").read_text())
    tensors = load_file(tmp_path / "gradients.safetensors")
    assert len(results) == 8
    exact = {}
    for family in ("t5", "bart"):
        model = tiny_pairs.plain_model(tiny_pairs.student(family, seed=3).model, torch.float64)
        loss = tiny_pairs.plain_loss(model, tiny_pairs.pairs(0), tiny_pairs.normaliser(0))
        loss.backward()
        exact[family] = loss.item(), gradients(model)
    for name, case in results.items():
        loss, gradient = exact[case["family"]]
        assert case["loss"] == pytest.approx(loss, rel=1e-6), name
        assert case["norm"] == pytest.approx(float(whole(gradient).norm()), rel=2e-6), name
        own = {key.removeprefix(f"{name}/"): value.double() for key, value in tensors.items() if key.startswith(name)}
        assert own.keys() == gradient.keys()
        assert (whole(own) - whole(gradient)).norm() <= 2e-6 * whole(gradient).norm(), name
        assert set(case["partitioned"]) == {case["zero"] == 3}, name


@pytest.mark.parametrize(("family", "untied"), [("t5", False), ("flan-t5", True), ("bart", False)])
def test_plain_transformers_loads_the_export_and_gives_the_trainers_own_logits(family, untied, tmp_path):
    save_tokenizer(tmp_path / "tokenizer")
    first = tiny_pairs.student(family, seed=6)
    first.model.save_pretrained(tmp_path / "start")
    if untied:  # as flan-t5's checkpoints are
        state = load_file(tmp_path / "start/model.safetensors")
        state["lm_head.weight"] = torch.randn(VOCABULARY, 32, generator=torch.Generator().manual_seed(1))
        save_file(state, tmp_path / "start/model.safetensors", metadata={"format": "pt"})
    config = StudentConfig(config=None, pretrained=tmp_path / "start")
    student = build_student(config, vocab_size=VOCABULARY, bos_id=1, eos_id=2, pad_id=0, num_kinds=NUM_KINDS).eval()
    export(student.model, tmp_path / "tokenizer", tmp_path / "out", title="t", recipe="name: t", counts={})
    model = load_exported(tmp_path / "out", CPU)
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) is not untied
    documents = tiny_pairs.pairs(2)
    loss, _ = student(packed(student, documents), 1.0)
    assert loss.item() == pytest.approx(tiny_pairs.plain_loss(model, documents).item(), rel=1e-6)


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_batches_write_what_single_questions_get(family, tmp_path):
    save_tokenizer(tmp_path / "tokenizer")
    model = tiny_pairs.student(family, seed=5).model
    with torch.no_grad():
        model.get_input_embeddings().weight *= 0.1  # else each token is followed by itself
    export(model, tmp_path / "tokenizer", tmp_path / "out", title="t", recipe="name: t", counts={})
    model = load_exported(tmp_path / "out", CPU)
    questions = [pair.question.tolist() for pair in tiny_pairs.pairs(3)]
    settings = {"stops": [tiny_pairs.EOS], "pad_id": tiny_pairs.PAD, "max_new_tokens": 12}
    alone = []
    with torch.inference_mode():
        for question in questions:
            written = [model.config.decoder_start_token_id]
            while len(written) <= 12 and (len(written) == 1 or written[-1] != tiny_pairs.EOS):
                ids = {"input_ids": torch.tensor([question]), "decoder_input_ids": torch.tensor([written])}
                written.append(int(model(**ids, use_cache=False).logits[0, -1].argmax()))
            alone.append(written[1:])
    assert len({tuple(row) for row in alone}) > 3
    for batch_size in (1, 5):
        assert generate(model, questions, batch_size=batch_size, **settings) == alone


def test_a_decoder_may_be_shallower_than_its_encoder():
    config = StudentConfig(config={**tiny_pairs.FAMILIES["t5"], "num_decoder_layers": 1})
    student = build_student(config, vocab_size=VOCABULARY, bos_id=1, eos_id=2, pad_id=0, num_kinds=NUM_KINDS).eval()
    settings = {"stops": [2], "pad_id": 0, "max_new_tokens": 5, "batch_size": 2}
    assert len(generate(student.model, [[5, 6], [7]], **settings)) == 2


def test_positions_bound_question_and_text_apart():
    model = tiny_pairs.student("bart").model.eval()  # 64 positions
    settings = {"stops": [2], "pad_id": 0, "batch_size": 2}
    assert len(generate(model, [[5] * 63], max_new_tokens=8, **settings)[0]) <= 8
    for question, more in ((65, 8), (8, 65)):
        with pytest.raises(InputError, match="exceeds the student's 64 positions"):
            generate(model, [[5] * question], max_new_tokens=more, **settings)


@pytest.mark.parametrize("keys", [{"activation_checkpointing": True}, {"lora": {"rank": 2}}, {"freeze": ["encoder.*"]}])
@pytest.mark.parametrize("family", ["t5", "bart"])
def test_adapters_and_checkpointed_activations_change_neither_loss_nor_what_else_learns(family, keys, tmp_path):
    tiny_pairs.student(family, seed=3).model.save_pretrained(tmp_path)
    found = []
    for more in ({}, keys):
        config = StudentConfig(config=None, pretrained=tmp_path, **more)
        student = build_student(config, vocab_size=VOCABULARY, bos_id=1, eos_id=2, pad_id=0, num_kinds=NUM_KINDS)
        if family == "bart" and "freeze" in more:
            config = config.model_copy(update={"freeze": ["model.encoder.*"]})
        adapt(student, config, seed=0, device=CPU)
        loss, _ = student(packed(student, tiny_pairs.pairs(0)), 0.25)
        loss.backward()
        found.append((loss.item(), {n: p.grad for n, p in student.model.named_parameters() if p.grad is not None}))
    (loss, whole_gradient), (same, learned) = found
    assert same == loss
    assert learned
    if "lora" in keys:
        assert any(gradient.any() for name, gradient in learned.items() if "lora_B" in name and "encoder." in name)
        assert all("lora_" in name for name in learned)
    else:
        for name, gradient in learned.items():
            assert (gradient - whole_gradient[name]).norm() <= 1e-6 * whole_gradient[name].norm(), name
        assert ("freeze" in keys) == (len(learned) < len(whole_gradient))


def test_a_compiled_encoder_decoder_is_refused():
    config = StudentConfig(config=tiny_pairs.FAMILIES["t5"], compile=True)
    with pytest.raises(ValueError, match=r"student\.compile: nobody has tried it with an encoder-decoder"):
        check_together(config, 2, False)


def test_a_reference_of_another_form_is_refused(tmp_path):
    tiny_step.plain_model(tied=False).save_pretrained(tmp_path)
    options = {"reference": str(tmp_path), "threshold": 0.0}
    weighting = make_weighting(WeightingConfig(use="excess_loss", options=options), tiny_step.KINDS)
    vocabulary = {"vocab_size": VOCABULARY, "bos_id": 1, "eos_id": 2, "pad_id": 0, "num_kinds": NUM_KINDS}
    with pytest.raises(InputError, match="reads documents of another layout than the student does"):
        use_weighting(tiny_pairs.student(), weighting, vocabulary=vocabulary, device=CPU, dtype=torch.float32)


def test_a_reference_may_be_an_encoder_decoder_too(tmp_path):
    """What it finds of each target is what transformers' own model finds."""
    student = tiny_pairs.student(seed=3)
    tiny_pairs.student(seed=8).model.save_pretrained(tmp_path)
    options = {"reference": str(tmp_path), "threshold": 0.0}
    weighting = make_weighting(WeightingConfig(use="excess_loss", options=options), tiny_step.KINDS)
    vocabulary = {"vocab_size": VOCABULARY, "bos_id": 1, "eos_id": 2, "pad_id": 0, "num_kinds": NUM_KINDS}
    use_weighting(student, weighting, vocabulary=vocabulary, device=CPU, dtype=torch.float32)
    pairs = [pair for pair in tiny_pairs.pairs(0) if pair.weight]
    row = packed(student, pairs)
    found = student.reference_nll(row)
    with torch.no_grad():
        model = tiny_pairs.plain_model(tiny_pairs.student(seed=8).model)
        exact = torch.cat([-tiny_pairs.log_p(model, pair) for pair in pairs])
    weighed = torch.from_numpy(np.concatenate([pair.weights() for pair in pairs])) > 0
    torch.testing.assert_close(found[row.active], exact[weighed], rtol=2e-5, atol=2e-5)


def test_umt5_is_refused_where_its_decoder_sees_what_it_is_to_write(monkeypatch):
    """As in transformers 5.17."""

    class Old:
        def __init__(self, config: object, has_relative_attention_bias: bool = False, layer_idx: int | None = None):
            pass

    monkeypatch.setattr(encoder_decoder, "UMT5Attention", Old)
    with pytest.raises(InputError, match=r"student: umt5 is wrong in transformers 5\.\d+"):
        encoder_decoder.refuse_faulty(UMT5Config())
    encoder_decoder.refuse_faulty(T5Config())

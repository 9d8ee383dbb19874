"""Two documents a record: their text, their ids and splits, and what the manifest counts."""

from __future__ import annotations

from pathlib import Path

import chat_templates as made
import pyarrow.parquet as pq
import pytest
from encode_cases import KINDS, PLAN, TRACE, conserved, names, prepare, record
from pydantic import ValidationError

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.stage import is_current, read_manifest
from tracestill.data_pipeline.documents.encode import EncodeConfig, load_layout, run, stage_config
from tracestill.data_pipeline.plan.plan import PlanConfig
from tracestill.data_pipeline.tokens.store import TokenStore
from tracestill.data_pipeline.tokens.tokenizer import run as run_tokenizer
from tracestill.data_pipeline.tokens.tokenizer import train_sentencepiece, write_tokenizer

CONFIG = EncodeConfig.model_validate({"two_task": {}})
QUESTION = "What is 3 + 4?"


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(train_sentencepiece([f"{QUESTION} {TRACE} [rationale] [label]"] * 9, 400), path)
    return load_layout(CONFIG, path)


def test_two_documents_by_hand(layout) -> None:
    (encoded,) = layout.encode([record()], KINDS)
    decode = layout.answer.tokenizer.backend.decode
    thought, label = encoded.documents["#trace"], encoded.documents["#answer"]
    assert list(encoded.documents) == ["#trace", "#answer"]
    assert decode(thought.tokens, skip_special_tokens=False) == f"<s>[rationale] {QUESTION}<think>{TRACE}</think></s>"
    assert decode(label.tokens, skip_special_tokens=False) == f"<s>[label] {QUESTION}<think></think>7</s>"
    assert {*names(thought.kinds)} == {"control", "prompt", "plan", "derive", "check"}
    assert {*names(label.kinds)} == {"control", "prompt", "answer"}
    assert max(thought.steps) == 3  # the trace's steps, as in a document of one task
    # evaluation asks for the answer, and reads it
    asked = layout.prompt_ids(QUESTION)
    assert label.tokens[: len(asked)].tolist() == asked
    assert layout.read(label.tokens[len(asked) :].tolist())[1:] == ("", "7", True, 0, True, None)


def test_a_record_is_one_record_and_two_documents(tmp_path: Path) -> None:
    train = [record(f"What is {i} + 4?", weight=0.5 + i, index=i) for i in range(5)]
    test = [record("What is 1 + 5?", "1 + 5 = 6.", "6")]
    without = [record("What is 8 + 4?", " \n")]
    inputs = prepare(tmp_path, [*train, *without], test)
    run(CONFIG, KINDS, PLAN, tmp_path / "encode", **inputs)
    manifest = read_manifest(tmp_path / "encode")
    counts = manifest["counts"]
    assert (counts["in"], counts["out"], counts["rejected"]) == (7, 6, {"empty_trace": 1})
    assert manifest["form"]["two_task"] == {"trace_prefix": "[rationale] ", "answer_prefix": "[label] "}
    assert {split: row["documents"] for split, row in counts["splits"].items()} == {"train": 10, "test": 2}
    store = TokenStore(tmp_path / "encode" / "tokens.arrow", KINDS)
    assert store.ids == [f"{r.record_id}#{part}" for r in train for part in ("trace", "answer")]
    assert store.question_ids == [r.question_id for r in train for _ in range(2)]
    assert store.weights.tolist() == [r.weight for r in train for _ in range(2)]
    targets = {name: int(n) for name, n in zip(KINDS.names, store.counts.sum(axis=0), strict=True) if n}
    assert counts["splits"]["train"]["targets"] == targets
    rejected = pq.read_table(tmp_path / "encode" / "rejected.parquet").to_pylist()
    assert [row["record_id"] for row in rejected] == [without[0].record_id]
    assert is_current(tmp_path / "encode", "encode", stage_config(CONFIG, KINDS, PLAN), inputs)
    assert not is_current(tmp_path / "encode", "encode", stage_config(EncodeConfig(), KINDS, PLAN), inputs)


def test_a_record_goes_whole_if_one_of_its_documents_is_too_long(tmp_path: Path) -> None:
    long = record(trace="So 3 + 4 = 7. " * 40, index=1)
    inputs = prepare(tmp_path, [record(), long])
    plan = PlanConfig(capacity=100, packs_per_step=1, overlong="drop")
    run(CONFIG, KINDS, plan, tmp_path / "encode", **inputs)
    counts = read_manifest(tmp_path / "encode")["counts"]
    assert (counts["in"], counts["out"], counts["rejected"]) == (2, 1, {"overlong": 1})
    (lost,) = load_layout(CONFIG, inputs["tokenizer"]).encode([long], KINDS)
    assert sum(counts["tokens_lost"].values()) == sum(len(d.tokens) for d in lost.documents.values())
    assert len(TokenStore(tmp_path / "encode" / "tokens.arrow", KINDS)) == 2


@pytest.mark.parametrize(("template", "turn"), [(made.THINKING, "template"), (made.HEADERS, "template"),
                                                (made.PREFILLING, "generated")])  # fmt: skip
def test_two_tasks_in_a_chat(tmp_path: Path, template: str, turn: str) -> None:
    made.save(tmp_path, template)
    config = EncodeConfig.model_validate(
        {"template": "chat", "turn": turn, "two_task": {}, "tokenizer": {"path": str(tmp_path)}}
    )
    layout = load_layout(config, tmp_path)
    (encoded,) = layout.encode([record()], KINDS)
    assert encoded.refused is None
    texts = [layout.answer.backend.decode(d.tokens, skip_special_tokens=False) for d in encoded.documents.values()]
    wanted = (
        (f"[rationale] {QUESTION}", f"<think>\n{TRACE}\n</think>"),
        (f"[label] {QUESTION}", "<think>\n\n</think>\n\n7<"),
    )
    for text, parts in zip(texts, wanted, strict=True):
        assert [part in text for part in parts] == [True, True]
    asked = layout.prompt_ids(QUESTION)
    label = encoded.documents["#answer"].tokens.tolist()
    assert label[: len(asked)] == asked
    assert layout.read(label[len(asked) :])[1:4] == ("", "7", True)
    assert layout.asking(QUESTION) == ([{"role": "user", "content": f"[label] {QUESTION}"}], {})


def test_a_stage_with_a_chat_template_counts_what_it_met(tmp_path: Path) -> None:
    made.save(tmp_path / "given", made.THINKING, think=False)
    train = [record(index=0), record(trace="\nLet me add.\n3 + 4 = 7.", index=1), record("Say <|im_end|>", index=2)]
    inputs = prepare(tmp_path, train)
    inputs["tokenizer"] = tmp_path / "chat"
    config = EncodeConfig.model_validate({"template": "chat", "tokenizer": {"path": str(tmp_path / "given")}})
    where = {"sample": inputs["sample"], "select": inputs["select"]}
    with pytest.raises(InputError, match="lacks the control symbol <think>"):  # which the plain layout needs
        run_tokenizer(config.tokenizer, tmp_path / "chat", **where)
    run_tokenizer(config.tokenizer, tmp_path / "chat", **where, plain=False)
    run(config, KINDS, PLAN, tmp_path / "encode", **inputs)
    manifest = read_manifest(tmp_path / "encode")
    counts = conserved(manifest)
    assert (counts["in"], counts["out"], counts["rejected"]) == (3, 2, {"control_in_text": 1})
    assert counts["notes"] == {"straddling_tokens": 2, "trimmed_trace": 1}
    assert manifest["form"]["stop"] == "<|im_end|>"
    store = TokenStore(tmp_path / "encode" / "tokens.arrow", KINDS)
    assert {int(store.tokens(i)[-1]) for i in range(2)} == {manifest["special_ids"]["eos"]}


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"two_task": {"trace_prefix": "a", "answer_prefix": "a"}}, "must differ"),
        ({"two_task": {}, "trace": "drop"}, "two_task trains on traces"),
        ({"system": "x"}, "encode.system needs encode.template: chat"),
        ({"variables": {"a": 1}}, "encode.variables needs"),
        ({"turn": "generated"}, "encode.turn needs"),
        ({"template": "chat"}, "needs encode.tokenizer.path"),
    ],
)
def test_keys_that_do_not_fit_together_are_refused(keys: dict, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        EncodeConfig.model_validate(keys)

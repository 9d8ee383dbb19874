"""Evaluation: judging what was written, losses by kind against plain transformers, and the stage as a whole."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import chat_templates as made
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from scripted_student import script
from tiny_export import RECIPE as TINY
from tiny_export import WORDS, save_tokenizer, tiny_config, tiny_model
from transformers import AutoTokenizer

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.intervals import wilson
from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.base.schema import QUESTION_SCHEMA, write_rows
from tracestill.data_pipeline.base.stage import is_current, read_manifest, stage
from tracestill.data_pipeline.documents.encode import load_layout
from tracestill.data_pipeline.tokens.store import TokenStore, TokenStoreWriter
from tracestill.kernels.attention import SDPA, register
from tracestill.trainer.evaluation import asking, baseline, evaluate
from tracestill.trainer.export.export import export
from tracestill.trainer.losses import losses
from tracestill.trainer.losses.intervals import mean_interval
from tracestill.trainer.ranks import threads
from tracestill.trainer.recipe.recipe import Recipe
from tracestill.trainer.recipe.run_directory import RunDirectory
from tracestill.trainer.student.student import Student

KINDS = Kinds()
QUESTIONS = [
    {"question": "1 + 2", "gold": "3"},
    {"question": "2 + 2", "gold": "4"},
    {"question": "2 + 6 add 1", "gold": "9"},
    {"question": "5 + 0", "gold": "5"},
    {"question": "7 + 1", "gold": "8"},
]


def ids_of(text: str) -> list[int]:
    return [WORDS.index(word) for word in text.split()]


def make_documents(count: int, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray, float]]:
    """Tokens, kinds and record weight of documents of 2 to 40 tokens with kinds in any order."""
    draw = np.random.default_rng(seed)
    found = []
    for length in draw.integers(2, 41, size=count):
        kinds = draw.choice([KINDS.id(name) for name in ("prompt", "derive", "check", "answer", "control")], length)
        found.append((draw.integers(3, len(WORDS), size=length), kinds, float(draw.choice([0.0, 0.3, 2.0]))))
    return found


def write_store(path: Path, documents: list[tuple[np.ndarray, np.ndarray, float]]) -> TokenStore:
    with TokenStoreWriter(path, KINDS) as writer:
        for i, (tokens, kinds, weight) in enumerate(documents):
            writer.add(f"r{i}", f"q{i}", tokens, kinds, np.zeros_like(tokens), weight)
    return TokenStore(path)


def one_by_one(model, documents) -> dict[str, dict[str, float]]:
    """Loss, accuracy and count of each kind in float64: every document alone, plain logits, no packing."""
    rows: dict[str, list[tuple[float, bool]]] = {}
    model = model.double()
    for tokens, kinds, _ in documents:
        with torch.no_grad():
            chances = model(torch.as_tensor(tokens)[None]).logits[0].log_softmax(-1)
        for i in range(len(tokens) - 1):
            target = int(tokens[i + 1])
            row = (-float(chances[i, target]), int(chances[i].argmax()) == target)
            rows.setdefault(KINDS.names[kinds[i + 1]], []).append(row)
    return {
        name: {
            "loss": sum(nll for nll, _ in found) / len(found),
            "accuracy": sum(hit for _, hit in found) / len(found),
            "count": len(found),
        }
        for name, found in rows.items()
    }


RECIPE = {**TINY, "evaluate": {"max_new_tokens": 30, "batch_size": 2}}


@pytest.fixture
def run_directory(tmp_path: Path) -> RunDirectory:
    """A run whose stages before evaluate have finished, with five held-out questions and twelve documents."""
    recipe = Recipe.model_validate(RECIPE)
    run = RunDirectory.create(tmp_path / "runs" / "tiny", recipe)
    train_row = {"question_id": "t", "question": "0 + 0", "gold": "0", "split": "train", "group": "", "metadata": "{}"}
    rows = [{**train_row, "question_id": f"q{i}", "split": "test", **row} for i, row in enumerate(QUESTIONS)]
    with stage(run.stage("traces", "sample"), "sample", {}, {}) as work:
        write_rows(work.path / "questions.parquet", [train_row, *rows], QUESTION_SCHEMA)
    with stage(run.stage("traces", "encode"), "encode", {}, {}) as work:
        write_store(work.path / "test.arrow", make_documents(12))
    save_tokenizer(tmp_path / "tokenizer")
    with stage(run.stage("traces", "train"), "train", {}, {}) as work:
        export(
            tiny_model(vocab_size=len(WORDS)),
            tmp_path / "tokenizer",
            work.path / "export",
            title="tiny",
            recipe="",
            counts={},
        )
    return run


def evaluate_run(run: RunDirectory, **changes: object) -> tuple[dict, list[dict]]:
    recipe = run.recipe.model_copy(update={"evaluate": run.recipe.evaluate.model_copy(update=changes)})
    directory = run.stage("traces", "evaluate")
    evaluate.run(RunDirectory(run.root, recipe), "traces")
    result = json.loads((directory / "result.json").read_text())
    return result, pq.read_table(directory / "predictions.parquet").to_pylist()


def test_every_way_of_answering_is_judged(run_directory: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    written = [
        "<think> 1 add 2 is 3 </think> 3 </s>",
        "<think> 2 add 2 is 5 </think> 5 </s>",
        "<think> </think> 9",  # the right answer, but cut off
        "<think> so 5 5 5 </s>",  # the right answer, but inside a trace that never closes
        "so 7 add 1 is 8 </s>",  # no think block, as a model writes that was never trained on the layout
    ]
    asked, _ = script(monkeypatch, [ids_of(text) for text in written], stop=2)
    result, rows = evaluate_run(run_directory)
    assert [one.ids for one in asked] == [ids_of(f"<s> {row['question']}") for row in QUESTIONS]
    assert [row["question_id"] for row in rows] == ["q0", "q1", "q2", "q3", "q4"]
    assert [row["gold"] for row in rows] == ["3", "4", "9", "5", "8"]
    assert [row["answer"] for row in rows] == ["3", "5", None, None, "8"]
    assert [row["read_by"] for row in rows] == ["whole", "whole", "cut_off", "unclosed", "last_number"]
    assert [row["correct"] for row in rows] == [True, False, False, False, True]
    assert [row["finished"] for row in rows] == [True, True, False, True, True]
    assert [row["in_form"] for row in rows] == [True, True, False, False, False]
    assert [row["trace_tokens"] for row in rows] == [5, 5, 0, 4, 6]
    assert [row["tokens"] for row in rows] == [9, 9, 3, 6, 7]
    assert rows[0]["trace"].split() == ["1", "add", "2", "is", "3"]
    assert rows[0]["text"].split() == written[0].split()
    assert (result["questions"], result["accuracy"], result["truncated"]) == (5, 0.4, 1)
    assert result["in_form"] == 2
    assert result["read_by"] == {"cut_off": 1, "last_number": 1, "unclosed": 1, "whole": 2}
    assert result["trace_tokens_mean"] == 20 / 5
    assert result["accuracy_low"] < 0.4 < result["accuracy_high"]


def test_students_are_asked_as_the_recipe_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every setting differs from its default."""
    asked, told = script(monkeypatch, [[2]] * 5, stop=2)
    how = {"max_new_tokens": 21, "batch_size": 3, "batch_tokens": 77, "temperature": 0.7}
    recipe = Recipe.model_validate({**RECIPE, "seed": 11, "evaluate": how})
    save_tokenizer(tmp_path / "tokenizer")
    layout = load_layout(recipe.encode, tmp_path / "tokenizer")
    choice = threads.ThreadChoice([1, 2])
    questions = [{"question_id": f"q{i}", **row} for i, row in enumerate(QUESTIONS)]
    evaluate.answer(recipe, questions, asking.LocalAsker(tiny_model(), layout, recipe, choice), print)
    assert told == {
        "batch_size": 3,
        "batch_tokens": 77,
        "seed": 11,
        "stops": (2,),
        "pad_id": 0,
        "progress": print,
        "threads": choice,
    }
    assert {(one.limit, one.temperature) for one in asked} == {(21, 0.7)}


def test_losses_by_kind_match_plain_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several rows, a document longer than a row, and record weights that must not count."""
    monkeypatch.setattr(losses, "ROW_TOKENS", 37)
    documents = make_documents(30, seed=1)
    assert max(len(tokens) for tokens, _, _ in documents) > 37
    store = write_store(tmp_path / "test.arrow", documents)
    model = tiny_model(seed=4)
    model.set_attn_implementation(register(SDPA))
    student = Student(model, num_kinds=len(KINDS)).eval()
    got = losses.teacher_forced(student, store, torch.device("cpu"))
    wanted = one_by_one(tiny_model(seed=4), documents)
    assert got.keys() == wanted.keys()
    for name, found in wanted.items():
        assert {key: got[name][key] for key in found} == pytest.approx(found, rel=1e-5)
    alone = [one_by_one(tiny_model(seed=4), [document]) for document in documents]
    for name in wanted:
        rows = [row[name] for row in alone if name in row]
        sums, counts = (
            np.array(v) for v in zip(*((row["loss"] * row["count"], row["count"]) for row in rows), strict=True)
        )
        interval = mean_interval(sums, counts, [str(i) for i in range(len(rows))])
        assert (got[name]["loss_low"], got[name]["loss_high"]) == pytest.approx(interval, rel=1e-4)


def test_as_many_documents_share_a_row_as_fit(tmp_path: Path) -> None:
    store = write_store(tmp_path / "test.arrow", make_documents(40))  # with their kinds, more than a byte tells apart
    assert len(losses.rows_of(store.lengths, losses.ROW_TOKENS)) == 1
    model = tiny_model(seed=4)
    model.set_attn_implementation(register(SDPA))
    got = losses.teacher_forced(Student(model, num_kinds=len(KINDS)).eval(), store, torch.device("cpu"))
    for name, found in one_by_one(tiny_model(seed=4), make_documents(40)).items():
        assert {key: got[name][key] for key in found} == pytest.approx(found, rel=1e-5)


def test_rows_hold_every_document_once() -> None:
    lengths = np.array([5, 9, 2, 40, 3, 3, 8, 2])
    rows = losses.rows_of(lengths, 10)
    assert sorted(np.concatenate(rows).tolist()) == list(range(8))
    assert [lengths[row].tolist() for row in rows] == [[2, 2, 3, 3], [5], [8], [9], [40]]
    kept = losses.rows_of(lengths, 10, order=range(7))
    assert [row.tolist() for row in kept] == [[0], [1], [2], [3], [4, 5], [6]], "in the order given"
    assert losses.rows_of(lengths, 10, order=[]) == []


def test_a_run_is_evaluated(run_directory: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    directory = run_directory.stage("traces", "evaluate")
    assert evaluate.main(["--run-dir", str(run_directory.root)]) == 0
    rows = pq.read_table(directory / "predictions.parquet").to_pylist()
    assert [row["read_by"] for row in rows if row["correct"]] == ["last_number"], "a random student, right by chance"
    assert capsys.readouterr().out.startswith("traces: accuracy 20.0% (3.6% to 62.4%) on 5 questions")
    model = tiny_model(vocab_size=len(WORDS))
    for row in rows:  # greedy continuations by plain transformers, one at a time
        prompt = torch.tensor([ids_of(f"<s> {row['question']}")])
        alone = model.generate(prompt, do_sample=False, max_new_tokens=30, eos_token_id=2, pad_token_id=0)
        assert ids_of(row["text"]) == alone[0, prompt.shape[1] :].tolist()
    result = json.loads((directory / "result.json").read_text())
    assert result["questions"] == len(rows) == 5
    assert result["documents"] == 12
    wanted = one_by_one(tiny_model(vocab_size=len(WORDS)), make_documents(12))
    assert result["kinds"].keys() == wanted.keys()
    for name, found in wanted.items():
        assert {key: result["kinds"][name][key] for key in found} == pytest.approx(found, rel=1e-5)
    manifest = read_manifest(directory)
    assert manifest is not None
    assert manifest["stage"] == "evaluate"
    assert manifest["inputs"].keys() == {"train", "sample", "encode"}
    assert is_current(directory, "evaluate", *run_directory.evaluate_stage("traces"))


def untrained(run: RunDirectory, tmp_path: Path, student: dict) -> RunDirectory:
    """The run with an arm ``before`` that is not trained, its tokenizer and documents there."""
    recipe = Recipe.model_validate(
        {
            **run.recipe.model_dump(mode="json"),
            "train": {"epochs": 3, "warmup": 5, "precision": "fp32"},
            "arms": {"before": {"train": "none", "student": student}},
        }
    )
    with stage(run.stage("traces", "tokenizer"), "tokenizer", {}, {}) as work:
        save_tokenizer(work.path)
    held = RunDirectory.create(run.root, recipe, replace=True)
    with stage(held.stage("before", "encode"), "encode", {}, {}) as work:
        write_store(work.path / "test.arrow", make_documents(12))
    return held


def test_threads_are_as_before_an_evaluation(run_directory: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "usable_cores", lambda: 1)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        result, _ = evaluate_run(run_directory)
        assert result["threads"] == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_an_untrained_student_keeps_its_buffers_as_they_are(
    run_directory: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RoPE's frequencies in bf16 would be off by radians at long positions; those of an export are in fp32."""
    config = {k: v for k, v in tiny_config().items() if k != "vocab_size"}
    run = untrained(run_directory, tmp_path, {"config": config})
    monkeypatch.setattr(baseline, "training_dtype", lambda settings, device: torch.bfloat16)
    model = baseline.untrained_student(
        run.recipe.for_arm("before"), run.stage("before", "tokenizer"), torch.device("cpu")
    ).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert {buffer.dtype for name, buffer in model.named_buffers() if "inv_freq" in name} == {torch.float32}


@pytest.mark.parametrize("source", ["config", "pretrained"])
def test_a_student_before_training_is_evaluated(run_directory: RunDirectory, tmp_path: Path, source: str) -> None:
    """As its export would be: the same answers by plain transformers, the same losses. Its own generation settings,
    such as a repetition penalty, play no part."""
    config = {k: v for k, v in tiny_config().items() if k != "vocab_size"}
    if source == "pretrained":
        theirs = tiny_model(seed=3, vocab_size=len(WORDS))
        theirs.generation_config.repetition_penalty = 50.0
        theirs.save_pretrained(tmp_path / "model")
        theirs.generation_config.repetition_penalty = None
        student = {"config": None, "pretrained": str(tmp_path / "model")}
    else:
        theirs, student = tiny_model(seed=0, vocab_size=len(WORDS)), {"config": config}
    run = untrained(run_directory, tmp_path, student)
    own = run.recipe.for_arm("before")
    assert (own.train.trains, own.train.precision, own.train.warmup) == (False, "fp32", 5)
    evaluate.run(run, "before")
    directory = run.stage("before", "evaluate")
    assert is_current(directory, "evaluate", *run.evaluate_stage("before"))
    rows = pq.read_table(directory / "predictions.parquet").to_pylist()
    assert len(rows) == 5
    for row in rows:
        prompt = torch.tensor([ids_of(f"<s> {row['question']}")])
        alone = theirs.generate(prompt, do_sample=False, max_new_tokens=30, eos_token_id=2, pad_token_id=0)
        assert ids_of(row["text"]) == alone[0, prompt.shape[1] :].tolist()
    result = json.loads((directory / "result.json").read_text())
    for name, found in one_by_one(theirs, make_documents(12)).items():
        assert {key: result["kinds"][name][key] for key in found} == pytest.approx(found, rel=1e-5)


def test_any_model_is_evaluated_beside_the_arms(run_directory: RunDirectory, tmp_path: Path) -> None:
    """Another tokenizer and layout: it is asked by its own template, and read as the arms are."""
    theirs = tmp_path / "instruct"
    made.save(theirs, made.CHATML)
    auto = AutoTokenizer.from_pretrained(theirs)
    model = tiny_model(seed=5, vocab_size=len(auto), max_position_embeddings=256)
    model.generation_config.eos_token_id = [auto.eos_token_id, auto.convert_tokens_to_ids("<|im_end|>")]
    model.save_pretrained(theirs)
    evaluate.run_model(run_directory, "instruct", theirs)
    rows = pq.read_table(run_directory.model("instruct") / "predictions.parquet").to_pylist()
    assert [row["gold"] for row in rows] == ["3", "4", "9", "5", "8"]
    for row in rows:
        messages = [{"role": "user", "content": row["question"]}]
        ids = auto.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt").input_ids
        alone = model.generate(ids, do_sample=False, max_new_tokens=30)[0, ids.shape[1] :]
        assert row["text"] == auto.decode(alone)
    assert run_directory.models() == {"instruct": run_directory.model("instruct")}
    config, inputs = run_directory.model_stage(theirs)
    assert is_current(run_directory.model("instruct"), "evaluate", config, inputs)
    (theirs / "merges.txt").write_text("changed")
    assert not is_current(run_directory.model("instruct"), "evaluate", *run_directory.model_stage(theirs))
    with pytest.raises(InputError, match="no model of transformers"):
        evaluate.run_model(run_directory, "x", tmp_path / "tokenizer")


def test_a_model_with_fewer_embeddings_than_tokens_is_refused(run_directory: RunDirectory, tmp_path: Path) -> None:
    theirs = tmp_path / "instruct"
    made.save(theirs, made.CHATML)
    tiny_model(vocab_size=7).save_pretrained(theirs)
    with pytest.raises(InputError, match="but the model 7 embeddings"):
        evaluate.run_model(run_directory, "instruct", theirs)


def test_questions_may_be_fewer_and_documents_absent(run_directory: RunDirectory) -> None:
    (run_directory.stage("traces", "encode") / "test.arrow").unlink()
    result, rows = evaluate_run(run_directory, questions=2, temperature=1.0)
    assert (result["questions"], result["documents"], result["kinds"]) == (2, 0, {})
    assert [row["question_id"] for row in rows] == ["q0", "q1"]


@pytest.mark.parametrize(("correct", "trials"), [(0, 5), (5, 5), (30, 300), (243, 300)])
def test_wilson_solves_its_equation(correct: int, trials: int) -> None:
    """Its ends are the proportions p whose z-score (k/n - p) / sqrt(p (1 - p) / n) is +-1.96."""
    low, high = wilson(correct, trials)
    assert 0 <= low <= correct / trials <= high <= 1
    for end in (low, high):
        if 1e-9 < end < 1 - 1e-9:
            score = abs(correct / trials - end) / math.sqrt(end * (1 - end) / trials)
            assert score == pytest.approx(1.959963984540054)
    assert low == pytest.approx(0) if correct == 0 else low > 0
    assert high == pytest.approx(1) if correct == trials else high < 1


def test_what_is_missing_is_named(run_directory: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    questions = run_directory.stage("traces", "sample") / "questions.parquet"
    rows = [row for row in pq.read_table(questions).to_pylist() if row["split"] == "train"]
    write_rows(questions, rows, QUESTION_SCHEMA)
    with pytest.raises(InputError, match=r"holds no question of the split 'test'; set questions.test"):
        evaluate_run(run_directory)
    shutil.rmtree(run_directory.stage("traces", "train"))
    with pytest.raises(InputError, match=r"no exported student; run `tracestill train` first"):
        evaluate_run(run_directory)
    assert not run_directory.stage("traces", "evaluate").exists()
    assert evaluate.main(["--run-dir", str(run_directory.root), "--arm", "trace"]) == 2
    assert "did you mean 'traces'?" in capsys.readouterr().err


def test_as_a_process_an_error_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tracestill.trainer.evaluation.evaluate", "--run-dir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error: {tmp_path}: not a run directory")

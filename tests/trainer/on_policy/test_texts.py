"""What becomes of a refresh's texts: documents, cut at the horizon; in = out + rejected."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from own_texts import WIDE, prepared, recipe
from transformers import LlamaConfig, LlamaForCausalLM

from tracestill.data_pipeline.base.schema import read_rows, write_rows
from tracestill.trainer.faults.leaving import meetings
from tracestill.trainer.measures.unasked import OVERLONG, REFUSED, Unasked
from tracestill.trainer.on_policy.texts import PARTS, TEXT_SCHEMA, TEXTS, WRITTEN, Author, held
from tracestill.trainer.recipe.recipe import Recipe
from tracestill.trainer.recipe.run_directory import RunDirectory
from tracestill.trainer.writing.decoding import Written


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("texts"))[0]


def author(data, own: Recipe) -> Author:
    run = RunDirectory(data, own)
    job = SimpleNamespace(
        recipe=own,
        run=run,
        arm="traces",
        tokenizer=run.stage("traces", "tokenizer"),
        engine=SimpleNamespace(rank=0, ranks=1),
        progress=SimpleNamespace(step=0),
    )
    return Author(job)  # type: ignore[arg-type]


def joined(of: Author, directory, texts):
    """The refresh made of these texts to the first questions, one each; None: the question was refused."""
    chosen = of.chosen(0)
    prompts = [of.layout.prompt_ids(row["posed"]) for row in chosen]
    rows = []
    for place, ids in enumerate(texts):
        if ids is None:
            rows.append(of.refused(chosen[place], 0, Unasked(REFUSED, "its text holds <think>")))
            continue
        text = Written(ids, [-0.5] * len(ids), ids[-1] == of.layout.stops[0])
        rows.append({**of.row(chosen[place], 0, text), "prompt": len(prompts[place])})
    (directory / PARTS).mkdir(parents=True)
    write_rows(directory / PARTS / "00000.parquet", held(rows), TEXT_SCHEMA)
    of.join(directory, 0, chosen)
    return of.read(directory), read_rows(directory / WRITTEN / TEXTS, TEXT_SCHEMA), prompts


def test_documents_end_at_the_horizon_and_all_texts_are_accounted_for(data, tmp_path):
    of = author(data, recipe("none", {"horizon": 4, "questions": 4}))
    stop = of.layout.stops[0]
    long = [of.layout.pad + 7] * 9
    texts, rows, prompts = joined(of, tmp_path / "r", [[*long[:2], stop], long, None, [*long, stop]])
    assert texts.counts["in"] == 4
    assert texts.counts["out"] == len(texts.store) == 3
    assert texts.counts["rejected"] == {"control_in_text": 1}
    assert texts.counts["cut_off"] == 1
    assert texts.counts["tokens"] == 3 + 9 + 10, "of whole texts"
    written = [len(row["ids"]) for row in rows if not row["reason"]]
    assert written == [3, 9, 10]
    kept = [int(n) - len(prompts[place]) for n, place in zip(texts.store.lengths, (0, 1, 3), strict=True)]
    assert kept == [3, 4, 4]
    for document, place in enumerate((0, 1, 3)):
        own = len(texts.store.tokens(document)) - len(prompts[place])
        assert texts.then(document).tolist() == [0.0] * len(prompts[place]) + [0.5] * own
        assert texts.store.tokens(document)[: len(prompts[place])].tolist() == prompts[place]


def test_what_does_not_fit_a_pack_is_rejected_and_counted(data, tmp_path):
    of = author(data, recipe("none", {"questions": 2}))
    prompt = len(of.layout.prompt_ids(of.chosen(0)[0]["posed"]))
    of.job.recipe = of.job.recipe.model_copy(
        update={"plan": of.job.recipe.plan.model_copy(update={"capacity": prompt + 5})}
    )
    texts, rows, _ = joined(of, tmp_path / "r", [[of.layout.pad + 7] * 9, [of.layout.pad + 7] * 3])
    assert texts.counts["rejected"] == {"overlong": 1}
    assert (texts.counts["in"], texts.counts["out"], len(texts.store), len(texts.rows)) == (2, 1, 1, 1)
    assert [row["reason"] for row in rows] == ["overlong", ""]
    assert rows[0]["text"], "what was written stays"


def test_refreshes_take_questions_in_turn(data):
    of = author(data, recipe("none", {"questions": 5}))
    asked = [row["question_id"] for number in range(12) for row in of.chosen(number)]
    count = len(of.questions)
    assert count == 12
    assert all(len(set(asked[at : at + count])) == count for at in range(0, 60, count))


def test_a_question_that_leaves_no_room_is_rejected_and_ends_no_training(data, tmp_path):
    of = author(data, recipe("none", {"questions": 4, "samples": 2, "max_new_tokens": 6}))
    chosen = of.chosen(0)
    chosen[1] = {**chosen[1], "posed": chosen[1]["posed"] * 9}
    longest = max(len(of.layout.prompt_ids(chosen[place]["posed"])) for place in (0, 2, 3))
    shape = {**WIDE, "vocab_size": of.layout.size, "max_position_embeddings": longest + 6}
    del shape["model_type"]
    model = LlamaForCausalLM(LlamaConfig(**shape)).eval()
    (tmp_path / PARTS).mkdir()
    of.job.phase = lambda name: None  # type: ignore[method-assign]
    of.share(model, 0, chosen, tmp_path / PARTS, lambda *about: meetings(bool))
    of.join(tmp_path, 0, chosen)
    texts = of.read(tmp_path)
    assert texts.counts["rejected"] == {OVERLONG: 2}
    assert (texts.counts["in"], texts.counts["out"], len(texts.store)) == (8, 6, 6)
    assert texts.counts["tokens_mean"] == texts.counts["tokens"] / 6, "of texts that were written"

"""What encode writes beside the store of each training document, and how plans of mixtures read it."""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from encode_cases import KINDS, prepare, record

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.schema import QUESTION_SCHEMA, RECORD_SCHEMA, read_rows, write_rows
from tracestill.data_pipeline.base.stage import read_manifest
from tracestill.data_pipeline.documents.encode import EncodeConfig, run, stage_config
from tracestill.data_pipeline.documents.facts import difficulties
from tracestill.data_pipeline.plan import plan_stage
from tracestill.data_pipeline.plan.plan import PlanConfig, load_plan
from tracestill.data_pipeline.tokens.columns import FILE
from tracestill.data_pipeline.tokens.store import TokenStore
from tracestill.data_pipeline.yields.table import VERDICTS

MIXED = {"parts": {"easy": {"share": 1, "where": {"difficulty": {"max": 0.4}}}, "rest": {"share": 1}}}


def planning(**more):
    return PlanConfig(**{"capacity": 512, "packs_per_step": 2, **more})


@pytest.fixture
def stages(tmp_path):
    """Three training questions, of one of which two of three samples are wrong, and a held-out one."""
    train = [record(f"What is 3 + {i}?", index=i) for i in range(3)]
    inputs = prepare(tmp_path, train, test=[record("What is 9 + 9?")])
    sample = inputs["sample"]
    asked = {row["question_id"]: row for row in read_rows(sample / "questions.parquet", QUESTION_SCHEMA)}
    levels = {train[i].question_id: f'{{"level": {i}, "topic": "t{i}"}}' for i in range(3)}
    rows = [
        {**row, "metadata": levels.get(id_, "{}"), "source": "sums.jsonl", "group": "g"} for id_, row in asked.items()
    ]
    write_rows(sample / "questions.parquet", rows, QUESTION_SCHEMA)
    sampled = [
        *train,
        *(replace(train[1], record_id=f"wrong {i}", answer=answer) for i, answer in enumerate(("8", " "))),
    ]
    write_rows(sample / "records.parquet", [{**vars(r), "spans": []} for r in sampled], RECORD_SCHEMA)
    write_verdicts(inputs["select"], sampled, lambda r: r.answer == "7")
    return inputs, train


def write_verdicts(select, sampled, is_right):
    """What `select` says of records, whatever their answers are."""
    flags = dict.fromkeys(("read", "answered", "sound", "distinct", "kept"), True)
    rows = [{**vars(r), **flags, "right": is_right(r), "reason": ""} for r in sampled]
    write_rows(select / "verdicts.parquet", [{name: row[name] for name in VERDICTS.names} for row in rows], VERDICTS)


def encoded(tmp_path, inputs, plan, name="encode", **config):
    run(EncodeConfig(**config), KINDS, plan, tmp_path / name, **inputs)
    return tmp_path / name


def test_each_document_has_a_row_in_the_order_of_the_store(tmp_path, stages):
    inputs, train = stages
    plan = planning(
        order="level", mixture={"parts": {"a": {"share": 1, "where": {"topic": "t1"}}, "rest": {"share": 1}}}
    )
    out = encoded(tmp_path, inputs, plan)
    store, table = TokenStore(out / "tokens.arrow", KINDS), pq.read_table(out / FILE)
    rows = table.to_pylist()
    assert [row["id"] for row in rows] == store.ids == [r.record_id for r in train]
    assert table.schema.field("level").type == pa.float64()
    trace = [KINDS.id(name) for name in KINDS.members("trace")]
    for at, row in enumerate(rows):
        assert row == {
            "id": train[at].record_id,
            "record_id": train[at].record_id,
            "question_id": train[at].question_id,
            "teacher": "solver",
            "style": "",
            "source": "sums.jsonl",
            "group": "g",
            "difficulty": pytest.approx((0, 2 / 3, 0)[at]),
            "trace_tokens": sum(int(kind) in trace for kind in store.kinds(at)),
            "level": float(at),
            "topic": f"t{at}",
        }
    manifest = read_manifest(out)
    assert FILE in manifest["files"]
    plan_stage.run(tmp_path / "plan", out, plan, seed=0, steps=None, epochs=1)
    assert set(load_plan(tmp_path / "plan" / "epoch-000").documents.tolist()) == {0, 1, 2}


def test_samples_that_could_not_be_read_make_a_question_harder(stages):
    inputs, train = stages
    ids = {"record_id": "x", "question_id": train[0].question_id, "teacher": "solver", "style": ""}
    row = {**ids, "temperature": 1.0, "reason": "unfinished"}
    pq.write_table(pa.Table.from_pylist([row]), inputs["sample"] / "rejected.parquet")
    found = difficulties(inputs["sample"], inputs["select"])
    assert [found[r.question_id] for r in train] == pytest.approx([1 / 2, 2 / 3, 0])


def test_the_recipes_verifier_says_what_is_right(stages):
    inputs, train = stages
    write_verdicts(inputs["select"], train, lambda r: r is train[1])
    found = difficulties(inputs["sample"], inputs["select"])
    assert [found[r.question_id] for r in train] == [1, 0, 1]


def test_both_documents_of_two_tasks_have_one(tmp_path, stages):
    inputs, train = stages
    out = encoded(tmp_path, inputs, planning(), two_task={})
    rows = pq.read_table(out / FILE).to_pylist()
    assert [row["id"] for row in rows] == TokenStore(out / "tokens.arrow", KINDS).ids
    assert [row["record_id"] for row in rows] == [r.record_id for r in train for _ in range(2)]


def test_only_columns_of_metadata_change_the_stage(tmp_path, stages):
    plain = stage_config(EncodeConfig(), KINDS, planning())
    assert stage_config(EncodeConfig(), KINDS, planning(mixture=MIXED, order="difficulty")) == plain
    assert stage_config(EncodeConfig(), KINDS, planning(order="level")) == {**plain, "columns": ["level"]}
    with pytest.raises(InputError, match=r"no question has 'levl' .*level, topic.*did you mean 'level'"):
        encoded(tmp_path, stages[0], planning(order="levl"))


def test_a_store_of_an_earlier_version_is_planned_unless_a_recipe_needs_the_table(tmp_path, stages):
    out: Path = encoded(tmp_path, stages[0], planning())
    (out / FILE).unlink()
    plan_stage.run(tmp_path / "a", out, planning(order="length"), seed=0, steps=1, epochs=None)
    plan_stage.run(tmp_path / "b", out, planning(), seed=0, steps=1, epochs=None)
    with pytest.raises(InputError, match=r"documents\.parquet: is missing.*encode again"):
        plan_stage.run(tmp_path / "c", out, planning(mixture=MIXED), seed=0, steps=1, epochs=None)


def test_the_stage_counts_what_no_epoch_holds_and_steps_that_differ(tmp_path, stages):
    out = encoded(tmp_path, stages[0], planning())
    parts = {"easy": {"share": 1, "where": {"difficulty": 0}}, "rest": {"share": 0}}
    plan_stage.run(tmp_path / "plan", out, planning(mixture={"parts": parts}), seed=0, steps=3, epochs=None)
    manifest = read_manifest(tmp_path / "plan")
    assert manifest["counts"] == {"in": 3, "out": 2, "rejected": {"left_out": 1}}
    assert manifest["statistics"]["mixture"]["rest"]["left_out"] == 1
    assert manifest["epochs"] == 3, "of one step each"

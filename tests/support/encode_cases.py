"""Records for tests of encoding, and finished stages that hold them."""

from __future__ import annotations

from dataclasses import asdict, replace

from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.base.schema import (
    QUESTION_SCHEMA,
    RECORD_SCHEMA,
    Record,
    content_id,
    write_rows,
)
from tracestill.data_pipeline.base.stage import stage
from tracestill.data_pipeline.plan.plan import PlanConfig
from tracestill.data_pipeline.segmentation.parts import spans_of
from tracestill.data_pipeline.segmentation.rules import rules
from tracestill.data_pipeline.tokens.tokenizer import TokenizerConfig
from tracestill.data_pipeline.tokens.tokenizer import run as run_tokenizer

KINDS = Kinds()
PLAN = PlanConfig(capacity=512, packs_per_step=2)
TRACE = "Order 3,4. Let me add. 3 + 4 = 7.\nCheck 7 - 4 = 3."


def record(question="What is 3 + 4?", trace=TRACE, answer="7", spans=None, weight=1.0, index=0):
    spans = spans_of(rules("", trace)) if spans is None else spans
    made = Record(content_id(f"{question} {index}"), content_id(question), question, "7", trace, answer, spans, weight,
                  "solver", "", 1.0, index)  # fmt: skip
    assert replace(made) == made
    return made


def names(ids):
    return [KINDS.names[i] for i in ids]


def prepare(root, train, test=(), validation=()):
    """Finished sample, select and tokenizer stages that hold these records."""
    questions = {r.question_id: {"question_id": r.question_id, "question": r.question, "gold": r.gold, "group": "",
                                 "split": split, "metadata": "{}"}
                 for split, records in (("train", train), ("test", test), ("validation", validation))
                 for r in records}  # fmt: skip
    with stage(root / "sample", "sample", {}, {}) as work:
        write_rows(work.path / "questions.parquet", list(questions.values()), QUESTION_SCHEMA)
    with stage(root / "select", "select", {}, {}) as work:
        rows = [asdict(r) for r in (*test, *validation, *train)]
        write_rows(work.path / "records.parquet", rows, RECORD_SCHEMA)
    inputs = {"sample": root / "sample", "select": root / "select"}
    run_tokenizer(TokenizerConfig(vocab_size=400), root / "tokenizer", **inputs)
    return {**inputs, "tokenizer": root / "tokenizer"}


def conserved(manifest):
    counts = manifest["counts"]
    assert counts["in"] == counts["out"] + sum(counts["rejected"].values())
    assert counts["out"] == sum(split["documents"] for split in counts["splits"].values())
    return counts

"""A student writes the traces of the next round: many samples of each training question, a chunk of texts at a time.

Chunks are fixed by the questions' order and kept beside the result until it is whole, so that a run that is killed
goes on at the next chunk and writes, on a CPU, bit for bit what it would have written: a text is drawn by a hash of its
question and number, and its logits are those of the same batches.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from tracestill.data_pipeline.answers import Verifier
from tracestill.data_pipeline.answers.verifier import verify_config
from tracestill.data_pipeline.base.content import contents
from tracestill.data_pipeline.base.schema import write_rows
from tracestill.data_pipeline.base.stage import CONTENTS, digest_of, identity, stage, write_whole
from tracestill.data_pipeline.documents.encode import load_layout
from tracestill.data_pipeline.rounds.questions import training_questions
from tracestill.data_pipeline.selection.config import CHECKS
from tracestill.data_pipeline.selection.judging import accepted_path
from tracestill.data_pipeline.selection.policy import REPETITION
from tracestill.data_pipeline.soundness.checkers.chain import Checks, own_files
from tracestill.data_pipeline.tokens.layout import Layout
from tracestill.launch.rounds.floor import weights
from tracestill.launch.rounds.recipes import CHUNKS, TRACES, WRITTEN, settings_of, student_of
from tracestill.trainer.evaluation.asking import LocalAsker, Query, Told, is_numeric, key_of, row_of
from tracestill.trainer.evaluation.baseline import exported, load_trained
from tracestill.trainer.evaluation.evaluate import this_device
from tracestill.trainer.evaluation.predictions import verified
from tracestill.trainer.measures.unasked import REFUSED, Unasked, was_asked
from tracestill.trainer.recipe.recipe import MAIN_ARM, Recipe
from tracestill.trainer.recipe.run_directory import RunDirectory
from tracestill.trainer.recipe.verifying import verifier_of

BATCHES = 4  # of texts in a chunk: so much is written anew after a kill
HINT = "{question}\n(The answer is {gold}.)"
SAMPLED, UNSOLVED, HINTED = "sampled", "unsolved", "hinted"
TRACE_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("question_id", "question", "gold", "reasoning", "answer", "teacher")),
        ("weight", pa.float32()),
        ("correct", pa.bool_()),  # the answer
        ("accepted", pa.bool_()),  # and the trace is as select.policy asks; others of its question aside
        ("asked", pa.string()),  # sampled; unsolved: once more; hinted: with the reference answer
        ("tokens", pa.int32()),
    ]
)
REJECTED_SCHEMA = pa.schema([(name, pa.string()) for name in ("question_id", "asked", "reason", "text")])
Progress = Callable[[int, int], None]
Row = dict[str, Any]


def identity_of(recipe: Recipe, first: RunDirectory, before: RunDirectory) -> tuple[dict[str, Any], dict[str, Path]]:
    """Config and input directories of what the student of ``before`` writes for the next round. ``recipe``: that of
    all rounds; ``first``: round 0."""
    settings = settings_of(recipe)
    keys = {"samples", "temperature", "unsolved", "rationalise", "floor", "rare"}
    config = {
        **settings.model_dump(mode="json", include=keys),
        **verify_config(recipe.verify, before.memory),
        "select": solving(recipe, before.memory),
        "max_tokens": settings.max_tokens or recipe.evaluate.max_new_tokens,
        "batch": [recipe.evaluate.batch_size, recipe.evaluate.batch_tokens],  # other batches round otherwise
        "student": student_of(int(before.root.name)),
        "seed": recipe.seed,
    }
    inputs = {"train": before.stage(MAIN_ARM, "train")}
    return config, inputs | {name: first.stage(MAIN_ARM, name) for name in ("sample", "select")}


def solving(recipe: Recipe, memory: Path | None) -> dict[str, Any]:
    """What of ``select`` decides whether a trace solves its question: round 0's records may look the same under it."""
    decides = {"policy", "checks", *REPETITION}
    found = contents({CHECKS: own_files(recipe.select.checks)}, memory)
    return {**recipe.select.model_dump(mode="json", include=decides), **({CONTENTS: found} if found else {})}


def write_traces(
    recipe: Recipe, first: RunDirectory, before: RunDirectory, directory: Path, progress: Progress
) -> dict[str, Any]:
    """Write ``directory``/written: traces.parquet (TRACE_SCHEMA) and rejected.parquet; the counts, in = out + rejected.

    ``progress`` is told texts done and in all. Raises InputError as ``generate.write`` and ``exported`` do.
    """
    config, inputs = identity_of(recipe, first, before)
    own = hashlib.sha256(digest_of(identity(WRITTEN, config, inputs)).encode()).hexdigest()[:16]
    kept = directory / CHUNKS / own
    with stage(directory / WRITTEN, WRITTEN, config, inputs) as work:
        pen = Pen(recipe, before, config, kept, progress)
        rows = pen.all(training_questions(inputs["sample"], recipe.sample))
        good = [row for row in rows if not row["reason"]]
        held = weights(good, settings_of(recipe), inputs["sample"], inputs["select"])
        traces = ({**row, "weight": weight} for row, weight in zip(good, held, strict=True))
        write_rows(
            work.path / TRACES, ({name: row[name] for name in TRACE_SCHEMA.names} for row in traces), TRACE_SCHEMA
        )
        bad = ({name: row[name] for name in REJECTED_SCHEMA.names} for row in rows if row["reason"])
        write_rows(work.path / "rejected.parquet", bad, REJECTED_SCHEMA)
        work.counts = {
            "in": len(rows),
            "out": len(good),
            "rejected": dict(sorted(Counter(row["reason"] for row in rows if row["reason"]).items())),
            "right": sum(row["correct"] for row in good),
            "accepted": sum(row["accepted"] for row in good),
            "questions": len({row["question_id"] for row in rows}),
            "solved": len({row["question_id"] for row in good if row["accepted"]}),
            "asked": dict(sorted(Counter(row["asked"] for row in rows).items())),
            "accepted_of": dict(sorted(Counter(row["asked"] for row in good if row["accepted"]).items())),
            "lifted": sum(weight > 1 for weight in held),
        }
    shutil.rmtree(directory / CHUNKS, ignore_errors=True)
    return work.counts


class Pen:
    """The student at work. The model is loaded where something is left to be written."""

    def __init__(
        self, recipe: Recipe, before: RunDirectory, config: dict[str, Any], kept: Path, progress: Progress
    ) -> None:
        self.recipe, self.before, self.config, self.kept, self.progress = recipe, before, config, kept, progress
        self.source = exported(before.stage(MAIN_ARM, "train"))
        self.layout: Layout = load_layout(recipe.encode, self.source)
        self.verifier: Verifier = verifier_of(recipe, before.root)
        self.checks = Checks(recipe.select.checks, CHECKS)
        self.model: Any = None
        self.done, self.total = 0, 0

    def all(self, questions: Sequence[Row]) -> list[Row]:
        """What was written to every question, one row a text, in the questions' order."""
        settings = settings_of(self.recipe)
        able = [row for row in questions if self.layout.control_in(row["posed"]) is None]
        asked = {row["question_id"] for row in able}
        refused = [self.refused(row, SAMPLED) for row in questions if row["question_id"] not in asked]
        rows = list(self.part(SAMPLED, able, settings.samples))
        if settings.unsolved:
            rows += self.part(UNSOLVED, left(able, rows), settings.unsolved)
        if settings.rationalise:
            open_ = [row for row in left(able, rows) if row["gold"].strip()]
            hinted = [{**row, "posed": HINT.format(question=row["posed"], gold=row["gold"])} for row in open_]
            unable = [row for row in hinted if self.layout.control_in(row["posed"]) is not None]
            rows += self.part(HINTED, [row for row in hinted if row not in unable], settings.samples)
            refused += [self.refused(row, HINTED) for row in unable]
        order = {row["question_id"]: at for at, row in enumerate(questions)}
        return sorted([*rows, *refused], key=lambda row: order[row["question_id"]])  # stable: as they were asked

    def refused(self, question: Row, asked: str) -> Row:
        return {**self.row(question, asked), "reason": REFUSED, "text": question["posed"]}

    def part(self, asked: str, questions: Sequence[Row], samples: int) -> Iterator[Row]:
        """``samples`` texts of each question, by chunks."""
        at_once = max(1, BATCHES * self.recipe.evaluate.batch_size // samples)
        self.total += len(questions) * samples
        self.progress(self.done, self.total)
        for at in range(0, len(questions), at_once):
            some = questions[at : at + at_once]
            file = self.kept / f"{asked}-{at:08d}.json"
            if (rows := chunk_in(file)) is None:
                rows = self.chunk(asked, some, samples)
                file.parent.mkdir(parents=True, exist_ok=True)
                write_whole(file, json.dumps(rows))
            self.done += len(some) * samples
            self.progress(self.done, self.total)
            yield from rows

    def chunk(self, asked: str, questions: Sequence[Row], samples: int) -> list[Row]:
        if self.model is None:
            self.model = load_trained(self.recipe, self.source, this_device())
        queries = [
            Query(
                row["posed"],
                key_of(self.config["student"], asked, row["question_id"]),
                self.config["max_tokens"],
                samples,
                self.config["temperature"],
                numeric=is_numeric(row["gold"]),
            )
            for row in questions
        ]
        written = ask(self.model, self.layout, self.recipe, queries)
        pairs = [
            (row, reply)
            for row, replies in zip(questions, written, strict=True)
            for reply in ([replies] if isinstance(replies, Unasked) else replies)
        ]
        judged = verified([row_of(*pair) for pair in pairs], [row for row, _ in pairs], self.verifier)
        return [
            {
                **self.row(row, asked),
                **{"reasoning": found["trace"], "answer": found["answer"]},
                "text": found["text"] if was_asked(found) else row["posed"],
                **{"correct": found["correct"], "accepted": self.is_accepted(found)},
                **{"tokens": found["tokens"], "reason": reason_of(found)},
            }
            for (row, _), found in zip(pairs, judged, strict=True)
        ]

    def is_accepted(self, found: Row) -> bool:
        """Whether selection will keep it, others of its question aside: a right answer at the end of a false trace
        solves no question, and a floor under it lifts nothing."""
        if not found["correct"] or reason_of(found):
            return False
        return accepted_path(self.recipe.select, {**found, "weight": 1.0}, self.checks) is not None

    def row(self, question: Row, asked: str) -> Row:
        """What is known of a text before it is written."""
        kept = {key: question[key] for key in ("question_id", "question", "gold")}
        said = {"reasoning": "", "answer": None, "tokens": 0, "reason": "", "text": ""}
        judged = {"correct": False, "accepted": False}
        return {**kept, **said, **judged, "teacher": self.config["student"], "asked": asked}


def chunk_in(file: Path) -> list[Row] | None:
    """What a chunk's file holds; None if it is not there, or damaged: then it is written anew."""
    try:
        return list(json.loads(file.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def ask(model: Any, layout: Layout, recipe: Recipe, queries: Sequence[Query]) -> list[Told]:
    """What a student writes to a chunk's queries."""
    return LocalAsker(model, layout, recipe).ask(queries)


def reason_of(found: Row) -> str:
    """Why what was written gives no trace; empty: it does."""
    if not was_asked(found):
        return str(found["read_by"])
    if not found["finished"]:
        return "cut_off"
    if found["answer"] is None:
        return "no_answer"
    return "" if found["trace"].strip() else "no_trace"


def left(questions: Sequence[Row], rows: Sequence[Row]) -> list[Row]:
    """The questions that no trace has solved."""
    solved = {row["question_id"] for row in rows if row["accepted"]}
    return [row for row in questions if row["question_id"] not in solved]

"""The part of evaluation that asks what carries over: held-out questions in other forms, and questions of other tasks.

``asked.parquet`` says what was asked and what was left out, and why; ``variations/NAME.parquet`` what the student
answered in each form; ``copies.parquet`` which held-out questions stand among the training ones.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from tracestill.data_pipeline.answers.verifier import COLUMN, Verifier, VerifyConfig
from tracestill.data_pipeline.base.schema import QUESTION_SCHEMA, Question, read_rows, write_rows
from tracestill.data_pipeline.sampling.asking.kept import Kept, refuse_without_price
from tracestill.data_pipeline.sampling.files.rejected import write_rejected
from tracestill.data_pipeline.sampling.sample_config import make_teachers
from tracestill.data_pipeline.variations.copies import COPIES_SCHEMA, copies
from tracestill.data_pipeline.variations.further import HELD_OUT, Further, further
from tracestill.data_pipeline.variations.known import FIELD, ReworderConfig, chosen
from tracestill.data_pipeline.variations.posed import ASKED_SCHEMA, Posed, posed, without_tag
from tracestill.data_pipeline.variations.reworded import KEPT, reworders
from tracestill.data_pipeline.variations.variation import PLAIN, Variation
from tracestill.trainer.evaluation.asking import Query, is_numeric, key_of
from tracestill.trainer.evaluation.predictions import BY_TOKEN, PREDICTION_SCHEMA, UNDECIDED, not_asked
from tracestill.trainer.measures.matrix import Form, Outcome, Row, matrix
from tracestill.trainer.measures.unasked import Unasked, was_asked
from tracestill.trainer.measures.votes import count_of
from tracestill.trainer.recipe.recipe import Recipe

if TYPE_CHECKING:
    from tracestill.trainer.evaluation.parts import Context

FOLDER = "variations"
VARIED_SCHEMA = pa.schema([
    *(pa.field(name, pa.string()) for name in ("task", "variation")),
    *(column for column in PREDICTION_SCHEMA if column.name not in BY_TOKEN),
])  # fmt: skip


def transfer(context: Context) -> dict[str, Any]:
    """The matrix of tasks and variations (``measures.matrix``); ``tasks``: how many questions each source gave, and
    what became of its other rows; ``left_out``: task -> variation -> reason -> count; ``copies`` by task."""
    settings, tag = context.recipe.evaluate, style_tag(context.recipe)
    others = {name: further(name, config, context.recipe.seed) for name, config in settings.also.items()}
    tasks = {HELD_OUT: [question_of(row) for row in context.questions]}
    tasks |= {name: found.questions for name, found in others.items()}
    verifiers = {name: verifier_of_task(context, config.verify) for name, config in settings.also.items()}
    for name, verifier in verifiers.items():  # before the work of asking
        for question in tasks[name]:
            verifier.check(str(question.metadata.get(COLUMN) or verifier.config.use))
    variations = {name: variations_of(context, name, tasks[name], tag) for name in tasks}
    plan: list[Posed] = []
    for name, questions in tasks.items():
        limit = settings.variations.questions if settings.variations else None
        own = tag if name == HELD_OUT else ""
        how: dict[str, Any] = {"tag": own, "varied": limit, "takes_system": context.asker.takes_system}
        plan += posed(name, questions, variations[name], context.recipe.seed, **how)
    write_rows(context.path / "asked.parquet", (row._asdict() for row in plan), ASKED_SCHEMA)
    rows = answers(context, plan, verifiers)
    (context.path / FOLDER).mkdir()
    files: dict[str, list[dict[str, Any]]] = {}
    for row, told in rows:
        files.setdefault(file_name(row.variation), []).append({"task": row.task, "variation": row.variation, **told})
    for file, own_rows in files.items():
        write_rows(context.path / FOLDER / f"{file}.parquet", own_rows, VARIED_SCHEMA)
    forms = {each.label: Form(each.family or each.name, each.keeps_gold) for of in variations.values() for each in of}
    counts = counting(rows)  # of a task of which none does, nothing is right
    judged = [(row, told) for row, told in rows if row.question_id in counts[row.task] or not counts[row.task]]
    found = matrix([outcome_of(row, told) for row, told in judged], forms)
    if rejected := [each for found_of in others.values() for each in found_of.rejected]:
        write_rejected(context.path / "also_rejected.parquet", rejected)
    return {
        **found,
        "forms": [{"name": name, **form._asdict()} for name, form in forms.items()],  # in their order
        "tasks": [task_of(name, tasks[name], counts.get(name, ()), others.get(name)) for name in tasks],
        "left_out": left_out(plan),
        "copies": copied(context, tasks),
    }


def style_tag(recipe: Recipe) -> str:
    """What the run's held-out questions begin with: the tag of the recipe's first style."""
    return recipe.sample.tags.get(recipe.sample.prompts[0], "")


def question_of(row: Mapping[str, Any]) -> Question:
    """A row of QUESTION_SCHEMA."""
    more = {key: row[key] for key in ("question_id", "question", "gold", "split", "group", "source")}
    return Question(**more, metadata=json.loads(row["metadata"] or "{}"))


def verifier_of_task(context: Context, use: str | None) -> Verifier:
    """The recipe's verifier, or another one of the same judge."""
    if use is None:
        return context.verifier
    config = VerifyConfig.model_validate({**context.verifier.config.model_dump(), "use": use})
    return Verifier(config, context.verifier.judge)


def variations_of(context: Context, task: str, questions: Sequence[Question], tag: str) -> list[Variation]:
    """The variations in which a task is asked; teachers are asked here for their rewordings."""
    settings = context.recipe.evaluate
    if settings.variations is None or (task != HELD_OUT and not settings.also[task].varied):
        return []
    own = [without_tag(each, tag) if task == HELD_OUT else each for each in questions[: settings.variations.questions]]
    found = chosen(settings.variations)
    for each in settings.reworders:
        found += reworders(each, kept_of(context, each), own)
    return found


def kept_of(context: Context, config: ReworderConfig) -> Kept:
    """A teacher of the recipe who rewords; what it says is kept in the directory of the run."""
    recipe = context.recipe
    asked = make_teachers(recipe.sample, recipe.questions)[config.by]
    place = [teacher.name for teacher in recipe.sample.teachers].index(config.by)
    refuse_without_price(asked.teacher, config.budget, FIELD, f"sample.teachers.{place}.options.price")
    identity = [asked.module, asked.options]
    return Kept(asked.teacher, config.by, context.sample.parent / KEPT, identity, budget=config.budget)


def answers(
    context: Context, plan: Sequence[Posed], verifiers: Mapping[str, Verifier]
) -> list[tuple[Posed, dict[str, Any]]]:
    """What is asked, with its row of PREDICTION_SCHEMA. The run's own questions have been answered plainly before."""
    known = {row["question_id"]: row for row in context.predictions}
    done = {at: known[row.question_id] for at, row in enumerate(plan) if (row.task, row.variation) == (HELD_OUT, PLAIN)}
    asked = [at for at, row in enumerate(plan) if not row.left_out and at not in done]
    for task in dict.fromkeys(plan[at].task for at in asked):
        own = [at for at in asked if plan[at].task == task]
        of_task = replace(context, verifier=verifiers.get(task, context.verifier))
        questions = [plan[at]._asdict() for at in own]
        told = of_task.ask(questions, [query_of(context, plan[at]) for at in own])
        done |= {
            at: not_asked(each, rows) if isinstance(rows, Unasked) else rows[0]
            for at, rows, each in zip(own, told, questions, strict=True)
        }
    return [(plan[at], done[at]) for at in sorted(done)]


def query_of(context: Context, row: Posed) -> Query:
    settings = context.recipe.evaluate
    return Query(
        row.question or "",
        key_of(row.task, row.variation, row.question_id),
        settings.max_new_tokens,
        temperature=settings.temperature,
        system=row.system,
        numeric=is_numeric(row.gold),
    )


def outcome_of(row: Posed, told: Mapping[str, Any]) -> Row:
    outcome: Outcome = "right" if told["correct"] else "cannot_tell" if told["verdict"] in UNDECIDED else "wrong"
    if told["answer"] is None:
        outcome = "no_answer" if was_asked(told) else "not_asked"
    answer = None if told["answer"] is None else told["answer_as_read"] or told["answer"]
    return Row(row.task, row.variation, row.question_id, outcome, answer)


def counting(rows: Sequence[tuple[Posed, dict[str, Any]]]) -> dict[str, set[str]]:
    """Task -> its questions that count (``votes.count_of``), by what was answered in all their forms."""
    of: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for row, told in rows:
        of.setdefault(row.task, {}).setdefault(row.question_id, []).append(told)
    return {
        task: {key for key, is_so in zip(answers, count_of(list(answers.values())), strict=True) if is_so}
        for task, answers in of.items()
    }


def task_of(
    name: str, questions: Sequence[Question], counts: Collection[str], source: Further | None
) -> dict[str, Any]:
    found = {"name": name, "questions": len(questions), "without_gold": len(questions) - len(counts)}
    return {**found, **({"source": source.counts} if source else {})}


def left_out(plan: Sequence[Posed]) -> dict[str, dict[str, dict[str, int]]]:
    counts = Counter((row.task, row.variation, row.left_out) for row in plan if row.left_out)
    found: dict[str, dict[str, dict[str, int]]] = {}
    for (task, form, reason), count in counts.items():
        found.setdefault(task, {}).setdefault(form, {})[reason] = count
    return found


def copied(context: Context, tasks: Mapping[str, Sequence[Question]]) -> dict[str, Any]:
    """Task -> how many of its questions stand among the run's training questions, word for word or nearly."""
    wanted = [("split", "=", "train")]
    rows = read_rows(context.sample / "questions.parquet", QUESTION_SCHEMA, filters=wanted)
    training = [question_of(row) for row in rows]
    found, told = list[dict[str, object]](), dict[str, Any]()
    for name, questions in tasks.items():
        held = copies(questions, training)
        found += held.rows(name, questions)
        told[name] = {"exact": len(held.exact), "near": len(held.near), **({"note": held.note} if held.note else {})}
    if found:
        write_rows(context.path / "copies.parquet", found, COPIES_SCHEMA)
    return told


def file_name(form: str) -> str:
    """A name for the file of a form; one of the user's own may hold anything."""
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in form)

"""The questions and traces in a source's files: every row poses a question, adds to one, repeats one, or is rejected.

Rows of all files that pose the same question are joined, whatever the order. Questions are held in memory, traces are
not. Nothing is held of a file but the row in hand.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from tracestill.data_pipeline.answers.verify import same_answer
from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.schema import GENERAL, Question, content_id
from tracestill.data_pipeline.guards.names import Name
from tracestill.data_pipeline.sampling.files.fields import NONE, FieldsConfig
from tracestill.data_pipeline.sampling.files.formats import Part, parts_of
from tracestill.data_pipeline.sampling.files.general import GeneralText, general_text, text_field
from tracestill.data_pipeline.sampling.files.lines import Bad, Row, rejected
from tracestill.data_pipeline.sampling.files.posings import Posing, Reading
from tracestill.data_pipeline.sampling.files.rejected import Rejected
from tracestill.data_pipeline.sampling.files.rows import DELIMITERS, rows_of
from tracestill.data_pipeline.sampling.files.shapes import LOOKED_AT, Shape, called, recognise
from tracestill.data_pipeline.sampling.files.trace_store import TraceStore
from tracestill.data_pipeline.sampling.teachers import Said

RANK = {"": 0, "train": 1, "validation": 2, "test": 3}  # of two splits that rows name, the one held out further counts
ROW_LIMIT = 20 * LOOKED_AT  # rows that are read to find enough good ones to look at
LOOKED_THROUGH = 1 << 22  # bytes of them
WORKED = re.compile(r"####|\\boxed\{|\nA: |[Tt]he answer is ")  # in a gold answer: it is a worked solution
PLAIN = FieldsConfig(question="question", gold="gold")

GoldOf = Callable[[Said], "str | None"]
Fate = tuple[str, str]


class FileConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Name = Field(description="a file, a directory of them or of the library datasets, or hf://owner/name")
    fields: FieldsConfig = Field(
        FieldsConfig(), description="which field means what; null: as recognised, none: not looked for"
    )
    name: Name | None = Field(None, description="what mixtures call this source; null: its path, as written here")
    split: Literal["train", "validation", "test"] | None = Field(None, description="of all its rows that name none")
    teacher: Name | None = Field(None, description="who wrote its traces, where its rows do not say it")
    general: bool = Field(
        False,
        description="its rows are prompt and response, or plain text (`text`, or what fields.trace names): kept as "
        "they are, without a trace, for training only; nobody is asked, and no answer is judged",
    )
    columns: tuple[str, ...] | None = Field(None, description="of a table whose first line does not name them")
    escapes: bool = Field(False, description="\\n and \\t, written out in texts, stand for a line break and a tab")


@dataclass
class Posed:
    """One question, and where it was posed."""

    question: Question
    rows: list[tuple[int, int]]  # file and row of each that poses it
    given: bool  # whether a row says its gold answer
    weighed: bool  # whether a row says its weight
    split: str = ""
    repeated: int = 0  # rows that add nothing
    other: Fate | None = None  # reason and detail of the first row that contradicts the first
    golds: Counter[str] = field(default_factory=Counter)  # answers that traces give


@dataclass
class Gathered:
    """What files hold. ``total`` = questions + duplicates + joined + rejected, of rows."""

    questions: list[Question] = field(default_factory=list)  # with the split that rows name, or ""
    traces: TraceStore = field(default_factory=TraceStore)
    total: int = 0
    duplicates: int = 0
    joined: int = 0  # rows that bring further traces to a question
    rejected: list[Rejected] = field(default_factory=list)
    bad_traces: list[Rejected] = field(default_factory=list)  # of rows that are used all the same
    places: dict[str, tuple[str, int]] = field(default_factory=dict)  # question id -> file and row that pose it first
    from_traces: int = 0  # questions whose gold answer is what their traces say
    read_as: dict[str, str] = field(default_factory=dict)  # file -> the shape of its rows


def gather(files: Sequence[FileConfig], gold_of: GoldOf, *, with_traces: bool) -> Gathered:
    """Read files. ``gold_of``: the answer that a trace gives, for questions without a reference answer.

    Without ``with_traces`` none is kept, and fields that hold some are metadata like the others. Raises InputError for
    a file that cannot be read at all, or whose rows hold no question under a name that is known.
    """
    found, posed, places = Gathered(), dict[str, Posed](), list[str]()
    sources = [(file, part) for file in files for part in parts_of(file.path)]
    for number, (file, part) in enumerate(sources):
        places.append(part.place)
        shape, rows = looked_at(file, part)
        found.read_as[part.place] = shape.name
        whole = with_traces or file.general
        reading = Reading(shape.fields if whole else without_traces(shape.fields), with_traces=whole)
        for split, row in rows:
            found.total += 1
            try:
                data = data_of(row, file)
                if file.general:
                    take_general(found, posed, general_text(data, reading), (number, row.at), places, file)
                    continue
                posing = reading(data)
                take(found, posed, posing, (number, row.at), places, file, split, gold_of, with_traces)
            except Bad as bad:
                found.rejected.append(rejected(part.place, row, bad.reason, str(bad)))
    contradicted: dict[tuple[int, int], Fate] = {}
    for question_id, held in posed.items():
        fate = held.other or (
            None if held.given or held.golds else ("no_gold", "no field holds its gold answer, and no trace gives one")
        )
        if fate is None:
            gold = held.question.gold if held.given else held.golds.most_common(1)[0][0]
            found.questions.append(replace(held.question, gold=gold, split=held.split))
            found.places[question_id] = places[held.rows[0][0]], held.rows[0][1]
            found.from_traces += not held.given
            found.duplicates += held.repeated
            found.joined += len(held.rows) - 1 - held.repeated
        else:
            found.traces.forget(question_id)
            contradicted |= dict.fromkeys(held.rows, fate)
    if contradicted:
        found.rejected += texts_again(sources, contradicted)
        order = {place: at for at, place in enumerate(places)}
        found.rejected.sort(key=lambda each: (order.get(each.file, 0), each.row or 0))
    return found


def looked_at(file: FileConfig, part: Part) -> tuple[Shape, Iterator[tuple[str, Row]]]:
    """The shape of a part's rows, and all of them. Raises InputError if there is no telling the question."""
    rows = rows_of(part, file.columns)
    first, good, size = [], [], 0
    for pair in itertools.islice(rows, ROW_LIMIT):
        first.append(pair)
        size += len(pair[1].text or "")
        if pair[1].data is not None:
            good.append(pair[1].data)
        if len(good) == LOOKED_AT or size > LOOKED_THROUGH:
            break
    shape = recognise(good) if good else Shape("question/gold", PLAIN)
    given = file.fields.said()
    has_question = given.get("messages") or given.get("question", NONE if shape is None else "") != NONE
    if file.general and not has_question and (field := text_field(good[0], given.get("trace"))) is not None:
        plain = FieldsConfig(trace=field, system=given.get("system"), metadata=file.fields.metadata)
        return Shape("text", plain), itertools.chain(first, rows)
    if shape is None and not (given.get("question") or given.get("messages")):
        names = ", ".join(sorted({str(name) for row in good for name in row}))
        first_line = ", or questions.columns, if its first line is a row" if part.format in DELIMITERS else ""
        raise InputError(
            f"{part.place}: which field holds the question? There are {names:.300}; name it in the recipe by "
            f"questions.fields, or to init: --field question=NAME{first_line}"
        )
    named = {name: None if value == NONE else value for name, value in given.items()}
    fields = (shape or Shape("", FieldsConfig())).fields.model_copy(update={**named, "metadata": file.fields.metadata})
    if given:
        return Shape(f"{called(fields)} (questions.fields)", fields), itertools.chain(first, rows)
    return Shape(shape.name if shape else "", fields), itertools.chain(first, rows)


def without_traces(fields: FieldsConfig) -> FieldsConfig:
    """Fields of a file whose traces nobody asks for; one that has to tell the gold answer is looked at all the same."""
    if fields.gold is None and fields.has_traces:
        return fields
    return fields.model_copy(update={"trace": None, "reasoning": None, "answer": None, "teacher": None})


def data_of(row: Row, file: FileConfig) -> Any:
    """Raises Bad."""
    if row.data is None:
        assert row.fault is not None
        raise row.fault
    return unescaped(row.data) if file.escapes else row.data


def unescaped(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\\n", "\n").replace("\\t", "\t")
    if isinstance(value, dict):
        return {name: unescaped(part) for name, part in value.items()}
    return [unescaped(part) for part in value] if isinstance(value, list) else value


def take(
    found: Gathered,
    posed: dict[str, Posed],
    posing: Posing,
    at: tuple[int, int],
    places: list[str],
    file: FileConfig,
    split: str,
    gold_of: GoldOf,
    with_traces: bool,
) -> None:
    """Add what a row says to what is known of its question."""
    if posing.gold is not None and WORKED.search(posing.gold):
        posing = posing._replace(gold=gold_of(Said(posing.gold)) or posing.gold)
    question_id = content_id(posing.question)
    split = posing.split or file.split or split
    held = posed.get(question_id)
    if held is None:
        question = Question(
            question_id,
            posing.question,
            posing.gold or "",
            "",
            posing.group,
            posing.metadata,
            1.0 if posing.weight is None else posing.weight,
            file.name or file.path,
        )
        held = posed[question_id] = Posed(question, [], posing.gold is not None, posing.weight is not None, split)
    else:
        held.other = held.other or otherwise(held, posing, at, places)
        if posing.gold is not None and not held.given:
            held.question, held.given = replace(held.question, gold=posing.gold), True
        if posing.weight is not None and not held.weighed:
            held.question, held.weighed = replace(held.question, weight=posing.weight), True
        first = held.question
        if (posing.group and not first.group) or (posing.metadata and not first.metadata):
            group, metadata = first.group or posing.group, first.metadata or posing.metadata
            held.question = replace(first, group=group, metadata=metadata)
        if RANK[split] > RANK[held.split]:
            held.split = split
        held.repeated += not (posing.written and with_traces)
    held.rows.append(at)
    for written in posing.written:
        if not held.given and (gold := gold_of(written.said)):
            held.golds[gold] += 1
        if with_traces:
            teacher = written.teacher or file.teacher or ""
            found.traces.add(question_id, written.said, teacher, written.system, places[at[0]], at[1])
    for position, reason, detail in posing.bad:
        where = f"{places[at[0]]}:{at[1]}, trace {position}"
        found.bad_traces.append(Rejected(where, reason, detail, "", places[at[0]], at[1]))


def take_general(
    found: Gathered,
    posed: dict[str, Posed],
    text: GeneralText,
    at: tuple[int, int],
    places: list[str],
    file: FileConfig,
) -> None:
    """Add a row of general text: a question of its own, whatever others have the same prompt."""
    said, posing = text.written.said, text.posing
    question_id = content_id(f"{text.prompt}\n\n{said.raw}")
    if (held := posed.get(question_id)) is not None:
        held.repeated += 1
        held.rows.append(at)
        return
    question = Question(question_id, text.prompt, said.raw, "", source=file.name or file.path, is_general=True)
    if posing is not None:
        question = replace(question, group=posing.group, metadata=posing.metadata)
    posed[question_id] = Posed(question, [at], True, True, "train")
    teacher = text.written.teacher if text.written.teacher != GENERAL else file.teacher or GENERAL
    found.traces.add(question_id, said, teacher, text.written.system, places[at[0]], at[1])


def otherwise(held: Posed, posing: Posing, at: tuple[int, int], places: list[str]) -> Fate | None:
    """Reason and detail, if a row contradicts the first one of its question."""
    first, (number, row) = held.question, held.rows[0]
    here = f"line {at[1]}" if at[0] == number else f"{places[at[0]]}:{at[1]}"
    start = f"the question of line {row} with another"
    if posing.gold is not None and held.given and not same_answer(posing.gold, first.gold, first.question):
        return "other_gold", f"{start} gold answer in {here} ({posing.gold!r}, not {first.gold!r}); keep one of them"
    if posing.group and first.group and posing.group != first.group:
        return "other_group", f"{start} group in {here} ({posing.group!r:.60}, not {first.group!r:.60}); keep one"
    if posing.weight is not None and held.weighed and posing.weight != first.weight:
        return "other_weight", f"{start} weight in {here} ({posing.weight}, not {first.weight}); keep one of them"
    return None


def texts_again(sources: list[tuple[FileConfig, Part]], wanted: dict[tuple[int, int], Fate]) -> Iterator[Rejected]:
    """Rows that contradict each other, read a second time: nobody knew, and nothing was kept of them."""
    for number in sorted({number for number, _ in wanted}):
        file, part = sources[number]
        for _, row in rows_of(part, file.columns):
            if fate := wanted.get((number, row.at)):
                yield rejected(part.place, row, *fate)

"""The shape of a file's rows, recognised by the names of its fields and by what stands in the first of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

from tracestill.data_pipeline.sampling.files.fields import SLOT, FieldsConfig
from tracestill.data_pipeline.sampling.files.messages import ROLES, is_messages

LOOKED_AT = 64  # rows
LONG = 60  # characters, in the middle, from which on an `answer` is a solution
MARKS = ("####", "\\boxed", "<think>", "</think>", "```")

QUESTION = ("question", "problem", "query", "prompt", "instruction", "input", "question_text")
MESSAGES = ("messages", "conversations", "conversation", "dialog", "dialogue", "chat")
WRITTEN = (  # whole outputs: reasoning and answer
    "generations", "generation", "traces", "outputs", "output", "completions", "completion", "responses", "response",
    "model_outputs", "model_output", "model_output_steps", "solutions", "solution", "generated_solution", "content",
)  # fmt: skip
THOUGHT = (  # reasoning alone: the answer stands apart
    "trace", "reasoning_content", "reasoning", "thinking", "thought", "thoughts", "rationale", "rationales",
    "chain_of_thought", "cot", "explanation", "steps",
)  # fmt: skip
GOLD = (
    "gold", "gold_answer", "final_answer", "expected_answer", "ground_truth_answer", "reference_answer", "ground_truth",
    "target", "correct_answer",
)  # fmt: skip
HOLDERS = ("reward_model", "verification_info", "extra_info", "metadata")  # objects that may hold a gold answer
LABEL = "label"  # a gold answer, unless it only says whether something is right
GIVEN = ("prediction", "predicted_answer", "model_answer")
OTHERS = {
    "system": ("system", "system_prompt"),
    "weight": ("weight",),
    "teacher": ("teacher", "model", "generator", "model_name", "source_model"),
    "group": ("group",),
    "split": ("split",),
    "finish": ("finish_reason", "finish_reasons", "stop_reason"),
}  # fmt: skip
OF_MODEL = (  # ends of names that begin with a model's: the thought, and what it says then
    ("_reasoning", "_reasoning_content", "_thinking", "_thinking_trajectory", "_thinking_trajectories"),
    ("_solution", "_attempt", "_response", "_answer", "_output"),
)
NUMBERED = re.compile(rf"(?:\w+_)?(?:{'|'.join(name.removesuffix('s') for name in WRITTEN)})_?(?=\d+\Z)")
SELDOM = {"input", *(name for names in OTHERS.values() for name in names)}  # what most rows may leave out


class Shape(NamedTuple):
    """What a file's rows are read as, and the name of the form."""

    name: str
    fields: FieldsConfig


def recognise(rows: Sequence[Mapping[str, Any]]) -> Shape | None:
    """The shape of rows; None if no field of theirs is known to hold a question."""
    known = Columns(rows)
    others = {field: found for field, names in OTHERS.items() if (found := known.first(names))}
    messages, asked = known.first(MESSAGES), known.first(QUESTION)
    if messages and any(is_messages(value) for value in known.values(messages)):
        if asked and any(known.is_list(name) for name in WRITTEN):  # several traces; the messages hold one of them
            return of_question(known, asked, others)
        apart = known.first((*WRITTEN, *known.thoughts(), *GOLD, "answer")) or known.gold_inside()
        if not known.is_answered(messages) and apart:
            return of_question(known, known.real(messages), others)  # what follows them stands apart
        gold = known.gold(known.short("answer"))
        name = "multi-turn messages" if any(map(several_turns, known.values(messages))) else "messages"
        return Shape(name, FieldsConfig(messages=known.real(messages), gold=gold, **others))
    if known.has("body") and known.has("question"):  # SVAMP
        question = f"{{{known.real('body')}}} {{{known.real('question')}}}"
        return Shape("body/question", FieldsConfig(question=question, gold=known.gold(("answer",)), **others))
    if known.has("instruction") and known.has("output"):  # Alpaca
        given = known.real("instruction")
        question = f"{{{given}}}\n\n{{{known.real('input')}}}" if known.has("input") else given
        if known.first(known.thoughts()):  # a column of reasoning beside them
            return of_question(known, question, others)
        gold = known.gold(known.short("answer"))
        name = "instruction/input/output" if known.has("input") else "instruction/output"
        return Shape(name, FieldsConfig(question=question, trace=known.real("output"), gold=gold, **others))
    return None if asked is None else of_question(known, asked, others)


def of_question(known: Columns, question: str, others: dict[str, str]) -> Shape:
    """The shape of rows whose field ``question`` is one."""
    if pair := known.of_a_model():
        reasoning, text = pair
        return named(FieldsConfig(question=question, reasoning=reasoning, trace=text, gold=known.gold(), **others))
    if several := known.numbered():
        return named(FieldsConfig(question=question, trace=several, gold=known.gold(known.short("answer")), **others))
    written = known.first([name for name in WRITTEN if name != question.lower()])
    thought = known.first(known.thoughts())
    answer = known.first(("answer", *GIVEN))
    gold = known.first(GOLD)
    if answer and known.is_long("answer") and not thought:
        if written is None:
            written, answer = answer, None
        elif known.first(("answer",)) == answer:
            answer = None  # a solution of somebody else's
    if thought and (given := known.first(GIVEN)) and not written and not known.is_long("answer"):
        gold, answer = gold or known.first(("answer",)), given  # what the model says, and what is right
    gold = gold or (known.gold() if answer is None else known.gold_inside())
    if thought and written and (known.is_long(written) or gold or answer):  # a thought apart, and the visible text
        fields = FieldsConfig(question=question, reasoning=thought, trace=written, gold=gold or answer, **others)
    elif thought and answer:
        spec = f"{{{thought}}}" if known.is_list(thought) else thought
        same = thought.lower() in ("reasoning_content", "reasoning", "thinking") and known.is_long("answer")
        if same:  # of an API: the thought, and an answer in words
            fields = FieldsConfig(question=question, reasoning=thought, trace=answer, gold=gold, **others)
        else:
            fields = FieldsConfig(question=question, trace=spec, answer=answer, gold=gold or answer, **others)
    elif thought and written:
        fields = FieldsConfig(question=question, trace=thought, answer=written, gold=gold or written, **others)
    elif written or thought:
        found = written or thought
        assert found is not None
        spec = f"{{{found}}}" if known.is_steps(found) else found
        fields = FieldsConfig(question=question, trace=spec, gold=gold or answer, **others)
    else:
        fields = FieldsConfig(
            question=question, gold=gold or answer, **{k: v for k, v in others.items() if k != "teacher"}
        )
    return named(fields)


def named(fields: FieldsConfig) -> Shape:
    """A shape that is called by its fields."""
    return Shape(called(fields), fields)


def called(fields: FieldsConfig) -> str:
    """The names of the fields that hold question, trace and answers."""
    specs = [fields.messages, fields.question, fields.reasoning, fields.trace, fields.answer, fields.gold]
    return "/".join(dict.fromkeys(name for spec in specs if spec for name in SLOT.findall(spec) or [spec]))


class Columns:
    """The fields of a few rows: which are there in most of them, by their names in small letters."""

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self.rows = rows
        counts: dict[str, int] = {}
        for row in rows:
            for name, value in row.items():
                if value is not None and value != "":
                    counts[name] = counts.get(name, 0) + 1
        self.names = {name.lower(): name for name, count in counts.items() if 2 * count >= len(rows)}
        for row in rows:
            for name in row:
                if name.lower() in SELDOM:
                    self.names.setdefault(name.lower(), name)

    def has(self, name: str) -> bool:
        return name in self.names

    def real(self, name: str) -> str:
        return self.names.get(name.lower(), name)

    def first(self, names: Sequence[str]) -> str | None:
        return next((self.names[name] for name in names if name in self.names), None)

    def values(self, name: str) -> list[Any]:
        real = self.real(name)
        return [row[real] for row in self.rows if row.get(real) is not None]

    def is_list(self, name: str) -> bool:
        values = self.values(name)
        return bool(values) and sum(isinstance(value, list) for value in values) * 2 > len(values)

    def thoughts(self) -> list[str]:
        """The names of thoughts that are there, and no switches such as ``reasoning: on``."""
        return [
            name
            for name in THOUGHT
            if (values := self.values(name))
            and 2 * sum(isinstance(v, list) or (isinstance(v, str) and len(v.split()) > 1) for v in values)
            >= len(values)
        ]

    def gold(self, more: Sequence[str] = ()) -> str | None:
        """The field of a gold answer: one of GOLD, of ``more``, a label that is no mark of right and wrong, or one of
        GOLD inside of an object."""
        labels = self.values(LABEL)
        marks = all(isinstance(value, int) and value in (0, 1) for value in labels)
        return self.first((*GOLD, *more, *(() if marks else (LABEL,)))) or self.gold_inside()

    def gold_inside(self) -> str | None:
        """The path of a gold answer in one of HOLDERS, as data sets for reinforcement learning have it."""
        for name in HOLDERS:
            held = [value for value in self.values(name) if isinstance(value, Mapping)]
            for gold in (*GOLD, "answer"):
                if held and 2 * sum(value.get(gold) not in (None, "") for value in held) >= len(self.rows):
                    return f"{self.real(name)}.{gold}"
        return None

    def short(self, name: str) -> tuple[str, ...]:
        """A field's name, if it holds answers rather than solutions."""
        return () if self.is_long(name) else (name,)

    def of_a_model(self) -> tuple[str, str] | None:
        """Two fields that begin with one model's name: its thought, and what it says then."""
        for name in self.names:
            for end in OF_MODEL[0]:
                said = self.first([f"{name.removesuffix(end)}{other}" for other in OF_MODEL[1]])
                if name.endswith(end) and len(name) > len(end) and said:
                    return self.names[name], said
        return None

    def numbered(self) -> str | None:
        """What names with a number have in common that hold a trace each (``r1_solution_1``, ``r1_solution_2``)."""
        found = Counter(match[0] for name in self.names if (match := NUMBERED.match(name)))
        stem = next((stem for stem, count in found.items() if count > 1), None)
        if stem is None:
            return None
        return f"{next(real for name, real in self.names.items() if NUMBERED.match(name))[: len(stem)]}*"

    def is_answered(self, name: str) -> bool:
        """Whether most conversations in a field end with the assistant."""
        talks = [value for value in self.values(name) if is_messages(value)]
        ends = [ROLES.get(str(talk[-1].get("role", talk[-1].get("from"))).strip().lower()) for talk in talks]
        return 2 * ends.count("assistant") >= len(ends)

    def is_steps(self, name: str) -> bool:
        """Whether a list holds the steps of one trace, not several traces."""
        return self.is_list(name) and "step" in name.lower()

    def is_long(self, name: str) -> bool:
        """Whether a field holds solutions rather than answers."""
        values = self.values(name)
        texts = [text for value in values if isinstance(text := alone(value), str)]
        if not texts:
            return self.is_list(name)
        marked = sum(any(mark in text for mark in MARKS) or "\n" in text.strip() for text in texts)
        return 2 * marked >= len(texts) or median(map(len, texts)) > LONG


def alone(value: Any) -> Any:
    """The item of a list of one, or the value."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def several_turns(value: Any) -> bool:
    roles = [str(item.get("role", item.get("from"))) for item in value] if is_messages(value) else []
    return sum(role in ("user", "human") for role in roles) > 1

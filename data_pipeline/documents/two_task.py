"""Two documents a record: one trains the trace, the other the answer (Hsieh et al., arXiv 2305.02301).

    <record>#trace   trace_prefix question   ->  trace, and no answer
    <record>#answer  answer_prefix question  ->  the answer at once, after an empty trace

The paper's loss is L = L_label + lambda * L_rationale, each the mean over its own targets. With ``weighting.weights:
{prompt: 0, control: kappa, answer: 1, trace: lambda}`` and traces of one kind, the normaliser ``spans`` gives (L +
kappa * L_control) / (1 + lambda + kappa), where L_control is the mean over delimiters: without them the student would
never stop. See docs/encoding.md for what the other normalisers give. The student is asked with the prefix of the
answer, so that it needs no trace when it is used.

General text has no trace to learn: it is one document, laid out as without two tasks, with no prefix.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.base.schema import GENERAL, Record
from tracestill.data_pipeline.tokens.layout import Encoded, Layout, Reading, TwoTaskConfig


class TwoTaskLayout:
    """``trace`` lays out a record with its trace, ``answer`` one whose trace is dropped; both of one tokenizer."""

    def __init__(self, trace: Layout, answer: Layout, config: TwoTaskConfig) -> None:
        self.trace, self.answer, self.config = trace, answer, config
        self.backend, self.size, self.pad = answer.backend, answer.size, answer.pad
        self.special_ids, self.stops = answer.special_ids, answer.stops
        self.findings: dict[str, Any] = {**answer.findings, "two_task": config.model_dump()}
        self.chat_template, self.takes_system = answer.chat_template, answer.takes_system
        if self.chat_template is not None:
            prefix = json.dumps(config.answer_prefix, ensure_ascii=False)  # of Jinja's, which pairs no surrogates, too
            self.chat_template = self.chat_template.replace("{{ m['content'] }}", f"{{{{ {prefix} + m['content'] }}}}")

    def encode(self, records: Sequence[Record], kinds: Kinds) -> list[Encoded]:
        before = self.config.trace_prefix, self.config.answer_prefix
        tasks = [record for record in records if record.reader != GENERAL]
        thoughts = [replace(r, question=before[0] + r.question, answer="") for r in tasks]
        labels = [replace(r, question=before[1] + r.question) for r in tasks]
        pairs = zip(tasks, self.trace.encode(thoughts, kinds), self.answer.encode(labels, kinds), strict=True)
        made = (both(record, thought, label) for record, thought, label in pairs)
        general = iter(self.answer.encode([record for record in records if record.reader == GENERAL], kinds))
        return [next(general if record.reader == GENERAL else made) for record in records]

    def prompt_ids(self, question: str, system: str | None = None) -> list[int]:
        return self.answer.prompt_ids(self.config.answer_prefix + question, system)

    def begun_ids(self, trace: str, *, closed: bool) -> list[int]:
        return self.answer.begun_ids(trace, closed=closed)

    def control_in(self, question: str) -> str | None:
        return self.answer.control_in(self.config.answer_prefix + question)

    def asking(self, question: str) -> tuple[list[dict[str, str]], dict[str, Any]]:
        prefixed = question if self.chat_template is not None else self.config.answer_prefix + question
        return self.answer.asking(prefixed)

    def read(self, ids: Sequence[int]) -> Reading:
        return self.answer.read(ids)


def both(record: Record, thought: Encoded, label: Encoded) -> Encoded:
    """The record's two documents; neither if one cannot be made, so that the tasks stay in step."""
    if not record.trace.strip():
        return Encoded({}, ("empty_trace", ""))
    refused = thought.refused or label.refused
    documents = {} if refused else {"#trace": thought.documents[""], "#answer": label.documents[""]}
    return Encoded(documents, refused, Counter(thought.notes) + Counter(label.notes))

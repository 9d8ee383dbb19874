"""What a task module offers, and how a name in a recipe finds it.

A task module poses questions, answers them, or both:

    class Options(BaseModel)                                # what `questions.options` may hold
    def questions(split_counts, options, seed) -> list[Question]

    class TeacherOptions(BaseModel)                         # what a teacher's `options` may hold
    class Teacher:
        def __init__(self, options: TeacherOptions)
        def solve(self, question, *, style, temperature, seed) -> Solution | Said

    or, for one that answers many at a time (a server, a model that reads batches), in place of ``solve``:

        def answer(self, desk) -> None                      # takes from asking.desk.Desk, and gives back to it

``TeacherOptions`` may say by ``identity()`` which of its options decide what is said; a journal asks anew when they
change. Without it, all do. Teachers are asked at the same time, each in a thread of its own.

A task that poses questions may offer harder ones too, for ``evaluate.variations``: the same question with numbers of
other ``ranges``, or with more ``digits``, and its gold answer; None where it has none:

    def harder(question, what, draw) -> Question | None     # draw: random.Random, from which all that is random comes

A name is that of a module of this folder, or of one of your own: on Python's path, or beside the recipe. Equal
arguments must give equal results: the seed of a sample follows from the recipe's seed and the sample's place, never
from the order of calls.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Protocol

from pydantic import BaseModel

from tracestill.data_pipeline.base import own_modules
from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import nearest
from tracestill.data_pipeline.base.options import check_options
from tracestill.data_pipeline.base.schema import Question, Span

PACKAGE = "tracestill.data_pipeline.sampling.teachers"


@dataclass(frozen=True)
class Solution:
    """What a teacher says. Spans are character ranges that cover the trace; None: it is cut as the recipe's ``segment``
    says.

    ``weight``, finite and >= 0, is how much the record is to count, say by how sure the teacher is; that of its
    question multiplies it. A record of weight 0 is kept and trains nothing.
    """

    trace: str
    answer: str
    spans: tuple[Span, ...] | None = None
    weight: float = 1.0


@dataclass(frozen=True)
class Said:
    """What a teacher wrote, unread: the recipe's readers (``sample.readers``) find trace and answer in it.

    It is journaled as it is, so that reading it in another way asks nobody again.
    """

    raw: str
    reasoning: str = ""  # the thought, where it is given apart from the text (``reasoning_content``)
    answer: str | None = None  # the answer, where it is given apart from the text
    finish: str = ""  # why it ended, in the words of a server: length, stop…
    weight: float = 1.0  # as of Solution
    spans: tuple[Span, ...] | None = None  # they cover `reasoning`, or without one `raw`; None: as of Solution
    details: dict[str, Any] | None = None  # what else is known of it, as JSON: tokens, cost, logprobs


@dataclass(frozen=True)
class Ask:
    """One sample asked for. ``id`` is its own, equal after a restart: what a server is told may bear it."""

    id: str
    question: Question
    style: str  # system prompt
    temperature: float
    index: int
    seed: int  # 63 bits
    as_is: bool = False  # the question is the whole of what is asked: no template and no prefill around it
    begun: str = ""  # how this answer begins, in place of the teacher's own prefill; servers alone know it
    body: Mapping[str, Any] = field(default_factory=dict)  # further fields of a server's request, such as max_tokens


@dataclass(frozen=True)
class Failed:
    """A sample that does not come, however often it is asked for; ``reason`` is one of ``FAILURES``."""

    reason: str
    detail: str


FAILURES = ("failed", "refused", "too_large")  # asked as often as is allowed; by the server's rules; more than is read


class Teacher(Protocol):
    def solve(self, question: Question, *, style: str, temperature: float, seed: int) -> Solution | Said:
        """``style``: system prompt; ``temperature`` >= 0; ``seed``: 63 bits. May raise; the caller asks again."""


class QuestionFunction(Protocol):
    def __call__(self, split_counts: Mapping[str, int], options: Any, seed: int) -> Sequence[Question]:
        """``split_counts``: questions wanted for ``train``, ``test`` and, if the recipe has one, ``validation``.

        Test questions should not depend on how many of the others are wanted. Raises InputError if there are too few.
        """


def known_tasks() -> list[str]:
    """Names of the task modules in this folder."""
    package = importlib.import_module(PACKAGE)
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if m.name != __name__.rpartition(".")[2])


def find_module(name: str, field: str) -> ModuleType:
    """The task module that ``name`` means. Raises InputError naming the recipe's field and the nearest known name."""
    if not is_own(name):
        return importlib.import_module(f"{PACKAGE}.{name}")
    if "." not in name and own_modules.find(name) is None:
        raise InputError(
            f"{field}: unknown task '{name}'{nearest(name, known_tasks())}; as a module of your own: "
            f"{own_modules.where_missing(name)}"
        )
    return own_modules.load(name, field)


def is_own(name: str) -> bool:
    """Whether a task's name means a module of the user's."""
    return name not in known_tasks()


def question_function(name: str, field: str) -> tuple[QuestionFunction, type[BaseModel]]:
    """The function that poses questions and the model of its options."""
    module = find_module(name, field)
    return required(module, "questions", name, field), required(module, "Options", name, field)


def make_teacher(name: str, options: Mapping[str, Any], field: str) -> tuple[Teacher, dict[str, Any]]:
    """The teacher of a task module, and its options with defaults filled in (they identify its samples)."""
    module = find_module(name, field)
    model: type[BaseModel] = required(module, "TeacherOptions", name, field)
    checked = check_options(model, options, f"{field.removesuffix('.use')}.options")
    identity = getattr(checked, "identity", None)
    held = identity() if callable(identity) else checked.model_dump(mode="json")
    return required(module, "Teacher", name, field)(checked), held


def required(module: ModuleType, attribute: str, name: str, field: str) -> Any:
    if not hasattr(module, attribute):
        raise InputError(f"{field}: task '{name}' offers no `{attribute}` ({module.__file__})")
    return getattr(module, attribute)

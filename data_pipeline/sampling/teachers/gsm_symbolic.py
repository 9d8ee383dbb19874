"""Word problems of reasoning-gym's ``gsm_symbolic``, and a teacher that replays their recorded worked solutions.

The source has 85 templates, so a random split would put every template on both sides; templates are split instead,
and the template's number is the question's group. About one in sixty recorded solutions holds a false equation.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.schema import Question, content_id
from tracestill.data_pipeline.sampling.teachers.protocol import Solution

WIDER = 3.0  # times the template's own ranges of numbers
ATTEMPTS = 50  # draws for one new question of a template; some templates have few variants
ASK = " Give the result as your final answer. Do not include units."  # as the source poses them
FINAL = re.compile(r"\s*####\s*(.+?)\s*$")
LONG_DECIMAL = re.compile(r"\d+\.\d{9,}")

Generator = Callable[[random.Random, float], dict[str, Any]]


class Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    test_templates: int = Field(15, ge=1, le=84, description="templates, of 85, that only test questions come from")
    validation_templates: int = Field(
        8, ge=1, le=83, description="templates that only validation questions come from, where there are any"
    )


class TeacherOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def questions(split_counts: Mapping[str, int], options: Options, seed: int) -> list[Question]:
    """Questions of all splits, the templates of each taken in turns.

    Which templates the test has depends on the seed and ``test_templates`` alone. Raises InputError if the templates
    of a split do not have that many different questions.
    """
    generators = load_generators()
    order = sorted(generators)
    random.Random(f"gsm_symbolic {seed}").shuffle(order)
    first = options.test_templates
    last = first + (options.validation_templates if split_counts.get("validation") else 0)
    parts = {"train": order[last:], "test": order[:first], "validation": order[first:last]}
    found = []
    for split in parts:
        found += draw(generators, parts[split], split_counts.get(split, 0), split, seed)
    return found


@cache
def load_generators() -> dict[int, Generator]:
    """Template number -> generator, of the templates that the source holds to be sound."""
    try:
        from reasoning_gym.arithmetic.gsm_symbolic import gsm_symbolic as source
    except ImportError as error:
        raise InputError(
            f"questions.source: gsm_symbolic needs reasoning-gym ({error}); pip install reasoning-gym"
        ) from error
    dataset = source.GSMSymbolicDataset(source.GSMSymbolicDatasetConfig(seed=0, size=1))
    return {template: dataset.generators[template] for template in source.tasks_ok}


def draw(
    generators: Mapping[int, Generator], templates: list[int], count: int, split: str, seed: int
) -> list[Question]:
    """``count`` different questions, one of each template in turns; a template with no new one left drops out."""
    found: dict[str, Question] = {}
    streams = {template: random.Random(f"gsm_symbolic {seed} {template}") for template in templates}
    while len(found) < count and streams:
        for template, rng in list(streams.items()):
            if len(found) == count:
                break
            for _ in range(ATTEMPTS):
                question = pose(generators[template](rng, 1.0), template, split)
                if question.question_id not in found:
                    found[question.question_id] = question
                    break
            else:
                del streams[template]
    if len(found) < count:
        raise InputError(
            f"questions.{split}: the {len(templates)} templates of this split have only {len(found)} different "
            f"questions, expected {count}; ask for fewer or change the number of its templates in questions.options"
        )
    return list(found.values())


def pose(example: Mapping[str, Any], template: int, split: str) -> Question:
    text = " ".join(example["question"].split()) + ASK
    metadata = {"solution": example["metadata"]["answer_cot"]}
    return Question(content_id(text), text, clean_numbers(str(example["answer"])), split, str(template), metadata)


def harder(question: Question, what: str, draw: random.Random) -> Question | None:
    """``ranges``: the question's template with numbers of wider ranges; it has nothing more of digits."""
    if what != "ranges":
        return None
    return pose(load_generators()[int(question.group)](draw, WIDER), int(question.group), question.split)


class Teacher:
    """Replays the recorded solution: the same trace for every style, temperature and seed."""

    def __init__(self, options: TeacherOptions) -> None:
        del options

    def solve(self, question: Question, *, style: str, temperature: float, seed: int) -> Solution:
        """Raises InputError for a question of another source."""
        solution = question.metadata.get("solution")
        match = FINAL.search(solution) if isinstance(solution, str) else None
        if not isinstance(solution, str) or match is None:
            raise InputError(
                f"question {question.question_id}: the teacher gsm_symbolic replays questions of its own source only"
            )
        return Solution(clean(solution[: match.start()]), clean_numbers(match[1]))


def clean(solution: str) -> str:
    """A recorded solution without trailing white space, empty lines and the noise of binary floating point."""
    lines = (line.rstrip() for line in solution.splitlines())
    return clean_numbers("\n".join(line for line in lines if line))


def clean_numbers(text: str) -> str:
    """Write ``13.249999999999998`` as ``13.25`` and ``47.0`` as ``47``; true long decimals (``0.333…``) stay."""
    text = LONG_DECIMAL.sub(lambda match: without_noise(match[0]), text)
    return re.sub(r"(?<![\d.])(\d+)\.0(?![\d.]*\d)", r"\1", text)


def without_noise(number: str) -> str:
    short = f"{float(number):.6f}".rstrip("0").rstrip(".")
    return short if abs(float(number) - float(short)) < 1e-9 * max(1.0, float(number)) else number

"""Traces whose wrong steps are known, for `benchmarks/soundness.py`."""

from __future__ import annotations

import csv
import hashlib
import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from tracestill.data_pipeline.answers import same_answer
from tracestill.data_pipeline.sampling.readers.chain import Chain, Read
from tracestill.data_pipeline.sampling.teachers import Said
from tracestill.data_pipeline.soundness.checkers.finding import Trace

HERE = Path(__file__).parent
SLIPS = HERE / "labels/slips.tsv"
READ = HERE / "labels/soundness_read.tsv"
BBM = ("multistep_arithmetic", "word_sorting", "dyck_languages", "logical_deduction")
PLAIN = r"[$£€]?(\d[\d,]*(?:\.\d+)?)"
ONE_OPERATION = re.compile(  # ``a op b = c``, no part of a longer expression
    r"(?<![\d.,)\w*/+$£€÷-])(?<![*/+x÷-] )(?<![*/+x-] [$£€])"
    rf"{PLAIN} ?([*/+-]) ?{PLAIN} ?= ?{PLAIN}(?![\d/%]| ?[*/+-])"
)


class Known(NamedTuple):
    """A trace, where it comes from, and its first wrong step (from 0; None: none is wrong)."""

    source: str
    row: int
    trace: Trace
    wrong: int | None
    label: str = ""

    @property
    def digest(self) -> str:
        return digest(self.trace.text)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def table_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def of_steps(steps: Sequence[str], question: str, answer: str, gold: str) -> Trace:
    """A trace of given steps, a line each."""
    ends, at = [], 0
    for step in steps:
        at += len(step) + 1
        ends.append(at)
    ends[-1] -= 1
    return Trace("\n".join(steps), question, answer, gold, ends)


def bbm(data: Path, task: str) -> list[Known]:
    return [
        Known(task, at, of_steps(r["steps"], r["input"], r["answer"] or "", r["target"]), r["mistake_index"])
        for at, r in enumerate(rows(data / f"mistakes/bbm_{task}.jsonl"))
    ]


def mr_gsm8k(data: Path) -> tuple[list[Known], list[Known]]:
    """Labelled wrong traces, their label ``half/sort/in``; and the solutions of the same questions, which are right.

    Raises ValueError if a text is not the one that was labelled.
    """
    source = rows(data / "mistakes/mr_gsm8k.jsonl")
    wrong = []
    for row in table_of(SLIPS):
        r = source[int(row["row"])]
        steps = r["model_output_steps"]
        if digest("\n".join(steps)) != row["sha256"]:
            raise ValueError(f"mr_gsm8k.jsonl, row {row['row']}: not the text that was labelled")
        trace = of_steps(steps, r["question"], "", str(r["ground_truth_answer"]))
        label = f"{row['half']}/{row['label']}/{row['in']}"
        wrong.append(Known("mr_gsm8k", int(row["row"]), trace, int(row["step"]) - 1, label))
    right = {r["question"]: r for r in source if r["question_type"] != "reversed"}
    solutions = [r["ground_truth_solution"].partition("####")[0].strip() for r in right.values()]
    return wrong, [
        Known("mr_gsm8k solutions", at, Trace(text, r["question"], "", ""), None)
        for at, (text, r) in enumerate(zip(solutions, right.values(), strict=True))
    ]


def human(data: Path) -> list[Known]:
    """GSM8K's own solutions."""
    found = []
    for at, r in enumerate(rows(data / "gsm8k/train.jsonl")):
        text, _, answer = r["answer"].partition("\n####")
        found.append(Known("gsm8k", at, Trace(text, r["question"], answer.strip(), answer.strip()), None))
    return found


def teachers(data: Path) -> Iterator[tuple[Known, bool]]:
    """What five open models wrote, read as a recipe does by default; and whether the answer is right."""
    chain = Chain()
    for path in sorted((data / "gsm8k_teachers").glob("*.jsonl")):
        for at, r in enumerate(rows(path)):
            gold = str(r["gold"]).replace("#", "").strip()
            read = chain.read(Said(r["output"]), True)
            if isinstance(read, Read):
                trace = Trace(read.trace, r["question"], read.answer, gold)
                yield Known(path.stem, at, trace, None), same_answer(read.answer, gold, r["question"])


def gsm_symbolic(questions: int) -> Iterator[tuple[Trace, bool]]:
    """Traces of reasoning-gym's, and whether one of their equations of one operation is false by exact arithmetic."""
    from tracestill.data_pipeline.sampling.teachers.gsm_symbolic import Options, Teacher, TeacherOptions
    from tracestill.data_pipeline.sampling.teachers.gsm_symbolic import questions as pose

    teacher = Teacher(TeacherOptions())
    for question in pose({"train": questions, "test": 150}, Options(), 0):
        said = teacher.solve(question, style="", temperature=1.0, seed=0)
        yield (
            Trace(said.trace, question.question, said.answer, question.gold),
            not all(map(exact, statements(said.trace))),
        )


def statements(text: str) -> list[tuple[str, ...]]:
    return [found.groups() for found in ONE_OPERATION.finditer(text)]


def exact(statement: tuple[str, ...]) -> bool:
    """Whether ``a op b = c`` is true: exactly, or c is the value to its number of decimals, at least one."""
    a, b, c = (Fraction(number.replace(",", "").rstrip(".")) for number in (statement[0], statement[2], statement[3]))
    if (statement[1] == "/" and b == 0) or any(len(statement[at].partition(".")[2]) > 4 for at in (0, 2)):
        return True  # 0.33333 is itself rounded
    value = {"*": a * b, "+": a + b, "-": a - b, "/": a / b if b else a}[statement[1]]
    places = len(statement[3].partition(".")[2])
    return value == c or (places > 0 and abs(value - c) <= Fraction(1, 10**places))


def planted(known: Sequence[Known], many: int) -> Iterator[tuple[Trace, Trace]]:
    """Right traces, and the same with one operand copied wrongly: a result of two digits or more that a later equation
    takes up gets another digit there, and that equation's own result follows from it."""
    rng = random.Random(0)
    for one in known:
        if many == 0:
            return
        found = list(re.finditer(r"<<([\d.]+)([*+-])([\d.]+)=([\d.]+)>>\4", one.trace.text))
        results: set[str] = set()
        for mark in found:
            if mark[1] in results and len(mark[1]) > 1 and mark[1].isdigit() and mark[3].isdigit():
                at = rng.randrange(len(mark[1]))
                other = rng.choice([d for d in "123456789" if d != mark[1][at]])
                a = mark[1][:at] + other + mark[1][at + 1 :]
                value = {"*": int(a) * int(mark[3]), "+": int(a) + int(mark[3]), "-": int(a) - int(mark[3])}[mark[2]]
                text = one.trace.text
                line = text.rfind("\n", 0, mark.start()) + 1
                before = re.sub(rf"(?<![\d.]){re.escape(mark[1])}(?![\d.])", a, text[line : mark.start()])
                if a not in before or value <= 0:
                    break
                changed = f"{text[:line]}{before}<<{a}{mark[2]}{mark[3]}={value}>>{value}{text[mark.end() :]}"
                many -= 1
                yield one.trace, replace(one.trace, text=changed)
                break
            results.add(mark[4])

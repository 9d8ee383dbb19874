"""Is what the reading of equations calls false really false, does it find what is, and what does it cost?

    python benchmarks/equations.py --data DIR --json benchmarks/results/equations.json

1. Every trace with a right answer of five open models on GSM8K (``gsm8k_teachers``), and GSM8K's human solutions: the
   traces in which an equation is called false, against ``labels/equations.tsv``, in which a person read each of them
   (and each that an earlier reading had called false). Precision; what nobody has judged is listed and counts against.
2. reasoning-gym's gsm_symbolic: false equations against an evaluation of its own (Python's parser, exact fractions),
   which knows only numbers, signs and brackets; recall.
3. CPU milliseconds of one trace.

``--list`` prints what is called false, to be read.
"""

from __future__ import annotations

import argparse
import ast
import csv
import hashlib
import json
import re
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from machine import claim, describe, finish, table
from readers import beside, posings

from tracestill.data_pipeline.answers import number, same_answer
from tracestill.data_pipeline.sampling.readers.chain import Chain, Read
from tracestill.data_pipeline.sampling.teachers.gsm_symbolic import Options, Teacher, TeacherOptions, questions
from tracestill.data_pipeline.soundness import Equation, equations

LABELS = Path(__file__).parent / "labels/equations.tsv"
PRECISION, RECALL, MILLISECONDS = 0.95, 0.95, 2.0
SYMBOLIC = {"train": 5600, "test": 600}
PLAIN = re.compile(
    r"(?<![\w.,%/*+×÷=)$£€(-])(?<![\dx*+×÷/=-]\s)([(\d][\d.()+*/×÷ -]*[\d)])\s*="
    r"\s*[$£€]?(-?\d[\d,]*(?:\.\d+)?)(?![\d%/*]|\s*[-+*/×÷=])"
)


class Trace(NamedTuple):
    source: str
    row: int
    text: str


def right_traces(data: Path) -> Iterator[Trace]:
    """Traces whose answer is right, of the five teachers and of GSM8K's authors."""
    chain = Chain()
    for path in sorted((data / "gsm8k_teachers").glob("*.jsonl")):
        for row, posing in enumerate(posings(path)):
            gold = (posing.gold or "").replace("#", "").strip()
            for written in posing.written:
                read = chain.read(written.said, number(gold) is not None)
                if isinstance(read, Read) and same_answer(read.answer, gold, posing.question):
                    yield Trace(path.stem, row, read.trace)
    for name in ("train", "test"):
        for row, line in enumerate((data / "gsm8k" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()):
            yield Trace(f"gsm8k/{name}", row, json.loads(line)["answer"].split("####")[0].strip())


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def judged() -> dict[tuple[str, str], str]:
    """(source, digest of the trace) -> verdict: ``wrong`` or ``right``."""
    with LABELS.open(encoding="utf-8", newline="") as file:
        return {(row["source"], row["sha256"]): row["verdict"] for row in csv.DictReader(file, delimiter="\t")}


def of_people(data: Path, show: bool) -> dict[str, Any]:
    """By source: traces, those called false, how many of those are; CPU of each trace."""
    labels = judged()
    found: dict[str, dict[str, Any]] = {}
    unjudged: list[dict[str, Any]] = []
    seconds, count = 0.0, 0
    for trace in right_traces(data):
        here = found.setdefault(trace.source, {"traces": 0, "equations": 0, "called false": 0, "wrong": 0, "missed": 0})
        begin = time.process_time()
        read = equations(trace.text)
        seconds += time.process_time() - begin
        count += 1
        false = [one for one in read if not one.holds]
        verdict = labels.get((trace.source, digest(trace.text)))
        here["traces"] += 1
        here["equations"] += len(read)
        here["called false"] += bool(false)
        here["wrong"] += bool(false) and verdict == "wrong"
        here["missed"] += not false and verdict == "wrong"
        if false and show:
            print(trace.source, trace.row, [one.text for one in false])
        if false and verdict is None:
            place = {"source": trace.source, "row": trace.row, "sha256": digest(trace.text)}
            unjudged.append({**place, "start": false[0].start, "end": false[0].end})
    return {"sources": found, "unjudged": unjudged, "cpu milliseconds of a trace": round(1000 * seconds / count, 3)}


def exact(text: str) -> Fraction | None:
    """The value of an expression, by Python's parser."""
    plain = text.replace(",", "").replace("×", "*").replace("÷", "/").strip()
    try:
        return value_of(ast.parse(plain, mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError):
        return None


def value_of(node: ast.expr) -> Fraction:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return Fraction(str(node.value))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -value_of(node.operand)
    if isinstance(node, ast.BinOp):
        a, b = value_of(node.left), value_of(node.right)
        if isinstance(node.op, ast.Add):
            return a + b
        if isinstance(node.op, ast.Sub):
            return a - b
        if isinstance(node.op, ast.Mult):
            return a * b
        if isinstance(node.op, ast.Div):
            return a / b
    raise ValueError("no arithmetic")


def surely_false(text: str) -> list[tuple[int, int]]:
    """Places of equations of numbers, signs and brackets that are off by more than 1 % or 0.1."""
    found = []
    for match in PLAIN.finditer(text):
        one_meaning = re.search(r"[-+*/×÷]", match[1]) and not ("÷" in match[1] and "/" in match[1])
        value = exact(match[1]) if one_meaning else None
        stated = Fraction(match[2].replace(",", ""))
        if value is not None and abs(value - stated) > min(max(abs(value), abs(stated)) / 100, Fraction(1, 10)):
            found.append(match.span())
    return found


def of_symbolic() -> dict[str, Any]:
    """Among reasoning-gym's solutions: false equations by the evaluation above, and how many of those are found."""
    teacher = Teacher(TeacherOptions())
    counts = {"traces": 0, "traces called false": 0, "traces surely false": 0, "found": 0}
    missed: list[str] = []
    for question in questions(SYMBOLIC, Options(), 0):
        trace = teacher.solve(question, style="", temperature=1.0, seed=0).trace
        false: list[Equation] = [one for one in equations(trace) if not one.holds]
        sure = surely_false(trace)
        hit = bool(sure) and any(one.start < end and one.end > start for one in false for start, end in sure)
        counts["traces"] += 1
        counts["traces called false"] += bool(false)
        counts["traces surely false"] += bool(sure)
        counts["found"] += hit
        if sure and not hit:
            missed.append(trace[max(0, sure[0][0] - 20) : sure[0][1] + 20])
    return {**counts, "missed": missed[:20]}


def main() -> int:
    parser = argparse.ArgumentParser(description="Equations called false against what people and exact sums say")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--data", type=Path, default=beside(Path(__file__).resolve()))
    parser.add_argument("--list", action="store_true", help="print what is called false")
    options = parser.parse_args()
    result: dict[str, Any] = {"machine": describe(), "absent": []}
    claims: list[dict[str, Any]] = []
    if (options.data / "gsm8k_teachers").is_dir():
        result["people"] = people = of_people(options.data, options.list)
        columns = ["traces", "equations", "called false", "wrong", "missed"]
        rows = [[name, *(str(one[key]) for key in columns)] for name, one in people["sources"].items()]
        print(table(["right answers of", *columns], rows))
        for title, human in (("teachers", False), ("humans", True)):
            some = [one for name, one in people["sources"].items() if name.startswith("gsm8k/") == human]
            called, wrong = (sum(one[key] for one in some) for key in ("called false", "wrong"))
            claims.append(claim(f"{title}: precision of false equations", round(wrong / called, 4), ">=", PRECISION))
        cost = people["cpu milliseconds of a trace"]
        claims.append(claim("CPU milliseconds of a trace", cost, "<=", MILLISECONDS))
    else:
        result["absent"].append("gsm8k_teachers (--data)")
    result["symbolic"] = symbolic = of_symbolic()
    print(symbolic)
    recall = round(symbolic["found"] / symbolic["traces surely false"], 4)
    claims.append(claim("gsm_symbolic: recall of surely false equations", recall, ">=", RECALL))
    return finish(result, claims, options.json)


if __name__ == "__main__":
    raise SystemExit(main())

"""Are the verdicts on answers right, and fast, whatever comes?

    python benchmarks/verdicts.py --json benchmarks/results/verdicts.json [--data DIR]

1. The pairs of `benchmarks/labels/verdicts.tsv`, each with the verdict that a reader gives it; more than half are
   traps: plain comparisons (`plain_comparison.py`) mislead there, a careful one and a generous one.
2. Plain pairs (integers, decimals, money, thousands, choices, yes and no, words) a second of one core, in CPU time.
3. Hostile pairs (towers of powers, 300 parentheses, factorials) among ordinary expressions: each under its limit, and
   the ordinary ones judged as without them.
4. Raw outputs of five models on GSM8K (`DIR/gsm8k_teachers`), read as their publisher did: right answers against the
   published accuracy, question by question: APART has each one that the publisher's script judges otherwise, and why.
   Every right answer that is not the gold one's text is of one of a few sorts, which are counted.

DIR holds `gsm8k_teachers`; without it the fourth part is left out, and said to be.
"""

from __future__ import annotations

import argparse
import csv
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from machine import claim, finish, table
from plain_comparison import is_trap
from readers import ACCURACY, AS_PUBLISHED, PUBLISHED, beside, posings

from tracestill.data_pipeline.answers import Case, Verifier
from tracestill.data_pipeline.answers.apart.workers import SECONDS, WORKERS
from tracestill.data_pipeline.answers.numbers import quantity
from tracestill.data_pipeline.answers.verify import auto
from tracestill.data_pipeline.sampling.readers.chain import Chain, Read

LABELS = Path(__file__).parent / "labels/verdicts.tsv"
PLAIN, ROUNDS = 100_000, 3
HOSTILE = (
    "9^{9^{9^9}}", "(" * 300 + "x" + ")" * 300, "(10^9)!", "((10^6)!)!", "x^{10^{10}}", "2^{2^{2^{2^{2^{2}}}}}+x",
    "\\frac{" * 150 + "x" + "}{2}" * 150, "\\sqrt{" * 200 + "x" + "}" * 200, "(x+1)^{99999}", "10^{10^{10}}x",
)  # fmt: skip
ORDINARY = [(f"{n}(x+{n})", f"{n}x+{n * n}") for n in range(2, 42)]
MARGIN = 1.0  # seconds that killing a worker and telling of it may take beyond the limit
APART = {  # model -> row -> whether the publisher's script (WildEval/ZeroEval; it gives the published figures) calls it
    # right, which here is the other way round, and why
    "Mixtral-8x7B-Instruct-v0.1": {
        624: (
            True,
            "the object has its key answer twice; a parser of JSON keeps the last, 85, and the first is a sentence",
        ),
    },
    "Phi-3.5-mini-instruct": {
        191: (False, "the answer is 35/7 = 5; of the first number, 35/7, the script takes the 35")
    },
    "Yi-1.5-9B-Chat": {
        101: (
            True,
            "the first answer is a formula without quotes; the script looks for quotes and finds the second, 6",
        ),
        363: (False, "the first answer is empty, and stays so; the second, 6 hours, is right"),
        1269: (True, "as row 101: the formula (5 * 18) - (8 * 18) is passed over, and 54 found"),
    },
}


class Pair(NamedTuple):
    answer: str
    gold: str
    question: str
    verdict: str
    trap: str


def labelled() -> list[Pair]:
    with LABELS.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [Pair(*row) for row in rows[1:]]


def wrong_verdicts(pairs: list[Pair]) -> list[dict[str, Any]]:
    found = Verifier().verdicts([Case(*pair[:3]) for pair in pairs])
    return [
        {**pair._asdict(), "said": verdict._asdict()}
        for pair, verdict in zip(pairs, found, strict=True)
        if verdict.outcome != pair.verdict
    ]


def plain_pairs(count: int) -> list[tuple[str, str]]:
    """As answers to word problems come, most of them numbers; half are right."""
    draw = random.Random(7)
    words = [
        "Monday",
        "Tuesday",
        "Paris",
        "London",
        "red",
        "green",
        "blue",
        "house",
        "dog",
        "north",
        "Amsterdam",
        "seven",
    ]
    found = []
    for _ in range(count):
        kind, number = draw.randrange(20), draw.randrange(1, 10**6)
        other = number if draw.random() < 0.5 else number + 1
        if kind < 8:
            found.append((str(number), str(other)))
        elif kind < 11:
            found.append((f"${number / 100:.2f}", f"{other / 100:.2f}"))
        elif kind < 14:
            found.append((f"{number:,}", str(other)))
        elif kind < 16:
            found.append((f"({draw.choice('ABCDE')})", draw.choice("ABCDE")))
        elif kind < 17:
            found.append((draw.choice(("Yes", "no", "No.")), draw.choice(("yes", "no"))))
        elif kind < 19:
            found.append((f"{draw.choice(words)} {number}", f"{draw.choice(words)} {other}"))
        else:
            found.append((f"{number} apples", str(other)))
    return found


def plain_speed() -> float:
    """Pairs a second of one core: the fastest of some rounds, in CPU time."""
    taken = []
    for at in range(ROUNDS):
        pairs = [(f"{a}{' ' * (at % 2)}", g) for a, g in plain_pairs(PLAIN)]
        start = time.process_time()
        for answer, gold in pairs:
            auto(answer, gold)
        taken.append(time.process_time() - start)
    return PLAIN / min(taken)


def hostile(seconds: float) -> dict[str, Any]:
    """How hostile pairs end, and what they cost ordinary ones."""
    WORKERS.compare([("x+1", "1+x")])  # the program has started
    alone = time.perf_counter()
    before = WORKERS.compare([(a + "+y", g + "+y") for a, g in ORDINARY], seconds)
    alone = time.perf_counter() - alone
    ends = {}
    for text in HOSTILE:
        start = time.perf_counter()
        (found,) = WORKERS.compare([(text, "x+1")], seconds)
        ends[text[:40]] = {"outcome": found["outcome"], "seconds": round(time.perf_counter() - start, 2)}
    start = time.perf_counter()
    beside = WORKERS.compare([*((text + "+z", "z+3") for text in HOSTILE[:1]), *ORDINARY], seconds)
    beside_seconds = time.perf_counter() - start
    return {
        "limit": seconds,
        "ends": ends,
        "slowest": max(one["seconds"] for one in ends.values()),
        "called right": sum(one["outcome"] == "right" for one in ends.values()),
        "ordinary": len(ORDINARY),
        "ordinary right alone": sum(one["outcome"] == "right" for one in before),
        "ordinary right beside": sum(one["outcome"] == "right" for one in beside[1:]),
        "seconds alone": round(alone, 2),
        "seconds beside one": round(beside_seconds, 2),
    }


def of_teachers(folder: Path) -> dict[str, Any]:
    chain, verifier = Chain([AS_PUBLISHED]), Verifier()
    result: dict[str, Any] = {}
    for path in sorted(folder.glob("*.jsonl")):
        counts, sorts = Counter[str](), Counter[str]()
        unexplained = []
        right: set[int] = set()
        for row, posing in enumerate(posings(path)):
            gold = (posing.gold or "").replace("#", "").strip()
            for written in posing.written:
                counts["texts"] += 1
                read = chain.read(written.said, True)
                if not isinstance(read, Read):
                    counts["no answer"] += 1
                    continue
                verdict = verifier(read.answer, gold, posing.question)
                counts[verdict.outcome] += 1
                right.update([row] if verdict.right else [])
                if verdict.right != (read.answer == gold):
                    sort = sort_of(read.answer, gold)
                    sorts[sort] += 1
                    if sort == "other":
                        unexplained.append({"answer": read.answer, "gold": gold, "verdict": verdict._asdict()})
        accuracy = 100 * counts["right"] / counts["texts"]
        published = PUBLISHED.get(path.stem, (None,))[0]
        apart = {row: why for row, (theirs, why) in APART.get(path.stem, {}).items() if theirs != (row in right)}
        theirs = len(right) + sum(-1 if row in right else 1 for row in apart)
        result[path.stem] = {
            **{"counts": dict(counts), "accuracy": round(accuracy, 2), "published": published},
            **{"judged otherwise by the publisher": apart},
            "accuracy with their verdict on these": round(100 * theirs / counts["texts"], 2),
            **{"otherwise than text": dict(sorts), "unexplained": unexplained},
        }
    return result


def sort_of(answer: str, gold: str) -> str:
    """Why a right answer is not the gold one's text."""
    said, wanted = quantity(answer), quantity(gold)
    if said is None or wanted is None or said.value != wanted.value:
        return "other"
    signs = (("a sign of money", "$€£"), ("separators", ","), ("a percent sign", "%"), ("decimals or a fraction", "./"))
    return next((name for name, marks in signs if any((m in answer) != (m in gold) for m in marks)), "how it is set")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--data", type=Path, default=beside(Path(__file__).resolve()))
    wanted = parser.parse_args()
    pairs = labelled()
    wrong = wrong_verdicts(pairs)
    traps = Counter(pair.verdict for pair in pairs if is_trap(pair.answer, pair.gold, pair.verdict))
    figures: dict[str, Any] = {"pairs": len(pairs), "traps": traps.total(), "traps by verdict": dict(traps)}
    figures["wrong"] = wrong
    print(f"{len(pairs)} pairs, {figures['traps']} of them traps: {wrong or 'all verdicts right'}")
    figures["plain pairs a second"] = round(plain_speed())
    figures["hostile"] = found = hostile(SECONDS)
    print(table(["hostile", "outcome", "seconds"], [[t, e["outcome"], e["seconds"]] for t, e in found["ends"].items()]))
    claims = [
        claim("labelled pairs", len(pairs), ">=", 500),
        claim("share of traps", figures["traps"] / len(pairs), ">=", 0.5),
        claim("wrong verdicts", len(wrong), "<=", 0),
        claim("plain pairs a second of one core", figures["plain pairs a second"], ">=", 100_000),
        claim("hostile pairs: seconds of the slowest", found["slowest"], "<=", SECONDS + MARGIN),
        claim("hostile pairs called right", found["called right"], "<=", 0),
        claim("ordinary pairs right beside a hostile one", found["ordinary right beside"], ">=", len(ORDINARY)),
    ]
    if (folder := wanted.data / "gsm8k_teachers").is_dir():
        figures["teachers"] = teachers = of_teachers(folder)
        cells = [[name, f["accuracy"], f["published"], str(f["otherwise than text"])] for name, f in teachers.items()]
        print(table(["model", "accuracy %", "published", "right, and another text"], cells))
        for name, about in teachers.items():
            gap = abs(about["accuracy"] - about["published"])
            claims.append(claim(f"{name}: accuracy, points from the published", round(gap, 2), "<=", ACCURACY))
            told = abs(about["accuracy with their verdict on these"] - about["published"])
            claims.append(claim(f"{name}: the same beside questions told apart", round(told, 2), "<=", 0))
            claims.append(claim(f"{name}: verdicts unexplained", len(about["unexplained"]), "<=", 0))
            claims.append(claim(f"{name}: undecided", about["counts"].get("cannot_tell", 0), "<=", 0))
    else:
        figures["absent"] = ["outputs of models (--data)"]
        print("no outputs of models: their verdicts were not looked at")
    return finish(figures, claims, wanted.json)


if __name__ == "__main__":
    sys.exit(main())

"""The comparisons of claims.py: where each finds its numbers, and what follows from them.

A comparison is a difference that the claim says is above ``-slack`` (slack 0: a gain). It is `supported` if its whole
95 % interval is, `contradicted` if nothing of it is, else `not told apart`; without numbers it is `not measured`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tracestill.data_pipeline.base.intervals import wilson
from tracestill.launch.report.evaluation.chance import difference, over_seeds, t_test, widest
from tracestill.trainer.losses.intervals import mean_interval

RESULTS = Path(__file__).with_name("results")
ANSWERS = "claims_answers"
SUPPORTED, CONTRADICTED, NOT_APART, NOT_MEASURED = "supported", "contradicted", "not told apart", "not measured"
FILES = (  # of other benchmarks
    *("demo_three_seeds", "scores", "distil", "multipliers", "weights_by_kind"),
    *("claims_real", "claims_answers", "on_policy"),
)


def told(right: Iterable[bool]) -> str:
    """Answers of questions in a fixed order, a character each."""
    return "".join("1" if each else "0" for each in right)


@dataclass(frozen=True)
class Results:
    """What benchmarks left: ``own`` of claims.py, and the other files by name."""

    own: dict[str, Any]
    files: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path, own: dict[str, Any] | None = None) -> Results:
        def load(name: str) -> Any:
            path = folder / f"{name}.json"
            return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

        return cls(own or load("claims") or {"runs": {}}, {name: load(name) for name in FILES})

    def arm(self, path: str) -> dict[int, dict[str, Any]]:
        """Seed -> what came of an arm, named as ``run/arm``."""
        run, arm = path.split("/")
        return {int(seed): row for seed, row in self.own["runs"].get(run, {}).get(arm, {}).items()}


@dataclass(frozen=True)
class Found:
    """Second minus first, as the claim would have it above 0."""

    first: float
    second: float
    by_seed: Sequence[float]
    interval: tuple[float, float] | None  # 95 %
    p: float | None = None
    questions: int = 0
    unit: str = "%"  # or nats

    @property
    def mean(self) -> float:
        return float(np.mean(self.by_seed))


def verdict_of(interval: tuple[float, float] | None, slack: float = 0.0) -> str:
    """Of the interval of a difference that a claim says is above ``-slack``."""
    if interval is None:
        return NOT_MEASURED
    low, high = interval
    return SUPPORTED if low > -slack else CONTRADICTED if high < -slack else NOT_APART


def arms(second: str, first: str, what: str = "right") -> Callable[[Results], Found | None]:
    """Two arms of claims.py, paired by seed and question; ``what``: right answers, or sound traces."""

    def find(results: Results) -> Found | None:
        sides = [answers(results.arm(path), what) for path in (first, second)]
        compared = difference(sides[0], sides[1])
        if compared is None or len(compared["by_seed"]) < 2:  # type: ignore[arg-type]
            return None
        means = [float(np.mean([np.mean([*side[s].values()]) for s in compared["seeds"]])) for side in sides]  # type: ignore[attr-defined]
        return Found(*means, compared["by_seed"], compared["interval"], compared["p"], compared["questions"])  # type: ignore[arg-type]

    return find


def answers(rows: dict[int, dict[str, Any]], what: str) -> dict[int, dict[str, bool]]:
    """Seed -> question -> whether it is right. Questions are named by their place in one digest's order."""
    return {
        seed: {f"{row['questions']} {at}": mark == "1" for at, mark in enumerate(row[what])}
        for seed, row in rows.items()
        if what in row
    }


def interaction(second: tuple[str, str], first: tuple[str, str]) -> Callable[[Results], Found | None]:
    """What one pair of arms (b, a) gains, b minus a, beyond what another pair gains."""

    def find(results: Results) -> Found | None:
        rows = [results.arm(path) for path in (*second, *first)]
        seeds = sorted(set.intersection(*(set(of) for of in rows)))
        if len({(s, of[s]["questions"]) for of in rows for s in seeds}) > len(seeds):
            return None
        gains = [[right(b[s]) - right(a[s]) for s in seeds] for b, a in (rows[:2], rows[2:])]
        return of_questions(gains[1], gains[0])

    return find


def votes(path: str) -> Callable[[Results], Found | None]:
    """Of an arm, the answer that most samples give minus the greedy one."""

    def find(results: Results) -> Found | None:
        rows = [row for _, row in sorted(results.arm(path).items()) if "majority" in row]
        most = [np.array([*map(float, row["majority"].split())]) for row in rows]
        return of_questions([right(row) for row in rows], most)

    return find


def right(row: dict[str, Any]) -> np.ndarray:
    """(Q,) 1 for each question that is right, else 0."""
    return np.array([mark == "1" for mark in row["right"]], float)


def of_questions(first: Sequence[np.ndarray], second: Sequence[np.ndarray], least: float = -2.0) -> Found | None:
    """Two values of each question, (Q,) for each seed, whose questions are others; ``least``: the smallest difference
    of two that there is."""
    if len(first) < 2:
        return None
    gains = [b - a for a, b in zip(first, second, strict=True)]
    own = [float(gain.mean()) for gain in gains]
    every = np.concatenate(gains)
    spread = mean_interval(every, np.ones(len(every)), [*map(str, range(len(every)))])
    means = [float(np.mean([each.mean() for each in side])) for side in (first, second)]
    return Found(means[0], means[1], own, widest([over_seeds(own), spread], least), t_test(own), len(every))


def form(second: str, first: str, name: str) -> Callable[[Results], Found | None]:
    """Two arms of claims.py, asked in another form (``task/form``)."""

    def find(results: Results) -> Found | None:
        a, b = ({s: row["forms"].get(name) for s, row in results.arm(path).items()} for path in (first, second))
        seeds = sorted(s for s in a.keys() & b.keys() if a[s] and b[s])
        return by_seed([a[s] for s in seeds], [b[s] for s in seeds])

    return find


def by_seed(first: Sequence[Sequence[int]], second: Sequence[Sequence[int]]) -> Found | None:
    """Two settings of which for each seed (right, asked) is known: paired by seed, questions taken as unpaired."""
    if len(first) < 2:
        return None
    shares = [[right / asked for right, asked in side] for side in (first, second)]
    gains = [b - a for a, b in zip(*shares, strict=True)]
    sums = [np.sum(side, axis=0) for side in (first, second)]
    (a_low, a_high), (b_low, b_high) = (wilson(*map(float, total)) for total in sums)
    a, b = (total[0] / total[1] for total in sums)
    newcombe = (  # Statistics in Medicine 17, 1998, method 10 of unpaired proportions
        float(b - a - np.hypot(b - b_low, a_high - a)),
        float(b - a + np.hypot(b_high - b, a - a_low)),
    )
    both = widest([over_seeds(gains), newcombe], -1.0)
    return Found(float(np.mean(shares[0])), float(np.mean(shares[1])), gains, both, t_test(gains), int(sums[0][1]))


def demo(results: Results) -> Found | None:
    """The demo on three seeds, as benchmarks/demo.py keeps it: shares of 300 questions."""
    runs = (results.files.get("demo_three_seeds") or {"runs": []})["runs"]
    counts = [[(round(run[arm] * 300), 300) for run in runs] for arm in ("answers_only", "traces")]
    return by_seed(*counts)


def multiplied(second: str, first: str) -> Callable[[Results], Found | None]:
    """Two arms of benchmarks/multipliers.py, 300 questions a seed."""

    def find(results: Results) -> Found | None:
        rows = (results.files.get("multipliers") or {"runs": []})["runs"]
        sides = [
            [
                (round(row["accuracy"] * 300), 300)
                for row in sorted(rows, key=lambda row: row["seed"])
                if row["arm"] == arm
            ]
            for arm in (first, second)
        ]
        return by_seed(*sides)

    return find


def kept(file: str, second: str, first: str) -> Callable[[Results], Found | None]:
    """Two arms of a file that keeps answers by seed, a character a question: paired by seed and question."""

    def find(results: Results) -> Found | None:
        told = [row["right"] for row in (results.files.get(file) or {"by_seed": []})["by_seed"]]
        if not all({first, second} <= answers.keys() for answers in told):
            return None
        sides = ([right({"right": answers[arm]}) for answers in told] for arm in (first, second))
        return of_questions(*sides, least=-1.0)

    return find


def less_loss(weighting: str, kind: str) -> Callable[[Results], Found | None]:
    """By how much the loss of a kind is lower than with equal weights, as benchmarks/weights_by_kind.py keeps it."""

    def find(results: Results) -> Found | None:
        held = results.files.get("weights_by_kind")
        if held is None:
            return None
        changed, even = held["change_of_nll_to_even"][weighting][kind], held["by_kind"][kind]["nll_after"]["mean"]
        gains = [-value for value in changed["by_seed"]]
        ends = [*(over_seeds(gains) or ()), *(-end for end in changed["interval_95"])]
        return Found(even + changed["mean"], even, gains, (min(ends), max(ends)), t_test(gains), 0, "nats")

    return find


def general(second: tuple[str, str], first: tuple[str, str]) -> Callable[[Results], Found | None]:
    """Loss on general text, of (arm, before or after its training)."""

    def find(results: Results) -> Found | None:
        a, b = results.arm(first[0]), results.arm(second[0])
        seeds = sorted(seed for seed in a.keys() & b.keys() if "general" in a[seed] and "general" in b[seed])
        if len(seeds) < 2:
            return None
        losses = [[rows[s]["general"][when] for s in seeds] for rows, when in ((a, first[1]), (b, second[1]))]
        gains = [y - x for x, y in zip(*losses, strict=True)]
        means = [float(np.mean(side)) for side in losses]
        return Found(means[0], means[1], gains, over_seeds(gains), t_test(gains), 0, "nats")

    return find


def real(second: str, first: str, who: str = "", columns: Sequence[str] = ()) -> Callable[[Results], Found | None]:
    """Loss of two arms of claims_real.py, document by document; of those that ``who`` wrote, of ``columns`` of a
    document's loss (neither: of all). Documents of one question are not independent of each other."""

    def find(results: Results) -> Found | None:
        held = results.files.get("claims_real") or {"arms": {}}
        a, b = (held["arms"].get(arm, {}) for arm in (first, second))
        seeds = sorted(a.keys() & b.keys())
        if len(seeds) < 2:
            return None
        at = [column for column, name in enumerate(held["columns"]) if not columns or name in columns]
        mine = [document for document, name in enumerate(held["teachers"]) if who in ("", name)]
        targets = np.array(held["targets"])[mine][:, at].sum(1)
        sums = [[np.array(rows[seed]["nll"])[mine][:, at].sum(1) for seed in seeds] for rows in (a, b)]
        means = [[float(of.sum() / targets.sum()) for of in side] for side in sums]
        gains = [y - x for x, y in zip(*means, strict=True)]
        apart = np.sum(sums[1], axis=0) - np.sum(sums[0], axis=0)
        spread = mean_interval(apart, len(seeds) * targets, [held["questions"][document] for document in mine])
        ends = [*(over_seeds(gains) or ()), *(spread or ())]
        both = float(np.mean(means[0])), float(np.mean(means[1]))
        return Found(*both, gains, (min(ends), max(ends)), t_test(gains), len(mine), "nats")

    return find


def own_texts(second: str, first: str) -> Callable[[Results], Found | None]:
    """Two arms of benchmarks/on_policy.py, paired by seed and question."""

    def find(results: Results) -> Found | None:
        runs = (results.files.get("on_policy") or {"runs": []})["runs"]
        if len(runs) < 2 or not all({first, second} <= row["right"].keys() for row in runs):
            return None
        return of_questions(*([right({"right": row["right"][arm]}) for row in runs] for arm in (first, second)))

    return find


def asked(second: str, first: str, greedy: bool = False) -> Callable[[Results], Found | None]:
    """Two arms of claims_answers.py, paired by seed and question: the chance of the right answer, or greedy ones."""

    def find(results: Results) -> Found | None:
        held = results.files.get(ANSWERS) or {"arms": {}}
        a, b = (held["arms"].get(arm, {}) for arm in (first, second))
        seeds = sorted(a.keys() & b.keys())
        if any(a[seed]["questions"] != b[seed]["questions"] for seed in seeds):
            return None
        sides = [[right(of[s]) if greedy else np.array(of[s]["chance"]) for s in seeds] for of in (a, b)]
        return of_questions(*sides, least=-1.0)

    return find


def nobody(results: Results) -> None:
    """Not measured."""


@dataclass(frozen=True)
class Claim:
    claim: int
    text: str  # second minus first
    find: Callable[[Results], Found | None] = nobody
    file: str = ""  # in benchmarks/results, without .json
    slack: float = 0.0

    def found(self, results: Results) -> Found | None:
        return self.find(results)

    def verdict(self, results: Results) -> str:
        found = self.found(results)
        return verdict_of(found.interval if found else None, self.slack)

    def shown(self, results: Results) -> str:
        found = self.found(results)
        return "" if found is None else f"{points(found.mean, found.unit)} {between(found)}"


def points(value: float, unit: str) -> str:
    return f"{100 * value:+.1f}" if unit == "%" else f"{value:+.3f}"


def between(found: Found) -> str:
    return "" if found.interval is None else f"[{', '.join(points(end, found.unit) for end in found.interval)}]"

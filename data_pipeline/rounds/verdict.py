"""What is said of rounds by their figures: what is doubtful, which round is the best, and whether rounds end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tracestill.data_pipeline.rounds.config import StopConfig

Figures = Mapping[str, Any]
SEEN = 0.8  # of rare strategies, over chance: below, a warning
DIFFER = 2 / 3  # of round 0's share of traces that differ
FEW = 0.2  # of the questions: with two right traces of fewer, little can be said of them
SURE = 2.0  # standard errors: less is what chance may do
LONGER, SHORTER = 1.5, 2 / 3  # than round 0's traces


class End(NamedTuple):
    """Why no round follows."""

    round: int
    rule: str  # accuracy, coverage, differ, nothing_right, nothing_kept, count
    why: str


def warnings(first: Figures, now: Figures) -> list[str]:
    """What in the traces of a round hints at collapse, beside those of round 0."""
    found = []
    if now["traces"] >= 2 * now["questions"] and now["pairs"] < FEW * now["questions"]:
        told = f"only {now['pairs']:,} of {now['questions']:,} questions have two right traces: figures of ways stand "
        found.append(f"{told}on few, and there is little to learn; train round 0 longer, or ask for more samples")
    if (seen := seen_over_chance(now)) is not None and seen < SEEN and is_sure(now):
        found.append(f"of round 0's rare strategies {seen:.0%} are left of what chance would show")
    if differ_less(now, DIFFER):
        found.append(f"two traces of a question differ {how_often(now)}")
    if first["words"] and now["words"] and not SHORTER <= now["words"] / first["words"] <= LONGER:
        found.append(f"traces have {now['words']:.1f} words, round 0's {first['words']:.1f}")
    return found


def student_warnings(first: Figures, now: Figures) -> list[str]:
    """What in the answers of a round's student hints at a narrower one than round 0's, by what carries over and by
    calibration, where they were measured (``launch.rounds.monitor``): right answers in other forms, or to another task,
    below round 0's whole interval while the plain questions gain; right samples that differ less to questions that
    both solve twice, beyond what chance may do; a mean error of confidence above its interval."""
    found = []
    places = [("other forms of the questions", first.get("variations"), now.get("variations"))]
    for task in first.get("tasks", {}):
        both = [{**each["tasks"][task], "plain": each["test"]["accuracy"]} for each in (first, now)]
        places.append((f"the task {task}", both[0], both[1]))
    for name, before, after in places:
        if before and after and after["plain"] > before["plain"] and after["share"] < before["low"]:
            plain = f"the plain ones in {after['plain']:.1%}, not in {before['plain']:.1%}"
            found.append(f"{name}: right in {after['share']:.1%}, below round 0's {ends(before)}; {plain}")
    same = now.get("apart_beside")
    if same and is_less(same["now"], same["first"], same["error"], DIFFER):
        told = f"its right answers to a test question take different paths in {same['now']:.1%} of cases"
        found.append(f"{told}, round 0's to the same questions in {same['first']:.1%}")
    before, after = first.get("ece"), now.get("ece")
    if before and after and before["high"] is not None and after["share"] > before["high"]:
        said = f"its confidence is off by {after['share']:.1%} (ECE of votes)"
        found.append(f"{said}, above round 0's {ends(before)}")
    return found


def ends(figures: Figures) -> str:
    return f"{figures['low']:.1%} to {figures['high']:.1%}"


def seen_over_chance(figures: Figures) -> float | None:
    """Coverage of rare strategies over what chance would show, at most 1; None if it is not known."""
    if figures.get("coverage") is None or not figures["coverage_by_chance"]:
        return None
    return min(1.0, float(figures["coverage"] / figures["coverage_by_chance"]))


def is_sure(figures: Figures) -> bool:
    """Whether fewer rare strategies are seen than so few traces may miss by chance."""
    return bool(figures["coverage_by_chance"] - figures["coverage"] > SURE * figures["coverage_error"])


def differ_less(figures: Figures, share: float) -> bool:
    """Whether two traces of a question differ less often than ``share`` of round 0's of the same questions, beyond what
    chance may do."""
    before, now = figures["differ_first"], figures["differ_same"]
    return bool(before) and is_less(now, before, figures["differ_error"], share)


def is_less(now: float, first: float, error: float, share: float) -> bool:
    """Whether a figure is below ``share`` of what it was in round 0, and that no work of chance."""
    return now < share * first and first - now > SURE * error


def how_often(figures: Figures) -> str:
    now, before = figures["differ_same"], figures["differ_first"]
    return f"in {now:.0%} of cases, not in {before:.0%}, as round 0's of the same questions"


def before_training(round_: int, figures: Figures, stop: StopConfig) -> End | None:
    """Whether a round's traces are such that it is not trained; of texts that were written in a training, such that no
    round follows."""
    if stop.differ is not None and differ_less(figures, stop.differ):
        told = f"two of its traces of a question differ {how_often(figures)}, below rounds.stop.differ = "
        return End(round_, "differ", f"{told}{stop.differ:g} of that")
    seen = seen_over_chance(figures)
    if stop.coverage is None or seen is None or seen >= stop.coverage or not is_sure(figures):
        return None
    return End(
        round_,
        "coverage",
        f"its traces show {seen:.0%} of the rare strategies that chance would show, below rounds.stop.coverage = "
        f"{stop.coverage:g}",
    )


def best_of(trained: Sequence[Figures]) -> Figures:
    """The round of the highest accuracy, of equal ones the first."""
    return max(trained, key=lambda figures: (figures["accuracy"], -figures["round"]))


def after_training(trained: Sequence[Figures], stop: StopConfig) -> End | None:
    """Whether the newest of the trained rounds is the last."""
    best, now = best_of(trained), trained[-1]
    if not stop.accuracy or now["accuracy_high"] >= best["accuracy_low"]:
        return None
    return End(
        now["round"],
        "accuracy",
        f"its accuracy ({interval(now)}) lies below that of round {best['round']} ({interval(best)})",
    )


def interval(figures: Figures) -> str:
    return f"{figures['accuracy_low']:.1%} to {figures['accuracy_high']:.1%}"

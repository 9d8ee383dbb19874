"""The yield's counts against counting row by row, and what it says of difficulty and of questions nobody solves."""

from __future__ import annotations

import random

import numpy as np
import pyarrow as pa
import pytest

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.yields.ceiling import unsolved
from tracestill.data_pipeline.yields.table import FLAGS, POLICIES, VERDICTS
from tracestill.data_pipeline.yields.yields import Samples, by, difficulty, policies, samples_of, summed

STRICT = POLICIES["strict"]
STEPS = ("asked", *FLAGS)


def row(at: int, question: str, come: str = "kept", teacher: str = "t", **more: object) -> dict:
    """A sample that came as far as the flag ``come``; what is behind was not looked at."""
    flags = dict.fromkeys(FLAGS[:-1])
    for flag in FLAGS[:-1]:
        flags[flag] = STEPS.index(flag) <= STEPS.index(come)
        if not flags[flag]:
            break
    flags["kept"] = come == "kept"
    return {
        **{"record_id": f"r{at}", "question_id": question, "teacher": teacher, "style": "", "temperature": 1.0},
        **{**flags, "reason": "" if come == "kept" else f"not {come}", **more},
    }


def samples(rows: list[dict], ids: list[str], votes: dict[str, int] | None = None, told: dict | None = None) -> Samples:
    votes = votes or {}
    table = pa.Table.from_pylist(rows, schema=VERDICTS)
    known = pa.table({"record_id": pa.array(votes, pa.string()), "vote": pa.array(votes.values(), pa.int64())})
    return samples_of(table, ids, known, pa.table(told) if told else None)


@pytest.fixture(scope="module")
def drawn() -> list[dict]:
    draw = random.Random(3)
    return [
        row(
            at, f"q{draw.randrange(40)}", draw.choice(STEPS[1:]), draw.choice("AB"), temperature=draw.choice([0.0, 0.7])
        )
        for at in range(120)
    ]


def test_each_row_counts_what_a_loop_counts(drawn: list[dict]) -> None:
    found = samples(drawn, [f"q{at}" for at in range(40)])
    for cell in by(found, "teacher+temperature", STRICT):
        mine = [r for r in drawn if (r["teacher"], f"{r['temperature']:g}") == tuple(cell["value"])]
        right = [r for r in mine if r["right"]]
        for at, step in enumerate(STEPS):
            assert cell[step] == sum(STEPS.index(come(r)) >= at for r in mine), step
        assert cell["questions"] == len({r["question_id"] for r in mine})
        assert cell["questions_right"] == len({r["question_id"] for r in right})
        assert cell["questions_kept"] == len({r["question_id"] for r in mine if r["kept"]})
        assert cell["right_share"]["share"] == pytest.approx(len(right) / len(mine))
        others = {r["question_id"] for r in drawn if r["right"] and r not in mine}
        assert cell["alone"] == len({r["question_id"] for r in right} - others)
        shares = []
        for question in {r["question_id"] for r in mine}:
            of = [bool(r["right"]) for r in mine if r["question_id"] == question]
            shares.append(sum(of) / len(of))
        assert cell["pass"][0]["share"] == pytest.approx(np.mean(shares)), "pass@1"
    total = summed(found, STRICT)
    assert (total["asked"], total["alone"]) == (120, None)
    assert sum(cell["kept"] for cell in by(found, "question", STRICT)) == total["kept"]


def come(sample: dict) -> str:
    reached = "asked"
    for flag in FLAGS:
        if not sample[flag]:
            return reached
        reached = flag
    return reached


def test_what_was_not_looked_at_is_not_counted() -> None:
    rows = [row(at, "q", "kept", sound=None, distinct=None) for at in range(3)]
    total = summed(samples(rows, ["q"]), ("answered", "right"))
    assert (total["right"], total["sound"], total["distinct"], total["kept"]) == (3, None, None, 3)
    found = policies(samples(rows, ["q"]), {})
    assert found["strict"] is None
    assert found["answer"]["records"] == 3


def test_what_each_policy_lets_through() -> None:
    rows = [row(0, "q", "kept"), row(1, "q", "right"), row(2, "p", "answered"), row(3, "p", "read")]
    rows[2] |= {"sound": False}
    found = policies(samples(rows, ["q", "p"]), {"none": 9})
    assert {
        name: (each["records"], each["wrong"], each["unsound"], each["questions"]) for name, each in found.items()
    } == {
        "strict": (1, 0, 0, 1),
        "answer": (2, 0, 1, 1),
        "none": (3, 1, 2, 2),
    }
    assert [each["kept"] for each in found.values()] == [None, None, 9]


def test_other_questions_and_unknown_dimensions_are_left_out() -> None:
    found = samples([row(0, "q"), row(1, "held out")], ["q"])
    assert summed(found, STRICT)["asked"] == 1
    with pytest.raises(InputError, match="--by teachr: no dimension; did you mean 'teacher'"):
        by(found, "teachr", STRICT)


def test_revisions_are_one_style() -> None:
    styles = ["revision of 0123456789abcdef", "revision of fedcba9876543210", "short"]
    found = samples([row(at, "q", style=style) for at, style in enumerate(styles)], ["q"])
    assert [(r["value"], r["asked"]) for r in by(found, "style", STRICT)] == [(["revision"], 2), (["short"], 1)]


def of_rates(kept: dict[float, tuple[int, int]], asked: int = 4) -> Samples:
    """Share of right samples -> (questions, kept records of each)."""
    rows: list[dict] = []
    ids = []
    for rate, (questions, keeps) in kept.items():
        for number in range(questions):
            ids.append(f"{rate}-{number}")
            for at in range(asked):
                reached = "answered" if at >= rate * asked else "kept" if at < keeps else "sound"
                rows.append(row(len(rows), ids[-1], reached))
    return samples(rows, ids)


def test_a_filter_that_leaves_only_easy_questions_is_warned_of() -> None:
    found = difficulty(of_rates({0.0: (30, 0), 0.25: (30, 1), 1.0: (100, 4)}), STRICT)
    assert [(b["value"][0], b["shares"]["questions"]) for b in found["buckets"]] == [
        ("0 %", 30 / 160), ("up to 25 %", 30 / 160), ("100 %", 100 / 160)]  # fmt: skip
    assert [b["shares"]["kept"] for b in found["buckets"]] == pytest.approx([0, 30 / 430, 400 / 430])
    assert found["pass_rate"] == pytest.approx({"questions": 107.5 / 160, "kept": 407.5 / 430})
    assert (
        "38% of the questions and 7% of what is kept (with one record a question it would be 23%)" in found["warning"]
    )


def test_no_warning_where_little_is_lost_or_little_is_known() -> None:
    assert not difficulty(of_rates({0.5: (60, 2), 1.0: (100, 2)}), STRICT)["warning"]
    assert not difficulty(of_rates({0.25: (2, 0), 1.0: (100, 4)}), STRICT)["warning"], "too few to matter"
    assert not difficulty(of_rates({0.25: (2, 1), 1.0: (3, 3)}), STRICT)["warning"], "within what chance does"


def texts(count: int, words: list[int], groups: int = 1) -> pa.Table:
    return pa.table({
        "question": [" ".join(["word"] * words[at]) for at in range(count)],
        "gold": ["1"] * count,
        "group": [f"g{at % groups}" for at in range(count)],
    })  # fmt: skip


def test_what_unsolved_questions_have_in_common() -> None:
    """The 60 longest are solved half as often as others, and no other feature differs."""
    draw = np.random.default_rng(0)
    words = draw.permutation(300)
    never = draw.random(300) < np.where(words >= 200, 0.5, 0.05)
    ids = [f"q{at}" for at in range(300)]
    rows = [row(2 * q + at, ids[q], "answered" if never[q] else "kept") for q in range(300) for at in range(2)]
    found = unsolved(samples(rows, ids), texts(300, (words + 1).tolist()), draw.integers(0, 9, 600), {})
    assert found["questions"] == never.sum()
    by_feature = {each["feature"]: each["parts"] for each in found["common"]}
    assert [part["stands_out"] for part in by_feature["words"]][-1], "the longest"
    assert not any(part["stands_out"] for part in by_feature["operations"])
    assert by_feature.keys() == {"words", "operations"}, "numbers and group are the same in all"
    assert sum(part["unsolved"] for part in by_feature["words"]) == never.sum()


def test_noise_stands_out_seldom() -> None:
    """Nothing makes these questions hard: of 60 reports at most a few say that something does."""
    alarms = 0
    ids = [f"q{at}" for at in range(120)]
    for seed in range(60):
        draw = np.random.default_rng(seed)
        rows = [row(at, ids[at], "answered" if draw.random() < 0.2 else "kept") for at in range(120)]
        asked = texts(120, (draw.permutation(120) + 1).tolist(), groups=10)
        found = unsolved(samples(rows, ids), asked, draw.integers(0, 9, 120), {})
        alarms += any(part["stands_out"] for each in found["common"] for part in each["parts"])
    assert alarms <= 6


def test_doubtful_gold_answers_and_silence_are_told() -> None:
    rows = [row(at, "agreed", "answered") for at in range(4)]
    rows += [row(at, "split", "answered") for at in range(4, 8)]
    rows += [row(at, "silent", "asked") for at in range(8, 12)]
    rows += [row(at, "many", "answered") for at in range(12, 20)]
    votes = {"r0": 7, "r1": 7, "r2": 7, "r3": 8, "r4": 1, "r5": 1, "r6": 2, "r7": 3}
    votes |= {f"r{at}": 9 if at < 15 else at for at in range(12, 20)}
    ids = ["split", "agreed", "silent", "many"]
    found = unsolved(samples(rows, ids, votes), texts(4, [1] * 4), np.full(20, -1), {7: "240", 1: "1", 9: "9"})
    assert (found["questions"], found["agreed"], found["silent"]) == (4, 1, 1)
    assert {e["question_id"]: (e["answer"], e["times"], e["asked"]) for e in found["examples"]} == {
        "agreed": ("240", 3, 4), "split": ("1", 2, 4), "silent": (None, 0, 4), "many": ("9", 3, 8)}  # fmt: skip


def test_tokens_and_cost_of_a_kept_record() -> None:
    """What the rejected ones cost is part of it; what nobody told is not."""
    rows = [
        row(0, "q", "kept", "api"),
        row(1, "q", "answered", "api"),
        row(2, "q", "kept", "local"),
        row(3, "q", "kept"),
    ]
    told = {"record_id": ["r0", "r1", "r2"], "tokens": [100.0, 60.0, 10.0], "cost": [0.5, 0.25, None]}
    found = {r["value"][0]: r for r in by(samples(rows, ["q"], told=told), "teacher", STRICT)}
    assert (found["api"]["tokens_per_kept"], found["api"]["cost_per_kept"]) == (160, 0.75)
    assert (found["local"]["tokens_per_kept"], found["local"]["cost_per_kept"]) == (10, None)
    assert found["t"]["tokens"] is None

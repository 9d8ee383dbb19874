"""The part that draws several answers, with a student whose samples are known."""

from __future__ import annotations

import math

import pyarrow.parquet as pq
import pytest
from fake_run import mini_recipe
from scripted_asker import Scripted, context_of, question

from tracestill.data_pipeline.answers.verdict import Verdict
from tracestill.data_pipeline.base.errors import InputError
from tracestill.trainer.measures.samples import samples
from tracestill.trainer.measures.settings import SamplesConfig

ANSWERS = {"easy": ["4", "4.0", "5", "4"], "hard": ["1", "2", "1/2", "0.5"], "silent": [None] * 4}
QUESTIONS = [
    question(1, "easy", "4"),
    question(2, "hard", "2"),
    question(3, "silent", "3"),
    question(4, "forbidden\0", "3"),
    question(5, "easy", ""),  # nobody knows
]


def writes(query, sample):
    trace = "2 + 2 = 5." if query.question == "easy" and sample == 2 else "2 + 2 = 4."
    return trace, ANSWERS[query.question.rstrip("\0")][sample]


def logprob(query, sample):
    return -1.0 if query.begun.closed else -0.5 * (sample + 1)


@pytest.fixture
def part(tmp_path):
    asker = Scripted(writes, logprob)
    return samples(context_of(tmp_path, asker, QUESTIONS, samples={"count": 4, "bins": 2})), asker, tmp_path


def test_votes_by_what_answers_say(part) -> None:
    found, asker, folder = part
    assert [query.samples for query in asker.queries[:5]] == [4] * 5
    assert {query.temperature for query in asker.queries[:5]} == {0.7}
    assert len({query.key for query in asker.queries[:5]}) == 5
    assert (found["questions"], found["not_asked"], found["without_gold"]) == (3, 1, 1)
    last = found["curve"][-1]
    assert [row["k"] for row in found["curve"]] == [1, 2, 4]
    assert last["pass"]["share"] == pytest.approx(2 / 3)
    assert last["majority"]["share"] == pytest.approx(1 / 3)  # 1/2 and 0.5 outvote the right 2
    assert last["sound"]["share"] == pytest.approx((1 + 1 / 4) / 3)
    assert found["curve"][0]["majority"]["share"] == pytest.approx((3 / 4 + 1 / 4) / 3)
    assert found["answers"] == pytest.approx((2 + 3 + 0) / 3)
    rows = pq.read_table(folder / "samples.parquet").to_pylist()
    assert len(rows) == 16
    assert [row["vote"] for row in rows if row["question_id"] == QUESTIONS[1]["question_id"]] == [1, 0, 2, 2]
    assert [row["sound"] for row in rows[:4]] == [True, True, False, True]


def test_a_vote_is_weighted_by_the_mean_likelihood_of_its_tokens(part) -> None:
    found, _, _ = part
    weights = [math.exp(-0.5 * (sample + 1) / 6) for sample in range(4)]  # six tokens each
    by_half = weights[2] + weights[3]
    assert by_half > weights[1]
    assert found["curve"][-1]["weighted"]["share"] == pytest.approx(1 / 3)
    confident = found["calibration"]["likelihood"]["table"]
    expected = [by_half / sum(weights), (weights[0] + weights[1] + weights[3]) / sum(weights)]
    assert [row["confidence"] for row in confident] == pytest.approx(expected)


def test_calibration_by_votes_and_by_the_probability_of_the_answer(part) -> None:
    found, asker, _ = part
    votes = found["calibration"]["votes"]
    assert votes["count"] == 2  # who gave no answer has no confidence in one
    assert [(row["confidence"], row["share"]) for row in votes["table"]] == [(0.5, 0.0), (0.75, 1.0)]
    assert votes["brier"] == pytest.approx((0.25 + 0.0625) / 2)
    closed = asker.queries[5:]
    assert [(query.begun.trace, query.begun.closed) for query in closed] == [("2 + 2 = 4.", True)] * 2
    assert found["calibration"]["answer"]["count"] == 2
    assert found["calibration"]["answer"]["table"][0]["confidence"] == pytest.approx(math.exp(-1))


def test_a_server_that_tells_no_likelihoods(tmp_path) -> None:
    found = samples(context_of(tmp_path, Scripted(writes), QUESTIONS, samples={"count": 2}))
    assert found["curve"][0]["weighted"] is None
    assert set(found["calibration"]) == {"votes", "answer"}
    assert found["calibration"]["answer"]["count"] == 0


def test_a_text_that_was_refused_takes_no_likelihood_from_the_others(tmp_path) -> None:
    told = Scripted(writes, lambda query, sample: None if query.question == "silent" else logprob(query, sample))
    found = samples(context_of(tmp_path, told, QUESTIONS, samples={"count": 4, "bins": 2}))
    assert found["curve"][-1]["weighted"]["share"] == pytest.approx(1 / 3)
    assert found["calibration"]["likelihood"]["count"] == 2


def test_whoever_tells_without_a_gold_answer_is_believed(tmp_path) -> None:
    asker = Scripted(writes, logprob)
    context = context_of(tmp_path, asker, QUESTIONS, samples={"count": 4, "bins": 2})
    judge = context.verifier.verdicts
    context.verifier.verdicts = lambda cases: [
        one if case.gold else Verdict("right" if case.answer == "4" else "wrong", case.answer, "", "own")
        for one, case in zip(judge(cases), cases, strict=True)
    ]
    found = samples(context)
    assert (found["questions"], found["without_gold"]) == (4, 0)
    assert found["curve"][-1]["pass"]["share"] == pytest.approx(3 / 4)


def test_more_samples_shown_than_drawn_are_refused() -> None:
    with pytest.raises(
        InputError, match=r"evaluate.samples.*ks: 16 samples of a question are more than its count of 8"
    ):
        mini_recipe(evaluate={"samples": {"ks": [1, 16]}})
    assert SamplesConfig(count=12).shown == [1, 2, 4, 8, 12]
    assert SamplesConfig(count=12, ks=[5, 3, 3]).shown == [3, 5]

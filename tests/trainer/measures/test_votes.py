"""Answers are one vote if the verifier says that they say the same."""

from __future__ import annotations

from tracestill.data_pipeline.answers import Case, Verifier
from tracestill.trainer.measures.votes import votes_of


def rows(*answers: str | None, right: tuple[str, ...] = ()) -> list[dict]:
    return [{"answer": answer, "correct": answer in right} for answer in answers]


def same(pairs):
    cases = [Case(one, other, question["question"]) for one, other, question in pairs]
    return [verdict.right for verdict in Verifier().verdicts(cases)]


def test_what_says_the_same_is_one_vote() -> None:
    questions = [{"question": "How much?"}, {"question": "Which one?"}]
    said = [rows("0.5", "1/2", None, "18", "3", "18.0", " 3 ", right=("18", "18.0")), rows("blue", "Blue", "red", "B")]
    assert votes_of(said, questions, same) == [[1, 1, -1, 0, 2, 0, 2], [1, 1, 2, 3]]


def test_texts_alone_would_split_the_vote() -> None:
    assert votes_of([rows("1/2", "0.5", "0.50")], [{"question": ""}], lambda pairs: [False] * len(pairs)) == [[1, 2, 3]]


def test_all_questions_are_compared_at_once_and_only_with_the_first_of_each_vote() -> None:
    calls = []

    def alike(pairs):
        calls.append([pair[:2] for pair in pairs])
        return [a[0] == b[0] for a, b, _ in pairs]

    found = votes_of([rows("a1", "a2", "b1", "a3"), rows("c1", "c1", "d1")], [{}, {}], alike)
    assert found == [[1, 1, 2, 1], [1, 1, 2]]
    assert calls == [[], [("a2", "a1"), ("d1", "c1")], [("b1", "a1")], [("a3", "a1"), ("a3", "b1")]]


def test_no_samples() -> None:
    assert votes_of([[], rows(None)], [{}, {}], same) == [[], [-1]]

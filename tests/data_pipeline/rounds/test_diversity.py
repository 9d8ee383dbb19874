"""Figures of diversity against values computed by hand."""

import math

import pytest

from tracestill.data_pipeline.rounds.diversity import (
    beside,
    bleu,
    coverage,
    differing,
    entropy,
    paths_a_question,
    self_bleu,
)
from tracestill.data_pipeline.rounds.strategies import rare_ones, strategy
from tracestill.data_pipeline.soundness.equations import equations


def test_paths_of_questions():
    paths = {"a": ["x", "x", "y"], "b": ["x"], "c": ["p", "q"], "d": []}
    assert paths_a_question(paths) == pytest.approx((2 + 1 + 2) / 3)
    # a: of the 3 pairs one is alike; b has no pair; c: its one pair differs
    assert differing(paths) == pytest.approx((2 / 3 + 1) / 2)
    assert differing({"b": ["x"]}) is None
    assert paths_a_question({}) == 0


def test_differing_does_not_grow_with_the_number_of_traces():
    few, many = {"a": ["x", "y"] * 2}, {"a": ["x", "y"] * 500}
    assert differing(few) == pytest.approx(1 - (2 * 2 * 1) / (4 * 3))
    assert differing(many) == pytest.approx(0.5, abs=1e-3)
    assert differing({"a": ["x"] * 9}) == 0


def test_round_0_is_looked_at_where_the_student_is_right_twice():
    first = {"a": ["x", "x"], "b": ["x", "y"], "c": ["x", "y"], "d": ["x"]}
    now = {"a": ["x", "x"], "b": ["x", "x"], "d": ["x", "y"]}  # c is not solved any more, of d nothing is known
    found = beside(now, first)
    assert (found.now, found.first, found.questions) == (0.0, 0.5, 2), "of a and b, both times"
    assert found.error == pytest.approx(math.sqrt(0.5) / math.sqrt(2)), "changes 0 and 1: deviation 0.71, of two"
    assert beside({"a": ["x", "x"]}, first) is None, "one question has no spread"
    assert beside({}, {}) is None


def test_entropy_in_bits():
    assert entropy(["a", "b", "c", "d"]) == pytest.approx(2)
    assert entropy("aaab") == pytest.approx(0.75 * math.log2(4 / 3) + 0.25 * 2)
    assert entropy(["a"] * 5) == entropy([]) == 0


def test_coverage_beside_chance():
    first = ["a"] * 6 + ["b", "b"] + ["c", "d"]
    rare = rare_ones(first, 0.2)
    assert rare == {"c", "d"}, "two of ten traces"
    seen, chance, error = coverage(first, ["a", "a", "d"], rare)
    assert seen == 0.5
    assert chance == pytest.approx(1 - 0.9**3)
    assert error == pytest.approx(math.sqrt(2 * 0.271 * 0.729) / 2), "of the share of two"
    assert coverage(first, [], rare) == (0.0, 0.0, 0.0)
    assert coverage([], ["a"], frozenset()) is None


@pytest.mark.parametrize(
    ("share", "rare"), [(0.05, "d"), (0.1, "d"), (0.11, "cd"), (0.3, "cd"), (0.31, "bcd"), (1.0, "abcd")]
)
def test_the_least_frequent_are_rare(share, rare):
    assert rare_ones([*"aaaa", *"bbb", *"cc", "d", ""], share) == set(rare)


def test_equally_frequent_ones_are_all_rare():
    assert rare_ones("abc", 0.2) == set("abc")
    assert rare_ones(["", ""], 0.2) == set()


def test_bleu_by_hand():
    five, other = ["a", "b", "c", "d", "e"], ["a", "b", "c", "d", "x"]
    # 4 of 5 words, 3 of 4 pairs, 2 of 3 triples, 1 of 2 fours; as long as the reference
    assert bleu(five, [other]) == pytest.approx((4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25)
    assert bleu(five, [five]) == pytest.approx(1)
    assert bleu(five, [["v", "w", "x", "y", "z"]]) == 0
    # a word counts as often as the one reference that has it most often, not as often as all of them together
    assert bleu(["a", "a", "b"], [["a", "b"], ["b", "a"]]) == 0, "no pair a a, and so no triple"
    assert bleu(["a", "a"], [["a", "a"], ["b"]]) == pytest.approx(1)
    # of fewer than four words, runs up to their number; shorter than the nearest reference by a half
    assert bleu(["x"], [["x", "y"]]) == pytest.approx(math.exp(1 - 2 / 1))
    assert bleu(["x"], [["x", "y"], ["x"]]) == pytest.approx(1), "the nearest in length"
    assert bleu(["x", "y"], [["x"], ["x", "y", "z"]]) == pytest.approx(1), "of two as near, the shorter"


def test_self_bleu_of_questions():
    same, apart = ["so", "a", "is", "b", "and", "c"], ["now", "x", "was", "y", "or", "z"]
    assert self_bleu({"q": [same, same, same]}) == pytest.approx(1)
    assert self_bleu({"q": [same, apart]}) == 0
    assert self_bleu({"q": [same, same], "r": [same, apart], "s": [same]}) == pytest.approx(0.5)
    assert self_bleu({"q": [same]}) is None


QUESTION = "What is (7 + 4 + 9 + 3) mod 10?"


@pytest.mark.parametrize(
    ("question", "trace", "expected"),
    [
        (QUESTION, "9+4=13. 13+7=20. 20+3=23. 23 mod 10=3.", "q2+q1=r0 r0+q0=r1 r1+q3=r2 r2modq4=r3"),
        ("What is (1 + 5 + 2 + 8) mod 10?", "2+5=7. 7+1=8. 8+8=16. 16 mod 10=6.",
         "q2+q1=r0 r0+q0=r1 r1+q3=r2 r2modq4=r3"),
        (QUESTION, "First 7+4=11. Then 11+9=20, and 20+3=23.", "q0+q1=r0 r0+q2=r1 r1+q3=r2"),
        ("Add 2 and 2 and 4.", "2+2=4. 4+4=8.", "q0+q1=r0 r0+q2=r1"),
        ("Add 2 and 5.", "2+5+11=18.", "q0+q1+n=r0"),
        ("She pays 3 times $1,200.", "1200*3=3600. 3,600/2=1800", "q1*q0=r0 r0/n=r1"),
        ("(3 + 3 + 4) mod 10", "3+3=6. 6+4=10. 10 mod 10=0. Check 10+0=10.",
         "q0+q1=r0 r0+q2=r1 r1modq3=r2 r1+r2=r3"),
        ("(8 + 7) mod 10", "8+7=15. 15 mod 10=5. Check 10+5=15.", "q0+q1=r0 r0modq2=r1 n+r1=r2"),
        ("(8 + 9 + 7) mod 10", "8+9=17. 17+7=24. 24 mod 10=4. Check 20+4=24.",
         "q0+q1=r0 r0+q2=r1 r1modq3=r2 n+r2=r3"),
        ("Of 2, 3 and 1.", "2+3=5. 1+4=5. 5+7=12.", "q0+q1=r0 q2+n=r1 r1+n=r2"),  # of two results the newest
        ("How many?", "There are many of them.", ""),
    ],
)  # fmt: skip
def test_strategies_name_numbers_by_where_they_come_from(question, trace, expected):
    assert strategy(question, equations(trace)) == expected

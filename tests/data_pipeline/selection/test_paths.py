"""Distinct paths: what is the same, which ones stay, and that nothing but the records decides."""

from __future__ import annotations

import random
import re
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from rapidfuzz.distance import Indel, Levenshtein

from tracestill.data_pipeline.selection import distances
from tracestill.data_pipeline.selection.commuted import commuted
from tracestill.data_pipeline.selection.judging import digest, digests
from tracestill.data_pipeline.selection.paths import Candidate, PathsConfig, chosen
from tracestill.data_pipeline.selection.repetition import words_of


def candidate(place: int, trace: str, *, fuzzy: bool = False, weight: float = 1.0, teacher: int = 0) -> Candidate:
    path = digest(trace if fuzzy else " ".join(re.findall(r"\d+", trace)))
    return Candidate(place, f"{place:02}", fuzzy, digests(words_of(trace)), path, weight, len(trace), teacher)


def stays(
    given: list[Candidate], most: int | None = None, of_teacher: int | None = None, **config: object
) -> list[int]:
    left = dict(chosen(given, PathsConfig.model_validate(config), most, of_teacher))
    return [each.place for each in given if each.place not in left]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("3+4=7", "4+3=7", True),
        ("2*3+4=10", "4+3*2=10", True),
        ("(1+2)+3=6", "3+(2+1)=6", True),
        ("2*(3*4)=24", "4*3*2=24", True),
        ("10-3-2=5", "10-2-3=5", True),
        ("12/3/2=2", "12/2/3=2", True),
        ("3+4=7=14/2", "4+3=7=14/2", True),
        ("-3+5=2", "5+-3=2", True),
        ("10-3=7", "3-10=7", False),
        ("12/3=4", "3/12=4", False),
        ("2^3=8", "3^2=8", False),
        ("3+4=7", "7=3+4", False),
        ("2*(3+4)=14", "2*3+4=14", False),
        ("10-(3-2)=9", "10-3-2=9", False),
    ],
)
def test_sums_and_products_may_be_turned_round(one: str, other: str, same: bool) -> None:
    assert (commuted(one) == commuted(other)) is same


@pytest.mark.parametrize("path", ["20%of50=10", "3(4)=12", "7mod3=1", "(((", "", "=" * 9, "1" * 5000 + "=1", "08+1=9"])
def test_what_is_no_plain_arithmetic_keeps_its_path(path: str) -> None:
    assert commuted(path) == path


def test_turning_round_never_changes_a_value() -> None:
    """Against Fractions, on generated sums and products; ``+``, ``*`` and ``/`` before a first operand are its sign."""
    rng = random.Random(0)
    for _ in range(300):
        path = "".join(f"{rng.randrange(1, 9)}{rng.choice('+-*/')}" for _ in range(rng.randrange(1, 6))) + "5"
        assert value_of(commuted(path)) == value_of(path)


def value_of(text: str) -> Fraction:
    """Brackets from within, then products, then sums."""
    while inner := re.search(r"\(([^()]*)\)", text):
        text = f"{text[: inner.start()]}{value_of(inner[1])}{text[inner.end() :]}"
    text = re.sub(r"[-+]+", lambda signs: "-" if signs[0].count("-") % 2 else "+", text)
    total = Fraction(0)
    for product in re.findall(r"(?:(?<![*/])^|(?<=[\d])(?=[+-])|^)[-+]?(?:[*/]?[-+]?\d+)+", text):
        value = Fraction(1)
        for operator, number in re.findall(r"([*/]?)([-+]?\d+)", product):
            value = value / int(number) if operator == "/" else value * int(number)
        total += value
    return total


def test_traces_without_equations_are_the_same_if_nearly_all_words_are() -> None:
    words = [f"word{at}" for at in range(40)]
    text = " ".join(words)
    near = " ".join([*words[:20], "other", *words[21:]])
    far = " ".join([*words[:12], *reversed(words[12:])])
    given = [candidate(at, one, fuzzy=True) for at, one in enumerate([text, near, far, text.upper() + "!"])]
    assert stays(given) == [0, 2]
    assert stays(given, similarity=0.99) == [0, 1, 2]
    assert stays(given, same="off") == [0, 1, 2, 3]


def test_the_different_ones_are_those_of_the_largest_sum_of_edit_distances() -> None:
    """Against all subsets: each choice is the best next one, the sums counted from rapidfuzz on lists of words."""
    rng = random.Random(1)
    texts = [" ".join(rng.choice("abcdefgh") for _ in range(rng.randrange(5, 30))) + f" {at}" for at in range(9)]
    given = [candidate(at, text) for at, text in enumerate(texts)]
    apart = np.array([[Levenshtein.distance(a.split(), b.split()) for b in texts] for a in texts])
    found = distances.Distances(distances.as_text([each.words for each in given]), range(9))
    assert found.exact
    assert (np.array([found.row(at) for at in range(9)]) == apart).all()
    assert (found.sums() == apart.sum(1)).all()
    best = [int(np.argmax(apart.sum(1)))]
    while len(best) < 4:
        best.append(max(set(range(9)) - set(best), key=lambda at: sum(apart[at, other] for other in best)))
    assert stays(given, 4, choose="different") == sorted(best)
    kept = sum(apart[a, b] for a, b in combinations(best, 2))
    sums = [sum(apart[a, b] for a, b in combinations(four, 2)) for four in combinations(range(9), 4)]
    assert kept >= np.quantile(sums, 0.95), "nearly the best of all fours"


def test_of_one_path_that_trace_stays_that_is_farthest_from_the_others() -> None:
    """As in arXiv:2308.01825: 0 and 1 have the same equations; 1 says it in words that no other has."""
    given = [candidate(at, text) for at, text in enumerate(["we add 3 and 4", "look at 3 then at 4", "we add 4 and 3"])]
    assert stays(given, choose="different") == [1, 2]
    assert stays(given) == [0, 2]


@pytest.mark.parametrize(
    ("choose", "expected"), [("short", [2, 3]), ("long", [0, 1]), ("weight", [1, 3]), ("random", [0, 1])]
)
def test_by_length_or_by_weight_or_at_random(choose: str, expected: list[int]) -> None:
    traces = ["1 and many more words than that", "2 and a few more words", "3 little", "4"]
    weights = [1, 5, 0, 3]
    given = [candidate(at, *pair[:1], weight=pair[1]) for at, pair in enumerate(zip(traces, weights, strict=True))]
    if choose == "short":
        given[2] = given[2]._replace(weight=1)
    assert stays(given, 2, choose=choose) == expected
    assert stays(given[::-1], 2, choose=choose) == expected[::-1], "whatever the order"


def test_what_weighs_nothing_comes_last_and_another_seed_chooses_otherwise() -> None:
    given = [candidate(at, str(at), weight=float(at > 2)) for at in range(12)]
    for choose in ("random", "different", "short", "long"):
        assert min(stays(given, 9, choose=choose)) == 3
    drawn = {tuple(stays(given, 3, seed=seed)) for seed in range(20)}
    assert len(drawn) > 10
    counts = np.bincount(np.concatenate([stays(given, 3, seed=seed) for seed in range(600)]), minlength=12)
    assert (counts[:3] == 0).all()
    assert counts[3:].min() > 150, "200 each, of a fair draw"


@pytest.mark.parametrize("choose", ["random", "different"])
def test_maxima_of_a_teacher_and_of_a_question_hold_together(choose: str) -> None:
    given = [candidate(at, f"{at} " * (at + 1), teacher=at % 3) for at in range(12)]
    kept = stays(given, None, 2, choose=choose)
    assert sorted(at % 3 for at in kept) == [0, 0, 1, 1, 2, 2]
    assert len(stays(given, 5, 2, choose=choose)) == 5
    left = dict(chosen(given, PathsConfig(choose="random"), 5, 1))
    assert {each.of_teacher for each in left.values()} == {True}, "three teachers, one each: the five are never reached"


def plainly(given: list[Candidate], config: PathsConfig, most: int | None, of_teacher: int | None) -> list[int]:
    """The same choice by comparing all with all, one by one."""
    words = [each.words.tolist() for each in given]
    apart = [[Levenshtein.distance(a, b) for b in words] for a in words]
    key = {"different": lambda at: -sum(apart[at]), "random": lambda at: 0}[config.choose]
    order = sorted(range(len(given)), key=lambda at: (given[at].weight == 0, key(at), given[at].record))
    kept: list[int] = []
    for at in order:
        same = (given[o].path == given[at].path or near(words[o], words[at], config, given[at]) for o in kept)
        if not any(same):
            kept.append(at)
    if config.choose == "different":
        left, kept = kept, []
        while left:
            heavy = [at for at in left if given[at].weight] or left
            kept.append(max(heavy, key=lambda at: sum(apart[at][o] for o in kept)))
            left.remove(kept[-1])
    taken: list[int] = []
    for at in kept:
        of = [o for o in taken if given[o].teacher == given[at].teacher]
        if (most is None or len(taken) < most) and (of_teacher is None or len(of) < of_teacher):
            taken.append(at)
    return sorted(given[at].place for at in taken)


def near(one: list[int], other: list[int], config: PathsConfig, each: Candidate) -> bool:
    return each.fuzzy and Indel.normalized_similarity(one, other) >= config.similarity


def crowd(count: int, seed: int, fuzzy: bool, length: int = 40) -> list[Candidate]:
    """Traces that are variants of a few, so that many are nearly the same."""
    rng = random.Random(seed)
    bases = [[rng.choice("abcdefghijklmnop") for _ in range(rng.randrange(0, length))] for _ in range(4)]
    found = []
    for at in range(count):
        words = [rng.choice("xyz") if rng.random() < 0.12 else word for word in rng.choice(bases)]
        each = candidate(at, " ".join(words), fuzzy=fuzzy, weight=float(rng.random() > 0.1), teacher=at % 3)
        found.append(each._replace(path=each.path if fuzzy else rng.randrange(count)))
    return found


@pytest.mark.parametrize("fuzzy", [True, False])
@pytest.mark.parametrize("choose", ["different", "random"])
@pytest.mark.parametrize(("most", "of_teacher"), [(None, None), (6, None), (None, 3), (7, 3)])
def test_the_choice_is_that_of_comparing_all_with_all(fuzzy, choose, most, of_teacher) -> None:
    for seed in range(6):
        given = crowd(30, seed, fuzzy)
        config = PathsConfig(choose=choose, similarity=0.8)
        expected = plainly(given, config, most, of_teacher)
        assert stays(given, most, of_teacher, choose=choose, similarity=0.8) == expected
        assert 3 < len(expected) <= 30


@pytest.mark.parametrize("most", [None, 5])
def test_what_many_long_traces_cost_is_bounded_and_all_are_accounted_for(monkeypatch, most) -> None:
    given = crowd(120, 0, fuzzy=True, length=200)
    compared = []

    def counted(one, other, **options):
        compared.append(len(one) * len(other))
        return cdist(one, other, **options)

    cdist = distances.cdist
    monkeypatch.setattr(distances, "cdist", counted)
    whole = stays(given, most, choose="different", similarity=0.99)
    all_pairs = sum(compared)
    compared.clear()
    monkeypatch.setattr(distances, "WORK", 50_000)
    some = stays(given, most, choose="different", similarity=0.99)
    assert sum(compared) < all_pairs / 3
    assert some == stays(given[::-1], most, choose="different", similarity=0.99)[::-1], "whatever the order"
    if most is None:
        assert whole == some, "who is nearly whom does not depend on sums, where few come near"
    else:
        assert len(some) == len(whole) == most


def test_sums_to_some_are_near_those_to_all(monkeypatch) -> None:
    texts = distances.as_text([each.words for each in crowd(200, 3, fuzzy=True, length=60)])
    whole = distances.Distances(texts, range(200)).sums()
    monkeypatch.setattr(distances, "MATRIX", 50)
    found = distances.Distances(texts, range(200))
    assert not found.exact
    assert len(found.drawn) == 50
    assert np.corrcoef(found.sums(), whole)[0, 1] > 0.97


def test_the_same_words_in_any_order_are_compared_with_some_others_only(monkeypatch) -> None:
    """Of such texts the words alone never tell that they are not nearly the same."""
    rng = random.Random(2)
    words = [f"w{at}" for at in range(30)]
    given = [candidate(at, " ".join(rng.sample(words, 30)), fuzzy=True) for at in range(80)]
    compared = []

    def counted(one, other, **options):
        compared.append(len(one) * len(other))
        return cdist(one, other, **options)

    cdist = distances.cdist
    monkeypatch.setattr(distances, "cdist", counted)
    assert stays(given) == list(range(80))
    assert sum(compared) == 80 * 79 / 2
    compared.clear()
    monkeypatch.setattr(distances, "WORK", 1)
    assert stays(given) == list(range(80))
    assert sum(compared) <= 80 * distances.LEAST

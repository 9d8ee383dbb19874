"""Texts of models on the page: masked, marked, cut; nothing lost on the way."""

from __future__ import annotations

import random

import pytest
from fake_run import mini_recipe

from tracestill.launch.report.records import shown
from tracestill.launch.report.records.false_steps import Asked, checkers_of, false_in, false_in_all
from tracestill.launch.report.records.shown import Texts


def joined(pieces):
    return (
        pieces if isinstance(pieces, str) else "".join(p if isinstance(p, str) else p.get("false", "") for p in pieces)
    )


def test_pieces_are_the_text_and_their_false_ones_the_marks():
    draw = random.Random(3)
    text = "".join(draw.choices("ab \n<é😀", k=200))
    for _ in range(200):
        marks = [(at, at + draw.randint(0, 20), "why") for at in draw.choices(range(200), k=draw.randint(0, 6))]
        pieces = Texts([text]).pieces(text, marks)
        assert joined(pieces) == text
        covered = {at for start, end, _ in marks for at in range(start, min(end, 200))}
        found, at = set(), 0
        for piece in [pieces] if isinstance(pieces, str) else pieces:
            if isinstance(piece, dict):
                found |= set(range(at, at + len(piece["false"])))
            at += len(joined([piece]))
        assert found == covered


def test_a_long_text_keeps_its_beginning_and_end_and_says_what_went():
    text = "".join(chr(0x4E00 + at) for at in range(900))
    texts = Texts([text, "short"], most=600)
    assert texts.limit == 500
    pieces = texts.pieces(text, [(10, 12, "a"), (400, 500, "gone"), (895, 900, "b")])
    assert pieces[0] == text[:10]
    assert [piece for piece in pieces if isinstance(piece, dict)] == [
        {"false": text[10:12], "why": "a"},
        {"cut": 900 - 500 // 3 - 500 * 2 // 3},
        {"false": text[895:], "why": "b"},
    ]
    assert joined(pieces) == text[: 500 * 2 // 3] + text[900 - 500 // 3 :]
    assert texts.pieces("short") == "short"
    assert texts.cut == 1


def test_all_texts_fit_by_the_largest_limit_that_does():
    texts = [f"{at:04}" + "x" * 8000 for at in range(10)]
    assert Texts(texts, most=100_000).limit == shown.LIMITS[0]
    assert Texts(texts, most=60_000).limit == 5000
    assert Texts(texts, most=1).limit == shown.LIMITS[-1]
    assert Texts(["a"], ["x" * 200_000], most=10).limit == shown.LIMITS[0], "what is not shown takes no room"


def test_secrets_are_masked_and_hidden_characters_written_out():
    key = "sk-" + "a1B2" * 12
    texts = Texts([f"use {key} now", "left\u202eright\x1b"])
    assert key not in texts.pieces(f"use {key} now")
    assert texts.pieces("left\u202eright\x1b") == "left\\u202eright\\x1b"
    assert texts.plain("left\u202eright\x1b") == "left\\u202eright\\x1b"


@pytest.mark.parametrize("checks", [["equations"], ["my_checks:check", "equations"]])
def test_false_steps_are_those_of_the_recipes_checkers_that_may_look(checks):
    recipe = mini_recipe()
    own = recipe.model_copy(update={"select": recipe.select.model_copy(update={"checks": tuple(checks)})})
    text = "First 3 + 4 = 7. Then 7 + 5 = 13. So 13."
    assert checkers_of(own) == ("equations",)
    assert [text[start:end] for start, end, _ in false_in(Asked(checkers_of(own), text))] == ["7 + 5 = 13"]
    assert false_in(Asked(checkers_of(own), "  ")) == []
    assert false_in(Asked((), text)) == []


def test_processes_find_what_one_finds():
    asked = [Asked(("equations",), f"{at} + 1 = {at + 1 + (at % 3 == 0)}") for at in range(300)]
    alone = false_in_all(asked, 1)
    assert [bool(marks) for marks in alone] == [at % 3 == 0 for at in range(300)]
    assert false_in_all(asked, 2) == alone
    assert false_in_all([], None) == []

"""What is asked in the end: every question in every form, or the reason why not."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.schema import Question, content_id
from tracestill.data_pipeline.variations import Variation, with_text
from tracestill.data_pipeline.variations.copies import copies
from tracestill.data_pipeline.variations.known import BUILT_IN
from tracestill.data_pipeline.variations.posed import posed


def questions(*pairs: tuple[str, str]) -> list[Question]:
    return [Question(content_id(text), text, gold, "test") for text, gold in pairs]


FOUR = questions(("Tom has 3 pens. How many?", "3"), ("Add 2 and 5.", "7"), ("Is it so?", "yes"), ("Who?", "Ann"))


def rows_of(rewrite, four=FOUR, **more):
    variation = Variation("mine", rewrite, **{k: v for k, v in more.items() if k in ("keeps_gold", "system", "is_new")})
    asked = {k: v for k, v in more.items() if k in ("tag", "varied", "takes_system")}
    return [row for row in posed("task", four, [variation], 0, **asked) if row.variation != "plain"]


def reasons(rewrite, four=FOUR, **more) -> list[str]:
    found = rows_of(rewrite, four, **more)
    assert all((row.question is None) == bool(row.left_out) for row in found)
    return [row.left_out for row in found]


def says(template: str):
    return lambda question, draw: with_text(question, template.format(q=question.question, gold=question.gold))


def test_every_question_stands_in_every_form_and_equal_arguments_give_equal_rows() -> None:
    ways = list(BUILT_IN.values())
    rows = list(posed("task", FOUR, ways, 3))
    assert rows == list(posed("task", FOUR, ways, 3))
    assert Counter(row.variation for row in rows) == {"plain": 4, **{each.label: 4 for each in ways}}
    alone = list(posed("task", FOUR[1:2], ways, 3))  # whatever others there are
    assert alone == [row for row in rows if row.question_id == FOUR[1].question_id]
    assert len(list(posed("task", FOUR, ways, 3, varied=1))) == 4 + len(ways)


def test_each_question_has_draws_of_its_own() -> None:
    many = questions(*((f"Take {n} from 50. How much is left?", str(50 - n)) for n in range(30)))
    rows = rows_of(BUILT_IN["distractor.before"].rewrite, many)
    assert len({row.question.partition("Take")[0] for row in rows}) > 20


def test_what_cannot_be_asked_is_left_out_by_name() -> None:
    assert reasons(says("Please: {q}")) == ["", "", "", ""]
    assert reasons(lambda question, draw: None) == ["not_applicable"] * 4
    assert reasons(says("{q}\n")) == ["unchanged"] * 4  # line breaks at the end say nothing
    assert reasons(says("Always the same.")) == ["", "equal", "equal", "equal"]
    assert reasons(says("Add 2 and 5.")) == ["equal", "unchanged", "equal", "equal"]
    assert reasons(says(" ")) == ["not_a_text"] * 4
    assert reasons(says("half a character \ud83d")) == ["not_a_text"] * 4


def test_a_form_may_not_repeat_another_one() -> None:
    polite = says("Please: {q}")
    rows = list(posed("task", FOUR[:1], [Variation("one", polite), Variation("two", polite)], 0))
    assert [row.left_out for row in rows] == ["", "", "equal"]


@pytest.mark.parametrize("template", ["It is {gold}. {q}", "{q} ({gold})", "{gold} {gold} {q}"])
def test_a_template_that_tells_the_answer_is_refused(template: str) -> None:
    with pytest.raises(InputError, match="mine puts the gold answer into 4 of 4 questions of task"):
        reasons(says(template))


def test_an_answer_is_found_by_its_value() -> None:
    assert reasons(says("You have seven guesses. {q}")) == ["", "leaks_answer", "", ""]
    assert reasons(says("You have 3.0 guesses. {q}")) == ["leaks_answer", "", "", ""]
    assert reasons(says("ANN asks: {q}")) == ["", "", "", "leaks_answer"]
    assert reasons(says("Answer yes or no. {q}")) == ["", "", "", ""]  # which of them is not said
    assert reasons(says("Say yes. {q}")) == ["", "", "leaks_answer", ""]
    assert reasons(says("Annie has 37 or 13.5 or 1,003. {q}")) == ["", "", "", ""]
    choice = questions(("Which?\n(A) a pear\n(B) a car", "(A)"), ("Who?\n(A) Ann\n(B) a cat", "B"))
    assert reasons(says("A man asks:\n{q}"), choice) == ["", ""]  # an article
    assert reasons(says("{q}\nIs it (A)?"), choice) == ["leaks_answer", ""]
    leaking = Variation("s", lambda question, draw: question, system="The answer is 7.")
    assert [row.left_out for row in posed("task", FOUR, [leaking], 0)][4:] == ["", "leaks_answer", "", ""]


def test_another_system_prompt_is_a_change_where_there_can_be_one() -> None:
    rows = rows_of(lambda question, draw: question, system="Be brief.")
    assert [(row.system, row.question) for row in rows] == [("Be brief.", each.question) for each in FOUR]
    assert reasons(lambda question, draw: question, system="x", takes_system=False) == ["no_system_prompt"] * 4


def test_a_style_tag_stays_in_front() -> None:
    tagged = [replace(each, question=f"[short]\n{each.question}") for each in FOUR]
    rows = rows_of(says("Please: {q}"), tagged, tag="[short]")
    assert [row.question for row in rows] == [f"[short]\nPlease: {each.question}" for each in FOUR]


def test_a_gold_answer_changes_only_where_that_is_said() -> None:
    def other(question: Question, draw: random.Random) -> Question:
        return replace(question, question=f"Twice: {question.question}", gold="11")

    assert [row.gold for row in rows_of(other, keeps_gold=False)] == ["11"] * 4
    with pytest.raises(InputError, match="mine changed the gold answer '3' to '11'"):
        reasons(other)


def test_code_of_the_users_that_fails_is_named() -> None:
    with pytest.raises(
        InputError, match=r"mine failed on the question 'Tom has 3 pens.*test_posed.py:\d+: ZeroDivisionError"
    ):
        reasons(lambda question, draw: 1 / 0)
    with pytest.raises(InputError, match="mine gave 'text'; expected a Question, or None"):
        reasons(lambda question, draw: "text")


def test_copies_of_training_questions_are_found_and_named() -> None:
    long = "On Monday the baker sold twelve loaves of bread and on Tuesday she sold nine of them, how many in all?"
    held = questions(("Add 2 and 5.", "7"), (long, "21"), ("Who wrote the book that lies here?", "Ann"))
    training = questions(("Add 2 and 5.  ", "7"), (long.replace("baker", "grocer"), "21"), ("Nothing alike.", "1"))
    found = copies(held, training)
    assert list(found.exact) == [held[0].question_id]
    assert [(pair.question, pair.other) for pair in found.near] == [(held[1], training[1])]
    rows = found.rows("task", held)
    assert [(row["question_id"], row["training_id"]) for row in rows] == [
        (held[0].question_id, training[0].question_id),
        (held[1].question_id, training[1].question_id),
    ]
    assert rows[0]["similarity"] == 1.0
    assert 0.7 <= rows[1]["similarity"] < 1

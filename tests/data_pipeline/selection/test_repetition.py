"""Loops and copies: found wherever they stand, and not where a text is only regular."""

from __future__ import annotations

import time

import pytest

from tracestill.data_pipeline.selection.repetition import copied, repeats, words_of

QUESTION = "Tom has 3 apples and buys 4 more apples at the market. How many apples does Tom have now?"
SENTENCE = "Wait, let me look at this again and count the apples once more. "
LONGER = SENTENCE.replace("apples", "red and green apples of the market")
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
REGULAR = " ".join(f"On day {at} she eats {at + 3} apples, so {at * 7} are left." for at in range(40))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (SENTENCE * 4, True),
        ("First. " + SENTENCE * 4 + "So there are 7 apples, and Tom is glad of them all.", True),
        (" ".join(f"{SENTENCE}{word}" for word in NUMBERS), True),
        ("ha " * 80 + "and that is the end", True),
        (SENTENCE * 3 + "So there are 7.", False),
        (f"{LONGER * 3}{REGULAR} {LONGER}", False),  # three times in a row, and once more
        (f"{LONGER * 4}{REGULAR}", True),
        ("ha ha ha ha", False),
        (REGULAR, False),
        ("[ ( " * 60 + "and so on", False),  # brackets are what the task is about
        ("[ ( " * 60, False),
        ("5 + " * 60 + "5 = 305", False),  # a long sum is no loop
        ("1 / 3 = 0." + "3" * 300, False),
        ("7." + "\n" * 300, False),
        (QUESTION, False),
        ("", False),
    ],
)
def test_repetition_is_found_at_the_end_and_within(text: str, found: bool) -> None:
    assert bool(repeats(text, words_of(text))) is found


def test_long_and_hostile_texts_take_no_time() -> None:
    texts = ["a b " * 50_000, "a " * 100_000, " ".join(str(at % 97) for at in range(50_000)), "ab" * 100_000]
    started = time.process_time()
    for text in texts:
        repeats(text, words_of(text))
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    ("trace", "found"),
    [
        (f"{QUESTION} He has 3 + 4 = 7.", True),
        (f"We are told: {QUESTION.replace('How many', 'how MANY')} So 7.", True),
        ("Tom has 3 apples and buys 4 more, so he has 3 + 4 = 7 of them in the end.", False),
        ("3 + 4 = 7", False),
    ],
)
def test_copies_of_the_question_are_found(trace: str, found: bool) -> None:
    assert bool(copied(words_of(QUESTION), words_of(trace))) is found


def test_a_short_question_is_no_copy_in_the_step_that_answers_it() -> None:
    assert copied(words_of("What is 3 + 4?"), words_of("What is 3 + 4? What is 3 + 4? It is 7, as 3 + 4 = 7.")) == ""

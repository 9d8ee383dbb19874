"""Checkers of tasks: brackets, sorted words, things in order."""

from __future__ import annotations

import random
from itertools import permutations

import pytest

from tracestill.data_pipeline.soundness.checkers.brackets import brackets
from tracestill.data_pipeline.soundness.checkers.finding import Check, Trace
from tracestill.data_pipeline.soundness.checkers.orders import orders, puzzle_of
from tracestill.data_pipeline.soundness.checkers.sorting import sorting


def false(check: Check, text: str, question: str) -> list[int]:
    """The lines of the false findings."""
    return sorted({text.count("\n", 0, one.start) for one in check(Trace(text, question)) if one.outcome == "false"})


QUESTION = "< [ ( )"
TRACE = """stack: empty
< ; stack: <
[ ; stack: < [
( ; stack: < [ (
) ; stack: < [
Now, we have reached the end. The final stack is "< [".
We will need to pop out "[", "<" one by one in that order.
So, we need "]" and ">". So the answer is ] >"""


@pytest.mark.parametrize(
    ("old", "new", "lines"),
    [
        ("", "", []),
        (") ; stack: < [\n", ") ; stack: <\n", [4, 5]),
        ("[ ; stack: < [\n", "[ ; stack: [\n", [2, 3]),
        ("( ; stack", "{ ; stack", [3]),
        (") ; stack: < [\n", "", [4]),
        ('stack is "< ["', 'stack is "<"', [5, 6]),
        ('out "[", "<"', 'out "<", "["', [6, 7]),
        ("is ] >", "is > ]", [7]),
        ("is ] >", "is ]", [7]),
    ],
)
def test_brackets(old: str, new: str, lines: list[int]) -> None:
    assert false(brackets, TRACE.replace(old, new), QUESTION) == lines


def test_brackets_that_close_nothing_or_are_left_out() -> None:
    assert false(brackets, "stack: empty\n( ; stack: (\n] ; stack: empty", "") == [2]
    assert false(brackets, TRACE, QUESTION + " {") == [5]


def test_brackets_say_nothing_of_other_traces() -> None:
    assert list(brackets(Trace("(3 + 4) * [2] = 14, so the answer is 14", "(3 + 4) * [2]"))) == []


WORDS = "cold bard coach bald"
SORTED = """The first letter: "cold": "c" (3). "bard": "b" (2). "coach": "c" (3). "bald": "b" (2).
We now have: (2) ["bard" ? "bald"] < (3) ["cold" ? "coach"].
Now let's sort this subpart ["bard" ? "bald"] by looking at their second letters. \
The second letter: "bard": "a" (1). "bald": "a" (1).
We now have: (1) ["bard" ? "bald"] for the subpart. Hence, we have ["bard" ? "bald"] < ["cold" ? "coach"].
Now let's sort this subpart ["bard" ? "bald"] by looking at their third letters. \
The third letter: "bard": "r" (18). "bald": "l" (12).
We now have: (12) "bald" < (18) "bard" for the subpart. Hence, we have "bald" < "bard" < ["cold" ? "coach"].
Now let's sort this subpart ["cold" ? "coach"] by looking at their third letters. \
The third letter: "cold": "l" (12). "coach": "a" (1).
We now have: (1) "coach" < (12) "cold" for the subpart. Hence, we have "bald" < "bard" < "coach" < "cold".
I have now sorted all the words. The answer is bald bard coach cold"""


@pytest.mark.parametrize(
    ("old", "new", "lines"),
    [
        ("", "", []),
        ('"bard": "r" (18)', '"bard": "d" (4)', [4]),
        ('"bard": "r" (18)', '"bard": "r" (17)', [4]),
        ('(3) ["cold" ? "coach"].', '(3) "cold".', [1]),
        ('(2) ["bard" ? "bald"] <', '(3) ["bard" ? "bald"] <', [1]),
        ('"bald" < "bard" < "coach" < "cold"', '"bard" < "bald" < "coach" < "cold"', [7]),
        ("is bald bard coach cold", "is bard bald coach cold", [8]),
        ("is bald bard coach cold", "is bald, bard, coach", [8]),
        ('(2). "coach": "c"', '(2). "couch": "c"', [0]),
    ],
)
def test_sorting(old: str, new: str, lines: list[int]) -> None:
    assert false(sorting, SORTED.replace(old, new), WORDS) == lines


def test_sorting_takes_either_reading_of_an_apostrophe() -> None:
    said = 'The second letter: "o\'s": "s" (19). "oar": "a" (1).'
    assert false(sorting, said, "o's oar") == []
    assert false(sorting, said.replace('"s" (19)', '"\'"'), "o's oar") == []
    assert list(sorting(Trace("They sort 3 < 4 apples.", "how many"))) == []


PUZZLE = """On a shelf, there are five books: a red book, a blue book, a gray book, a black book, and a green book.
- The gray book is the second from the left.
- The black book is to the left of the gray book.
- The green book is the rightmost.
- The red book is to the right of the blue book.
Q: Given the above statements, which of the following is correct?
Options:
(A) The red book is the third from the left.
(B) The blue book is the third from the left."""
SOLVED = """The gray book is the second from the left. So from left to right: \
first can be any book, then second is the gray book.
The black book is to the left of the gray book. So from left to right: \
first is the black book, then second is the gray book.
The red book is to the right of the blue book. So from left to right: \
third is the blue book, then fourth is the red book.
The only book that can be third from the left is the blue book.
So the answer is (B)"""


@pytest.mark.parametrize(
    ("old", "new", "lines"),
    [
        ("", "", []),
        ("first can be any book", "first is the black book", [0]),  # it does not follow yet
        ("third is the blue book, then fourth is the red", "third is the red book, then fourth is the blue", [2]),
        ("from the left is the blue", "from the left is the red", [3]),
        ("The only book", "So from right to left: first is the green book. The only book", []),
        ("The only book", "So from right to left: first is the black book. The only book", [3]),
        ("is (B)", "is (A)", [4]),
        ("first can be any", "first can be the red book or the blue", [0]),
        ("third is the blue book", "sixth is the blue book", [2]),
        ("The only book that can be third from the left is", "The red book must be the rightmost. It is", [3]),
    ],
)
def test_orders(old: str, new: str, lines: list[int]) -> None:
    assert false(orders, SOLVED.replace(old, new), PUZZLE) == lines


def test_orders_are_those_that_fit() -> None:
    """Against statements made from an order that is known."""
    names = ["Ana", "Rob", "Amy", "Dan"]
    rng = random.Random(1)
    for _ in range(20):
        row = rng.sample(names, 4)
        pairs = rng.sample([(a, b) for at, a in enumerate(row) for b in row[at + 1 :]], 4)
        said = "".join(f"- {a} finished above {b}.\n" for a, b in pairs) + f"- {row[3]} finished last.\n"
        puzzle = puzzle_of(f"In a tournament, there were four golfers: Ana, Rob, Amy, and Dan.\n{said}Q: who?")
        fit = [p for p in permutations(names) if p[3] == row[3] and all(p.index(a) < p.index(b) for a, b in pairs)]
        assert puzzle is not None
        assert sorted(puzzle.orders) == sorted(fit)
    assert puzzle_of("there were four golfers: Ana, Rob, Amy, and Dan.\n- Ana sat by Rob.\nQ: who?") is None, "unread"

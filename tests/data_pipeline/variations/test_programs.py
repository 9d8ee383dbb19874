"""The programs that rewrite questions: what they change, what they leave alone, and where they do not apply."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from fractions import Fraction

import pytest
from real_data import DATA, needs_data

from tracestill.data_pipeline.base.schema import Question, content_id
from tracestill.data_pipeline.sampling.teachers import digit_sum, gsm_symbolic
from tracestill.data_pipeline.variations.further import AlsoConfig, further
from tracestill.data_pipeline.variations.known import BUILT_IN, FAMILIES
from tracestill.data_pipeline.variations.posed import posed
from tracestill.data_pipeline.variations.variation import Variation

PROBLEM = "Paco had 26 salty cookies and 17 sweet cookies. He ate 14 sweet cookies. How many sweet cookies are left?"


def question(text: str = PROBLEM, gold: str = "3", **more: object) -> Question:
    return Question(content_id(text), text, gold, "test", **more)


def varied(label: str, text: str = PROBLEM, gold: str = "3", seed: int = 0, **more: object) -> Question | None:
    return BUILT_IN[label].rewrite(question(text, gold, **more), random.Random(seed))


def text_of(label: str, text: str = PROBLEM, gold: str = "3", seed: int = 0) -> str | None:
    found = varied(label, text, gold, seed)
    return found and found.question


def test_there_are_wordings_formats_languages_and_templates() -> None:
    members = Counter(each.family or each.name for each in BUILT_IN.values())
    assert members["wording"] >= 8
    assert members["language"] == 4
    assert min(members[name] for name in ("format", "system", "template", "distractor")) >= 3
    assert set(FAMILIES) == members.keys()


def test_a_frame_leaves_the_question_whole() -> None:
    for label, each in BUILT_IN.items():
        if each.family in ("wording", "language", "template", "step") and "question" not in each.name:
            found = text_of(label)
            assert PROBLEM in found, label
            assert found != PROBLEM, label
    options = "Which is a fruit?\nOptions:\n(A) a pear\n(B) a car"
    assert text_of("wording.polite", options, "(A)").split("\n\n")[1] == options  # nothing is added to the last option


def test_what_is_asked_comes_first_or_last() -> None:
    first = text_of("wording.question_first", "Tom has 5 pens. He buys 3. But how many has he now? Do not guess.", "8")
    assert first == "How many has he now? This is what is known: Tom has 5 pens. He buys 3. Do not guess."
    last = text_of("wording.question_last", "Tom has 5 pens. He buys 3. How many has he now?", "8")
    assert last == "Here is what is known.\n- Tom has 5 pens.\n- He buys 3.\nQuestion: How many has he now?"
    assert text_of("wording.question_first", "What is 2 + 3?", "5") is None


def test_punctuation_goes_and_numbers_stay() -> None:
    text = 'Mr. Smith paid $1,200.50, and got "half" back at 3:30. How much is it?'
    assert text_of("format.no_punctuation", text) == (
        "Mr Smith paid $1,200.50 and got half back at 3:30 How much is it"
    )
    assert text_of("format.no_punctuation", "(7 + 4) mod 3?") is None
    assert text_of("format.capitals", r"What is \frac{1}{2} of the whole of it?") is None


def test_sentences_change_places_only_where_they_lean_on_nothing() -> None:
    free = "Ann runs a shop. A pen costs $2. A ruler costs $3. A book costs $9. How much do two pens cost?"
    assert text_of("order.sentences", free) != free
    assert sorted(text_of("order.sentences", free).split(". ")) == sorted(free.split(". "))
    assert text_of("order.sentences", free).endswith("How much do two pens cost?")
    assert text_of("order.sentences", free).startswith("Ann runs a shop.")  # it says who is spoken of
    for leaning in (
        "Ann has a shop. A pen costs $2. It is blue. Then a ruler costs $3 more. How much is a pen?",
        "Ann has 3 pens. Ben has 4 pens. He has 2 books. She has 1 book. How many books are there?",  # whose?
        "A bird sang. How many sang?",
        "Ann has 10 nuts. Ann eats 3 nuts. How many nuts has Ann?",  # not: ate 3, has 10
        "Ann has 5 nuts. Ben has 7 figs. Ann gives 2 nuts to Ben. Ben gives 3 figs to Ann. How many has Ben?",
        "Anna hat einen Laden. Ein Stift kostet 2 Euro. Danach kauft Ben 3 Hefte für 4 Euro. Wie viel hat er noch?",
    ):
        assert text_of("order.sentences", leaning) is None


def test_terms_of_sums_change_places_and_nothing_else() -> None:
    found = text_of("order.terms", "What is (7 + 4 + 0 + 12) mod 10?")
    assert re.fullmatch(r"What is \(\d+ \+ \d+ \+ \d+ \+ \d+\) mod 10\?", found)
    assert sorted(re.findall(r"\d+", found)) == sorted(re.findall(r"\d+", "7 4 0 12 10"))
    assert not found.startswith("What is (7 + 4 + 0 + 12)")
    assert text_of("order.terms", "1+2+3=?") in ("1+3+2=?", "2+1+3=?", "2+3+1=?", "3+1+2=?", "3+2+1=?")
    others = (
        "9 - 1 + 2 + 3",
        "1 + 2 + 3 * 4",
        "2^1 + 2 + 3",
        "1 + 2 + 3.5",
        "1 + 2",
        "3 + 3 + 3",
        "1 + 2 + 3x",
        "1 + 2 + 3!",
        "What is 1 + 2 + 3 squared?",
        "Twice 1 + 2 + 3 is what?",
        "Which number comes first in 1 + 2 + 3?",
        "1 + 2 + 3 mod 4",
    )
    for text in others:
        assert text_of("order.terms", text) is None, text


def test_a_distractor_adds_one_number_that_is_none_of_the_problem() -> None:
    numbers = Counter(re.findall(r"\d+", PROBLEM))
    for label in ("distractor.before", "distractor.inside", "distractor.person"):
        for seed in range(30):
            found = text_of(label, seed=seed)
            (new,) = (Counter(re.findall(r"\d+", found)) - numbers).elements()
            assert new not in numbers
            assert new != "3"
            assert found.endswith("How many sweet cookies are left?")
    clock = "A clock, a library, a train, an oak, a lamp, a church, a spider and a museum. What stands 1st of 2?"
    assert text_of("distractor.before", clock) is None  # whatever is said, the problem speaks of it
    for several in ("Ann has 2. Ben has 3. How many are there?", "Ann has 2. Zelmyra has 3. How many are there?"):
        assert text_of("distractor.person", several) is None  # which of them?


def test_people_are_renamed_alike_everywhere() -> None:
    text = "Carlos has 3 dogs. Carlos' dogs like Ann, and Ann's cat likes Carlos. How many dogs has Carlos?"
    found = text_of("entities.names", text)
    assert "Carlos" not in found
    assert "Ann" not in re.findall(r"\w+", found)
    him, her = found.split()[0], re.search(r"like (\w+),", found)[1]
    assert found == text.replace("Carlos'", f"{him}'s").replace("Carlos", him).replace("Ann", her)
    assert text_of("entities.names", "Robin saw a robin. How many did Robin see?") is None  # a bird, or the same one
    assert text_of("entities.names", "The dog of May ate 3. How many?") is None
    for known in ("Who has more, Ann or Ben?", "Did John Gall live in 1925?", "Is 3 more than Ann has?"):
        assert text_of("entities.names", known, "Ann") is None  # the answer would be another, or may be
    assert text_of("entities.names", "John Gall wrote 3 books, and 2 more. How many?", "5") is None


def test_two_people_stay_two() -> None:
    for seed in range(40):
        names = re.findall(
            r"(\w+) has", text_of("entities.names", "Robin has 1, Sam has 2, Pat has 3. How many?", "6", seed)
        )
        assert len(set(names)) == 3


def test_things_are_renamed_with_their_article_and_number() -> None:
    found = text_of("entities.things", "Tom has an apple and 3 pears. Apples cost $2. How many pears?")
    one = re.search(r"has (an? \w+)", found)[1]
    assert one.split()[0] == ("an" if one.split()[1][0] in "aeiou" else "a")
    assert not {"apple", "apples", "pear", "pears"} & set(re.findall(r"\w+", found.lower()))
    assert text_of("entities.things", "2 T-shirts cost $4. How much is a T-shirt?") is None


@pytest.mark.parametrize("part", ["a pencil case", "2 pencil cases", "a Pencil sharpener", "pencil-boxes"])
def test_a_thing_that_is_part_of_another_things_name_stays(part: str) -> None:
    assert text_of("entities.things", f"Tom has 3 pencils in {part}. How many pencils are left?") is None
    found = text_of("entities.things", f"Tom has 3 pencils and 2 apples in {part}. A pencil costs $2. How many apples?")
    assert part in found
    assert "3 pencils" in found
    assert "apple" not in found
    assert "pencil" not in text_of("entities.things", "Each pencil, a pencil and 3 pencils cost $2. How much?")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A pen costs $ 3 and 20 cents. How many dollars?", "A pen costs €3 and 20 cents. How many euros?"),
        ("He runs 3 miles. Miles to go?", "He runs 3 kilometers. Kilometers to go?"),
        ("5 dollars are how many euros?", None),
        ("A mile has 5280 feet. How many miles are 10560 feet?", None),
        ("He has 3 quarters. How many dollars is that?", None),
        ("A gallon is 4 quarts. How many gallons?", None),
        ("Is a net worth of 900 pounds much?", None),
        ("Evaluate $1 + 2 + 3^2$.", None),
        ("He walks at 4 mph. How fast?\n(A) 3mph", "He walks at 4 km/h. How fast?\n(A) 3km/h"),
        ("Miles has 3 pens. How many pens has Miles?", None),
        ("The dog pound has 12 dogs. How many dogs are in the pound?", None),
    ],
)
def test_units_are_names_alone(text: str, expected: str | None) -> None:
    assert text_of("units", text) == expected


@pytest.mark.parametrize(("gold", "doubled"), [("3", "6"), ("2.5", "5"), ("$1,200", "2400"), ("0.1", "0.2")])
def test_one_step_more(gold: str, doubled: str) -> None:
    assert varied("step.double", gold=gold).gold == doubled
    found = varied("step.add", gold=gold)
    more = int(re.search(r"add (\d+) to it", found.question)[1])
    assert Fraction(found.gold) == Fraction(doubled) / 2 + more


@pytest.mark.parametrize("gold", ["50%", "1/2", "Paris", "0"])
def test_no_step_where_it_would_not_be_clear(gold: str) -> None:
    assert varied("step.double", gold=gold) is None


def test_programs_of_tasks_make_harder_questions() -> None:
    (plain,) = digit_sum.questions({"test": 1}, digit_sum.Options(digits=5, modulus=7), 0)
    for label, count in (("ranges", 5), ("digits", 8)):
        found = varied(label, plain.question, plain.gold, metadata=plain.metadata, source="digit_sum")
        numbers = [int(n) for n in re.search(r"\((.*)\) mod 7", found.question)[1].split(" + ")]
        assert len(numbers) == count
        assert int(found.gold) == sum(numbers) % 7
        assert found.question_id == content_id(plain.question)  # by which the two are compared
    assert varied("ranges", source="data/some.jsonl") is None


def test_a_template_is_filled_with_wider_numbers() -> None:
    (plain,) = gsm_symbolic.questions({"test": 1}, gsm_symbolic.Options(), 0)
    found = BUILT_IN["ranges"].rewrite(Question(**{**vars(plain), "source": "gsm_symbolic"}), random.Random(0))
    assert found.group == plain.group
    assert max(map(int, re.findall(r"\d+", found.question))) > max(map(int, re.findall(r"\d+", plain.question)))
    assert BUILT_IN["digits"].rewrite(Question(**{**vars(plain), "source": "gsm_symbolic"}), random.Random(0)) is None


def value(equation: str) -> Fraction:
    """Of a fully parenthesised equation: the innermost pair is replaced until none is left."""
    inner = re.compile(r"\(\s*([\d./]+)\s*([-+*/])\s*([\d./]+)\s*\)")
    does = {"+": Fraction.__add__, "-": Fraction.__sub__, "*": Fraction.__mul__, "/": Fraction.__truediv__}
    while match := inner.search(equation):
        found = does[match[2]](Fraction(match[1]), Fraction(match[3]))
        equation = equation[: match.start()] + str(found) + equation[match.end() :]
    return Fraction(equation)


def test_an_equation_in_the_metadata_gives_the_new_gold_answer() -> None:
    held = {"Equation": "(26.0-14)"}
    found = varied("ranges", PROBLEM.replace("17", "30"), "12", metadata=held)
    numbers = list(map(int, re.findall(r"\d+", found.question)))
    assert Fraction(found.gold) == numbers[0] - numbers[2] == value(found.metadata["Equation"])
    assert sorted(range(3), key=numbers.__getitem__) == [2, 0, 1]  # what was more is more
    for bad in (
        {"Equation": "( 27.0 - 14.0 )"},
        {"Equation": "__import__('os')"},
        {"Equation": "14 ** 9"},
        {"Equation": "1e999 - 3"},
        {},
    ):
        assert varied("ranges", metadata=bad) is None
    below = "It was 5 degrees. It fell by 9. How many degrees is it?"
    for seed in range(20):
        assert varied("ranges", below, "-4", seed, metadata={"Equation": "5 - 9"}) is None
        large = "A hall has 300 rows of 401 seats. How many seats?"
        assert varied("ranges", large, "120300", seed, metadata={"Equation": "300 * 401"}) is None
    assert (
        varied("ranges", "Of 8 pens and 8 books 3 went. How many pens?", "5", metadata={"Equation": "( 8 - 3 )"})
        is None
    )


@needs_data
def test_real_problems_keep_their_numbers() -> None:
    config = AlsoConfig(source=str(DATA / "transfer" / "svamp.json"), questions=150)
    questions = further("svamp", config, 0).questions
    plain = {each.question_id: each for each in questions}
    numbers = re.compile(r"\d+")
    ways = [each for each in BUILT_IN.values() if each.family not in ("distractor", "system")]
    rows = list(posed("svamp", questions, ways, 0))
    assert len(rows) == len(questions) * (1 + len(ways))
    new = 0
    for row in rows:
        if row.left_out or row.variation.startswith("step"):
            continue
        before = plain[row.question_id]
        if row.variation == "ranges":
            new += 1
            assert Fraction(row.gold) == value(json.loads(row.metadata)["Equation"])
            continue
        assert row.gold == before.gold
        assert sorted(numbers.findall(row.question)) == sorted(numbers.findall(before.question)), row
    assert new > 100


@pytest.mark.parametrize(
    "text", ["Ann reads a novel by J. K. Rowling?", "A board of 7ft. 9 inches is cut. How long is it?"]
)
def test_a_stop_that_ends_no_sentence_parts_none(text: str) -> None:
    for label in ("wording.question_first", "wording.question_last", "distractor.inside"):
        assert text_of(label, text) is None


def test_programs_and_formulas_are_left_as_they_are() -> None:
    """Every sign of theirs may mean something, and no sentence of theirs ends at a stop."""
    factorial = "Please tell me what is 5! + 2 + 3 + 4?"
    for label in ("wording.question_first", "distractor.inside", "format.no_punctuation"):
        assert text_of(label, factorial, "129") is None, label
    for text in ("for i in range(3): print(i). How many lines does this print?", "Run `a; b` in the shell. What is 3?"):
        for label in ("wording.question_first", "distractor.inside", "format.capitals", "format.no_punctuation"):
            assert text_of(label, text) is None, (label, text)
    assert text_of("format.no_punctuation", "The value after a = 1; a += 2; a *= 3 is what, in the end?") is None
    assert text_of("entities.names", "What does 3 + len('Anna') give?", "7") is None
    assert text_of("entities.names", "How many letters have the 2 names Emma and Bob?", "7") is None
    assert text_of("entities.things", "How many letters have the 2 words apples and pears?", "11") is None


@pytest.mark.parametrize("base", ["in binary", "in base 8", "in hexadecimal"])
def test_digits_of_another_base_are_not_doubled(base: str) -> None:
    assert varied("step.double", f"What is 1 + 2 + 3 {base}?", "110") is None


def test_a_variation_of_a_family_is_called_by_both() -> None:
    assert Variation("a", lambda question, draw: None, "b").label == "b.a"
    assert Variation("a", lambda question, draw: None).label == "a"

"""Which steps stay: by value flow, by kind, by share, by a function of the user's; the answer always does."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.base.schema import Record, span_fault
from tracestill.data_pipeline.granularity import Cut, Granularity, GranularityConfig, own_module
from tracestill.data_pipeline.granularity.granularity import stage_config
from tracestill.data_pipeline.segmentation import SegmentConfig, Segmenter

KINDS = Kinds()
QUESTION = "Ann has 3 cats and 4 dogs with 2 bowls each, and 9 birds. How many bowls do cats and dogs have?"
TRACE = (
    "First, we count. She loves her birds. There are 3 + 4 = 7 cats and dogs. With birds there are 7 + 9 = 16 pets. "
    "So 7 * 2 = 14 bowls. Therefore, the answer is 14."
)
OWN = """
def steps(record):
    return [2, 4]
def ranges(record):
    at = [record.trace.index(word) for word in ("There are", "With", "So 7", "Therefore")]
    return [(at[0], at[1]), [at[2], at[3]]]
def late(record):
    return [99]
def words(record):
    return ["all"]
def nothing(record):
    return []
def greeting(record):
    return [0]
def fails(record):
    return 1 / 0
"""


def record(trace: str = TRACE, answer: str = "14", question: str = QUESTION, name: str = "r") -> Record:
    made = Record(name, "q", question, answer, trace, answer, (), 1.0, "t", "", 1.0, 0)
    return Segmenter(SegmentConfig())(made)


def cut(made: Record, keep: str, **options: object) -> Cut:
    return Granularity(GranularityConfig.model_validate({"keep": keep, **options}), KINDS)(made)


def left(trace: str, answer: str, question: str, keep: str = "decisive") -> str:
    found = cut(record(trace, answer, question), keep)
    assert found.outcome == "cut", found
    return found.record.trace


def test_decisive_follows_values_back_from_the_answer() -> None:
    found = cut(record(), "decisive")
    assert found.record.trace == "There are 3 + 4 = 7 cats and dogs. 7 * 2 = 14 bowls."
    assert [TRACE[start:end].strip() for start, end in found.gone] == [
        *("First, we count.", "She loves her birds.", "With birds there are 7 + 9 = 16 pets."),
        "Therefore, the answer is 14.",
    ]
    assert not span_fault(found.record.trace, found.record.spans, KINDS.members("trace"))


@pytest.mark.parametrize(
    ("trace", "answer", "question", "expected"),
    [
        # a letter needs the step that says what it is, and those that hold it
        ("Hello. Let x be the age. 2x + 6 = 20. So x = 7.", "7", "Twice an age and 6 is 20.",
         "Let x be the age. 2x + 6 = 20. So x = 7."),
        ("Hello. Let a = 3. Let b = 4. So a * b = 12. It is good. Bye.", "12", "3 and 4",
         "Let a = 3. Let b = 4. So a * b = 12."),
        # a value right of an equality sign that is an operand comes from before
        ("A = 4 * 9 = 36.\nNice.\nTogether = 36 + 5 = 41", "41", "4 by 9, and 5",
         "A = 4 * 9 = 36.\nTogether = 36 + 5 = 41"),
        # two things of one size: both are taken
        ("Nice. Carl pays 3 * 30 = 90. Ben pays 5 * 18 = 90. In all 90 + 90 = 180.", "180", "3 of 30, 5 of 18",
         "Carl pays 3 * 30 = 90. Ben pays 5 * 18 = 90. In all 90 + 90 = 180."),
        # what is said to follow comes from there, though the question holds the number, too
        ("It is nice. Cooking lasts three times as long, so it lasts 3 hours. All take 3 + 1 + 6 = 10 hours.", "10",
         "One hour, three times as long, 6 hours", "Cooking lasts three times as long, so it lasts 3 hours. "
         "All take 3 + 1 + 6 = 10 hours."),
        # what is rounded in words needs the step before it
        ("Cats sleep. 24 - 16 = 8. Each gets 8 / 3 = 2.67. We round down to 2.", "2", "24 less 16 for 3",
         "24 - 16 = 8. Each gets 8 / 3 = 2.67. We round down to 2."),
        ("Hi.\nTotal = 6,200 / 100\nTotal = 62", "62", "6,200 by 100", "Total = 6,200 / 100\nTotal = 62"),
        # an ordinal is a value; GSM8K's marks are; so is a value that comes in other units
        ("Hm. He is on the 9 + 16 = 25th floor. There are 25 + 9 = 34 floors.", "34", "9, 16 and 9 floors",
         "He is on the 9 + 16 = 25th floor. There are 25 + 9 = 34 floors."),
        ("Hi. She has <<48/2=24>>24 clips. That is 24 + 48 = <<24+48=72>>72.", "72", "48 and half of it",
         "She has <<48/2=24>>24 clips. That is 24 + 48 = <<24+48=72>>72."),
        ("Hi. Pens cost 5 * 25 = 125 cents. We pay 2 * 1.25 = 2.5 dollars.", "2.5", "5 of 25 cents, 2 times",
         "Pens cost 5 * 25 = 125 cents. We pay 2 * 1.25 = 2.5 dollars."),
        # fractions are values
        ("Hi. Papers weigh 8 * 1/5 = 8/5 ounces. With it, 8/5 + 2/5 = 2.", "2", "8 papers of 1/5, and 2/5",
         "Papers weigh 8 * 1/5 = 8/5 ounces. With it, 8/5 + 2/5 = 2."),
        ("Hm. Hi. So C = 70/2. Dan has 35. Bye.", "35", "a half of 70", "Hi. So C = 70/2. Dan has 35."),
        # what was chosen needs what it was compared with
        ("Hi. Bags cost 5 * 10 = 50. Boxes cost 4 * 13 = 52. We pay 50 because 50 < 52.", "50", "5 of 10 or 4 of 13",
         "Bags cost 5 * 10 = 50. Boxes cost 4 * 13 = 52. We pay 50 because 50 < 52."),
        # the same value as a result on the way is not the conclusion
        ("Hi. There are 4 * 2 = 8 after 6 days. There are 8 * 2 = 16 after 8 days.", "8", "from 4 to 16",
         "There are 4 * 2 = 8 after 6 days. There are 8 * 2 = 16 after 8 days."),
        # a check goes, and what is taken back with it
        ("3 + 4 = 8. Wait, that is wrong. 3 + 4 = 7. Check: 7 - 4 = 3.", "7", "3 and 4", "3 + 4 = 7."),
        # a displayed formula stays whole
        ("Nice.\n\\[\n3 + 4 = 7\n\\]\nHi.\n\\[\n7 \\times 2 = 14\n\\]\nBye.", "14", "3, 4 and 2",
         "\\[\n3 + 4 = 7\n\\]\n\\[\n7 \\times 2 = 14\n\\]"),
    ],
)  # fmt: skip
def test_what_a_step_depends_on(trace: str, answer: str, question: str, expected: str) -> None:
    assert left(trace, answer, question) == expected


def test_a_trace_that_cannot_be_cut_is_whole_and_says_why() -> None:
    def why(trace: str, answer: str) -> str:
        found = cut(record(trace, answer), "decisive")
        assert found.record.trace == trace
        return f"{found.outcome} {found.reason}"

    assert why("Nothing here. Nor here.", "14") == "not_cut no_answer"
    assert why("3 + 4 = 7. So 7 * 5 = 35.", "7.5") == "not_cut no_answer"
    assert why("It is 7 * 2 = 14. And 14 + 9 = 23. Then 23 * 2 = 46.", "14") == "not_cut no_answer"  # goes on
    assert why("Bob sits left of Ann. So Ann is right of Bob.", "Ann") == "not_cut no_values"
    assert why("7 * 2 = 14", "14") == "whole "
    assert why("", "14") == "whole "


def test_no_prose_leaves_the_clauses_that_say_something() -> None:
    trace = "She has 3 cats, and 3 + 4 = 7 pets. She has 4 dogs. First find the bowls: 7 * 2 = 14, as all of us said."
    assert left(trace, "14", QUESTION, "no_prose") == "3 + 4 = 7 pets. First find the bowls: 7 * 2 = 14."
    # what speaks of prose keeps it; the answer stays even where it is prose
    assert left("She has 3 cats, 4 dogs. This gives 3 + 4 = 7. Cats sleep.", "7", QUESTION, "no_prose") == (
        "She has 3 cats, 4 dogs. This gives 3 + 4 = 7."
    )
    assert left("Is 3 + 4 = 7? Cats sleep. So we say yes.", "yes", QUESTION, "no_prose") == "Is 3 + 4 = 7? We say yes."


def test_until_conclusion_leaves_nothing_behind_the_answer() -> None:
    begin, question = "3 + 4 = 7. 7 * 2 = 14. So the answer is 14.", "3 and 4, twice"
    assert left(f"{begin} Hmm, in another way: 2 * 3 = 6. 2 * 4 = 8. 6 + 8 = 14. Yes, 14.", "14", question,
                "until_conclusion") == begin  # fmt: skip
    assert left(f"{begin} I like cats.", "14", question, "until_conclusion") == begin
    # the same value on the way is no conclusion
    assert cut(record("7 + 7 = 14. 14 - 4 = 10. 10 + 4 = 14.", "14", "7, 4"), "until_conclusion").outcome == "whole"


def test_ratio_drops_what_matters_least_and_random_drop_is_its_control() -> None:
    found = cut(record(), "ratio", ratio=0.6)
    assert (
        found.record.trace
        == "There are 3 + 4 = 7 cats and dogs. With birds there are 7 + 9 = 16 pets. So 7 * 2 = 14 bowls."
    )
    names = [f"r{n}" for n in range(200)]
    drawn = [cut(record(name=name), "random_drop", ratio=0.5) for name in names]
    assert drawn == [cut(record(name=name), "random_drop", ratio=0.5) for name in names]
    assert len({one.record.trace for one in drawn}) > 5
    assert all("14" in one.record.trace for one in drawn)
    whole = len("".join(TRACE.split()))
    share = [len("".join(one.record.trace.split())) / whole for one in drawn]
    assert 0.4 < sum(share) / len(share) < 0.6
    like = [cut(record(name=name), "random_drop", ratio="decisive") for name in names]
    sizes = [len(one.record.trace) for one in like]
    assert abs(sum(sizes) / len(sizes) - len(cut(record(), "decisive").record.trace)) < 12


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "their_grain.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("own")
def test_a_function_of_ones_own() -> None:
    for name in ("steps", "ranges"):
        found = cut(record(), f"their_grain:{name}")
        assert found.record.trace == "There are 3 + 4 = 7 cats and dogs. 7 * 2 = 14 bowls."
    assert cut(record(), "their_grain:nothing")[1:3] == ("not_cut", "empty")
    assert cut(record(), "their_grain:greeting")[1:3] == ("not_cut", "loses_answer")
    for name, message in {
        "late": "gave 99 for record r; expected a step from 0 to 5, or",
        "words": "gave 'all' for record r",
        "fails": "failed on record r",
    }.items():
        with pytest.raises(InputError, match=message):
            cut(record(), f"their_grain:{name}")
    config = GranularityConfig(keep="their_grain:steps")
    assert own_module(config) == "their_grain"
    held = stage_config(config)
    assert len(held["contents"]["encode.granularity.keep"]) == 1
    assert stage_config(GranularityConfig()) == {}


def test_bad_settings_are_told() -> None:
    for given_, message in {
        "decisiv": "did you mean 'decisive'",
        "ratio": "needs ratio",
        "no_such_module:keep": "no module 'no_such_module'",
    }.items():
        with pytest.raises((ValidationError, InputError), match=message):
            GranularityConfig.model_validate(given_)
    with pytest.raises(ValidationError, match="between 0 and 1"):
        GranularityConfig.model_validate({"keep": "ratio", "ratio": 1.5})
    with pytest.raises(ValidationError, match="ratio belongs to"):
        GranularityConfig.model_validate({"keep": "decisive", "ratio": 0.5})


PIECES = st.lists(
    st.sampled_from(["3 + 4 = 7. ", "So, 7 * 2 = 14.\n", "This is 14. ", "Step 2: ", "1. ", "x = 7\n", "\\[", "\\] ",
                     "(", ") ", "**", "\n\n", "Wait, no. ", "cats, ", "14", "。", "所以, ", "which ", "#", ": ",
                     "| a |\n"]),
    max_size=14,
).map("".join)  # fmt: skip


@settings(max_examples=120, deadline=None)
@given(PIECES)
def test_spans_of_what_remains_are_right_and_no_text_is_made_up(trace: str) -> None:
    made = record(trace)
    for keep in ("decisive", "no_prose", "until_conclusion"):
        found = cut(made, keep)
        assert not span_fault(found.record.trace, found.record.spans, KINDS.members("trace"))
        if found.outcome == "cut":
            assert len(found.origin) == len(found.record.trace)
            assert len(found.gone) > 0
            kinds = [kind for span in made.spans for kind in [span.kind] * (span.end - span.start)]
            now = [span.kind for span in found.record.spans for _ in range(span.start, span.end)]
            assert now == [kinds[at] for at in found.origin]
            visible = sum(not c.isspace() for c in found.record.trace)
            assert visible <= sum(not c.isspace() for c in trace)

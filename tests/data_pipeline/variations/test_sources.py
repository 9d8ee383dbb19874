"""Questions from elsewhere: further sources, rewordings of a teacher, variations of the user's own."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.schema import Question, content_id
from tracestill.data_pipeline.sampling.asking.kept import Kept
from tracestill.data_pipeline.sampling.teachers import Said
from tracestill.data_pipeline.variations.further import AlsoConfig, files_of, further, own_modules_in
from tracestill.data_pipeline.variations.known import BUILT_IN, ReworderConfig, VariationsConfig, chosen, own_files
from tracestill.data_pipeline.variations.posed import posed
from tracestill.data_pipeline.variations.reworded import reworders

OWN = """
from tracestill.data_pipeline.variations import Variation, with_text
SHOUT = Variation("shout", lambda question, draw: with_text(question, question.question + "!"))
NOTHING = 3
"""


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_a_file_gives_its_questions_and_accounts_for_the_rest(tmp_path: Path) -> None:
    rows = [{"question": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(60)]
    source = write(tmp_path / "some.jsonl", [*rows, rows[0], {"question": "", "answer": "1"}])
    found = further("sums", AlsoConfig(source=source, questions=10), 0)
    assert found.counts == {"in": 62, "used": 10, "duplicates": 1, "unused": 50, "rejected": {"no_question": 1}}
    assert found.rejected[0].row == 62
    assert [each.question for each in found.questions] == [
        each.question for each in further("sums", AlsoConfig(source=source, questions=10), 0).questions
    ]
    others = further("sums", AlsoConfig(source=source, questions=10), 1).questions
    assert {each.question_id for each in others} != {each.question_id for each in found.questions}
    with pytest.raises(InputError, match=r"evaluate\.also\.sums\.max_rejected"):
        further("sums", AlsoConfig(source=source, max_rejected=0), 0)


def test_a_file_that_is_not_there_is_named_with_its_field(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"evaluate\.also\.sums: .*nothing.jsonl: not readable"):
        further("sums", AlsoConfig(source=str(tmp_path / "nothing.jsonl")), 0)
    with pytest.raises(InputError, match=r"evaluate\.also\.sums: options: 2 digits have 100 sequences"):
        further("sums", AlsoConfig(source="digit_sum", options={"digits": 2}), 0)


def test_rows_of_the_test_split_are_taken_where_rows_name_splits(tmp_path: Path) -> None:
    rows = [{"question": f"What is {n}?", "answer": "1", "split": "test" if n < 4 else "train"} for n in range(9)]
    source = write(tmp_path / "split.jsonl", rows)
    assert len(further("a", AlsoConfig(source=source), 0).questions) == 4
    assert len(further("a", AlsoConfig(source=source, split="train"), 0).questions) == 5
    with pytest.raises(InputError, match="no question of the split validation; its rows are of test, train"):
        further("a", AlsoConfig(source=source, split="validation"), 0)


def test_a_task_poses_as_many_as_are_asked_for() -> None:
    config = AlsoConfig(source="digit_sum", questions=7, options={"digits": 3})
    found = further("short", config, 0).questions
    assert len(found) == 7
    assert {each.source for each in found} == {"digit_sum"}  # by whose program harder ones are made
    assert files_of({"short": config}) == {}
    for wrong, said in (
        ({"source": "digit_sum", "options": {"digts": 3}}, "options.digts: unknown key; did you mean 'digits'"),
        ({"source": "a.jsonl", "options": {"b": 1}}, "options: a file takes no options"),
        ({"source": "digit_sum", "escapes": True}, "escapes: is for files"),
        ({"source": "digit_sum", "verify": "numbr"}, "unknown verifier 'numbr'"),
    ):
        with pytest.raises((ValidationError, InputError), match=said):
            AlsoConfig.model_validate(wrong)


def test_variations_are_named_by_family_by_name_or_all() -> None:
    assert chosen(VariationsConfig.model_validate("all")) == list(BUILT_IN.values())
    some = chosen(VariationsConfig.model_validate(["wording.terse", "distractor", "units", "wording.terse"]))
    assert [each.label for each in some] == [
        "wording.terse",
        *(f"distractor.{n}" for n in ("before", "inside", "person")),
        "units",
    ]
    with pytest.raises(ValidationError, match="unknown variation 'distracter'; did you mean 'distractor'"):
        VariationsConfig.model_validate(["distracter"])


def test_one_of_the_users_own_is_an_object_of_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "their_ways.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    config = VariationsConfig.model_validate({"use": ["their_ways:SHOUT"], "questions": 3})
    assert [each.label for each in chosen(config)] == ["shout"]
    assert own_files(config) == {"evaluate.variations.use.0": {"their_ways.py": tmp_path / "their_ways.py"}}
    with pytest.raises(ValidationError, match="their_ways has no variation 'NOTHING'; expected an object of"):
        VariationsConfig.model_validate(["their_ways:NOTHING"])
    (tmp_path / "their_plain_way.py").write_text(OWN.replace('"shout"', '"plain"'))
    with pytest.raises((ValidationError, InputError), match="two variations have the name plain"):
        chosen(VariationsConfig.model_validate(["their_plain_way:SHOUT"]))
    sys.modules.pop("their_plain_way", None)
    also = {"a": AlsoConfig(source="their_ways_too.jsonl", verify=None)}
    assert own_modules_in(also) == {}
    sys.modules.pop("their_ways", None)


class Teacher:
    """Says what stands in ``replies``, in turns, and counts."""

    def __init__(self, *replies: str) -> None:
        self.replies, self.asked = replies, 0

    def solve(self, question: Question, *, style: str, temperature: float, seed: int) -> Said:
        assert "3 pens" in question.question
        number = int(question.question.partition("rewording number ")[2].partition(";")[0])
        self.asked += 1
        return Said(self.replies[number - 1])


def test_a_teacher_rewords_once_and_has_to_keep_the_numbers(tmp_path: Path) -> None:
    text = "Tom has 3 pens and buys two. How many has he?"
    question = Question(content_id(text), text, "5", "test")
    replies = (
        '"Two pens are bought by Tom, who has 3."',
        "Tom has 3 pens and buys 4.",
        "<think>Hm.</think>\nOf 3, and 2 more?",
    )
    teacher = Teacher(*replies)
    config = ReworderConfig(by="wise", count=3)
    ways = reworders(config, Kept(teacher, "wise", tmp_path / "said.jsonl"), [question])
    rows = list(posed("task", [question], ways, 0))[1:]
    assert [(row.variation, row.question, row.left_out) for row in rows] == [
        ("by_wise.1", "Two pens are bought by Tom, who has 3.", ""),
        ("by_wise.2", None, "not_applicable"),  # another number
        ("by_wise.3", "Of 3, and 2 more?", ""),
    ]
    assert teacher.asked == 3
    again = Teacher()
    ways = reworders(config, Kept(again, "wise", tmp_path / "said.jsonl"), [question])
    assert list(posed("task", [question], ways, 0))[1:] == rows
    assert again.asked == 0

"""Raw texts as models write them, read into trace and answer; what cannot be read says why."""

from __future__ import annotations

import json
import time

import pytest

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.sampling.readers.chain import Chain, Read, ReaderConfig, Unread
from tracestill.data_pipeline.sampling.readers.checks import ChecksConfig, loop
from tracestill.data_pipeline.sampling.teachers import Said

CHAIN = Chain()
FENCE = '```json\n{\n    "reasoning": "3 + 4 = 7",\n    "answer": "7"\n}\n```'


def read(raw: str, numeric: bool | None = True, **more: object) -> Read | Unread:
    return CHAIN.read(Said(raw, **more), numeric)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("raw", "trace", "answer", "reader"),
    [
        ("<think>\n3 + 4 = 7\n</think>\n\n7", "3 + 4 = 7", "7", "think+last_number"),
        ("<think>a</think>So \\boxed{\\frac{1}{2}}.", "a", "1/2", "think+boxed"),
        ("3 + 4 = 7\n</think>\n\nThe answer is 7.", "3 + 4 = 7", "7", "think+sentence"),  # opened by the prompt
        ("<think>\n\n</think>\n\n3 + 4 = 7\n#### 7", "3 + 4 = 7", "7", "think+hashes"),  # no thought
        ("[THINK]a[/THINK]7", "a", "7", "think+last_number"),
        ("Sure.\n<think>a</think>7", "Sure.\na", "7", "think+last_number"),
        ("◁think▷a◁/think▷7", "a", "7", "think+last_number"),
        ("<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>It is 7.<|return|>",
         "a", "7", "think+last_number"),
        ("analysisa: 3 + 4assistantfinalIt is 7.", "a: 3 + 4", "7", "think+last_number"),
        ("analysis of 3 + 4, then assistantfinal, is 7", "analysis of 3 + 4, then assistantfinal, is 7", "7",
         "last_number"),
        ("<reasoning>a</reasoning>\n<answer>\n7\n</answer>", "a", "7", "think+last_number"),
        ("3 + 4 = <<3+4=7>>7\n#### 7", "3 + 4 = <<3+4=7>>7", "7", "hashes"),
        ("3 + 4 = 7.\nTherefore, the answer is 7 eggs.", "3 + 4 = 7.", "7", "sentence"),
        ("3 + 4 = 7. The answer is 7.", "3 + 4 = 7.", "7", "sentence"),
        ("There are 3. 4 come. 3 + 4 = 7. The answer is 7.", "There are 3. 4 come. 3 + 4 = 7.", "7", "sentence"),
        ("A pair.\nThen 3 + 4 = 7, so the final answer is 7.", "A pair.\nThen 3 + 4 = 7", "7", "sentence"),
        ("#### Step 1: Look\na\n#### Step 2: Add\nThe answer is 7.", "#### Step 1: Look\na\n#### Step 2: Add", "7",
         "sentence"),
        ("#### 1. Look\na\n#### 2. Add it\nIt is 7", "#### 1. Look\na\n#### 2. Add it\nIt is 7", "7", "last_number"),
        ("a\nThe answer is 7 1/2.", "a", "7 1/2", "sentence"),
        ("a \\boxed{7\\frac{1}{2}}", "a 7\\frac{1}{2}", "7 1/2", "boxed"),
        ("a\nThe answer is 7e4.", "a", "7e4", "sentence"),
        ('{"reasoning": "3 + 4", "result": 7}', "3 + 4", "7", "json"),
        ('{"steps": 3} is what it holds, so \\boxed{7}', '{"steps": 3} is what it holds, so 7', "7", "boxed"),
        ("3 + 4 = 7. #### 7", "3 + 4 = 7.", "7", "hashes"),
        ("3 + 4 = 7\nA: 7", "3 + 4 = 7", "7", "sentence"),
        ("Is the answer is 5? No. 3 + 4 = 7. The answer is 7.", "Is the answer is 5? No. 3 + 4 = 7.", "7", "sentence"),
        ("a 2\nThe answer is 7. I hold that this answer is right.", "a 2", "7", "sentence"),
        ("a \\boxed{\\dfrac{-3}{4}}", "a \\dfrac{-3}{4}", "-3/4", "boxed"),
        ("a \\boxed{3\\times10^{4}}", "a 3\\times10^{4}", "3e4", "boxed"),
        ("a \\boxed{7\\%}", "a 7\\%", "7%", "boxed"),
        ("<|start|>assistant<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>7",
         "a", "7", "think+last_number"),
        ("<|channel|>final<|message|>It is 7<|return|>", "It is 7", "7", "last_number"),
        ("<Thought>a</Thought>7", "a", "7", "think+last_number"),
        ("3 + 4 = 7。\n答案是 7。", "3 + 4 = 7。", "7", "sentence"),
        ("3 + 4 = 7.\nLa respuesta es 7.", "3 + 4 = 7.", "7", "sentence"),
        (FENCE, "3 + 4 = 7", "7", "json"),
        (FENCE + "</s></s></s>", "3 + 4 = 7", "7", "json"),
        ('Sure!\n{"reasoning": "a\nb", "answer": 7}\nHope it helps.', "a\nb", "7", "json"),  # a raw line break
        ('{"reasoning": "say \\"a\\" and \\(b\\)", "answer": "7"', 'say "a" and \\(b\\)', "7", "json"),  # torn
        ('{"reasoning": "a" \n "answer": "7 eggs"\n}', "a", "7", "json"),  # a comma is missing
        ('{"reasoning": ["a", "b"], "final_answer": "35/7 = 5"}', "a\nb", "5", "json"),
        ('{"answer": "1"}\nNo.\n{"reasoning": "b", "answer": "7"}', "b", "7", "json"),
        ('{"reasoning": "a", "answer": "cannot be determined"}', "a", "cannot be determined", "json"),
        ("3 + 4 = 7", "3 + 4 = 7", "7", "last_number"),
        ("$1,250", "", "$1,250", "last_number"),  # an answer alone has no trace
        ("It makes $1,250.50 a day", "It makes $1,250.50 a day", "$1,250.50", "last_number"),
    ],
)  # fmt: skip
def test_a_text_is_read_by_the_first_reader_that_can(raw: str, trace: str, answer: str, reader: str) -> None:
    found = read(raw)
    assert isinstance(found, Read), found
    assert (found.trace, found.answer, found.reader) == (trace, answer, reader)


def test_a_thought_given_apart_is_the_trace_and_an_answer_given_apart_the_answer() -> None:
    assert read("The answer is 7.", reasoning="a")[:3] == ("a", "7", "think+sentence")
    assert read("", reasoning="a", answer="7")[:3] == ("a", "7", "think+given")
    assert read("3 + 4 = 7", answer="7 eggs")[:3] == ("3 + 4 = 7", "7", "given")


def test_texts_are_answers_where_no_number_is_asked_for() -> None:
    assert read("<think>a</think>Paris", False)[:3] == ("a", "Paris", "think+whole")
    assert read("a\nThe answer is (B).", False)[:2] == ("a", "(B)")
    assert read(r"So \boxed{x^{2}}", False)[1] == "x^{2}"
    assert read("a\n#### 12 apples", None)[1] == "12", "a number with its unit"
    assert read("a\n#### at 5 o'clock sharp, not before", None)[1] == "at 5 o'clock sharp, not before"


@pytest.mark.parametrize(
    ("raw", "more", "reason"),
    [
        ("<think>3 + 4 = 7 and so", {}, "unfinished"),
        ("<think>a</think>The answer is 7.", {"finish": "length"}, "unfinished"),
        ("<think>a</think>The answer is 7.", {"finish": "MAX_TOKENS"}, "unfinished"),
        ('{"reasoning": "first 3, then', {}, "unfinished"),
        ("<think>a</think>b</think>7", {}, "second_close"),
        ("<think>a</think>b<think>7", {}, "unfinished"),
        ("<think>a <|im_start|> b</think>7", {}, "control_symbol"),
        ("x" * 50 + " It is not so. Or is it? Wait, it may be." * 30, {"answer": "7"}, "repeats"),
        ("The tag <think> begins it.\n#### 7", {}, "control_symbol"),
        ("no number at all", {}, "unread"),
        ("</s>", {}, "empty"),
    ],
)
def test_what_breaks_students_is_left_out_for_a_reason(raw: str, more: dict, reason: str) -> None:
    found = read(raw, **more)
    fault = found if isinstance(found, Unread) else CHAIN.rejects(found)
    assert fault is not None
    assert fault.reason == reason


def test_what_is_doubtful_is_counted_and_the_recipe_may_say_otherwise() -> None:
    found = read("3 + 4 = 7\n#### 7\nQuestion: what is more?")
    assert isinstance(found, Read)
    assert [reason for reason, _ in found.faults] == ["after_answer"]
    assert CHAIN.rejects(found) is None
    strict = Chain(checks=ChecksConfig(after_answer="reject", answer_not_in_text="reject"))
    assert strict.rejects(strict.read(Said("3 + 4 = 7\n#### 7\nMore"), True)).reason == "after_answer"  # type: ignore
    assert strict.rejects(strict.read(Said("It is 8", answer="7"), True)).reason == "answer_not_in_text"  # type: ignore
    assert strict.rejects(strict.read(Said("It is 7.0", answer="7"), True)) is None  # type: ignore
    assert Chain(checks=ChecksConfig(after_answer="ignore")).read(Said("#### 7\nMore"), True).faults == (  # type: ignore
        ("no_trace", "nothing stands before the answer"),
    )


def test_readers_of_ones_own(tmp_path, monkeypatch) -> None:
    (tmp_path / "my_reader.py").write_text(
        "def read(text, mark='!'):\n    a, found, b = text.partition(mark)\n    return (a, b) if found else None\n"
        "def wrong(text):\n    return 7\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    own = ReaderConfig(use="my_reader:read", options={"mark": "=>"})
    assert Chain([own]).read(Said("a=>7"), True)[:3] == ("a", "7", "my_reader:read")
    assert isinstance(Chain([own]).read(Said("a"), True), Unread)
    with pytest.raises(InputError, match=r"sample\.readers\.0\.use: 'my_reader:wrong' gave 7, expected"):
        Chain([ReaderConfig(use="my_reader:wrong")]).read(Said("a"), True)
    regex = ReaderConfig(use="regex", options={"pattern": r"(?P<trace>.*) therefore (?P<answer>\d+)"})
    assert Chain([regex]).read(Said("a therefore 7 eggs"), True)[:3] == ("a", "7", "regex")


@pytest.mark.parametrize(
    ("reader", "message"),
    [
        (ReaderConfig(use="bocked"), r"sample\.readers\.0\.use: unknown reader 'bocked'; did you mean 'boxed'"),
        (ReaderConfig(use="regex", options={"pattern": "("}), r"sample\.readers\.0\.options\.pattern: is no regular"),
        (ReaderConfig(use="regex", options={"pattern": "x"}), r"has no group"),
        (ReaderConfig(use="json", options={"tak": "first"}), r"unknown key; did you mean 'take'"),
        (ReaderConfig(use="no_such_module:f"), r"sample\.readers\.0\.use: "),
    ],
)
def test_a_reader_that_is_not_there_is_named(reader: ReaderConfig, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Chain([reader])


def test_a_text_of_any_kind_raises_nothing_and_costs_no_time() -> None:
    pieces = [
        "<think>",
        "</think>",
        '{"answer": "',
        "\\boxed{",
        "####",
        "The answer is ",
        "</s>",
        "{",
        '"reasoning": "',
        "7 ",
    ]
    started = time.process_time()
    for first in pieces:
        for second in pieces:
            read((first + second) * 2000)
    assert time.process_time() - started < 10, "quadratic matching would take minutes"
    assert loop("ab" * 200) != ""
    assert loop("".join(map(str, range(500)))) == ""


def test_json_of_any_shape_is_no_accident() -> None:
    for value in (None, True, 7, 7.5, "7", [7], {"value": 7}, [], {}, ""):
        found = read(json.dumps({"reasoning": value, "answer": value}))
        assert isinstance(found, Read | Unread)

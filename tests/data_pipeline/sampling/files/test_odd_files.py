"""Files whose fields are named alike and mean something else, and files that hold more than they seem to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.sampling.files.formats import parts_of
from tracestill.data_pipeline.sampling.files.lines import Bad
from tracestill.data_pipeline.sampling.files.messages import talk_of
from tracestill.data_pipeline.sampling.files.posings import Posing, Reading
from tracestill.data_pipeline.sampling.files.rows import rows_of
from tracestill.data_pipeline.sampling.files.shapes import recognise

Q, T = "What is 3 + 4?", "3 + 4 = 7, as everybody sees."
USER, BOT = {"role": "user", "content": Q}, {"role": "assistant", "content": f"<think>{T}</think>7"}


def read(*rows: dict[str, Any]) -> Posing:
    shape = recognise(rows)
    assert shape is not None
    return Reading(shape.fields)(rows[0])


def test_all_generations_are_read_though_messages_hold_one_of_them() -> None:
    row = {"problem": Q, "solution": T, "answer": "7", "messages": [USER, BOT], "generations": ["a 7", "b 8"]}
    found = read({**row, "finish_reasons": ["stop", "length"], "source": "olympiads"})
    assert (found.question, found.gold) == (Q, "7")
    assert [(each.said.raw, each.said.finish) for each in found.written] == [("a 7", "stop"), ("b 8", "length")]


def test_a_thought_beside_messages_without_an_answer_is_the_trace() -> None:
    system = {"role": "system", "content": "Be brief."}
    found = read({"messages": [system, USER], "reasoning": T, "answer": "The answer is 7.", "model": "r1"})
    (written,) = found.written
    assert (found.question, written.said.raw, written.said.answer) == (Q, T, "The answer is 7.")
    assert (written.teacher, written.system) == ("r1", "Be brief.")


def test_a_switch_is_no_thought() -> None:
    row = {"input": [USER], "output": BOT["content"], "reasoning": "on", "steps": 3, "generator": "r1"}
    (written,) = read(row).written
    assert (written.said.raw, written.said.reasoning) == (BOT["content"], "")


def test_a_short_visible_text_is_not_replaced_by_the_gold_answer() -> None:
    found = read({"question": Q, "reasoning_content": T, "content": "It is 8.", "answer": "7"})
    assert found.gold == "7"
    assert [(each.said.reasoning, each.said.raw, each.said.answer) for each in found.written] == [(T, "It is 8.", None)]
    found = read({"question": Q, "trace": T, "prediction": "8", "answer": "7"})
    assert (found.gold, found.written[0].said.answer) == ("7", "8")


def test_a_mark_of_right_and_wrong_is_no_gold_answer() -> None:
    assert read({"question": Q, "response": T, "label": 1, "answer": "7"}).gold == "7"
    assert read({"question": Q, "response": T, "label": True}).gold is None
    assert read({"question": Q, "response": T, "label": "B"}).gold == "B"


def test_preferences_say_which_fields_are_there() -> None:
    with pytest.raises(Bad, match=r"hold a trace or a gold answer; there are chosen, rejected; name"):
        read({"prompt": Q, "chosen": T, "rejected": "No."})


@pytest.mark.parametrize("thinking", [T, [{"type": "text", "text": T}]])
def test_parts_of_a_message_that_are_thoughts_are_the_thought(thinking: Any) -> None:
    parts = [{"type": "thinking", "thinking": thinking}, {"type": "text", "text": "7"}]
    found = talk_of([USER, {"role": "assistant", "content": parts}], "messages")
    assert found.answer is not None
    assert (found.answer.text, found.answer.reasoning) == ("7", T)
    with pytest.raises(Bad, match="images and sounds are not read"):
        talk_of([{"role": "user", "content": [{"type": "image", "image": "a"}]}, BOT], "messages")


def test_calls_of_tools_are_part_of_what_was_said_and_no_answer() -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "add", "arguments": "3, 4"}}]}
    found = talk_of([USER, call, {"role": "tool", "content": "7"}, BOT], "messages")
    assert found.question == (
        f'User: {Q}\n\nAssistant: [{{"function": {{"name": "add", "arguments": "3, 4"}}}}]\n\nTool: 7'
    )
    with pytest.raises(Bad, match="ends in a call of a tool"):
        talk_of([USER, call], "messages")


def rows_in(path: Path, text: str) -> list[tuple[int, Any]]:
    path.write_text(text, encoding="utf-8")
    return [
        (row.at, row.fault.reason if row.fault else row.data)
        for part in parts_of(str(path))
        for _, row in rows_of(part)
    ]


def test_what_stands_behind_an_array_is_not_passed_over(tmp_path: Path) -> None:
    one = json.dumps([{"question": Q}])
    assert rows_in(tmp_path / "a.json", one + "\n \n") == [(1, {"question": Q})]
    assert rows_in(tmp_path / "a.json", f"{one}\n{one}") == [(1, {"question": Q}), (2, "not_json")]
    assert rows_in(tmp_path / "a.json", one[:-1] + ",") == [(1, {"question": Q}), (2, "torn")]


def test_an_open_quote_swallows_no_rows_in_silence(tmp_path: Path) -> None:
    head = "question,gold\na,1\n"
    assert rows_in(tmp_path / "a.csv", f'{head}"b,2\nc,3\n') == [(1, {"question": "a", "gold": "1"}), (2, "not_csv")]
    assert rows_in(tmp_path / "a.csv", f'{head}b,"2\nc,3\n') == [(1, {"question": "a", "gold": "1"}), (2, "not_csv")]
    with pytest.raises(InputError, match="the column 'gold' stands twice"):
        rows_in(tmp_path / "a.csv", "question,gold,gold\na,1,2\n")


def test_what_a_server_says_of_an_output_is_read_with_it() -> None:
    outputs = [{"text": "a", "finish_reason": "stop"}, {"content": "b", "finish_reason": "length", "reasoning": T}]
    found = read({"prompt": Q, "outputs": outputs, "answer": ["7"]})
    assert found.gold == "7"
    assert [(each.said.raw, each.said.reasoning, each.said.finish) for each in found.written] == [
        ("a", "", "stop"),
        ("b", T, "length"),
    ]

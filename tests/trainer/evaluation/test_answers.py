"""What was written, kept line by line: across kills, processes, and another student."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from tracestill.trainer.evaluation import answers
from tracestill.trainer.evaluation.answers import Answers

WHO = {"stage": "answers", "config": {"seed": 1}, "inputs": {}}


def test_what_was_kept_is_there_again_but_for_a_line_that_was_cut(tmp_path: Path) -> None:
    where = tmp_path / "a"
    with Answers(where, WHO) as first:
        first.keep("x", [[1, 2], -1.5, True, 9])
        first.keep("y", {"text": "é\n"})
        first.keep("x", [[1, 2, 3], -2.0, True, 20])
    (file,) = where.glob("*.jsonl")
    file.write_bytes(file.read_bytes() + b'{"z": [1, 2')  # a kill in the middle of a line
    (where / "odd.jsonl").write_bytes(b'not json\n[1]\n"x"\n{"w": 7}\n')
    again = Answers(where, WHO)
    assert again.found == {"x": [[1, 2, 3], -2.0, True, 20], "y": {"text": "é\n"}, "w": 7}
    again.keep("z", 1)
    assert Answers(where, WHO).get("z", None) == 1, "in a file of its own, not behind the cut line"


def test_another_student_begins_anew(tmp_path: Path) -> None:
    with Answers(tmp_path / "a", WHO) as first:
        first.keep("x", 1)
    assert Answers(tmp_path / "a", {**WHO, "config": {"seed": 2}}).found == {}
    assert Answers(tmp_path / "a", WHO).found == {}, "the first one's are gone"


def test_others_write_meanwhile(tmp_path: Path) -> None:
    one = Answers(tmp_path / "a", WHO)
    two = Answers(tmp_path / "a", begin=False)
    two.keep("x", 1)
    assert one.get("x", None) is None
    one.look()
    two.keep("y", 2)
    one.look()
    assert one.found == {"x": 1, "y": 2}
    with (tmp_path / "a" / "slow.jsonl").open("wb", buffering=0) as slow:
        slow.write(b'{"z": [1')
        one.look()
        slow.write(b", 2]}\n")
        one.look()
    assert one.found["z"] == [1, 2]


def test_in_memory_alone() -> None:
    with Answers(None) as held:
        held.keep("x", 1)
        held.look()
        assert "x" in held


def test_of_a_text_that_was_written_again_the_later_one_counts(tmp_path: Path, monkeypatch) -> None:
    for number in range(6):
        monkeypatch.setattr(answers.uuid, "uuid4", lambda number=number: SimpleNamespace(hex=f"{9 - number}"))
        with Answers(tmp_path / "a", WHO) as held:
            assert held.get("spent", 0) == number
            held.keep("spent", number + 1)


def test_who_does_not_begin_reads_nothing_that_may_be_deleted(tmp_path: Path) -> None:
    with Answers(tmp_path / "a", WHO) as first:
        first.keep("x", 1)
    assert Answers(tmp_path / "a", begin=False).found == {}
    assert Answers(tmp_path / "a", WHO).found == {"x": 1}

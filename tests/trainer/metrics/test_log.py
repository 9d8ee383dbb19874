"""What a log keeps when training goes on from a checkpoint, and what is read of it while and after it is written."""

import json

import pytest

from tracestill.trainer.metrics.log import LAST_BYTES, LOG, Log, Tail, is_of_steps, last_step, read_log

TORN = b'{"step": 1, "loss": 2.0}\n{"step": 2, "lo\n\xff\xfe\n7\n{"step": 3, "event": "held_out"}\n{"step": 4, "lo'


def test_resuming_cuts_the_lines_of_steps_that_will_come_again(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps({"step": s}) + "\n" for s in (10, 20, 30)) + '{"step": 40, "lo')
    log = Log(path, resume_at=20, write=True)
    log.add(step=21, loss=1.0)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [10, 20, 21]


def test_a_fresh_log_starts_empty_and_other_ranks_write_nothing(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 10}\n')
    Log(path, resume_at=0, write=False).add(step=1)
    assert path.read_text() == '{"step": 10}\n'
    Log(path, resume_at=0, write=True).add(step=1)
    assert path.read_text() == '{"step": 1}\n'


def test_numbers_that_json_cannot_hold_become_null(tmp_path):
    log = Log(tmp_path / "log.jsonl", resume_at=0, write=True)
    log.add(step=1, loss=float("nan"), kinds={"answer": {"loss": float("inf"), "count": 3}}, documents=["a"])
    line = json.loads((tmp_path / "log.jsonl").read_text(), parse_constant=pytest.fail)
    assert line == {"step": 1, "loss": None, "kinds": {"answer": {"loss": None, "count": 3}}, "documents": ["a"]}


def test_every_whole_line_is_read_and_none_that_is_torn(tmp_path):
    path = tmp_path / LOG
    assert read_log(path) == []
    assert last_step(path) == 0
    path.write_bytes(TORN)
    assert read_log(path) == [{"step": 1, "loss": 2.0}, {"step": 3, "event": "held_out"}]
    assert [line["step"] for line in read_log(path) if is_of_steps(line)] == [1]
    assert last_step(path) == 3


def test_the_last_step_is_found_in_a_long_log(tmp_path):
    """Its last bytes begin in the middle of a line."""
    path = tmp_path / LOG
    path.write_text("".join(json.dumps({"step": step, "text": "x" * 999}) + "\n" for step in range(1, 200)))
    assert path.stat().st_size > 2 * LAST_BYTES
    assert last_step(path) == 199


def test_a_tail_gives_each_line_once_and_when_it_is_whole(tmp_path):
    tail = Tail(tmp_path / LOG)
    tail.path.write_text('{"step": 1}\n{"step": 2, "lo')
    assert tail.new() == [{"step": 1}]
    assert tail.new() == []
    with tail.path.open("a") as handle:
        handle.write('ss": 1.0}\n{"step": 3}\n')
    assert tail.new() == [{"step": 2, "loss": 1.0}, {"step": 3}]

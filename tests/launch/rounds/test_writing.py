"""A real model writes: what was written before a kill stays, and the rest comes out bit for bit."""

import json
import re
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from fake_run import run_data_stages
from rounds_support import recipe
from tiny_export import tiny_model

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.stage import Stage, identity, read_manifest, write_manifest
from tracestill.data_pipeline.documents.encode import load_layout
from tracestill.launch.rounds import monitor, writing
from tracestill.launch.rounds.recipes import round_of
from tracestill.launch.rounds.run_rounds import nothing_right
from tracestill.trainer.recipe.run_directory import RunDirectory

ASKED = recipe({"samples": 3}, evaluate={"batch_size": 9, "max_new_tokens": 24})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Round 0, with a student that was never trained."""
    root = tmp_path_factory.mktemp("written") / "run"
    run = round_of(root, ASKED, 0)
    run_data_stages(RunDirectory.create(run.root, run.recipe))
    train = run.stage("traces", "train")
    shutil.copytree(run.stage("traces", "tokenizer"), train / "export")
    size = load_layout(run.recipe.encode, train / "export").size
    tiny_model(vocab_size=size, max_position_embeddings=256, initializer_range=0.2).save_pretrained(train / "export")
    write_manifest(train, identity("train", *run.train_stage("traces")), Stage(train, counts={"steps": 0}), 1.0)
    return run


def written(run: RunDirectory, folder: Path) -> dict[str, bytes]:
    folder.mkdir(exist_ok=True)
    writing.write_traces(ASKED, run, run, folder, lambda done, total: None)
    return {path.name: path.read_bytes() for path in (folder / "written").glob("*.parquet")}


class Killed(BaseException):
    pass


def test_killed_between_chunks_it_writes_the_same(trained, tmp_path, monkeypatch):
    whole, calls = written(trained, tmp_path / "whole"), []
    real = writing.ask

    def dying(*args, **more):
        calls.append(len(args[3]))
        if len(calls) == 3:
            raise Killed
        return real(*args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(writing, "ask", dying)
        with pytest.raises(Killed):
            written(trained, tmp_path / "cut")
    assert calls == [12, 12, 6], "questions of a chunk: four batches of nine texts, three a question"
    with monkeypatch.context() as patch:
        patch.setattr(writing, "ask", lambda *args, **more: calls.append(len(args[3])) or real(*args, **more))
        assert written(trained, tmp_path / "cut") == whole
    assert calls[3:] == [6]
    assert not (tmp_path / "cut" / ".written").exists()


def test_every_text_is_accounted_for(trained, tmp_path):
    written(trained, tmp_path / "all")
    counts = read_manifest(tmp_path / "all/written")["counts"]
    assert counts["in"] == 90 == counts["out"] + sum(counts["rejected"].values())
    rejected = pq.read_table(tmp_path / "all/written/rejected.parquet").to_pylist()
    assert len({row["text"] for row in rejected}) > 60, "samples of a question differ"
    assert {row["reason"] for row in rejected} <= {"cut_off", "no_answer", "no_trace"}


def test_other_settings_write_anew(trained, tmp_path):
    one = written(trained, tmp_path / "one")
    warmer = ASKED.model_copy(update={"rounds": ASKED.rounds.model_copy(update={"temperature": 0.5})})
    writing.write_traces(warmer, trained, trained, tmp_path / "one", lambda done, total: None)
    assert (tmp_path / "one/written/rejected.parquet").read_bytes() != one["rejected.parquet"]
    assert json.loads((tmp_path / "one/written/manifest.json").read_text())["config"]["temperature"] == 0.5


@pytest.mark.parametrize(
    ("changes", "anew"),
    [
        ({"checks": ()}, True),
        ({"repeats": "reject"}, True),
        ({"policy": "answer"}, True),
        ({"paths": ASKED.select.paths.model_copy(update={"seed": 1})}, False),  # of others beside it
    ],
)
def test_what_decides_that_a_trace_solves_its_question_is_part_of_what_was_asked(trained, changes, anew):
    """Round 0's records may be the same under both: its teacher may never err."""
    other = ASKED.model_copy(update={"select": ASKED.select.model_copy(update=changes)})
    assert other.select != ASKED.select
    one, two = (writing.identity_of(each, trained, trained)[0] for each in (ASKED, other))
    assert (one != two) is anew


def test_a_damaged_chunk_is_written_anew(trained, tmp_path, monkeypatch):
    whole = written(trained, tmp_path / "whole")
    real, left = writing.ask, [2]

    def dying(*args, **more):
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        return real(*args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(writing, "ask", dying)
        with pytest.raises(Killed):
            written(trained, tmp_path / "cut")
    first, second = sorted((tmp_path / "cut" / ".written").rglob("*.json"))
    first.write_bytes(first.read_bytes()[:99])
    second.write_bytes(b"\xff\x00")
    assert written(trained, tmp_path / "cut") == whole


def test_hints_that_cannot_be_asked_are_counted(trained, tmp_path, monkeypatch):
    layout = load_layout(ASKED.encode, trained.stage("traces", "train") / "export")
    hint = re.compile(r"\(The answer is [0-4]\.\)")
    monkeypatch.setattr(type(layout), "control_in", lambda self, text: hint.search(text) and "it")
    asked = ASKED.model_copy(update={"rounds": ASKED.rounds.model_copy(update={"rationalise": True, "samples": 1})})
    writing.write_traces(asked, trained, trained, tmp_path, lambda done, total: None)
    counts = read_manifest(tmp_path / "written")["counts"]
    assert counts["rejected"]["control_in_text"] > 0
    assert counts["asked"]["hinted"] == counts["questions"] - counts["solved"]
    assert counts["in"] == counts["out"] + sum(counts["rejected"].values())


def test_damaged_figures_are_named(tmp_path):
    (tmp_path / "figures.json").write_text('{"accuracy": ')
    with pytest.raises(InputError, match=r"figures.json: not readable as JSON .* remove .* and give the command again"):
        monitor.read(tmp_path / "figures.json")


def test_a_round_without_right_traces_says_how_many_were_cut_off():
    told = nothing_right("student-0", {"in": 120, "right": 0, "rejected": {"cut_off": 118, "no_answer": 2}})
    assert "no trace of student-0 has the right answer: 118 of 120 were cut off (evaluate.max_new_tokens)" in told

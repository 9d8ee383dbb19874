"""What a teacher says depends on its own module and on files that its options name: both are known by content."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tracestill.data_pipeline.base import own_modules
from tracestill.data_pipeline.base.schema import QUESTION_SCHEMA, RECORD_SCHEMA, read_rows
from tracestill.data_pipeline.base.stage import differences, identity, is_current, read_manifest, why_redone
from tracestill.data_pipeline.sampling.asking.crew import Crew
from tracestill.data_pipeline.sampling.questions import QuestionsConfig
from tracestill.data_pipeline.sampling.sample import SampleConfig, run, stage_config

TASK = """
from pathlib import Path
from pydantic import BaseModel
from their_helper import SIGN
from tracestill.data_pipeline.base.schema import Question, content_id
from tracestill.data_pipeline.sampling.teachers import Solution

class Options(BaseModel):
    start: str = ""

class TeacherOptions(BaseModel):
    words: str = ""
    log: str = ""

def questions(split_counts, options, seed):
    first = int(Path(options.start).read_text()) if options.start else 0
    numbers = range(first, first + sum(split_counts.values()))
    splits = [split for split, count in split_counts.items() for _ in range(count)]
    texts = [(f"Double {n}.", str(2 * n)) for n in numbers]
    return [Question(content_id(t), t, gold, split) for (t, gold), split in zip(texts, splits, strict=True)]

class Teacher:
    def __init__(self, options):
        self.options = options

    def solve(self, question, *, style, temperature, seed):
        log = Path(self.options.log)
        if Path("limit").exists() and len(log.read_text().splitlines()) >= int(Path("limit").read_text()):
            raise KeyboardInterrupt
        with log.open("a") as log:
            log.write("asked\\n")
        return Solution(f"{Path(self.options.words).read_text()} 1 {SIGN} 1", question.gold)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    before = own_modules.folder()
    own_modules.search(tmp_path)
    (tmp_path / "their_task.py").write_text(TASK)
    (tmp_path / "their_helper.py").write_text("SIGN = '+'\n")
    (tmp_path / "words").write_text("Well,")
    (tmp_path / "start").write_text("7")
    yield tmp_path
    own_modules.search(before)
    for name in ("their_task", "their_helper", "their_late"):
        sys.modules.pop(name, None)


def configs(train: int = 4) -> tuple[QuestionsConfig, SampleConfig]:
    asked = {"source": "their_task", "train": train, "test": 0, "options": {"start": "start"}}
    teacher = {"name": "t", "options": {"words": "words", "log": "log"}}
    return QuestionsConfig.model_validate(asked), SampleConfig.model_validate({"teachers": [teacher]})


def go(folder: Path, train: int = 4) -> tuple[int, set[str]]:
    """How many were asked, and the traces."""
    directory = folder / "run/sample"
    run(*configs(train), seed=0, directory=directory, journal=folder / "run/journal.sqlite")
    manifest = read_manifest(directory)
    assert manifest is not None
    return manifest["counts"]["asked"], {
        row["trace"] for row in read_rows(directory / "records.parquet", RECORD_SCHEMA)
    }


def changed(folder: Path) -> str:
    directory, config = folder / "run/sample", stage_config(*configs(), 0)
    reason = why_redone(directory, "sample", config, {})
    assert is_current(directory, "sample", config, {}) == (reason == "")
    return reason


def test_a_changed_file_or_module_asks_anew_and_its_return_finds_the_old_answers(folder: Path) -> None:
    assert go(folder) == (4, {"Well, 1 + 1"})
    assert changed(folder) == "", "a log that the teacher writes is no input"
    assert go(folder) == (0, {"Well, 1 + 1"})
    (folder / "words").write_text("So,")
    assert changed(folder) == "sample.teachers.0.options.words changed"
    assert go(folder) == (4, {"So, 1 + 1"})
    (folder / "words").write_text("Well,")
    assert go(folder) == (0, {"Well, 1 + 1"})
    (folder / "their_helper.py").write_text("SIGN = 'plus'\n")
    assert "sample.teachers.0.module (their_helper.py)" in changed(folder)
    assert go(folder) == (4, {"Well, 1 plus 1"})
    assert go(folder, train=6) == (2, {"Well, 1 plus 1"})


def test_a_file_that_a_teacher_writes_is_no_input_even_if_it_was_there_before(folder: Path) -> None:
    (folder / "log").write_text("of another run\n")
    assert go(folder) == (4, {"Well, 1 + 1"})
    assert changed(folder) == ""
    assert go(folder) == (0, {"Well, 1 + 1"})
    (folder / "log").write_text("something else\n")
    assert changed(folder) == ""
    assert go(folder, train=6) == (2, {"Well, 1 + 1"})


def test_an_interrupt_costs_nothing_where_a_teacher_writes_a_log(folder: Path) -> None:
    (folder / "log").write_text("of another run\n")
    (folder / "limit").write_text("4")
    with pytest.raises(KeyboardInterrupt):
        go(folder)
    (folder / "limit").unlink()
    (folder / "log").write_text("asked\n" * 9)
    assert go(folder)[0] == 1, "three answers are in the journal"


def test_a_module_mended_while_it_is_asked_asks_anew(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = Crew.solved

    def mend(*arguments: object) -> object:
        (folder / "their_helper.py").write_text("SIGN = 'plus'\n")
        return ask(*arguments)

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(Crew, "solved", mend)
        assert go(folder) == (4, {"Well, 1 + 1"})
    assert "their_helper.py" in changed(folder)
    assert go(folder) == (4, {"Well, 1 plus 1"})
    assert changed(folder) == ""
    (folder / "their_helper.py").write_text("SIGN = '+'\n")
    assert go(folder) == (0, {"Well, 1 + 1"})


def test_a_module_imported_later_asks_anew_each_time_that_it_changes(folder: Path) -> None:
    go(folder)
    (folder / "their_late.py").write_text("SIGN = 'a'\n")
    (folder / "their_task.py").write_text(TASK.replace("their_helper", "their_late"))
    assert go(folder) == (4, {"Well, 1 a 1"})
    (folder / "their_late.py").write_text("SIGN = 'b'\n")
    assert go(folder) == (4, {"Well, 1 b 1"})
    (folder / "their_late.py").write_text("SIGN = 'a'\n")
    assert go(folder) == (0, {"Well, 1 a 1"})
    (folder / "their_task.py").write_text(TASK)
    assert go(folder) == (0, {"Well, 1 + 1"})


def test_a_source_reads_its_file_anew(folder: Path) -> None:
    go(folder)
    (folder / "start").write_text("100")
    assert "questions.options.start changed" in changed(folder)
    go(folder)
    questions = read_rows(folder / "run/sample/questions.parquet", QUESTION_SCHEMA)
    assert [row["gold"] for row in questions] == ["200", "202", "204", "206"]


def test_a_file_of_questions_counts_by_content_wherever_it_lies(folder: Path) -> None:
    (folder / "a.jsonl").write_text('{"question": "1 + 1?", "gold": 2}\n')
    teacher = SampleConfig.model_validate({"teachers": [{"name": "t", "use": "digit_sum"}]})

    def config(path: str) -> dict:
        return stage_config(QuestionsConfig(source=path, train=1, test=0), teacher, 0)

    first = identity("sample", config("a.jsonl"), {})
    (folder / "moved").mkdir()
    (folder / "a.jsonl").rename(folder / "moved/b.jsonl")
    assert differences(first, identity("sample", config("moved/b.jsonl"), {})) == []
    (folder / "moved/b.jsonl").write_text('{"question": "1 + 1?", "gold": 3}\n')
    assert "questions.source" in differences(first, identity("sample", config("moved/b.jsonl"), {}))
    with own_modules.looking():
        assert differences(first, identity("sample", config("a.jsonl"), {})) == [], "it has gone: nobody can tell"

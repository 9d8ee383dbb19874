"""Where questions come from: names of tasks, files of lines, and what is refused."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from pydantic import ValidationError

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.schema import Question, content_id
from tracestill.data_pipeline.sampling import questions as questions_module
from tracestill.data_pipeline.sampling.questions import QuestionsConfig
from tracestill.data_pipeline.sampling.teachers import known_tasks, make_teacher


def write(path: Path, *lines: object) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def make_questions(config: QuestionsConfig, seed: int) -> list[Question]:
    posed = questions_module.make_questions(config, seed)
    assert posed.counts["used"] == len(posed.questions)
    return posed.questions


def from_file(path: Path, train: int = 1, test: int = 0) -> QuestionsConfig:
    return QuestionsConfig(source=str(path), train=train, test=test)


def test_bundled_tasks_are_known_by_their_file_names() -> None:
    assert known_tasks() == ["api", "digit_sum", "gsm_symbolic", "local", "recorded"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"source": "digit_sun"}, "questions.source: unknown task 'digit_sun'; did you mean 'digit_sum'?"),
        ({"source": "no_such.package"}, "questions.source: cannot import 'no_such.package'"),
        ({"source": "a..b"}, "questions.source: "),
        ({"source": "json.decoder"}, "questions.source: task 'json.decoder' offers no `questions`"),
        ({"options": {"digit": 3}}, "questions.options.digit: unknown key; did you mean 'digits'?"),
        ({"options": {"digits": 1}}, "questions.options.digits: Input should be greater than or equal to 2, got 1"),
        ({"source": "x.jsonl", "options": {"digits": 3}}, "questions.options: a file takes no options, got digits"),
        ({"train": 0}, "greater than or equal to 1"),
        ({"trains": 3}, "Extra inputs are not permitted"),
    ],
)
def test_bad_configs_are_refused_with_the_field_and_the_nearest_name(config: dict, message: str) -> None:
    with pytest.raises(ValidationError) as error:
        QuestionsConfig.model_validate({"source": "digit_sum", "train": 10, "test": 5, **config})
    assert message in str(error.value)


def test_a_teacher_with_bad_options_names_its_field() -> None:
    with pytest.raises(
        InputError, match=r"^sample\.teachers\.0\.options\.error_rate: .*less than or equal to 1, got 3"
    ):
        make_teacher("digit_sum", {"error_rate": 3}, "sample.teachers.0.use")
    assert make_teacher("digit_sum", {}, "x.use")[1] == {"error_rate": 0.08}


def test_a_file_gives_questions_with_metadata_split_by_the_seed(tmp_path: Path) -> None:
    lines = [{"question": f"What is {n}?", "gold": n, "group": f"g{n}", "source": "me"} for n in range(40)]
    path = write(tmp_path / "q.jsonl", *lines[:20], "", lines[0], *lines[20:])
    found = make_questions(from_file(path, 25, 10), 0)
    assert Counter(q.split for q in found) == {"train": 25, "test": 10}
    assert found == make_questions(from_file(path, 25, 10), 0)
    assert found != make_questions(from_file(path, 25, 10), 1)
    assert len({q.question_id for q in found}) == 35
    for question in found:
        assert question.question == f"What is {question.gold}?"
        assert (question.group, question.metadata) == (f"g{question.gold}", {"source": "me"})
    fewer = make_questions(from_file(path, 5, 10), 0)
    assert {q.question for q in fewer if q.split == "test"} == {q.question for q in found if q.split == "test"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not valid JSON"),
        ("[1]", "expected an object with question and gold, got list"),
        ({"gold": "1"}, "'question' must be a text, got None"),
        ({"question": "  ", "gold": "1"}, "'question' must be a text"),
        ({"question": "Why?"}, "'gold' must be a text or a number, got None"),
        ({"question": "Why?", "gold": True}, "'gold' must be a text or a number, got True"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: object, message: str) -> None:
    path = write(tmp_path / "q.jsonl", {"question": "First", "gold": "1"}, {"question": "Other", "gold": "1"}, line)
    with pytest.raises(InputError) as error:
        make_questions(from_file(path), 0)
    assert str(error.value).startswith(f"{path}:3: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_unreadable_and_short_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.jsonl: not readable \(No such file"):
        make_questions(from_file(tmp_path / "none.jsonl"), 0)
    (tmp_path / "latin.jsonl").write_bytes(b'{"question": "caf\xe9", "gold": 1}\n')
    with pytest.raises(InputError, match=r"latin\.jsonl:1: not UTF-8 \(byte 0xe9 at position 17\)"):
        make_questions(from_file(tmp_path / "latin.jsonl"), 0)
    path = write(tmp_path / "q.jsonl", *({"question": t, "gold": 1} for t in ("a", "b", "a ")))
    with pytest.raises(
        InputError,
        match=r"2 different questions \(1 repeated, 0 rejected\), but 1 are left for questions.train = 2",
    ):
        make_questions(from_file(path, 2, 1), 0)


def test_the_identity_of_a_file_follows_its_content(tmp_path: Path) -> None:
    path = write(tmp_path / "q.jsonl", {"question": "a", "gold": 1})
    first = from_file(path).identity()
    assert first == from_file(path).identity()
    write(path, {"question": "a", "gold": 2})
    assert first != from_file(path).identity()


def test_validation_questions_of_a_file_leave_the_test_questions_as_they_are(tmp_path: Path) -> None:
    path = write(tmp_path / "q.jsonl", *({"question": f"What is {n}?", "gold": n} for n in range(40)))
    without = make_questions(from_file(path, 25, 10), 0)
    found = make_questions(QuestionsConfig(source=str(path), train=20, test=10, validation=8), 0)
    assert Counter(q.split for q in found) == {"train": 20, "validation": 8, "test": 10}
    assert [q for q in found if q.split == "test"] == [q for q in without if q.split == "test"]
    assert len({q.question_id for q in found}) == 38
    fewer = make_questions(QuestionsConfig(source=str(path), train=3, test=10, validation=8), 0)
    assert [q for q in fewer if q.split != "train"] == [q for q in found if q.split != "train"]
    assert [q.split for q in fewer[:3]] == ["train"] * 3, "they come first"
    with pytest.raises(InputError, match=r"40 different .* but 19 are left for questions\.train = 20"):
        make_questions(QuestionsConfig(source=str(path), train=20, test=10, validation=11), 0)


TASK = """
from pydantic import BaseModel
from tracestill.data_pipeline.base.schema import Question, content_id
class Options(BaseModel):
    fault: str = ""
def questions(split_counts, options, seed):
    found = [Question(content_id(f"q{n} {s}"), f"q{n} {s}", "1", s) for s, c in split_counts.items() for n in range(c)]
    if options.fault == "leak":
        found[-1] = Question(found[0].question_id, found[0].question, "1", "test")
    if options.fault == "leak validation":
        found[-1] = Question(found[3].question_id, found[3].question, "1", "validation")
    if options.fault == "id":
        found[-1] = Question("0", "other", "1", "test")
    return found[1:] if options.fault == "few" else found
"""


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("leak", r"same question twice \(train and test\)"),
        ("id", "id is not content_id"),
        ("few", "expected {'train': 3"),
    ],
)
def test_a_dotted_module_is_imported_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, message: str
) -> None:
    (tmp_path / "made_up_tasks").mkdir()
    (tmp_path / "made_up_tasks" / "one.py").write_text(TASK)
    monkeypatch.syspath_prepend(tmp_path)
    found = make_questions(QuestionsConfig(source="made_up_tasks.one", train=3, test=2), 0)
    assert [q.question_id for q in found] == [content_id(q.question) for q in found]
    with pytest.raises(InputError, match=message):
        make_questions(QuestionsConfig(source="made_up_tasks.one", train=3, test=2, options={"fault": fault}), 0)
    if fault == "leak":
        more = {"validation": 2, "options": {"fault": "leak validation"}}
        config = QuestionsConfig(source="made_up_tasks.one", train=3, test=2, **more)
        with pytest.raises(InputError, match=r"same question twice \(test and validation\)"):
            make_questions(config, 0)


MODULE = {"source": "digit_sum", "train": 3, "test": 1, "options": {"digits": 3}}


def test_traces_of_a_modules_questions_may_stand_in_files(tmp_path: Path) -> None:
    alone = questions_module.make_questions(QuestionsConfig.model_validate(MODULE), 0)
    asked = alone.questions[0]
    rows = [
        {"question": asked.question, "gold": asked.gold, "output": f"So it is {asked.gold}.", "teacher": "her"},
        {"question": asked.question, "gold": asked.gold, "output": f"It is {asked.gold}.", "teacher": "her"},
        {"question": "What is 1 + 1?", "gold": "2", "output": "It is 2.", "teacher": "her"},
        {"question": "", "gold": "2", "output": "It is 2.", "teacher": "her"},
    ]
    config = {**MODULE, "files": [{"path": str(write(tmp_path / "t.jsonl", *rows))}], "max_rejected": 0.5}
    posed = questions_module.make_questions(QuestionsConfig.model_validate(config), 0, lambda said: None)
    assert posed.questions == alone.questions, "files add no question of their own"
    assert [posed.traces.read(place).raw for place in posed.traces.of(asked.question_id)] == [
        f"So it is {asked.gold}.",
        f"It is {asked.gold}.",
    ]
    assert posed.counts["traces"] == {"in": 4, "used": 2, "unused": 1}
    assert [each.reason for each in posed.bad_traces] == ["no_question"]
    named = QuestionsConfig.model_validate(config).named()
    assert named["questions.files.0.path"] == {"": tmp_path / "t.jsonl"}, "another content is another input"


def test_a_modules_files_hold_no_general_text(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"questions.files: general texts stand beside files; 'digit_sum' is a m"):
        QuestionsConfig.model_validate({**MODULE, "files": [{"path": "t.jsonl", "general": True}]})

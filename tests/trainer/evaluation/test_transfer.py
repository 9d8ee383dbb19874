"""The part that asks what carries over: what is asked of whom, what is kept, and what stands in the result."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from real_data import DATA, ROOT, needs_data

from tracestill.data_pipeline.answers.numbers.number import number
from tracestill.data_pipeline.answers.verifier import Verifier
from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.schema import QUESTION_SCHEMA, Question, content_id, write_rows
from tracestill.data_pipeline.base.stage import stage
from tracestill.data_pipeline.sampling.sample import question_row
from tracestill.data_pipeline.variations.further import further
from tracestill.launch.report.evaluation.matrix import transfer as section
from tracestill.trainer.evaluation.asking import Query, Reply
from tracestill.trainer.evaluation.evaluate import answer, examined
from tracestill.trainer.measures.said import said
from tracestill.trainer.measures.unasked import OVERLONG, REFUSED, Unasked
from tracestill.trainer.recipe.recipe import Recipe, load_recipe, own_modules_of
from tracestill.trainer.recipe.run_directory import RunDirectory

HELD = [("What is (1 + 2) mod 9?", "3", [1, 2]), ("What is (4 + 4) mod 9?", "8", [4, 4])]
RECIPE = {
    "name": "tiny",
    "questions": {"source": "digit_sum", "train": 3, "test": 2, "options": {"digits": 2, "modulus": 9}},
    "sample": {"teachers": [{"name": "solver"}]},
    "plan": {"capacity": 256, "packs_per_step": 1},
    "student": {"config": {"model_type": "llama"}},
    "train": {"steps": 1},
}


class Student:
    """Adds the digits that it finds in a question as long as there are two of them, in small letters, and nobody speaks
    another language to it. Where a name stands, it says that."""

    takes_system = True

    def __init__(self, positions: int = 999) -> None:
        self.queries: list[Query] = []
        self.positions = positions

    def shown(self, question: str) -> str:
        return question

    def ask(self, queries: Sequence[Query], progress=None) -> list[list[Reply] | Unasked]:
        self.queries += queries
        return [why if (why := self.why_not(query)) else [self.reply(query)] for query in queries]

    def why_not(self, query: Query) -> Unasked | None:
        """It has few positions."""
        words = len(query.question.split())
        long = Unasked(OVERLONG, f"{words} words") if words > self.positions else None
        return Unasked(REFUSED) if "<think>" in query.question else long

    def by_token(self, reply: Reply) -> dict:
        return {}

    def reply(self, query: Query) -> Reply:
        answer = self.answer(query)
        text = f"<think> </think> {answer}"
        return Reply(text, "", answer, "whole", True, True, 3, 0, -1.0)

    def answer(self, query: Query) -> str | None:
        text = query.question
        if named := re.search(r"Who is (\w+)\?", text):
            return named[1]
        numbers = re.findall(r"\d+", text)
        if "Responde" in text or query.system:
            return None
        return "77" if text.isupper() else str(sum(map(int, numbers[:2])))


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    """A finished sample stage: two held-out questions, and among the training ones a copy of one of them."""
    rows = []
    for text, gold, digits in HELD:
        question = Question(content_id(text), text, gold, "test", metadata={"digits": digits, "modulus": 9})
        rows.append(question_row(question, "", "digit_sum"))
    copy = replace(Question(content_id("x"), f"{HELD[0][0]} ", HELD[0][1], "train"), question_id=content_id(HELD[0][0]))
    with stage(tmp_path / "sample", "sample", {}, {}) as work:
        write_rows(work.path / "questions.parquet", [*rows, question_row(copy, "", "digit_sum")], QUESTION_SCHEMA)
    return tmp_path / "sample"


def examine(sample: Path, evaluate: dict, student: Student | None = None, *teachers) -> tuple[Path, dict, Student]:
    asked = {"teachers": [*RECIPE["sample"]["teachers"], *teachers]}
    recipe = Recipe.model_validate({**RECIPE, "sample": asked, "evaluate": {"max_new_tokens": 30, **evaluate}})
    rows = [row for row in pq.read_table(sample / "questions.parquet").to_pylist() if row["split"] == "test"]
    student = student or Student()
    at = sample.parent / "evaluate"
    with stage(at, "evaluate", {}, {}) as work:
        _, result = examined(recipe, rows, student, Verifier(recipe.verify), work, sample, lambda done, total: None)
    return at, result, student


def file_of(tmp_path: Path, name: str, rows: list[dict]) -> str:
    (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(tmp_path / name)


def test_the_matrix_says_what_the_student_can(tmp_path: Path, sample: Path) -> None:
    source = file_of(
        tmp_path,
        "who.jsonl",
        [{"question": "Who is 7?", "answer": "7"}, {"question": "Who is <think>?", "answer": "x"}],
    )
    ways = [
        "wording.terse",
        "wording.polite",
        "language.es",
        "ranges",
        "digits",
        "step.double",
        "system.brief",
        "order.sentences",
    ]
    also = {
        "who": {"source": source, "verify": "text"},
        "sums": {"source": "digit_sum", "questions": 4, "varied": False},
    }
    at, result, student = examine(sample, {"variations": ways, "also": also})
    found = result["transfer"]
    cells = found["cells"]["held_out"]
    right = {form: (cell["right"], cell["questions"]) for form, cell in cells.items()}
    assert right == {
        "plain": (2, 2), "wording.terse": (2, 2), "wording.polite": (2, 2), "language.es": (0, 2), "ranges": (0, 2),
        "digits": (0, 2), "step.double": (0, 2), "system.brief": (0, 2),
    }  # fmt: skip
    assert cells["language.es"]["no_answer"] == 2
    assert cells["ranges"]["wrong"] == 2  # it does not take what it finds modulo 9
    assert cells["language.es"]["gain"]["share"] == -1
    assert found["left_out"]["held_out"]["order.sentences"] == {"not_applicable": 2}
    assert found["families"]["held_out"]["wording"]["consistent"]["rate"]["share"] == 1
    assert found["consistency"]["held_out"]["rate"]["share"] == 0  # another language, another system prompt
    who = found["cells"]["who"]
    assert (who["plain"]["right"], who["plain"]["not_asked"], who["plain"]["questions"]) == (1, 1, 2)
    assert list(found["cells"]["sums"]) == ["plain"]
    assert [(task["name"], task["questions"]) for task in found["tasks"]] == [("held_out", 2), ("who", 2), ("sums", 4)]
    assert found["tasks"][1]["source"]["used"] == 2
    assert [form["name"] for form in found["forms"]] == ways
    assert found["copies"]["held_out"] == {"exact": 1, "near": 0}
    (copy,) = pq.read_table(at / "copies.parquet").to_pylist()
    assert (copy["task"], copy["question"]) == ("held_out", HELD[0][0])
    asked = pq.read_table(at / "asked.parquet").to_pylist()
    assert len(asked) == 2 * 9 + 2 * 9 + 4
    assert {row["variation"] for row in asked if row["system"]} == {"system.brief"}
    told = pq.read_table(at / "variations" / "wording.terse.parquet").to_pylist()
    assert [(row["task"], row["question"], row["correct"]) for row in told[:2]] == [
        ("held_out", f"Solve: {text}", True) for text, _, _ in HELD
    ]
    assert {row["verified_by"] for row in told if row["task"] == "who"} == {"text", ""}
    plain = [query for query in student.queries if query.question == HELD[0][0] and not query.system]
    assert len(plain) == 1  # the answer that is known already is not asked for again
    assert len({query.key for query in student.queries}) == len(student.queries)
    assert len(student.queries) == sum(not row["left_out"] for row in asked)
    html = section({"arms": {"traces": {"evaluation": result}}, "models": {}})
    assert "-100.0 (" in html
    assert "does not apply" in html
    places = [html.index(f">{name}<") for name in ("plain", "wording", "language.es", "ranges", "wording.terse")]
    assert places == sorted(places)
    assert html.count("another answer is right") == 3  # ranges, digits, step.double
    assert "right, plainly asked: held_out 100.0% (in all forms 0.0%)" in "".join(said(result))


def test_a_question_that_a_form_makes_too_long_is_counted_and_the_others_are_asked(sample: Path) -> None:
    """``distractor`` puts a sentence in: too much for a student with room for nine words."""
    forms = ["wording.terse", "distractor.before"]
    at, result, _ = examine(sample, {"variations": forms}, Student(positions=9))
    cells = result["transfer"]["cells"]["held_out"]
    counts = {form: {name: cells[form][name] for name in ("questions", "right", "not_asked")} for form in cells}
    plain = {"questions": 2, "right": 2, "not_asked": 0}
    assert counts == {
        "plain": plain,
        "wording.terse": plain,
        "distractor.before": {**plain, "right": 0, "not_asked": 2},
    }
    for row in pq.read_table(at / "variations" / "distractor.before.parquet").to_pylist():
        words = len(row["question"].split())
        assert (row["read_by"], row["detail"], row["correct"]) == ("overlong", f"{words} words", False)


def test_held_out_questions_that_are_mostly_too_long_are_refused_by_name(sample: Path) -> None:
    with pytest.raises(InputError, match=r"7 words; so it is with 2 of 2 held-out questions, such as 'What is \(1 \+"):
        examine(sample, {}, Student(positions=3))
    rows = [row for row in pq.read_table(sample / "questions.parquet").to_pylist() if row["split"] == "test"]
    (one,) = answer(Recipe.model_validate(RECIPE), rows[:1], Student(positions=3), lambda done, total: None)
    assert one["read_by"] == OVERLONG, "a rank's few questions are not all there are"


def test_a_question_without_gold_is_not_counted_as_wrong(tmp_path: Path) -> None:
    rows = []
    for text, gold in ((HELD[0][0], HELD[0][1]), ("What is 4 + 4?", "")):
        rows.append(question_row(Question(content_id(text), text, gold, "test"), "", "digit_sum"))
    with stage(tmp_path / "sample", "sample", {}, {}) as work:
        write_rows(work.path / "questions.parquet", rows, QUESTION_SCHEMA)
    _, result, student = examine(tmp_path / "sample", {"variations": ["wording.terse"]})
    assert len(student.queries) == 3, "it is asked as it is, and not varied"
    assert result["transfer"]["left_out"] == {"held_out": {"wording.terse": {"not_a_text": 1}}}
    for cell in result["transfer"]["cells"]["held_out"].values():
        assert (cell["questions"], cell["accuracy"]["share"]) == (1, 1.0)
    assert [task["without_gold"] for task in result["transfer"]["tasks"]] == [1]


def test_without_the_keys_nothing_more_is_asked(sample: Path) -> None:
    at, result, student = examine(sample, {})
    assert "transfer" not in result
    assert len(student.queries) == 2
    assert not (at / "asked.parquet").exists()
    assert section({"arms": {"traces": {"evaluation": result}}, "models": {}}) == ""


def test_as_many_questions_are_varied_as_the_recipe_says(sample: Path) -> None:
    _, result, student = examine(sample, {"variations": {"use": ["wording.terse"], "questions": 1}})
    assert result["transfer"]["cells"]["held_out"]["wording.terse"]["questions"] == 1
    assert len(student.queries) == 3


def test_a_layout_without_a_system_prompt_is_not_asked_with_one(sample: Path) -> None:
    student = Student()
    student.takes_system = False
    _, result, _ = examine(sample, {"variations": ["system"]}, student)
    forms = ("system.tutor", "system.brief", "system.captain")
    assert result["transfer"]["left_out"] == {"held_out": {form: {"no_system_prompt": 2} for form in forms}}
    assert "the layout has no system prompt" in section({"arms": {"a": {"evaluation": result}}, "models": {}})


REWORDER = """
from pathlib import Path
from pydantic import BaseModel
from tracestill.data_pipeline.sampling.teachers import Said

class TeacherOptions(BaseModel):
    log: str

class Teacher:
    def __init__(self, options):
        self.options = options

    def solve(self, question, *, style, temperature, seed):
        with Path(self.options.log).open("a") as log:
            log.write("asked\\n")
        first, _, rest = question.question.partition("What is ")[2].partition(")")
        return Said(f"Take {first}) mod 9.")
"""


def test_a_teacher_of_the_recipe_rewords_and_is_asked_once(
    tmp_path: Path, sample: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "their_reworder.py").write_text(REWORDER)
    monkeypatch.syspath_prepend(tmp_path)
    log = tmp_path / "log"
    other = {"name": "words", "use": "their_reworder", "options": {"log": str(log)}, "only_revises": True}
    for _ in range(2):
        at, result, _ = examine(sample, {"variations": [{"by": "words", "count": 1}]}, None, other)
        assert result["transfer"]["cells"]["held_out"]["by_words.1"]["right"] == 2
    assert log.read_text() == "asked\n" * 2
    rows = pq.read_table(at / "asked.parquet").to_pylist()
    assert rows[2]["question"] == "Take (1 + 2) mod 9."
    with pytest.raises(ValueError, match=r"evaluate\.variations: 'wrds' is no teacher of sample\.teachers"):
        Recipe.model_validate({**RECIPE, "evaluate": {"variations": [{"by": "wrds"}]}})


def test_forms_whose_names_make_one_file_lose_nothing(tmp_path: Path, sample: Path, monkeypatch) -> None:
    forms = "\n".join(
        f"{each} = Variation('{name}', lambda q, draw: with_text(q, q.question + '{mark}'))"
        for each, name, mark in (("A", "a b", "!"), ("B", "a_b", "!!"))
    )
    (tmp_path / "their_two_forms.py").write_text(
        f"from tracestill.data_pipeline.variations import Variation, with_text\n{forms}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    at, result, _ = examine(sample, {"variations": ["their_two_forms:A", "their_two_forms:B"]})
    assert {"a b", "a_b"} < set(result["transfer"]["cells"]["held_out"])
    rows = pq.read_table(at / "variations/a_b.parquet").to_pylist()
    assert sorted(row["variation"] for row in rows) == ["a b", "a b", "a_b", "a_b"]


def test_what_is_asked_besides_decides_whether_a_result_is_current(tmp_path: Path) -> None:
    source = file_of(tmp_path, "more.jsonl", [{"question": "1?", "answer": "1"}])
    (tmp_path / "their_forms.py").write_text(
        "from tracestill.data_pipeline.variations import Variation\nMINE = Variation('mine', lambda q, draw: None)\n"
    )

    def config() -> dict:
        data = {**RECIPE, "evaluate": {"variations": ["their_forms:MINE"], "also": {"more": {"source": source}}}}
        recipe = Recipe.model_validate(data)
        assert own_modules_of(recipe)["evaluate.variations.use.0"] == "their_forms"
        return RunDirectory(tmp_path / "run", recipe).evaluate_stage("traces")[0]

    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(tmp_path)
        first = config()
        assert first == config()
        Path(source).write_text('{"question": "2?", "answer": "2"}\n')
        second = config()
        (tmp_path / "their_forms.py").write_text((tmp_path / "their_forms.py").read_text() + "\n")
        third = config()
    assert first != second != third


@needs_data
def test_recipes_gsm8k_asks_the_published_files_as_they_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(DATA.parent)
    recipe = load_recipe(ROOT / "recipes/gsm8k.yaml")
    assert all(Path(file.path).exists() for file in recipe.questions.all_files())
    tasks = {name: further(name, config, recipe.seed) for name, config in recipe.evaluate.also.items()}
    assert {name: (task.counts["in"], task.counts["used"]) for name, task in tasks.items()} == {
        "svamp": (1000, 200),
        "multiarith": (600, 200),
    }
    assert all(number(each.gold) is not None for task in tasks.values() for each in task.questions)


def test_a_verifier_that_is_not_allowed_is_refused_before_anybody_is_asked(tmp_path: Path, sample: Path) -> None:
    rows = [{"question": "Run?", "answer": "1", "verifier": "code"}]
    also = {"run": {"source": file_of(tmp_path, "run.jsonl", rows)}}
    student = Student()
    with pytest.raises(InputError, match="code runs programs"):
        examine(sample, {"also": also}, student)
    assert len(student.queries) == 2

"""What a later round is as a recipe, and rounds whose first traces stand in a file."""

import json
import random
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rounds_support import begin, fake, recipe
from typer.testing import CliRunner

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.stage import read_manifest
from tracestill.launch import cli
from tracestill.launch.rounds import recipes, run_rounds
from tracestill.launch.rounds.recipes import recipe_of
from tracestill.trainer.recipe.recipe import dump_recipe

ROOT = Path("runs/x")


def test_round_0_is_the_recipe_itself():
    asked = recipe({"keep": 0.3})
    found = recipe_of(ROOT, asked, 0)
    assert found.model_dump(exclude={"name", "rounds"}) == asked.model_dump(exclude={"name", "rounds"})
    assert (found.name, found.rounds) == ("mini-0", None)


def test_a_later_round_replays_the_student_beside_the_first_teachers():
    found = recipe_of(ROOT, recipe({"keep": 0.3}), 2, ["solver"])
    assert [each.name for each in found.sample.teachers] == ["solver", "student-1"]
    assert found.questions.files[0].path == "runs/x/rounds/2/written/traces.parquet"
    parts = found.plan.mixture.parts
    assert {name: part.share for name, part in parts.items()} == {"first": 0.3, "rest": 0.7}
    assert parts["first"].where == {"teacher": ("solver",)}
    assert recipe_of(ROOT, recipe({"keep": None}), 2, ["solver"]).plan.mixture is None
    assert [each.name for each in recipe_of(ROOT, recipe({"keep": 0}), 2).sample.teachers] == ["student-1"]


def test_only_the_first_teachers_traces_are_revised_unless_a_critic_is_named():
    sample = {"teachers": [{"name": "a"}, {"name": "b", "only_revises": True}], "revise": {"teacher": "b"}}
    found = recipe_of(ROOT, recipe({}, sample=sample), 1, ["a", "b"])
    assert found.sample.revise.of == ("a",)
    alone = recipe_of(ROOT, recipe({"keep": 0}, sample=sample), 1)
    assert (alone.sample.revise, [each.name for each in alone.sample.teachers]) == (None, ["student-0"])
    critic = {"kind": "critique_revise", "critic": "b"}
    found = recipe_of(ROOT, recipe(critic, sample={"teachers": sample["teachers"]}), 3, ["a"])
    assert (found.sample.revise.teacher, found.sample.revise.of) == ("b", ("student-2",))
    alone = recipe_of(ROOT, recipe({**critic, "keep": 0}, sample={"teachers": sample["teachers"]}), 3)
    assert [each.name for each in alone.sample.teachers] == ["student-2", "b"]


def test_keep_0_asks_the_first_teachers_for_no_trace_and_keeps_who_judges_and_rewords():
    """A judge may be one of those that answer in round 0."""
    teachers = [{"name": name} for name in ("a", "judge", "editor", "b")]
    others = {"verify": {"use": "judge", "judge": "judge"}, "evaluate": {"variations": {"use": [{"by": "editor"}]}}}
    found = recipe_of(ROOT, recipe({"keep": 0}, sample={"teachers": teachers}, **others), 1).sample.teachers
    assert [(each.name, each.only_revises) for each in found] == [
        ("student-0", False),
        ("judge", True),
        ("editor", True),
    ]


@pytest.mark.parametrize("keep", [0.3, None, 0])
def test_what_the_recipe_of_a_later_round_cannot_be_is_said_before_the_first(tmp_path, monkeypatch, keep):
    """Here the path of the traces that a student is to write, of which a recipe cannot speak."""
    told = fake(monkeypatch)
    asked = begin(tmp_path / "line\nbreak", recipe({"keep": keep}))
    with pytest.raises(InputError, match=r"round 1: questions\.files\.0\.path: expected one line"):
        asked.check()
    assert (told, list(asked.root.iterdir())) == ([], [])
    begin(tmp_path / "run", recipe({"keep": keep})).check()


def test_the_mixture_of_a_later_round_is_looked_at_before_the_first(tmp_path, monkeypatch):
    fake(monkeypatch)
    monkeypatch.setattr(recipes, "mixture", lambda keep, first: {"parts": {recipes.REST: {"share": keep, "where": {
        "teacher": first}}}})  # fmt: skip
    with pytest.raises(InputError, match=r"round 1: plan\.mixture: parts\.rest: is what no other part matches"):
        begin(tmp_path / "run", recipe({"keep": 0.3})).check()
    begin(tmp_path / "run", recipe({"keep": None})).check()


@pytest.fixture
def file_of_sums(tmp_path):
    rows, drawn = [], random.Random(0)
    for _ in range(40):
        a, b, c = (drawn.randrange(10) for _ in range(3))
        trace = f"{a}+{b}={a + b}. {a + b}+{c}={a + b + c}. {a + b + c} mod 10={(a + b + c) % 10}."
        question = f"What is ({a} + {b} + {c}) mod 10?"
        rows.append(
            {
                "question": question,
                "gold": str((a + b + c) % 10),
                "reasoning": trace,
                "answer": f"The answer is {(a + b + c) % 10}.",
            }
        )
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "sums.jsonl"


def test_traces_in_a_file_are_followed_by_a_students(file_of_sums, tmp_path, monkeypatch):
    fake(monkeypatch)
    questions = {"source": str(file_of_sums), "test": 4, "fields": {"reasoning": "reasoning", "trace": "answer"}}
    rounds = {"count": 1, "stop": {"coverage": None}}  # a student that checks its sums has other strategies
    asked = recipe(rounds, questions=questions, sample={"teachers": [{"name": "human", "use": "recorded"}]})
    result = begin(tmp_path / "run", asked).run()
    assert result["stopped"] is None
    held = [pq.read_table(tmp_path / f"run/rounds/{number}/sample/questions.parquet") for number in (0, 1)]
    columns = ["question_id", "split", "gold"]
    assert held[0].select(columns).to_pylist() == held[1].select(columns).to_pylist(), "the splits stay"
    teachers = [row["teacher"] for row in pq.read_table(tmp_path / "run/rounds/1/sample/records.parquet").to_pylist()]
    assert teachers.count("student-0") == result["rounds"][1]["written"]["out"]
    counts = read_manifest(tmp_path / "run/rounds/1/sample")["counts"]["source"]
    assert counts["in"] == counts["used"] + counts["joined"] + counts["duplicates"] + counts["unused"]


def test_by_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fake(monkeypatch)
    Path("r.yaml").write_text(dump_recipe(recipe({"count": 1})))

    def invoke(*words):
        return CliRunner().invoke(cli.app, [str(word) for word in words], env={"COLUMNS": "100"})

    said = invoke("run", "r.yaml")
    assert said.exit_code == 2
    assert "r.yaml: has rounds, which `tracestill rounds` runs; each is a run of its own" in said.stderr
    done = invoke("rounds", "r.yaml", "--set", "rounds.stop=null")
    assert done.exit_code == 2, "a block"
    done = invoke("rounds", "r.yaml")
    assert done.exit_code == 0, done.output
    assert "best: round 0, 50.0%" in done.stderr
    assert "chosen by test questions" in done.stderr
    assert Path("runs/mini/report/report.json").is_file()
    assert json.loads(Path("runs/mini/report/report.json").read_text())["rounds"]["best"] == 0
    shutil.rmtree("runs/mini/report")  # as where it was ended before
    with monkeypatch.context() as patch:
        patch.setattr(run_rounds, "Rounds", lambda *_: pytest.fail("refused before anything is loaded"))
        changed = invoke("rounds", "r.yaml", "--set", "rounds.samples=3")
    assert changed.exit_code == 2
    assert "differs in rounds.samples" in changed.stderr
    assert invoke("inspect", "runs/mini/rounds/1").exit_code == 0
    assert invoke("rounds", "runs/mini/rounds/1").exit_code == 2
    other = Path("runs/mini/rounds/1/recipe.yaml").read_text()  # the directory of a run of another kind
    kept = invoke("rounds", "r.yaml", "--run-dir", "runs/mini/rounds/1")
    assert kept.exit_code == 2
    assert "holds another recipe" in kept.stderr
    assert Path("runs/mini/rounds/1/recipe.yaml").read_text() == other

"""`tracestill init`: says what a file holds, and the recipe that it writes samples all of it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from fake_run import summary
from typer.testing import CliRunner

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.stage import read_manifest
from tracestill.data_pipeline.sampling.questions import make_questions
from tracestill.data_pipeline.sampling.sample import run
from tracestill.launch.cli import app
from tracestill.launch.commands.init import init_command, init_recipe
from tracestill.launch.commands.init.init_recipe import Machine
from tracestill.trainer.recipe.recipe import dump_recipe, load_recipe

PLACES = ["apples", "pears", "plums", "figs", "dates", "limes", "nuts", "eggs", "cakes", "pies", "rolls", "buns"]


def rows(count: int = 40) -> list[dict]:
    """Traces in R1's form, those of the last ten questions by another hand; two cut off, one with a wrong answer."""
    found = []
    for n in range(count):
        what, k = PLACES[n % 12], n + 2
        thought = f"First count the {what}: {k} + {k} = {2 * k}.\nLet me check: {2 * k} - {k} = {k}."
        answer = 7 if n == 5 else 2 * k
        raw = f"<think>\n{thought}\n</think>\n\nThere are \\boxed{{{answer}}} {what}."
        asked = f"{PLACES[n // 12]} box {n}: how many {what} are there, if {k} {what} are put to {k} others?"
        found.append({"question": asked, "response": raw if n not in (7, 8) else raw[:60], "gold": 2 * k})
    return found


def init(source: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch, **more: object) -> None:
    monkeypatch.setattr(init_recipe, "this_machine", lambda: Machine(0, 2))
    given = {"teacher": "r1", "decontaminate": None, "replace": False, **more}
    init_command.init(str(source), recipe, **given)  # type: ignore[arg-type]


def test_a_recipe_is_written_that_samples_what_the_file_holds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, path = tmp_path / "my traces.jsonl", tmp_path / "mine.yaml"
    source.write_text("\n".join([*map(json.dumps, rows()), '{"question": "no more"}', "{"]))
    init(source, path, monkeypatch)
    told = capsys.readouterr().out
    for said in (
        f"{source}: read as question/response/gold",
        "42 rows: 40 questions",
        "split: 36 to train on, 4 held out (test)",
        "unfinished 2, such as",
        f"not_json 1, such as {source}:42: not valid JSON",
        f"no_trace 1, such as {source}:41: 'response' must be a text, got None",
        "38 traces, read by think+boxed 38; 97.4% of their answers are the gold ones",
    ):
        assert said in told
    assert told.count("   trace     First count the ") == 3
    recipe = load_recipe(path)
    resolved = tmp_path / "resolved.yaml"  # as a run keeps it: nulls are no orders
    resolved.write_text(dump_recipe(recipe), encoding="utf-8")
    recipe = load_recipe(resolved)
    text = path.read_text(encoding="utf-8")
    assert "#   " + str(source) in text
    assert "# they read: think+boxed 38" in text
    assert recipe.sample.teachers[0].name == "r1"
    run(recipe.questions, recipe.sample, seed=recipe.seed, directory=tmp_path / "s", journal=tmp_path / "j.sqlite")
    manifest = read_manifest(tmp_path / "s")
    assert manifest is not None
    assert (manifest["counts"]["out"], manifest["counts"]["readers"]) == (38, {"think+boxed": 38})
    line = summary("sample", tmp_path / "s")
    assert line.endswith(
        "; rejected: unfinished 2; questions rejected: no trace 1, not json 1; read by: think+boxed 38"
    )
    with pytest.raises(InputError, match=r"mine\.yaml: is there already"):
        init(source, path, monkeypatch)
    benchmark = tmp_path / "bench.jsonl"
    benchmark.write_text("\n".join(json.dumps({"question": row["question"]}) for row in rows()[:8]))
    init(source, path, monkeypatch, replace=True, decontaminate=[str(benchmark)])
    assert load_recipe(path).questions.decontaminate == (str(benchmark),)
    assert "contaminated " in capsys.readouterr().out


def test_fields_of_other_names_are_told_to_it_and_go_into_the_recipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, path = tmp_path / "a.jsonl", tmp_path / "a.yaml"
    names = {"question": "problem_text", "response": "r1_output", "gold": "meta: gold"}
    source.write_text("\n".join(json.dumps({names[k]: v for k, v in row.items()}) for row in rows()))
    with pytest.raises(InputError, match=r"--field question=NAME$"):
        init(source, path, monkeypatch)
    with pytest.raises(InputError, match="unknown name 'qestion'; did you mean 'question'"):
        init(source, path, monkeypatch, field=["qestion=problem_text"])
    given = ["question=problem_text", "trace=r1_output", "gold=meta: gold"]
    with pytest.raises(InputError, match="expected NAME=FIELD"):
        init(source, path, monkeypatch, field=["question"])
    init(source, path, monkeypatch, field=given)
    assert f"{source}: read as problem_text/r1_output/meta: gold (questions.fields)" in capsys.readouterr().out
    fields = load_recipe(path).questions.fields
    assert (fields.question, fields.trace, fields.gold) == ("problem_text", "r1_output", "meta: gold")


def test_without_gold_answers_it_claims_no_share_of_right_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "a.jsonl"
    found = [{name: value for name, value in row.items() if name != "gold"} for row in rows()]
    source.write_text("\n".join(map(json.dumps, [*found, found[0]])))
    init(source, tmp_path / "a.yaml", monkeypatch)
    told = capsys.readouterr().out
    assert "the gold ones" not in told + (tmp_path / "a.yaml").read_text()
    assert "1 further traces of these" in told
    assert "there are no gold answers: what most traces of a question say is taken for it (--field gold=NAME" in told


def test_a_student_fits_the_machine_and_the_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, sizes = tmp_path / "a.jsonl", {}
    for name, times, machine in (("short", 1, Machine(0, 2)), ("long", 300, Machine(0, 2)), ("gpu", 1, Machine(8, 64))):
        lines = [{**row, "response": row["response"].replace("check: ", "check: " + f"{row['gold']} is it. " * times)}
                 for row in rows()]  # fmt: skip
        source.write_text("\n".join(map(json.dumps, lines)))
        monkeypatch.setattr(init_recipe, "this_machine", lambda machine=machine: machine)
        init_command.init(str(source), tmp_path / f"{name}.yaml", "r1")
        recipe = load_recipe(tmp_path / f"{name}.yaml")
        assert recipe.student.config is not None
        sizes[name] = recipe.student.config["hidden_size"], recipe.student.config["max_position_embeddings"]
        assert recipe.plan.capacity >= sizes[name][1]
    assert sizes["short"][1] < 1000 < sizes["long"][1]
    assert sizes["gpu"][0] > sizes["short"][0]


def test_what_is_no_file_and_what_holds_no_traces_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="digit_sum: is no file, no directory"):
        init(Path("digit_sum"), tmp_path / "a.yaml", monkeypatch)
    source, more = tmp_path / "q.jsonl", {"thing_1": "a", "thing_2": "b"}
    source.write_text("\n".join(json.dumps({"question": f"{n} times {n}?", "gold": n * n, **more}) for n in range(20)))
    init(source, tmp_path / "q.yaml", monkeypatch)
    told = capsys.readouterr().out
    assert "it holds no traces: name under sample.teachers who answers" in told
    assert "no traces; of these fields nothing is known: thing_1, thing_2\n" in told
    assert "NAME_A_TEACHER" in (tmp_path / "q.yaml").read_text()


def test_the_command_line_names_it_and_bad_input_ends_with_2(tmp_path: Path) -> None:
    found = CliRunner().invoke(app, ["init", str(tmp_path / "none.jsonl"), "--recipe", str(tmp_path / "x.yaml")])
    assert found.exit_code == 2
    assert not (tmp_path / "x.yaml").exists()


@pytest.mark.parametrize("name", ["2024", "true", "1e3"])
def test_a_name_that_yaml_would_read_as_a_number_stays_a_name(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / f"{name}.jsonl"
    source.write_text("\n".join(map(json.dumps, rows())))
    init(source, tmp_path / f"{name}.yaml", monkeypatch)
    assert load_recipe(tmp_path / f"{name}.yaml").name == name


def test_traces_that_no_reader_reads_end_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "a.jsonl"
    source.write_text(
        "\n".join(json.dumps({"question": f"{n}?", "gold": n, "response": "Who knows"}) for n in range(9))
    )
    with pytest.raises(InputError, match=r"a\.jsonl:\d: no reader finds .* None of 9 traces can be used \(unread 9\)"):
        init(source, tmp_path / "a.yaml", monkeypatch)


@pytest.mark.parametrize("held", ["validation", ""])
def test_a_recipe_is_valid_where_no_row_is_a_test_row(
    tmp_path: Path, held: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "a.jsonl"
    source.write_text("\n".join(json.dumps({**row, "split": "train" if n % 4 else held or "train"})
                                for n, row in enumerate(rows())))  # fmt: skip
    init(source, tmp_path / "a.yaml", monkeypatch)
    recipe = load_recipe(tmp_path / "a.yaml")
    found = make_questions(recipe.questions, 0, lambda said: None)
    assert Counter(each.split for each in found.questions) == ({"train": 30, "test": 10} if held else {"train": 40})


def test_a_recipe_asks_for_near_duplicates_only_where_they_can_be_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "mine.jsonl"
    source.write_text("\n".join(map(json.dumps, rows())))
    for name, there in (("with.yaml", True), ("without.yaml", False)):
        monkeypatch.setattr(init_recipe, "knows_near", lambda there=there: there)
        init(source, tmp_path / name, monkeypatch)
        found = load_recipe(tmp_path / name).questions.near_duplicates.policy
        assert (found == "drop") == there

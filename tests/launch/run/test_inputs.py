"""Runs whose inputs were changed, moved or deleted by hand; arms that share data; modules that are not to be had."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from fake_run import RECIPE, claim, mini_recipe, run_data_stages, write_evaluation, write_train
from typer.testing import CliRunner

from tracestill.data_pipeline.base import own_modules
from tracestill.data_pipeline.base.stage import differences, identity, is_current
from tracestill.launch import cli
from tracestill.launch.run.runner import is_due
from tracestill.launch.run.stages import plan_works
from tracestill.trainer.recipe.recipe import load_recipe
from tracestill.trainer.recipe.run_directory import RunDirectory

WEIGHTS = "from tracestill.trainer.weighting import SpanWeighting\nclass Early(SpanWeighting):\n    pass\n"


@pytest.fixture(autouse=True)
def _apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = own_modules.folder()
    yield
    own_modules.search(before)
    sys.modules.pop("their_weights", None)


def invoke(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(cli.app, [str(a) for a in arguments], env={"COLUMNS": "200"})
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


def write_recipe(path: Path, **changes: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({**RECIPE, **changes}))
    return path


def state_of(output: str) -> dict[str, str]:
    """Label -> the last that was said of it."""
    return {line[:24].strip(): line[24:].strip() for line in output.splitlines() if not line.startswith("next")}


def test_records_edited_by_hand_are_encoded(tmp_path):
    recipe = write_recipe(tmp_path / "mini.yaml")
    invoke("run", recipe, "--until", "plan")
    path = tmp_path / "runs/mini/select/records.parquet"
    kept = pq.read_table(path)
    pq.write_table(kept.slice(0, kept.num_rows - 3), path)
    assert "needs 'tokenizer', which is out of date: select/records.parquet changed" in invoke("plan", recipe, code=2)
    found = state_of(invoke("run", recipe, "--until", "plan"))
    assert found["select"] == "up to date, skipped; changed since, and read as it is now: records.parquet"
    assert "320 tokens" in found["tokenizer"]
    assert f"{kept.num_rows - 3} documents" in found["encode traces"]
    assert all("up to date" in said for said in state_of(invoke("run", recipe, "--until", "plan")).values())
    found = invoke("run", recipe, "--until", "select", "--set", "select.max_per_question=1", "--replace")
    assert "records.parquet, changed since, stays in runs/mini/select.edited-1" in found.replace("\n", "")
    assert pq.read_table(tmp_path / "runs/mini/select.edited-1/records.parquet").num_rows == kept.num_rows - 3


def trained(tmp_path: Path, **changes: object) -> RunDirectory:
    run = claim(tmp_path / "run", mini_recipe(arms={}, **changes))
    run_data_stages(run)
    write_train(run, "traces")
    return run


def model(path: Path, text: str) -> Path:
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text('{"model_type": "llama"}')
    (path / "model.safetensors").write_text(text)
    return path


def test_weights_replaced_in_place_train_anew_and_moved_ones_do_not(tmp_path):
    student = {"pretrained": str(model(tmp_path / "base", "first"))}
    reference = {"use": "excess_loss", "options": {"reference": str(model(tmp_path / "good", "good")), "share": 0.5}}
    run = trained(tmp_path, student=student, weighting=reference)

    def current(held: RunDirectory = run) -> bool:
        return is_current(held.stage("traces", "train"), "train", *held.train_stage("traces"))

    assert current()
    model(tmp_path / "base", "first")
    (tmp_path / "base/README.md").write_text("of no matter")
    assert current()
    for folder, text in (("base", "other"), ("good", "evil")):
        before = (tmp_path / folder / "model.safetensors").read_text()
        model(tmp_path / folder, text)
        assert not current()
        assert "model.safetensors" in next(w for w in plan_works(run) if w.stage == "train").why_redone()
        model(tmp_path / folder, before)
        assert current()
    (tmp_path / "base").rename(tmp_path / "moved")
    again = run.recipe.model_copy(
        update={"student": run.recipe.student.model_copy(update={"pretrained": tmp_path / "moved"})}
    )
    assert current(RunDirectory(run.root, again)), "another path, the same content"
    assert current(), "a base that has gone is no reason to train again"


def test_an_own_weighting_is_found_beside_the_recipe_and_known_by_content(tmp_path):
    folder = tmp_path / "recipes"
    recipe = write_recipe(folder / "own.yaml", weighting={"use": "their_weights:Early"}, arms={})
    (folder / "their_weights.py").write_text(WEIGHTS)
    run = RunDirectory.create(tmp_path / "run", load_recipe(recipe))
    assert (run.root / "recipe_folder.txt").read_text().strip() == str(folder)
    own_modules.search(None)
    first = identity("train", *train_inputs(RunDirectory.open(run.root)))  # as ranks do, which start elsewhere
    (folder / "their_weights.py").write_text(WEIGHTS + "# changed\n")
    second = identity("train", *train_inputs(RunDirectory.open(run.root)))
    assert differences(first, second) == ["weighting.module (their_weights.py)"]
    assert not (claim(tmp_path / "plain").root / "recipe_folder.txt").exists(), "nothing of its own, nothing recorded"


def train_inputs(run: RunDirectory) -> tuple[dict, dict]:
    return run.train_stage("traces")[0], {}


@pytest.mark.parametrize("use", ["their_weights", "their_weights.Early"])
def test_a_weighting_without_a_class_is_told_how_to_name_one(tmp_path, use):
    (tmp_path / "their_weights.py").write_text(WEIGHTS)
    said = invoke("plan", write_recipe(tmp_path / "r.yaml", weighting={"use": use}), code=2)
    name = use.partition(".")[2] or "MyWeighting"
    assert f"'their_weights' is a module: name its class, as in their_weights:{name}" in said.replace("\n", " ")


def test_looking_at_a_finished_run_needs_nothing_that_its_recipe_names(tmp_path):
    folder = tmp_path / "recipes"
    (folder).mkdir()
    (folder / "their_weights.py").write_text(WEIGHTS)
    shutil.copy(Path(__file__).parents[2] / "their_tasks/noted.py", folder / "their_task.py")
    questions = {"source": "their_task", "train": 12, "test": 4}
    teachers = {"teachers": [{"name": "t"}]}
    more = {"questions": questions, "sample": teachers, "weighting": {"use": "their_weights:Early"}}
    recipe = write_recipe(folder / "own.yaml", **more, arms={})
    run = RunDirectory.create(tmp_path / "run", load_recipe(recipe))
    run_data_stages(run)
    write_train(run, "traces")
    write_evaluation(run, "traces", 0.5)
    shutil.copytree(run.root, tmp_path / "other")
    shutil.rmtree(folder)
    for name in ("their_weights", "their_task"):
        sys.modules.pop(name, None)
    assert "written" in invoke("report", "run")
    found = json.loads((run.root / "report/report.json").read_text())
    assert found["missing"] == []
    assert found["arms"]["traces"]["evaluation"]["accuracy"] == 0.5
    said = invoke("inspect", "run")
    assert "weights are their_weights:Early's, which is not imported to look" in said
    assert "plan of epoch 0" in said
    assert "recipe: the same" in invoke("diff", "run", "other")
    assert not {"their_weights", "their_task"} & sys.modules.keys()
    said = invoke("train", "run", code=2).replace("\n", " ")
    assert "no module 'their_weights' on Python's path nor in the recipe's folder" in said


def test_looking_imports_nothing_of_a_strangers(tmp_path):
    run = claim(tmp_path / "run", mini_recipe(arms={}))
    run_data_stages(run)
    text = (run.root / "recipe.yaml").read_text().replace("use: span", "use: their_weights:Early")
    (run.root / "recipe.yaml").write_text(text)
    (tmp_path / "their_weights.py").write_text("open('imported', 'w')\n" + WEIGHTS)
    (run.root / "recipe_folder.txt").write_text(str(tmp_path))
    invoke("inspect", "run")
    invoke("report", "run")
    invoke("diff", "run", "run")
    assert not (tmp_path / "imported").exists()


def test_a_tokenizer_and_questions_that_are_gone_do_not_hinder_the_report(tmp_path):
    questions = [json.dumps({"question": f"How much is {n} and {n}?", "gold": 2 * n}) for n in range(16)]
    (tmp_path / "q.jsonl").write_text("\n".join(questions))
    (tmp_path / "their_task.py").write_text((Path(__file__).parents[2] / "their_tasks/noted.py").read_text())
    more = {"sample": {"teachers": [{"name": "t", "use": "their_task"}]}, "arms": {}}
    recipe = write_recipe(tmp_path / "a.yaml", questions={"source": "q.jsonl", "train": 12, "test": 4}, **more)
    invoke("run", recipe, "--until", "encode", "--run-dir", "first")
    shutil.move(tmp_path / "first/tokenizer", tmp_path / "tokenizer")
    shutil.rmtree(tmp_path / "first")
    invoke("run", recipe, "--until", "plan", "--run-dir", "run", "--set", "encode.tokenizer={path: tokenizer}")
    for path in (tmp_path / "q.jsonl", tmp_path / "their_task.py"):
        path.unlink()
    shutil.rmtree(tmp_path / "tokenizer")
    sys.modules.pop("their_task", None)
    invoke("report", "run")
    missing = json.loads((tmp_path / "run/report/report.json").read_text())["missing"]
    assert missing == ["train traces", "evaluate traces"]


# Arms, and disk


def test_arms_with_equal_data_share_one_token_store_and_plan(tmp_path):
    arms = {
        "hot": {"train": {"lr": 0.1}},
        "bare": {"encode": {"trace": "drop"}},
        "bare_hot": {"encode": {"trace": "drop"}, "train": {"lr": 0.1}},
        "long": {"train": {"steps": 80}},
        "wide": {"plan": {"capacity": 300}},
        "raw": {"select": {"policy": "none"}},
    }
    recipe = write_recipe(tmp_path / "mini.yaml", arms=arms)
    invoke("run", recipe, "--until", "plan")
    stores = sorted(str(path.parent.relative_to(tmp_path / "runs/mini")) for path in tmp_path.rglob("tokens.arrow"))
    assert stores == [f"arms/{arm}/encode" for arm in ("bare", "raw", "traces", "wide")]
    plans = sorted(path.parent.name for path in (tmp_path / "runs/mini/arms").glob("*/plan"))
    assert plans == ["bare", "long", "raw", "traces", "wide"]
    run = RunDirectory.open(tmp_path / "runs/mini")
    assert run.stage("bare_hot", "plan") == run.root / "arms/bare/plan"
    assert run.stage("bare_hot", "train") == run.root / "arms/bare_hot/train"
    assert state_of(invoke("plan", recipe, "--arm", "bare_hot")) == {"plan bare": "up to date, skipped"}
    # a run of before sharing: its own stores are left alone, and what was trained on them stays
    held = identity("train", *run.train_stage("hot"))
    shutil.copytree(run.root / "arms/traces/encode", run.root / "arms/hot/encode")
    assert identity("train", *run.train_stage("hot")) == held


def test_an_arm_encodes_the_selection_that_it_shares_with_another_arm(tmp_path):
    arms = {"b": {"select": {"max_per_question": 1}}, "c": {"select": {"max_per_question": 1}}}
    arms["c"]["encode"] = {"trace": "drop"}
    run = claim(tmp_path / "run", mini_recipe(arms=arms))
    works = {work.label: work for work in plan_works(run)}
    selected = {name: works[f"encode {name}"].inputs["select"] for name in ("traces", "b", "c")}
    assert selected == {"traces": run.root / "select", "b": run.root / "arms/b/select", "c": run.root / "arms/b/select"}


def test_files_deleted_to_make_room_are_made_again_where_somebody_reads_them(tmp_path):
    run = trained(tmp_path)
    write_evaluation(run, "traces", 0.5)
    works = {work.stage: work for work in plan_works(run)}
    order = list(works.values())

    def due() -> list[str]:
        return [work.stage for at, work in enumerate(order) if is_due(work, order[at + 1 :])]

    assert due() == ["report"]
    shutil.rmtree(run.stage("traces", "train") / "export")
    (run.root / "select/records.parquet").unlink()
    assert due() == ["report"], "nobody reads them"
    assert is_due(works["train"], []), "asked for by name"
    assert state_of(invoke("encode", "run"))["encode traces"] == "up to date, skipped"
    shutil.rmtree(run.stage("traces", "evaluate"))
    assert due() == ["train", "evaluate", "report"]
    shutil.rmtree(run.root / "tokenizer")
    assert due()[:2] == ["select", "tokenizer"]
    assert "needs 'select', which is out of date: records.parquet is missing" in invoke("encode", "run", code=2)


def test_keep_0_said_later_frees_the_disk(tmp_path):
    run = trained(tmp_path)
    folder = run.stage("traces", "train") / "checkpoints/step-000040"
    folder.mkdir(parents=True)
    (folder / "rank-00000.safetensors").write_bytes(bytes(20_000_000))
    said = state_of(invoke("train", "run", "--set", "train.keep=0"))["train traces"]
    assert said == "up to date, skipped; its checkpoints are deleted (train.keep: 0), 0.02 GB"
    assert not folder.parent.exists()
    assert RunDirectory.open(run.root).recipe.train.keep == 0

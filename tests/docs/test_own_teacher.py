"""The teacher of one's own in docs/teachers.md, as it stands there, asked by the recipe that stands beside it."""

import json

import pyarrow.parquet as pq
import yaml
from doc_pages import blocks
from fake_run import RECIPE, claim, run_data_stages

from tracestill.data_pipeline.base.stage import read_manifest
from tracestill.trainer.recipe.recipe import build

PAGE = [each for each in blocks() if each.page == "teachers.md"]
(MODULE,) = [each.text for each in PAGE if each.language == "python" and "class Teacher:" in each.text]
(GIVEN,) = [each.text for each in PAGE if each.language == "yaml" and "use: my_teacher" in each.text]


def test_it_answers_and_what_it_gets_wrong_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_teacher.py").write_text(MODULE)
    rows = [{"question": f"How much is {a} + {a + 8}?", "gold": str(2 * a + 8)} for a in range(11, 51)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = build({**RECIPE, "arms": {}, **yaml.safe_load(GIVEN)}, where="docs/teachers.md")
    run = claim(tmp_path / "run", recipe)
    run_data_stages(run)
    assert read_manifest(run.stage("traces", "sample"))["counts"]["asked"] == 35 * 4 + 5
    every = pq.read_table(run.stage("traces", "sample") / "records.parquet").to_pylist()
    wrong = sum(row["answer"] != row["gold"] for row in every) / len(every)
    assert 0.15 < wrong < 0.45, "its option is heard"
    kept = pq.read_table(run.stage("traces", "select") / "records.parquet").to_pylist()
    assert {row["teacher"] for row in kept} == {"adder"}
    assert all(row["answer"] == row["gold"] for row in kept)
    assert len(kept) >= 30

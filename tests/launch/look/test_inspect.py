"""What ``inspect`` shows: documents by number or by record, as tokens or as text with what gave each kind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from fake_run import RECIPE
from typer.testing import CliRunner

from tracestill.data_pipeline.base.schema import Record, Span
from tracestill.data_pipeline.base.stage import read_manifest
from tracestill.data_pipeline.plan.plan import load_plan
from tracestill.data_pipeline.segmentation import SegmentConfig
from tracestill.data_pipeline.tokens.store import TokenStore
from tracestill.launch import cli
from tracestill.launch.look import inspect_run
from tracestill.launch.look.inspect_text import text_lines
from tracestill.trainer.recipe.run_directory import RunDirectory

RUN = "runs/mini"
RULES = SegmentConfig(by="rules")


def invoke(*arguments: object):
    return CliRunner().invoke(cli.app, [str(a) for a in arguments], env={"COLUMNS": "200"})


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with a run that has encoded its data."""
    folder = tmp_path_factory.mktemp("inspect")
    recipe = {**RECIPE, "encode": {**RECIPE.get("encode", {}), "two_task": {}}, "arms": {}}
    (folder / "mini.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        result = invoke("run", folder / "mini.yaml", "--until", "encode")
        assert result.exit_code == 0, result.stderr
    return folder


@pytest.fixture(autouse=True)
def inside(root, monkeypatch):
    monkeypatch.chdir(root)


def of_stage(stage: str, file: str) -> Path:
    return RunDirectory.open(Path(RUN)).stage("traces", stage) / file


def titles(text: str) -> list[str]:
    return [line for line in text.splitlines() if ", arm traces, id " in line]


def test_several_documents_in_one_call():
    found = invoke("inspect", RUN, "--document", 2, "--documents", 3).stdout
    store = TokenStore(of_stage("encode", "tokens.arrow"))
    assert [line.split(",")[0] for line in titles(found)] == [f"document {d} of {len(store)}" for d in (2, 3, 4)]
    assert [line.split("id ")[1].split(",")[0] for line in titles(found)] == store.ids[2:5]
    rest = titles(invoke("inspect", RUN, "--document", len(store) - 2, "--documents", 20).stdout)
    assert len(rest) == 2


def test_all_documents_of_a_record():
    store = TokenStore(of_stage("encode", "tokens.arrow"))
    record = store.ids[4].partition("#")[0]
    found = titles(invoke("inspect", RUN, "--record", record).stdout)
    assert [line.split("id ")[1].split(",")[0] for line in found] == [f"{record}#trace", f"{record}#answer"]
    test = TokenStore(of_stage("encode", "test.arrow")).ids[0].partition("#")[0]
    assert titles(invoke("inspect", RUN, "--record", test).stdout)[0].startswith("test document 0 of")
    assert invoke("inspect", RUN, "--record", record, "--documents", 2).exit_code == 2


def test_a_record_weight_is_told_where_it_is_not_1(monkeypatch):
    class Weighed(TokenStore):
        def __init__(self, *given):
            super().__init__(*given)
            self.weights = np.where(np.arange(len(self)) == 3, np.float32(2.5), np.float32(1))

    monkeypatch.setattr(inspect_run, "TokenStore", Weighed)
    found = titles(invoke("inspect", RUN, "--document", 2, "--documents", 3).stdout)
    assert [line.endswith(" tokens, record weight 2.5") for line in found] == [False, True, False]
    assert not any("record weight" in line for line in (found[0], found[2]))


def test_a_record_without_documents_is_told_why():
    rejected = pq.read_table(of_stage("select", "rejected.parquet")).to_pylist()
    assert rejected, "the run rejects nothing; the test needs a record that it does"
    result = invoke("inspect", RUN, "--record", rejected[0]["record_id"])
    assert result.exit_code == 2
    assert f"select rejected it: {rejected[0]['reason']} ({rejected[0]['detail']})" in result.stderr
    result = invoke("inspect", RUN, "--record", "nobody")
    assert result.exit_code == 2
    assert "--record nobody: no record of this id; ids stand in" in result.stderr


def test_text_with_what_gave_each_kind():
    lines = invoke("inspect", RUN, "--text").stdout.splitlines()
    rows = pq.read_table(of_stage("select", "records.parquet")).to_pylist()
    records = {row["record_id"]: row for row in rows}
    record = records[titles("\n".join(lines))[0].split("id ")[1].partition("#")[0]]
    prompt = next(line for line in lines if line.startswith("prompt") and "?" in line)
    assert prompt.split(None, 1)[1].endswith(record["question"])
    by_teacher = [line for line in lines if line.endswith(f"[by the teacher {record['teacher']}]")]
    spans = record["spans"]
    assert len(by_teacher) == len(spans) > 1
    for line, span in zip(by_teacher, spans, strict=True):
        assert line.startswith(span["kind"])
        assert record["trace"][span["start"] : span["end"]].strip().replace("\n", "↵") in line
    assert not any("|" in line for line in lines if line.startswith(("plan ", "derive ")))


TRACE = "First find the sum: 3 + 4 = 7. Wait, is it? That was easy."


def test_rules_are_named_with_what_they_found():
    record = Record("r", "q", "How much?", "7", TRACE, "7", (), 1.0, "solver", "", 1.0, 0)
    texts = ["<s>", "How much?", "<think>", *TRACE, "</think>", "7", "</s>"]
    names = ["control", "prompt", "control", *["plan"] * len(TRACE), "control", "answer", "control"]
    kinds = ("plan", "derive", "check", "prose")
    assert list(text_lines(texts, names, record, kinds, RULES)) == [
        ("control", "<s>", ""),
        ("prompt", "How much?", ""),
        ("control", "<think>", ""),
        ("plan", "First find the sum:", "by rules: plan, found 'First'"),
        ("derive", "3 + 4 = 7.", "by rules: derive, found '3 + 4'"),
        ("check", "Wait, is it?", "by rules: check, found 'Wait'"),
        ("prose", "That was easy.", "by rules: no other holds"),
        ("control", "</think>", ""),
        ("answer", "7", ""),
        ("control", "</s>", ""),
    ]
    given = Record(*[*vars(record).values()][:6], (Span(0, len(TRACE), "plan"),), 1.0, "solver", "", 1.0, 0)
    assert ("plan", TRACE, "by the teacher solver") in list(text_lines(texts, names, given, kinds, RULES))
    cut = [*texts[:5], *texts[20:]], [*names[:5], *names[20:]]  # the middle of the trace is gone
    reason = "not as in its record: cut, changed by the tokenizer, or the record is gone"
    assert {why for _, _, why in text_lines(*cut, record, kinds, RULES)} == {"", reason}


def test_it_imports_no_torch():
    code = (
        "import sys\nfrom tracestill.launch import cli\n"
        f"sys.argv = ['tracestill', 'inspect', '{RUN}', '--text']\n"
        "try:\n    cli.main()\nexcept SystemExit as end:\n    assert end.code in (0, None), end.code\n"
        "heavy = {'torch', 'transformers', 'deepspeed', 'matplotlib'} & sys.modules.keys()\nassert not heavy, heavy"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert ", arm traces, id " in found.stdout


def test_text_of_a_document_shows_what_was_cut(tmp_path, monkeypatch):
    recipe = {**RECIPE, "encode": {**RECIPE.get("encode", {}), "granularity": "decisive"}, "arms": {}}
    (tmp_path / "mini.yaml").write_text(yaml.safe_dump(recipe))
    monkeypatch.chdir(tmp_path)
    assert invoke("run", tmp_path / "mini.yaml", "--until", "encode").exit_code == 0
    lines = invoke("inspect", RUN, "--text").stdout.splitlines()
    about = next(at for at, line in enumerate(lines) if line.startswith("granularity decisive: "))
    after = lines.index("after:")
    gone = [line.split()[1] for line in lines[about:after] if line.startswith("gone ")]
    assert {"plan", "prose"} <= set(gone)
    assert lines[about + 1].startswith("gone  plan       Order ")
    shown = [line.split()[0] for line in lines[after + 1 :] if line[:1].isalpha()]
    assert "derive" in shown
    assert not {"plan", "prose"} & set(shown)
    assert any("by the teacher" in line for line in lines[after:] if line.startswith("derive"))


def test_the_plan_and_the_weights_of_an_epoch(tmp_path, monkeypatch):
    """A mixture makes epochs differ, a schedule the weights."""
    monkeypatch.chdir(tmp_path)
    schedule = {"weights": {"answer": {"from": 1, "to": 3, "steps": 1000}}}
    recipe = {
        **{**RECIPE, "arms": {}, "weighting": {**RECIPE.get("weighting", {}), **schedule}},
        "train": {**{k: v for k, v in RECIPE["train"].items() if k != "steps"}, "epochs": 3},
        "plan": {**RECIPE["plan"], "order": {"by": "length", "mixing": 0.3}},
    }
    Path("mini.yaml").write_text(yaml.safe_dump(recipe))
    result = invoke("run", "mini.yaml", "--until", "plan")
    assert result.exit_code == 0, result.stderr
    run = RunDirectory.open(Path(RUN))
    manifest = read_manifest(run.stage("traces", "plan"))
    lines = {epoch: invoke("inspect", RUN, *(["--epoch", epoch] if epoch else [])).stdout for epoch in range(3)}
    for epoch, text in lines.items():
        assert f"plan of epoch {epoch} (of 0 to 2: --epoch)" in text
        assert manifest["digests"][epoch] in text
        plan = load_plan(run.stage("traces", "plan") / f"epoch-{epoch:03d}")
        assert f"{plan.n_steps:,} in this epoch" in text
    of_order = [next(line for line in text.splitlines() if "rank correlation" in line) for text in lines.values()]
    assert len(set(of_order)) > 1
    steps = manifest.get("steps_of_epochs", [manifest["steps_per_epoch"]] * 3)
    assert f"those of step {sum(steps[:2]):,}, the first of epoch 2" in lines[2]
    weight = 1 + 2 * sum(steps[:2]) / 1000
    (row,) = (line.split() for line in lines[2].splitlines() if line.startswith("answer") and "%" in line)
    assert float(row[2]) == pytest.approx(weight, rel=1e-3)
    failed = invoke("inspect", RUN, "--epoch", 3)
    assert failed.exit_code == 2
    assert "--epoch 3: the plan has the epochs 0 to 2" in failed.stderr

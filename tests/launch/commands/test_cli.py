import json
import os
import re
from pathlib import Path

import pytest
import yaml
from fake_run import RECIPE, STUDENT
from typer.testing import CliRunner

from tracestill.data_pipeline.selection import selection
from tracestill.launch import cli
from tracestill.launch.run import checks
from tracestill.launch.start import deepspeed_command, dry_run
from tracestill.trainer.recipe import monitor


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """A small recipe as a file; runs are made below tmp_path."""
    monkeypatch.chdir(tmp_path)
    return write_recipe(tmp_path / "mini.yaml")


def write_recipe(path: Path, **changes: object) -> Path:
    path.write_text(yaml.safe_dump({**RECIPE, **changes}))
    return path


def invoke(*arguments: object):
    return CliRunner().invoke(cli.app, [str(a) for a in arguments], env={"COLUMNS": "200"})


def refused(*arguments: object) -> list[str]:
    """Lines on stderr of a command that must refuse its input."""
    result = invoke(*arguments)
    assert result.exit_code == 2, (result.exit_code, result.output, result.exception)
    assert "Traceback" not in result.output
    return [line.removeprefix("error: ") for line in result.stderr.splitlines() if line.startswith("error: ")]


# Running stages


def test_stages_run_once_and_are_skipped_then(recipe):
    first = invoke("run", recipe, "--until", "plan")
    assert first.exit_code == 0, first.output
    assert "rejected" in first.stderr
    assert "skipped" not in first.stderr
    assert "next: tracestill train runs/mini" in first.stderr
    again = invoke("run", recipe, "--until", "plan")
    lines = [line for line in again.stderr.splitlines() if not line.startswith("next")]
    assert len(lines) == 7, "sample, select, tokenizer; encode and plan of two arms"
    assert all("up to date, skipped" in line for line in lines)
    by_directory = invoke("plan", "runs/mini", "--arm", "traces")
    assert by_directory.exit_code == 0
    assert "answers_only" not in by_directory.stderr


def test_a_changed_recipe_needs_replace_and_redoes_what_changes(recipe):
    assert invoke("run", recipe, "--until", "plan").exit_code == 0
    before = Path("runs/mini/recipe.yaml").read_bytes()
    change = ("run", recipe, "--until", "plan", "--set", "plan.capacity=300")
    (line,) = refused(*change)
    assert "differs in plan.capacity" in line
    assert "--replace" in line
    assert Path("runs/mini/recipe.yaml").read_bytes() == before
    lines = invoke(*change, "--replace").stderr.splitlines()
    assert ["skipped" in line for line in lines[:3]] == [True] * 3
    assert not any("skipped" in line for line in lines[3:])


def test_a_stage_without_its_inputs_says_which_to_run(recipe):
    (line,) = refused("encode", recipe)
    assert "needs 'sample', which has not run" in line
    assert "tracestill sample" in line
    assert not Path("runs").exists()
    assert invoke("sample", recipe).exit_code == 0
    (line,) = refused("plan", recipe)
    assert "needs 'select', which has not run" in line
    assert invoke("select", recipe).exit_code == 0
    assert invoke("encode", recipe, "--arm", "traces").exit_code == 0
    assert invoke("plan", recipe, "--arm", "traces").exit_code == 0
    (line,) = refused("plan", recipe)
    assert "encode answers_only" in line
    (line,) = refused("select", recipe, "--replace", "--set", "sample.samples=4")
    assert "needs 'sample', which is out of date" in line
    (line,) = refused("evaluate", recipe, "--arm", "traces")
    assert "needs 'train traces', which has not run" in line


def test_report_and_inspect(recipe):
    (line,) = refused("inspect", recipe)
    assert "not a run directory" in line
    assert invoke("run", recipe, "--until", "plan").exit_code == 0
    assert "runs/mini/report/report.html" in invoke("report", recipe).stderr
    assert Path("runs/mini/report/report.html").is_file()
    shown = invoke("inspect", "runs/mini", "--document", "2").stdout
    assert "document 2 of" in shown
    assert "</think>" in shown
    assert "filled" in shown
    assert "sameness" in shown
    prompt = next(line for line in shown.splitlines() if line.startswith("prompt") and "|" in line)
    assert prompt.split()[1] == "0", "the weight of the prompt"
    train = Path("runs/mini/arms/traces/train")
    train.mkdir()
    row = {"kind": "derive", "weight": 1.0, "tokens": 9, "weight_sum": 9.0, "weight_share": 0.5, "loss_share": 0.25}
    for gradient, heading in (({}, False), ({"gradient_share": 0.125}, True)):  # an older run's, and one of today
        (train / "preview.json").write_text(json.dumps({"kinds": [row | gradient], "warnings": ["beware"] * heading}))
        shown = invoke("inspect", "runs/mini").stdout
        (cells,) = [line.split()[1::2] for line in shown.splitlines() if line.startswith("│ derive ")]
        assert cells == ["derive", "1", "9", "9.0", "50.0%", "25.0%", *["12.5%"] * heading]
        assert ("gradient" in shown) is heading
        assert ("warning: beware" in shown) is heading
    (line,) = refused("inspect", "runs/mini", "--document", "99999")
    assert "--document 99999" in line
    (line,) = refused("inspect", "runs/mini", "--arm", "trace")
    assert "did you mean 'traces'?" in line


def test_a_monitor_that_is_not_installed_is_refused_before_any_work(recipe, monkeypatch):
    monkeypatch.setitem(monitor.PACKAGES, "wandb", "no_such_package")
    (line,) = refused("run", recipe, "--set", "train.monitor.wandb.project=traces")
    assert "train.monitor.wandb: no_such_package is not installed" in line
    assert not Path("runs/mini/sample").exists()


@pytest.mark.parametrize("weight", ["0", "{shape: constant, from: 0}", "{from: 0, to: 0, steps: 9}"])
def test_a_student_that_could_never_stop_is_refused_before_any_work(recipe, weight, monkeypatch):
    monkeypatch.setattr(dry_run, "rehearse", lambda arguments, environment: (arguments, {}))  # a process of seconds
    setting = f"weighting.weights.control={weight}"
    (line,) = refused("run", recipe, "--set", setting)
    assert "weighting.weights.control: 0 leaves a student that could never stop" in line
    assert "weighting.allow_unstoppable: true" in line
    assert not Path("runs/mini/sample").exists()
    (line,) = refused("run", recipe, "--set", "arms.answers_only.weighting.weights.control=0")
    assert "arms.answers_only: weighting.weights.control" in line
    assert invoke("run", recipe, "--set", setting, "--until", "plan").exit_code == 0, "data may be made"
    allowed = ("--set", setting, "--set", "weighting.allow_unstoppable=true", "--dry-run")
    assert invoke("train", "runs/mini", *allowed).exit_code == 0


def test_monitors_may_change_while_a_run_is_unfinished(recipe):
    assert invoke("run", recipe, "--until", "sample").exit_code == 0
    again = invoke("run", recipe, "--until", "sample", "--set", "train.monitor.tensorboard=true")
    assert again.exit_code == 0, again.stderr
    (line,) = refused("run", recipe, "--until", "sample", "--set", "train.clip=3")
    assert "train.clip" in line


def test_interrupt_ends_with_130(recipe, monkeypatch):
    def interrupt(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(selection, "run", interrupt)
        result = invoke("run", recipe)
    assert result.exit_code == 130
    assert "interrupted" in result.stderr
    again = invoke("run", recipe, "--until", "select").stderr.splitlines()
    assert ["skipped" in line for line in again[:2]] == [True, False], "what had finished is kept"


# Bad input: one line each, exit code 2, nothing half-written


def test_missing_and_unreadable_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (line,) = refused("run", "absent.yaml")
    assert "absent.yaml: cannot read the recipe" in line
    Path("bytes.yaml").write_bytes(b"name: \xff\xfe")
    (line,) = refused("run", "bytes.yaml")
    assert line.startswith("bytes.yaml")
    Path("torn.yaml").write_text("name: demo\nplan: {capacity: 1")
    (line,) = refused("run", "torn.yaml")
    assert "torn.yaml, line 2: not valid YAML" in line
    Path("empty").mkdir()
    (line,) = refused("run", "empty")
    assert "not a run directory" in line
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("train.leraning_rate=1", "unknown key 'train.leraning_rate'"),
        ("trian.lr=1", "unknown key 'trian'; did you mean 'train'?"),
        ("train.stesp=3", "did you mean 'steps'?"),
        ("train.ranks=two", "train.ranks:"),
        ("train.steps=-1", "train.steps:"),
        ("train.epochs=2", "exactly one of train.steps and train.epochs"),
        ("plan.group=3", "does not divide packs_per_step"),
        ("weighting.weights.trcae=1", "did you mean 'trace'?"),
        ("arms.answers_only.encode.trace=lose", "arms.answers_only"),
        ("questions.train=0", "questions.train:"),
        ("questions.source=digit_summ", "digit_sum"),
        ("seed", "expected key=value"),
    ],
)
def test_faults_of_a_recipe_name_the_field(recipe, setting, said):
    lines = refused("run", recipe, "--set", setting)
    assert any(said in line for line in lines), lines
    assert not Path("runs").exists()


OPT = {"model_type": "opt", "hidden_size": 16, "ffn_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
LATE = [
    (
        {"student": {"config": {**STUDENT, "hiden_size": 8}}},
        "llama has no key 'hiden_size'; did you mean 'hidden_size'",
    ),
    ({"student": {"config": {**STUDENT, "num_attention_heads": 3}}}, "student.config: llama refuses it"),
    ({"student": {"config": {"model_type": "gpt2", "n_embd": 30, "n_head": 4}}}, "student: gpt2 cannot be built"),
    ({"student": {"config": {"model_type": "vit"}}}, "student: vit"),
    ({"student": {"pretrained": "nowhere"}}, "student.pretrained: nowhere: holds no config.json"),
    ({"student": {"config": STUDENT, "attention": "flash"}}, "student.attention:"),
    ({"deepspeed": {"train_batch_size": 8}}, "deepspeed.train_batch_size: a step's size follows"),
    ({"deepspeed": {"gradient_cliping": 8}}, "deepspeed.gradient_cliping: DeepSpeed knows no such key"),
    ({"deepspeed": {"elasticity": {"enabled": True}}}, "deepspeed.elasticity: DeepSpeed has removed it"),
    (
        {"deepspeed": {"zero_optimization": {"overlap_com": True}}},
        "deepspeed.zero_optimization.overlap_com: DeepSpeed knows no such key; did you mean 'overlap_comm'",
    ),
    ({"train": {"steps": 40, "sequence_parallel": 4}}, "train.sequence_parallel: 4 ranks cannot share the student's 2"),
    (
        {"student": {"config": OPT}, "train": {"steps": 40, "tiled_mlp": 2}},
        "train.tiled_mlp: the layers of OPTForCausalLM have no module named mlp",
    ),
    ({"deepspeed": {"sequence_parallel_size": 2}}, "deepspeed.sequence_parallel_size: set train.sequence_parallel"),
    ({"train": {"steps": 40, "precision": "bf16", "zero": 0}}, "train.zero: 0 keeps no fp32 master weights"),
    ({"questions": {**RECIPE["questions"], "test": 0}}, "questions.test: 0 leaves no held-out question"),
    (
        {"evaluate": {"max_new_tokens": 512}},
        "evaluate.max_new_tokens: 512 and a question do not fit into the student's",
    ),
    ({"arms": {"b": {"evaluate": {"max_new_tokens": 600}}}}, "arms.b: evaluate.max_new_tokens: 600"),
]


@pytest.mark.parametrize(("changes", "said"), LATE)
def test_what_ranks_or_evaluation_would_refuse_is_refused_before_any_work(recipe, changes, said):
    write_recipe(recipe, **changes)
    (line,) = refused("run", recipe)
    assert said in line
    assert not Path("runs").exists()


def test_stages_that_are_not_asked_for_are_not_checked(recipe):
    write_recipe(recipe, questions={**RECIPE["questions"], "test": 0}, student={"pretrained": "nowhere"})
    assert invoke("run", recipe, "--until", "plan").exit_code == 0
    (line,) = refused("train", recipe, "--arm", "answers_only")
    assert line.startswith("arms.answers_only: student.pretrained: nowhere: holds no config.json")
    assert not Path("runs/mini/arms/answers_only/train").exists()


def test_must_resume_is_refused_before_any_arm_is_trained(recipe):
    assert invoke("run", recipe, "--until", "plan").exit_code == 0
    (line,) = refused("train", recipe, "--resume", "must")
    assert "no whole checkpoint of this training to resume from" in line
    assert not Path("runs/mini/arms/traces/train").exists()


def test_unknown_stage_and_arm(recipe):
    (line,) = refused("run", recipe, "--until", "trian")
    assert "did you mean 'train'?" in line
    (line,) = refused("train", recipe, "--arm", "answer_only")
    assert "did you mean 'answers_only'?" in line
    assert not Path("runs").exists()


def test_empty_question_set(recipe):
    Path("none.jsonl").write_text("\n")
    teachers = [{"name": "solver", "use": "digit_sum"}]
    write_recipe(recipe, questions={"source": "none.jsonl", "train": 1, "test": 1}, sample={"teachers": teachers})
    (line,) = refused("run", recipe)
    assert "none.jsonl: there is no row in it" in line
    assert not list(Path("runs").rglob("*.parquet"))
    write_recipe(recipe)
    assert invoke("run", recipe, "--until", "sample").exit_code == 0, "a mended recipe may take the directory"


def test_no_surviving_record(recipe):
    write_recipe(recipe, sample={"teachers": [{"name": "solver", "options": {"error_rate": 1.0}}], "samples": 1})
    (line,) = refused("run", recipe)
    found = re.search(r"no record of (\d+) survives selection \((.*?)\); \S", line)
    assert found, line
    reasons = {name: int(count) for name, count in re.findall(r"(\w+) (\d+)", found[2])}
    assert int(found[1]) == sum(reasons.values()) == 12 + 4, "every record is counted under one reason"
    assert reasons.keys() <= {"wrong_answer", "false_equation", "false_step", "same_path"}
    assert reasons["wrong_answer"] > 0
    assert not Path("runs/mini/select").exists()
    assert not list(Path("runs/mini").glob(".*.partial"))


def test_document_over_the_capacity(recipe):
    (line,) = refused("run", recipe, "--set", "plan.capacity=20")
    assert "capacity" in line
    assert "overlong" in line
    assert not Path("runs/mini/arms/traces/encode").exists()


def test_tokenizer_without_a_control_symbol(recipe):
    assert invoke("run", recipe, "--until", "encode").exit_code == 0
    text = Path("runs/mini/tokenizer/tokenizer.json").read_text()
    Path("lame").mkdir()
    Path("lame/tokenizer.json").write_text(text.replace("</think>", "</thunk>"))
    Path("lame/tokenizer_config.json").write_text(
        Path("runs/mini/tokenizer/tokenizer_config.json").read_text().replace("</think>", "</thunk>")
    )
    (line,) = refused(
        "run", recipe, "--run-dir", "runs/lame", "--set", "encode.tokenizer={vocab_size: null, path: lame}"
    )
    assert "</think>" in line
    assert not Path("runs/lame").exists()


def test_directory_that_is_no_run(recipe):
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("precious")
    (line,) = refused("run", recipe, "--run-dir", "mine", "--replace")
    assert "not a run directory" in line
    assert os.listdir("mine") == ["thesis.txt"]


def test_more_ranks_than_gpus(recipe, monkeypatch):
    monkeypatch.setattr(checks, "count_gpus", lambda: 1)
    (line,) = refused("run", recipe, "--set", "train.ranks=2")
    assert line.startswith("train.ranks: 2 ranks need 2 GPUs, this host offers 1")
    assert not Path("runs").exists()


def test_more_cpu_ranks_than_cores_is_only_a_warning(recipe, monkeypatch):
    def fail(*arguments: object, **options: object) -> None:
        raise deepspeed_command.TrainingFailed("the launcher was reached")

    monkeypatch.setattr(checks, "count_gpus", lambda: 0)
    monkeypatch.setattr(deepspeed_command, "count_gpus", lambda: 0)
    monkeypatch.setattr(deepspeed_command, "run", fail)
    result = invoke("run", recipe, "--set", "train.ranks=999")
    assert "999 ranks share" in result.stderr
    assert result.exit_code == 4
    assert "error: the launcher was reached" in result.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("--include", "a"),
        ("--exclude", "a"),
        ("--interface", "e0"),
        ("--env", "A=1"),
        ("--elastic",),
        ("--master-addr", "10.0.0.1"),
        ("--master-port", 2345),
    ],
)
def test_options_of_hosts_need_hosts(recipe, words):
    found = invoke("train", recipe, *words)
    assert found.exit_code == 2
    assert f"{words[0]}: is for the hosts of a hostfile; give --hostfile too" in found.output

"""Secrets are planted wherever a user may have them; then every file that a run leaves, every line that it prints and
every command line of a process is searched for them."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from fake_run import RECIPE, claim, mini_recipe, run_data_stages, write_evaluation, write_train
from lone_rank import alone
from typer.testing import CliRunner

from tracestill.data_pipeline.base import own_modules
from tracestill.launch import cli
from tracestill.launch.start import deepspeed_command
from tracestill.launch.start.deepspeed_command import Ranks, TrainingFailed, start_ranks
from tracestill.trainer.faults import watchdog
from tracestill.trainer.faults.watchdog import Watchdog
from tracestill.trainer.recipe import provenance as provenance_file
from tracestill.trainer.recipe.settings import WatchdogConfig

CANARY = "canary4b7e"
ENVIRONMENT = {
    "DS_CREDENTIALS": f"{CANARY}-plain",
    "HF_TOKEN": f"hf_{CANARY}0123456789abcdef",
    "MLFLOW_TRACKING_PASSWORD": f"{CANARY} of two words",
    "NCCL_DEPLOY_KEY": f"first {CANARY}\nsecond {CANARY}",
    "NCCL_JWT": f"eyJ{CANARY}.eyJ{CANARY}.{CANARY}",
    "NCCL_PASSWORD": f"{CANARY},;) \"'",
    "NCCL_PROXY": f"https://me:{CANARY}@proxy:3128",
    "OPENAI_API_KEY": f"sk-{CANARY}0123456789",
    "TORCH_PASSWD": f"{CANARY}-words",
    "WANDB_API_KEY": f"{CANARY}-forty-characters",
}
SAYS = f"""
import os, sys, time
for name, value in os.environ.items():
    print(name, value)
time.sleep(1.5)
print("-----BEGIN PRIVATE KEY-----\\n{CANARY}\\n-----END PRIVATE KEY-----")
print({{"headers": {{"Authorization": "Bearer {CANARY}", "x-api-key": "{CANARY}"}}}})
raise ConnectionError("https://me:{CANARY}@api/v1?token={CANARY} said no to sk-{CANARY}0123456789")
"""


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """A working directory, and an environment that is full of secrets."""
    monkeypatch.chdir(tmp_path)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = own_modules.folder()
    yield tmp_path
    own_modules.search(before)


def leaks(folder: Path) -> list[str]:
    """Files below a folder that hold the canary."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return [str(path.relative_to(folder)) for path in files if CANARY.encode() in path.read_bytes()]


def invoke(*arguments: object, code: int = 0) -> str:
    """What a command prints; none of it may be a secret."""
    result = CliRunner().invoke(cli.app, [str(a) for a in arguments], env={"COLUMNS": "200"})
    assert result.exit_code == code, (result.output, result.exception)
    assert CANARY not in result.output
    return result.output


SECRETS = [
    ("sample", {"teachers": [{"name": "a", "options": {"api_key": f"{CANARY}"}}]}, "sample.teachers.0.options.api_key"),
    ("sample", {"teachers": [{"name": "a", "options": {"url": f"https://u:{CANARY}@h"}}]}, "options.url"),
    ("sample", {"teachers": [{"name": "a"}], "styles": [f"Bearer {CANARY}0123"]}, "sample.styles.0"),
    ("weighting", {"options": {"hf_token": f"{CANARY}"}}, "weighting.options.hf_token"),
    ("deepspeed", {"comet": {"enabled": True, "api_key": f"{CANARY}"}}, "deepspeed.comet.api_key"),
    ("train", {"steps": 4, "monitor": {"wandb": {"project": f"sk-{CANARY}0123456789"}}}, "train.monitor.wandb.project"),
]


@pytest.mark.parametrize(("block", "value", "field"), SECRETS)
def test_a_recipe_with_a_secret_starts_nothing(planted, block, value, field):
    path = planted / "mini.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, block: value}))
    said = invoke("run", path, code=2)
    assert field in said
    assert "set an environment variable, and give its name" in said.replace("\n", " ")
    assert not (planted / "runs").exists()


def test_options_of_the_command_line_do_not_echo_a_secret(planted):
    path = planted / "mini.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    (planted / "hosts").write_text("localhost slots=1\n")
    said = invoke("run", path, "--set", f"sample.teachers.0.options.api_key={CANARY}", code=2)
    assert said.startswith("error: --set: sample.teachers.0.options.api_key: looks like a secret")
    assert "revoked: other users of this host can list commands" in said
    assert "--set" in invoke("run", path, "--set", f"api_key: {CANARY}", code=2)
    assert "--set" in invoke("run", path, "--set", f"train.lr=[sk-{CANARY}0123456789", code=2)
    run = claim(planted / "run", mini_recipe(arms={}))
    run_data_stages(run)
    for variable in (f"PLAIN=https://u:{CANARY}@h", f"sk-{CANARY}0123456789=1"):
        assert "--env" in invoke("train", run.root, "--hostfile", "hosts", "--dry-run", "--env", variable, code=2)
    assert leaks(planted / "run") == []


def test_no_file_of_a_run_holds_a_secret(planted, monkeypatch):
    """The pipeline as it is, but for the ranks: what they write is written by the same functions."""
    path = planted / "mini.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, "arms": {}}))
    invoke("run", path, "--until", "plan")
    run = claim(planted / "runs/mini", mini_recipe(arms={}))
    write_train(run, "traces")
    train = run.stage("traces", "train")
    checkout(planted / "checkout")
    monkeypatch.setattr(provenance_file, "__file__", str(planted / "checkout/trainer/recipe/provenance.py"))
    monkeypatch.setattr(sys, "argv", ["train", "--set", f"a.api_key={CANARY}", f"https://me:{CANARY}@h"])
    config = {"train_batch_size": 1, "comet": {"api_key": CANARY}, "hosts": [f"https://me:{CANARY}@h"]}
    found = provenance_file.provenance(config)
    (train / "provenance.json").write_text(json.dumps(found))
    assert found["environment"]["NCCL_PROXY"] == "https://***@proxy:3128"
    assert "+harmless = 2" in found["source"]["diff"]
    assert found["deepspeed"]["comet"] == {"api_key": "***"}
    fail(train, monkeypatch)
    start = [sys.executable, "-c", SAYS.replace("1.5", "0")]
    with pytest.raises(TrainingFailed) as caught:
        deepspeed_command.run(start, train / "console.log", {**ENVIRONMENT, "NCCL_DEBUG": "INFO"})
    assert CANARY not in str(caught.value)
    assert "NCCL_DEBUG INFO" in (train / "console.log").read_text()
    write_evaluation(run, "traces", 0.5)
    invoke("report", path)
    invoke("inspect", path)
    invoke("recipe", path, "--resolved")
    invoke("train", path, "--set", "train.lr=0.5", code=2)
    assert leaks(planted / "runs") == []


def checkout(root: Path) -> None:
    """A git checkout whose remote and uncommitted changes hold secrets."""

    def git(*arguments: str) -> None:
        options = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(root), *options, *arguments], check=True, capture_output=True)

    (root / "trainer").mkdir(parents=True)
    git("init")
    (root / "settings.py").write_text("harmless = 1\n")
    git("add", ".")
    git("commit", "-m", "first")
    git("remote", "add", "origin", f"https://me:{CANARY}@host/repository.git")
    secrets = f"api_key = '{CANARY}'\nurl = 'https://me:{CANARY}@h'\nPASSWORD={CANARY}\n"
    (root / "settings.py").write_text(f"harmless = 2\n{secrets}-----BEGIN RSA PRIVATE KEY-----\n{CANARY}\n")


def fail(train: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a rank writes that fails with a secret in its error."""
    alone(monkeypatch, train)
    monkeypatch.setattr(watchdog.time, "sleep", lambda seconds: None)
    rank = Watchdog(train, WatchdogConfig())
    assert rank.over(lambda: ask(f"https://me:{CANARY}@api with Authorization: Bearer {CANARY}")) == 4
    rank.board.remove()
    failure = json.loads((train / "failure.json").read_text())
    assert failure["reason"] == "raised ConnectionError: https://***@api with ***"
    assert "line" in failure["traceback"]
    assert "ConnectionError" in (train / "failures/rank-00000.txt").read_text()


def ask(url: str) -> int:
    raise ConnectionError(url)


def test_an_old_run_that_holds_a_secret_is_shown_without_it(planted):
    run = claim(planted / "run", mini_recipe(arms={}))
    run_data_stages(run)
    held = yaml.safe_load((run.root / "recipe.yaml").read_text())
    held["sample"]["teachers"][0] |= {"use": "their_api", "options": {"api_key": CANARY}}
    (run.root / "recipe.yaml").write_text(yaml.safe_dump(held))
    invoke("report", run.root)
    assert leaks(run.root / "report") == []
    assert "api_key: '***'" in invoke("recipe", run.root, "--resolved")
    other = claim(planted / "other", mini_recipe(arms={}))
    run_data_stages(other)
    assert "teachers" in invoke("diff", run.root, other.root)
    assert "sample.teachers.0.options.api_key" in invoke("train", run.root, code=2)


def test_what_pods_run_says_what_the_recipe_says(planted, monkeypatch):
    path = planted / "mini.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, "arms": {}}))
    job = ("--nodes", "1", "--gpus", "1", "--image", "i", "--claim", "c")
    source = RECIPE["questions"]["source"]
    for name, value in {"API_KEY": source, "DB_PASSWORD": "password", "SORT_KEY": "question"}.items():
        monkeypatch.setenv(name, value)
    invoke("kubernetes", path, *job, "--output", planted / "k.yaml")
    assert "***" not in (planted / "k.yaml").read_text()
    assert f"source: {source}" in (planted / "k.yaml").read_text()
    assert "***" not in invoke("recipe", path, "--resolved")
    held = {**RECIPE, "arms": {}, "sample": {**RECIPE["sample"], "styles": [f"say {ENVIRONMENT['HF_TOKEN']}"]}}
    path.write_text(yaml.safe_dump(held))
    said = invoke("kubernetes", path, *job, "--output", planted / "l.yaml", code=2)
    assert "sample.styles.0: holds what an environment variable with the name of a secret holds" in said
    assert not (planted / "l.yaml").exists()


def test_a_line_that_names_a_private_key_hides_no_other(planted):
    ask = "document: What does a file that begins with -----BEGIN RSA PRIVATE KEY----- hold?\n"
    lines = [ask, "-----BEGIN RSA PRIVATE KEY-----\n", f"{CANARY}\n", "error: boom\n", "step 2 loss 1.0\n", "done\n"]
    process, log, tail, seen = SimpleNamespace(stdout=iter(lines)), io.BytesIO(), [], []
    deepspeed_command.copy_lines(process, log, tail, seen.append)
    assert seen == [ask, "***\n", "error: boom\n", "step 2 loss 1.0\n", "done\n"]
    assert log.getvalue().decode() == "".join(seen)
    assert tail[-3:] == ["error: boom", "step 2 loss 1.0", "done"]


def test_a_traceback_of_our_own_tells_no_secret(planted, monkeypatch, capsys):
    monkeypatch.setattr(cli, "app", lambda prog_name: ask(f"https://me:{CANARY}@api?token={CANARY}"))
    with pytest.raises(SystemExit, match="1"):
        cli.main()
    said = capsys.readouterr().err
    assert "ConnectionError: https://***@api?token=***" in said
    assert "test_canaries.py" in said
    assert CANARY not in said


@pytest.mark.slow
def test_deepspeeds_launcher_tells_no_secret(planted, monkeypatch):
    """It prints every variable with NCCL in its name, and starts processes that every user can list."""
    (planted / "their_rank.py").write_text(SAYS)
    monkeypatch.setenv("PYTHONPATH", str(planted))
    monkeypatch.setenv("NCCL_DEBUG", "INFO")
    start, seen = start_ranks("their_rank", ["--word"], Ranks(1, 1), planted), set()

    def look() -> None:
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                seen.add(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
            except OSError:
                continue  # it has ended

    log = planted / "console.log"
    with pytest.raises(TrainingFailed) as caught:
        deepspeed_command.run(start.arguments, log, start.environment, look)
    assert any("their_rank" in line and "--word" in line and "launcher" not in line for line in seen), "ranks were seen"
    assert [line for line in seen if CANARY in line] == []
    said = log.read_text()
    assert "0 NCCL_DEBUG=INFO" in said, "the launcher printed it"
    assert "NCCL_JWT=***" in said
    assert "ConnectionError: https://***@api" in said
    assert CANARY not in said + str(caught.value)

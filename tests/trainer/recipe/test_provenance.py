"""What is stored about a training run, and what never is."""

import json
import subprocess

from tracestill.trainer.recipe import provenance as provenance_file
from tracestill.trainer.recipe.provenance import environment, provenance, source


def test_the_environment_is_an_allow_list_without_secrets():
    given = {
        "NCCL_DEBUG": "INFO",
        "DS_ACCELERATOR": "cpu",
        "RANK": "0",
        "HOME": "/home/x",
        "API_KEY": "canary",
        "TORCH_HUB_TOKEN": "canary",
        "NCCL_SECRET_THING": "canary",
    }
    assert environment(given) == {"DS_ACCELERATOR": "cpu", "NCCL_DEBUG": "INFO", "RANK": "0"}


def test_it_names_versions_command_and_the_deepspeed_config(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "canary-in-the-environment")
    found = provenance({"zero_optimization": {"stage": 2}})
    assert found["deepspeed"] == {"zero_optimization": {"stage": 2}}
    assert {"torch", "deepspeed"} <= found["installed"].keys()
    assert "canary" not in json.dumps({**found, "source": None})


def test_commit_and_uncommitted_changes_of_a_checkout(tmp_path, monkeypatch):
    assert source(tmp_path) is None

    def git(*arguments):
        options = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(tmp_path), *options, *arguments], check=True, capture_output=True)

    git("init")
    (tmp_path / "f.py").write_text("one\n")
    git("add", "f.py")
    git("commit", "-m", "first")
    (tmp_path / "f.py").write_text("two\n")
    found = source(tmp_path)
    assert len(found["commit"]) == 40
    assert "-one\n+two\n" in found["diff"]
    hidden = "canary7f3a9c" * 3
    (tmp_path / "f.py").write_text(f"api_key = '{hidden}'\n" + "a line of a long diff\n" * 20_000)
    monkeypatch.setattr(provenance_file, "MORE", 60)
    monkeypatch.setattr(provenance_file, "DIFF_CHARACTERS", len(found["diff"].partition("+two")[0]) + 20)
    masked, sizes = provenance_file.secret.mask, []
    monkeypatch.setattr(provenance_file.secret, "mask", lambda text: sizes.append(len(text)) or masked(text))
    diff = source(tmp_path)["diff"]
    assert diff.endswith("+api_key = '**"), "the cut goes through the secret"
    assert max(sizes) < 400, "no more is searched than is kept"

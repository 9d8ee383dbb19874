"""SIGTERM in any micro-step, and in the update: the step is made, all is saved, and going on changes no bit."""

import json
import shutil
from pathlib import Path

from distributed_support import run_workers
from fake_run import RECIPE, mini_recipe, run_data_stages
from stored_tensors import stored_bytes

from tracestill.trainer.recipe.run_directory import RunDirectory

WORKER = Path(__file__).with_name("sigterm_worker.py")


def test_sigterm_in_every_micro_step_is_a_stop_after_the_step(tmp_path, counted):
    student = {"config": {**RECIPE["student"]["config"], "attention_dropout": 0.1}}
    plan = {**RECIPE["plan"], "packs_per_step": 4}
    recipe = mini_recipe(student=student, plan=plan, train={"steps": 8, "ranks": 1, "log_every": 1}, arms={})
    run_data_stages(RunDirectory.create(tmp_path / "plain", recipe))
    shutil.copytree(tmp_path / "plain", tmp_path / "stopped")
    run_workers(WORKER, tmp_path)
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["stopped"] == [
        *([4, False, step, f"step-{step:06d}"] for step in (1, 2, 3, 4)),
        [4, False, 6, "step-000006"],  # the ranks had agreed on going on; it is heard of at the next step
        [4, True, 8, "step-000008"],
    ]
    assert found["plain"] == [4, True, 8, "step-000008"]
    ends = [tmp_path / name / "arms/traces/train" for name in ("plain", "stopped")]
    plain, stopped = (stored_bytes(end / "checkpoints/step-000008") for end in ends)
    assert any(": parameter/" in name for name in plain)
    assert plain.keys() == stopped.keys()
    assert [name for name in plain if plain[name] != stopped[name]] == []
    logs = [[json.loads(line) for line in (end / "log.jsonl").read_text().splitlines()] for end in ends]
    losses = [[(line["step"], line["loss"]) for line in log if "loss" in line] for log in logs]
    assert losses[0] == losses[1]
    assert [step for step, _ in losses[0]] == [*range(1, 9)]
    counted("SIGTERM in a micro-step or in the update", 5, "saved after the step, going on changes no bit")

"""A student is exported, served by ``transformers serve``, and another student is distilled from what it says."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.request
from collections import Counter
from pathlib import Path

import pytest
from api_cases import sql
from command_line import program

from tracestill.data_pipeline.base.schema import RECORD_SCHEMA, read_rows

QUESTIONS = {"source": "digit_sum", "train": 150, "test": 4, "options": {"digits": 3, "modulus": 10}}
STUDENT = {
    **{"model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 256},
    **{"tie_word_embeddings": True, "initializer_range": 0.08},
}
REST = {
    "seed": 0,
    "questions": QUESTIONS,
    "encode": {"tokenizer": {"vocab_size": 300}},
    "plan": {"capacity": 1024, "packs_per_step": 2, "group": 2},
    "student": {"config": STUDENT},
    "evaluate": {"max_new_tokens": 40},
}


def run(folder: Path, name: str, **blocks: object) -> Path:
    """A recipe run from end to end; its directory."""
    recipe = folder / f"{name}.yaml"
    recipe.write_text(json.dumps({"name": name, **REST, **blocks}))
    done = subprocess.run(
        [str(program("tracestill")), "run", str(recipe), "--run-dir", str(folder / name)],
        capture_output=True,
        text=True,
        timeout=500,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / name


@pytest.mark.soak
@pytest.mark.timeout(1500)
def test_a_student_is_distilled_from_a_served_one(tmp_path: Path) -> None:
    train = {"ranks": 1, "zero": 0, "lr": 6.0e-3}
    first = run(tmp_path, "first", sample={"teachers": [{"name": "t"}]}, train={**train, "steps": 200})
    export = first / "arms/traces/train/export"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [program("transformers"), "serve", export, "--host", "127.0.0.1", "--port", port, "--device", "cpu"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with (tmp_path / "serve.log").open("w") as log:
        serving = subprocess.Popen(list(map(str, command)), stdout=log, stderr=log, env=environment)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", serving)
        options = {"url": f"http://127.0.0.1:{port}/v1", "model": str(export), "max_tokens": 60, "concurrency": 4}
        served = {"name": "served", "use": "api", "options": options}
        here = {"name": "here", "use": "local", "options": {"model": str(export), "max_tokens": 60}}
        sample = {"teachers": [served, here], "readers": ["think", "whole"], "max_rejected": 1, "test_samples": 0}
        second = run(
            tmp_path,
            "second",
            questions={**QUESTIONS, "train": 20},
            sample={**sample, "checks": {"unfinished": "count"}},
            select={"policy": "none"},
            train={**train, "steps": 4},
        )
    finally:
        serving.terminate()
        serving.wait(30)
    rows = read_rows(second / "sample/records.parquet", RECORD_SCHEMA)
    assert set(Counter(row["teacher"] for row in rows)) == {"served", "here"}
    assert sql(second, "SELECT teacher, count(*) FROM samples GROUP BY teacher ORDER BY 1") == [
        ("here", 20),
        ("served", 20),
    ]
    thoughts = sql(second, "SELECT count(*) FROM samples WHERE answer LIKE '<think>%'")[0][0]
    assert thoughts > 20, "an export is asked as it was trained"
    assert (second / "arms/traces/train/export/model.safetensors").exists()


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(240):
        assert process.poll() is None, "the server has ended"
        try:
            urllib.request.urlopen(url, timeout=1).close()
        except OSError:
            time.sleep(0.5)
        else:
            return
    raise AssertionError("the server does not answer")

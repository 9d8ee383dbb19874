"""The attention of students: chosen by what each needs, kept by each, and a backend of the user's own."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_step
import torch
import yaml
from distributed_support import run_workers
from fake_run import RECIPE, run_data_stages
from pydantic import ValidationError

from tracestill.data_pipeline.base import own_modules
from tracestill.data_pipeline.base.errors import InputError
from tracestill.kernels.attention import SDPA
from tracestill.kernels.pack import pack
from tracestill.trainer.evaluation.baseline import answering
from tracestill.trainer.recipe.recipe import load_recipe
from tracestill.trainer.recipe.run_directory import RunDirectory
from tracestill.trainer.recipe.settings import StudentConfig
from tracestill.trainer.student.check import check_student
from tracestill.trainer.student.reading_model import Reference
from tracestill.trainer.student.student import build_student

VOCABULARY = {"vocab_size": tiny_step.VOCABULARY, "bos_id": 1, "eos_id": 2, "pad_id": 0, "num_kinds": 8}
CPU = torch.device("cpu")
WORKER = Path(__file__).with_name("own_attention_worker.py")
DOCS = (Path(__file__).parents[3] / "docs/students.md").read_text(encoding="utf-8")
EXAMPLE = re.findall(r"```python\n# my_attention\.py\n(.*?)```", DOCS, re.S)[0]
NOTED = """
calls = []
def noted(name):
    def attend(query, key, value, cu_seqlens, longest, *, scale):
        calls.append(name)
        return plain(query, key, value, cu_seqlens, longest, scale=scale)
    return Backend(name, attend, gqa=True)
plain = attend
A, B = noted("a"), noted("b")
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A recipe's folder with a file of the user's, my_attention.py."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before, folder = own_modules.folder(), tmp_path / "mine"
    folder.mkdir()
    (folder / "my_attention.py").write_text(EXAMPLE)
    own_modules.search(folder)
    yield folder
    own_modules.search(before)
    sys.modules.pop("my_attention", None)


def built(attention, **changes):
    config = StudentConfig(config={**tiny_step.SHAPE, **changes}, attention=attention)
    return build_student(config, **VOCABULARY)


def batch():
    documents = tiny_step.documents(0)
    offsets = np.cumsum([0, *(len(d.tokens) for d in documents)])
    weights = np.array([d.weight for d in documents], np.float32)
    tokens, kinds = (np.concatenate([getattr(d, name) for d in documents]) for name in ("tokens", "kinds"))
    return pack(tokens, kinds, offsets, weights, tiny_step.TABLE)


def test_a_student_keeps_its_backend_whatever_is_built_beside_it(mine):
    """A reference model, another student, a model that writes meanwhile."""
    (mine / "my_attention.py").write_text(EXAMPLE + NOTED)
    students = {name: built(f"my_attention:{name.upper()}") for name in ("a", "b")}
    calls = sys.modules["my_attention"].calls
    reference = Reference(built("my_attention:B"), CPU, torch.float32)
    built("auto")
    assert [str(student.attention.backend) for student in students.values()] == ["a", "b"]
    packed, layers = batch(), tiny_step.SHAPE["num_hidden_layers"]
    losses = {}
    for name in ("a", "b", "a", "b"):
        calls.clear()
        loss, _ = students[name](packed, 1.0)
        assert calls == [name] * layers
        assert losses.setdefault(name, loss.item()) == loss.item()
    calls.clear()
    students["a"].reference_nll = reference.nll
    with answering(students["b"].model):
        assert students["b"].model.config._attn_implementation == "sdpa"
        students["a"](packed, 1.0)
    assert calls == ["b"] * layers + ["a"] * layers, "the reference, then the student"
    calls.clear()
    students["b"](packed, 1.0)
    assert calls == ["b"] * layers, "as before it wrote"


@pytest.mark.parametrize(
    ("attention", "changes", "message"),
    [
        (
            "sdpa",
            {"model_type": "gemma2", "head_dim": 8},
            r"has no softcap \(attn_logit_softcapping=50\.0\); use flash",
        ),
        (
            "auto",
            {"model_type": "gemma2", "head_dim": 8},
            r"no backend can run this model here: .*sdpa: has no softcap",
        ),
        ("my_attention:BACKEND", {"attention_dropout": 0.1}, r"'mine' cannot run: it has no dropout .*; use sdpa"),
        ("my_attention:BACKEND", {"model_type": "mistral", "sliding_window": 7}, r"has no window \(sliding_window=7\)"),
        ("my_attention:BAKEND", {}, r"my_attention has no Backend 'BAKEND'; did you mean 'BACKEND'"),
        ("my_attention", {}, "'my_attention' is a module; name its Backend, as in my_attention:BACKEND"),
        ("flash", {}, "unknown attention backend 'flash'; known: auto, flash-4"),
        ("my_attention:attend", {}, r"my_attention has no Backend 'attend'"),
    ],
)
def test_what_the_backend_lacks_is_found_before_the_model_is_built(mine, attention, changes, message):
    config = StudentConfig(config={**tiny_step.SHAPE, **changes}, attention=attention)
    with pytest.raises(InputError, match=rf"^student\.attention: (?!student).*{message}"):
        check_student(config, CPU, torch.float32)
    with pytest.raises(InputError, match=rf"^student\.attention: .*{message}"):
        build_student(config, **VOCABULARY)


def test_a_model_with_a_softcap_is_built_where_a_backend_has_it(mine):
    """Its head is looked at in an ordinary row, which no backend computes."""
    own = 'CAPPED = Backend("capped", attend, gqa=True, softcap=True, window=True)'
    (mine / "my_attention.py").write_text(EXAMPLE + own)
    student = built("my_attention:CAPPED", model_type="gemma2", head_dim=8)
    assert str(student.attention.backend) == "capped"


def test_a_pretrained_model_is_refused_before_it_is_loaded(mine, tmp_path, monkeypatch):
    built("auto", attention_dropout=0.2).model.save_pretrained(tmp_path / "model")
    monkeypatch.setattr("tracestill.trainer.student.student.load_model", lambda *_, **__: pytest.fail("loaded"))
    config = StudentConfig(pretrained=tmp_path / "model", attention="my_attention:BACKEND")
    for refuse in (lambda: build_student(config, **VOCABULARY), lambda: check_student(config, CPU, torch.float32)):
        with pytest.raises(InputError, match=r"has no dropout \(attention_dropout=0\.2\)"):
            refuse()


def test_a_backend_that_is_nowhere_is_refused_as_the_recipe_is_read(mine):
    with pytest.raises(ValidationError, match="no module 'nowhere'"):
        StudentConfig(config=tiny_step.SHAPE, attention="nowhere:BACKEND")
    with own_modules.looking():
        StudentConfig(config=tiny_step.SHAPE, attention="nowhere:BACKEND")


def test_a_backend_of_the_users_own_is_a_file_and_a_line_of_the_recipe(mine):
    """Trained through the real entry point, and the same as with the built-in one; the file's content counts."""
    changes = {
        "student": {**RECIPE["student"], "attention": "my_attention:BACKEND"},
        "train": {"steps": 2, "ranks": 1, "log_every": 1, "zero": 0},
        "arms": {"plain": {"student": {"attention": "sdpa"}}},
    }
    (mine / "recipe.yaml").write_text(yaml.safe_dump({**RECIPE, **changes}))
    run = RunDirectory.create(mine / "run", load_recipe(mine / "recipe.yaml"))
    run_data_stages(run)
    assert len(list(mine.iterdir())) == 3, "the file, the recipe, and the run"
    said, losses = {}, {}
    for arm in ("traces", "plain"):
        said[arm] = run_workers(WORKER, run.root, arm, ranks=1, timeout=120)
        lines = [json.loads(line) for line in (run.stage(arm, "train") / "log.jsonl").read_text().splitlines()]
        losses[arm] = [line["loss"] for line in lines if "loss" in line and "event" not in line]
    assert "attention mine: as asked for" in " ".join(said["traces"].split())
    assert "the recipe imports my_attention (student.attention" in said["traces"]
    assert "attention sdpa: as asked for" in " ".join(said["plain"].split())
    assert len(losses["traces"]) == 2
    assert losses["traces"] == pytest.approx(losses["plain"], rel=1e-5)
    before, of_plain = run.train_stage("traces")[0], run.train_stage("plain")[0]
    with (mine / "my_attention.py").open("a") as file:
        file.write("# another\n")
    assert run.train_stage("traces")[0] != before
    assert run.train_stage("plain")[0] == of_plain


def test_auto_is_what_the_machine_has():
    assert built("auto").attention.backend is SDPA
    assert "flash-4, flash-3, flash-2, varlen: runs on cuda" in built("auto").attention.reason

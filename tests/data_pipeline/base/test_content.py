"""Inputs are known by content: hashed once, and again only when size or times say that a file may have changed."""

import json
import os
import shutil
from pathlib import Path

import pytest

from tracestill.data_pipeline.base import content
from tracestill.data_pipeline.base.content import MEMORY, contents, digests, model_files, named_files
from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.stage import (
    CONTENTS,
    UNKNOWN,
    changed_files,
    differences,
    identity,
    is_current,
    missing_files,
    output_digest,
    stage,
    why_redone,
)

ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # sha256 of "abc", FIPS 180-2


@pytest.fixture
def hashed(monkeypatch):
    """The files that were read to be hashed; what this process remembers is forgotten."""
    seen: list[str] = []
    real = content.digest_of_file

    def note(path: Path) -> str:
        seen.append(path.name)
        return real(path)

    monkeypatch.setattr(content, "_hashed", {})
    monkeypatch.setattr(content, "digest_of_file", note)
    return seen


def test_a_file_is_hashed_once(tmp_path, hashed, monkeypatch):
    (tmp_path / "a").write_text("abc")
    memory = tmp_path / MEMORY
    assert digests({"x": tmp_path / "a", "gone": tmp_path / "b"}, memory) == {"x": ABC}
    monkeypatch.setattr(content, "_hashed", {})  # another process
    assert digests({"x": tmp_path / "a"}, memory) == {"x": ABC}
    assert hashed == ["a"]
    assert digests({"x": tmp_path / "a"}, None) == {"x": ABC}
    assert digests({"x": tmp_path / "a"}, tmp_path / "nowhere" / MEMORY) == {"x": ABC}
    assert hashed == ["a", "a"], "without a place for it, the process remembers"
    memory.write_text("[torn")
    monkeypatch.setattr(content, "_hashed", {})
    assert digests({"x": tmp_path / "a"}, memory) == {"x": ABC}
    assert json.loads(memory.read_text())["x"][0][-1] == ABC


def test_hosts_with_files_of_their_own_under_one_path_do_not_forget_each_others(tmp_path, hashed, monkeypatch):
    memory = tmp_path / MEMORY
    for host, text in (("a", "abc"), ("b", "xyz"), ("a", "abc"), ("b", "xyz")):
        path = tmp_path / host
        if not path.exists():
            path.write_text(text)
        monkeypatch.setattr(content, "_hashed", {})
        assert (digests({"/models/config.json": path}, memory)["/models/config.json"] == ABC) == (host == "a")
    assert hashed == ["a", "b"]


def test_the_same_size_and_time_do_not_hide_another_content(tmp_path, hashed):
    path, memory = tmp_path / "a", tmp_path / MEMORY
    path.write_text("abd")
    before = path.stat()
    first = digests({"x": path}, memory)
    path.write_text("abc")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert digests({"x": path}, memory) == {"x": ABC} != first
    os.utime(path)
    assert digests({"x": path}, memory) == {"x": ABC}
    assert hashed == ["a"] * 3, "a touched file is read again, and is what it was"


def made(directory: Path, text: str = "one", **inputs: Path) -> Path:
    with stage(directory, directory.name, {}, inputs) as work:
        (work.path / "data").mkdir()
        (work.path / "data" / "rows.txt").write_text(text)
        (work.path / "other.txt").write_text("other")
    return directory


def test_an_edited_output_is_seen_downstream_and_by_name(tmp_path):
    first = made(tmp_path / "first")
    second, inputs = made(tmp_path / "second", first=first), {"first": first}
    assert is_current(second, "second", {}, inputs)
    os.utime(first / "data/rows.txt")
    assert is_current(second, "second", {}, inputs), "touching is no change"
    (first / "data/rows.txt").write_text("two")
    assert is_current(first, "first", {}, {}), "it is not done anew: the edit counts"
    assert changed_files(first) == ["data/rows.txt"]
    assert not is_current(second, "second", {}, inputs)
    assert why_redone(second, "second", {}, inputs) == "first/data/rows.txt changed"
    (first / "data/rows.txt").write_text("one")
    assert is_current(second, "second", {}, inputs)
    (first / "data/rows.txt").unlink()
    assert is_current(second, "second", {}, inputs), "what it read is known"
    assert missing_files(first) == ["data/rows.txt"]
    assert why_redone(first, "first", {}, {}) == "data/rows.txt is missing"


def test_what_was_edited_stays_when_the_stage_is_done_anew(tmp_path):
    first = made(tmp_path / "first")
    made(first)
    assert not list(tmp_path.glob("*.edited-*"))
    for n in (1, 2):
        (first / "other.txt").write_text(f"mine {n}")
        made(first)
        assert (first / "other.txt").read_text() == "other"
        assert (tmp_path / f"first.edited-{n}" / "other.txt").read_text() == f"mine {n}"
    assert not list(tmp_path.glob(".first*"))


def test_moved_and_copied_directories_and_old_ones_are_the_same(tmp_path, hashed, monkeypatch):
    first = made(tmp_path / "first")
    digest = output_digest(first)
    del hashed[:]
    moved = first.rename(tmp_path / "moved")
    monkeypatch.setattr(content, "_hashed", {})
    assert output_digest(moved) == digest
    assert hashed == []
    copied = shutil.copytree(moved, tmp_path / "copied")
    assert output_digest(copied) == digest
    assert sorted(hashed) == ["other.txt", "rows.txt"]
    (copied / MEMORY).unlink()  # as an older version left it
    assert output_digest(copied) == digest
    with pytest.raises(InputError, match="has not finished"):
        output_digest(tmp_path)


def test_files_named_by_fields_count_by_what_they_hold():
    one, other = {"model": {"path": "a"}, "n": [1, {"x": 2}]}, {"model": {"path": "b"}, "n": [1, {"x": 3}]}
    who = identity("s", one, {})
    assert differences(who, identity("s", other, {})) == ["model.path", "n.1.x"]
    held = {**one, CONTENTS: {"model.path": {"weights": "1", "config": "2"}}}
    same_content = {**other, "n": one["n"], CONTENTS: {"model.path": {"weights": "1", "config": "2"}}}
    assert differences(identity("s", held, {}), identity("s", same_content, {})) == [], "another path, the same content"
    changed = {**one, CONTENTS: {"model.path": {"weights": "3", "config": "2"}}}
    assert differences(identity("s", held, {}), identity("s", changed, {})) == ["model.path (weights)"]
    assert differences(who, identity("s", changed, {})) == [], "a stage of an older version did not know"
    assert differences(identity("s", held, {}), who) == [], "it may have gone since"
    assert differences(who, identity("s", {**one, "n": UNKNOWN}, {})) == []


def test_options_name_files_and_models_but_not_just_anything(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "q.txt").write_text("abc")
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "notes.txt").write_text("x")
    for name in ("config.json", "model.safetensors", "README.md", ".hidden.json", "notes.txt"):
        (tmp_path / "model").mkdir(exist_ok=True)
        (tmp_path / "model" / name).write_text("abc")
    options = {
        "file": "q.txt",
        "split": "train",
        "list": [{"reference": "model"}, "no\0path", "x" * 5000],
        "n": 3,
        "e": "",
    }
    found = contents(named_files(options, "options"), None)
    assert found == {
        "options.file": {"": ABC},
        "options.list.0.reference": {"config.json": ABC, "model.safetensors": ABC},
    }
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "model"}))
    assert set(model_files(Path("adapter"))) == {"adapter_config.json", "base/config.json", "base/model.safetensors"}
    assert model_files(Path("gone")) == {}


OF_MODEL = """
config.json generation_config.json preprocessor_config.json modeling_own.py configuration_own.py
tokenizer.json tokenizer_config.json special_tokens_map.json added_tokens.json vocab.json vocab.txt merges.txt
chat_template.jinja spiece.model qwen.tiktoken model-00001-of-00002.safetensors model.safetensors.index.json
pytorch_model.bin pytorch_model-00001-of-00002.bin pytorch_model.bin.index.json adapter_config.json adapter_model.bin
"""
BESIDE = """
notes.txt requirements.txt README.md trainer_state.json all_results.json results_lm_eval.json evaluate_me.py
training_args.bin optimizer.pt scheduler.pt rng_state.pt .model.safetensors
"""


def test_what_lies_beside_a_model_is_none_of_it(tmp_path):
    for name in (OF_MODEL + BESIDE).split():
        (tmp_path / name).write_text("{}")
    assert set(model_files(tmp_path)) == set(OF_MODEL.split())


def test_a_file_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("abc")

    def refuse(path, *arguments, **options):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(content, "_hashed", {})
    with pytest.raises(InputError, match=rf"{tmp_path / 'a'}: cannot be read \(Permission denied\)"):
        digests({"x": tmp_path / "a"}, None)
    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(InputError, match=rf"{tmp_path}: cannot be read \(Permission denied\)"):
        model_files(tmp_path)

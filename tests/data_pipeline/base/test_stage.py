"""The stage contract: what is on disk, and in which order, when a stage's directory appears."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tracestill.data_pipeline.base.stage import MANIFEST, Stage, read_manifest, stage, write_manifest


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was synced and what was renamed, in order; temporary names are cut short."""
    found: list[str] = []
    real, rename = os.fsync, Path.replace

    def short(path: Path) -> str:
        return re.sub(r"\.\w{8}\.(tmp|partial)$", "", path.name)

    def fsync(handle: int) -> None:
        found.append(short(Path(os.readlink(f"/proc/self/fd/{handle}"))))
        real(handle)

    def replace(self: Path, target: Path) -> Path:
        if not self.name.startswith(".known"):  # digests, which may be lost
            found.append(f"{short(self)} -> {short(target)}")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    return found


def test_all_is_synced_before_the_manifest_and_the_manifest_before_the_directory_appears(
    tmp_path: Path, done: list[str]
) -> None:
    with stage(tmp_path / "out", "out", {}, {}) as work:
        (work.path / "a.txt").write_text("a")
        (work.path / "deep").mkdir()
        (work.path / "deep" / "b.txt").write_text("b")
    manifest = read_manifest(tmp_path / "out")
    assert manifest is not None
    assert set(manifest["files"]) == {"a.txt", "deep/b.txt"}
    assert done == [
        *("a.txt", "b.txt", ".out", "deep"),  # a directory, for the names in it
        *(".manifest.json", ".manifest.json -> manifest.json"),
        *(".out", ".out", ".out -> out", tmp_path.name),
    ]
    done.clear()
    with stage(tmp_path / "out", "out", {}, {}):
        pass
    assert done[-4:] == [".out", "out -> .out", ".out -> out", tmp_path.name], "the old one leaves its place last"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_of_a_directory_in_use_the_files_of_the_result_are_synced(tmp_path: Path, done: list[str]) -> None:
    for name in ("log.jsonl", "notes", "model.safetensors"):
        (tmp_path / name).write_text(name)
    write_manifest(tmp_path, {}, Stage(tmp_path), 0.0, ("*.safetensors", "log.jsonl"))
    assert done[:3] == ["log.jsonl", "model.safetensors", tmp_path.name]
    assert (done[-2], done[-1]) == (f".{MANIFEST} -> {MANIFEST}", tmp_path.name)


def test_a_stage_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    with stage(tmp_path / "out", "out", {}, {}) as work:
        (work.path / "a.txt").write_text("a")
    with pytest.raises(RuntimeError), stage(tmp_path / "out", "out", {"x": 1}, {}) as work:  # noqa: PT012
        (work.path / "a.txt").write_text("b")
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "a.txt").read_text() == "a"

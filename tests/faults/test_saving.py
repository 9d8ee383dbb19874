"""A save that is cut off, refused by the disk, or damaged afterwards, at every place where that can happen.

All calls that change the disk are watched while ``checkpoint.write`` runs in this process. A safetensors file, which
Rust writes, counts as one write; of every write, half of it is a case too.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from distributed_support import environment
from fake_engine import fake_engine

from tracestill.data_pipeline.base.errors import InputError
from tracestill.trainer.checkpoint import checkpoint
from tracestill.trainer.checkpoint.files import committed, damaged, path_of

WRITES = ("save_file", "write_text")
CALLS = ("mkdir", "fsync", "rename", "replace", "unlink", "rmdir")
Tree = dict[str, bytes | None]  # path -> content; None: a directory


@contextmanager
def watched(before: Callable[[str], None], after: Callable[[str], None]) -> Iterator[None]:
    """Call ``before`` and ``after`` around everything that changes the disk, with its name and first argument."""

    def wrap(name: str, plain: Callable[..., Any], at: int = 0) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            label = f"{name} {arguments[at]}"
            before(label)
            result = plain(*arguments, **more)
            after(label)
            return result

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "save_file", wrap("save_file", checkpoint.save_file, 1))
        patch.setattr(Path, "write_text", wrap("write_text", Path.write_text))
        for name in CALLS:
            patch.setattr(os, name, wrap(name, getattr(os, name)))
        yield


class Disk:
    """What of ``root`` outlives a power cut: contents as of a file's last fsync, names as of their directory's."""

    def __init__(self, root: Path) -> None:
        self.root, self.held = root, {}  # inodes are held open, or the file system would use their numbers again
        self.data: dict[int, bytes] = {}
        self.names: dict[int, dict[str, int]] = {}
        self.look()
        for path in [root, *root.rglob("*")]:
            self.persist(path)

    def look(self) -> None:
        for path in [self.root, *self.root.rglob("*")]:
            number = path.stat().st_ino
            if number not in self.held:
                self.held[number] = (os.open(path, os.O_RDONLY), path.is_dir())

    def persist(self, path: Path) -> None:
        number = path.stat().st_ino
        if path.is_dir():
            self.names[number] = {child.name: child.stat().st_ino for child in path.iterdir()}
        else:
            self.data[number] = path.read_bytes()

    def persist_handle(self, handle: int) -> None:
        self.look()
        number = os.fstat(handle).st_ino
        (path,) = [p for p in [self.root, *self.root.rglob("*")] if p.stat().st_ino == number]
        self.persist(path)

    def close(self) -> None:
        for handle, _ in self.held.values():
            os.close(handle)

    def now(self) -> Tree:
        """A kill: all that was written is there."""
        return {
            str(p.relative_to(self.root)): None if p.is_dir() else p.read_bytes() for p in sorted(self.root.rglob("*"))
        }

    def names_only(self) -> Tree:
        """A power cut after which all names are there, and contents only if they were synced."""
        return {
            name: None if old is None else self.data.get((self.root / name).stat().st_ino, b"")
            for name, old in self.now().items()
        }

    def synced_only(self) -> Tree:
        """A power cut after which nothing is there that was not synced."""
        found: Tree = {}

        def walk(number: int, at: str) -> None:
            for name, child in sorted(self.names.get(number, {}).items()):
                is_folder = self.held[child][1]
                found[at + name] = None if is_folder else self.data.get(child, b"")
                if is_folder:
                    walk(child, f"{at}{name}/")

        walk(self.root.stat().st_ino, "")
        return found


def materialise(tree: Tree, root: Path) -> None:
    for name, content in tree.items():
        if content is None:
            (root / name).mkdir(parents=True)
        else:
            (root / name).write_bytes(content)


def halved(tree: Tree, before: Tree) -> Tree:
    """Of what has changed, the first half."""
    return {
        name: value if value is None or before.get(name) == value else value[: len(value) // 2]
        for name, value in tree.items()
    }


def step_of(root: Path) -> int:
    """The step of the newest whole checkpoint, which holds what belongs to its step."""
    found = checkpoint.latest(root)
    assert found is not None
    engine = fake_engine(0.0)
    state = checkpoint.load(engine, found)
    assert engine.module.weight.unique().tolist() == [float(state["of"])]
    assert found == path_of(root, state["of"])
    return int(state["of"])


def save(root: Path, step: int, keep: int) -> None:
    checkpoint.save(fake_engine(float(step)), root, step, {"of": step}, keep=keep)


def cut_everywhere(root: Path, act: Callable[[], None]) -> list[tuple[str, Tree]]:
    """What would be on the disk, had the process been killed or the power cut before, in or after each call."""
    disk, found, last = Disk(root), [], [Tree()]

    def note(label: str) -> None:
        disk.look()
        now = disk.now()
        found.extend((f"{label}: {how.__name__}", how()) for how in (disk.now, disk.names_only, disk.synced_only))
        if label.startswith(WRITES):
            found.append((f"{label}: half of it", halved(now, last[0])))
        last[0] = now

    def after(label: str) -> None:
        name, _, argument = label.partition(" ")
        if name == "fsync":
            disk.persist_handle(int(argument))
        note(label)

    last[0] = disk.now()
    with watched(lambda label: None, after):
        note("the beginning")
        act()
    found.extend((f"the end: {how.__name__}", how()) for how in (disk.now, disk.names_only, disk.synced_only))
    disk.close()
    return found


@pytest.mark.parametrize("keep", [1, 2])
def test_cut_off_anywhere_the_newest_whole_checkpoint_is_the_old_or_the_new_one(tmp_path, keep, counted):
    root = tmp_path / "checkpoints"
    save(root, 1, keep)
    save(root, 2, keep)
    cases = cut_everywhere(root, lambda: save(root, 3, keep))
    labels = [label for label, _ in cases]
    for name, least in {"save_file": 12, "write_text": 8, "fsync": 21, "rename": 3, "replace": 6, "mkdir": 3}.items():
        assert sum(label.startswith(name) for label in labels) >= least, labels
    seen = []
    for number, (label, tree) in enumerate(cases):
        materialise(tree, again := tmp_path / str(number))
        seen.append((label, step_of(again)))
        if number % 8 == 0:  # and training goes on from there
            save(again, 4, keep)
            assert step_of(again) == 4
            assert not list(again.glob("tmp-*"))
        shutil.rmtree(again)
    assert {step for _, step in seen} == {2, 3}
    assert {step for label, step in seen if label.startswith("the end")} == {3}, "once a save returns, it is safe"
    counted("a save cut off by a kill or a power cut", len(cases), "the old or the new checkpoint is taken")


def test_a_step_that_is_saved_again_is_never_lost(tmp_path, counted):
    """As after a resume from before it. Between two renames neither is in place, so the one before it counts."""
    root = tmp_path / "checkpoints"
    save(root, 1, 2)
    save(root, 2, 2)
    cases = cut_everywhere(root, lambda: save(root, 2, 2))
    for number, (label, tree) in enumerate(cases):
        materialise(tree, again := tmp_path / str(number))
        assert step_of(again) in (1, 2), label
    assert label.startswith("the end")
    assert step_of(again) == 2
    counted("a save cut off by a kill or a power cut", len(cases), "the step's checkpoint or the one before is taken")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_refuses_any_call_is_named_and_costs_no_checkpoint(tmp_path, number, counted):
    calls: list[str] = []
    with watched(calls.append, lambda label: None):
        save(tmp_path / "counted", 1, 1)
    assert len(calls) >= 16
    for nth in range(len(calls)):
        root, hits = tmp_path / str(nth), []
        save(root, 1, 1)

        def refuse(label: str, n: int = nth, hits: list[str] = hits) -> None:
            hits.append(label)
            if len(hits) == n + 1:
                path = label.split(" ", 1)[1]
                if label.startswith(WRITES):  # some of it was written
                    Path(path).write_bytes(b"some of it")
                raise OSError(number, os.strerror(number), path)

        with watched(refuse, lambda label: None), pytest.raises(InputError, match=os.strerror(number)) as caught:
            save(root, 2, 1)
        assert caught.value.exit_code == (5 if number == errno.ENOSPC else 2), hits[nth]
        assert "checkpoint" in str(caught.value)
        assert step_of(root) in (1, 2), hits[nth]
        save(root, 3, 1)
        assert [path.name for path in root.iterdir()] == ["step-000003"], hits[nth]
    fault = f"a call of a save answered with {errno.errorcode[number]}, by a patch"
    counted(fault, len(calls), "one clear error, the older checkpoint whole, the next save works")


FILL = """
import sys
from pathlib import Path
from fake_engine import fake_engine
from tracestill.data_pipeline.base.errors import NoRoomError
from tracestill.trainer.checkpoint import checkpoint

root, step = Path(sys.argv[1]) / "checkpoints", 0
root.mkdir()
try:
    while step < 9:
        checkpoint.save(fake_engine(1.0, width=300), root, step := step + 1, {}, keep=99)
except NoRoomError as error:
    newest = checkpoint.latest(root)
    assert newest is not None
    print(step, newest.name, sorted(path.name for path in root.iterdir()), error)
"""


def test_a_disk_that_is_really_full(tmp_path, counted):
    """A file system of 64 KiB; the kernel refuses what safetensors or Python writes."""
    own = [shutil.which("unshare") or "", "--user", "--map-root-user", "--mount"]
    if not own[0] or subprocess.run([*own, "mount", "-t", "tmpfs", "none", str(tmp_path)], check=False).returncode:
        pytest.skip("NO FILE SYSTEM CAN BE MOUNTED HERE")
    script = 'mount -t tmpfs -o size=64k none "$1" && exec "$0" -c "$2" "$1"'
    words = [*own, "sh", "-c", script, sys.executable, str(tmp_path), FILL]
    found = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=100, check=False)
    assert found.returncode == 0, found.stderr
    step, newest, rest = found.stdout.split(" ", 2)
    assert int(step) > 1, "some of it fitted"
    assert newest == f"step-{int(step) - 1:06d}"
    assert "tmp-" not in rest.partition("]")[0]
    assert "No space left on device" in rest
    counted("a file system that is full", 1, "one clear error, the older checkpoint whole")


def test_every_flipped_bit_and_every_cut_is_found_and_named(tmp_path, capsys, counted):
    random.seed(0)
    save(tmp_path, 1, 2)
    save(tmp_path, 2, 2)
    newest = path_of(tmp_path, 2)
    files = sorted(newest.iterdir())
    assert len(files) == 5
    for trial in range(200):
        file = files[trial % len(files)]
        whole = file.read_bytes()
        if trial % 4 == 3:
            broken = whole[: random.randrange(len(whole))]
        else:
            at, bit = random.randrange(len(whole)), random.randrange(8)
            broken = whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :]
        file.write_bytes(broken)
        said = f"trial {trial}: {file.name}"
        assert checkpoint.latest(tmp_path) == path_of(tmp_path, 1), said
        named = damaged(newest)
        assert named, said
        assert named == [file.name] or file.name == "manifest.json", said
        assert f"{newest} is passed over: {named[0]}" in capsys.readouterr().err, said
        file.write_bytes(whole)
    assert step_of(tmp_path) == 2
    assert len(committed(tmp_path)) == 2
    counted("a bit flipped in a checkpoint", 150, "the file is named, the checkpoint before is taken")
    counted("a file of a checkpoint cut short", 50, "the file is named, the checkpoint before is taken")


def test_a_checkpoint_of_another_step_in_its_place_is_no_checkpoint(tmp_path):
    save(tmp_path, 1, 2)
    shutil.copytree(path_of(tmp_path, 1), path_of(tmp_path, 2))
    assert damaged(path_of(tmp_path, 2)) == ["manifest.json"]
    assert step_of(tmp_path) == 1

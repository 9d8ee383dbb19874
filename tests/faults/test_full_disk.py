"""A disk that is full, at any level, in any stage: exit code 5, a line that says what is kept, and going on works."""

from __future__ import annotations

import errno
import gc
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fake_run import claim, mini_recipe, run_data_stages, write_evaluation, write_train
from safetensors import SafetensorError
from typer.testing import CliRunner

from tracestill.data_pipeline.base.errors import InputError, NoRoomError
from tracestill.data_pipeline.base.room import cause_of, has_room, needs_room
from tracestill.data_pipeline.base.stage import read_manifest, stage
from tracestill.data_pipeline.sampling.journal import Journal, Key
from tracestill.data_pipeline.sampling.journal_recovery import recover
from tracestill.data_pipeline.sampling.teachers import Solution
from tracestill.launch import cli
from tracestill.launch.bench import bench
from tracestill.launch.start import deepspeed_command
from tracestill.trainer.faults import stopping
from tracestill.trainer.recipe.run_directory import RunDirectory

STAGES = {  # what each writes, of arm traces; and a file that is equal in every run
    "sample": ("sample", "records.parquet"),
    "select": ("select", "records.parquet"),
    "encode": ("arms/traces/encode", "tokens.arrow"),
    "plan": ("arms/traces/plan", "epoch-000/documents.npy"),
    "evaluate": ("arms/untrained/evaluate", "predictions.parquet"),
    "report": ("report", None),
}
FEW = {  # KiB: in these, writes fail at different places
    "sample": (0, 8, 44, 76, 120),
    "select": (0, 8),
    "encode": (0, 12, 40),
    "plan": (0, 4, 16),
    "evaluate": (4,),
    "report": (0, 8),
}
ARMS = {"untrained": {"train": "none"}}


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """A small file system of its own."""
    place = tmp_path_factory.mktemp("disk")
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tracestill-test", str(place)]
    if os.geteuid() or shutil.which("mount") is None or subprocess.run(command, check=False).returncode:
        pytest.skip("NO FULL DISK HERE: to mount a tmpfs needs root")
    yield place
    gc.collect()  # tracebacks hold files of it
    subprocess.run(["umount", str(place)], check=True)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    run = claim(tmp_path_factory.mktemp("undisturbed") / "run", mini_recipe(arms=ARMS))
    run_data_stages(run)
    write_train(run, "traces")
    write_evaluation(run, "traces", 0.5)
    for name in ("evaluate", "report"):
        assert invoke(name, run.root).exit_code == 0
    return run


def invoke(stage, root):
    arm = ["--arm", "untrained"] if stage == "evaluate" else []
    return CliRunner().invoke(cli.app, [stage, str(root), *arm])


def fill(place, kib):
    """Write a file that leaves ``kib`` KiB of a file system."""
    with (place / "ballast").open("wb") as ballast:
        room = os.statvfs(place)
        os.posix_fallocate(ballast.fileno(), 0, room.f_bavail * room.f_frsize - kib * 1024)


def before(undisturbed, place, stage):
    """A copy of a run in which a stage, and what comes after it, has not run."""
    root = place / "run"
    shutil.rmtree(root, ignore_errors=True)
    (place / "ballast").unlink(missing_ok=True)
    shutil.copytree(undisturbed.root, root)
    names = list(STAGES)
    for name in names[names.index(stage) :]:
        shutil.rmtree(root / STAGES[name][0], ignore_errors=True)
    if stage == "sample":
        for path in root.glob("journal.sqlite*"):
            path.unlink()
    if stage == "encode":
        shutil.rmtree(root / "tokenizer")
    return root


def left_over(root):
    return [p for p in root.rglob("*") if p.name.endswith((".partial", ".tmp", ".recovered")) or ".lock" in p.name]


def go(undisturbed, place, stage, kib):
    """Run a stage with ``kib`` KiB left; if that fails, see what is said, make room and run it again."""
    root = before(undisturbed, place, stage)
    fill(place, kib)
    found = invoke(stage, root)
    assert found.exit_code in (0, 5), (kib, found.output, found.exception)
    assert not left_over(root), kib
    if found.exit_code == 5:
        (line,) = [line for line in found.stderr.splitlines() if line.startswith("error: ")]
        assert re.fullmatch(rf"error: {root}\S*: no room .*; make room and run the same command again", line), line
        (place / "ballast").unlink()
        kept = 0
        if stage == "sample":
            with Journal(root / "journal.sqlite") as book:
                kept = book.count()
            assert not kept or f"{kept} samples are kept in" in line, (kib, kept, line)
        again = invoke(stage, root)
        assert again.exit_code == 0, (kib, again.output, again.exception)
        if stage == "sample":
            assert read_manifest(root / "sample")["counts"]["from_journal"] == kept
    directory, same = STAGES[stage]
    assert read_manifest(root / directory) is not None
    if same is not None:
        assert (root / directory / same).read_bytes() == (undisturbed.root / directory / same).read_bytes(), kib
    return found.exit_code


@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk_in_every_stage(undisturbed, disk, stage):
    codes = [go(undisturbed, disk, stage, kib) for kib in FEW[stage]]
    assert codes[0] == 5


@pytest.mark.soak
@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk_at_every_level(undisturbed, disk, stage):
    most, step = {"evaluate": (452, 12), "report": (1600, 24)}.get(stage, (452, 4))  # 4: a page of the file system
    codes = [go(undisturbed, disk, stage, kib) for kib in range(0, most, step)]
    assert codes[0] == 5
    assert codes[-1] == 0 or stage == "sample"  # whose journal needs more


@pytest.mark.parametrize("share", [0, 0.3, 0.9, 1.02, 1.1, 1.3, 1.6, 1.9, 2.2])
def test_a_damaged_journal_is_made_anew_whole_or_not_at_all(disk, share):
    """With about as much room as it takes itself, SQLite's log would hold what its file then lacks."""
    shutil.rmtree(disk / "run", ignore_errors=True)
    (disk / "ballast").unlink(missing_ok=True)
    path = disk / "run" / "journal.sqlite"
    with Journal(path) as book:
        rows = [Key(f"q{i}", "solver", "", 1.0, i) for i in range(60)]
        for key in rows:
            book.add(key, "b" * 16, Solution(f"{key.index} " * 5000, "1", ()))
    damaged = b"\xaa" * 4096 + path.read_bytes()[4096:]
    path.write_bytes(damaged)
    fill(disk, int(share * len(damaged) / 1024))
    said = None
    try:
        assert recover(path) == (60, path.with_name("journal.damaged-1.sqlite"))
    except NoRoomError as error:
        said = str(error)
    assert share < 2 or said is None
    if said is not None:
        assert re.fullmatch(rf"{path}: no room .*; it is as it was; make room and run the same command again", said)
        assert [(file.name, file.read_bytes()) for file in path.parent.iterdir()] == [("journal.sqlite", damaged)]
        (disk / "ballast").unlink()
        assert recover(path)[0] == 60
    with Journal(path) as book:
        assert len(list(book.rows([(key, "b" * 16) for key in rows]))) == 60


def test_a_run_that_finds_no_room_for_its_recipe(undisturbed, disk):
    shutil.rmtree(disk / "run", ignore_errors=True)
    fill(disk, 0)
    recipe = undisturbed.root / "recipe.yaml"
    found = CliRunner().invoke(cli.app, ["sample", str(recipe), "--run-dir", str(disk / "run")])
    assert found.exit_code == 5, found.output
    assert "choose another" not in found.stderr
    assert not (disk / "run").exists()
    (disk / "ballast").unlink()
    assert CliRunner().invoke(cli.app, ["sample", str(recipe), "--run-dir", str(disk / "run")]).exit_code == 0


def test_a_disk_that_may_not_be_written_to_is_another_matter(undisturbed, disk):
    root = before(undisturbed, disk, "select")
    gc.collect()  # tracebacks hold files of it
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    try:
        found = invoke("select", root)
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    assert found.exit_code == 2
    assert found.stderr.splitlines() == [
        f"error: {root}: cannot be written to (Read-only file system); choose another --run-dir"
    ]


def of_rust():
    raise Exception("No space left on device (os error 28)")


def of_safetensors():
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def of_quota():
    raise OSError(errno.EDQUOT, "Disk quota exceeded", "x")


def of_arrow():
    raise OSError("[Errno 28] Error writing bytes to file. Detail: [errno 28] No space left on device")


def of_sqlite():
    raise sqlite3.OperationalError("database or disk is full")


def of_a_wrapped_error():
    try:
        of_quota()
    except OSError as error:
        raise InputError("the teacher failed") from error


@pytest.mark.parametrize("act", [of_rust, of_safetensors, of_quota, of_arrow, of_sqlite, of_a_wrapped_error])
def test_every_library_s_words_for_a_full_disk(tmp_path, act):
    with pytest.raises(NoRoomError, match="run the same command again"), needs_room(tmp_path):
        act()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EACCES, "Permission denied", "x"),
        OSError("64 requested and 12 written"),
        sqlite3.OperationalError("disk I/O error"),
        ValueError("[Errno 28] in a text"),
        InputError("No space left on device (os error 28), says a text"),
        RuntimeError("the server replied 500: No space left on device (os error 28)"),
    ],
)
def test_what_is_no_full_disk_stays_what_it_is(tmp_path, error):
    with pytest.raises(type(error)) as caught, needs_room(tmp_path):
        raise error
    assert caught.value is error


def test_where_words_leave_it_open_the_disk_is_asked(disk):
    fill(disk, 8)
    assert not has_room(disk / "not/there/yet")
    assert cause_of(sqlite3.OperationalError("disk I/O error"), disk) is not None
    with pytest.raises(NoRoomError), needs_room(disk):  # NumPy says how much it wrote, and no error number
        np.save(disk / "array.npy", np.zeros(1 << 14))
    (disk / "array.npy").unlink()
    fill(disk, 1024)
    assert has_room(disk)
    assert cause_of(sqlite3.OperationalError("disk I/O error"), disk) is None


def test_ranks_go_on_where_their_log_finds_no_room():
    """Nobody reads what they print then, and a pipe that is full would hold them for ever."""
    talk = "for i in range(3000): print('x' * 100)"
    deepspeed_command.run([sys.executable, "-c", talk], Path("/dev/full"), os.environ)


def test_what_ranks_say_of_a_full_disk_counts_where_they_could_leave_no_word():
    talk = "print('error: x: [Errno 28] No space left on device'); raise SystemExit(5)"
    with pytest.raises(NoRoomError):
        deepspeed_command.run([sys.executable, "-c", talk], Path(os.devnull), os.environ)


def test_a_full_disk_is_no_result_of_a_benchmark(tmp_path, monkeypatch):
    def full(*arguments, **more):
        raise NoRoomError("no room")

    monkeypatch.setattr(deepspeed_command, "run", full)
    monkeypatch.setattr(deepspeed_command, "start_ranks", lambda *_: deepspeed_command.Start([], {}, 1, False))
    with pytest.raises(NoRoomError):
        bench.Bench.outcome(SimpleNamespace(threads=1, run=SimpleNamespace(root=tmp_path)), tmp_path, [], 1, None)


def test_a_stop_is_asked_for_on_a_full_disk_too(disk):
    fill(disk, 0)
    stopping.request(disk, "SIGTERM")
    assert (disk / stopping.REQUEST).exists()
    (disk / stopping.REQUEST).unlink()


def test_a_finished_stage_stays_if_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    def make(text):
        with stage(tmp_path / "made", "made", {}, {}) as work:
            (work.path / "file").write_text(text)

    make("old")
    replace = Path.replace

    def full(self, target):
        if Path(target).name == "made" and (self / "file").read_text() == "new":
            raise OSError(errno.ENOSPC, "No space left on device", str(target))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(NoRoomError):
        make("new")
    assert (tmp_path / "made/file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_a_name_before_the_recipe_is_no_foreign_directory(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/.known.json").write_text("{}")
    assert RunDirectory.create(tmp_path / "run", mini_recipe())
    (tmp_path / "other").mkdir()
    (tmp_path / "other/notes.txt").write_text("mine")
    with pytest.raises(InputError, match="not a run directory"):
        RunDirectory.create(tmp_path / "other", mini_recipe())

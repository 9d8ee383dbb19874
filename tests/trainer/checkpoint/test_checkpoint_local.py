"""Checkpoints on two hosts that share no file system: exact resuming, one choice for all, and nothing lost unsaid."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from distributed_support import run_workers

from tracestill.trainer.checkpoint import checkpoint
from tracestill.trainer.checkpoint.files import MANIFEST, complete
from tracestill.trainer.ranks.placement import spelled

WORKER = Path(__file__).with_name("checkpoint_local_worker.py")
STAGES = ("0", "2", "3")
GROUPS = ["-group-000.safetensors", "-group-001.safetensors"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("local")
    run_workers(WORKER, root, ranks=2)
    return root


@pytest.fixture(scope="module")
def found(root: Path) -> dict[str, Any]:
    return json.loads((root / "found.json").read_text())


@pytest.mark.parametrize("stage", STAGES)
def test_going_on_from_the_parts_is_bit_for_bit_the_uninterrupted_run(found, stage):
    resumed = found["resume"][stage]
    assert resumed["same"]
    assert resumed["again"] == resumed["losses"]
    assert resumed["state"] == {"identity": {"stage": "train", "of": "this"}, "note": [0]}, "rank 0's on every host"
    assert resumed["buffer"] == [0.0, 1.0]


@pytest.mark.parametrize("stage", STAGES)
def test_each_host_has_its_part_and_the_same_manifest(found, stage):
    resumed = found["resume"][stage]
    groups = 0 if stage == "0" else 2
    own = [[f"rank-0000{r}{g}" for g in [*GROUPS[:groups], ".safetensors"]] for r in (0, 1)]
    assert resumed["files"] == [[MANIFEST, *names, "state.json"] for names in own]
    first, second = resumed["manifests"]
    assert first == second
    manifest = json.loads(first)
    assert manifest["local"] == [["a", [0]], ["b", [1]]]
    assert set(manifest["files"]) == {*own[0], *own[1], "state.json"}


@pytest.mark.parametrize("stage", STAGES)
def test_all_files_in_one_directory_are_an_ordinary_checkpoint(root, found, stage):
    assert found["resume"][stage]["ordinary"]
    joined = root / f"joined/zero{stage}/step-000002"
    assert checkpoint.latest(joined.parent) == joined
    assert complete(joined, parts=False)


def test_on_as_many_ranks_only_what_rank_0_keeps_is_sent(found):
    assert [found["resume"][stage]["sent"] for stage in ("2", "3")] == [["buffer/model.seed"]] * 2
    assert "exp_avg/model.lm_head.weight" in found["resume"]["0"]["sent"], "each rank wrote a half of what all need"


def test_a_rank_reads_what_others_do_not_want(found):
    assert found["states"] == [11.0, 20.0, 10.0, 21.0]


NEWER = {
    "untouched": "step-000003",
    "newer on one": "step-000002",
    "another one": "step-000002",
    "unreadable on both": "step-000002",
    "damaged": "step-000002",
    "damaged state": "step-000002",
    "lost, another training": "none",
    "joined on both": "step-000003",
    "nothing": "none",
    "after full": "step-000003",
    "after again": "step-000004",
}


@pytest.mark.parametrize("case", NEWER)
def test_the_newest_that_all_hosts_have_is_taken(found, case):
    assert found["latest"][case] == NEWER[case]


def test_a_host_that_lost_its_part_is_named(found):
    said = found["latest"]["lost"]
    assert "step-000003: cannot be resumed from: a (rank 0) has the file(s) of rank 0; b (rank 1) has nothing" in said
    assert "written by a (rank 0) and b (rank 1)" in said


def test_damage_is_not_taken_for_another_placement(found):
    said = found["latest"]["damaged everywhere"]
    assert "step-000003: cannot be resumed from (the lines above say which file is damaged): a (rank 0) has" in said
    assert "(the lines above" not in found["latest"]["lost"]


def test_hosts_in_another_order_are_refused(found):
    said = found["latest"]["swapped"]
    assert "a (rank 0) has the file(s) of rank 1; b (rank 1) has the file(s) of rank 0" in said
    assert "copy all of its files into one directory" in said


def test_nothing_is_deleted_before_all_hosts_have_committed(found):
    full = "cannot commit the checkpoint (rank 1: [Errno 28] No space left on device); make room and run the same "
    assert found["latest"]["full"] == full + "command again"
    assert found["latest"]["after full"] == "step-000003"
    assert found["latest"]["again"] == "written"
    assert found["latest"]["left"] == "step-000004", "keep: 1"


def test_hosts_that_share_a_disk_are_told_so(found):
    assert found["sharing"]["own"] == "empty"
    assert re.search(r"set train.local_checkpoints: false if they share it \(rank [01]: ", found["sharing"]["shared"])


def test_parts_are_not_passed_over_when_the_key_is_taken_away(found):
    assert found["sharing"]["parts"].endswith("or copy all of its files into this directory")
    assert "step-000002: lacks files that lie on other hosts" in found["sharing"]["parts"]
    assert (found["sharing"]["parts of another"], found["sharing"]["joined"]) == ("zero0", "zero0")
    assert found["sharing"]["joined, one cut off"] == "cut", "damage: it is passed over"


def test_the_parent_takes_one_hosts_part_for_whole(root):
    """It sees its own host's disk only, and the sizes of files."""
    part = root / "host-0/zero0/step-000002"
    assert complete(part)
    assert not complete(part, parts=False)
    file = part / "rank-00000.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:-1])
    assert not complete(part)
    file.write_bytes(data)
    (part / "state.json").rename(part / "gone")
    assert not complete(part)
    (part / "gone").rename(part / "state.json")


@pytest.mark.parametrize(
    ("ranks", "words"), [([3], "rank 3"), ([0, 1], "ranks 0, 1"), ([4, 5, 6], "ranks 4 to 6"), ([0, 2], "ranks 0, 2")]
)
def test_ranks_in_words(ranks, words):
    assert spelled(ranks) == words


def test_a_host_that_is_not_there_is_no_damage(tmp_path):
    from tracestill.trainer.checkpoint.local import lost
    from tracestill.trainer.ranks.placement import Placement

    held = {"manifest": "x", "parts": [0], "local": [["a", [0]], ["b", [1]]], "same": True}
    alone = Placement(("a",), ((0,),), 0)
    assert "cannot be resumed from: a (rank 0) has" in lost(tmp_path / "step-000001", alone, [held])
    whole = {**held, "local": [["a", [0]]]}
    assert "the lines above say which file is damaged" in lost(tmp_path / "step-000001", alone, [whole])

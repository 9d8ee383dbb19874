"""Checkpoints: exact resuming, other ranks and stages, and a commit that may be cut off anywhere."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from distributed_support import run_workers
from fake_engine import fake_engine
from rich.console import Console
from safetensors.torch import load_file
from stored_tensors import stored_tensors
from torch import nn

from tracestill.data_pipeline.base.errors import InputError
from tracestill.trainer.assembly import resume
from tracestill.trainer.assembly.job import Job, Progress
from tracestill.trainer.checkpoint import checkpoint
from tracestill.trainer.checkpoint.files import MANIFEST, STATE
from tracestill.trainer.engine import zero
from tracestill.trainer.ranks.placement import Placement
from tracestill.trainer.weighting import Weighting

WORKER = Path(__file__).with_name("checkpoint_worker.py")
STAGES = ("0", "1", "2", "3")


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A directory in which two ranks saved, resumed and loaded (checkpoint_worker.py)."""
    directory = tmp_path_factory.mktemp("checkpoints")
    run_workers(WORKER, "save", directory, ranks=2)
    return directory


@pytest.fixture(scope="module", params=[1, 3])
def loaded(request, saved) -> tuple[Path, int]:
    """The same, after loading on another number of ranks; one rank without the launcher."""
    for ranks in (1, request.param):  # several ranks load what one wrote, too
        if not (saved / f"ranks-{ranks}.json").exists():
            run_workers(WORKER, "load", saved, ranks=0 if ranks == 1 else ranks)
    return saved, request.param


def results(directory: Path, ranks: int) -> dict[str, Any]:
    return json.loads((directory / f"ranks-{ranks}.json").read_text())


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert [name for name in a if a[name].shape != b[name].shape or bits(a[name]) != bits(b[name])] == []


def test_frozen_parameters_of_a_base_are_named_not_stored(tmp_path):
    def half(value: float, base: str | None) -> Any:
        engine = fake_engine(value)
        engine.module.weight.requires_grad_(False)
        engine.base = base
        return engine

    whole = checkpoint.save(half(1.0, None), tmp_path / "whole", 1, {})
    part = checkpoint.save(half(1.0, "a" * 64), tmp_path / "part", 1, {"note": 1})
    frozen = {"parameter/weight"}
    assert stored_tensors(whole).keys() - stored_tensors(part).keys() == frozen
    resumed = half(3.0, "a" * 64)
    assert checkpoint.load(resumed, part) == {"note": 1}
    assert (resumed.module.weight == 3.0).all(), "what the base holds"
    assert torch.equal(resumed.module.bias, stored_tensors(part)["parameter/bias"]), "what was trained"
    checkpoint.load(resumed, whole)
    assert (resumed.module.weight == 1.0).all(), "an older checkpoint holds everything"
    for other in ("b" * 64, None):
        with pytest.raises(InputError, match=r"another base model .sha256 aaaaaaaaaaaa, this one: (b{12}|None)"):
            checkpoint.load(half(3.0, other), part)


@pytest.mark.parametrize("stage", STAGES)
def test_resuming_is_bit_for_bit_the_uninterrupted_run(saved, stage):
    found = results(saved, 2)["resume"][stage]
    assert found["same"]
    assert found["again"] == found["losses"]
    assert found["state"] == {"note": [int(stage), "a"]}
    assert found["path"] == "step-000003"
    assert found["overlapped"], "a step was taken while the disk was waited for"
    assert found["buffer"] == [0.0, 1.0], "as it was when the save began"


def test_older_checkpoints_of_whole_tensors_are_loaded(saved):
    assert results(saved, 2)["older"] is True
    assert json.loads((saved / "zero3/step-000003" / MANIFEST).read_text())["format"] == 3


@pytest.mark.parametrize("stage", STAGES[1:])
def test_the_files_hold_what_deepspeed_holds(saved, stage):
    seen = load_file(saved / f"zero{stage}.safetensors")
    stored = stored_tensors(saved / f"zero{stage}" / "step-000003")
    beside = {"parameter/model.model.embed_tokens.weight"} if stage in "13" else set()  # frozen
    beside |= {"buffer/model.seed"} | {name for name in stored if name.startswith("average/")}
    assert_same({name: stored[name] for name in stored.keys() - beside}, seen)
    assert beside <= stored.keys()


@pytest.mark.parametrize("stage", STAGES)
def test_the_average_is_torchs_and_measures_without_a_trace(saved, stage):
    found = results(saved, 2)["average"][stage]
    assert found["error"] < 1e-6
    assert found["moved"] > 1e-3, "it is not the parameters themselves"
    assert found["measured"] < 1e-5
    assert found["untouched"]
    assert found["frozen"] == (stage in "13")
    stored = stored_tensors(saved / f"zero{stage}" / "step-000003")
    trained = {name.removeprefix("exp_avg/") for name in stored if name.startswith("exp_avg/")}
    assert {name.removeprefix("average/") for name in stored if name.startswith("average/")} == trained


@pytest.mark.parametrize("stage", STAGES)
def test_ranks_share_the_writing(saved, stage):
    path = saved / f"zero{stage}" / "step-000003"
    sizes = [sum(file.stat().st_size for file in path.glob(f"rank-0000{rank}*")) for rank in (0, 1)]
    groups = [len([*path.glob(f"rank-0000{rank}-group-*")]) for rank in (0, 1)]
    assert groups == ([0, 0] if stage == "0" else [2, 2])
    assert min(sizes) > 0.2 * max(sizes)


@pytest.mark.parametrize("stage", STAGES)
def test_on_another_number_of_ranks_and_stage_the_state_is_the_same(loaded, stage, counted):
    directory, ranks = loaded
    again = directory / f"again-{ranks}" / f"zero{stage}" / "step-000003"
    assert_same(stored_tensors(again), stored_tensors(directory / f"zero{stage}" / "step-000003"))
    here, there = results(directory, ranks)["load"][stage], results(directory, 2)["load"][stage]
    assert here["loss"] == pytest.approx(there["loss"], rel=1e-6)
    assert here["norm"] == pytest.approx(there["norm"], rel=1e-5)
    assert {"lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"} <= set(here["names"])
    counted(f"going on from 2 ranks on {ranks}", 1, "the same state, and a step that agrees to 1e-6")


@pytest.mark.parametrize("stage", ["0", "3"])
def test_several_ranks_load_what_one_wrote(loaded, stage, counted):
    directory, ranks = loaded
    if ranks == 1:
        ranks = 2
        if not (directory / "again-1/again-2").exists():
            run_workers(WORKER, "more", directory, ranks=2)
    again = directory / f"again-1/again-{ranks}/zero{stage}/step-000003"
    assert_same(stored_tensors(again), stored_tensors(directory / f"zero{stage}" / "step-000003"))
    counted(f"going on from 1 rank on {ranks}", 1, "the same state")


def test_ranks_that_see_different_checkpoints_take_the_same_one(saved, counted):
    """Rank 0 says which are there; and one that any rank finds damaged is passed over by all."""
    assert results(saved, 2)["disagreement"] == {"old": "step-000002", "damaged": "step-000001"}
    counted("ranks that see different newest checkpoints", 2, "all take the same one")


class Killed(BaseException):
    """Nothing catches it, like a signal."""


@pytest.mark.parametrize("nth", range(1, 18))
def test_killed_anywhere_the_checkpoint_before_is_the_latest(tmp_path, monkeypatch, nth):
    """The nth call that touches the disk never returns."""
    checkpoint.save(fake_engine(1.0), tmp_path, 1, {})
    calls = 0

    def dying(function):
        def wrapper(*arguments, **more):
            nonlocal calls
            calls += 1
            if calls == nth:
                raise Killed
            return function(*arguments, **more)

        return wrapper

    with monkeypatch.context() as patch:
        for name in ("save_file", "sync", "entry_of", "write_json"):
            patch.setattr(checkpoint, name, dying(getattr(checkpoint, name)))
        for name in ("mkdir", "rename"):
            patch.setattr(Path, name, dying(getattr(Path, name)))
        killed = False
        try:
            checkpoint.save(fake_engine(2.0), tmp_path, 2, {}, keep=5)
        except Killed:
            killed = True
    # mkdir, 3 times save_file, sync and digest, write_json, digest, write_json, sync, rename, sync
    assert killed == (nth <= 16)
    assert calls >= min(nth, 16)
    assert checkpoint.latest(tmp_path) == tmp_path / ("step-000001" if nth <= 15 else "step-000002")
    checkpoint.save(fake_engine(3.0), tmp_path, 3, {}, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000003"]


def test_killed_while_training_went_on_the_checkpoint_before_is_the_latest(tmp_path):
    run_workers(WORKER, "kill", tmp_path, fails=True)
    directory = tmp_path / "killed"
    assert checkpoint.latest(directory) == directory / "step-000000"
    (left,) = directory.glob("tmp-*")
    assert (left / "manifest.json").exists(), "all of it was written"


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "manifest", "no manifest"])
@pytest.mark.parametrize("file", ["rank-00000.safetensors", "rank-00000-group-001.safetensors", "state.json"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path, damage, file):
    for step in (1, 2):
        checkpoint.save(fake_engine(), tmp_path, step, {})
    newest = tmp_path / "step-000002"
    data = bytearray((newest / file).read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
        (newest / file).write_bytes(data)
    elif damage == "truncate":
        (newest / file).write_bytes(data[:-1])
    elif damage == "remove":
        (newest / file).unlink()
    elif damage == "manifest":
        (newest / "manifest.json").write_text("{}")
    else:
        (newest / "manifest.json").unlink()
    assert checkpoint.latest(tmp_path) == tmp_path / "step-000001"


def test_there_may_be_none(tmp_path):
    assert checkpoint.latest(tmp_path) is None
    assert checkpoint.latest(tmp_path / "nowhere") is None


def test_the_newest_are_kept_and_incomplete_ones_do_not_count(tmp_path):
    (tmp_path / "step-000009").mkdir()
    (tmp_path / "tmp-000002-00000000000000000000000000000000").mkdir()
    for step in (1, 2, 10, 1_000_000):
        checkpoint.save(fake_engine(), tmp_path, step, {}, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000009", "step-000010", "step-1000000"]
    assert checkpoint.latest(tmp_path) == tmp_path / "step-1000000"


def test_the_best_is_kept_besides_the_newest(tmp_path):
    (tmp_path / "step-000003").mkdir()  # incomplete
    for step in (1, 2, 4, 5, 6):
        checkpoint.save(fake_engine(), tmp_path, step, {}, keep=2, best=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"step-00000{step}" for step in (2, 3, 5, 6)]
    checkpoint.save(fake_engine(), tmp_path, 7, {}, keep=2, best=6)
    assert [p.name for p in checkpoint.committed(tmp_path) if checkpoint.whole(p)] == ["step-000006", "step-000007"]
    checkpoint.save(fake_engine(), tmp_path, 8, {}, keep=1, best=8)
    assert checkpoint.latest(tmp_path) == checkpoint.path_of(tmp_path, 8)
    assert not checkpoint.path_of(tmp_path, 6).exists()


def test_a_damaged_later_one_makes_way(tmp_path):
    for step in (5, 10):
        checkpoint.save(fake_engine(), tmp_path, step, {}, keep=1)
    (tmp_path / "step-000010" / "state.json").write_text("damaged")
    checkpoint.save(fake_engine(), tmp_path, 6, {}, keep=1)
    assert checkpoint.latest(tmp_path) == tmp_path / "step-000006"
    assert [path.name for path in tmp_path.iterdir()] == ["step-000006"]


@pytest.mark.parametrize("placement", [None, Placement(("a", "b"), ((0,), (1,)), 0)])
def test_what_was_passed_over_when_resuming_pushes_out_no_good_one(tmp_path, monkeypatch, placement):
    """It was damaged, or another host did not have it."""
    directory, who = tmp_path / "checkpoints", {"of": "this"}
    for step in (100, 137):
        checkpoint.save(fake_engine(), directory, step, {"identity": who}, keep=2)
    monkeypatch.setattr(resume, "newest", lambda of: directory / "step-000100")
    made = SimpleNamespace(
        **{"directory": tmp_path, "checkpoints": directory, "identity": who, "placement": placement, "leads": True},
        **{"progress": Progress(), "weighting": Weighting(), "engine": fake_engine(), "threads": None},
        **{"steps": 200, "console": Console(file=io.StringIO()), "own_texts": None},
        load=lambda path: {"step": 100, "skips": 0, "best": None},
    )
    resume.open_directory(made, "auto")
    checkpoint.save(fake_engine(), directory, 200, {"identity": who}, keep=2)
    assert sorted(path.name for path in directory.iterdir()) == ["step-000100", "step-000200"]


def test_a_step_saved_twice_is_replaced(tmp_path):
    checkpoint.save(fake_engine(1.0), tmp_path, 4, {})
    checkpoint.save(fake_engine(2.0), tmp_path, 4, {})
    found = fake_engine(0.0)
    checkpoint.load(found, tmp_path / "step-000004")
    assert found.module.weight.unique().tolist() == [2.0]
    assert [path.name for path in tmp_path.iterdir()] == ["step-000004"]


def test_a_full_disk_is_an_error_and_nothing_is_committed(tmp_path, monkeypatch):
    def full(*arguments, **more):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(InputError, match=r"cannot write the checkpoint \(rank 0: .*No space left"):
        checkpoint.save(fake_engine(), tmp_path, 1, {})
    assert checkpoint.latest(tmp_path) is None
    assert list(tmp_path.iterdir()) == [], "what fills the disk goes"


def test_bits_survive_even_negative_zero(tmp_path):
    engine = fake_engine(-0.0)
    torch.manual_seed(3)
    checkpoint.save(engine, tmp_path, 1, {"cursor": [1, 2]})
    expected = torch.rand(3)
    fresh = fake_engine(1.0)
    torch.manual_seed(4)
    assert checkpoint.load(fresh, tmp_path / "step-000001") == {"cursor": [1, 2]}
    assert bits(fresh.module.weight.detach()) == bits(engine.module.weight.detach())
    assert zero.count_updates(fresh.deepspeed) == 5
    assert bits(fresh.module.seen.view(1)) == bits(engine.module.seen.view(1))
    assert fresh.module.scratch == 1.0, "it is no part of the state"
    assert torch.equal(torch.rand(3), expected)


def test_a_checkpoint_of_another_student_is_refused(tmp_path):
    checkpoint.save(fake_engine(), tmp_path, 1, {})
    with pytest.raises(InputError, match=r"'parameter/weight' has shape \(2, 4\), the student's \(2, 5\)"):
        checkpoint.load(fake_engine(width=5), tmp_path / "step-000001")
    other = fake_engine()
    other.module.register_buffer("more", torch.zeros(3))
    with pytest.raises(InputError, match="holds no 'buffer/more'"):
        checkpoint.load(other, tmp_path / "step-000001")
    other = fake_engine()
    other.module.register_parameter("more", nn.Parameter(torch.zeros(3), requires_grad=False))
    with pytest.raises(InputError, match="holds no 'parameter/more'"):
        checkpoint.load(other, tmp_path / "step-000001")


@pytest.mark.parametrize(
    ("made_by", "said"),
    [
        ({"ranks": 4, "threads": 2}, ""),
        ({"ranks": 4}, ""),  # of before threads were written down
        ({"ranks": 2, "threads": 2}, "made by 2 rank(s) of 2 thread(s), and 4 rank(s) of 2 thread(s) go on"),
        ({"ranks": 4, "threads": 1}, "made by 4 rank(s) of 1 thread(s), and 4 rank(s) of 2 thread(s) go on"),
    ],
)
def test_other_ranks_or_threads_than_made_a_checkpoint_are_told(made_by, said, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    heard = Console(file=io.StringIO())
    made = SimpleNamespace(engine=SimpleNamespace(ranks=4, device=torch.device("cpu")), console=heard)
    made.threads = Job.threads.fget(made)
    resume.tell_other_ranks(made, made_by)
    assert said in heard.file.getvalue()
    assert bool(said) == bool(heard.file.getvalue())


def test_what_tells_other_ranks_stands_in_what_is_saved(tmp_path):
    checkpoint.save(fake_engine(), tmp_path, 1, {"threads": 1})
    held = json.loads((tmp_path / "step-000001" / STATE).read_text())
    assert held["ranks"] == fake_engine().ranks
    assert held["threads"] == 1

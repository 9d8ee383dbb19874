"""Saves, resumes and loads on as many ranks as it is started with; rank 0 writes what it found.

checkpoint_worker.py save DIRECTORY    (2 ranks) a checkpoint of each stage, and whether resuming is exact
checkpoint_worker.py load DIRECTORY    those checkpoints into another stage, saved again; and the step after
checkpoint_worker.py more DIRECTORY    what one rank saved again, on these ranks
checkpoint_worker.py kill DIRECTORY    (alone) dies while it saves
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tiny_step
import torch
import torch.distributed as dist
from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state
from engine_workshop import all_agree, engine, equal, fingerprint, shared_out, student, take_step
from safetensors import safe_open
from safetensors.torch import save_file
from stored_tensors import stored_tensors
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tracestill.trainer.checkpoint import checkpoint
from tracestill.trainer.checkpoint.files import MANIFEST, STATE, rank_file
from tracestill.trainer.checkpoint.saver import Saver
from tracestill.trainer.engine import zero
from tracestill.trainer.engine.engine import Engine, leave
from tracestill.trainer.engine.whole import full_state_dict

SAVED_AT, STEPS = 3, 6
DECAY = 0.7
EMBEDDING = "model.embed_tokens.weight"


def make(stage: int, seed: int, *, tied: bool, frozen: bool, dropout: float, accumulation: int = 2) -> Engine:
    built = student(None, tied=tied, seed=seed, attention_dropout=dropout)
    if frozen:
        built.model.get_input_embeddings().weight.requires_grad_(False)
    built.model.register_buffer("seed", torch.tensor([float(seed), 1.0]))
    return engine(built, zero=stage, accumulation=accumulation, seed=seed, ema=DECAY)


def frozen_at(stage: int) -> bool:
    return stage in (1, 3)


def train(of: Engine, first: int, last: int) -> list[float]:
    return [take_step(of, shared_out(step, of)).loss for step in range(first, last)]


@contextmanager
def slow_disk() -> Iterator[Callable[[], None]]:
    """Writing tensors waits until it is released."""
    released, plain = threading.Event(), checkpoint.save_file

    def slow(*arguments: Any, **more: Any) -> None:
        assert released.wait(100), "nobody trained meanwhile"
        plain(*arguments, **more)

    checkpoint.save_file = slow
    yield released.set
    checkpoint.save_file = plain


def by_deepspeed(of: Engine) -> dict[str, torch.Tensor]:
    """The whole state by DeepSpeed's own accessors, as an independent view (stages 1 to 3)."""
    if hasattr(of.deepspeed.optimizer, "_hp_optimizer_states_linked"):
        # 0.19.8 links the moments of all groups after updating the first, and misses those of the second
        of.deepspeed.optimizer._hp_optimizer_states_linked = False
        of.deepspeed.optimizer._lazy_init_hp_params_optimizer_state()
    found = {}
    for name, parameter in of.module.named_parameters():
        if parameter.requires_grad:
            found[f"parameter/{name}"] = safe_get_full_fp32_param(parameter).clone()
            for moment in zero.MOMENTS:
                found[f"{moment}/{name}"] = safe_get_full_optimizer_state(parameter, moment).clone()
    return found


def save_and_resume(stage: int, directory: Path) -> dict[str, Any]:
    whole = make(stage, 0, tied=stage == 2, frozen=frozen_at(stage), dropout=0.2)
    losses = train(whole, 0, STEPS)
    uninterrupted, random = fingerprint(whole), torch.get_rng_state()
    whole.close()

    first = make(stage, 0, tied=stage == 2, frozen=frozen_at(stage), dropout=0.2)
    train(first, 0, SAVED_AT)
    saver = Saver(directory / f"zero{stage}", keep=2, background=True)
    path = checkpoint.path_of(saver.directory, SAVED_AT)
    with slow_disk() as release:
        note = [stage, "a"]
        saver.save(first, SAVED_AT, {"note": note})
        note.append("changed meanwhile")
        seen = by_deepspeed(first) if stage else {}
        train(first, SAVED_AT, SAVED_AT + 1)
        first.module.model.seed += 1
        overlapped = saver.thread is not None and saver.thread.is_alive() and not path.exists()
        release()
        saver.wait()
    if seen and first.rank == 0:
        save_file(seen, directory / f"zero{stage}.safetensors")
    first.close()

    second = make(stage, 7, tied=stage == 2, frozen=frozen_at(stage), dropout=0.2)  # other parameters, other RNG
    take_step(second, shared_out(9, second))
    assert checkpoint.latest(directory / f"zero{stage}") == path
    state = checkpoint.load(second, path)
    buffer = second.module.model.seed.tolist()
    again = train(second, SAVED_AT, STEPS)
    same = equal([*uninterrupted, random], [*fingerprint(second), torch.get_rng_state()])
    second.close()
    found = {"state": state, "same": same, "losses": losses[SAVED_AT:], "again": again, "path": path.name}
    return {**found, "overlapped": all_agree(overlapped), "buffer": buffer}


def average(stage: int) -> dict[str, Any]:
    """How far the average lies from that which torch takes of the same parameters, and from these themselves."""
    of = make(stage, 0, tied=stage == 2, frozen=frozen_at(stage), dropout=0.0)
    plain = tiny_step.plain_model(tied=stage == 2)
    reference = AveragedModel(plain, multi_avg_fn=get_ema_multi_avg_fn(DECAY))

    def follow() -> None:
        state = full_state_dict(of)
        if state is not None:
            plain.load_state_dict(state)
            reference.update_parameters(plain)

    follow()
    for step in range(4):
        take_step(of, shared_out(step, of))
        follow()
    micro = shared_out(0, of)
    take_step(of, micro, weight_sum=0.0)  # changes nothing
    before, own = fingerprint(of), of.measure(micro[0])
    with of.averaged():
        state, measured = full_state_dict(of), of.measure(micro[0])
    untouched = equal([*before, own], [*fingerprint(of), of.measure(micro[0])])
    found = {"untouched": untouched}
    if state is not None:
        built = student(None, tied=stage == 2, seed=5).eval()
        built.model.load_state_dict(state)
        with torch.no_grad():
            expected = built(micro[0].packed, micro[0].scale)[1]
        found |= {
            "error": distance(state, reference.module.state_dict()),
            "moved": distance(state, plain.state_dict()),
            "measured": distance({"": measured}, {"": expected}),
            "frozen": torch.equal(state[EMBEDDING], plain.state_dict()[EMBEDDING]),
        }
    of.close()
    return found


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    return max(float((a[name] - b[name]).norm() / b[name].norm()) for name in b)


@contextmanager
def on_rank_1(name: str, function: Callable[..., Any]) -> Iterator[None]:
    """There ``checkpoint`` has another function of this name."""
    plain = getattr(checkpoint, name)
    if dist.get_rank() == 1:
        setattr(checkpoint, name, function)
    yield
    setattr(checkpoint, name, plain)


def disagreement(directory: Path) -> dict[str, Any]:
    """Which checkpoint both ranks take if one sees an old directory, and if one finds a file damaged."""
    of = make(1, 0, tied=False, frozen=False, dropout=0.0)
    for step in (1, 2):
        checkpoint.save(of, directory / "seen", step, {})
    of.close()
    found = {}
    with on_rank_1("committed", lambda directory: []):
        found["old"] = checkpoint.latest(directory / "seen")
    with on_rank_1("damaged", lambda path, *share: ["state.json"] if path.name.endswith("2") else []):
        found["damaged"] = checkpoint.latest(directory / "seen")
    names = {what: path.name if path else "" for what, path in found.items()}
    return {what: name if all_agree(name == checkpoint.share_text(name)) else "" for what, name in names.items()}


def older(stage: int, directory: Path) -> bool:
    """Whether the same checkpoint, rewritten as it was before there were pieces, puts an engine into the same state."""
    new, old = (directory / name / f"step-{SAVED_AT:06d}" for name in (f"zero{stage}", "older"))
    if dist.get_rank() == 0:
        old.mkdir(parents=True)
        tensors = stored_tensors(new)
        for rank in (0, 1):
            with safe_open(new / rank_file(rank), framework="pt") as file:
                own = {"rng/cpu": file.get_tensor("rng/cpu")}
            own |= {key: tensors[key] for key in sorted(tensors)[rank::2]}
            save_file(own, old / rank_file(rank), metadata={"step": str(SAVED_AT), "rank": str(rank)})
        shutil.copy(new / STATE, old)
        files = {
            path.name: {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "bytes": path.stat().st_size}
            for path in old.iterdir()
        }
        (old / MANIFEST).write_text(json.dumps({"format": 2, "step": SAVED_AT, "files": files}))
    dist.barrier()
    assert checkpoint.latest(old.parent) == old
    of = make(stage, 3, tied=stage == 2, frozen=frozen_at(stage), dropout=0.0)
    found = []
    for path in (new, old):
        take_step(of, shared_out(9, of))
        checkpoint.load(of, path)
        found.append([*fingerprint(of), torch.get_rng_state()])
    of.close()
    return equal(*found)


def load_elsewhere(stage: int, directory: Path) -> dict[str, Any]:
    """A checkpoint of ``stage`` into the next stage, on these ranks; saved again, and one step further."""
    path = checkpoint.latest(directory / f"zero{stage}")
    assert path is not None
    of = make((stage + 1) % 4, 11, tied=stage == 2, frozen=frozen_at(stage), dropout=0.0, accumulation=1)
    checkpoint.load(of, path)
    checkpoint.save(of, directory / f"again-{of.ranks}" / f"zero{stage}", SAVED_AT, {})
    names = full_state_dict(of)
    result = take_step(of, shared_out(SAVED_AT, of))
    of.close()
    return {"loss": result.loss, "norm": result.grad_norm, "names": sorted(names) if names else []}


def killed(directory: Path) -> None:
    """The process is killed while training goes on, when all of a checkpoint is written but not yet committed."""
    of = make(2, 0, tied=False, frozen=False, dropout=0.0)
    saver, plain = Saver(directory / "killed", keep=2, background=True), checkpoint.write_json
    saver.save(of, 0, {})
    train(of, 0, 1)
    saver.wait()

    def die(path: Path, value: Any) -> None:
        plain(path, value)
        if path.name == MANIFEST:
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoint.write_json = die
    saver.save(of, 1, {})
    train(of, 1, 1000)


def main() -> None:
    mode, directory = sys.argv[-2], Path(sys.argv[-1])
    results: dict[str, Any] = {}
    if mode == "kill":
        killed(directory)
    if mode == "save":
        results["resume"] = {stage: save_and_resume(stage, directory) for stage in (0, 1, 2, 3)}
        results["disagreement"] = disagreement(directory)
        results["older"] = older(3, directory)
        results["average"] = {stage: average(stage) for stage in (0, 1, 2, 3)}
    if mode != "more":
        results["load"] = {stage: load_elsewhere(stage, directory) for stage in (0, 1, 2, 3)}
    if mode == "more" or dist.get_world_size() == 3:  # what one rank wrote
        for stage in (0, 3):
            load_elsewhere(stage, directory / "again-1")
    if results and dist.get_rank() == 0:
        (directory / f"ranks-{dist.get_world_size()}.json").write_text(json.dumps(results))


main()
leave(0)

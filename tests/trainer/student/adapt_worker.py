"""Students of which only a part is trained, at every ZeRO stage, on as many ranks as it is started with.

adapt_worker.py save DIRECTORY    (2 ranks) trains from DIRECTORY/base-0, saves, resumes in a fresh student
adapt_worker.py load DIRECTORY    those checkpoints into a student of DIRECTORY/base-7 at another stage, saved again
"""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import tiny_step
import torch
import torch.distributed as dist
from engine_workshop import engine, equal, fingerprint, head_is_partitioned, shared_out, take_step
from safetensors.torch import save_file

from tracestill.trainer.checkpoint import checkpoint
from tracestill.trainer.engine.engine import Engine, leave
from tracestill.trainer.loading import four_bits
from tracestill.trainer.recipe.student_settings import StudentConfig
from tracestill.trainer.student.adapt import adapt
from tracestill.trainer.student.student import build_student

SAVED_AT, STEPS = 2, 4
CASES: dict[str, dict[str, Any]] = {
    "lora": {"lora": {"rank": 3, "dropout": 0.2}, "activation_checkpointing": True},
    "head": {"lora": {"rank": 2, "targets": ["q_proj", "down_proj"], "train": ["head"]}},
    "dora": {"lora": {"rank": 2, "rslora": True, "dora": True, "targets": ["*.q_proj", "model.layers.1.*"]}},
    "frozen": {"freeze": ["embeddings", "model.layers.0.*"]},
}
if find_spec("bitsandbytes"):
    four_bits.check_machine = lambda _: None  # a CPU can do it, slowly
    CASES["four_bits"] = {"lora": {"rank": 2, "quantize": "nf4"}}
STAGES = {"lora": (0, 1, 2, 3), "head": (2, 3), "dora": (0, 2, 3), "frozen": (0, 3), "four_bits": (1,)}


def make(case: str, stage: int, directory: Path, seed: int, accumulation: int) -> Engine:
    four = case == "four_bits"  # of which a checkpoint holds what learns alone, as that of any real training
    config = StudentConfig(pretrained=directory / f"base-{0 if four else seed}", **CASES[case])
    ids = {"bos_id": 1, "eos_id": 2, "pad_id": 0, "num_kinds": tiny_step.NUM_KINDS}
    student = build_student(config, vocab_size=tiny_step.VOCABULARY, **ids)
    adapt(student, config, seed=seed, device=torch.device("cpu"))
    of = engine(student, zero=stage, accumulation=accumulation, seed=seed, ema=0.7)
    of.base = "the base's digest" if four else None
    return of


def train(of: Engine, first: int, last: int) -> list[float]:
    return [take_step(of, shared_out(step, of)).loss for step in range(first, last)]


def store(of: Engine, path: Path) -> None:
    state = checkpoint.full_state_dict(of)
    if state is not None:
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)


def save_and_resume(case: str, stage: int, directory: Path) -> dict[str, Any]:
    first = make(case, stage, directory, 0, 2)
    masters = {id(p) for group in first.optimizer.param_groups for p in group["params"]}
    losses = train(first, 0, SAVED_AT)
    path = checkpoint.save(first, directory / f"{case}-{stage}", SAVED_AT, {})
    losses += train(first, SAVED_AT, STEPS)
    store(first, directory / f"{case}-{stage}.safetensors")
    uninterrupted, random = fingerprint(first), torch.get_rng_state()
    first.close()
    second = make(case, stage, directory, 7, 2)
    partitioned = head_is_partitioned(second)
    checkpoint.load(second, path)
    again = train(second, SAVED_AT, STEPS)
    same = equal([*uninterrupted, random], [*fingerprint(second), torch.get_rng_state()])
    second.close()
    return {"losses": losses, "again": again, "same": same, "masters": len(masters), "partitioned": partitioned}


def load_elsewhere(case: str, stage: int, directory: Path) -> float:
    of = make(case, (stage + 1) % (3 if case == "four_bits" else 4), directory, 7, 1)
    checkpoint.load(of, checkpoint.path_of(directory / f"{case}-{stage}", SAVED_AT))
    checkpoint.save(of, directory / f"again-{of.ranks}-{case}-{stage}", SAVED_AT, {})
    if case == "lora":
        of.module.eval()  # the dropout of another number of ranks is another
    loss = take_step(of, shared_out(SAVED_AT, of)).loss
    of.close()
    return loss


def main() -> None:
    mode, directory = sys.argv[-2], Path(sys.argv[-1])
    found: dict[str, Any] = {}
    for case, stages in STAGES.items():
        for stage in stages if case in CASES else ():
            name = f"{case}-{stage}"
            found[name] = save_and_resume(case, stage, directory) if mode == "save" else {}
            found[name]["loaded"] = load_elsewhere(case, stage, directory)
    if dist.get_rank() == 0:
        (directory / f"ranks-{dist.get_world_size()}.json").write_text(json.dumps(found))


main()
leave(0)

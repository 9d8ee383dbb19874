"""One trainer in one process, as `trainer_cpu.py` starts it: ours, TRL's or Hugging Face's, on the same documents.

    trainer_peers.py WAY RUN FD     WAY: one of WAYS; RUN: the directory that trainer_traces.prepare made

FD is a socket to the benchmark. The process gets ready, says so, and then trains a part of its steps whenever it is
told to go, while the others wait: a load that comes and goes meets all of them. Each part's seconds on the clock and
CPU seconds go back; start-up, the last checkpoint and everything between two parts are not in them.
"""

from __future__ import annotations

import argparse
import json
import socket
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import trainer_traces
from safetensors.torch import save_file

from tracestill.trainer.recipe.run_directory import RunDirectory

ROWS = 8  # documents a step of the padded trainers: their own default
WAYS = {
    "ours": "deepspeed",
    "TRL, padded": "trl",
    "TRL, padded, grouped by length": "trl",
    "TRL, packed (bfd)": "trl",
    "TRL, packed (wrapped)": "trl",
    "Trainer, padded": "accelerate",
    "Trainer, padded, grouped by length": "accelerate",
}
"""The trainers compared -> the package that each needs besides transformers."""


class Turns:
    """The benchmark's end of a training loop: ``after_step`` waits for its turn where a part ends."""

    def __init__(self, stream: Any, package: str) -> None:
        self.stream, self.package = stream, package
        self.ends: list[int] = []
        self.steps = 0

    def begin(self, steps: int) -> None:
        """The loop is about to take ``steps`` steps. Returns when it may begin."""
        self.say(steps=steps, versions={name: metadata.version(name) for name in ("transformers", self.package)})
        parts = int(self.stream.readline())
        self.ends = [round(steps * part / parts) for part in range(1, parts + 1)]
        self.go()

    def go(self) -> None:
        if self.stream.readline().strip() != "go":
            raise SystemExit("the benchmark has ended")
        self.started = time.perf_counter(), time.process_time()

    def after_step(self) -> None:
        self.steps += 1
        if self.steps == self.ends[0]:
            seconds, cpu = time.perf_counter() - self.started[0], time.process_time() - self.started[1]
            self.say(seconds=seconds, cpu_seconds=cpu)
            if len(self.ends) > 1:
                self.ends.pop(0)
                self.go()
            else:
                self.ends = [-1]

    def say(self, **what: Any) -> None:
        self.stream.write(json.dumps(what) + "\n")
        self.stream.flush()


def ours(run: RunDirectory, turns: Turns) -> dict[str, torch.Tensor]:
    """The trainer's own loop, logging as it always does."""
    from tracestill.trainer.assembly.prepare import prepare
    from tracestill.trainer.assembly.resume import open_directory
    from tracestill.trainer.engine.whole import full_state_dict
    from tracestill.trainer.faults.stopping import StopRequest
    from tracestill.trainer.train import train

    job = prepare(run, "traces")
    open_directory(job, None)
    plain = job.engine.step

    def step(*args: Any, **kwargs: Any) -> Any:
        result = plain(*args, **kwargs)
        turns.after_step()
        return result

    job.engine.step = step  # type: ignore[method-assign]
    turns.begin(job.steps)
    with StopRequest(job.directory, seconds=None, started=0.0, rank=0) as stop:
        train(job, stop)
    state = full_state_dict(job.engine)
    assert state is not None
    return state


def theirs(way: str, run: RunDirectory, turns: Turns) -> dict[str, torch.Tensor]:
    """TRL's SFTTrainer or Hugging Face's Trainer, without anything that they need not do."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainerCallback, TrainingArguments

    class Waits(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            if state.global_step == 0:
                turns.begin(state.max_steps)

        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            turns.after_step()

    here: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    model = AutoModelForCausalLM.from_pretrained(run.root.parent / "start", attn_implementation="sdpa", **here)
    tokenizer = AutoTokenizer.from_pretrained(run.stage("traces", "tokenizer"), **here)
    documents = trainer_traces.examples(trainer_traces.store(run))
    settings: dict[str, Any] = {
        "output_dir": str(run.root.parent / "theirs"),
        "num_train_epochs": 1,
        "per_device_train_batch_size": ROWS,
        "learning_rate": run.recipe.train.lr,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "adam_beta2": 0.95,
        "max_grad_norm": 1.0,
        "optim": "adamw_torch_fused",
        "train_sampling_strategy": "group_by_length" if "grouped" in way else "random",
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
        "seed": trainer_traces.SEED,
    }
    if way.startswith("TRL"):
        from datasets import Dataset
        from trl import SFTConfig, SFTTrainer

        packed = "packed" in way
        settings |= {"max_length": run.recipe.plan.capacity, "packing": packed}
        if packed:  # a row holds as many tokens as a pack of ours
            settings |= {"per_device_train_batch_size": 1, "packing_strategy": "bfd" if "bfd" in way else "wrapped"}
        trainer: Trainer = SFTTrainer(
            model=model,
            args=SFTConfig(**settings),
            train_dataset=Dataset.from_list(documents),
            processing_class=tokenizer,
            callbacks=[Waits()],
        )
    else:
        pad = tokenizer.pad_token_id

        def pad_to_longest(batch: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
            longest = max(len(row["input_ids"]) for row in batch)
            fill = {"input_ids": pad, "labels": -100}
            found = {
                key: torch.tensor([row[key] + [value] * (longest - len(row[key])) for row in batch])
                for key, value in fill.items()
            }
            lengths = torch.tensor([len(row["input_ids"]) for row in batch])
            return {**found, "attention_mask": (torch.arange(longest) < lengths[:, None]).long()}

        trainer = Trainer(
            model=model,
            args=TrainingArguments(**settings),
            train_dataset=documents,
            data_collator=pad_to_longest,
            callbacks=[Waits()],
        )
    trainer.train()
    return model.state_dict()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("run", type=Path)
    parser.add_argument("socket", type=int)
    wanted = parser.parse_args()
    turns = Turns(socket.socket(fileno=wanted.socket).makefile("rw"), WAYS[wanted.way])
    torch.set_num_threads(1)
    run = RunDirectory.open(wanted.run)
    weights = ours(run, turns) if wanted.way == "ours" else theirs(wanted.way, run, turns)
    path = run.root.parent / f"{wanted.way}.safetensors"
    save_file({name: value.detach().clone().contiguous() for name, value in weights.items()}, path)
    turns.say(weights=str(path))


if __name__ == "__main__":
    main()

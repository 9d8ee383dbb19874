"""One case of trainer_gpu.py in a process of its own: trainer_gpu_case.py TASK OUT, both made by that script."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from trainer_gpu import COMPILED, PACKS, WARM_UP, shape_of
from trainer_steps import KINDS, our_step, write_store

from tracestill.data_pipeline.plan.plan import PlanConfig, make_plan
from tracestill.data_pipeline.tokens.store import TokenStore
from tracestill.kernels.attention import choose, register
from tracestill.trainer.batches.batches import Batches
from tracestill.trainer.engine.engine import connect
from tracestill.trainer.metrics.flops import peak_tflops
from tracestill.trainer.recipe.settings import TrainConfig
from tracestill.trainer.recipe.student_settings import StudentConfig
from tracestill.trainer.student.adapt import adapt
from tracestill.trainer.student.student import build_student
from tracestill.trainer.weighting import WeightingConfig, make_weighting

LONGEST = 8192  # tokens of a document; no more than the smallest capacity
LEARNING_RATE = 1e-5


def documents(task: dict[str, Any], shape: dict[str, Any]) -> TokenStore:
    """Enough documents for every step, the same for every way of one capacity."""
    longest = min(LONGEST, task["capacity"])
    median = 2500 * longest / LONGEST
    path = Path(task["folder"]) / f"{task['shape']}-{task['capacity']}.arrow"
    if not path.exists():
        tokens = (WARM_UP + task["steps"] + 1) * PACKS * task["capacity"]
        write_store(path, tokens, vocabulary=shape["vocab_size"], median=median, longest=longest, prompt=0.5)
    return TokenStore(path, KINDS)


def synchronize(task: dict[str, Any]) -> None:
    if task["device"] == "cuda":
        torch.cuda.synchronize()


def forget_peak(task: dict[str, Any]) -> None:
    """Building the student in fp32 is no part of training."""
    if task["device"] == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def ours(task: dict[str, Any], shape: dict[str, Any], store: TokenStore) -> dict[str, Any]:
    stage = int(task["way"].partition("ZeRO ")[2][0])
    steps = WARM_UP + task["steps"]
    settings = TrainConfig(steps=steps, zero=stage, lr=LEARNING_RATE, weight_decay=0.0)  # type: ignore[arg-type]
    world = connect(settings)
    ids = {"vocab_size": shape["vocab_size"], "bos_id": 1, "eos_id": 2, "pad_id": 0, "num_kinds": len(KINDS)}
    values = {"model_type": "qwen3", **{k: v for k, v in shape.items() if k != "vocab_size"}}
    config = StudentConfig(config=values, compile=task["way"] == COMPILED)
    with world.device:  # billions of random numbers are drawn where that is fast
        student = build_student(config, **ids, device=world.device, dtype=world.dtype)
    notes = adapt(student, config, seed=0, device=world.device)
    plan = make_plan(store.lengths, PlanConfig(capacity=task["capacity"], packs_per_step=PACKS), seed=0, epoch=0)
    weighting = make_weighting(WeightingConfig(weights={"prompt": 0}), KINDS, 0)
    where: dict[str, Any] = {"rank": 0, "ranks": 1, "pad_id": 0, "device": world.device}
    batches = Batches(store, lambda epoch: plan, weighting, **where)
    step = our_step(settings, batches, student)
    found: list[dict[str, Any]] = []
    forget_peak(task)
    for at in range(min(steps, plan.n_steps)):
        synchronize(task)
        start = time.perf_counter()
        loss = step(at)
        synchronize(task)
        seconds = time.perf_counter() - start
        chosen = np.concatenate([plan.pack(int(pack)) for pack in plan.steps[at]])
        weighted = int(store.counts[chosen, KINDS.id("derive")].sum())
        lengths = store.lengths[chosen].tolist()
        found.append({"seconds": seconds, "loss": loss, "lengths": lengths, "weighted": weighted})
    return {"steps": found[WARM_UP:], "attention": str(student.attention.backend), "notes": notes}


def trl(task: dict[str, Any], shape: dict[str, Any], store: TokenStore) -> dict[str, Any]:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, Qwen3Config, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    cuda = task["device"] == "cuda"
    dtype = torch.bfloat16 if "bf16 weights" in task["way"] else torch.float32
    if importlib.util.find_spec("flash_attn_2_cuda") is not None:
        implementation = name = "flash_attention_2"
    else:
        choice = choose("auto", task["device"], torch.bfloat16 if cuda else torch.float32)
        implementation, name = register(choice.backend), f"{choice.backend} (ours)"
    torch.manual_seed(0)
    with torch.device(task["device"]):
        model = AutoModelForCausalLM.from_config(
            Qwen3Config(**shape, bos_token_id=1, eos_token_id=2, pad_token_id=0),
            attn_implementation=implementation,
            dtype=dtype,
        )
    prompt = KINDS.id("prompt")
    rows = [
        {"input_ids": (t := store.tokens(i)).tolist(), "labels": np.where(store.kinds(i) == prompt, -100, t).tolist()}
        for i in range(len(store))
    ]
    found: list[dict[str, Any]] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *args: Any, **more: Any) -> None:
            if not found:
                self.restart()

        def restart(self) -> None:
            synchronize(task)
            found.append({"seconds": time.perf_counter(), "lengths": [], "weighted": 0})

        def on_step_end(self, *args: Any, **more: Any) -> None:
            synchronize(task)
            found[-1]["seconds"] = time.perf_counter() - found[-1]["seconds"]
            self.restart()

    class Counting(SFTTrainer):
        def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **more: Any) -> Any:
            found[-1]["lengths"] += inputs["cu_seq_lens_q"].diff().tolist()
            found[-1]["weighted"] += int((inputs["labels"] != -100).sum())
            return super().training_step(model, inputs, *args, **more)

    trainer = Counting(
        model=model,
        args=SFTConfig(
            output_dir=str(Path(task["folder"]) / "trl"),
            max_steps=WARM_UP + task["steps"],
            per_device_train_batch_size=1,
            gradient_accumulation_steps=PACKS,
            packing=True,
            packing_strategy="bfd",
            max_length=task["capacity"],
            use_liger_kernel=cuda,
            bf16=cuda and dtype == torch.float32,
            gradient_checkpointing=False,
            learning_rate=LEARNING_RATE,
            optim="adamw_torch_fused",
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=not cuda,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=a_tokenizer(),
        callbacks=[Clock()],
    )
    forget_peak(task)
    trainer.train()
    return {"steps": found[WARM_UP:-1], "attention": name}  # the last one never came


def a_tokenizer() -> Any:
    """TRL wants one, though the documents are tokens already."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(WordLevel({"<pad>": 0, "<s>": 1, "</s>": 2}))
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def main() -> None:
    task, out = json.loads(sys.argv[1]), Path(sys.argv[2])
    shape = shape_of(task["shape"])
    if task["device"] == "cpu":
        torch.set_num_threads(1)
    store = documents(task, shape)
    found = trl(task, shape, store) if "TRL" in task["way"] else ours(task, shape, store)
    found["peak_tflops"] = peak_tflops(torch.device(task["device"]), torch.bfloat16)
    found["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30 if task["device"] == "cuda" else None
    out.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()

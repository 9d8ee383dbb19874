"""What training Qwen3-0.6B on documents of 128k tokens needs of a GPU's memory: a model, not a measurement on a GPU.

    python benchmarks/memory_model.py [--json PATH]

`trainer/timing/memory.py` says by arithmetic what a step holds. Here its activations are compared with a dry run: the
student's own code (transformers' Qwen3, our tiled MLP, activation checkpointing), forward and backward at full
length in bf16, on tensors without storage, with every tensor's bytes counted from its making to its end. Attention
stands for a flash kernel: it keeps queries, keys, values, output and log-sum-exp, and adds up the gradient of the
queries in fp32. Parameters, gradients and optimizer states are held against DeepSpeed's in the tests. Not counted
anywhere: the CUDA context, memory lost to fragments, NCCL's buffers. Takes a minute, on any machine.
"""

from __future__ import annotations

import argparse
import sys
import weakref
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from machine import claim, finish, table
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AttentionInterface, AttentionMaskInterface, AutoModelForCausalLM, Qwen3Config

from tracestill.trainer.student import tiled_mlp
from tracestill.trainer.student.adapt import checkpoint_activations
from tracestill.trainer.timing.memory import QWEN3_0_6B, Decoder, Setting, activations, estimate

GB = 1e9
GPU = 80 * GB  # sold as 80 GB; 79.2 GiB = 85.0 GB on an H100, 80 GiB = 85.9 GB on an A100
LONG = 128 * 1024
ONE = Setting(tokens=LONG)
SETTINGS = {
    "plain": ONE,
    "tiled MLP": replace(ONE, tiles=8),
    "recomputed": replace(ONE, recompute=True),
    "recomputed, tiled MLP": replace(ONE, recompute=True, tiles=8),
    "2 GPUs, rows shared": replace(ONE, ranks=2, sequence_parallel=2),
    "2 GPUs, recomputed, tiled, rows shared": replace(ONE, ranks=2, sequence_parallel=2, recompute=True, tiles=8),
    "8 GPUs, rows shared": replace(ONE, ranks=8, sequence_parallel=8, zero=3),
    "8 GPUs, recomputed, tiled, rows shared": replace(
        ONE, ranks=8, sequence_parallel=8, zero=3, recompute=True, tiles=8
    ),
}
DRY = [
    replace(ONE, tokens=tokens, recompute=recompute, tiles=tiles)
    for tokens in (8 * 1024, LONG)
    for recompute in (False, True)
    for tiles in (1, 8)
]
SHAPES = {
    "Qwen3-0.6B": QWEN3_0_6B,
    "Qwen3-1.7B": replace(QWEN3_0_6B, hidden=2048, intermediate=6144),
    "narrow MLP": Decoder(6, 768, 2048, heads=12, kv_heads=4, head_dim=64, vocabulary=32_000),
    "wide MLP": Decoder(4, 512, 4096, heads=4, kv_heads=4, head_dim=64, vocabulary=32_000),
    "wide attention": Decoder(4, 512, 1024, heads=32, kv_heads=2, head_dim=128, vocabulary=32_000, tied=False),
}


class Alive(TorchDispatchMode):
    """Bytes of the tensors made inside that are still alive, and the most there were."""

    def __init__(self) -> None:
        super().__init__()
        self.known: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor) and tensor.untyped_storage() not in self.known:
                storage = tensor.untyped_storage()
                self.known[storage] = True
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self.forget, storage.nbytes())
        return made

    def forget(self, size: int) -> None:
        self.now -= size


class Flash(torch.autograd.Function):
    """What a flash attention allocates, without its sums."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:  # (1, heads, T, d) each
        output = torch.empty_like(query.transpose(1, 2))
        ctx.save_for_backward(query, key, value, output, query.new_empty(query.shape[1:3], dtype=torch.float32))
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        query, key, value, _, _ = ctx.saved_tensors
        total = torch.empty_like(query, dtype=torch.float32)
        found = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
        del total
        return found


class Loss(torch.autograd.Function):
    """A scalar of the hidden states, which it does not keep; its gradient has their size."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor) -> Tensor:
        ctx.like = hidden.shape, hidden.dtype
        return hidden.new_zeros(())

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> Tensor:  # type: ignore[override]
        shape, dtype = ctx.like
        return torch.empty(shape, dtype=dtype)


def student(decoder: Decoder, setting: Setting) -> Any:
    """transformers' model of this shape; inside a FakeTensorMode, so of no size."""
    config = Qwen3Config(
        hidden_size=decoder.hidden,
        intermediate_size=decoder.intermediate,
        num_hidden_layers=decoder.layers,
        num_attention_heads=decoder.heads,
        num_key_value_heads=decoder.kv_heads,
        head_dim=decoder.head_dim,
        vocab_size=decoder.vocabulary,
        tie_word_embeddings=decoder.tied,
    )
    model = AutoModelForCausalLM.from_config(config, attn_implementation="dry", dtype=torch.bfloat16).train()
    assert sum(p.numel() for p in model.parameters()) == decoder.parameters
    if setting.recompute:
        checkpoint_activations(model)
    if setting.tiles > 1:
        tiled_mlp.tile_mlps(model, setting.tiles, setting.tokens)
    return model


def dry_run(decoder: Decoder, setting: Setting) -> int:
    """The most bytes alive in forward and backward through the layers, parameters and their gradients left out."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = student(decoder, setting)
        tokens = torch.zeros(1, setting.tokens, dtype=torch.long)
        positions = torch.arange(setting.tokens)[None]
        gradients = {p: torch.empty_like(p) for p in model.parameters()}
        for parameter, gradient in gradients.items():
            parameter.grad = gradient  # made before, so that it is not counted
        alive = Alive()
        for tensor in [*model.parameters(), *model.buffers(), *gradients.values()]:
            alive.known[tensor.untyped_storage()] = True
        with alive:
            Loss.apply(
                model.get_decoder()(input_ids=tokens, position_ids=positions, use_cache=False).last_hidden_state
            ).backward()
    return alive.peak


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write every figure, the machine and the claims here")
    wanted = parser.parse_args()
    AttentionInterface.register("dry", lambda module, q, k, v, mask, **_: (Flash.apply(q, k, v), None))
    AttentionMaskInterface.register("dry", lambda *_, **__: None)
    tiled_mlp.works_on_tokens = lambda *_: True  # it compares numbers, which these tensors do not have

    checks = []
    for name, decoder in SHAPES.items():
        for setting in DRY:
            found, model = dry_run(decoder, setting), sum(activations(decoder, setting).values())
            checks.append(
                {"student": name, **asdict(setting), "dry_run": found, "model": model, "error": model / found - 1}
            )
    rows = [
        [
            *(c["student"], c["tokens"], "yes" if c["recompute"] else "no", c["tiles"]),
            *(c["dry_run"] / GB, c["model"] / GB, 100 * c["error"]),
        ]
        for c in checks
    ]
    print("activations, GB: dry run of the student's code, and the model\n")
    print(table(["student", "tokens", "recomputed", "tiles", "dry run", "model", "error %"], rows))

    figures = {name: {"setting": asdict(s), **estimate(QWEN3_0_6B, s)} for name, s in SETTINGS.items()}
    columns = ("parameters", "gradients", "optimizer", "buckets", "gathered", "kept", "working", "head", "peak")
    print("\nQwen3-0.6B in bf16, one document of 131,072 tokens, all weighted: GB on each GPU, by the model\n")
    print(table(["", *columns], [[n, *(f[c] / GB for c in columns)] for n, f in figures.items()]))

    claims = [
        claim("largest error of the model against the dry run", max(abs(c["error"]) for c in checks), "<=", 0.02),
        claim("plain: share of an 80 GB GPU", figures["plain"]["peak"] / GPU, ">", 1),
        claim("recomputed: share of an 80 GB GPU", figures["recomputed"]["peak"] / GPU, "<", 0.5),
        claim("recomputed, tiled MLP: share of an 80 GB GPU", figures["recomputed, tiled MLP"]["peak"] / GPU, "<", 0.5),
    ]
    about = "a model and a dry run of shapes; nothing here was measured on a GPU"
    return finish({"about": about, "checks": checks, "students": figures}, claims, wanted.json)


if __name__ == "__main__":
    sys.exit(main())

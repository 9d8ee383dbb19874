"""The sizing tables of docs/multi-node.md: memory of a GPU by student, number of GPUs, ZeRO stage and micro-step; and
with train.offload, with what it takes of the host's memory for each GPU.

    python benchmarks/sizing.py

By `trainer/timing/memory.py`, in bf16 with recomputed layers: a model that `benchmarks/memory_model.py` holds against
the student's own code on tensors without storage, and that no GPU has confirmed. Prints Markdown; a test compares it
with the page.
"""

from __future__ import annotations

from tracestill.trainer.timing.memory import LLAMA3_8B, LLAMA3_70B, QWEN3_0_6B, ROOM, Decoder, Setting, estimate, host

STUDENTS = {"0.6B": (QWEN3_0_6B, (1, 8)), "8B": (LLAMA3_8B, (8, 32)), "70B": (LLAMA3_70B, (64, 256))}
STAGES = (1, 2, 3)
OFFLOADED = {"8B": (LLAMA3_8B, (1, 8)), "70B": (LLAMA3_70B, (8, 64))}
WHAT = {"optimizer": (2, {"host_optimizer": True}), "both": (3, {"host_optimizer": True, "host_parameters": True})}
TOKENS = (4_096, 16_384, 65_536)
BYTES = 80e9  # of a GPU


def rows() -> list[str]:
    """The table's lines."""
    found = [
        "| student | GPUs | `train.zero` | " + " | ".join(f"{n // 1024}k tokens" for n in TOKENS) + " |",
        "|---|---|---|" + "---|" * len(TOKENS),
    ]
    for name, (student, counts) in STUDENTS.items():
        for gpus in counts:
            for zero in STAGES if gpus > 1 else (2,):
                settings = [Setting(tokens, ranks=gpus, zero=zero, recompute=True) for tokens in TOKENS]
                found.append(f"| {name} | {gpus} | {zero} | " + " | ".join(cells(student, settings)) + " |")
    return found


def offloaded() -> list[str]:
    """The lines of the table with train.offload."""
    found = [
        "| student | GPUs | `train.offload` | "
        + " | ".join(f"{n // 1024}k tokens" for n in TOKENS)
        + " | host memory a GPU |",
        "|---|---|---|" + "---|" * (len(TOKENS) + 1),
    ]
    for name, (student, counts) in OFFLOADED.items():
        for gpus in counts:
            for what, (zero, hosted) in WHAT.items():
                settings = [Setting(tokens, ranks=gpus, zero=zero, recompute=True, **hosted) for tokens in TOKENS]
                sizes = [*cells(student, settings), f"{host(student, settings[0]) / 1e9:,.0f}"]
                found.append(f"| {name} | {gpus} | {what}, ZeRO-{zero} | " + " | ".join(sizes) + " |")
    return found


def cells(student: Decoder, settings: list[Setting]) -> list[str]:
    sizes = [estimate(student, setting)["peak"] for setting in settings]
    return [f"{size / 1e9:,.0f}" if size <= ROOM * BYTES else f"({size / 1e9:,.0f})" for size in sizes]


if __name__ == "__main__":
    print("\n".join([*rows(), "", *offloaded()]))

"""A commented recipe for a source, with a student, a capacity and a number of steps that this machine can train."""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import yaml

from tracestill.data_pipeline.sampling.files.rejected import SHARE
from tracestill.data_pipeline.sampling.readers.chain import DEFAULT
from tracestill.launch.commands.init.init_survey import Survey

MINUTES = 10  # that training is to take, about
EPOCHS, PACKS = 20, 4  # a student from nothing learns little from texts that it reads a few times
CPU_FLOPS, GPU_FLOPS = 1.2e10, 1.5e14  # a second, of a core and of a GPU, while it trains


class Size(NamedTuple):
    """A student from scratch: width, layers, tokens it knows at most, learning rate."""

    hidden: int
    layers: int
    vocabulary: int
    lr: float

    @property
    def parameters(self) -> int:
        return self.vocabulary * self.hidden + self.layers * 16 * self.hidden**2


SMALL, MIDDLE = Size(128, 3, 2000, 3e-3), Size(512, 8, 8000, 1e-3)


class Machine(NamedTuple):
    gpus: int
    cores: int

    @property
    def flops(self) -> float:
        return self.gpus * GPU_FLOPS if self.gpus else self.cores * CPU_FLOPS

    def __str__(self) -> str:
        return f"{self.gpus} GPU(s)" if self.gpus else f"{self.cores} CPU core(s)"


def this_machine() -> Machine:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Machine(torch.cuda.device_count(), cores)


def share(values: Sequence[int], at: float) -> int:
    """The value below which the share ``at`` of values lies."""
    return sorted(values)[min(len(values) - 1, int(at * len(values)))] if values else 0


def recipe_text(
    found: Survey,
    source: str,
    name: str,
    teacher: str,
    decontaminate: Sequence[str],
    machine: Machine,
    fields: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """The recipe as YAML. Without traces in the source, a teacher is left to be named."""
    return "\n".join(
        [
            "# Made by `tracestill init`. What it read, and as what:",
            *(f"#   {place}: {shape}" for place, shape in list(found.posed.read_as.items())[:8]),
            f"name: {scalar(name)}\nseed: 0\n",
            *questions_block(found, source, decontaminate, fields),
            *sample_block(found, teacher),
            student_blocks(found, machine),
        ]
    )


def questions_block(found: Survey, source: str, decontaminate: Sequence[str], fields: Mapping[str, str]) -> list[str]:
    rows, files = found.posed.counts["in"], ", ".join(map(scalar, decontaminate))
    bad = len(found.posed.rejected) / max(1, rows)
    near = "" if knows_near() else "# pip install 'tracestill[traces]' for: "
    return [
        "questions:",
        f"  source: {scalar(source)}",
        f"  # train: {found.split('train')}  # all that are left of {rows:,} rows",
        f"  test: {found.split('test')}  # held out: {held_out(found)}",
        "  # validation: 50  # more held-out ones, by which training may choose a checkpoint (train.metric)",
        f"  fields: {scalar(dict(fields))}"
        if fields
        else "  # fields: {question: …, trace: …, gold: …}  # if one was taken for another: names, paths, templates",
        f"  {near}near_duplicates: {{policy: drop}}  # training questions that are nearly held-out ones are left out",
        f"  decontaminate: [{files}]"
        if files
        else "  # decontaminate: [benchmark.jsonl]  # leave out what shares 13 words in a row with a benchmark",
        *([f"  max_rejected: {rounded_up(bad)}  # {bad:.1%} of the rows cannot be used"] if bad > SHARE else []),
        "",
    ]


def knows_near() -> bool:
    """Whether what finds near duplicates is installed; a recipe that asks for it would be refused without."""
    return importlib.util.find_spec("datasketch") is not None


def sample_block(found: Survey, teacher: str) -> list[str]:
    if not found.traces:
        return [
            "sample:",
            "  teachers:",
            "    - {name: teacher, use: NAME_A_TEACHER}  # there are no traces: who answers?",
            "",
        ]
    unread = sum(found.unread.values()) / found.traces
    wrong = 1 - found.right / max(1, sum(found.readers.values()))
    return [
        "sample:",
        "  teachers:",
        f"    - {{name: {scalar(teacher)}, use: recorded}}",
        f"  # readers: [{', '.join(DEFAULT)}]  # the first that reads a trace",
        f"  # they read: {', '.join(f'{by} {count:,}' for by, count in found.readers.most_common(6))}",
        *(
            [f"  max_rejected: {rounded_up(unread)}  # {unread:.1%} of the traces cannot be used"]
            if unread > SHARE
            else []
        ),
        "",
        f"# {wrong:.1%} of the answers are not the gold ones"
        if found.has_gold
        else "# there are no gold answers: wrong is what most traces of the same question contradict",
        "select: {policy: strict}  # answer: right answers, whatever the trace; none: all that have one",
        "",
    ]


def student_blocks(found: Survey, machine: Machine) -> str:
    size = MIDDLE if machine.gpus else SMALL
    longest = max(found.lengths, default=700)
    positions = max(256, 2 ** math.ceil(math.log2(longest * 1.3 + 64)))
    capacity = max(16384 if machine.gpus else 2048, positions)
    tokens = sum(found.lengths) * found.split("train") / len(found.posed.questions) or 1.0
    affordable = machine.flops * MINUTES * 60 / (6 * size.parameters)
    steps = max(20, int(min(EPOCHS * tokens, affordable) / (PACKS * capacity)))
    time = max(1, round(steps * PACKS * capacity * 6 * size.parameters / machine.flops / 60))
    return f"""encode:
  tokenizer: {{vocab_size: {size.vocabulary}}}

plan:
  capacity: {capacity}  # the longest document comes to about {int(longest):,} tokens
  packs_per_step: {PACKS}
  group: 2
  overlong: trim_trace

# {size.parameters / 1e6:.1f}M parameters from scratch, for {machine}: it learns to speak like the traces, not to solve
# hard questions. For a model that you have: `pretrained: DIR`, and under encode its tokenizer (docs/students.md).
student:
  config:
    model_type: llama
    hidden_size: {size.hidden}
    intermediate_size: {3 * size.hidden}
    num_hidden_layers: {size.layers}
    num_attention_heads: 4
    num_key_value_heads: 4
    max_position_embeddings: {positions}
    tie_word_embeddings: true
    initializer_range: 0.05

weighting:
  weights: {{prompt: 0}}  # every other kind weighs 1; try {{plan: 2, prose: 0.2}}

train:
  steps: {steps}  # {steps * PACKS * capacity / tokens:.1f} epochs, about {time} min here
  ranks: auto
  zero: 2
  lr: {size.lr:g}
  schedule: cosine
  warmup: {max(1, steps // 10)}
  held_out_every: {max(1, steps // 6)}

evaluate:
  questions: {max(1, min(200, found.split("test")))}
  max_new_tokens: {min(1024, max(64, int(share(found.answers, 0.95) * 1.5)))}
  batch_size: 64
"""


def held_out(found: Survey) -> str:
    grouped = len({question.group for question in found.posed.questions if question.group})
    why = "as rows or file names say" if found.posed.says_split else "drawn by the seed"
    return f"{why}; {grouped:,} groups stay whole" if grouped else why


def rounded_up(value: float) -> float:
    return min(1.0, math.ceil(value * 110) / 100)


def scalar(value: str | dict[str, str]) -> str:
    """A text, or a mapping of texts, as YAML writes it on one line."""
    text = str(yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True, sort_keys=False))
    return text.split("\n...")[0].strip()

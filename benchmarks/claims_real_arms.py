"""What claims_real.py trains: the settings that all arms share, and what each of them changes."""

from __future__ import annotations

from typing import Any

HUMAN = "human"
TEACHERS = (
    "Qwen2-7B-Instruct",
    "Phi-3.5-mini-instruct",
    "Mistral-Nemo-Instruct-2407",
    "Yi-1.5-9B-Chat",
    "Mixtral-8x7B-Instruct-v0.1",
)
SMALL = [
    "sample.test_samples=6",  # all traces of a held-out question
    "select={policy: strict, paths: {same: 'off'}}",
    "encode.system=Solve the problem.",  # the template's own takes more tokens
    "plan.capacity=384",
    "plan.packs_per_step=1",
    "plan.group=1",
    "train.epochs=null",
    "train.steps=6",
    "train.lr=2.0e-4",
    "train.warmup=1",
    "train.ranks=1",
    "train.zero=0",
    "train.precision=fp32",
    "train.held_out_every=0",
    "train.keep=0",
    "evaluate.variations=null",
    "evaluate.also={}",
]
TEACHER = ["plan.capacity=512", "train.steps=16", "train.warmup=2"]  # what it is trained with beside SMALL
BASE = {"base": {"model": "student", "channels": ["nll", "entropy"]}}
STEPS = {"steps": {"model": "student", "channels": ["influence"], "approximate": "attention"}}
LARGEST = {"keep": "above", "share": 0.2}


def chosen(channel: str, **more: Any) -> dict[str, Any]:
    """A fifth of the trace's tokens, by a channel of the student before training."""
    score = STEPS if channel == "steps.influence" else BASE
    return {"score": score, "weighting": {"use": "by_channel", "options": {"channel": channel, **LARGEST, **more}}}


def part(end: bool) -> dict[str, Any]:
    return {"weighting": {"use": "scores_parts:Part", "options": {"share": 0.3, "end": end}}}


def followed(divergence: str = "forward", **weight: float) -> dict[str, Any]:
    """The teacher's distribution beside the label, each half of the loss."""
    weight = {"prompt": 0, "trace": 1, "answer": 1, "control": 1, **weight}
    return {"distil": {"channel": "teacher.topk", "divergence": divergence, "weight": weight, "mix": 0.5}}


ARMS: dict[str, dict[str, Any]] = {
    "label": {},
    "unfiltered": {"select": {"policy": "none"}},
    "one_teacher": {},  # another one for each seed: ``arm_of``
    "random_drop": {"encode": {"granularity": {"keep": "random_drop", "ratio": "decisive"}}},
    "decisive": {"encode": {"granularity": "decisive"}},
    "forward": followed(),
    "answer_only": followed(trace=0),
    "reverse": followed("reverse"),
    "random20": chosen("base.nll", control="store"),
    "nll20": chosen("base.nll"),
    "first30": part(end=False),
    "last30": part(end=True),
    "entropy20": chosen("base.entropy"),
    "trace_only": followed(answer=0),
    "jsd": followed("jsd"),
    "no_prose": {"encode": {"granularity": "no_prose"}},
    "influence20": chosen("steps.influence"),
}


def arm_of(arm: str, seed: int, teacher: str = "") -> dict[str, Any]:
    """An arm of a recipe; ``teacher``: the model whose distribution is followed."""
    found = {**ARMS[arm], "seed": seed}
    if arm == "one_teacher":
        one = {"share": 1, "where": {"teacher": TEACHERS[seed % len(TEACHERS)]}}
        found["plan"] = {"mixture": {"parts": {"one": one, "rest": {"share": 0}}}}
    if "distil" in found:
        topk = {"model": teacher, "channels": ["topk"], "k": 16, "kinds": ["trace", "answer", "control"]}
        found["score"] = {"teacher": topk}
    return found

"""Word problems answered by plain transformers, without anything of this project: what our evaluation is compared with.

Questions and gold answers are read from the published files by ``json`` alone. A prompt is the tokenizer's own chat
template, a text what ``generate`` writes greedily in fp32. The answer is the last number of a text that ended by
itself, as lm-evaluation-harness's flexible filter for GSM8K reads one, and it is right if it equals the gold answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

NUMBER = re.compile(r"-?[$0-9.,]{2,}|-?[0-9]+")
NEAR = 1e-3  # of a logit, within which no arithmetic in fp32 decides between two tokens


class Answer(NamedTuple):
    ids: list[int]  # an end included
    text: str  # of all ids, the end included
    finished: bool


def problems(data: Path) -> dict[str, dict[str, str]]:
    """Set -> question -> gold answer, of ``data``: gsm8k/test.jsonl, transfer/svamp.json, transfer/multiarith.jsonl."""

    def lines(path: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (data / path).read_text(encoding="utf-8").splitlines()]

    svamp = json.loads((data / "transfer/svamp.json").read_text(encoding="utf-8"))
    return {
        "gsm8k": {row["question"]: row["answer"].split("#### ")[1] for row in lines("gsm8k/test.jsonl")},
        "svamp": {f"{row['Body'].strip()} {row['Question'].strip()}": str(row["Answer"]) for row in svamp},
        "multiarith": {row["input"]: str(row["target"]) for row in lines("transfer/multiarith.jsonl")},
    }


def value(text: str) -> Decimal | None:
    """A number as it is written, without thousands' commas, a currency sign, and a full stop behind it."""
    try:
        return Decimal(text.replace(",", "").replace("$", "").rstrip("."))
    except ArithmeticError:
        return None


def answer_in(text: str, *, finished: bool) -> Decimal | None:
    """The last number of a text that ended; None of one that was cut off."""
    found = [number for each in NUMBER.findall(text) if (number := value(each)) is not None] if finished else []
    return found[-1] if found else None


class Plain:
    """A model directory, loaded by transformers alone."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
        self.model = AutoModelForCausalLM.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False, dtype=torch.float32
        ).eval()
        self.end = self.model.generation_config.eos_token_id

    def prompt(self, question: str) -> list[int]:
        said = [{"role": "user", "content": question}]
        text = self.tokenizer.apply_chat_template(said, add_generation_prompt=True, tokenize=False)
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    @torch.inference_mode()
    def texts(self, questions: Sequence[str], limit: int) -> list[Answer]:
        """What it writes to each question, all in one batch, ``limit`` tokens at most."""
        prompts = [self.prompt(question) for question in questions]
        width = max(map(len, prompts))
        ids = torch.tensor([[self.end] * (width - len(each)) + each for each in prompts])
        mask = torch.tensor([[0] * (width - len(each)) + [1] * len(each) for each in prompts])
        how: dict[str, Any] = {"do_sample": False, "max_new_tokens": limit, "pad_token_id": self.end}
        rows = self.model.generate(input_ids=ids, attention_mask=mask, **how)[:, width:].tolist()
        found = []
        for row in rows:
            finished = self.end in row
            written = row[: row.index(self.end) + 1] if finished else row
            found.append(Answer(written, self.decode(written), finished))
        return found

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    @torch.inference_mode()
    def parts_at_a_tie(self, question: str, mine: Answer, theirs: str) -> bool:
        """Whether two texts part where the model, in float64, holds their two tokens for equally good."""
        ids = self.tokenizer(theirs, add_special_tokens=False)["input_ids"]
        at = next((i for i, (a, b) in enumerate(zip(mine.ids, ids, strict=False)) if a != b), None)
        if at is None:
            return False
        exact = AutoModelForCausalLM.from_pretrained(self.directory, local_files_only=True, dtype=torch.float64).eval()
        logits = exact(torch.tensor([self.prompt(question) + mine.ids[:at]])).logits[0, -1]
        return abs(float(logits[mine.ids[at]] - logits[ids[at]])) < NEAR

"""A model of a directory behind a server that tells of every token of a prompt, as vLLM's does: transformers' own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from odd_server import Request
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM


def telling(directory: Path) -> Callable[[Request, str], tuple[int, bytes]]:
    """``other`` of an ``OddServer``."""
    model = AutoModelForCausalLM.from_pretrained(directory).eval()
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))

    def other(request: Request, method: str) -> tuple[int, bytes]:
        tokens, k = request.body["prompt"], request.body["prompt_logprobs"]
        with torch.no_grad():
            told = model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0].float().log_softmax(-1)
        rows: list[dict | None] = [None]
        for before, token in zip(told, tokens[1:], strict=False):
            shown = dict.fromkeys([*before.topk(k).indices.tolist(), token])
            texts = {i: tokenizer.decode([i], skip_special_tokens=False) for i in shown}
            rows.append({str(i): {"logprob": float(before[i]), "decoded_token": texts[i]} for i in shown})
        return 200, json.dumps({"choices": [{"text": "", "prompt_logprobs": rows}]}).encode()

    return other

"""One request as JSON: what is asked, and how long it may cost."""

from __future__ import annotations

import json
from typing import Any

from tracestill.data_pipeline.sampling.teachers import Ask
from tracestill.data_pipeline.sampling.teachers.api.options import TeacherOptions

PATHS = {"chat": "/chat/completions", "completions": "/completions"}
SEED = 0x7FFFFFFF  # bits of a seed that every server takes
AROUND = 512  # tokens that a server's chat template puts around a prompt, at the most that is reckoned with


def body_of(options: TeacherOptions, ask: Ask, n: int) -> dict[str, Any]:
    """The request for ``n`` samples that differ from ``ask`` in their index alone."""
    text = ask.question.question
    if not ask.as_is:
        text = options.template.replace("{style}", ask.style).replace("{question}", text)
    prefill = prefill_of(options, ask)
    body: dict[str, Any] = {"model": options.model}
    if options.mode == "chat":
        messages = [{"role": "user", "content": text}]
        if ask.style:
            messages.insert(0, {"role": "system", "content": ask.style})
        if prefill:
            messages.append({"role": "assistant", "content": prefill})
        body["messages"] = messages
    else:
        system = f"{ask.style}\n\n" if ask.style and "{style}" not in options.template else ""
        body["prompt"] = f"{system}{text}{prefill}"
    body |= {
        "temperature": ask.temperature,
        "seed": ask.seed & 0x7FFFFFFF,
        options.max_tokens_field: options.max_tokens,
    }
    if n > 1:
        body["n"] = n
    for name in ("top_p", "top_k"):
        if (value := getattr(options, name)) is not None:
            body[name] = value
    if options.stop:
        body["stop"] = list(options.stop)
    if options.logprobs is not None:
        chat = {"logprobs": True, **({"top_logprobs": options.logprobs} if options.logprobs else {})}
        body |= chat if options.mode == "chat" else {"logprobs": options.logprobs}
    if options.thinking_budget is not None:
        put(body, options.thinking_field.split("."), options.thinking_budget)
    for name in options.omit:
        body.pop(name, None)
    return body | options.extra_body | dict(ask.body)


def prefill_of(options: TeacherOptions, ask: Ask) -> str:
    return ask.begun or ("" if ask.as_is else options.prefill)


def put(body: dict[str, Any], names: list[str], value: Any) -> None:
    for name in names[:-1]:
        body = body.setdefault(name, {})
    body[names[-1]] = value


def most_tokens(options: TeacherOptions, body: dict[str, Any]) -> tuple[int, int]:
    """Tokens that a request reads and writes at most: no token is shorter than a byte."""
    texts = [str(message["content"]) for message in body.get("messages", ())] + [str(body.get("prompt", ""))]
    texts += [json.dumps(options.extra_body)] if options.extra_body else []  # documents, tools
    read = sum(len(text.encode(errors="replace")) for text in texts) + AROUND
    return read, int(body.get("n", 1)) * (options.max_tokens + (options.thinking_budget or 0))

"""What a recipe says of a server, and which of it decides what the server says."""

from __future__ import annotations

from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tracestill.data_pipeline.sampling.asking.money import Price

HOW = {  # options that decide how it is asked, and not what: another value asks nobody anew
    *("url", "api_key_env", "n", "concurrency", "timeout", "patience", "max_bytes", "price", "batch", "poll"),
    *("batch_requests",),
}
OURS = {"model", "messages", "prompt", "n", "best_of", "stream"}  # fields of a request that extra_body may not set


class TeacherOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(description="address of the server's API, such as http://localhost:8000/v1")
    model: str = Field(min_length=1, description="the model, as the server calls it")
    api_key_env: str | None = Field(
        None, description="the environment variable that holds the key; null: the server wants none"
    )
    mode: Literal["chat", "completions"] = Field("chat", description="which endpoint is asked")
    template: str = Field(
        "{question}", description="what is asked, around {question}; {style} stands for the system prompt (completions)"
    )
    prefill: str = Field("", description="how the answer begins; the server goes on from there")
    max_tokens: int = Field(4096, ge=1, description="tokens of one answer, thought included")
    max_tokens_field: str = Field("max_tokens", description="the request's name for it; max_completion_tokens at some")
    thinking_budget: int | None = Field(None, ge=0, description="tokens of the thought alone; null: not said")
    thinking_field: str = Field(
        "thinking_budget", description="the request's name for it, dotted: thinking.budget_tokens at some"
    )
    top_p: float | None = Field(None, gt=0, le=1, description="share of the probability that is drawn from")
    top_k: int | None = Field(None, ge=1, description="number of likeliest tokens that are drawn from")
    stop: tuple[str, ...] = Field((), description="texts at which an answer ends")
    logprobs: int | None = Field(
        None, ge=0, le=20, description="keep each token's log-probability, and those of so many alternatives"
    )
    omit: tuple[str, ...] = Field(
        (), description="fields that the server refuses, such as temperature or seed, and that are not sent"
    )
    extra_body: dict[str, Any] = Field({}, description="further fields of the request, such as chat_template_kwargs")
    n: int = Field(1, ge=1, le=128, description="samples of one question that one request asks for")
    concurrency: int = Field(32, ge=1, le=1000, description="requests under way; fewer while the server is busy")
    timeout: float = Field(600, gt=0, description="seconds until an answer is wholly there")
    patience: float = Field(900, ge=0, description="seconds that one sample waits for a server that says it is busy")
    max_bytes: int = Field(16 << 20, ge=1024, description="bytes of an answer that are read at most")
    price: Price | None = Field(None, description="what tokens cost, for sample.budget and the report of cost")
    batch: bool = Field(False, description="ask by the server's batch interface: cheaper, within a day")
    batch_requests: int = Field(10_000, ge=1, le=50_000, description="requests of one batch at most")
    poll: float = Field(30, gt=0, description="seconds between two looks at a batch")

    @field_validator("url")
    @classmethod
    def _address(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("expected an address that begins with http:// or https://")
        if parts.username or parts.password:
            raise ValueError("holds a name or a password; name the environment variable of a key in api_key_env")
        return url

    @field_validator("template")
    @classmethod
    def _asks(cls, template: str) -> str:
        if "{question}" not in template:
            raise ValueError("lacks {question}")
        return template

    @model_validator(mode="after")
    def _fields(self) -> TeacherOptions:
        if taken := OURS & self.extra_body.keys():
            raise ValueError(f"extra_body may not set {sorted(taken)[0]!r}")
        for name in {"max_tokens", "max_completion_tokens", self.max_tokens_field} & self.extra_body.keys():
            raise ValueError(
                f"extra_body may not set {name!r}: max_tokens and max_tokens_field do, for the budget's sake"
            )
        if self.price is not None and self.max_tokens_field in self.omit:
            raise ValueError(f"omit: without {self.max_tokens_field!r} nobody knows what an answer may cost (price)")
        return self

    def identity(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude_defaults=True, exclude=HOW)


class ServerConfig(BaseModel):
    """The ``server`` of a model that reads texts: an OpenAI-compatible one that tells of every token of a prompt."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    url: str = Field(description="address of the server's API, such as http://localhost:8000/v1")
    api_key_env: str | None = Field(
        None, description="the environment variable that holds the key; null: the server wants none"
    )
    form: Literal["prompt_logprobs", "echo"] = Field(
        "prompt_logprobs",
        description="which field tells of the prompt: prompt_logprobs (vLLM's), or echo with logprobs",
    )
    concurrency: int = Field(16, ge=1, le=1000, description="requests under way")
    timeout: float = Field(600, gt=0, description="seconds until an answer is wholly there")
    attempts: int = Field(6, ge=1, description="tries of a request that comes to nothing; a busy server counts less")

    @field_validator("url")
    @classmethod
    def _address(cls, url: str) -> str:
        TeacherOptions(url=url, model="any")  # says what is wrong with it
        return url

"""A model behind an OpenAI-compatible server that tells of every token of a prompt.

Documents go out as token ids. vLLM's ``prompt_logprobs`` gives, for each position, log-probabilities by token id: the k
largest, and that of the token that was sent. ``echo`` with ``logprobs`` gives them by the tokens' names, which are used
where they are ids (``token_id:17``); else only the log-probabilities of the tokens sent are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.sampling.teachers.api.options import ServerConfig, TeacherOptions
from tracestill.data_pipeline.sampling.teachers.api.replies import read as read_json
from tracestill.data_pipeline.sampling.teachers.api.server import Refused, Server, Trouble
from tracestill.kernels.loss import TokenScores
from tracestill.trainer.scoring.reading import Pack

BYTES = 1 << 30  # of an answer that are read at most: about 60 a token and entry
LONGEST_WAIT = 60.0  # seconds between two tries
IDLE_SECONDS = 0.5  # between two looks at what else this rank has to do
BUSY = 60  # times that a server may say so, for one request
ID = "token_id:"  # how tokens are named that a server was asked to name by id


class Position(NamedTuple):
    """What a server says of one token of a prompt."""

    token: float  # log-probability of the one that was sent
    rank: int  # of it, from 0; -1: not told
    best: list[tuple[int, float]]  # the most likely tokens and their log-probabilities, the first the most likely


class ServedModel:
    """As ``reading.Source``; documents of a pack are asked for side by side."""

    along: Callable[[], None] | None = None

    def __init__(self, model: str, settings: ServerConfig, where: str, tokenizer: Tokenizer, vocabulary: int) -> None:
        """``where``: the recipe's field. Raises InputError without the openai client, or without the key."""
        self.settings, self.where, self.vocabulary = settings, where, vocabulary
        self.tokenizer = tokenizer
        self.idle: Callable[[], object] = bool  # called while answers are waited for
        how: dict[str, Any] = {"url": settings.url, "timeout": settings.timeout, "max_bytes": BYTES}
        self.options = TeacherOptions(model=model, mode="completions", api_key_env=settings.api_key_env, **how)
        Server(self.options, where)  # says what is missing

    def read(self, pack: Pack, *, entropy: bool = False, rank: bool = False, k: int = 0) -> TokenScores:
        assert not entropy
        targets = pack.targets()
        asked = asyncio.run(self.ask_all(pack, max(k, 1)))
        told = [asked[document][place] for document, place in zip(*self.places(pack, targets), strict=True)]
        if rank and any(one.rank < 0 for one in told):
            raise InputError(f"{self.where}.channels: {self.settings.url} tells no ranks; leave rank out")
        nll = torch.tensor([-one.token for one in told], dtype=torch.float32)
        top1 = torch.tensor([one.best[0][1] if one.best else one.token for one in told], dtype=torch.float32)
        ids = log_probs = None
        if k:
            ids = torch.tensor([[i for i, _ in one.best[:k]] for one in told], dtype=torch.int64).reshape(-1, k)
            log_probs = torch.tensor([[p for _, p in one.best[:k]] for one in told]).float().reshape(-1, k)
        ranks = torch.tensor([one.rank for one in told], dtype=torch.int64) if rank else None
        return TokenScores(nll, top1, None, ranks, ids, log_probs)

    def join(self, meet: Callable[..., bool], idle: Callable[[], object]) -> None:
        self.idle = idle

    @staticmethod
    def places(pack: Pack, targets: np.ndarray) -> tuple[list[int], list[int]]:
        """Of each target its document in the pack, and its place in it."""
        documents = np.searchsorted(pack.offsets, targets, side="right") - 1
        return documents.tolist(), (targets - np.asarray(pack.offsets)[documents]).tolist()

    async def ask_all(self, pack: Pack, k: int) -> list[list[Position]]:
        """What the server says of every token of each document; nothing is asked of those without a target."""
        places = self.places(pack, pack.targets())
        wanted: dict[int, set[int]] = {document: set() for document in places[0]}
        for document, place in zip(*places, strict=True):
            wanted[document].add(place)
        found: list[list[Position]] = [[] for _ in pack.names]
        free = asyncio.Semaphore(self.settings.concurrency)
        async with Server(self.options, self.where) as server:

            async def ask(document: int) -> None:
                async with free:
                    tokens = pack.tokens[pack.offsets[document] : pack.offsets[document + 1]].tolist()
                    said = await self.answer(server, tokens, k, pack.names[document])
                    who = f"{self.where}: {self.settings.url}, document {pack.names[document]}"
                    found[document] = self.positions(said, tokens, wanted[document], k, who)

            asked = asyncio.gather(*map(ask, wanted))  # the first error ends all
            try:
                while not (await asyncio.wait([asked], timeout=IDLE_SECONDS))[0]:
                    self.idle()
            except BaseException:
                asked.cancel()
                await asyncio.gather(asked, return_exceptions=True)
                raise
            await asked
        return found

    async def answer(self, server: Server, tokens: list[int], k: int, name: str) -> Any:
        """The first choice of the server's answer. Raises InputError if there is none after several tries."""
        body: dict[str, Any] = {"model": self.options.model, "prompt": tokens, "max_tokens": 1, "temperature": 0}
        if self.settings.form == "echo":
            body |= {"echo": True, "logprobs": k, "return_tokens_as_token_ids": True}
        else:
            body["prompt_logprobs"] = k
        tries = busy = 0
        while True:
            try:
                data = await server.post("/completions", body)
                return read_json(data.decode(), server.key)["choices"][0]
            except Refused as error:
                more = (
                    f"; a server says so where {k} log-probabilities are more than it may give (vLLM: --max-logprobs)"
                )
                raise InputError(f"{self.where}: document {name}: {error}{more if k > 1 else ''}") from None
            except Trouble as error:
                said, wait, busy = str(error), error.wait, busy + error.busy
                tries += not error.busy
            except (ValueError, LookupError, TypeError, RecursionError) as error:
                said, wait, tries = f"its answer makes no sense ({error})", 0.0, tries + 1
            if tries >= self.settings.attempts or busy >= BUSY:
                raise InputError(
                    f"{self.where}: {self.settings.url}: no answer on document {name} ({said}); see to the server, and "
                    "run again: what is written stays"
                )
            await asyncio.sleep(min(LONGEST_WAIT, max(wait, 0.25 * 2 ** min(tries + busy, 8))))

    def positions(self, choice: Any, tokens: list[int], wanted: set[int], k: int, who: str) -> list[Position]:
        """What an answer says of the tokens sent; of those that are not ``wanted``, nothing that is looked at. Raises
        InputError naming the document for other tokens than were sent, and for fewer log-probabilities than ``k``."""
        try:
            rows = rows_of(choice, self.settings.form)
            if rows is None:
                raise InputError(
                    f"{who}: the server tells nothing of the prompt's tokens; one is needed that knows "
                    f"{self.settings.form} ({self.where}.server.form)"
                )
            if len(rows) != len(tokens):
                raise InputError(f"{who}: {len(tokens)} tokens were sent, and {len(rows)} came back; {AS_IS}")
            nothing = Position(np.nan, -1, [])
            return [
                self.position(row, token, k, f"{who}, token {at}") if at in wanted else nothing
                for at, (row, token) in enumerate(zip(rows, tokens, strict=True))
            ]
        except InputError:  # a ValueError, too
            raise
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"{who}: the answer makes no sense ({type(error).__name__}: {error})") from error

    def position(self, row: Mapping[int, Mapping[str, Any]], token: int, k: int, who: str) -> Position:
        if token not in row:
            raise InputError(f"{who}: token id {token} was sent, and the answer is of others; {AS_IS}")
        sent = row[token]
        self.check_text(sent.get("decoded_token"), token, who)
        best = sorted(((i, float(one["logprob"])) for i, one in row.items()), key=lambda pair: -pair[1])
        if len(best) < k and k > 1:
            raise InputError(f"{who}: {k} log-probabilities were asked for, {len(best)} came; lower k, or let the "
                             "server give more (vLLM: --max-logprobs)")  # fmt: skip
        if strange := [i for i, _ in best if not 0 <= i < self.vocabulary]:
            raise InputError(
                f"{who}: the answer names token {strange[0]}, and the store's vocabulary has {self.vocabulary}; the "
                "server's model must share the student's tokenizer"
            )
        log_p, rank = float(sent["logprob"]), sent.get("rank")
        if not -1e30 < log_p <= 1e-3 or any(not p <= 1e-3 for _, p in best):
            raise InputError(f"{who}: {log_p} is no log-probability")
        return Position(min(log_p, 0.0), rank - 1 if isinstance(rank, int) else -1, [(i, min(p, 0.0)) for i, p in best])

    def check_text(self, said: object, token: int, who: str) -> None:
        """Raises InputError if the server reads a token's id as another text: it has another vocabulary."""
        ours = self.tokenizer.decode([token], skip_special_tokens=False).strip()
        if not isinstance(said, str) or not ours.isascii() or not said.isascii() or not ours or not said.strip(" ▁Ġ"):
            return
        if said.strip(" \n\t▁ĠĊ") != ours:
            raise InputError(
                f"{who}: token id {token} is {ours!r} to the student, and {said!r} to the server; its model must share "
                "the student's tokenizer"
            )


AS_IS = "the server must take token ids as they are, and add none"


def rows_of(choice: Mapping[str, Any], form: str) -> list[dict[int, dict[str, Any]]] | None:
    """For each token of the prompt: id -> what is said of it; empty for the first one. None: nothing is said."""
    if form == "prompt_logprobs":
        told = choice.get("prompt_logprobs")
        return None if told is None else [{int(i): one for i, one in (row or {}).items()} for row in told]
    told = choice.get("logprobs")
    if told is None or told.get("top_logprobs") is None:
        return None
    rows: list[dict[int, dict[str, Any]]] = []
    for name, log_p, row in zip(told["tokens"], told["token_logprobs"], told["top_logprobs"], strict=True):
        if not str(name).startswith(ID):
            raise ValueError(f"token {name!r} is named by its text; the server must know return_tokens_as_token_ids")
        held = {int(i.removeprefix(ID)): {"logprob": p} for i, p in (row or {}).items()}
        rows.append({} if log_p is None else {**held, int(name.removeprefix(ID)): {"logprob": log_p}})
    return rows[: len(rows) - 1]  # the last one is the token that it wrote

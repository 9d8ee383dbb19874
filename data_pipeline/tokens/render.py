"""The layout of a document, and back: what the model reads, what it should write, and how its output is split.

    <s> question <think> trace </think> answer </s>

Question, trace and answer are tokenised apart, so the tokens of ``<s> question`` begin the document whatever
follows. A control symbol that stands literally in a text stays text: it cannot forge a delimiter.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import AddedToken, Encoding, Tokenizer

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.tokens.remembered import Remembered

THINK, END_THINK = "<think>", "</think>"
UNKNOWN = "\U0010fffd"  # a character of no script, which no vocabulary holds
# gives plain transformers the prompt of this layout
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] }}{% endif %}{% endfor %}"
)


@dataclass(frozen=True)
class TraceTokenizer:
    """A tokenizer and the ids of its control symbols. Ids of tokens are below ``size``."""

    backend: Tokenizer
    bos: int
    eos: int
    pad: int
    think: int
    end_think: int
    size: int

    @property
    def special_ids(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in ("bos", "eos", "pad", "think", "end_think")}

    @cached_property
    def remembered(self) -> Remembered:
        """The same for many texts, as arrays."""
        return Remembered(self.backend)

    def encode(self, texts: Sequence[str]) -> list[Encoding]:
        """Ids and character offsets of each text, without control symbols."""
        return self.backend.encode_batch(list(texts), add_special_tokens=False)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of the ids; control symbols are left out."""
        return self.backend.decode([int(i) for i in ids], skip_special_tokens=True)


class Output(NamedTuple):
    """What a model wrote after the prompt."""

    trace: str
    answer: str  # empty if the trace was never closed
    finished: bool  # the model ended by itself


def load_tokenizer(directory: Path) -> TraceTokenizer:
    """The tokenizer in ``directory`` (tokenizer.json, tokenizer_config.json).

    Raises InputError if a file is missing or unreadable, or a control symbol is missing, naming it.
    """
    backend = load_backend(directory / "tokenizer.json")
    vocabulary = backend.get_vocab(with_added_tokens=True)
    config = load_config(directory / "tokenizer_config.json")
    symbols = {name: config.get(f"{name}_token") for name in ("bos", "eos", "pad")}
    ids = {}
    for name, symbol in symbols.items():
        content = symbol.get("content") if isinstance(symbol, dict) else symbol
        if content not in vocabulary:
            raise InputError(
                f"{directory}: the tokenizer lacks the control symbol {name}_token (found {content!r}); set "
                f'"{name}_token" in tokenizer_config.json to a token of tokenizer.json, or '
                "encode.tokenizer.add_symbols: true"
            )
        ids[name] = vocabulary[content]
    for name, symbol in (("think", THINK), ("end_think", END_THINK)):
        if symbol not in vocabulary:
            raise InputError(
                f"{directory}: the tokenizer lacks the control symbol {symbol}; add it by "
                "encode.tokenizer.add_symbols: true, which gives a pretrained student rows for it"
            )
        ids[name] = vocabulary[symbol]
        # some tokenizers hold it as an ordinary added token, which a literal "<think>" in a question would match
        backend.add_special_tokens([AddedToken(symbol, normalized=False, special=True)])
    return TraceTokenizer(backend, size=max(vocabulary.values()) + 1, **ids)


def load_backend(path: Path) -> Tokenizer:
    if not path.is_file():
        made = "; `tracestill fetch-student FILE DIR` makes one of a GGUF file" if ".gguf" in path.parent.name else ""
        raise InputError(
            f"{path}: no such file; a tokenizer directory holds tokenizer.json and tokenizer_config.json{made}"
        )
    try:
        backend = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise InputError(f"{path}: not a tokenizer that the tokenizers library reads ({error})") from error
    backend.no_padding()
    backend.no_truncation()
    backend.encode_special_tokens = True  # a literal "</think>" in a text is text
    return backend


def symbols_in(backend: Tokenizer, texts: Sequence[str], others: Collection[int] = ()) -> list[list[str]]:
    """The control symbols that plain transformers, and so an export, reads in each text: special tokens, and of
    ``others`` those that are not special.

    What a tokenizer writes for unknown text is often a special token, too, which stands there only where it is written.
    """
    added = backend.get_added_tokens_decoder()
    controls = {i: token for i, token in added.items() if token.special or i in others}
    found: list[list[str]] = [[] for _ in texts]
    may_hold = texts_with(tuple(token.content for token in controls.values()))
    # one that is looked for in normalised text may be written otherwise, such as in capitals
    loose = any(token.normalized for token in controls.values())
    looked_at = [at for at, text in enumerate(texts) if loose or may_hold(text)]
    if looked_at:
        before, backend.encode_special_tokens = backend.encode_special_tokens, False
        try:
            batch = [*(texts[at] for at in looked_at), UNKNOWN]
            *read, unknown = backend.encode_batch(batch, add_special_tokens=False)
        finally:
            backend.encode_special_tokens = before
        for at, one in zip(looked_at, read, strict=True):
            found[at] = [
                controls[i].content
                for i, place in zip(one.ids, one.offsets, strict=True)
                if i in controls and (i not in unknown.ids or says(backend, controls[i], texts[at][slice(*place)]))
            ]
    return found


def says(backend: Tokenizer, symbol: AddedToken, text: str) -> bool:
    """Whether a piece of text is the symbol's own writing, and not something that a tokenizer knows no token for."""
    same = backend.normalizer.normalize_str if symbol.normalized and backend.normalizer else str
    return same(text.strip()) == same(symbol.content.strip())


@lru_cache(maxsize=8)
def texts_with(contents: tuple[str, ...]) -> Callable[[str], Any]:
    """Finds any of these in a text."""
    return re.compile("|".join(map(re.escape, contents)) or "(?!)").search


def load_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(config, dict):
        raise InputError(f"{path}: expected a JSON object")
    return config


def prompt_ids(tokenizer: TraceTokenizer, question: str) -> list[int]:
    """The ids after which the model writes: ``<s> question``, the beginning of the question's documents."""
    return [tokenizer.bos, *tokenizer.encode([question])[0].ids]


def ids_behind(backend: Tokenizer, before: str, text: str) -> list[int]:
    """The ids of a text that a model goes on from, where ``before`` stands before it.

    A blank at its end that a tokenizer joins to what follows is left to the model, as it has learned it.
    """

    def ids_of(text: str) -> list[int]:
        return list(backend.encode(text, add_special_tokens=False).ids)

    if not text:
        return []
    if text.endswith(" ") and any(ids_of(text + next)[: len(ids_of(text))] != ids_of(text) for next in "7a"):
        text = text.rstrip(" ")
    first, whole = ids_of(before), ids_of(before + text)
    return whole[len(first) :] if whole[: len(first)] == first else ids_of(text)


def split_output(tokenizer: TraceTokenizer, ids: Sequence[int]) -> Output:
    """Trace and answer in the ids that a model wrote after the prompt; what follows ``</s>`` is padding.

    The trace ends at the first ``</think>``. Without one, everything is trace and there is no answer.
    """
    written = [int(i) for i in ids]
    finished = tokenizer.eos in written
    if finished:
        written = written[: written.index(tokenizer.eos)]
    if tokenizer.end_think not in written:
        return Output(tokenizer.decode(written), "", finished)
    end = written.index(tokenizer.end_think)
    return Output(tokenizer.decode(written[:end]), tokenizer.decode(written[end + 1 :]), finished)

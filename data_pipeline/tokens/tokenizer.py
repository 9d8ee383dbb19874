"""The tokenizer of a run: SentencePiece trained on the selected text, stored as a Hugging Face fast tokenizer.

SentencePiece's BPE, not its unigram model: a merge order is a list of integers, so the fast tokenizer repeats it
exactly, while unigram sums scores in floating point and the two libraries break ties differently; and BPE uses up a
small corpus without failing. Digits are split, unknown characters fall back to bytes, and a newline is a token of
its own, so that no token crosses a line. Text is not normalised: decoding gives back what was encoded (except for
U+2581, which SentencePiece uses for the space).

The think tags are tokens of their own but not special, as in Qwen3 and others: what leaves special tokens out, as
pipelines and servers do, must still show where the trace ends and the answer begins.
"""

from __future__ import annotations

import io
import json
import shutil
from collections import Counter
from collections.abc import Container
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import sentencepiece
from pydantic import BaseModel, ConfigDict, Field, model_validator
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, processors
from tokenizers.models import BPE

from tracestill.data_pipeline.base import own_modules
from tracestill.data_pipeline.base.batches import Rows
from tracestill.data_pipeline.base.content import read_digest
from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.schema import QUESTION_SCHEMA, read_rows
from tracestill.data_pipeline.base.stage import CONTENTS, UNKNOWN, stage
from tracestill.data_pipeline.guards.names import GivenPath
from tracestill.data_pipeline.tokens.control_symbols import add_control_symbols
from tracestill.data_pipeline.tokens.render import CHAT_TEMPLATE, load_backend, load_tokenizer

PAD, UNK, BOS, EOS, THINK, END_THINK = "<pad>", "<unk>", "<s>", "</s>", "<think>", "</think>"
SPECIAL, TAGS = (PAD, UNK, BOS, EOS), (THINK, END_THINK)
CONTROLS = (*SPECIAL, *TAGS)  # ids 0 to 5
RESERVED = len(CONTROLS) + 1 + 256  # control symbols, the newline, and the bytes
DEFAULT_SIZE = 8192
TRAIN_CHARACTERS = 1 << 26  # of a larger corpus, every n-th record is read
BATCH = 4096  # records in memory at a time
SPACE = "\u2581"  # SentencePiece's form of the space
FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
)


class TokenizerConfig(BaseModel):
    """The ``encode.tokenizer`` block: train one on the selected text, or take one that exists."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    vocab_size: int | None = Field(
        default=None,
        ge=RESERVED + 17,
        description=f"tokens at most, for one trained here; a small text gives fewer ({DEFAULT_SIZE})",
    )
    path: GivenPath | None = Field(
        default=None, description="directory with tokenizer.json and tokenizer_config.json to take instead"
    )
    add_symbols: bool = Field(
        default=False, description="with path: add the control symbols that it lacks; a pretrained student gets rows"
    )

    @model_validator(mode="before")
    @classmethod
    def _default(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("vocab_size") is None and data.get("path") is None:
            return {**data, "vocab_size": DEFAULT_SIZE}
        return data

    @model_validator(mode="after")
    def _one_source(self) -> TokenizerConfig:
        if self.vocab_size is not None and self.path is not None:
            raise ValueError("give one of vocab_size (train a tokenizer) and path (take one that exists)")
        if self.add_symbols and self.path is None:
            raise ValueError("encode.tokenizer.add_symbols belongs to encode.tokenizer.path")
        return self


def train_sentencepiece(texts: list[str], vocab_size: int) -> bytes:
    """A SentencePiece BPE model (its serialised form) of at most ``vocab_size`` pieces; equal texts, equal bytes.

    At most half of the pieces that are free go to single characters, the most frequent ones; others become bytes.
    Raises InputError if the texts hold no character.
    """
    characters = Counter[str]()
    for text in texts:
        characters.update(text.replace(" ", SPACE))
    del characters["\n"]
    by_count = sorted(characters, key=lambda c: (-characters[c], c))
    if not by_count:
        raise InputError("encode.tokenizer: the training text is empty; look at the selected records")
    rare = {ord(c): "\n" for c in by_count[(vocab_size - RESERVED) // 2 :]}
    lines = (line for text in texts for line in text.translate(rare).split("\n") if line)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines,
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab_size,
        hard_vocab_limit=False,
        character_coverage=1.0,
        byte_fallback=True,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=False,
        pad_id=0,
        unk_id=1,
        bos_id=2,
        eos_id=3,
        pad_piece=PAD,
        unk_piece=UNK,
        bos_piece=BOS,
        eos_piece=EOS,
        user_defined_symbols=[*TAGS, "\n"],
        max_sentence_length=1 << 30,  # longer lines would be left out
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def fast_tokenizer(model: bytes) -> Tokenizer:
    """The same tokenizer for the ``tokenizers`` library; its template puts ``<s>`` before a text."""
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)  # type: ignore[attr-defined]
    vocabulary = {piece.piece: i for i, piece in enumerate(proto.pieces)}
    learned = [piece.piece for piece in proto.pieces if piece.type == piece.NORMAL]  # in the order of merging
    usable = set(learned)
    merges = [
        (piece[:cut], piece[cut:])
        for piece in learned
        for cut in range(1, len(piece))
        if piece[:cut] in usable and piece[cut:] in usable
    ]
    tokenizer = Tokenizer(BPE(vocabulary, merges, unk_token=UNK, fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    tokenizer.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in SPECIAL])
    tokenizer.add_tokens([AddedToken(name, normalized=False) for name in (*TAGS, "\n")])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, vocabulary[BOS])]
    )
    return tokenizer


def write_tokenizer(model: bytes, directory: Path) -> None:
    """Write tokenizer.model, tokenizer.json and tokenizer_config.json, which ``AutoTokenizer`` loads."""
    (directory / "tokenizer.model").write_bytes(model)
    fast_tokenizer(model).save(str(directory / "tokenizer.json"))
    config = {
        "tokenizer_class": "TokenizersBackend",  # else AutoTokenizer would build the class of the model beside it
        "backend": "tokenizers",
        "bos_token": BOS,
        "eos_token": EOS,
        "unk_token": UNK,
        "pad_token": PAD,
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "chat_template": CHAT_TEMPLATE,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def held_out_questions(sample: Path) -> dict[str, str]:
    """Id -> split (test or validation) of the held-out questions.

    Raises InputError if the sample stage's questions cannot be read.
    """
    rows = read_rows(
        sample / "questions.parquet", pa.schema([QUESTION_SCHEMA.field(n) for n in ("question_id", "split")])
    )
    return {row["question_id"]: row["split"] for row in rows if row["split"] != "train"}


def training_text(records: Path, held_out: Container[str]) -> list[str]:
    """Questions, traces and answers of the training records: all, or every n-th if they are very many.

    Raises InputError if there is none.
    """
    columns = ("question_id", "question", "trace", "answer")
    schema = pa.schema([(name, pa.string()) for name in columns])
    rows = Rows(records, schema)
    characters = sum(
        pc.sum(pc.utf8_length(batch.column(name))).as_py() or 0 for batch in rows.batches(BATCH) for name in columns[1:]
    )
    stride = max(1, -(-characters // TRAIN_CHARACTERS))
    texts: list[str] = []
    seen = 0
    for batch in rows.batches(BATCH):
        for row in batch.select(columns).to_pylist():
            if row["question_id"] not in held_out:
                if seen % stride == 0:
                    texts += [row[name] for name in columns[1:]]
                seen += 1
    if not texts:
        raise InputError(f"{records}: holds no record of a training question; loosen `select` or sample more traces")
    return texts


def stage_config(config: TokenizerConfig, plain: bool = True, tags: bool = True) -> dict[str, Any]:
    """What, besides the records, decides how the tokenizer comes out. ``tags``: whether documents have think tags.

    Raises InputError if ``config.path`` names no tokenizer, or one that lacks a control symbol of the ``plain`` layout.
    """
    settings = config.model_dump(mode="json", exclude_defaults=True)
    if config.add_symbols and not tags:
        settings["tags"] = False
    if config.path is not None and own_modules.is_looking() and not config.path.is_dir():
        settings["files"] = UNKNOWN
    elif config.path is not None:
        complete = plain and not config.add_symbols
        load_tokenizer(config.path) if complete else load_backend(config.path / "tokenizer.json")
        found = [config.path / name for name in FILES if (config.path / name).is_file()]
        settings["files"] = {path.name: read_digest(path) for path in found}
        settings[CONTENTS] = {"path": settings["files"]}  # which count, and not where they lie
    return settings


def run(
    config: TokenizerConfig, directory: Path, *, sample: Path, select: Path, plain: bool = True, tags: bool = True
) -> None:
    """The tokenizer stage: train on the training records that ``select`` kept, or copy ``config.path``.

    The manifest tells ``vocab_size`` (ids are below it) and, if a ``plain`` layout uses it, ``special_ids`` (bos, eos,
    pad, think, end_think); a chat template brings delimiters of its own. With ``config.add_symbols`` it tells
    ``known_tokens``: how many there were before symbols were added.
    Raises InputError if there is nothing to train on, and where ``stage_config`` does.
    """
    settings = stage_config(config, plain, tags)
    with stage(directory, "tokenizer", settings, {"sample": sample, "select": select}) as work:
        if config.path is not None:
            for name in settings["files"]:
                shutil.copyfile(config.path / name, work.path / name)
        else:
            assert config.vocab_size is not None
            texts = training_text(select / "records.parquet", held_out_questions(sample))
            write_tokenizer(train_sentencepiece(texts, config.vocab_size), work.path)
            work.counts = {"texts": len(texts), "characters": sum(map(len, texts))}
        known = {"known_tokens": add_control_symbols(work.path, tags=tags)} if config.add_symbols else {}
        if plain:
            tokenizer = load_tokenizer(work.path)
            work.extra = {"vocab_size": tokenizer.size, "special_ids": tokenizer.special_ids, **known}
        else:
            vocabulary = load_backend(work.path / "tokenizer.json").get_vocab(with_added_tokens=True)
            work.extra = {"vocab_size": max(vocabulary.values()) + 1, **known}

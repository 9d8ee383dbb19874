"""The model of a scorer, ready to read: the recipe's student before training, or the one in a directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tokenizers import Tokenizer

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.stage import read_manifest
from tracestill.data_pipeline.channels import Channel
from tracestill.data_pipeline.sampling.teachers.api.options import ServerConfig
from tracestill.data_pipeline.tokens.store import TokenStore
from tracestill.trainer.batches.rectangles import RowMaker, layout_for
from tracestill.trainer.engine.engine import World
from tracestill.trainer.engine.partitioned import Partitioned, Place
from tracestill.trainer.loading.gguf import plain_place
from tracestill.trainer.loading.loading import load_config, load_tokenizer
from tracestill.trainer.ranks.collectives import together
from tracestill.trainer.ranks.console import say
from tracestill.trainer.ranks.join_ranks import is_first
from tracestill.trainer.recipe.positions import positions_in
from tracestill.trainer.recipe.recipe import Recipe
from tracestill.trainer.recipe.run_directory import RunDirectory
from tracestill.trainer.recipe.score_settings import ScorerConfig
from tracestill.trainer.recipe.settings import StudentConfig
from tracestill.trainer.scoring.align import OtherTokens, Translation, coverage
from tracestill.trainer.scoring.reading import LocalModel, Source
from tracestill.trainer.scoring.shard import looked_at
from tracestill.trainer.student.student import Student, build_student

if TYPE_CHECKING:
    from tracestill.trainer.scoring.server import ServedModel

SERVED_TOKENS = 1 << 16  # of the documents that a server is asked for at a time
SOME = 500  # documents of which the coverage is looked up before anything is read


def open_served(run: RunDirectory, arm: str, where: str, model: str, server: ServerConfig) -> ServedModel:
    """The model of the recipe's field ``where`` behind its server. Raises InputError as ``ServedModel``."""
    from tracestill.trainer.scoring.server import ServedModel

    size = (read_manifest(run.stage(arm, "encode")) or {})["vocab_size"]
    tokenizer = Tokenizer.from_file(str(run.stage(arm, "tokenizer") / "tokenizer.json"))
    return ServedModel(model, server, where, tokenizer, size)


def open_local(
    run: RunDirectory,
    arm: str,
    name: str,
    store: TokenStore,
    channels: tuple[Channel, ...],
    world: World,
) -> Source:
    """The model of scorer ``name`` on ``world.device``, whole or with its parameters on all ranks. Called on every rank
    in the latter case. Raises InputError if it does not load, does not fit, has another vocabulary than the store, or
    less of it than topk wants."""
    own = run.for_arm(arm)
    where, scorer = f"score.{name}", own.score[name]
    if scorer.approximate is not None and own.student.encoder_decoder:
        raise InputError(f"{where}.approximate: is for decoders; leave it out, and influence is exact")
    encode, tokenizer = run.stage(arm, "encode"), run.stage(arm, "tokenizer")
    about = read_manifest(encode) or {}
    config, translation = config_of(own, name), None
    made: dict[str, Any] = {f"{key}_id": about["special_ids"][key] for key in ("bos", "eos", "pad")}
    made["vocab_size"] = about["vocab_size"]
    if scorer.is_student:
        made["known_tokens"] = (read_manifest(tokenizer) or {}).get("known_tokens", about["vocab_size"])
    elif other := other_token(tokenizer, config.pretrained or Path()):
        if scorer.align is None:
            raise InputError(f"{where}.model: {other}; set {where}.align: bytes, or take a model with its tokenizer")
        translation = translation_to(config.pretrained or Path(), tokenizer, about["special_ids"])
        check_coverage(translation, store, looked_at(channels, store.kind_names), scorer, where)
        size = load_config(config.pretrained or Path(), config.trust_remote_code).get_text_config().vocab_size
        made = {"bos_id": None, "eos_id": 0, "pad_id": 0, "vocab_size": size}
    most = max((channel.width for channel in channels), default=1)

    def check(student: Student) -> None:
        if most > (rows := len(student.head[0].weight)):
            raise InputError(f"{where}.k: {most} entries a token of a vocabulary of {rows}; lower it")
        if translation is not None and student.model.config.is_encoder_decoder:
            raise InputError(f"{where}.align: reads with decoders only")

    local = load(config, where, own, world, made, check, zero=scorer.zero, store=None if translation else store)
    return local if translation is None else OtherTokens(local, translation, positions_of(local.student))


def load(
    config: StudentConfig,
    where: str,
    own: Recipe,
    world: Place,
    made: dict[str, Any],
    check: Callable[[Student], None],
    *,
    zero: int,
    store: TokenStore | None = None,
) -> LocalModel:
    """The model of the recipe's field ``where``, ready to read ``store``; with ``zero`` 3 its parameters lie on all
    ranks, which all call this. ``made`` goes to ``build_student``; ``check`` looks at what it builds. Raises InputError
    as they do, on all ranks if they are needed, and if there is too little memory."""
    found: list[tuple[Student, RowMaker]] = []

    def build() -> None:
        how: Any = {"device": world.device, "dtype": world.dtype, "chunk_rows": own.train.chunk_rows, "seed": own.seed}
        try:
            student = build_student(config, num_kinds=len(own.span_kinds()), **made, **how)
            found.append((student, layout_for(student.model.config, store).make_row))
        except InputError as error:
            raise InputError(f"{where}: {str(error).replace('student.pretrained', 'model')}") from error
        check(student)

    if zero == 3:
        together(build, f"{where}: not every rank can load it")
    else:
        build()
    student, make_row = found[0]
    student.cast(world.dtype).eval().requires_grad_(False)
    try:
        shared = Partitioned(student, world, own.deepspeed) if zero == 3 else None
        if shared is None:
            student.to(world.device)
    except torch.OutOfMemoryError as error:
        more = "take more ranks" if zero == 3 else f"set {where}.zero: 3, which shares it out"
        raise InputError(
            f"{where}.model: does not fit into the memory of {world.device}; {more}, take a smaller or quantised one, "
            f"or a server that has it ({where}.server)"
        ) from error
    return LocalModel(student, make_row, made["pad_id"], world.device, shared)


def positions_of(student: Student) -> int | None:
    return positions_in(student.model.config.to_dict())


def config_of(own: Recipe, name: str) -> StudentConfig:
    """The student that a scorer's model is built as."""
    scorer = own.score[name]
    if scorer.is_student:
        return own.student.model_copy(update={"lora": None, "freeze": []})
    trusted = scorer.trust_remote_code
    return StudentConfig(pretrained=Path(scorer.model), attention=own.student.attention, trust_remote_code=trusted)


def other_token(tokenizer: Path, model: Path) -> str:
    """Where the vocabulary of a model differs from the store's, in words; empty if all of the store's tokens are the
    model's, each under the same number."""
    ours = Tokenizer.from_file(str(tokenizer / "tokenizer.json")).get_vocab(with_added_tokens=True)
    theirs = load_tokenizer(plain_place(model)).get_vocab()
    other = next((token for token in sorted(ours, key=ours.__getitem__) if theirs.get(token) != ours[token]), None)
    if other is None:
        return ""
    told = f"token {other!r} is {ours[other]} in {tokenizer}, {theirs.get(other, 'unknown')} there"
    return f"{model} has another vocabulary than the student: {told}"


def check_tokens(tokenizer: Path, model: Path) -> None:
    """Raise InputError for a model whose tokens are not the student's."""
    if other := other_token(tokenizer, model):
        raise InputError(f"{other}; take a model with the student's tokenizer")


def translation_to(model: Path, tokenizer: Path, special: dict[str, int | None]) -> Translation:
    """Raises InputError for a tokenizer without a fast form."""
    loaded = load_tokenizer(plain_place(model))
    backend = getattr(loaded, "backend_tokenizer", None) or getattr(loaded, "_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise InputError(f"{model}: its tokenizer ({type(loaded).__name__}) has no fast form, which alignment needs")
    ends = {"bos": loaded.bos_token_id, "eos": loaded.eos_token_id}
    return Translation(Tokenizer.from_file(str(tokenizer / "tokenizer.json")), backend, special, ends)


def check_coverage(
    translation: Translation, store: TokenStore, table: np.ndarray, scorer: ScorerConfig, where: str
) -> None:
    """Say what share of each kind's targets will be known, by some documents. Raises InputError if it is too little."""
    some = range(0, len(store), max(1, len(store) // SOME))
    found = coverage(translation, store, some, table, topk="nll" not in scorer.channels)
    known, every = (sum(row[at] for row in found.values()) for at in (0, 1))
    told = ", ".join(f"{kind} {a / b:.1%}" for kind, (a, b) in found.items())
    text = f"{where}: {known / max(1, every):.1%} of the targets are known by their bytes ({told})"
    if known < scorer.min_coverage * every:
        raise InputError(
            f"{text}, less than {where}.min_coverage: {scorer.min_coverage:g}; lower it, or take another model"
        )
    if is_first():
        say(text)

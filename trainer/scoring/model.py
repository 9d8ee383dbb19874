"""The model of a scorer, ready to read: the recipe's student before training, or the one in a directory."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.stage import read_manifest
from tracestill.data_pipeline.channels import Channel
from tracestill.data_pipeline.tokens.store import TokenStore
from tracestill.trainer.batches.rectangles import layout_for
from tracestill.trainer.loading.gguf import plain_place
from tracestill.trainer.loading.loading import load_tokenizer
from tracestill.trainer.recipe.recipe import Recipe
from tracestill.trainer.recipe.run_directory import RunDirectory
from tracestill.trainer.recipe.settings import StudentConfig
from tracestill.trainer.scoring.reading import LocalModel, Source
from tracestill.trainer.student.student import build_student


def open_source(
    run: RunDirectory,
    arm: str,
    name: str,
    store: TokenStore,
    channels: tuple[Channel, ...],
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[Source, int]:
    """What reads for scorer ``name``, and how many tokens it takes at a time.

    Raises InputError as ``open_local`` does, and ``ServedModel``.
    """
    own = run.for_arm(arm)
    if own.score[name].server is None:
        return open_local(run, arm, name, store, channels, device, dtype), own.plan.capacity
    from tracestill.trainer.scoring.server import REQUEST_TOKENS, ServedModel

    size = (read_manifest(run.stage(arm, "encode")) or {})["vocab_size"]
    tokenizer = Tokenizer.from_file(str(run.stage(arm, "tokenizer") / "tokenizer.json"))
    return ServedModel(own.score[name], name, tokenizer, size), REQUEST_TOKENS


def open_local(
    run: RunDirectory,
    arm: str,
    name: str,
    store: TokenStore,
    channels: tuple[Channel, ...],
    device: torch.device,
    dtype: torch.dtype,
) -> LocalModel:
    """The model of scorer ``name`` on ``device``. Raises InputError if it does not load, does not fit, has another
    vocabulary than the store, or less of it than topk wants."""
    own = run.for_arm(arm)
    where = f"score.{name}"
    encode, tokenizer = run.stage(arm, "encode"), run.stage(arm, "tokenizer")
    about = read_manifest(encode) or {}
    size, ids = about["vocab_size"], about["special_ids"]
    known = (read_manifest(tokenizer) or {}).get("known_tokens", size)
    config = config_of(own, name)
    if not own.score[name].is_student:
        assert config.pretrained is not None
        check_vocabulary(tokenizer, config.pretrained, f"{where}.model")
        known = None
    try:
        student = build_student(
            config,
            vocab_size=size,
            num_kinds=len(own.span_kinds()),
            bos_id=ids["bos"],
            eos_id=ids["eos"],
            pad_id=ids["pad"],
            known_tokens=known,
            seed=own.seed,
            device=device,
            dtype=dtype,
            chunk_rows=own.train.chunk_rows,
        )
        layout = layout_for(student.model.config, store)
    except InputError as error:
        raise InputError(f"{where}: {str(error).replace('student.pretrained', 'model')}") from error
    rows = len(student.head[0].weight)
    if (most := max((channel.width for channel in channels), default=1)) > rows:
        raise InputError(f"{where}.k: {most} entries a token of a vocabulary of {rows}; lower it")
    try:
        student.cast(dtype).to(device).eval().requires_grad_(False)
    except torch.OutOfMemoryError as error:
        raise InputError(
            f"{where}.model: does not fit into the memory of {device}; each rank reads with a whole model (no ZeRO-3 "
            "here): take a quantised one, a GPU with more memory, or a server (score.*.server)"
        ) from error
    return LocalModel(student, layout.make_row, ids["pad"], device)


def config_of(own: Recipe, name: str) -> StudentConfig:
    """The student that a scorer's model is built as."""
    scorer = own.score[name]
    if scorer.is_student:
        return own.student.model_copy(update={"lora": None, "freeze": []})
    trusted = scorer.trust_remote_code
    return StudentConfig(pretrained=Path(scorer.model), attention=own.student.attention, trust_remote_code=trusted)


def check_vocabulary(tokenizer: Path, model: Path, where: str) -> None:
    """Raise InputError unless the tokens of the store are the model's own, each under the same number."""
    ours = Tokenizer.from_file(str(tokenizer / "tokenizer.json")).get_vocab(with_added_tokens=True)
    theirs = load_tokenizer(plain_place(model)).get_vocab()
    other = next((token for token in sorted(ours, key=ours.__getitem__) if theirs.get(token) != ours[token]), None)
    if other is not None:
        found = theirs.get(other)
        raise InputError(
            f"{where}: {model} has another vocabulary than the student: token {other!r} is {ours[other]} in "
            f"{tokenizer}, {'unknown' if found is None else found} there"
        )

"""How many ranks a CPU takes, and with how many threads each: by its cores, the packs of a step, and its memory.

The cores count as ``ranks.cores`` says. ``docs/throughput.md`` tells the rule, and what it was measured by.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

from tracestill.data_pipeline.tokens.render import load_backend
from tracestill.trainer.ranks.cores import share_cores, threads_of
from tracestill.trainer.recipe.recipe import Recipe
from tracestill.trainer.recipe.settings import own_bucket
from tracestill.trainer.timing import memory
from tracestill.trainer.timing.own_texts import own_texts

OF_PROCESS = 2**30  # bytes: Python, torch, DeepSpeed and transformers in one rank
OF_UNKNOWN = 20  # bytes a parameter, activations included, of a student that ``timing.memory`` does not know


def ranks_on_cpu(recipe: Recipe, cores: int, room: float, threads: int | None) -> tuple[int, int, str]:
    """Ranks, threads of each, and why there are not more ranks if it is for memory (else ""). ``room`` is in bytes;
    ``threads`` those that the user wants, None: as many as there are cores."""
    asked, parts, packs = recipe.train.ranks, recipe.train.sequence_parallel, recipe.plan.packs_per_step
    if asked != "auto":
        return asked, threads or threads_of(asked, cores), ""
    ranks, each = share_cores(cores, packs, parts, threads)
    wanted = ranks
    while ranks > parts and math.isfinite(room) and ranks * bytes_of_rank(recipe, ranks) > memory.ROOM * room:
        ranks, each = share_cores(cores, packs, parts, threads, most=ranks // parts - 1)
    short = f"memory for {ranks} of {wanted} ranks" if ranks < wanted else ""
    return ranks, each, short


def bytes_of_rank(recipe: Recipe, ranks: int) -> float:
    """Memory of one of ``ranks`` in fp32, as forecast by ``timing.memory`` where it knows the student."""
    decoder, parameters = shape_of(recipe.model_dump_json())
    if decoder is None:
        return OF_PROCESS + OF_UNKNOWN * parameters + memory.FP32 * own_texts(recipe, ranks).get("beside", 0)
    train = recipe.train
    zero = 1 if train.zero == "auto" else train.zero
    own = own_bucket(decoder.parameters, ranks if zero in (1, 2) and ranks > 1 else 0)
    setting = memory.Setting(
        recipe.plan.capacity,
        ranks,
        train.sequence_parallel,
        zero,
        bucket=int(recipe.deepspeed.get("zero_optimization", {}).get("reduce_bucket_size", own)),
        bytes=memory.FP32,
        recompute=recipe.student.activation_checkpointing,
        optimizer=train.optimizer.use,
        chunk_rows=train.chunk_rows,
        host_optimizer=train.offload.optimizer != "none",
        host_parameters=train.offload.parameters != "none",
        **own_texts(recipe, ranks),
    )
    return OF_PROCESS + memory.estimate(decoder, setting)["peak"] + memory.host(decoder, setting)


@cache
def shape_of(recipe: str) -> tuple[memory.Decoder | None, int]:
    """The shape of a recipe's student, if ``timing.memory`` knows its kind, and its parameters. ``recipe`` is JSON."""
    import torch

    from tracestill.trainer.student.check import VOCABULARY, bare_model, pretrained_config
    from tracestill.trainer.student.student import transformers_config

    own = Recipe.model_validate_json(recipe)
    student, tokenizer = own.student, own.encode.tokenizer
    size = tokenizer.vocab_size
    if tokenizer.path is not None:
        size = load_backend(tokenizer.path / "tokenizer.json").get_vocab_size(with_added_tokens=True)
    vocabulary = {**VOCABULARY, "vocab_size": size}
    config: Any = (
        pretrained_config(student) if student.config is None else transformers_config(student.config, vocabulary)
    )
    with torch.device("meta"):
        model = bare_model(student, config)
    return memory.decoder_of(config.get_text_config(decoder=True)), sum(p.numel() for p in model.parameters())

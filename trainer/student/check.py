"""Whether a student can be built, found out without its parameters: before any question is asked."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.rounds.on_policy import TextTeacher
from tracestill.trainer.loading.loading import build_model, check_model, read_config, reason_of, refuse_quantised
from tracestill.trainer.ranks.mesh import KEY, refuse
from tracestill.trainer.recipe.positions import positions_in
from tracestill.trainer.recipe.settings import StudentConfig
from tracestill.trainer.student.adapt import check_adaptation
from tracestill.trainer.student.attention import choose_attention
from tracestill.trainer.student.encoder_decoder import start_of
from tracestill.trainer.student.rope import isolate_rope, needs_lengths
from tracestill.trainer.student.routers import coefficient_of, find_routers
from tracestill.trainer.student.student import transformers_config
from tracestill.trainer.student.tiled_mlp import mlps_of

# In place of the tokenizer's
VOCABULARY = {"vocab_size": 1024, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def check_student(
    student: StudentConfig, device: torch.device, dtype: torch.dtype, parts: int = 1, *, tiled: bool = False
) -> int | None:
    """The most positions that the student has, None if its config names no bound.

    ``device`` and ``dtype`` are those it will train on and in, with ``parts`` ranks to a row. Raises InputError where
    ``build_student`` would, but for what lies behind the headers of a pretrained model's weights.
    """
    config = config_of(student)
    choose_attention(student, config, device, dtype)
    refuse(config, parts)
    if parts > 1 and needs_lengths(config):
        raise InputError(
            f"{KEY}: the student's RoPE depends on how long a document is, and a rank sees a part of it; set it to 1"
        )
    try:
        with torch.device("meta"):
            model = bare_model(student, config)
    except Exception as error:  # of whatever kind: a model's constructor checks in its own way
        kind = "an encoder-decoder" if student.encoder_decoder else "a causal model"
        raise InputError(f"student: {config.model_type} cannot be built as {kind} ({reason_of(error)})") from error
    isolate_rope(model)
    check_adaptation(model, student, device)
    if tiled:
        mlps_of(model)
    return positions_in(config.to_dict())


def check_trainable(student: StudentConfig) -> None:
    """Raises InputError for a student that ``check_student`` lets pass, and that can only be asked."""
    if student.pretrained is not None:
        try:
            refuse_quantised(student.pretrained)
        except InputError as error:
            raise InputError(f"student.pretrained: {error}") from error
    config = config_of(student)
    if coefficient_of(config, student.router_loss) is not None:
        with torch.device("meta"):
            find_routers(bare_model(student, config), student)


def config_of(student: StudentConfig) -> Any:
    """The transformers config of a student, with a vocabulary of no matter. Raises InputError if there is none."""
    keys = {**VOCABULARY, **start_of(student, eos_id=2, pad_id=0)}
    return pretrained_config(student) if student.config is None else transformers_config(student.config, keys)


def bare_model(student: StudentConfig, config: Any) -> Any:
    """The student's model with fresh parameters in fp32, where torch puts new tensors. Raises what its class raises."""
    trusted = student.trust_remote_code
    return build_model(config, encoder_decoder=student.encoder_decoder, trusted=trusted, dtype=torch.float32)


def pretrained_config(student: StudentConfig) -> Any:
    """The config in ``student.pretrained``. Raises InputError if there is none that can be read, or if the directory
    holds no weights that could be loaded."""
    path = student.pretrained
    assert path is not None
    try:
        config = read_config(path, student.trust_remote_code)
        check_model(path, student.trust_remote_code)
    except InputError as error:
        raise InputError(f"student.pretrained: {error}") from error
    return config


def elements_of(teacher: TextTeacher, ranks: int) -> int:
    """Those of a teacher's parameters that lie on each of ``ranks``: its part where they are shared out, and none where
    a server has them. Raises InputError as ``elements_in``."""
    if teacher.directory is None:
        return 0
    return -(-elements_in(teacher.directory) // (ranks if teacher.zero == 3 else 1))


@cache
def elements_in(teacher: Path) -> int:
    """Of all parameters of the model that ``train.on_policy`` follows, whose weights are not read. Raises InputError if
    it would not load."""
    about = StudentConfig(pretrained=teacher)
    try:
        config = pretrained_config(about)
        with torch.device("meta"):
            model = bare_model(about, config)
    except InputError as error:
        raise InputError(f"train.on_policy.teacher: {str(error).removeprefix('student.pretrained: ')}") from error
    return sum(parameter.numel() for parameter in model.parameters())

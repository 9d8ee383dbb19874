"""Export of a trained student, whatever was trained of it: the model, the model with adapters merged, or adapters."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tracestill.data_pipeline.models import own_code
from tracestill.trainer.export.export import export
from tracestill.trainer.loading import four_bits
from tracestill.trainer.recipe.student_settings import StudentConfig
from tracestill.trainer.student import adapters


def export_trained(
    model: PreTrainedModel, config: StudentConfig, state: Mapping[str, Tensor], tokenizer: Path, out: Path, **card: Any
) -> None:
    """Write ``out`` as ``student.lora.export`` says. ``state`` is as ``checkpoint.full_state_dict`` gives it; ``card``
    is ``title``, ``recipe`` and ``counts`` for ``export``, whose errors are raised."""
    lora = config.lora
    if lora is None:
        export(model, tokenizer, out, state_dict=state, **card)
        return
    whole = plain_model(model)
    if lora.export == "merged":
        note = f"{lora.kind} adapters of rank {lora.rank} were trained and are merged into its matrices."
        buffers = {adapters.plain_name(name): buffer for name, buffer in model.named_buffers()}
        kept = {name: buffers[name] for name in whole.state_dict().keys() & buffers.keys()}
        held = {adapters.plain_name(name): weight for name, weight in four_bits.whole_weights(model).items()}
        merged = adapters.merge({**state, **held}, lora)
        export(whole, tokenizer, out, state_dict={**kept, **merged}, note=note, **card)
        return
    note = (
        f"These are {lora.kind} adapters of rank {lora.rank} alone (load them with peft installed); the model that "
        "they adapt is named in `adapter_config.json`: `base_model_name_or_path`."
    )
    trained = adapters.split(state)[1]
    export(whole, tokenizer, out, note=note, write=lambda work: adapters.write_adapter(model, trained, work), **card)


def plain_model(model: PreTrainedModel) -> PreTrainedModel:
    """The model as it was before adapters went in, in the same types, without storage for its parameters."""
    with torch.device("meta"):
        plain = type(model)(copy.deepcopy(model.config))
    own_code.attach(plain, own_code.attached(model))
    types = {adapters.plain_name(name): p.dtype for name, p in model.named_parameters(remove_duplicate=False)}
    types |= {adapters.plain_name(name): weight.dtype for name, weight in four_bits.whole_weights(model).items()}
    for name, parameter in plain.named_parameters():
        parameter.data = parameter.data.to(types[name])
    return plain

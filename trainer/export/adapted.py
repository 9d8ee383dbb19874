"""Export of a trained student, whatever was trained of it: the model, the model with adapters merged, or adapters."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tracestill.data_pipeline.models import own_code
from tracestill.trainer.export.export import export
from tracestill.trainer.export.spool import Spool
from tracestill.trainer.loading import four_bits
from tracestill.trainer.recipe.student_settings import StudentConfig
from tracestill.trainer.student import adapters

Whole = Callable[[Callable[[str], bool]], Iterator[tuple[list[str], Tensor | None]]]


def spool_trained(model: PreTrainedModel, config: StudentConfig, whole: Whole, out: Path) -> Spool:
    """What is going to be exported to ``out``, on the disk of rank 0: the model's parameters in their own types, those
    of adapters merged into them or alone as ``student.lora.export`` says.

    ``whole`` gives parameters one after the other, as ``whole_parameters`` of an engine; called on every rank. Rank 0
    holds all adapters in memory, and of the others one at a time.
    """
    spool, lora = Spool(out), config.lora
    types = {adapters.plain_name(name): p.dtype for name, p in model.named_parameters(remove_duplicate=False)}
    added: dict[str, Tensor] = {}
    packed = in_four_bits(model)
    if lora is not None:
        for names, tensor in whole(adapters.is_adapter):
            if tensor is not None:
                added |= dict.fromkeys(names, tensor)
        if lora.export != "merged":
            for name, tensor in added.items():
                spool.add([name], tensor.to(types[name]))
            return spool
    for names, tensor in whole(lambda name: not adapters.is_adapter(name)):
        if tensor is not None:
            name = names[0]
            if name in packed:
                tensor = four_bits.whole_weight(packed[name])
                types[name] = tensor.dtype
            if lora is not None:
                layer = name.removesuffix("weight")
                own = {key: value for key, value in added.items() if layer != name and key.startswith(layer)}
                tensor = adapters.merge({name: tensor, **own}, lora)[name]
            spool.add(names, tensor.to(types[name]))
    return spool


def export_trained(
    model: PreTrainedModel, config: StudentConfig, state: Mapping[str, Tensor], tokenizer: Path, out: Path, **card: Any
) -> None:
    """Write ``out`` as ``student.lora.export`` says. ``state`` is what ``spool_trained`` kept; ``card`` is ``title``,
    ``recipe`` and ``counts`` for ``export``, whose errors are raised."""
    lora = config.lora
    if lora is None:
        export(model, tokenizer, out, state_dict=state, **card)
        return
    whole = plain_model(model)
    if lora.export == "merged":
        note = f"{lora.kind} adapters of rank {lora.rank} were trained and are merged into its matrices."
        buffers = {adapters.plain_name(name): buffer for name, buffer in model.named_buffers()}
        kept = {name: buffers[name] for name in whole.state_dict().keys() & buffers.keys()}
        export(whole, tokenizer, out, state_dict={**kept, **state}, note=note, **card)
        return
    note = (
        f"These are {lora.kind} adapters of rank {lora.rank} alone (load them with peft installed); the model that "
        "they adapt is named in `adapter_config.json`: `base_model_name_or_path`."
    )
    export(whole, tokenizer, out, note=note, write=lambda work: adapters.write_adapter(model, state, work), **card)


def in_four_bits(model: PreTrainedModel) -> dict[str, Any]:
    """Plain name of each matrix in 4 bits -> its layer."""
    return {adapters.plain_name(name): layer for name, layer in four_bits.quantised(model).items()}


def plain_model(model: PreTrainedModel) -> PreTrainedModel:
    """The model as it was before adapters went in, in the same types, without storage for its parameters."""
    with torch.device("meta"):
        plain = type(model)(copy.deepcopy(model.config))
    own_code.attach(plain, own_code.attached(model))
    types = {adapters.plain_name(name): p.dtype for name, p in model.named_parameters(remove_duplicate=False)}
    types |= {name: four_bits.whole_weight(layer).dtype for name, layer in in_four_bits(model).items()}
    for name, parameter in plain.named_parameters():
        parameter.data = parameter.data.to(types[name])
    return plain

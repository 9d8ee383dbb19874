"""A built student made ready to train: which parameters learn, and how its layers compute.

Called once, between ``build_student`` and the engine. What only evaluates a student needs none of it.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

import torch
from torch import nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from tracestill.data_pipeline.base.errors import InputError
from tracestill.kernels.attention import names
from tracestill.trainer.loading import four_bits
from tracestill.trainer.loading.loading import refuse_quantised
from tracestill.trainer.recipe.student_settings import StudentConfig
from tracestill.trainer.student import adapters
from tracestill.trainer.student.liger import choose_liger, use_liger
from tracestill.trainer.student.routers import check_routers, find_routers
from tracestill.trainer.student.student import Student

BACKEND = "inductor"  # of torch.compile


def adapt(
    student: Student, config: StudentConfig, *, seed: int, device: torch.device, new_tokens: int = 0
) -> list[str]:
    """Put the ``student`` block's keys into effect; what was done, in words, for the start of the log.

    ``new_tokens`` is the number of tokens whose rows are not learned yet: they must be trained. Raises InputError
    naming the key for what does not fit the model or the machine.
    """
    model = student.model
    notes = []
    kernels = choose_liger(config.liger, model.config.get_text_config(decoder=True).model_type, device)
    if kernels.used:
        use_liger(model)
    if kernels.reason:
        notes.append(kernels.reason)
    if adapters.has_adapters(model):
        raise InputError("student.pretrained: is peft's adapter, not a model; export it merged and train that")
    if config.pretrained is not None and getattr(model, "hf_quantizer", None) is not None:
        refuse_quantised(config.pretrained)
    if (routers := find_routers(model, config)) is not None:
        check_routers(model, routers)
        student.routers = routers
        notes.append(f"the routers' loss counts {routers.coefficient:g}")
    choose_parameters(model, config, seed, device)
    refuse_unlearned(model, new_tokens)
    count = sum(p.numel() for p in model.parameters())
    learning = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if learning < count:
        what = f"{config.lora.kind} of rank {config.lora.rank}: " if config.lora else ""
        what += "the model in 4 bits, " if config.lora and config.lora.quantize else ""
        notes.append(f"{what}{learning:,} of {count:,} parameters learn")
    layers = layers_of(model, config)
    if config.activation_checkpointing:
        checkpoint_activations(model)
        notes.append("activation checkpointing")
    if config.compile:
        compile_layers(layers, model.config.get_text_config(decoder=True)._attn_implementation)
        notes.append("layers compiled")
    return notes


def check_adaptation(model: PreTrainedModel, config: StudentConfig, device: torch.device) -> None:
    """Whether ``adapt`` could do its work, found out on a model without parameters (on the meta device).

    Raises InputError as ``adapt`` does.
    """
    choose_liger(config.liger, model.config.get_text_config(decoder=True).model_type, device)
    if config.lora:
        if config.lora.quantize:
            four_bits.check_machine(device)
        adapters.resolve_targets(model, config.lora)
        select(model, config.lora.train, "student.lora.train")
    freeze(model, config.freeze)
    layers_of(model, config)


def choose_parameters(
    model: PreTrainedModel, config: StudentConfig, seed: int, device: torch.device = adapters.CPU
) -> None:
    """Set ``requires_grad`` of every parameter, and put the adapters in."""
    if config.lora is None:
        freeze(model, config.freeze)
        return
    adapters.inject(model, config.lora, seed, config.pretrained, device)
    for parameter in select(model, config.lora.train, "student.lora.train"):
        if not parameter.is_floating_point():
            raise InputError("student.lora.train: names a matrix in 4 bits (student.lora.quantize), which cannot learn")
        parameter.requires_grad_(True)


def freeze(model: PreTrainedModel, names: list[str]) -> None:
    """Freeze what ``names`` select. Raises InputError if that is nothing, all, or a head that is not named."""
    for parameter in select(model, names, "student.freeze"):
        parameter.requires_grad_(False)
    head = model.get_output_embeddings().weight
    if head is model.get_input_embeddings().weight and "embeddings" in names and "head" not in names:
        raise InputError(
            "student.freeze: the head is tied to the embeddings and would be frozen with them; write "
            "[embeddings, head] if that is meant, or set tie_word_embeddings: false in student.config"
        )
    if not any(p.requires_grad for p in model.parameters()):
        raise InputError("student.freeze: leaves no parameter to train")


def select(model: PreTrainedModel, names: list[str], key: str) -> list[nn.Parameter]:
    """The parameters that ``names`` mean. Raises InputError naming ``key`` and a name that means none."""
    found: list[nn.Parameter] = []
    for name in names:
        if name in ("embeddings", "head"):
            module = model.get_input_embeddings() if name == "embeddings" else model.get_output_embeddings()
            matching = list(module.parameters())
        else:
            matching = [p for full, p in model.named_parameters() if fnmatchcase(adapters.plain_name(full), name)]
        if not matching:
            raise InputError(
                f"{key}: '{name}' means no parameter of {type(model).__name__}; expected embeddings, head or a pattern "
                f"of names such as {next(model.named_parameters())[0]}"
            )
        found += matching
    return found


def refuse_unlearned(model: PreTrainedModel, new_tokens: int) -> None:
    """Raises InputError if there are new tokens whose rows, all alike, would stay so."""
    modules = {"embeddings": model.get_input_embeddings(), "head": model.get_output_embeddings()}
    frozen = [name for name, module in modules.items() if not module.weight.requires_grad]
    if new_tokens and frozen:
        raise InputError(
            f"encode.tokenizer.add_symbols: the {new_tokens} new control symbols begin with equal rows in the "
            f"{' and '.join(frozen)}, which would be frozen; train them (student.lora.train: [embeddings, head], or "
            "no student.freeze)"
        )


def checkpoint_activations(model: PreTrainedModel) -> None:
    """Keep each layer's input only. The layers' randomness (dropout) is the same when they are computed again."""
    enable = getattr(model, "activation_checkpointing_enable", None)  # the older name is deprecated
    (enable or model.gradient_checkpointing_enable)({"use_reentrant": False})
    model.disable_input_require_grads()  # only the reentrant kind needs it


def layers_of(model: PreTrainedModel, config: StudentConfig) -> list[nn.Module]:
    """The layers that repeat. Raises InputError if the model has none and ``config`` needs them."""
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    wanted = [key for key in ("activation_checkpointing", "compile") if getattr(config, key)]
    if wanted and not layers:
        raise InputError(f"student.{wanted[0]}: {type(model).__name__} has no layers that transformers marks for it")
    return layers


def compile_layers(layers: list[nn.Module], attention: str) -> None:
    """torch.compile for rows of any length. Equal layers share the graphs; ``attention``, the name by which
    transformers knows it, stays as it is.

    Attention groups documents on the host, which a graph cannot hold. A checkpointed layer is compiled in its parts:
    torch does not compile a checkpoint that holds what it cannot trace, and says nothing of it.
    """
    for name in names(attention):
        AttentionInterface.register(name, torch.compiler.disable(AttentionInterface()[name]))
    for layer in layers:
        for part in layer.children() if layer.gradient_checkpointing else [layer]:
            part.compile(backend=BACKEND, dynamic=True)

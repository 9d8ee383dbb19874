"""LoRA (arXiv 2106.09685) by peft: adapters put into the student's model in place, and taken out again for export.

peft wraps a layer ``q_proj`` into one that holds ``q_proj.base_layer`` and ``q_proj.lora_A.default``. Checkpoints and
exports know nothing of that: by ``plain_name`` they say ``q_proj.weight`` and ``q_proj.lora_A.weight``, the names of
the plain model and of peft's own files.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import nearest
from tracestill.trainer.loading import four_bits
from tracestill.trainer.recipe.student_settings import LoraConfig

CPU = torch.device("cpu")
ADAPTER = "default"  # peft's name for the only adapter
CONFIG = "adapter_config.json"  # marks peft's directories
LORA_A, LORA_B = ".lora_A.weight", ".lora_B.weight"
MAGNITUDE = ".lora_magnitude_vector"  # of DoRA, without ".weight" as in peft's files


def plain_name(name: str) -> str:
    """A parameter's name without what peft's wrapping adds to it; other names stay."""
    name = name.replace(".base_layer.", ".").replace(f"{MAGNITUDE}.{ADAPTER}.weight", MAGNITUDE)
    return name.replace(f".lora_A.{ADAPTER}.", ".lora_A.").replace(f".lora_B.{ADAPTER}.", ".lora_B.")


def has_adapters(model: nn.Module) -> bool:
    return any(".base_layer." in name for name, _ in model.named_parameters())


def resolve_targets(model: PreTrainedModel, config: LoraConfig) -> list[str]:
    """The layers that get an adapter, named by the last part of their names where that is enough; a pattern becomes
    the whole names that it means, without the head's.

    Raises InputError for a target that is no linear layer of the model, and for the head, whose module computes the
    loss.
    """
    head = model.get_output_embeddings()
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and module is not head]
    head_name = next((name for name, module in model.named_modules() if module is head), "")
    if not linear:
        raise InputError(f"student.lora: {type(model).__name__} has no nn.Linear that could get an adapter")
    ends = sorted({name.rpartition(".")[2] for name in linear})
    if config.targets == "auto":
        return linear if any(names(end, head_name) for end in ends) else ends
    found: list[str] = []
    for target in config.targets:
        if any(sign in target for sign in "*?["):
            matching = [name for name in linear if fnmatchcase(name, target)]
            if not matching:
                raise InputError(
                    f"student.lora.targets: the pattern '{target}' means no linear layer of {type(model).__name__} but "
                    f"the head's, if any; they are named like {linear[0]}"
                )
            found += matching
            continue
        if head_name and names(target, head_name):
            raise InputError(
                f"student.lora.targets: '{target}' is the head, which computes the loss itself; "
                "train it whole (student.lora.train: [head])"
            )
        if not any(names(target, name) for name in linear):
            raise InputError(
                f"student.lora.targets: {type(model).__name__} has no linear layer '{target}'{nearest(target, ends)}"
            )
        found.append(target)
    return list(dict.fromkeys(found))


def names(target: str, module: str) -> bool:
    """Whether peft takes ``target`` to mean ``module``."""
    return module == target or module.endswith(f".{target}")


def inject(
    model: PreTrainedModel, config: LoraConfig, seed: int, base: Path | None, device: torch.device = CPU
) -> None:
    """Freeze the model, with ``quantize`` in 4 bits on ``device``, and put adapters into it that add nothing yet. Equal
    seeds give equal adapters.

    Raises InputError if peft is not installed, and where ``resolve_targets`` and ``four_bits`` do.
    """
    targets = resolve_targets(model, config)
    four_bits.before_peft()
    try:
        from peft import LoraConfig as PeftConfig
        from peft import inject_adapter_in_model
    except ImportError as error:
        raise InputError("student.lora needs peft; install it with pip install 'tracestill[lora]'") from error
    settings = PeftConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]  # peft only divides by the rank
        lora_dropout=config.dropout,
        use_dora=config.dora,
        use_rslora=config.rslora,
        target_modules=targets,
        task_type="SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM",
        base_model_name_or_path=str(base.resolve()) if base else None,
    )
    if config.quantize:
        four_bits.check_machine(device)
        four_bits.quantise(model, device)
        model.is_loaded_in_4bit = True  # peft asks for it
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(settings, model, ADAPTER)


def split(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A state by plain names as (the plain model's tensors, the adapters')."""
    adapters = {name: tensor for name, tensor in state.items() if name.endswith((LORA_A, LORA_B, MAGNITUDE))}
    return {name: tensor for name, tensor in state.items() if name not in adapters}, adapters


def merge(state: Mapping[str, Tensor], config: LoraConfig) -> dict[str, Tensor]:
    """The plain model's state, computed in fp32 at least, of a state by plain names: W' = W + scale B A, and with DoRA
    (arXiv 2402.09353) m W' / |W'|, the norm of each row."""
    plain, adapters = split(state)
    for name, a in adapters.items():
        if name.endswith(LORA_A):
            layer = name.removesuffix(LORA_A)
            b, weight = adapters[layer + LORA_B], plain[f"{layer}.weight"]
            exact = torch.promote_types(weight.dtype, torch.float32)
            whole = weight.to(exact) + config.scale * (b.to(exact) @ a.to(exact))
            if config.dora:
                whole *= adapters[layer + MAGNITUDE].to(exact)[:, None] / whole.norm(dim=1, keepdim=True)
            plain[f"{layer}.weight"] = whole
    return plain


def write_adapter(model: PreTrainedModel, adapters: Mapping[str, Tensor], directory: Path) -> None:
    """Write peft's adapter_config.json and adapter_model.safetensors for the adapters in ``model``."""
    settings: Any = model.peft_config[ADAPTER]
    settings.target_modules = sorted(settings.target_modules)  # peft's set has another order every time
    settings.save_pretrained(directory)
    stored = {f"base_model.model.{name}": tensor.detach().cpu().contiguous() for name, tensor in adapters.items()}
    save_file(stored, directory / "adapter_model.safetensors", metadata={"format": "pt"})

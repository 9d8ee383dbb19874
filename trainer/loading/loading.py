"""The one door through which models, configs and tokenizers of transformers are loaded or built.

Whatever a directory says of itself: nothing is fetched from a hub, no code of its own runs unless its digest is
trusted (see ``own_code``), nobody is asked, and its files are looked at before (see ``model_directory``). A model that
transformers knows is then transformers' own, and a line says so.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.integrations import hub_kernels

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.models import own_code
from tracestill.data_pipeline.models.model_directory import (
    ADAPTER_CONFIG,
    base_of,
    check_directory,
    read_object,
    refuse_foreign,
)
from tracestill.data_pipeline.models.own_code import CONFIG
from tracestill.trainer.loading import four_bits
from tracestill.trainer.loading.gguf import plain_place
from tracestill.trainer.loading.offline import offline
from tracestill.trainer.ranks.console import say
from tracestill.trainer.ranks.join_ranks import is_first

hub_kernels._kernels_enabled = False  # else some models fetch kernels, and run them, when they are first used


def check_model(directory: Path, trusted: str | None = None) -> None:
    """Raises InputError for what would not load, as far as that shows without reading the weights; also for a
    quantised model whose package is not installed."""
    directory = plain_place(directory)
    check_directory(directory, trusted)
    folder = directory if (directory / CONFIG).is_file() else base_of(directory)
    check_quantization(folder / CONFIG)


def check_quantization(file: Path) -> None:
    """Raises InputError if a config wants a quantisation that cannot be had on this machine."""
    from transformers.quantizers.auto import AutoHfQuantizer

    wanted = quantization_of(read_object(file))
    if not wanted:
        return
    try:
        if AutoHfQuantizer.supports_quant_method(wanted):  # if not, transformers passes over it, and says so
            AutoHfQuantizer.from_config(wanted, pre_quantized=True).validate_environment(device_map=None)
    except Exception as error:  # each method checks in its own way
        raise InputError(
            f"{file}: its weights are quantised ({method_of(wanted)}), and that is not to be had here "
            f"({reason_of(error)}); install what is missing, or take the model that was not quantised"
        ) from error


def refuse_quantised(directory: Path) -> None:
    """Raises InputError for weights that can be read, and neither trained nor written again."""
    file = plain_place(directory) / CONFIG
    if wanted := quantization_of(read_object(file)):
        raise InputError(
            f"{file}: its weights are quantised ({method_of(wanted)}), and can be neither trained nor exported; take "
            "the model that was not quantised (if these are plain numbers, take quantization_config out of the file)"
        )


def quantization_of(config: dict[str, Any]) -> Any:
    text = config.get("text_config")
    return config.get("quantization_config") or (text.get("quantization_config") if isinstance(text, dict) else None)


def method_of(wanted: Any) -> str:
    return str(wanted.get("quant_method", "?")) if isinstance(wanted, dict) else "?"


def read_config(directory: Path, trusted: str | None = None) -> PreTrainedConfig:
    """The config of a model directory. Raises InputError if there is none that can be read."""
    directory = plain_place(directory)
    file = directory / CONFIG
    if not file.is_file():
        raise InputError(f"{directory}: holds no {CONFIG}; expected a transformers model directory")
    values = read_object(file)
    refuse_foreign(file, values)
    own_code.check(directory, values, trusted)
    where, own, _ = place_of(directory, trusted)
    try:
        with offline():
            config = AutoConfig.from_pretrained(where, local_files_only=True, trust_remote_code=own)
    except Exception as error:
        raise InputError(f"{file}: no config of a model ({reason_of(error)})") from error
    if not own:
        drop_code(directory, config)
    return config


def load_config(directory: Path, trusted: str | None = None) -> PreTrainedConfig:
    """The config of the model that ``load_model`` would load: of an adapter's directory, that of its base."""
    adapter = (directory / ADAPTER_CONFIG).is_file() and not (directory / CONFIG).is_file()
    return read_config(base_of(directory) if adapter else directory, trusted)


def build_model(
    config: PreTrainedConfig, *, encoder_decoder: bool, trusted: str | None = None, **how: Any
) -> PreTrainedModel:
    """A model with parameters drawn anew. Raises what the model's own constructor raises."""
    own = own_code.is_run(config.to_dict(), trusted)  # ``read_config`` has checked it
    with offline():
        return auto_class(encoder_decoder).from_config(config, trust_remote_code=own, **how)


def load_model(
    directory: Path, *, encoder_decoder: bool, dtype: torch.dtype, trusted: str | None = None, **how: Any
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The model in a directory, peft's adapter put on the one that it adapts, and what transformers says of loading.

    Raises InputError, in one line, if it does not load, for whatever reason.
    """
    directory = plain_place(directory)
    check_model(directory, trusted)
    where, own, files = place_of(directory, trusted)
    if (directory / ADAPTER_CONFIG).is_file():
        four_bits.before_peft()
    held = {"dtype": dtype, "output_loading_info": True, "use_safetensors": True, **how}
    try:
        with offline():
            model, told = auto_class(encoder_decoder).from_pretrained(
                where, local_files_only=True, trust_remote_code=own, adapter_kwargs={"local_files_only": True}, **held
            )
    except (InputError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # safetensors, peft, torch and a model's own code each raise classes of their own
        raise InputError(f"{directory}: {reason_of(error)}") from error
    if not own:
        drop_code(directory, model.config)
    model.config._name_or_path = str(directory)
    own_code.attach(model, files)
    return model, told


def drop_code(directory: Path, config: PreTrainedConfig) -> None:
    """Take the names of code that was not run out of a config, so that an export names none, and say so."""
    for part in (config, *(getattr(config, name, None) for name in config.sub_configs)):
        if named := getattr(part, "auto_map", None):
            del part.auto_map
            say_once(directory, config.model_type, ", ".join(sorted(own_code.named_by({"auto_map": named}))))


@cache
def say_once(directory: Path, kind: str, named: str) -> None:
    if is_first():
        text = f"note: {directory}: its code (auto_map: {named}) is not run; this is transformers' own {kind}"
        say(text, err=True)


def load_tokenizer(directory: Path) -> Any:
    """What plain AutoTokenizer makes of a directory. Raises InputError if it makes nothing."""
    try:
        with offline():
            return AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise InputError(f"{directory}: no tokenizer of transformers ({reason_of(error)})") from error


def auto_class(encoder_decoder: bool) -> Any:
    """The class of transformers that makes a model."""
    return AutoModelForSeq2SeqLM if encoder_decoder else AutoModelForCausalLM


def place_of(directory: Path, trusted: str | None) -> tuple[Path, bool, own_code.Files]:
    """Where to load a directory from, whether code of its own runs, and that code: a copy of what was hashed."""
    file = directory / CONFIG
    if trusted is None or not (file.is_file() and own_code.named_by(read_object(file))):
        return directory, False, {}
    copy, files = own_code.copy_to_run(directory, trusted)
    return copy, True, files


def reason_of(error: BaseException) -> str:
    """An error's words in one line, not too long."""
    return " ".join(str(error).split())[:300] or type(error).__name__

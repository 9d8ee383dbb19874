"""Loads a directory after a look at it: safetensors only, no code of its own, and nothing is fetched."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.sampling.teachers.local.options import TeacherOptions

CONFIG, ADAPTER, TOKENIZER = "config.json", "adapter_config.json", "tokenizer_config.json"
ELSEWHERE = ("attn_implementation", "experts_implementation")  # may name a kernel on a hub, which is code


def load(options: TeacherOptions) -> tuple[Any, Any]:
    """Model, in evaluation mode on its device, and tokenizer. Raises InputError."""
    base, adapter = look(options.model)
    import torch
    import transformers

    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype: Any = torch.float32 if options.dtype == "auto" and device == "cpu" else options.dtype
    transformers.utils.logging.disable_progress_bar()  # the sampler shows its own
    try:
        config = transformers.AutoConfig.from_pretrained(base, trust_remote_code=False, local_files_only=True)
        kind = "AutoModelForSeq2SeqLM" if config.is_encoder_decoder else "AutoModelForCausalLM"
        made = getattr(transformers, kind).from_pretrained(
            base,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
        )
        if adapter is not None:
            import peft

            made = peft.PeftModel.from_pretrained(made, str(adapter), is_trainable=False)
        with_tokenizer = adapter if adapter is not None and (adapter / TOKENIZER).is_file() else base
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            with_tokenizer, trust_remote_code=False, local_files_only=True
        )
        made = made.to(device).eval()
    except ImportError as error:
        raise InputError(f"options.model: {options.model}: {error}; pip install 'tracestill[lora]'") from error
    except Exception as error:  # transformers raises what it likes
        said = " ".join(str(error).split())[:300]
        raise InputError(
            f"options.model: {options.model}: cannot be loaded ({type(error).__name__}: {said})"
        ) from error
    return made, tokenizer


def look(directory: Path) -> tuple[Path, Path | None]:
    """The directory of the model, and of the adapter on it if there is one. Raises InputError for what is not there or
    would run code."""
    adapter = None
    if (directory / ADAPTER).is_file():
        held = read(directory / ADAPTER)
        library = (held.get("auto_mapping") or {}).get("parent_library", "transformers.")
        if not str(library).startswith("transformers."):
            raise InputError(f"{directory / ADAPTER}: would import {library!r} (auto_mapping), which is not done")
        if not (directory / "adapter_model.safetensors").is_file():
            raise InputError(f"{directory}: expected adapter_model.safetensors; a pickled adapter is not loaded")
        adapter = directory
        if not (directory / CONFIG).is_file():
            base = held.get("base_model_name_or_path")
            if not isinstance(base, str) or not (Path(base) / CONFIG).is_file():
                raise InputError(
                    f"{directory / ADAPTER}: base_model_name_or_path is {base!r}; expected the directory, on this "
                    "machine, of the model that it adapts (nothing is fetched)"
                )
            directory = Path(base)
    if not (directory / CONFIG).is_file():
        raise InputError(f"options.model: {directory}: holds no {CONFIG}; expected a directory of transformers' form")
    for name in (CONFIG, TOKENIZER):
        if (directory / name).is_file():
            refuse_code(directory / name)
    if adapter is not None and (adapter / TOKENIZER).is_file():
        refuse_code(adapter / TOKENIZER)
    if not any(directory.glob("*.safetensors")):
        raise InputError(f"options.model: {directory}: expected weights as safetensors; pickled ones are not loaded")
    return directory, adapter


def refuse_code(file: Path) -> None:
    for key, value in walk(read(file)):
        if key == "auto_map" and value:
            raise InputError(f"{file}: brings code of its own (auto_map), which a teacher in this process does not run")
        if key.lstrip("_").startswith(ELSEWHERE) and isinstance(value, str) and "/" in value:
            raise InputError(f"{file}: {key} is {value!r}, code from a hub, which is not fetched; remove it")


def read(file: Path) -> dict[str, Any]:
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file}: not readable as JSON ({' '.join(str(error).split())})") from error
    if not isinstance(held, dict):
        raise InputError(f"{file}: expected a JSON object, got {type(held).__name__}")
    return held


def walk(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key and what stands under it."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield str(key), inner
            yield from walk(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from walk(inner)

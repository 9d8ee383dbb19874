"""Loads a directory after a look at it: safetensors only, no code of its own, and nothing is fetched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.models import own_code
from tracestill.data_pipeline.models.model_directory import ADAPTER_CONFIG, base_of, check_directory, read_object
from tracestill.data_pipeline.models.own_code import CONFIG
from tracestill.data_pipeline.sampling.teachers.local.options import TeacherOptions

TOKENIZER = "tokenizer_config.json"


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
    """The directory of the model, and of the adapter on it if there is one. Raises InputError for what would not load,
    or would run code: that of a directory runs in no teacher, trusted or not."""
    check_directory(directory)
    adapter = directory if (directory / ADAPTER_CONFIG).is_file() else None
    base = directory if (directory / CONFIG).is_file() else base_of(directory)
    for file in (base / CONFIG, base / TOKENIZER, directory / TOKENIZER):
        if file.is_file() and own_code.named_by(read_object(file)):
            raise InputError(f"{file}: brings code of its own (auto_map), which a teacher in this process does not run")
    return base, adapter

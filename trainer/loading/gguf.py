"""Models in GGUF, the format of llama.cpp: made into a plain directory of transformers' in fp32, which all else reads.

A file holds config, weights (perhaps quantised; they are computed back) and tokenizer with its chat template, and no
code. What is made of one lies in a cache by the file's content, so that it is converted once on a machine.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig
from transformers.utils import logging

from tracestill.data_pipeline.base.content import digest_of_file
from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.places import draft_of
from tracestill.trainer.loading.offline import offline

SUFFIX = ".gguf"
MAGIC = b"GGUF"
ROPE = ("rope_freqs", "rope_factors")  # tensors by which llama.cpp divides RoPE's frequencies
INSTALL = "pip install 'tracestill[gguf]'"


def gguf_in(place: Path) -> Path | None:
    """The GGUF file that ``place`` is, or is the only one of where nothing of transformers' lies; None if it is
    neither. Raises InputError for a directory with several."""
    if place.suffix == SUFFIX and not place.is_dir():
        return place
    if not place.is_dir() or (place / "config.json").exists() or (place / "adapter_config.json").exists():
        return None
    found = sorted(place.glob(f"*{SUFFIX}"))
    if len(found) > 1:
        raise InputError(f"{place}: holds several models ({', '.join(f.name for f in found[:3])}); name one file")
    return found[0] if found else None


def plain_place(place: Path) -> Path:
    """Where transformers finds the model: ``place`` itself, or what is made of the GGUF file there."""
    file = gguf_in(place)
    if file is None:
        return place
    try:
        about = file.stat()
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from error
    return converted(file, about.st_size, about.st_mtime_ns)


@cache
def converted(file: Path, size: int, changed: int) -> Path:
    """The directory in the cache that holds what is made of a file of this size and time."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tracestill" / "gguf"
    place = root / read_digest(file)
    if not place.is_dir():
        convert(file, place)
    return place


def read_digest(file: Path) -> str:
    """Raises InputError if it cannot be read, or is no GGUF."""
    try:
        with file.open("rb") as handle:
            if handle.read(len(MAGIC)) != MAGIC:
                raise InputError(f"{file}: is no GGUF file (it does not begin with GGUF); copy it here again")
        return digest_of_file(file)
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from error


def convert(file: Path, directory: Path) -> None:
    """Write ``directory`` wholly or not at all: config, weights in fp32, tokenizer and chat template.

    Raises InputError if the package that reads such files is missing, or transformers does not know the model.
    """
    if find_spec("gguf") is None:
        raise InputError(f"{file}: is a GGUF, which needs the package gguf; install it: {INSTALL}")
    directory.parent.mkdir(parents=True, exist_ok=True)
    work = draft_of(directory)
    work.mkdir()
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with offline(), contextlib.redirect_stderr(io.StringIO()):  # transformers' progress has no switch here
            write(file, work)
        try:
            work.replace(directory)
        except OSError:  # another process may have been as fast
            if not directory.is_dir():
                raise
    except (InputError, MemoryError, OSError):
        raise
    except Exception as error:  # gguf and transformers raise what their readers stumble over
        raise InputError(f"{file}: not to be read as a GGUF model ({' '.join(str(error).split())[:300]})") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
        if bars:
            logging.enable_progress_bar()


def refuse_scaled(file: Path, config: PreTrainedConfig) -> None:
    """Raises InputError for RoPE that the file scales, in a tensor (Llama 3.1, Phi-3.5) or by its metadata, and that
    transformers passes over: the model would be another one."""
    from gguf import GGUFReader

    reader = GGUFReader(file)
    scaling = [t.name for t in reader.tensors if t.name.startswith(ROPE) and (t.data != 1).any()]
    scaling += [
        name
        for name, field in reader.fields.items()
        if name.endswith(".rope.scaling.type") and field.contents() != "none"
    ]
    kind = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if scaling and kind == "default":
        raise InputError(
            f"{file}: scales its RoPE ({scaling[0]}), which transformers does not read out of a GGUF; take the model "
            "as a directory of transformers'"
        )


def write(file: Path, directory: Path) -> None:
    config = AutoConfig.from_pretrained(
        file.parent, gguf_file=file.name, local_files_only=True, trust_remote_code=False
    )
    refuse_scaled(file, config)
    read, loaded = AutoModelForCausalLM.from_pretrained(
        file.parent,
        gguf_file=file.name,
        config=config,
        dtype=torch.float32,
        local_files_only=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    if missing := sorted(loaded["missing_keys"]):  # transformers draws them at random, and all of them are written
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise InputError(f"{file}: lacks the weights of {', '.join(missing[:3])}{more}, or names them otherwise")
    state = read.state_dict()
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(read.config, dtype=torch.float32, trust_remote_code=False)
    plain.to_empty(device="cpu")  # what was read knows itself as quantised, and would not be saved
    plain.load_state_dict(state)
    for name, buffer in read.named_buffers():
        plain.get_buffer(name).copy_(buffer)
    plain.tie_weights()
    plain.config._name_or_path = ""
    if hasattr(plain.config, "quantization_config"):
        del plain.config.quantization_config
    plain.save_pretrained(directory)
    tokenizer = AutoTokenizer.from_pretrained(
        file.parent, gguf_file=file.name, local_files_only=True, trust_remote_code=False
    )
    tokenizer.save_pretrained(directory)
    for path in directory.iterdir():
        path.chmod(0o644)  # safetensors makes its files unreadable to others

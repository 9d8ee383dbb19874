"""Whether a directory in transformers' form can be loaded, found out by its small files and the headers of its weights:
before ranks start, and again by whatever loads it. Imports no torch, runs nothing, and asks nobody.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.models import own_code
from tracestill.data_pipeline.models.adapter_patterns import check_patterns
from tracestill.data_pipeline.models.own_code import CONFIG

ADAPTER_CONFIG = "adapter_config.json"
WEIGHTS, INDEX, ADAPTER_WEIGHTS = "model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".bin.index.json")
OTHERS = (".gguf", ".h5", ".msgpack", ".onnx", ".safetensors")  # what may lie there and is not read
LFS = b"version https://git-lfs"
AGAIN = "copy it here again"


def check_directory(directory: Path, trusted: str | None = None) -> None:
    """Raises InputError, beginning with the file, for what would not load: no config, weights that are missing, empty,
    torn, or a pickle, code that is not ``trusted`` (a digest of ``own_code``); for peft's adapter also what the model
    lacks that it adapts."""
    has_config = (directory / CONFIG).is_file()
    if has_config:
        config = read_object(directory / CONFIG)
        refuse_foreign(directory / CONFIG, config)
        own_code.check(directory, config, trusted)
        check_weights(directory, config.get("transformers_weights"))
    elif not (directory / ADAPTER_CONFIG).is_file():
        raise InputError(f"{directory}: holds no {CONFIG}; expected a transformers model directory")
    if (directory / ADAPTER_CONFIG).is_file():
        if not has_config:
            base = base_of(directory)
            check_directory(base, trusted)
            if own_code.is_run(read_object(base / CONFIG), trusted):
                raise InputError(f"{directory}: an adapter on a model with code of its own; merge it into that model")
        held = read_object(directory / ADAPTER_CONFIG)
        refuse_library(directory / ADAPTER_CONFIG, held)
        check_patterns(directory / ADAPTER_CONFIG, held)
        if find_spec("peft") is None:
            raise InputError(f"{directory}: an adapter, which needs peft; install it: pip install 'tracestill[lora]'")
        check_file(directory, ADAPTER_WEIGHTS)


def base_of(directory: Path) -> Path:
    """The directory of the model that peft's adapter adapts. Raises InputError if it names none here: a name on a hub
    is not looked up."""
    file = directory / ADAPTER_CONFIG
    base = read_object(file).get("base_model_name_or_path")
    if not isinstance(base, str) or not Path(base, CONFIG).is_file():
        raise InputError(
            f"{file}: base_model_name_or_path is {base!r}; expected the directory, on this machine, of the model that "
            "the adapter belongs to (nothing is downloaded)"
        )
    return Path(base)


def read_object(file: Path) -> dict[str, Any]:
    """A JSON object. Raises InputError if the file holds none."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file}: not readable as JSON ({' '.join(str(error).split())})") from error
    if not isinstance(found, dict):
        raise InputError(f"{file}: expected a JSON object, got {type(found).__name__}")
    return found


def refuse_foreign(file: Path, config: Mapping[str, Any]) -> None:
    """Raises InputError for a config that would have transformers fetch and run a kernel from a hub, or read its
    settings from another file."""
    if "configuration_files" in config:
        raise InputError(f"{file}: names other files for its settings (configuration_files); write them into this one")
    for key, value in own_code.walk(config):
        if key.lstrip("_").startswith(("attn_implementation", "experts_implementation")):
            values = value.values() if isinstance(value, Mapping) else [value]
            if found := [v for v in values if isinstance(v, str) and "/" in v]:
                raise InputError(f"{file}: {key} is {found[0]!r}, a kernel from a hub, which is not fetched; remove it")


def refuse_library(file: Path, adapter: Mapping[str, Any]) -> None:
    """Raises InputError for an adapter that would have peft import a module other than transformers'."""
    mapping = adapter.get("auto_mapping") or {}
    library = mapping.get("parent_library", "transformers.") if isinstance(mapping, Mapping) else mapping
    if not str(library).startswith("transformers."):
        raise InputError(f"{file}: would import {library!r} (auto_mapping), which is not done; remove it")


def check_weights(directory: Path, name: Any = None) -> None:
    """Raises InputError for weights that would not load. ``name`` is the file that the config names, if it does."""
    if name is not None:
        plain = isinstance(name, str) and Path(name).name == name
        if not plain or not name.endswith((".safetensors", ".safetensors.index.json")):
            raise InputError(
                f"{directory / CONFIG}: transformers_weights is {name!r}; expected a safetensors file here"
            )
        file = name
    else:
        file = WEIGHTS if (directory / WEIGHTS).is_file() or not (directory / INDEX).is_file() else INDEX
    if file.endswith(".index.json"):
        check_shards(directory, file)
    else:
        check_file(directory, file)


def check_shards(directory: Path, index: str) -> None:
    """All files of an index, and in each the tensors that the index promises."""
    placed = read_object(directory / index).get("weight_map")
    if not isinstance(placed, dict) or not placed or not all(isinstance(name, str) for name in placed.values()):
        raise InputError(f"{directory / index}: expected a weight_map from tensors to files; {AGAIN}")
    for shard in sorted(set(placed.values())):
        if Path(shard).name != shard:
            raise InputError(f"{directory / index}: names {shard!r}; expected a file beside it")
        held = check_file(directory, shard)
        if lost := sorted(name for name, where in placed.items() if where == shard and name not in held):
            raise InputError(f"{directory / shard}: lacks {lost[0]}, which {index} places there; {AGAIN}")


def check_file(directory: Path, name: str) -> set[str]:
    """The names of a safetensors file's tensors; its header must account for every byte. Raises InputError if not."""
    file = directory / name
    if not file.is_file():
        raise InputError(missing(directory, name))
    try:
        with file.open("rb") as handle:
            start = handle.read(len(LFS))
        if not start:
            raise InputError(f"{file}: is empty; {AGAIN}")
        if start == LFS:
            raise InputError(f"{file}: is a pointer of Git LFS, not the weights; fetch them with `git lfs pull`")
        with safe_open(file, framework="np") as opened:
            names = set(opened.keys())
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror or error})") from error
    except SafetensorError as error:
        raise InputError(
            f"{file}: is torn, or no safetensors file ({' '.join(str(error).split())}); {AGAIN}"
        ) from error
    if not names:
        raise InputError(f"{file}: holds no tensor; {AGAIN}")
    return names


def missing(directory: Path, name: str) -> str:
    """What lies in a directory in place of a file of weights, and what to do."""
    try:
        there = sorted(path.name for path in directory.iterdir())
    except OSError as error:
        return f"{directory}: cannot be read ({error.strerror})"
    stem = name.partition(".")[0].partition("_")[0]  # model or adapter
    pickles = [n for n in there if n.endswith(PICKLES) and (stem == "model" or n.startswith(stem))]
    if pickles:
        return (
            f"{directory / pickles[0]}: is a pickle, which can run anything and is not read; where you trust it, load "
            f"it with transformers and save_pretrained it anew, which writes {name}"
        )
    others = [n for n in there if n.endswith(OTHERS) and n != name]
    found = f" (found {', '.join(others[:3])})" if others else ""
    return f"{directory}: holds no {name}{found}; expected weights in safetensors"

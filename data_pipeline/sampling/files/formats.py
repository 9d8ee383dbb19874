"""What a source of files names: which files, how each is written and packed, and the split that its name says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from tracestill.data_pipeline.base.errors import InputError

HUB = "hf://"
SUFFIXES = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".parquet": "parquet", ".pq": "parquet",
    ".arrow": "arrow", ".feather": "arrow", ".ipc": "arrow", ".csv": "csv", ".tsv": "tsv", ".tab": "tsv",
}  # fmt: skip
PACKED = {".gz": "gzip", ".gzip": "gzip", ".zst": "zstd", ".zstd": "zstd"}
BINARY = ("parquet", "arrow")  # they pack their own columns
SPLITS = {
    "train": "train", "training": "train", "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
}  # fmt: skip
DATASET, DATASETS = "state.json", "dataset_dict.json"  # what the library `datasets` writes beside its Arrow files


@dataclass(frozen=True)
class Part:
    """One file, or one split of a data set of the hub."""

    path: Path
    format: str  # jsonl, json, parquet, arrow, csv, tsv, or hub
    packed: str = ""  # gzip, zstd
    split: str = ""  # as the file's name or place says
    name: str = ""  # of the hub: what its rows' places begin with

    @property
    def place(self) -> str:
        return self.name or str(self.path)


def is_files(source: str) -> bool:
    """Whether a source is a file, a directory (it holds a ``/``) or a data set of the hub, and no module's name."""
    return source.startswith(HUB) or "/" in source or source in (".", "..") or format_of(Path(source)) is not None


def format_of(path: Path) -> tuple[str, str] | None:
    """(format, packing) by the end of a name; None if it says none."""
    packed = PACKED.get(path.suffix.lower(), "")
    suffix = Path(path.stem).suffix if packed else path.suffix
    found = SUFFIXES.get(suffix.lower())
    return None if found is None or (packed and found in BINARY) else (found, packed)


def parts_of(source: str) -> list[Part]:
    """The files of a source, in the order of their names. Raises InputError if there is none that can be read."""
    if source.startswith(HUB):
        return [Part(Path(source), "hub", name=source)]
    path = Path(source)
    if path.is_dir():
        return with_splits(list(inside(path)), path)
    if not path.exists():
        raise InputError(f"{path}: not readable (No such file or directory)")
    found = format_of(path)
    if found is None:
        raise InputError(f"{path}: expected a file named {expected()}")
    return [Part(path, *found)]


def expected() -> str:
    return f"*{', *'.join(SUFFIXES)}, the texts also with {' or '.join(PACKED)} behind it"


def inside(folder: Path) -> Iterator[Part]:
    if (folder / DATASETS).is_file():
        for name in sorted(child.name for child in folder.iterdir() if (child / DATASET).is_file()):
            yield from (replace(part, split=SPLITS.get(name.lower(), "")) for part in of_datasets(folder / name))
        return
    if (folder / DATASET).is_file():
        yield from of_datasets(folder)
        return
    for child in sorted(folder.iterdir()):
        if child.name.startswith((".", "_")):
            continue
        if child.is_dir():
            yield from inside(child)
        elif (found := format_of(child)) is not None and child.name != "dataset_infos.json":
            yield Part(child, *found)


def of_datasets(folder: Path) -> Iterator[Part]:
    """The Arrow files of a data set that ``datasets`` has saved. Raises InputError if its rows are chosen by a list."""
    try:
        state = json.loads((folder / DATASET).read_text(encoding="utf-8"))
        names = [str(each["filename"]) for each in state["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / DATASET}: is not what `datasets` writes ({error})") from error
    if state.get("_indices_files") or state.get("_indices_data_files"):
        raise InputError(f"{folder}: a selection of rows; save it again after `flatten_indices()`")
    for name in names:
        if Path(name).name != name:
            raise InputError(f"{folder / DATASET}: names the file {name!r} outside of its directory")
        yield Part(folder / name, "arrow")


def with_splits(parts: list[Part], folder: Path) -> list[Part]:
    """Parts with the split that their names say (``train-0.parquet``, ``test/a.jsonl``), if they say more than one."""
    if not parts:
        raise InputError(f"{folder}: a directory without a file named {expected()}")
    named = [part if part.split else replace(part, split=split_in_name(part.path, folder)) for part in parts]
    said = {part.split for part in named if part.split}
    return named if len(said) > 1 else parts


def split_in_name(path: Path, folder: Path) -> str:
    words = re.split(r"[^a-z]+", str(path.relative_to(folder)).lower())
    found = {SPLITS[word] for word in words if word in SPLITS}
    return found.pop() if len(found) == 1 else ""

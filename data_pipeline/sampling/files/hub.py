"""Rows of a data set of the Hugging Face hub, through the library ``datasets``, streamed; no code of it is run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.sampling.files.formats import HUB, SPLITS
from tracestill.data_pipeline.sampling.files.lines import Row
from tracestill.data_pipeline.sampling.files.tables import row_of

KEYS = ("config", "split", "revision")


def hub_rows(source: str) -> Iterator[tuple[str, Row]]:
    """(split, row) of ``hf://owner/name?config=main&split=train&revision=…``; without a split, those of all splits.

    Raises InputError, in one line, if the library or the network is missing, or the hub knows no such data set.
    """
    name, _, query = source.removeprefix(HUB).partition("?")
    asked = dict(parse_qsl(query, keep_blank_values=True))
    if not name or (unknown := asked.keys() - set(KEYS)):
        wrong = f"unknown key '{min(unknown)}'" if name else "no name"
        raise InputError(f"{source}: {wrong}; expected hf://owner/name?{'&'.join(f'{key}=…' for key in KEYS)}")
    try:
        import datasets
    except ImportError as error:
        raise InputError(f"{source}: needs the library datasets ({error}); pip install 'tracestill[hub]'") from error
    datasets.disable_progress_bars()
    try:
        found: Any = datasets.load_dataset(
            name, asked.get("config"), split=asked.get("split"), revision=asked.get("revision"), streaming=True
        )
        splits = found.items() if isinstance(found, dict) else [(asked["split"].partition("[")[0], found)]
        at = 0
        for split, rows in splits:
            for data in rows:
                at += 1
                yield SPLITS.get(str(split).lower(), ""), row_of(at, data)
    except InputError:
        raise
    except Exception as error:  # of the network, the hub, or the data set's files
        offline = os.environ.get("HF_HUB_OFFLINE") or isinstance(error, ConnectionError)
        said = " ".join(str(error).split())[:200]
        hint = "this machine is offline: download it elsewhere, and name its directory" if offline else "see the hub"
        raise InputError(f"{source}: cannot be read ({type(error).__name__}: {said}); {hint}") from error

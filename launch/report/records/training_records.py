"""Training records: what teachers wrote, what selection said of it, and what became of it as a document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.documents.encode import STORES
from tracestill.data_pipeline.tokens.store import TokenStore
from tracestill.launch.look.inspect_run import record_of
from tracestill.launch.report.records.documents import channels_of_arms, mean_losses
from tracestill.launch.report.records.shown import MOST, Texts
from tracestill.trainer.recipe.run_directory import RunDirectory

Row = dict[str, Any]
RECORDS = 5000  # shown at most
LEAST = MOST // 8  # characters of their texts that have room beside any number of answers
FIELDS = ("record_id", "question", "gold", "trace", "answer", "teacher", "style", "weight")
VERDICT, DROPPED = ("record_id", "answered", "right", "reason"), ("record_id", "reason", "detail")
UNDECIDED = ("unverified", "verify_timeout")  # reasons of selection
SHORT = ("gold", "answer", "teacher", "style")


def training_records(run: RunDirectory, found: Row, stores: Sequence[Row], taken: int = 0) -> Row:
    """``records`` of all ``groups`` of arms that select and encode alike. Each has ``state`` (kept, held out, or why
    not), and ``says`` (right, not right, undecided, no answer); where it became documents their ``tokens``, and where a
    scorer knows it their mean ``loss`` in nats a token; and as ``docs`` its places in its group's row of ``stores``.

    ``every``: how many there are; of more than ``RECORDS`` those with a coloured document are shown, and of the others
    as many as have room, drawn by the recipe's seed. ``taken``: characters that the page's other texts have.
    """
    groups = groups_of(run, found)
    rows: list[tuple[str, int]] = []  # a record, and its group
    for at, (select, _) in enumerate(groups):
        for name in ("records.parquet", "rejected.parquet"):
            rows += [(row["record_id"], at) for row in columns(select / name, ["record_id"])]
    shown_in = {tuple(store["arms"]): coloured(store) for store in stores}
    docs = [shown_in.get(tuple(arms), {}) for arms in groups.values()]
    chosen = drawn([name in docs[at] for name, at in rows], run.recipe.seed)
    kept: list[Row] = []
    for at, (places, arms) in enumerate(groups.items()):
        wanted = [rows[place][0] for place in chosen if rows[place][1] == at]
        kept += [{**row, "of": at, "docs": docs[at].get(row["record_id"], [])}
                 for row in of_group(run, found, *places, arms, wanted)]  # fmt: skip
    shown = (row[name] or "" for row in kept for name in ("question", "trace", "detail", *SHORT))
    texts = Texts(shown, most=max(LEAST, MOST - taken))
    records = [
        {
            "question": texts.pieces(row["question"]),
            "trace": texts.pieces(row["trace"] or ""),
            "detail": texts.plain(row["detail"]),
            **{name: texts.plain(row[name] or "") for name in SHORT},
            **{name: row[name] for name in ("state", "says", "tokens", "weight", "loss", "of", "docs")},
        }
        for row in kept
    ]
    told = {"every": len(rows), "limit": texts.limit, "cut": texts.cut}
    return {"groups": [list(arms) for arms in groups.values()], "records": records, **told}


def groups_of(run: RunDirectory, found: Row) -> dict[tuple[Path, Path | None], list[str]]:
    """(selection, documents, if they are there) -> the arms that train on them."""
    groups: dict[tuple[Path, Path | None], list[str]] = {}
    for arm, row in found["arms"].items():
        if row["trains"] and row["selection"]:
            encode = run.stage(arm, "encode") if row["data"] else None
            groups.setdefault((run.stage(arm, "select"), encode), []).append(arm)
    return groups


def coloured(store: Row) -> dict[str, list[int]]:
    """Record -> which of the store's coloured documents are its own."""
    found: dict[str, list[int]] = {}
    for at, one in enumerate(store["documents"]):
        found.setdefault(record_of(one["id"]), []).append(at)
    return found


def drawn(first: Sequence[bool], seed: int) -> list[int]:
    """Places of at most ``RECORDS`` rows, in their order: all that come ``first``, and of the others as many as have
    room."""
    if len(first) <= RECORDS:
        return list(range(len(first)))
    order = np.random.default_rng(seed).permutation(len(first))
    order = order[np.argsort(~np.array(first)[order], kind="stable")]
    return sorted(order[:RECORDS].tolist())


def of_group(
    run: RunDirectory, found: Row, select: Path, encode: Path | None, arms: Sequence[str], wanted: Sequence[str]
) -> list[Row]:
    """The wanted records of one selection with all that is known of them, kept ones first."""
    among = [("record_id", "in", list(wanted))]
    rows = [{**row, "state": "kept", "detail": ""} for row in columns(select / "records.parquet", FIELDS, among)]
    for row in columns(select / "rejected.parquet", (*FIELDS, "reason", "detail"), among):
        rows.append({**row, "state": row["reason"].replace("_", " "), "detail": row["detail"] or ""})
    judged = {row["record_id"]: row for row in columns(select / "verdicts.parquet", VERDICT, among)}
    documents = of_documents_in(run, found, encode, arms, wanted) if encode else {}
    dropped = {row["record_id"]: row for row in columns(encode / "rejected.parquet", DROPPED, among)} if encode else {}
    for row in rows:
        name, kept = row["record_id"], row["state"] == "kept"
        row["says"] = said(judged.get(name))
        row["weight"] = float(f"{row['weight']:.6g}") if kept else None
        own = documents.get(name, {"split": "train", "tokens": None, "loss": None})
        row |= {key: own[key] for key in ("tokens", "loss")}
        if kept and own["split"] != "train":
            row["state"] = f"held out: {own['split']}"
        elif kept and name in dropped:
            row["state"] = f"no document: {dropped[name]['reason'].replace('_', ' ')}"
            row["detail"] = dropped[name]["detail"] or ""
    return rows


def said(judged: Mapping[str, Any] | None) -> str:
    """What the verifier said of a record; empty where an older version kept nothing of that."""
    if judged is None:
        return ""
    if not judged["answered"]:
        return "no answer"
    if judged["reason"] in UNDECIDED:
        return "undecided"
    return "right" if judged["right"] else "not right"


def of_documents_in(
    run: RunDirectory, found: Row, encode: Path, arms: Sequence[str], wanted: Sequence[str]
) -> dict[str, Row]:
    """Record -> the ``split`` that its documents are of, their tokens together, and the mean of their losses, null
    where no scorer knows it."""
    kinds, among, rows = run.for_arm(arms[0]).span_kinds(), set(wanted), dict[str, Row]()
    for split, file in STORES.items():
        if not (encode / file).exists():
            continue
        store = TokenStore(encode / file, kinds)
        means = mean_losses(channels_of_arms(run, found, arms, store), kinds) if split == "train" else None
        held: dict[str, list[int]] = {}
        for at, name in enumerate(store.ids):
            if record_of(name) in among:
                held.setdefault(record_of(name), []).append(at)
        for name, places in held.items():
            known = [] if means is None else [value for value in means[places].tolist() if value == value]
            loss = float(f"{sum(known) / len(known):.6g}") if known else None
            rows[name] = {"split": split, "tokens": int(np.sum(store.lengths[places])), "loss": loss}
    return rows


def columns(path: Path, names: Sequence[str], among: Any = None) -> list[Row]:
    """Columns of a Parquet file that may be missing. Raises InputError if it cannot be read."""
    if not path.exists():
        return []
    try:
        rows: list[Row] = pq.read_table(path, columns=list(names), filters=among).to_pylist()
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: not readable ({error}); delete {path.parent}, and run its stage again") from error
    return rows

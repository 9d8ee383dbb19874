"""What the weighting does to the first step, shown before anything is learnt: a table by kind and one document."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text
from tokenizers import Tokenizer

from tracestill.data_pipeline.kinds import Kinds
from tracestill.data_pipeline.store import TokenStore

# pad and prompt first, then plan, derive, check, prose, answer, control, and kinds of the user's
STYLES = ("bright_black", "white", "magenta", "blue", "cyan", "yellow", "bold red", "green", "bright_cyan")


def preview(
    kinds: Kinds,
    store: TokenStore,
    documents: np.ndarray,  # (D,) ids of the first step's documents, on all ranks
    table: np.ndarray,  # (K,) float32 weight of each kind
    measured: dict[str, dict[str, float]],  # kind -> statistics of a forward pass over the step
    tokenizer: Tokenizer,
) -> dict[str, Any]:
    """Per kind: targets, sum of weights, share of the weights and of the loss; and the step's first document."""
    counts = store.counts[documents].astype(np.float64)
    weighted = counts * table[None, :] * store.weights[documents][:, None].astype(np.float64)
    total = weighted.sum()
    rows = [
        {
            "kind": name,
            "weight": float(table[index]),
            "tokens": int(counts[:, index].sum()),
            "weight_sum": float(weighted[:, index].sum()),
            "weight_share": float(weighted[:, index].sum() / total) if total else 0.0,
            "loss_share": measured.get(name, {}).get("share", 0.0),
        }
        for index, name in enumerate(kinds.names)
        if counts[:, index].sum() > 0
    ]
    first = int(documents[0])
    pieces = [tokenizer.decode([int(token)], skip_special_tokens=False) for token in store.tokens(first)]
    ids = [kinds.names[k] for k in store.kinds(first)]
    weights = [0.0, *(float(table[k]) for k in store.kinds(first)[1:])]  # the first token is never predicted
    return {
        "kinds": rows,
        "document": {
            "id": str(store.ids[first]),
            "tokens": [{"text": t, "kind": k, "weight": w} for t, k, w in zip(pieces, ids, weights, strict=True)],
        },
    }


def show(found: dict[str, Any], kinds: Kinds, console: Console) -> None:
    """Print the table and the document; weighted tokens are coloured by kind, unweighted ones are dim."""
    table = Table(title="What the weighting does to the first step", title_justify="left")
    for heading in ("kind", "weight", "tokens", "sum of weights", "share of weights", "share of loss"):
        table.add_column(heading, justify="left" if heading == "kind" else "right")
    styles = {name: STYLES[i % len(STYLES)] for i, name in enumerate(kinds.names)}
    for row in found["kinds"]:
        numbers = (f"{row['weight']:g}", f"{row['tokens']:,}", f"{row['weight_sum']:,.1f}")
        shares = (f"{row['weight_share']:.1%}", f"{row['loss_share']:.1%}")
        table.add_row(Text(row["kind"], styles[row["kind"]]), *numbers, *shares)
    console.print(table)
    text = Text()
    for token in found["document"]["tokens"]:
        text.append(token["text"] or "␣", styles[token["kind"]] if token["weight"] else "dim")
        text.append("·", "bright_black")
    console.print(text)


def read_tokenizer(directory: Path) -> Tokenizer:
    return Tokenizer.from_file(str(directory / "tokenizer.json"))

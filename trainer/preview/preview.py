"""What the weighting does to the first step, shown before anything is learnt: a table by kind and one document."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.text import Text
from tokenizers import Tokenizer

from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.guards.visible import visible
from tracestill.data_pipeline.tokens.pieces import pieces
from tracestill.trainer.preview.table import STYLES, show_notes, show_tables
from tracestill.trainer.weighting import TargetWeights

SHOWN = 2000  # tokens of the document


def preview(
    kinds: Kinds,
    weights: TargetWeights,
    documents: np.ndarray,  # (D,) ids of the first step's documents, on all ranks
    measured: dict[str, dict[str, float]],  # kind -> statistics of a forward pass over the step
    tokenizer: Tokenizer,
    teacher: TargetWeights | None = None,
) -> dict[str, Any]:
    """Per kind: targets, sum of w, share of the sum of w * c, of the loss, and of the gradient at the head; of the
    teacher's term, if there is one, the weight, the targets that have it, and its share of the loss; the step's first
    document; and what the weighting made of the whole store by what is stored beside it."""
    store, table = weights.store, weights.table(0)
    counts = store.counts[documents]
    sums, shares = weight_shares(weights, documents, table)
    rows = [
        {
            "kind": name,
            "weight": float(table[index]),
            "tokens": int(counts[:, index].sum()),
            "weight_sum": float(sums[index]),
            "weight_share": float(shares[index]),
            "loss_share": measured.get(name, {}).get("share", 0.0),
            "gradient_share": measured.get(name, {}).get("gradient_share"),
        }
        for index, name in enumerate(kinds.names)
        if index and counts[:, index].sum() > 0  # pad: what follows a cut, or only an encoder reads
    ]
    if teacher is not None:
        of = teacher.of_pack(documents, 0).counted
        taught = (of.count * (of.table != 0) * (of.records != 0)[:, None]).sum(axis=0)
        for row in rows:
            name = str(row["kind"])
            row["teacher_weight"] = float(of.table[kinds.id(name)])
            row["teacher_tokens"] = int(taught[kinds.id(name)])
            row["teacher_share"] = measured.get(name, {}).get("teacher_share", 0.0)
    first = int(documents[0])
    texts = pieces(tokenizer, store.tokens(first))
    ids = [kinds.names[k] for k in store.kinds(first)]
    of_token = weights.of_document(first, 0)
    tokens_shown = [{"text": t, "kind": k, "weight": w} for t, k, w in zip(texts, ids, of_token.tolist(), strict=True)]
    return {
        "kinds": rows,
        "effects": weights.weighting.effects(),
        "document": {
            "id": str(store.ids[first]),
            "record_weight": float(store.weights[first]),
            "tokens": without_middle(tokens_shown),
        },
    }


def weight_shares(
    weights: TargetWeights,
    documents: np.ndarray,  # (D,) of the first step, on all ranks
    table: np.ndarray,  # (K,) the weighting's, or another one to compare with
) -> tuple[np.ndarray, np.ndarray]:
    """(K,) sum of w, and (K,) share of the sum of w * c, of each kind's targets; float64."""
    sums, of_loss = weights.of_step(documents, 0, table)
    return sums, of_loss / of_loss.sum() if of_loss.any() else of_loss


def without_middle(tokens: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The tokens of a document; of a very long one its beginning and its end."""
    if len(tokens) <= SHOWN:
        return tokens
    half = SHOWN // 2
    gap = {"text": f" [{len(tokens) - 2 * half:,} tokens not shown] ", "kind": "pad", "weight": 0.0}
    return [*tokens[:half], gap, *tokens[-half:]]


def show(found: dict[str, Any], kinds: Kinds, console: Console) -> None:
    """Print the table and the document; weighted tokens are coloured by kind, unweighted ones are dim."""
    styles = {name: STYLES[i % len(STYLES)] for i, name in enumerate(kinds.names)}
    show_tables(found, styles, console)
    text = Text()
    if (weight := found["document"].get("record_weight", 1)) != 1:
        text.append(f"record weight {weight:g}: ", "dim")
    for token in found["document"]["tokens"]:
        text.append(visible(token["text"]) or "␣", styles[token["kind"]] if token["weight"] else "dim")
        text.append("·", "bright_black")
    console.print(text)
    show_notes(found, console)


def token_names(directory: Path) -> Callable[[int], str]:
    """The text of a token, by the tokenizer in ``directory``, which is read when a name is first asked for."""
    return lambda token: read_tokenizer(directory).id_to_token(token) or f"token {token}"


def read_tokenizer(directory: Path) -> Tokenizer:
    return Tokenizer.from_file(str(directory / "tokenizer.json"))

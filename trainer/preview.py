"""What the weighting does to the first step, shown before anything is learnt: a table by kind and one document."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text
from tokenizers import Tokenizer

from tracestill.data_pipeline.kinds import Kinds
from tracestill.data_pipeline.store import TokenStore
from tracestill.trainer import normaliser as norm
from tracestill.trainer.batches import count_targets, document_of
from tracestill.trainer.preview_html import SHARES
from tracestill.trainer.weighting import Weighting, table_at, token_function

# pad and prompt first, then plan, derive, check, prose, answer, control, and kinds of the user's
STYLES = ("bright_black", "white", "magenta", "blue", "cyan", "yellow", "bold red", "green", "bright_cyan")


SHOWN = 2000  # tokens of the document


def preview(
    kinds: Kinds,
    store: TokenStore,
    documents: np.ndarray,  # (D,) ids of the first step's documents, on all ranks
    weighting: Weighting,
    measured: dict[str, dict[str, float]],  # kind -> statistics of a forward pass over the step
    tokenizer: Tokenizer,
    *,
    normaliser: str = "weights",
    warnings: Sequence[str] = (),
) -> dict[str, Any]:
    """Per kind: targets, sum of w, share of the sum of w * c, of the loss, and of the gradient at the head; the step's
    first document; and what the recipe's author should know."""
    table = table_at(weighting, 0, len(kinds))
    tokens = token_function(weighting)
    counts = store.counts[documents]
    sums, shares = weight_shares(store, documents, weighting, table, normaliser)
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
    first = int(documents[0])
    pieces = [tokenizer.decode([int(token)], skip_special_tokens=False) for token in store.tokens(first)]
    ids = [kinds.names[k] for k in store.kinds(first)]
    of_token = table[store.kinds(first)] * (1.0 if tokens is None else tokens(document_of(store, first), 0))
    of_token = of_token * float(store.weights[first])
    of_token[0] = 0.0  # the first token is never predicted
    tokens_shown = [{"text": t, "kind": k, "weight": w} for t, k, w in zip(pieces, ids, of_token.tolist(), strict=True)]
    return {
        "kinds": rows,
        "document": {"id": str(store.ids[first]), "tokens": without_middle(tokens_shown)},
        "warnings": list(warnings),
    }


def weight_shares(
    store: TokenStore,
    documents: np.ndarray,  # (D,) of the first step, on all ranks
    weighting: Weighting,
    table: np.ndarray,  # (K,) the weighting's, or another one to compare with
    normaliser: str,
) -> tuple[np.ndarray, np.ndarray]:
    """(K,) sum of w, and (K,) share of the sum of w * c, of each kind's targets; float64."""
    tokens = token_function(weighting)
    amount = count = store.counts[documents]
    if tokens is not None:
        weights = [tokens(document_of(store, int(d)), 0) for d in documents]
        amount, count = count_targets(store, documents, weights)
    records = store.weights[documents].astype(np.float64)
    weighted = amount * table.astype(np.float64) * records[:, None]  # (D, K)
    total = torch.from_numpy(norm.sums(normaliser, amount, count, records, table))
    own = norm.own_factors(normaliser, amount, table)
    shares = (weighted * own[:, None]).sum(axis=0) * norm.factor(normaliser, total, table).numpy()
    return weighted.sum(axis=0), shares / shares.sum() if shares.any() else shares


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
    console.print(kinds_table(found, styles))
    text = Text()
    for token in found["document"]["tokens"]:
        text.append(token["text"] or "␣", styles[token["kind"]] if token["weight"] else "dim")
        text.append("·", "bright_black")
    console.print(text)
    show_warnings(found, console)


def show_warnings(found: dict[str, Any], console: Console) -> None:
    for line in found.get("warnings", ()):  # none in a run of an older version
        console.print(Text(f"warning: {line}", "bold yellow"), soft_wrap=True)


def kinds_table(found: dict[str, Any], styles: dict[str, str]) -> Table:
    """The preview's rows by kind; ``styles``: rich style of each kind."""
    table = Table(title="What the weighting does to the first step", title_justify="left")
    measured = any(row.get("gradient_share") is not None for row in found["kinds"])  # not in older runs
    headings = ("kind", "weight", "tokens", "sum of weights", *SHARES.values())
    for heading in headings if measured else headings[:-1]:
        table.add_column(heading, justify="left" if heading == "kind" else "right")
    for row in found["kinds"]:
        numbers = (f"{row['weight']:g}", f"{row['tokens']:,}", f"{row['weight_sum']:,.1f}")
        shares = [f"{row[name]:.1%}" for name in SHARES if row.get(name) is not None]
        table.add_row(Text(row["kind"], styles[row["kind"]]), *numbers, *shares)
    return table


def token_names(directory: Path) -> Callable[[int], str]:
    """The text of a token, by the tokenizer in ``directory``, which is read when a name is first asked for."""
    return lambda token: read_tokenizer(directory).id_to_token(token) or f"token {token}"


def read_tokenizer(directory: Path) -> Tokenizer:
    return Tokenizer.from_file(str(directory / "tokenizer.json"))

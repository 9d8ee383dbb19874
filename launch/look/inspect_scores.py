"""What models said of a document's tokens, a line a token; and of its steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from rich.table import Table
from rich.text import Text

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.channels import Channels
from tracestill.data_pipeline.guards.visible import one_line
from tracestill.data_pipeline.tokens.store import TokenStore
from tracestill.trainer.recipe.run_directory import RunDirectory, open_channels

SHOWN = 3  # of a token's topk


def channels_of(run: RunDirectory, arm: str, store: TokenStore) -> Mapping[str, Channels]:
    """The arm's scorers. Raises InputError if it has none, or one has not run."""
    if not run.for_arm(arm).score:
        raise InputError(f"--scores: arm '{arm}' has no scorer; give the recipe a block `score` (docs/scores.md)")
    return open_channels(run, arm, store)


def tokens_table(
    channels: Mapping[str, Channels],
    document: int,
    texts: Sequence[str],
    names: Sequence[str],  # kinds
    styles: Mapping[str, str],
    text_of: Callable[[int], str],  # of a token's id
) -> Table:
    """A row a token: its text, kind, and the value of each channel; ``·`` where nothing is known."""
    table = Table(box=None, pad_edge=False)
    table.add_column("token", header_style="dim", no_wrap=True)
    table.add_column("kind", header_style="dim", no_wrap=True)
    columns: list[list[str]] = []
    for scorer, held in channels.items():
        for name, channel in held.channels.items():
            if channel.per == "token" and name != "topk_logprobs":
                values = held.of(name, document)
                best = name == "topk_ids"
                columns.append(
                    most_likely(values, held.of("topk_logprobs", document), text_of) if best else numbers(values)
                )
                title, side = f"{scorer}.{'topk' if best else name}", "left" if best else "right"
                table.add_column(title, header_style="dim", no_wrap=True, justify=side)  # type: ignore[arg-type]
    for at, (text, kind) in enumerate(zip(texts, names, strict=True)):
        cells = [column[at] for column in columns]
        table.add_row(Text(one_line(text), styles[kind]), Text(kind, styles[kind]), *cells)
    return table


def numbers(values: np.ndarray) -> list[str]:
    whole = values.dtype.kind in "iu"
    missing = np.iinfo(values.dtype).max if whole else np.nan
    return ["·" if v == missing or v != v else f"{v}" if whole else f"{v:.3f}" for v in values.tolist()]


def most_likely(ids: np.ndarray, log_probs: np.ndarray, text_of: Callable[[int], str]) -> list[str]:
    """The first few of each token's topk, with their probabilities."""
    rows, many = [], (len(ids), -1)
    for held, chances in zip(ids.reshape(many), np.exp(log_probs.astype(np.float64)).reshape(many), strict=True):
        first = zip(held[:SHOWN].tolist(), chances[:SHOWN].tolist(), strict=True)
        rows.append("  ".join(f"{one_line(text_of(token))} {p:.2f}" for token, p in first if token >= 0) or "·")
    return rows


def steps_lines(channels: Mapping[str, Channels], document: int) -> list[str]:
    """A line for each channel of steps."""
    return [
        f"{scorer}.{name} of steps 0 to {len(values) - 1}: {'  '.join(numbers(values))}"
        for scorer, held in channels.items()
        for name, channel in held.channels.items()
        if channel.per == "step" and len(values := held.of(name, document))
    ]

"""What models said of a document's tokens, a line a token; and of its steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from rich.cells import cell_len
from rich.text import Text

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.channels import Channels
from tracestill.data_pipeline.guards.visible import one_line
from tracestill.data_pipeline.tokens.store import TokenStore
from tracestill.trainer.recipe.run_directory import RunDirectory, open_channels
from tracestill.trainer.recipe.score_settings import approximately

SHOWN = 3  # of a token's topk


def channels_shown(run: RunDirectory, arm: str, store: TokenStore) -> Mapping[str, Channels]:
    """The arm's scorers. Raises InputError if it has none, or one has not run."""
    if not run.for_arm(arm).score:
        raise InputError(f"--scores: arm '{arm}' has no scorer; give the recipe a block `score` (docs/scores.md)")
    return open_channels(run, arm, store)


def token_lines(
    channels: Mapping[str, Channels],
    document: int,
    texts: Sequence[str],
    names: Sequence[str],  # kinds
    styles: Mapping[str, str],
    text_of: Callable[[int], str],  # of a token's id
) -> list[Text]:
    """A heading, and a line a token: its text, kind, and the value of each channel; ``·`` where nothing is known. As
    long as they have to be, whatever the terminal's width."""
    columns = [["token", *map(one_line, texts)], ["kind", *names]]
    for scorer, held in channels.items():
        for name, channel in held.channels.items():
            if channel.per != "token" or name == "topk_logprobs":
                continue
            values = held.of(name, document)
            if name == "topk_ids":
                columns.append([f"{scorer}.topk", *most_likely(values, held.of("topk_logprobs", document), text_of)])
            else:
                columns.append([f"{scorer}.{name}", *numbers(values)])
    padded = []
    for column in columns:
        width = max(map(cell_len, column))
        padded.append([cell + " " * (width - cell_len(cell)) for cell in column])
    lines = []
    for at, cells in enumerate(zip(*padded, strict=True)):
        style = styles[names[at - 1]] if at else "dim"
        lines.append(
            Text.assemble(("  ".join(cells[:2]), style), ("  " + "  ".join(cells[2:]).rstrip(), "" if at else style))
        )
    return lines


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
        f"{scorer}.{name}{approximately(held.manifest)} of steps 0 to {len(values) - 1}: {'  '.join(numbers(values))}"
        for scorer, held in channels.items()
        for name, channel in held.channels.items()
        if channel.per == "step" and len(values := held.of(name, document))
    ]

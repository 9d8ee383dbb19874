"""A look inside a run: a document with its tokens coloured by span kind, its plan, and its weighting's first step."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text
from tokenizers import Tokenizer

from tracestill.data_pipeline.errors import InputError
from tracestill.data_pipeline.stage import read_manifest
from tracestill.data_pipeline.store import TokenStore
from tracestill.trainer.preview import STYLES, kinds_table
from tracestill.trainer.recipe import Recipe
from tracestill.trainer.run_directory import RunDirectory
from tracestill.trainer.weighting import Document, make_weighting, own_module, table_at, token_function

SPACES = str.maketrans({"\u2581": " ", "\u0120": " ", "\u010a": "\n"})  # how tokenizers write spaces and newlines


def inspect_run(run: RunDirectory, arm: str, document: int, console: Console) -> None:
    """Print document ``document`` of an arm, the plan's statistics, and what the weighting did to the first step.

    Colours where the output is a terminal; else one line for each stretch of one kind. Raises InputError for an
    unknown arm, a document that does not exist, or if the encode stage has not run.
    """
    recipe = run.recipe.for_arm(arm)
    encode = run.stage(arm, "encode")
    if read_manifest(encode) is None:
        raise InputError(f"inspect: '{encode}' has not run; run `tracestill run RECIPE --until encode` first")
    kinds = recipe.span_kinds()
    store = TokenStore(encode / "tokens.arrow", kinds)
    if document >= len(store):
        raise InputError(f"--document {document}: arm '{arm}' has the documents 0 to {len(store) - 1}")
    tokenizer = Tokenizer.from_file(str(run.stage(arm, "tokenizer") / "tokenizer.json"))
    pieces = [piece(tokenizer, int(token)) for token in store.tokens(document)]
    names = [kinds.names[kind] for kind in store.kinds(document)]
    own = own_module(recipe.weighting.use)
    weights = np.full(len(names), np.nan) if own else weights_of(recipe, store, document)
    styles = {name: STYLES[index % len(STYLES)] for index, name in enumerate(kinds.names)}

    title = f"document {document} of {len(store):,}, arm {arm}, id {store.ids[document]}, {len(pieces)} tokens"
    console.print(Text(title, "bold"), soft_wrap=True)
    console.print(legend(names, weights, styles))
    if own:
        text = f"weights are {recipe.weighting.use}'s, which is not imported to look; training shows what they do"
        console.print(Text(text, "dim"), soft_wrap=True)
    if console.is_terminal:
        console.print(coloured(pieces, names, weights, styles), soft_wrap=True)
    else:
        for line in plain(pieces, names, weights):
            console.print(Text(line), soft_wrap=True)
    show_plan(run.stage(arm, "plan"), console)
    preview = run.stage(arm, "train") / "preview.json"
    if preview.exists():
        console.print(kinds_table(json.loads(preview.read_text(encoding="utf-8")), styles))


def weights_of(recipe: Recipe, store: TokenStore, document: int) -> np.ndarray:
    """(n,) weights that a built-in weighting gives a document's tokens at the first step."""
    kinds = recipe.span_kinds()
    weighting = make_weighting(recipe.weighting, kinds, recipe.seed)
    weights = table_at(weighting, 0, len(kinds))[store.kinds(document)] * store.weights[document]
    if (tokens := token_function(weighting)) is not None:
        at = Document(document, store.tokens(document), store.kinds(document), store.steps(document))
        weights *= tokens(at, 0)
    weights[0] = 0.0  # the first token is never predicted
    return weights


def piece(tokenizer: Tokenizer, token: int) -> str:
    """A token's text with its spaces, which decoding a single token can lose."""
    return (tokenizer.id_to_token(token) or f"<{token}>").translate(SPACES)


def legend(names: list[str], weights: np.ndarray, styles: dict[str, str]) -> Table:
    """Kinds of the document: how many targets, their weight in the loss, and share of the document's weight."""
    table = Table(box=None, pad_edge=False)
    for heading in ("kind", "targets", "weight", "share of weight"):
        table.add_column(heading, justify="left" if heading == "kind" else "right", header_style="dim")
    total = float(weights.sum())
    for name in dict.fromkeys(names):
        chosen = [i for i, own in enumerate(names) if own == name and i]
        own = weights[chosen]
        known = not np.isnan(own).any()
        values = "/".join(f"{value:g}" for value in sorted({float(value) for value in own}) if known) or "-"
        share = f"{own.sum() / total:.1%}" if known and total else "-"
        table.add_row(Text(name, styles[name]), f"{len(chosen):,}", values, share)
    return table


def coloured(pieces: list[str], names: list[str], weights: np.ndarray, styles: dict[str, str]) -> Text:
    """Tokens in the colour of their kind, each second one underlined to show its bounds; dim: no weight."""
    text = Text()
    for index, (token, name, weight) in enumerate(zip(pieces, names, weights, strict=True)):
        style = styles[name] + (" underline" if index % 2 else "") + ("" if weight else " dim")
        text.append(token.replace("\n", "↵\n"), style)
    return text


def plain(pieces: list[str], names: list[str], weights: np.ndarray) -> list[str]:
    """One line for each stretch of tokens of one kind and weight; tokens are parted by ``|``."""
    known = [None if np.isnan(weight) else weight for weight in weights.tolist()]  # nan would equal no other
    shown = {weight: "-" if weight is None else f"{weight:g}" for weight in known}
    rows = zip(names, known, pieces, strict=True)
    return [
        f"{name:<10}{shown[weight]:>6}  " + "|".join(token.replace("\n", "↵") for _, _, token in stretch)
        for (name, weight), stretch in groupby(rows, key=lambda row: row[:2])
    ]


def show_plan(directory: Path, console: Console) -> None:
    manifest = read_manifest(directory)
    if manifest is None:
        console.print(Text("no plan yet: tracestill plan", "dim"))
        return
    found = manifest["statistics"]
    rows = {
        "documents": f"{found['documents']:,}",
        "tokens": f"{found['tokens']:,}",
        "packs": f"{found['packs']:,} (at least {found['packs_lower_bound']:,} are needed)",
        "filled": f"{found['fill']:.2%}, {found['wasted_tokens']:,} tokens of padding",
        "steps": f"{manifest['steps_per_epoch']:,} an epoch, {manifest['epochs']:,} epoch(s) planned",
        "empty packs": f"{found['empty_packs']:,}",
        "imbalance": ", ".join(f"{float(v):.3f} on {ranks} ranks" for ranks, v in found["imbalance"].items()),
        "digest": manifest["digests"][0],
    }
    table = Table(title="plan of epoch 0", title_justify="left", show_header=False, box=None, pad_edge=False)
    for name, value in rows.items():
        table.add_row(Text(name, "dim"), value)
    console.print(table)

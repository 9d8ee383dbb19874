"""A look inside a run: documents with their tokens coloured by span kind, or as text with the rule that gave each
kind; the plan, and what the weighting did to the first step. Imports no torch, so that it answers at once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text
from tokenizers import Tokenizer

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.schema import Record
from tracestill.data_pipeline.base.stage import read_manifest
from tracestill.data_pipeline.channels import Channels
from tracestill.data_pipeline.documents.encode import STORES
from tracestill.data_pipeline.granularity import Cut
from tracestill.data_pipeline.guards.visible import one_line, visible
from tracestill.data_pipeline.plan.keep import words
from tracestill.data_pipeline.plan.plan import load_plan
from tracestill.data_pipeline.plan.plan_stage import planner_of
from tracestill.data_pipeline.tokens.pieces import pieces
from tracestill.data_pipeline.tokens.store import TokenStore
from tracestill.launch.look.inspect_cut import before_lines, cut_again, said
from tracestill.launch.look.inspect_scores import channels_shown, steps_lines, token_lines
from tracestill.launch.look.inspect_text import find_records, text_lines, why_absent
from tracestill.trainer.preview.table import STYLES, show_notes, show_tables
from tracestill.trainer.recipe.recipe import Recipe
from tracestill.trainer.recipe.run_directory import RunDirectory, open_channels
from tracestill.trainer.weighting import TargetWeights, Weighting, channels_of, make_weighting, own_module
from tracestill.trainer.weighting.by_teacher import TeacherWeighting


@dataclass(frozen=True)
class Shown:
    """Which documents to show: ``count`` of them from ``first`` on, or all of a record; as tokens, or as ``text``. With
    the weights of the first step of an ``epoch``, and its plan."""

    first: int = 0
    count: int = 1
    record: str | None = None
    text: bool = False
    epoch: int = 0
    scores: bool = False  # beside the tokens of training documents


def inspect_run(run: RunDirectory, arm: str, shown: Shown, console: Console) -> None:
    """Print documents of an arm, the plan's statistics, and what the weighting did to the first step.

    Colours where the output is a terminal; else one line for each stretch of one kind. Raises InputError for an
    unknown arm, a document or record that does not exist (with why it was rejected), or if the encode stage has not
    run.
    """
    recipe = run.recipe.for_arm(arm)
    encode = run.stage(arm, "encode")
    if read_manifest(encode) is None:
        raise InputError(f"inspect: '{encode}' has not run; run `tracestill run RECIPE --until encode` first")
    kinds = recipe.span_kinds()
    own = own_module(recipe.weighting.use)
    tokenizer = Tokenizer.from_file(str(run.stage(arm, "tokenizer") / "tokenizer.json"))
    styles = {name: STYLES[index % len(STYLES)] for index, name in enumerate(kinds.names)}
    if shown.record is None:
        store = TokenStore(encode / STORES["train"], kinds)
        if shown.first >= len(store):
            raise InputError(f"--document {shown.first}: arm '{arm}' has the documents 0 to {len(store) - 1}")
        chosen = [("train", store, d) for d in range(shown.first, min(shown.first + shown.count, len(store)))]
    else:
        stores = {split: TokenStore(encode / n, kinds) for split, n in STORES.items() if (encode / n).exists()}
        chosen = [(split, store, d) for split, store in stores.items()
                  for d, name in enumerate(store.ids) if record_of(name) == shown.record]  # fmt: skip
        if not chosen:
            raise InputError(f"--record {shown.record}: {why_absent(shown.record, encode, run.stage(arm, 'select'))}")
    channels: Mapping[str, Channels] = {}
    if shown.scores:
        train = next((store for split, store, _ in chosen if split == "train"), None)
        if train is None:
            raise InputError(f"--scores: record {shown.record} has no training document, and no other is scored")
        channels = channels_shown(run, arm, train)
    plan = read_manifest(run.stage(arm, "plan"))
    step = first_step(plan, shown.epoch)
    wanted = {record_of(store.ids[document]) for _, store, document in chosen}
    records = find_records(run.stage(arm, "select") / "records.parquet", wanted) if shown.text else {}
    weighting = None if own else weighting_of(run, arm, chosen[0][1] if chosen[0][0] == "train" else None)
    for split, store, document in chosen:
        ids, names = store.tokens(document), [kinds.names[kind] for kind in store.kinds(document)]
        unknown = why_unknown(recipe, weighting, split)
        weights = np.full(len(names), np.nan)
        if weighting is not None and not unknown:
            weights = TargetWeights(store, weighting).of_document(document, step)
        texts = pieces(tokenizer, ids)
        which = "document" if split == "train" else f"{split} document"
        title = f"{which} {document} of {len(store):,}, arm {arm}, id {store.ids[document]}, {len(ids)} tokens"
        if (of_record := float(store.weights[document])) != 1:
            title += f", record weight {of_record:g}"
        console.print(Text(one_line(title), "bold"), soft_wrap=True)
        taught = of_teacher(run, arm, store, document, step) if split == "train" else None
        console.print(legend(names, weights, styles, taught))
        if unknown:
            console.print(Text(unknown, "dim"), soft_wrap=True)
        if shown.text:
            record = records.get(record_of(store.ids[document]))
            after = show_cut(recipe, record, styles, console)
            for name, words, why in text_lines(texts, names, record, kinds.members("trace"), recipe.segment, after):
                said = Text.assemble(
                    (f"{name:<11}", styles[name]), (words, styles[name]), (why and f"   [{why}]", "dim")
                )
                console.print(said, soft_wrap=True)
        elif channels and split == "train":
            for shown_line in token_lines(channels, document, texts, names, styles, partial(text_of, tokenizer)):
                console.print(shown_line, soft_wrap=True)
            for line in steps_lines(channels, document):
                console.print(Text(line), soft_wrap=True)
        elif console.is_terminal:
            console.print(coloured(texts, names, weights, styles), soft_wrap=True)
        else:
            for line in plain(texts, names, weights):
                console.print(Text(line), soft_wrap=True)
    if shown.epoch:
        text = f"weights above are those of step {step:,}, the first of epoch {shown.epoch}"
        console.print(Text(text, "dim"), soft_wrap=True)
    show_plan(run, arm, shown.epoch, console)
    preview = run.stage(arm, "train") / "preview.json"
    if preview.exists() and shown.epoch == 0:
        found = json.loads(preview.read_text(encoding="utf-8"))
        show_tables(found, styles, console)
        show_notes(found, console)
    elif weighting is not None and weighting.scores:
        show_notes({"effects": weighting.effects()}, console)


def show_cut(recipe: Recipe, record: Record | None, styles: dict[str, str], console: Console) -> Cut | None:
    """Print what ``encode.granularity`` took out of a record's trace; what it left. None if nothing was asked for."""
    config = recipe.encode.granularity
    if record is None or not config.cuts or not record.trace or recipe.encode.trace == "drop":
        return None
    found = cut_again(record, recipe.segment, config, recipe.span_kinds())
    if found is None:
        return None
    console.print(Text(said(*found, config), "bold"), soft_wrap=True)
    if found[1].outcome == "cut":
        for name, words, gone in before_lines(*found):
            line = Text.assemble(
                (f"{'gone' if gone else '':<6}{name:<11}{words}", "dim strike" if gone else styles[name])
            )
            console.print(line, soft_wrap=True)
        console.print(Text("after:", "bold"))
    return found[1]


def weighting_of(run: RunDirectory, arm: str, store: TokenStore | None) -> Weighting:
    """An arm's built-in weighting, with the channels that it reads of its training documents, if they are there."""
    recipe, scores = run.for_arm(arm), {}
    if store is not None and all(read_manifest(path) is not None for path in run.scores_read(arm).values()):
        scores = open_channels(run, arm, store, run.scores_read(arm))
    return make_weighting(recipe.weighting, recipe.span_kinds(), recipe.seed, scores)


def why_unknown(recipe: Recipe, weighting: Weighting | None, split: str) -> str:
    """Why it is not known what a document's tokens weigh, in words; empty if it is."""
    if weighting is None:
        return f"weights are {recipe.weighting.use}'s, which is not imported to look; training shows what they do"
    if weighting.tokens is None or not (read := channels_of(recipe.weighting)):
        return ""
    if split != "train":
        return f"weights follow {', '.join(read)}, which is not known of documents that are held out"
    return "" if weighting.scores else f"weights follow {', '.join(read)}: run `tracestill score` first"


def of_teacher(run: RunDirectory, arm: str, store: TokenStore, document: int, step: int) -> np.ndarray | None:
    """(n,) weights of a document's tokens in the teacher's term at a step; None: there is none, or its scorer has not
    run."""
    recipe = run.recipe.for_arm(arm)
    if recipe.distil is None or read_manifest(run.scores(arm)[recipe.distil.scorer]) is None:
        return None
    channels = open_channels(run, arm, store, run.scores_read(arm))[recipe.distil.scorer]
    weighting = TeacherWeighting(recipe.distil, recipe.span_kinds(), channels)
    return TargetWeights(store, weighting).of_document(document, step)


def first_step(plan: Mapping[str, Any] | None, epoch: int) -> int:
    """The number of an epoch's first step. Raises InputError for an epoch that is not planned."""
    if epoch == 0:
        return 0
    if plan is None:
        raise InputError(f"--epoch {epoch}: there is no plan yet; run `tracestill plan` first")
    if epoch >= plan["epochs"]:
        raise InputError(f"--epoch {epoch}: the plan has the epochs 0 to {plan['epochs'] - 1}")
    steps = plan.get("steps_of_epochs", [plan["steps_per_epoch"]] * plan["epochs"])
    return int(sum(steps[:epoch]))


def text_of(tokenizer: Tokenizer, token: int) -> str:
    return pieces(tokenizer, [token])[0]


def record_of(name: str) -> str:
    """The record id of a document's id; two tasks put an ending behind it."""
    return name.partition("#")[0]


def legend(names: list[str], weights: np.ndarray, styles: dict[str, str], taught: np.ndarray | None = None) -> Table:
    """Kinds of the document: how many targets, their weight in the loss, and share of the document's weight; with
    ``taught`` that of the teacher's term, and how many targets have an entry of its channel."""
    table = Table(box=None, pad_edge=False)
    more = () if taught is None else ("teacher's weight", "its targets")
    for heading in ("kind", "targets", "weight", "share of weight", *more):
        table.add_column(heading, justify="left" if heading == "kind" else "right", header_style="dim")
    total = float(weights.sum())
    for name in dict.fromkeys(names):
        chosen = [i for i, own in enumerate(names) if own == name and i]
        own = weights[chosen]
        known = not np.isnan(own).any()
        values = "/".join(f"{value:g}" for value in sorted({float(value) for value in own}) if known) or "-"
        share = f"{own.sum() / total:.1%}" if known and total else "-"
        cells = [f"{len(chosen):,}", values, share]
        if taught is not None:
            there = taught[chosen][taught[chosen] > 0]
            cells += ["/".join(f"{value:g}" for value in np.unique(there)) or "-", f"{len(there):,}"]
        table.add_row(Text(name, styles[name]), *cells)
    return table


def coloured(texts: Sequence[str], names: list[str], weights: np.ndarray, styles: dict[str, str]) -> Text:
    """Tokens in the colour of their kind, each second one underlined to show its bounds; dim: no weight."""
    text = Text()
    for index, (token, name, weight) in enumerate(zip(texts, names, weights, strict=True)):
        style = styles[name] + (" underline" if index % 2 else "") + ("" if weight else " dim")
        text.append(visible(token).replace("\n", "↵\n"), style)
    return text


def plain(texts: Sequence[str], names: list[str], weights: np.ndarray) -> list[str]:
    """One line for each stretch of tokens of one kind and weight; tokens are parted by ``|``."""
    known = [None if np.isnan(weight) else weight for weight in weights.tolist()]  # nan would equal no other
    shown = {weight: "-" if weight is None else f"{weight:g}" for weight in known}
    rows = zip(names, known, texts, strict=True)
    return [
        f"{name:<11}{shown[weight]:>6}  " + "|".join(one_line(token) for _, _, token in stretch)
        for (name, weight), stretch in groupby(rows, key=lambda row: row[:2])
    ]


def mixture_rows(statistics: Mapping[str, Any]) -> dict[str, str]:
    """What the plan's choice, mixture and order have come to, line by line."""
    rows = {"kept": visible(words(kept))} if (kept := statistics.get("keep")) else {}
    for name, part in statistics.get("mixture", {}).items():
        rows[f"part {visible(name)}"] = (
            f"{part['share']:.2%} (wanted {part['share_wanted']:.2%}): {part['documents']:,} documents of "
            f"{part['available']:,}, {part['tokens']:,} tokens, {part['repeats']:,} repeats, "
            f"{part['left_out']:,} left out"
        )
    if (order := statistics.get("order")) is not None:
        loose = order["unordered"]
        rows["order"] = (
            f"by {visible(order['by'])}, {order['direction']}, mixing {order['mixing']:g}: rank correlation of key and "
            f"step {order['correlation']:.3f}; {order['without_key']:,} documents without a key"
        )
        rows["in a random order"] = f"{loose['packs']:,} packs, {loose['fill']:.2%} filled, imbalance " + ", ".join(
            f"{float(v):.3f} on {ranks} ranks" for ranks, v in loose["imbalance"].items()
        )
    return rows


def sameness_row(statistics: Mapping[str, Any]) -> dict[str, str]:
    """Plans of earlier versions do not know it."""
    if "sameness" not in statistics:
        return {}
    return {"sameness": f"{statistics['sameness']:.2f} (mean length of steps; 1: as of documents drawn at random)"}


def show_plan(run: RunDirectory, arm: str, epoch: int, console: Console) -> None:
    manifest = read_manifest(directory := run.stage(arm, "plan"))
    if manifest is None:
        console.print(Text("no plan yet: tracestill plan", "dim"))
        return
    found, steps = manifest["statistics"], manifest["steps_per_epoch"]
    if epoch:
        plan, own = load_plan(directory / f"epoch-{epoch:03d}"), run.for_arm(arm)
        planner = planner_of(run.stage(arm, "encode"), own.plan, own.seed, run.scores_planned(arm))
        found, steps = planner.report(plan, tuple(map(int, found["imbalance"]))), plan.n_steps
    epochs = manifest["epochs"]
    rows = {
        "documents": f"{found['documents']:,}",
        "tokens": f"{found['tokens']:,}",
        "packs": f"{found['packs']:,} (at least {found['packs_lower_bound']:,} are needed)",
        "filled": f"{found['fill']:.2%}, {found['wasted_tokens']:,} tokens of padding",
        "steps": f"{steps:,} in this epoch, {epochs:,} epoch(s) planned",
        "empty packs": f"{found['empty_packs']:,}",
        "imbalance": ", ".join(f"{float(v):.3f} if on {ranks} ranks" for ranks, v in found["imbalance"].items()),
        **sameness_row(found),
        **mixture_rows(found),
        "digest": manifest["digests"][epoch],
    }
    others = f" (of 0 to {epochs - 1}: --epoch)" if epochs > 1 else ""
    title = f"plan of epoch {epoch}{others}"
    table = Table(title=title, title_justify="left", show_header=False, box=None, pad_edge=False)
    for name, value in rows.items():
        table.add_row(Text(name, "dim"), value)
    console.print(table)

"""Training documents token by token: each one's kind and weight, and what models said of it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Tokenizer

from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.base.schema import Record
from tracestill.data_pipeline.channels import Channels
from tracestill.data_pipeline.channels.channel import Channel
from tracestill.data_pipeline.channels.document_scores import DocumentScore, of_documents
from tracestill.data_pipeline.channels.named import by_token, floats
from tracestill.data_pipeline.documents.encode import STORES
from tracestill.data_pipeline.guards.secret import mask
from tracestill.data_pipeline.guards.visible import visible
from tracestill.data_pipeline.segmentation.parts import step_ends
from tracestill.data_pipeline.tokens.pieces import FOLLOWS, pieces
from tracestill.data_pipeline.tokens.store import TokenStore
from tracestill.launch.look.inspect_cut import cut_again
from tracestill.launch.look.inspect_run import record_of, weighting_of, why_unknown
from tracestill.launch.look.inspect_text import find_records
from tracestill.launch.report.records.false_steps import Asked, checkers_of, false_in
from tracestill.trainer.preview.page import kind_class
from tracestill.trainer.recipe.recipe import Recipe
from tracestill.trainer.recipe.run_directory import RunDirectory, open_channels
from tracestill.trainer.weighting import TargetWeights, own_module

Row = dict[str, Any]
COLOURED = 50  # documents of a page, shared out among the token stores of its arms, as are
TOKENS = 300_000  # tokens at most, but for the first document of each store
LEAST = 4  # documents of each store, if they are not too long
HIGHEST = 99  # percentile of a channel's values that has the full colour
WAYS = {"nll": ("loss", "nats"), "influence": ("influence", "nats")}  # channel -> what it colours by, in which unit


class Said(NamedTuple):
    """One channel of one scorer."""

    name: str  # scorer.channel
    held: Channels
    channel: Channel


def documents(run: RunDirectory, found: Row) -> list[Row]:
    """A row for each token store that arms train on, see ``of_store``; stages that are out of date are left out."""
    stores: dict[Path, list[str]] = {}
    for arm, row in found["arms"].items():
        if row["trains"] and row["data"] and (run.stage(arm, "encode") / STORES["train"]).exists():
            stores.setdefault(run.stage(arm, "encode"), []).append(arm)
    share = max(1, len(stores))
    most = max(LEAST, COLOURED // share), TOKENS // share
    return [of_store(run, found, encode, arms, *most) for encode, arms in stores.items()]


def of_store(run: RunDirectory, found: Row, encode: Path, arms: Sequence[str], count: int, tokens: int) -> Row:
    """``count`` documents of a store, or as many as have ``tokens`` together, with their tokens' kinds, weights and
    values. ``weighs`` says for each of ``arms`` which of the lists of weights is its own; a list is null where they are
    not known, and ``unknown`` says why. Values are a list for each of ``channels``, null where nothing is said."""
    recipe, hidden = run.for_arm(arms[0]), 0
    rows: list[Row] = []
    kinds = recipe.span_kinds()
    store = TokenStore(encode / STORES["train"], kinds)
    tokenizer = Tokenizer.from_file(str(run.stage(arms[0], "tokenizer") / "tokenizer.json"))
    said = channels_of_arms(run, found, arms, store)
    chosen = choose(store, said, kinds, count, run.recipe.seed)
    wanted = {record_of(store.ids[document]) for document in chosen}
    records = find_records(run.stage(arms[0], "select") / "records.parquet", wanted) if wanted else {}
    weights, weighs, unknown = weights_of(run, found, arms, store)
    for document, why in chosen.items():
        tokens -= int(store.lengths[document])
        if rows and tokens < 0:
            break
        texts = pieces(tokenizer, store.tokens(document))
        whole = "".join(text for text in texts if text != FOLLOWS)
        if mask(whole) != whole:
            hidden += 1
            continue
        record = records.get(record_of(store.ids[document]))
        rows.append({
            "number": document,
            "id": visible(store.ids[document]),
            "why": why,
            "question": visible(mask(record.question)) if record else "",
            "record_weight": float(store.weights[document]),
            "tokens": [visible(text) for text in texts],
            "kinds": store.kinds(document).tolist(),
            "steps": store.steps(document).tolist(),
            "weights": [None if one is None else rounded(one.of_document(document, 0)) for one in weights],
            "values": [rounded(values_of(one, store, document, kinds)) for one in said],
            "false": false_steps(record, recipe, kinds),
        })  # fmt: skip
    return {
        "arms": list(arms),
        "weighs": weighs,
        "unknown": unknown,
        "kinds": [[name, kind_class(name, kinds.names)] for name in kinds.names],
        "trace": np.flatnonzero(kinds.mask(["trace"])).tolist(),
        "channels": [[one.name, *WAYS[one.channel.name], highest(one, rows, at)] for at, one in enumerate(said)],
        "documents": rows,
        "of": len(store),
        "hidden": hidden,
    }


def channels_of_arms(run: RunDirectory, found: Row, arms: Sequence[str], store: TokenStore) -> list[Said]:
    """The channels that ``WAYS`` names, of all the scorers of these arms that have run. Scorers of one name that differ
    between arms bear the arm's."""
    places: dict[Path, tuple[str, str]] = {}
    for arm in arms:
        for scorer, place in run.scores(arm).items():
            if scorer in found["arms"][arm]["scores"]:
                places.setdefault(place, (arm, scorer))
    names = [scorer for _, scorer in places.values()]
    said = []
    for place, (arm, scorer) in places.items():
        held = open_channels(run, arm, store, {scorer: place})[scorer]
        name = scorer if names.count(scorer) == 1 else f"{arm}/{scorer}"
        said += [Said(f"{name}.{key}", held, held.channel(key)) for key in WAYS if key in held]
    return sorted(said, key=lambda one: list(WAYS).index(one.channel.name))


def choose(store: TokenStore, said: Sequence[Said], kinds: Kinds, count: int, seed: int) -> dict[int, str]:
    """Document -> why it is shown: half of them those of the highest mean loss in trace and answer, if some scorer
    knows it, the others drawn at random by the recipe's seed."""
    found: dict[int, str] = {}
    means = mean_losses(said, kinds)
    if means is not None:
        order = np.argsort(np.where(np.isnan(means), np.inf, -means), kind="stable")[: (count + 1) // 2]
        found = {int(at): f"highest loss, {means[at]:.2f}" for at in order if not np.isnan(means[at])}
    others = np.array([at for at in range(len(store)) if at not in found], np.int64)
    drawn = np.random.default_rng(seed).permutation(others)[: count - len(found)]
    return found | {int(at): "drawn at random" for at in sorted(drawn)}


def mean_losses(said: Sequence[Said], kinds: Kinds) -> np.ndarray | None:
    """(documents,) the mean loss of trace and answer in nats a token, NaN where nothing is said; None if no scorer
    knows losses."""
    losses = next((one for one in said if one.channel.name == "nll"), None)
    if losses is None:
        return None
    score = DocumentScore(channel="shown.nll", by="mean", of=("trace", "answer"))
    return of_documents({"shown": losses.held}, score, kinds)


def weights_of(
    run: RunDirectory, found: Row, arms: Sequence[str], store: TokenStore
) -> tuple[list[TargetWeights | None], list[int], dict[str, str]]:
    """What tokens weigh at the first step, as `inspect` says it; for each arm which of these is its own; and arm -> why
    it is not known."""
    weights: dict[str, TargetWeights | None] = {}
    weighs: list[int] = []
    unknown: dict[str, str] = {}
    for arm in arms:
        recipe, read = run.for_arm(arm), run.scores_read(arm)
        scored = set(read) <= set(found["arms"][arm]["scores"])
        own = own_module(recipe.weighting.use) is not None
        weighting = None if own else weighting_of(run, arm, store if scored else None)
        if why := why_unknown(recipe, weighting, "train"):
            unknown[arm] = visible(why)
        key = f"{recipe.weighting.model_dump_json()} {recipe.seed} {sorted(map(str, read.values()))} {why}"
        if key not in weights:
            weights[key] = None if why or weighting is None else TargetWeights(store, weighting)
        weighs.append(list(weights).index(key))
    return [*weights.values()], weighs, unknown


def values_of(said: Said, store: TokenStore, document: int, kinds: Kinds) -> np.ndarray:
    """(n,) what a channel says of each token, of a channel by steps that of its step; NaN where it says nothing."""
    values = floats(said.held.of(said.channel.name, document), said.channel)
    inside = kinds.mask(["trace"])[store.kinds(document)]
    return by_token(values, said.channel, store.steps(document), inside)


def rounded(values: np.ndarray) -> list[float | None]:
    """Numbers in six figures, null for NaN."""
    return [None if value != value else float(f"{value:.6g}") for value in values.astype(np.float64).tolist()]


def highest(said: Said, rows: Sequence[Mapping[str, Any]], at: int) -> float:
    """The value, or distance from 0, that has the full colour: a high percentile of those shown; 1 if there is none."""
    values = np.array([abs(v) for row in rows for v in row["values"][at] if v is not None], np.float64)
    return float(f"{np.percentile(values, HIGHEST):.3g}") or 1.0 if len(values) else 1.0


def false_steps(record: Record | None, recipe: Recipe, kinds: Kinds) -> dict[int, str]:
    """Step of the document's trace -> what is false in it; empty where the record, or how it was cut, is not known."""
    if record is None or recipe.encode.trace == "drop":
        return {}
    if recipe.encode.granularity.cuts:
        found = cut_again(record, recipe.segment, recipe.encode.granularity, kinds)
        if found is None:
            return {}
        record = found[1].record
    steps: dict[int, list[str]] = {}
    for start, _, why in false_in(
        Asked(checkers_of(recipe), record.trace, record.question, record.answer, record.gold)
    ):
        steps.setdefault(bisect_right(step_ends(record.trace), start), []).append(why)
    return {step: visible(mask("; ".join(each))) for step, each in steps.items()}

"""Scoring as a stage: one model of the recipe's block ``score`` at a time, by the launcher that trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.stage import read_manifest
from tracestill.data_pipeline.channels import BUILT_IN, Channel, ChannelWriter
from tracestill.data_pipeline.channels.shards import Shard
from tracestill.data_pipeline.documents.encode import STORES
from tracestill.data_pipeline.tokens.store import TokenStore
from tracestill.launch.hosts.cluster import Cluster, what_is_left
from tracestill.launch.report import score_page
from tracestill.launch.run.progress import bar
from tracestill.launch.run.restarts import explained
from tracestill.launch.run.stage_spec import StageSpec, Work
from tracestill.launch.start import deepspeed_command, multinode
from tracestill.launch.start.deepspeed_command import Start, TrainingFailed
from tracestill.trainer.faults import stopping
from tracestill.trainer.faults.failure import FAILURE
from tracestill.trainer.scoring.summary import check_room, foreseen

ENTRY_POINT = "tracestill.trainer.scoring.score"
CONSOLE_LOG = "console.log"
STEPS = BUILT_IN["influence"]


def do_score(work: Work, console: Console) -> None:
    """Say what it takes, and score; again, up to ``max_restarts`` times, after a rank has failed.

    Raises InputError for what the ranks refuse, NoRoomError if the disk has no room for what it is going to write,
    TrainingFailed if the ranks end otherwise before all is there, and KeyboardInterrupt; shards that were written stay.
    """
    recipe, how, name = work.case.recipe, work.case.how, work.case.part
    store = TokenStore(work.inputs["encode"] / STORES["train"], recipe.span_kinds())
    channels = recipe.score[name].written(recipe.span_kinds())
    check_entries(work, channels)
    writer = ChannelWriter(work.directory, store, channels, work.config, work.inputs, begin=False)
    writer.take_over()
    missing = writer.missing() if writer.is_mine() else writer.shards
    size = foreseen(store, channels, missing)
    text = f"{len(store):,} documents, {tokens_of(store, writer.shards):,} tokens; {size / 1e6:,.1f} MB to be written"
    console.print(f"  {work.label}: {text}", style="dim", highlight=False, soft_wrap=True)
    check_room(work.directory, size, f"score.{name}")
    cluster, made = how.cluster, 0
    try:
        while True:
            left = len(missing)
            try:
                return attempt(work, writer, missing, cluster, console)
            except TrainingFailed as error:
                missing = not_there(writer, missing)
                if made == how.max_restarts or (made and len(missing) == left):
                    raise TrainingFailed(f"{error}\n  {work.label}: {kept(writer, missing)}") from None
                made += 1
                cluster = what_is_left(cluster, work.case.run.root) if cluster and cluster.elastic else cluster
                cause = f"{str(error).splitlines()[0]}\n  restart {made} of {how.max_restarts}; {kept(writer, missing)}"
                console.print(f"  {work.label}: {cause}", style="yellow", highlight=False, soft_wrap=True)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"interrupted in {work.label}: {kept(writer, not_there(writer, missing))}, and the same command goes on"
        ) from None


def check_entries(work: Work, channels: Sequence[Channel]) -> None:
    """Raise InputError if a student that is yet to be made will have fewer tokens than topk wants; of others the ranks,
    or ``checks.check_scorer``, know better."""
    recipe, name = work.case.recipe, work.case.part
    size = (read_manifest(work.inputs["encode"]) or {})["vocab_size"]
    made = recipe.score[name].is_student and recipe.student.pretrained is None
    if made and (most := max(channel.width for channel in channels)) > size:
        raise InputError(f"score.{name}.k: {most} entries a token of a vocabulary of {size}; lower it")


def attempt(
    work: Work, writer: ChannelWriter, missing: Sequence[Shard], cluster: Cluster | None, console: Console
) -> None:
    """Start the ranks, here or on a cluster's hosts, and show how far they are until all shards are there. Raises as
    ``do_score``."""
    run, arm, name = work.case.run, work.case.arm, work.case.part
    folder = run.score_folder(arm, name)
    stopping.clear(folder, FAILURE)
    start, log = start_of(work, folder, len(missing), cluster), folder / CONSOLE_LOG
    done = len(writer.shards) - len(missing)
    console.print(
        f"  {work.label}: {f'going on behind {done} shards, ' if done else 'starting '}{start.ranks} rank(s) on "
        f"{'GPU' if start.gpus else 'CPU'}{start.where}, output in {log}",
        style="dim",
        highlight=False,
        soft_wrap=True,
    )
    total = tokens_of(writer.store, missing)
    with bar(work.label, console, "tokens", work.directory) as progress:

        def look() -> None:
            left = not_there(writer, missing)
            progress.set(total - tokens_of(writer.store, left), total, f"{len(missing) - len(left)} shards")

        try:
            how = start.arguments, log, start.environment
            deepspeed_command.run(*how, look, start.watch, what="scoring")
        except (TrainingFailed, InputError) as error:
            raise explained(error, folder, log) from None
    if not work.is_current():  # the launcher ends with 0 if a signal ends what it started
        cut = TrainingFailed(f"scoring ended before its last shard; the whole output is in {log}")
        raise explained(cut, folder, log)


def start_of(work: Work, folder: Path, shards: int, cluster: Cluster | None) -> Start:
    """How the ranks start; here no more than there are shards to write, unless each has a part of the model."""
    run, arm, recipe = work.case.run, work.case.arm, work.case.recipe
    scorer = recipe.score[work.case.part]
    asks = scorer.server is not None  # of one process, which has many requests under way
    words = ["--run-dir", str(run.root.absolute()), "--arm", arm, "--scorer", work.case.part]
    if cluster is not None and not asks:
        return multinode.start_entry(cluster, run.root, ENTRY_POINT, words, folder)
    ranks, most = deepspeed_command.ranks_here(recipe), 1 if asks else max(1, shards)
    if ranks.count > most and scorer.zero == 0:
        fewer = recipe.train.model_copy(update={"ranks": most, "sequence_parallel": 1})
        ranks = deepspeed_command.ranks_here(recipe.model_copy(update={"train": fewer}))
    return deepspeed_command.start_ranks(ENTRY_POINT, words, ranks, run.root)


def not_there(writer: ChannelWriter, shards: Sequence[Shard]) -> list[Shard]:
    """The shards of these that no rank has written yet."""
    finished = not writer.draft.exists() and read_manifest(writer.directory) is not None
    return [] if finished else [shard for shard in shards if not writer.there(shard)]


def tokens_of(store: TokenStore, shards: Sequence[Shard]) -> int:
    return sum(int(store.lengths[shard.first : shard.end].sum()) for shard in shards)


def kept(writer: ChannelWriter, missing: Sequence[Shard]) -> str:
    return f"{len(writer.shards) - len(missing)} of {len(writer.shards)} shards are kept"


def scored(manifest: Mapping[str, Any], directory: Path) -> str:
    counts = manifest["counts"]
    size = f"{counts['bytes'] / 1e6:.1f} MB"
    steps = counts.get("steps")
    of_steps = "" if steps is None else f"influence of {steps['known']:,} of {steps['all']:,} steps"
    if set(manifest["channels"]) <= {STEPS.name}:
        return f"{of_steps}, {size}"
    known, targets = (sum(counts[key].values()) for key in ("known", "targets"))
    means = []
    for name, by_kind in counts["means"].items():
        sums = [by_kind[kind] * counts["known"][kind] for kind in by_kind]
        means.append(f"{name} {sum(sums) / max(1, known):.3f}")
    told = f", mean {', '.join(means)}" if means else ""
    return f"{known:,} of {targets:,} targets scored{told}, {of_steps and of_steps + ', '}{size}"


SCORE = StageSpec(
    "score",
    lambda case: case.run.score_stage(case.arm, case.part),
    do_score,
    scored,
    score_page.scores,
    parts=lambda recipe: list(recipe.score),
    optional="give it a block `score` that names the models to read the documents (docs/scores.md)",
    redo="every shard so far is kept",
    is_data=True,
)

"""The stages that make data, from the questions to the plan."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from tracestill.data_pipeline.base import own_modules
from tracestill.data_pipeline.documents import encode
from tracestill.data_pipeline.plan import plan_stage
from tracestill.data_pipeline.plan.keep import words
from tracestill.data_pipeline.sampling import sample
from tracestill.data_pipeline.segmentation import Segmenter
from tracestill.data_pipeline.selection import selection
from tracestill.data_pipeline.selection.policy import POLICIES
from tracestill.data_pipeline.tokens import tokenizer
from tracestill.launch.report import page, plan_page
from tracestill.launch.report.parts import listed
from tracestill.launch.report.yields.page import yields
from tracestill.launch.run.progress import bar
from tracestill.launch.run.stage_spec import Case, Identity, StageSpec, Work
from tracestill.trainer.recipe.positions import positions_of
from tracestill.trainer.recipe.recipe import Recipe
from tracestill.trainer.recipe.run_directory import SCORE
from tracestill.trainer.recipe.verifying import verifier_of

Manifest = Mapping[str, Any]


def sample_identity(case: Case) -> Identity:
    recipe = case.run.recipe
    return sample.stage_config(recipe.questions, recipe.sample, recipe.seed, case.run.memory), {}


def do_sample(work: Work, console: Console) -> None:
    run = work.case.run
    with bar(work.label, console, beside=work.directory) as progress:
        sample.run(
            run.recipe.questions,
            run.recipe.sample,
            seed=run.recipe.seed,
            directory=work.directory,
            journal=run.journal,
            kinds=run.recipe.span_kinds(),
            progress=progress.set,
            memory=run.memory,
        )


def sampled(manifest: Manifest, directory: Path) -> str:
    counts = manifest["counts"]
    validation = f", {counts['validation_questions']:,} validation" if "validation_questions" in counts else ""
    lines = listed("questions rejected", counts.get("source", {}).get("rejected", {}))
    return (
        f"{counts['train_questions']:,} training{validation} and {counts['test_questions']:,} held-out questions, "
        f"{counts['out']:,} records ({counts['from_journal']:,} from the journal)"
        f"{listed('rejected', counts.get('rejected', {}))}{lines}{files(counts)}"
    )


def files(counts: Mapping[str, Any]) -> str:
    """What was read by which readers, and what is doubtful in it; empty where there is nothing to tell."""
    near = counts.get("source", {}).get("near_duplicates")
    told = f"; near duplicates across splits {near:,}" if isinstance(near, int) else f"; {near}" if near else ""
    without = counts.get("source", {}).get("gold_from_traces")
    told += f"; gold answers from the traces themselves {without:,}" if without else ""
    return listed("read by", counts.get("readers", {})) + listed("doubtful", counts.get("checks", {})) + told


def select_identity(case: Case) -> Identity:
    own = case.recipe
    return selection.stage_config(own.select, case.run.memory, own.verify), case.reads("sample")


def do_select(work: Work, console: Console) -> None:
    select, memory = work.case.recipe.select, work.case.run.memory
    with bar(work.label, console, beside=work.directory) as progress:
        verifier = verifier_of(work.case.recipe, work.case.run.root)
        more: Any = {**work.inputs, "progress": progress.set, "memory": memory, "verifier": verifier}
        selection.run(select, directory=work.directory, **more)


def selected(manifest: Manifest, directory: Path) -> str:
    counts = manifest["counts"]
    weightless = f", {counts['weightless']:,} of weight 0" if "weightless" in counts else ""
    told = listed("rejected", counts["rejected"]) + listed("noted", counts.get("noted", {}))
    told += listed("not judged, the budget does not pay for it", counts.get("unjudged", {}))
    return f"kept {counts['out']:,} of {counts['in']:,} records{weightless}{told}{by_policy(counts)}"


def by_policy(counts: Mapping[str, Any]) -> str:
    """How many records each policy would keep, where they differ."""
    found = counts.get("policies", {})
    told = ", ".join(f"{name} {found[name]:,}" for name in POLICIES if name in found)
    return f"; by policy: {told}" if len(set(found.values())) > 1 else ""


def symbols_of(recipe: Recipe) -> dict[str, bool]:
    """Which control symbols its layout needs of the tokenizer."""
    return {"plain": recipe.encode.has_symbols, "tags": recipe.encode.marks is None}


def do_tokenizer(work: Work, console: Console) -> None:
    recipe = work.case.recipe
    more: Any = {**work.inputs, **symbols_of(recipe)}
    with bar(work.label, console, beside=work.directory):  # SentencePiece does not tell how far it is
        tokenizer.run(recipe.encode.tokenizer, work.directory, **more)


def encode_identity(case: Case) -> Identity:
    """Refuses a tokenizer's chat template, and a classifier of clauses that is none, before any work is done."""
    own, given = case.recipe, case.recipe.encode.tokenizer
    if given.path is not None and not (own.encode.has_symbols or given.add_symbols or own_modules.is_looking()):
        encode.load_layout(own.encode, given.path)
    if not own_modules.is_looking():
        Segmenter(own.segment)
    what = own.encode, own.span_kinds(), own.plan, own.segment, case.run.memory
    config = encode.stage_config(*what, positions_of(own.student))
    return config, case.reads("sample", "select", "tokenizer")


def do_encode(work: Work, console: Console) -> None:
    own = work.case.recipe
    with bar(work.label, console, beside=work.directory) as progress:
        encode.run(
            own.encode,
            own.span_kinds(),
            own.plan,
            work.directory,
            **work.inputs,
            segment=own.segment,
            memory=work.case.run.memory,
            positions=positions_of(own.student),
            progress=progress.set,
        )


def encoded(manifest: Manifest, directory: Path) -> str:
    counts = manifest["counts"]
    split = counts["splits"]["train"]
    trimmed = f", {counts['trimmed']:,} trimmed" if counts.get("trimmed") else ""
    rejected = listed("rejected", counts.get("rejected", {}))
    noted = listed("noted", counts.get("notes", {}))
    cut = f", {found['cut']:,} traces cut" if (found := counts.get("granularity")) else ""
    return f"{split['documents']:,} documents, {split['tokens']:,} tokens{cut}{trimmed}{rejected}{noted}"


def length_of(recipe: Recipe) -> dict[str, Any]:
    return {"seed": recipe.seed, "steps": recipe.train.steps, "epochs": recipe.train.epochs}


def plan_identity(case: Case) -> Identity:
    scores = {f"{SCORE}/{name}": path for name, path in case.run.scores_planned(case.arm).items()}
    return plan_stage.stage_config(case.recipe.plan, **length_of(case.recipe)), case.reads("encode") | scores


def do_plan(work: Work, console: Console) -> None:
    own, scores = work.case.recipe, work.case.run.scores_planned(work.case.arm)
    with bar(work.label, console, beside=work.directory) as progress:
        more: Any = {**length_of(own), "scores": scores, "progress": progress.set}
        plan_stage.run(work.directory, work.inputs["encode"], own.plan, **more)


def planned(manifest: Manifest, directory: Path) -> str:
    statistics = manifest["statistics"]
    return (
        f"{statistics['packs']:,} packs, {statistics['fill']:.1%} filled, {manifest['steps_per_epoch']:,} steps an "
        f"epoch, {manifest['epochs']:,} epoch(s){chosen(statistics)}{mixed(statistics)}{ordered(statistics)}"
    )


def chosen(statistics: Manifest) -> str:
    """What stays of the documents, by what a channel says of them; empty if all do."""
    found = statistics.get("keep")
    return f"; {words(found)}" if found else ""


def mixed(statistics: Manifest) -> str:
    """The shares that a mixture has come to; empty if there is none."""
    parts = []
    for name, part in statistics.get("mixture", {}).items():
        repeats = f", {part['repeats']:,} repeats" if part["repeats"] else ""
        left_out = f", {part['left_out']:,} left out" if part["left_out"] else ""
        parts.append(f"{name} {part['share']:.1%} (wanted {part['share_wanted']:.1%}{repeats}{left_out})")
    return f"; mixture: {', '.join(parts)}" if parts else ""


def ordered(statistics: Manifest) -> str:
    """How well an order is followed, and what it costs; empty for a random one."""
    if (found := statistics.get("order")) is None:
        return ""
    packs = statistics["packs"] / found["unordered"]["packs"] - 1
    unknown = f", {found['without_key']:,} without it anywhere" if found["without_key"] else ""
    cost = f", {packs:+.1%} packs" if abs(packs) >= 5e-4 else ""
    return f"; by {found['by']}, {found['direction']}: rank correlation {found['correlation']:.3f}{unknown}{cost}"


DATA_STAGES = (
    StageSpec(
        "sample",
        sample_identity,
        do_sample,
        sampled,
        page.data,
        per_arm=False,
        redo="every answer so far is kept",
        is_data=True,
    ),
    StageSpec(
        "select",
        select_identity,
        do_select,
        selected,
        yields,
        is_data=True,
    ),
    StageSpec(
        "tokenizer",
        lambda case: (
            tokenizer.stage_config(case.recipe.encode.tokenizer, **symbols_of(case.recipe)),
            case.reads("sample", "select"),
        ),
        do_tokenizer,
        lambda manifest, directory: f"{manifest['vocab_size']:,} tokens",
        page.shown_with_data,
        command="encode",
        is_data=True,
    ),
    StageSpec("encode", encode_identity, do_encode, encoded, page.shown_with_data, is_data=True),
    StageSpec(
        "plan",
        plan_identity,
        do_plan,
        planned,
        plan_page.plans,
        needed=lambda recipe: recipe.train.trains,
        is_data=True,
    ),
)

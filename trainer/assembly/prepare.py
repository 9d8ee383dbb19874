"""A recipe becomes a job: data are opened, ranks meet, the student is built, adapted and given an engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.base.stage import CONTENTS, digest_of, identity, read_manifest
from tracestill.data_pipeline.channels.named import Scores
from tracestill.data_pipeline.plan.plan import Plan, load_plan
from tracestill.data_pipeline.tokens.store import TokenStore
from tracestill.trainer.assembly.job import Job, Progress
from tracestill.trainer.assembly.teacher_stops import check_teacher
from tracestill.trainer.batches.batches import Batches
from tracestill.trainer.batches.rectangles import RowMaker, layout_for
from tracestill.trainer.batches.teacher import Teacher
from tracestill.trainer.checkpoint.best import Best
from tracestill.trainer.checkpoint.files import CHECKPOINTS
from tracestill.trainer.checkpoint.saver import NoSaver, Saver
from tracestill.trainer.engine.engine import Engine, World, connect, training_dtype
from tracestill.trainer.evaluation.held_out import open_held_out, refuse_longer_held_out
from tracestill.trainer.evaluation.held_out_answers import HeldOutAnswers
from tracestill.trainer.export.export import check_tokenizer
from tracestill.trainer.faults.stragglers import Stragglers
from tracestill.trainer.preview.preview import token_names
from tracestill.trainer.preview.stops import check_stops
from tracestill.trainer.ranks.console import Terminal
from tracestill.trainer.ranks.phases import Phases
from tracestill.trainer.ranks.placement import Placement, find_placement
from tracestill.trainer.recipe.monitor import check_installed
from tracestill.trainer.recipe.positions import positions_in
from tracestill.trainer.recipe.recipe import Recipe
from tracestill.trainer.recipe.run_directory import BASE, RunDirectory, open_channels
from tracestill.trainer.recipe.settings import seconds_of
from tracestill.trainer.student.adapt import adapt
from tracestill.trainer.student.reading_model import use_weighting
from tracestill.trainer.student.student import Student, build_student
from tracestill.trainer.student.tiled_mlp import tile_mlps
from tracestill.trainer.weighting import TargetWeights, Weighting, make_weighting, multiplied_kinds
from tracestill.trainer.weighting.by_teacher import learnt_by

WEIGHTS = (".safetensors", ".bin", ".pt", ".gguf")
PlanOfEpoch = Callable[[int], Plan]


class Vocabulary(TypedDict):
    """What of the tokenizer and the kinds a model has to know."""

    vocab_size: int
    num_kinds: int
    bos_id: int | None
    eos_id: int
    pad_id: int


@dataclass(frozen=True)
class Data:
    """What the stages before left for the training of an arm."""

    config: dict[str, Any]  # that decides, with ``inputs``, whether a training is current
    inputs: dict[str, Path]  # stage -> its directory
    kinds: Kinds
    store: TokenStore
    scores: Scores  # what the weighting and a teacher's term read beside the store
    plan_of_epoch: PlanOfEpoch
    vocabulary: Vocabulary
    known_tokens: int  # tokens that a pretrained student knows


def prepare(
    run: RunDirectory,
    arm: str,
    *,
    phases: Phases | None = None,
    recipe: Recipe | None = None,
    directory: Path | None = None,
    plan_of_epoch: PlanOfEpoch | None = None,
    saver: NoSaver | None = None,
) -> Job:
    """Open the data, join the other ranks, build the student. Raises InputError naming a stage that has not run.

    ``phases`` will tell what this rank does. A benchmark trains the arm's data by a ``recipe``, into a ``directory``,
    by plans and with a saver of its own.
    """
    recipe = recipe or run.recipe.for_arm(arm)
    settings = recipe.train
    if not settings.trains:
        raise InputError(f"{arm}: its student is not trained (train: none); `tracestill evaluate` takes it")
    check_installed(settings.monitor)
    phases, stragglers = phases or Phases(), Stragglers()
    phases.subscribe(stragglers.phase)
    data = open_data(run, arm, recipe, plan_of_epoch)
    world = connect(settings)
    placement = find_placement() if settings.local_checkpoints else None
    weighting = make_weighting(recipe.weighting, data.kinds, recipe.seed, data.scores)
    first_plan = data.plan_of_epoch(0)
    steps = settings.steps or sum(data.plan_of_epoch(epoch).n_steps for epoch in range(settings.epochs or 1))
    named = token_names(data.inputs["tokenizer"])
    check_teacher(recipe, data.inputs["tokenizer"], data.vocabulary["eos_id"])
    teacher = open_teacher(recipe, data)
    check_stops(
        TargetWeights(data.store, learnt_by(weighting, teacher.weighting if teacher else None, data.store)),
        data.kinds,
        steps,
        named,
        allowed=recipe.weighting.allow_unstoppable,
    )
    student, notes = make_student(recipe, data, weighting, world)
    layout = layout_for(student.model.config, data.store, first_plan)
    refuse_longer_held_out(data.inputs["encode"], data.kinds, positions_in(student.model.config.to_dict()))
    batches = make_batches(recipe, data, weighting, world, layout.make_row, teacher)
    directory = directory or run.stage(arm, "train")
    engine = Engine(
        student,
        settings,
        accumulation=batches.accumulation,
        raw_deepspeed=recipe.deepspeed,
        seed=recipe.seed,
        directory=directory,
    )
    engine.base = base_of(data.config)
    job = Job(
        run=run,
        arm=arm,
        recipe=recipe,
        identity=identity("train", data.config, data.inputs),
        directory=directory,
        tokenizer=data.inputs["tokenizer"],
        store=data.store,
        weighting=weighting,
        batches=batches,
        held_out=open_held_out(
            settings,
            data.inputs["encode"],
            data.kinds,
            recipe.plan.capacity,
            data.vocabulary["pad_id"],
            layout.make_row,
        ),
        answers=make_answers(run, arm, recipe, directory, placement),
        engine=engine,
        steps=steps,
        console=Terminal(quiet=world.rank != 0),
        progress=Progress(best=Best(settings.metric, settings.patience, data.kinds) if settings.metric else None),
        saver=saver or make_saver(recipe, directory, placement),
        placement=placement,
        phases=phases,
        stragglers=stragglers,
    )
    introduce(job, world, notes, layout.about)
    return job


def open_data(run: RunDirectory, arm: str, recipe: Recipe, plan_of_epoch: PlanOfEpoch | None) -> Data:
    """Raises InputError naming a stage that has not run."""
    config, inputs = run.train_stage(arm)
    about, kinds = read_manifest(inputs["encode"]) or {}, recipe.span_kinds()
    size, ids = about["vocab_size"], about["special_ids"]
    store = TokenStore(inputs["encode"] / "tokens.arrow", kinds)
    return Data(
        config=config,
        inputs=inputs,
        kinds=kinds,
        store=store,
        scores=open_channels(run, arm, store, run.scores_read(arm)),
        plan_of_epoch=plan_of_epoch or (lambda epoch: load_plan(inputs["plan"] / f"epoch-{epoch:03d}")),
        vocabulary=Vocabulary(
            vocab_size=size, num_kinds=len(kinds), bos_id=ids["bos"], eos_id=ids["eos"], pad_id=ids["pad"]
        ),
        known_tokens=(read_manifest(inputs["tokenizer"]) or {}).get("known_tokens", size),
    )


def make_student(recipe: Recipe, data: Data, weighting: Weighting, world: World) -> tuple[Student, list[str]]:
    """The student as the recipe wants it trained, on the CPU; and what was done to it, in words."""
    settings, dtype = recipe.train, training_dtype(recipe.train, world.device)
    student = build_student(
        recipe.student,
        **data.vocabulary,
        known_tokens=data.known_tokens,
        seed=recipe.seed,
        device=world.device,
        dtype=dtype,
        chunk_rows=settings.chunk_rows,
        label_smoothing=settings.label_smoothing,
        z_loss=settings.z_loss,
    )
    check_tokenizer(data.inputs["tokenizer"], student.model.config, recipe.encode)
    use_weighting(
        student,
        weighting,
        multiplied=multiplied_kinds(recipe.weighting, data.kinds),
        vocabulary={**data.vocabulary},
        device=world.device,
        dtype=dtype,
        attention=recipe.student.attention,
        chunk_rows=settings.chunk_rows,
        trusted=recipe.student.trust_remote_code,
    )
    new = data.vocabulary["vocab_size"] - data.known_tokens if recipe.student.pretrained else 0
    notes = adapt(student, recipe.student, seed=recipe.seed, device=world.device, new_tokens=new)
    if settings.tiled_mlp:
        length = -(-recipe.plan.capacity // settings.sequence_parallel)
        tile_mlps(student.model, settings.tiled_mlp, length, world.device)
    return student, notes


def open_teacher(recipe: Recipe, data: Data) -> Teacher | None:
    """The teacher's term of the loss, if the recipe has one."""
    if recipe.distil is None:
        return None
    channels = data.scores[recipe.distil.scorer]
    return Teacher(data.store, recipe.distil, data.kinds, channels, data.vocabulary["vocab_size"])


def make_batches(
    recipe: Recipe, data: Data, weighting: Weighting, world: World, make_row: RowMaker, teacher: Teacher | None
) -> Batches:
    """What this rank reads of each step."""
    return Batches(
        data.store,
        data.plan_of_epoch,
        weighting,
        normaliser=recipe.weighting.normaliser,
        rank=world.mesh.data_rank,
        ranks=world.mesh.data_ranks,
        group=world.mesh.data_group,
        part=world.mesh.part,
        parts=world.mesh.parts,
        pad_id=data.vocabulary["pad_id"],
        device=world.device,
        make_row=make_row,
        teacher=teacher,
    )


def base_of(config: dict[str, Any]) -> str | None:
    """What identifies the model that frozen parameters come from: a digest of its config and weights. None if they
    come from nowhere else, so that a checkpoint has to hold them."""
    files = config.get(CONTENTS, {}).get(BASE, {})
    weights = {n: digest for n, digest in files.items() if n == "config.json" or n.endswith(WEIGHTS)}
    return digest_of(weights) if weights else None


def make_answers(
    run: RunDirectory, arm: str, recipe: Recipe, directory: Path, placement: Placement | None
) -> HeldOutAnswers | None:
    """What asks held-out questions while training goes on, if the recipe wants that."""
    if not recipe.train.held_out_questions:
        return None
    questions = run.stage(arm, "sample") / "questions.parquet"
    return HeldOutAnswers(recipe, questions, directory / "asked", placement.ranks[0] if placement else None)


def make_saver(recipe: Recipe, directory: Path, placement: Placement | None) -> Saver:
    settings = recipe.train
    return Saver(
        directory / CHECKPOINTS,
        keep=settings.keep,
        background=settings.async_save,
        placement=placement,
        interval=seconds_of(settings.checkpoint_interval) if settings.checkpoint_interval else None,
    )


def introduce(job: Job, world: World, notes: list[str], layout: str) -> None:
    """Say in the console what is going to be trained, and on what."""
    settings, attention = job.recipe.train, job.engine.module.attention
    job.console.print(
        f"{world.ranks} rank(s) on {world.device.type}, {settings.sequence_parallel} to a row, {world.dtype}, "
        f"{job.engine.stage}, accumulation {job.batches.accumulation}, {job.steps} steps; "
        f"attention {attention.backend}: {attention.reason}{layout}",
        highlight=False,
    )
    if notes:
        job.console.print(f"student: {'; '.join(notes)}", highlight=False)

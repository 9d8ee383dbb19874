"""What a run would stumble over hours later, looked for before any work begins."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.text import Text

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.documents.chat_parts import messages_of
from tracestill.data_pipeline.documents.chat_template import ChatTemplate
from tracestill.data_pipeline.documents.encode import EncodeConfig, load_layout
from tracestill.data_pipeline.sampling.files.formats import parts_of
from tracestill.data_pipeline.sampling.teachers.api.options import ServerConfig
from tracestill.data_pipeline.variations.further import refuse_absent
from tracestill.launch.hosts.cluster import Cluster
from tracestill.launch.run.runner import is_due
from tracestill.launch.run.stage_spec import Work
from tracestill.launch.run.training import can_resume
from tracestill.launch.start import multinode
from tracestill.launch.start.deepspeed_command import check_ranks, count_gpus, devices, ranks_here
from tracestill.trainer.ranks.cores import usable_cores
from tracestill.trainer.recipe.monitor import check_installed
from tracestill.trainer.recipe.recipe import MAIN_ARM, Recipe, refuse_local_checkpoints
from tracestill.trainer.recipe.run_directory import RunDirectory
from tracestill.trainer.weighting import check_control


def check_works(
    run: RunDirectory, works: list[Work], console: Console, *, resume: str = "auto", cluster: Cluster | None = None
) -> None:
    """Check machine or cluster, student and settings of each arm that has to be trained or evaluated. Writes nothing.

    Raises InputError naming the arm (but the main one) and the field.
    """
    due = [work for at, work in enumerate(works) if is_due(work, works[at + 1 :])]
    trained = [work.arm for work in due if work.arm and work.stage == "train"]
    evaluated = [work.arm for work in due if work.arm and work.stage == "evaluate"]
    scored = [work for work in due if work.stage == "score"]
    if not trained and not evaluated and not scored:
        return
    gpus, local = count_gpus(), False
    if cluster is None:
        check_machine(run.recipe, [*trained, *(work.case.arm for work in scored)], gpus, console)
    elif trained or scored:
        check_ranks_of_hosts(run.recipe, trained, cluster, console)
        if scored:
            refuse_local_checkpoints(run.recipe, "scoring")
        local = not cluster.here_only and any(run.recipe.for_arm(arm).train.local_checkpoints for arm in trained)
        if local:
            check_local(run, cluster, data_due=any(work.spec.is_data for work in due))
        elif due[0].stage not in ("train", "score"):  # else the hosts are asked right away
            multinode.check_hosts(cluster, run.root, run.recipe)
    for work in scored:
        check_scorer(work.case.recipe, work.case.part)
    for arm in dict.fromkeys([*trained, *evaluated]):
        try:
            own = run.recipe.for_arm(arm)
            check_arm(own, gpus, evaluates=arm in evaluated)
            if arm in trained and not (own.distil and own.distil.weighs(own.span_kinds(), "control")):
                check_control(own.weighting)
            if resume == "must" and arm in trained and not can_resume(run, arm) and not local:
                where = run.stage(arm, "train")
                raise InputError(f"{where}: no whole checkpoint of this training to resume from; use --resume auto")
        except InputError as error:
            raise InputError(str(error) if arm == MAIN_ARM else f"arms.{arm}: {error}") from error


def check_scorer(recipe: Recipe, name: str) -> None:
    """Raise InputError if a scorer's model would not load, or has fewer tokens than topk wants."""
    from tracestill.trainer.loading.loading import check_model, load_config

    scorer, student = recipe.score[name], recipe.student
    if scorer.server is not None:
        if student.encoder_decoder:
            raise InputError(f"score.{name}.server: reads the documents of decoders only; let a model here read them")
        check_key(f"score.{name}", scorer.server)
        return
    path = student.pretrained if scorer.is_student else Path(scorer.model)
    if path is None:
        return  # a student made from scratch, whose vocabulary is not made yet
    trusted = student.trust_remote_code if scorer.is_student else scorer.trust_remote_code
    try:
        check_model(path, trusted)
        size = load_config(path, trusted).get_text_config().vocab_size
    except InputError as error:
        raise InputError(f"score.{name}.model: {error}") from error
    if "topk" in scorer.channels and scorer.k > size:
        raise InputError(f"score.{name}.k: {scorer.k} entries a token of a vocabulary of {size}; lower it")


def check_local(run: RunDirectory, cluster: Cluster, *, data_due: bool) -> None:
    """Raise InputError for what does not go together with hosts that share no file system."""
    if cluster.elastic:
        raise InputError(
            "--elastic: a host that is left out would take its part of every checkpoint with it "
            "(train.local_checkpoints); leave out one of the two"
        )
    if data_due:
        raise InputError(
            "train.local_checkpoints: each host needs a copy of the data; make it first (--until plan), then copy "
            f"{run.root} to the same path on every host"
        )


def check_ranks_of_hosts(recipe: Recipe, arms: list[str], cluster: Cluster, console: Console) -> None:
    """Warn where a recipe does not fit the hosts' slots. Raises InputError if they do not make up groups that share
    rows."""
    for arm in arms:
        own = recipe.for_arm(arm)
        parts = own.train.sequence_parallel
        if cluster.ranks % parts:
            raise InputError(
                f"train.sequence_parallel: the hostfile's {cluster.ranks} slots do not form groups of {parts}"
            )
        if own.train.ranks not in ("auto", cluster.ranks):
            text = f"train.ranks: {own.train.ranks} is for one host; the hostfile's {cluster.ranks} slots count"
            warn(text, console)
        if cluster.ranks > own.plan.packs_per_step * parts:
            text = f"plan.packs_per_step: {own.plan.packs_per_step} packs leave some of the {cluster.ranks} ranks idle"
            warn(text, console)


def check_arm(recipe: Recipe, gpus: int, *, evaluates: bool) -> None:
    """Whether an arm's student can be built, trained in the wanted precision and asked held-out questions; and whether
    files are there that only its evaluation reads."""
    with uncollected():
        import torch

        from tracestill.trainer.assembly.teacher_stops import check_teacher
        from tracestill.trainer.optimizers.making import check_optimizer
        from tracestill.trainer.recipe.precision import training_dtype
        from tracestill.trainer.student.check import check_student, check_trainable

    check_installed(recipe.train.monitor)
    check_optimizer(recipe.train)
    if recipe.deepspeed or recipe.train.offload.used:
        from tracestill.trainer.engine.engine import check_block

        check_block(recipe.train, recipe.deepspeed)
    check_template(recipe.encode)
    if recipe.encode.template == "encoder_decoder" and not recipe.student.encoder_decoder:  # as an arm may inherit it
        raise InputError("encode.template: encoder_decoder is for students like T5; set it to plain")
    device = torch.device("cuda" if gpus else "cpu")
    parts, tiled = recipe.train.sequence_parallel, bool(recipe.train.tiled_mlp)
    positions = check_student(recipe.student, device, training_dtype(recipe.train, device), parts, tiled=tiled)
    if recipe.train.trains:
        check_trainable(recipe.student)
    check_reference(recipe)
    if recipe.train.trains:
        check_scorer_of_texts(recipe)
        check_teacher(recipe)
    if not evaluates:
        return
    if recipe.questions.test == 0:
        raise InputError("questions.test: 0 leaves no held-out question to evaluate; set it, or use --until train")
    refuse_absent(recipe.evaluate.also)
    if (general := recipe.evaluate.general) is not None:
        try:
            parts_of(general.source)
        except InputError as error:
            raise InputError(f"evaluate.general.source: {error}") from error
    if positions is not None and recipe.evaluate.max_new_tokens >= positions:
        raise InputError(
            f"evaluate.max_new_tokens: {recipe.evaluate.max_new_tokens} and a question do not fit into the student's "
            f"{positions} positions (max_position_embeddings); lower it"
        )


@contextmanager
def uncollected() -> Iterator[None]:
    """Imports in here take a quarter less: the garbage collector would look through what they make again and again."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def check_template(encode: EncodeConfig) -> None:
    """Raise InputError if the tokenizer's chat template, a stranger's program, cannot be trained on."""
    path = encode.tokenizer.path
    if encode.has_symbols or path is None:
        return
    if encode.tokenizer.add_symbols:  # the layout needs them, and they are added to a copy
        if encode.template == "chat":
            ChatTemplate(path, encode.variables).render(messages_of(encode.system, "1 + 1?"), generation=True)
    else:
        load_layout(encode, path)


def check_reference(recipe: Recipe) -> None:
    """Raise InputError if the weighting reads a model that would not load. One that is yet to be trained is left to
    the ranks."""
    from tracestill.trainer.loading.loading import check_model

    named = recipe.weighting.options.get("reference")
    if isinstance(named, str) and Path(named).is_dir():
        try:
            check_model(Path(named), recipe.student.trust_remote_code)
        except InputError as error:
            raise InputError(f"weighting.options.reference: {error}") from error


def check_key(where: str, server: ServerConfig | None) -> None:
    """Raise InputError without the key of a model's server, if it has one that wants one."""
    if server is not None and server.api_key_env is not None and not os.environ.get(server.api_key_env):
        raise InputError(f"{where}.server.api_key_env: {server.api_key_env} is not set")


def check_scorer_of_texts(recipe: Recipe) -> None:
    """Raise InputError if the teacher of ``train.on_policy`` would not load, or has another vocabulary than the
    tokenizer that the recipe names, if it does; of one that is served, without its key."""
    from tracestill.trainer.assembly.teacher_stops import own_tokenizer
    from tracestill.trainer.loading.loading import check_model
    from tracestill.trainer.scoring.model import check_tokens

    own = recipe.train.on_policy
    if own is None:
        return
    check_key("train.on_policy.teacher", own.teacher.server)
    if (directory := own.teacher.directory) is None:
        return
    try:
        check_model(directory, None)
        if (tokenizer := own_tokenizer(recipe)) is not None:
            check_tokens(tokenizer, directory)
    except InputError as error:
        raise InputError(f"train.on_policy.teacher: {error}") from error


def check_machine(recipe: Recipe, arms: list[str], gpus: int, console: Console) -> None:
    """Enough GPUs for the ranks of each arm that has to be trained. Raises InputError if not."""
    if not arms:
        return
    ranks = max(ranks_here(recipe.for_arm(arm)).count for arm in arms)
    warning = check_ranks(ranks, gpus, usable_cores())
    devices(ranks, os.environ.get("CUDA_VISIBLE_DEVICES", ""))
    if warning:
        warn(warning, console)


def warn(text: str, console: Console) -> None:
    console.print(Text.assemble(("warning:", "yellow"), f" {text}"))

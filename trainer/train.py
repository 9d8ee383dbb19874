"""Training: the loop, and the entry point that DeepSpeed's launcher starts on every rank.

deepspeed --num_gpus 2 --module tracestill.trainer.train --run-dir runs/demo --arm traces --resume auto
"""

from __future__ import annotations

if __name__ == "__main__":  # before anything else is imported: `python -m` has put the working directory first
    import gc

    from tracestill.data_pipeline.guards.working_directory import leave_working_directory

    leave_working_directory()
    gc.disable()  # would look through what the imports below make again and again, a fifth of their time

import time
from collections.abc import Sequence
from typing import Any

import torch.distributed as dist

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.stage import write_json
from tracestill.trainer.assembly.finish import export_student, finish
from tracestill.trainer.assembly.first_step import show_first_step
from tracestill.trainer.assembly.job import Job, TextState
from tracestill.trainer.assembly.prepare import prepare
from tracestill.trainer.assembly.rank import Begun, as_rank, parser_of
from tracestill.trainer.assembly.resume import Resume, open_directory
from tracestill.trainer.batches.prefetch import Prefetch
from tracestill.trainer.checkpoint import local as checkpoint_local
from tracestill.trainer.checkpoint.train_place import claim_train, is_done
from tracestill.trainer.engine.engine import connect, leave, open_monitor
from tracestill.trainer.faults.stopping import EXIT_STOPPED, StopRequest
from tracestill.trainer.faults.stragglers import phases_alone
from tracestill.trainer.faults.watchdog import Watchdog
from tracestill.trainer.metrics.flops import cost_of, peak_tflops
from tracestill.trainer.metrics.headway import PROGRESS, Teller
from tracestill.trainer.metrics.log import LOG, Log, read_log
from tracestill.trainer.metrics.telemetry import Meter, line_of, table_of
from tracestill.trainer.metrics.throughput import Throughput
from tracestill.trainer.on_policy.on_policy import OnPolicy
from tracestill.trainer.ranks.collectives import share_json, together
from tracestill.trainer.ranks.console import say
from tracestill.trainer.ranks.phases import Phases
from tracestill.trainer.ranks.placement import find_placement
from tracestill.trainer.recipe.provenance import provenance
from tracestill.trainer.recipe.run_directory import RunDirectory
from tracestill.trainer.recipe.settings import GENERATION, learning_rate, seconds_of


def train(job: Job, stop: StopRequest) -> bool:
    """Optimizer steps from the last one done: a micro-step a pack, an update a step, a line of numbers now and then.

    False if it was asked to stop before the end; everything is saved then. Raises InputError if one step after
    another is left out because its loss or gradient is not finite.
    """
    settings, engine, progress = job.recipe.train, job.engine, job.progress
    meter, throughput, log = meter_of(job), throughput_of(job), open_log(job)
    prefetch, texts, saved = Prefetch(job.batches, job.steps), "there", progress.step
    last: dict[str, Any] = {}  # of the newest step's numbers those that are no means

    def tell_numbers(*, ends: bool) -> None:
        """A line of the log about the steps since the last one."""
        job.phase("log")
        numbers = {**last, **meter.read()}
        numbers |= throughput.read(numbers["weighted_tokens"], prefetch)
        numbers |= {} if job.own_texts is None else job.own_texts.read()
        log.add(step=progress.step, **numbers)
        tell_straggler(job, log)
        tell(job, numbers, ends=ends)
        teller.spoke()

    if job.measures and progress.step == 0:
        measure(job, log, throughput)
    stop.begin()
    teller = teller_of(job)
    while progress.step < job.steps and not progress.over:
        if (texts := have_texts(job, throughput, stop)) != "there":
            break
        tell_news(job, log)
        job.phase("data")
        batch = prefetch.step(progress.step)
        engine.module.head[0].watched = meter.unweighted if may_be_told(job, stop) else None
        for micro in batch.micro if job.own_texts is None else job.own_texts.corrected(batch.micro):
            job.phase("forward")
            loss, statistics = engine.forward(micro)
            job.phase("backward")
            engine.backward(loss)
            meter.add(statistics)
            teller.end_micro(stop.reason() if engine.rank == 0 else "")
        job.phase("data")
        prefetch.prepare(progress.step + 1)
        job.phase("communication")
        rate = learning_rate(settings, progress.step, job.steps)
        asks = {"stop": stop.reason() != "" or job.saver.failed, "save": engine.rank == 0 and job.saver.due}
        result = engine.step(rate, weight_sum=batch.weight_sum, **asks)
        job.weighting.end_step()
        meter.end_step(result.loss, faulty=result.faulty)
        throughput.end_step(batch.work, faulty=result.faulty)
        progress.step += 1
        progress.skips = progress.skips + 1 if result.faulty else 0
        last = {"epoch": batch.epoch, "lr": rate, "grad_norm": result.grad_norm}
        done, is_last = progress.step, progress.step == job.steps
        if result.skipped:
            ids = [job.batches.store.ids[document] for document in batch.documents]
            log.add(event="skipped", step=done, reason=result.reason, documents=ids)
            if progress.skips >= settings.skip_limit:
                raise InputError(too_many_skips(job, result.reason))
        measures = job.measures and (is_last or done % settings.held_out_every == 0)
        better = measures and is_better(job, log, throughput)
        ends = is_last or progress.over or result.stop
        if meter.steps and (ends or done % settings.log_every == 0):
            tell_numbers(ends=ends)
        if ends or better or result.save or (settings.checkpoint_every and done % settings.checkpoint_every == 0):
            save(job, wait=ends)
            saved = done
        job.saver.make_room(engine)
        teller.end_step(save_seconds=job.saver.seconds, saved=job.saver.saved)
        if result.stop and not (is_last or progress.over):
            if engine.rank == 0:
                stop.mark(done, job.steps)
            return False
    if texts == "there":
        return True
    if texts == "too long" and job.measures and not is_measured(job) and is_better(job, log, throughput):
        saved = 0
    if meter.steps:
        tell_numbers(ends=True)
    tell_news(job, log)
    if progress.step != saved:
        save(job, wait=True)
    job.saver.wait()
    if texts == "left" and engine.rank == 0:
        stop.mark(progress.step, job.steps)
    return texts != "left"


def have_texts(job: Job, throughput: Throughput, stop: StopRequest) -> TextState:
    """A student that learns from its own texts writes new ones when they are due. Called on every rank."""
    if job.own_texts is None:
        return "there"
    with throughput.paused():
        return job.own_texts.enter(job.progress.step, stop.reason)


def tell_news(job: Job, log: Log) -> None:
    """Log what there is to say of such texts."""
    while job.own_texts is not None and job.own_texts.news:
        log.add(**job.own_texts.news.pop(0))


def is_better(job: Job, log: Log, throughput: Throughput) -> bool:
    """Measure; whether the student is better than at all measurements before, if the recipe names a metric."""
    measured, best = measure(job, log, throughput), job.progress.best
    return best is not None and best.add(job.progress.step, measured)


def is_measured(job: Job) -> bool:
    """Whether the student has been measured after the steps done, and the best one takes that into account: the log
    may hold what a training measured that was killed before it saved what came of it. Called on every rank."""
    step, best = job.progress.step, job.progress.best
    if step % job.recipe.train.held_out_every == 0:
        return True  # before it was saved
    if best is not None and best.step != step:
        return False
    told = read_log(job.directory / LOG) if job.engine.rank == 0 else []
    events = {line.get("event") for line in told if line.get("step") == step}
    wanted = {"held_out": job.held_out, "answers": job.answers}
    return bool(share_json(all(name in events for name, part in wanted.items() if part is not None)))


def may_be_told(job: Job, stop: StopRequest) -> bool:
    """Whether a line of numbers may follow this step, as far as its beginning shows."""
    settings, done = job.recipe.train, job.progress.step + 1
    may_end = done == job.steps or stop.reason() != "" or (job.measures and done % settings.held_out_every == 0)
    may_end |= job.own_texts is not None and job.own_texts.ends_with(done)
    return may_end or done % settings.log_every == 0


def meter_of(job: Job) -> Meter:
    return Meter(job.recipe.span_kinds(), job.engine.device, job.engine.module.routers)


def throughput_of(job: Job) -> Throughput:
    engine = job.engine
    peak = job.recipe.train.peak_tflops or peak_tflops(engine.device, engine.dtype)
    return Throughput(engine.device, devices=engine.ranks, cost=cost_of(engine.module.model), peak_tflops=peak)


def teller_of(job: Job) -> Teller:
    """Tells how far training is. A step counts as the mean of an epoch, whose tokens are nearly always the same."""
    plan = job.batches.plan
    return Teller(
        job.directory / PROGRESS,
        step=job.progress.step,
        steps=job.steps,
        accumulation=job.engine.accumulation,
        tokens_a_step=float(job.batches.store.lengths[plan.documents].sum()) / plan.n_steps,
        say=lambda text: job.console.print(text, highlight=False, soft_wrap=True),
        write=job.engine.rank == 0,
        ranks=job.engine.ranks,
    )


def open_log(job: Job) -> Log:
    """``log.jsonl``, from the steps done on, and the recipe's monitors. Raises InputError if one does not start."""
    also = open_monitor(job.recipe.train.monitor, job.directory)
    return Log(job.directory / LOG, resume_at=job.progress.step, write=job.engine.rank == 0, also=also)


def tell(job: Job, numbers: dict[str, Any], *, ends: bool) -> None:
    """A line in the console, and at the end of training a table by kind."""
    job.console.print(line_of(job.progress.step, job.steps, numbers), highlight=False, soft_wrap=True)
    if ends:
        job.console.print(table_of(numbers["kinds"]))


def tell_straggler(job: Job, log: Log) -> None:
    """Log which rank holds the others up, if one does; called on every rank."""
    late = job.stragglers.find(phases_alone(job.engine.settings, job.engine.device))
    if late is not None:
        log.add(event="straggler", step=job.progress.step, **late)
        text = "rank {rank} is slow: {seconds} s in phase {phase} since the last line, others {usual} s"
        job.console.print(text.format(**late), style="yellow", highlight=False, soft_wrap=True)


def measure(job: Job, log: Log, throughput: Throughput) -> dict[str, dict[str, float]]:
    """Kind -> its numbers on held-out documents after the steps done, and those of its own answers; logged."""
    kinds, asked = {}, {}
    job.phase("measure")
    with throughput.paused():
        if job.held_out is not None:
            with job.engine.averaged():
                kinds = share_json(job.held_out.measure(job.engine))  # so that every rank draws one conclusion
            log.add(event="held_out", step=job.progress.step, split=job.held_out.split, kinds=kinds)
        if job.answers is not None:
            asked = {GENERATION: job.answers.measure(job.engine, lambda folder: export_student(job, folder))}
            log.add(event="answers", step=job.progress.step, split=job.answers.split, **asked[GENERATION])
    return kinds | asked


def save(job: Job, *, wait: bool) -> None:
    """Commit a checkpoint of the steps done, before going on if ``wait``; the newest ones and the best one stay."""
    progress = job.progress
    job.phase("save")
    best = progress.best.step if progress.best else None
    state = {**progress.state(), "identity": job.identity, "weighting": job.weighting.state()}
    state["threads"] = job.threads
    state |= {"on_policy": job.own_texts.state()} if job.own_texts else {}
    job.saver.save(job.engine, progress.step, state, best=best)
    if wait:
        job.saver.wait()


def too_many_skips(job: Job, reason: str) -> str:
    progress = job.progress
    return (
        f"training gave up at step {progress.step}: {progress.skips} steps in a row were skipped (train.skip_limit), "
        f"at last because the {reason}; their documents stand in {job.directory / LOG} (event skipped). "
        "Look at those documents, or lower train.lr"
    )


def main(words: Sequence[str] | None = None) -> int:
    """Train, as one of the ranks. The exit code is that of the epilog below."""
    parser = parser_of(
        "Train one arm of a run; started by DeepSpeed's launcher.",
        "plan",
        epilog="Exit codes: 0 done, 2 bad input, 3 stopped on request (SIGTERM, Ctrl-C, stop_after) and resumable, "
        "4 a rank failed, 5 no room on disk. The launcher may change them; stopped.json and failure.json in the train "
        "directory say so too.",
    )
    parser.add_argument(
        "--resume",
        nargs="?",
        const="must",
        choices=("auto", "must"),
        help="go on from the newest committed checkpoint; auto: begin anew if there is none (alone: must)",
    )
    arguments = parser.parse_args(words)
    started = time.perf_counter()

    def begin(run: RunDirectory) -> Begun | None:
        if not join_others(run, arguments.arm):
            say(f"training of {arguments.arm} is up to date")
            return None
        settings, directory = run.recipe.for_arm(arguments.arm).train, run.stage(arguments.arm, "train")
        first = find_placement().first if settings.local_checkpoints else 0  # of those that share it
        together(lambda: claim_train(directory) if dist.get_rank() == first else None, "cannot begin")
        watchdog = Watchdog(directory, settings.watchdog)
        return watchdog, lambda watch: train_arm(run, arguments.arm, arguments.resume, watch, started)

    return as_rank(arguments.run_dir, begin)


def join_others(run: RunDirectory, arm: str) -> bool:
    """Meet the other ranks, unless the arm's training has finished: then False. Hosts that share no file system have to
    meet to know it: they ask the first one's ranks."""
    settings = run.recipe.for_arm(arm).train
    local = settings.local_checkpoints
    if not local and is_done(run, arm):
        return False
    connect(settings)
    checkpoint_local.refuse_mixed(local)
    return not (local and checkpoint_local.is_done_on_first_host(run, arm))


def train_arm(run: RunDirectory, arm: str, resume: Resume | None, watch: Watchdog, started: float) -> int:
    """All of one rank's work, once it has met the others. The exit code: 0 done, 3 stopped on request."""
    phases = Phases()
    phases.subscribe(watch.phase)
    job = prepare(run, arm, phases=phases)
    job.phase("load")
    if job.recipe.train.on_policy is not None:
        job.own_texts = OnPolicy(job)
    open_directory(job, resume)
    limit = job.recipe.train.stop_after
    seconds = None if limit is None else seconds_of(limit)
    asked = StopRequest(
        job.directory, seconds=seconds, started=started, rank=job.engine.rank, hand_over=watch.hand_over
    )
    writes = job.own_texts if job.progress.step < job.steps else None
    # Every start does a step, however short its time is: else it would begin the same refresh for ever.
    if writes is not None and writes.enter(job.progress.step, asked.wish) == "left":
        if job.engine.rank == 0:
            asked.mark(job.progress.step, job.steps)
        return stopped(job)
    if job.engine.rank == 0:
        write_json(job.directory / "provenance.json", provenance(job.engine.config))
    if job.progress.step == 0:
        job.phase("measure")
        show_first_step(job)
    with asked as stop, job.saver:
        complete = train(job, stop)
    if not complete:
        return stopped(job)
    job.phase("finish")
    finish(job, time.perf_counter() - started)
    return 0


def stopped(job: Job) -> int:
    """The exit code of a training that will go on."""
    when = f"after step {job.progress.step}/{job.steps}, saved" if job.progress.step else "before the first step"
    job.console.print(f"stopped {when}; --resume auto goes on")
    return EXIT_STOPPED


if __name__ == "__main__":
    gc.freeze()
    gc.enable()
    leave(main())

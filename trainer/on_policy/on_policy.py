"""On-policy training: every so many steps the student, as it is in the engine, writes; the steps after learn from that.

A refresh belongs to the step before which it was written, and lies on disk before a step learns from it. A checkpoint
names it. So a training that was killed goes on with the same texts, or, where it was killed or asked to stop before
they were whole, with those that the same student writes again; texts of steps that are to come again are deleted.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.places import remove
from tracestill.data_pipeline.base.stage import changed_files, missing_files, read_manifest
from tracestill.data_pipeline.guards.secret import mask
from tracestill.kernels.loss import Given
from tracestill.trainer.assembly.job import Job, TextState
from tracestill.trainer.batches.batches import MicroStep
from tracestill.trainer.checkpoint.train_place import REFRESHES
from tracestill.trainer.engine.own_texts import token_nll
from tracestill.trainer.faults.leaving import Left, Meetings, meetings
from tracestill.trainer.metrics.headway import SPEAK_SECONDS
from tracestill.trainer.metrics.log import LOG, read_log
from tracestill.trainer.metrics.refreshing import Doing, Refreshing, tell_refreshing
from tracestill.trainer.on_policy.samples import Samples, corrected
from tracestill.trainer.on_policy.teacher import CHANNELS, TextScorer
from tracestill.trainer.on_policy.texts import WRITTEN, Author, Texts
from tracestill.trainer.ranks.collectives import each, first_says, together
from tracestill.trainer.ranks.console import say

PARTS = ("writing", "teacher")  # of the time, beside training


class OnPolicy:
    """What the student learns from now, on one rank."""

    def __init__(self, job: Job) -> None:
        """Takes the place of the job's batches. Raises InputError as ``Author`` does."""
        own = job.recipe.train.on_policy
        assert own is not None
        self.job, self.own = job, own
        self.about = read_manifest(job.run.stage(job.arm, "encode")) or {}
        self.author, self.scorer = Author(job), None if not own.has_teacher else self.open_scorer()
        self.samples = job.batches = Samples(job.batches, own, job.recipe, self.about["vocab_size"])
        if not own.has_teacher:
            job.engine.module.head[0].options["dynamic"] = Given()
        self.number: int | None = None  # of the refresh
        self.asked: Callable[[], object] = bool  # whether this rank is to stop
        self.spoken = 0.0  # when the console was told how far a refresh is
        self.named: dict[str, Any] = {}  # by the checkpoint that training went on from
        self.ended: dict[str, Any] | None = None
        self.told: set[tuple[Any, Any]] = set()  # events that the log knows, and their refreshes
        self.news: list[dict[str, Any]] = []  # lines for the log
        self.spent = dict.fromkeys(PARTS, 0.0)  # seconds since the last reading
        self.all_spent = dict.fromkeys((*PARTS, "training"), 0.0)
        self.since = time.perf_counter()
        if job.leads:
            tell_refreshing(job.directory, None)  # of ranks that were killed
        self.ratios = torch.zeros(3, dtype=torch.float64, device=job.engine.device)  # sum, those at the bound, count

    def open_scorer(self) -> TextScorer:
        return TextScorer(self.job, self.own, self.about["special_ids"], self.about["vocab_size"])

    def enter(self, step: int, asked: Callable[[], object]) -> TextState:
        """Have the texts of the refresh that ``step`` belongs to; called on every rank before each step. They are
        ``left`` if a rank is ``asked`` to stop before they are written, and read by the teacher: then nothing has
        changed, and who goes on from ``step`` writes the same ones."""
        number, self.asked = step // self.own.refresh, asked
        if number == self.number:
            return "there" if self.ended is None else "too long"
        try:
            return self.renew(number, step)
        except Left as left:
            if left.__cause__ is not None:  # of this rank, and it may come again
                say(f"refresh {number}: had failed before: {mask(str(left.__cause__))}", err=True)
            self.job.console.print(f"refresh {number}: left unfinished; who goes on begins it anew", soft_wrap=True)
            return "left"
        finally:
            if self.job.leads:
                tell_refreshing(self.job.directory, None)

    def ends_with(self, step: int) -> bool:
        """Whether the texts are not learnt from any more once ``step`` steps are done."""
        return step % self.own.refresh == 0

    def renew(self, number: int, step: int) -> TextState:
        self.job.phase("measure")
        if self.number is None:
            self.since = time.perf_counter()
            self.forget_later(step)
            lines = each(lambda: read_log(self.job.directory / LOG), "cannot go on")
            self.told = {(line.get("event"), line.get("refresh")) for line in lines if line.get("step", 0) <= step}
        directory = self.folder(number)
        self.write(number, directory, step)
        texts = each(lambda: self.author.read(directory), f"{directory}: cannot be read")
        if self.named.get("refresh") == number and self.named["written"] != texts.digest:
            raise InputError(f"{directory / WRITTEN}: holds other texts than those that the checkpoint learnt from")
        if not len(texts.store):
            rejected = ", ".join(f"{reason} {count}" for reason, count in texts.counts["rejected"].items())
            raise InputError(f"{directory / WRITTEN}: no text of the student became a document ({rejected})")
        if number * self.own.refresh == step and self.is_too_long(texts):
            self.tell(number, texts, {"event": "ended", "step": step, **(self.ended or {})})
            self.number = number
            return "too long"
        self.samples.renew(texts, self.scored(number, directory, texts), number)
        self.number = number
        steps = min(self.own.refresh, self.job.steps - self.samples.first)
        self.tell(number, texts, {"event": "refresh", "step": step, "unread": self.samples.unread(steps)})
        return "there"

    def folder(self, number: int) -> Path:
        return self.job.directory / REFRESHES / f"{number:06d}"

    def forget_later(self, step: int) -> None:
        """Texts that were written after ``step`` go: other steps come before theirs."""

        def act() -> None:
            if self.job.leads:
                for path in sorted(self.folder(0).parent.glob("[0-9]*")):
                    if int(path.name) * self.own.refresh > step:
                        remove(path)

        together(act, f"{self.folder(0).parent}: cannot delete texts of later steps")

    def write(self, number: int, directory: Path, step: int) -> None:
        """Let the student write, unless it has. Raises InputError if texts are gone that it cannot write any more."""
        place = directory / WRITTEN

        def is_there() -> bool:
            return read_manifest(place) is not None and not (missing_files(place) or changed_files(place))

        if first_says(is_there, f"{place}: cannot be read"):
            return
        if number * self.own.refresh != step:
            raise InputError(
                f"{place}: is not what was written, and the student has learnt since; delete the checkpoints after "
                f"step {number * self.own.refresh} in {self.job.checkpoints}, and train again"
            )
        with self.timed("writing"):
            self.author.write(number, directory, self.meeting)
        before = self.folder(number - 1) / CHANNELS  # can be made again of its texts

        def forget() -> None:
            if self.job.leads and before.exists():
                remove(before)

        together(forget, f"{before}: cannot be deleted")

    def scored(self, number: int, directory: Path, texts: Texts) -> Any:
        if self.scorer is None:
            return None
        with self.timed("teacher"):
            return self.scorer.score(number, directory, texts.store, self.meeting)

    @contextlib.contextmanager
    def timed(self, part: str) -> Iterator[None]:
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.spent[part] += time.perf_counter() - begun

    def meeting(
        self, refresh: int, doing: Doing, total: int, unit: str, along: Callable[[], None] | None = None
    ) -> contextlib.AbstractContextManager[Meetings]:
        """``meetings`` of ranks that share ``total`` units of a refresh, which all who look are told of."""

        def tell(done: int) -> None:
            self.job.phase("measure")
            if not self.job.leads:
                return
            found = Refreshing(refresh, doing, done, total, unit)
            tell_refreshing(self.job.directory, found)
            if time.monotonic() - self.spoken >= SPEAK_SECONDS:
                self.spoken = time.monotonic()
                self.job.console.print(str(found), soft_wrap=True)

        self.spoken = time.monotonic()
        return meetings(self.asked, tell, along)

    def is_too_long(self, texts: Texts) -> bool:
        bound = self.own.stop.length
        first = (read_manifest(self.folder(0) / WRITTEN) or {"counts": texts.counts})["counts"]["tokens_mean"]
        mean = texts.counts["tokens_mean"]
        if bound is None or mean <= bound * first:
            return False
        self.ended = {
            "rule": "length",
            "why": f"the student's texts have {mean:.1f} tokens on average, those of the first refresh {first:.1f}: "
            f"more than train.on_policy.stop.length = {bound:g} times as many",
        }
        return True

    def tell(self, number: int, texts: Texts, line: dict[str, Any]) -> None:
        """A line for the log, if it has none yet, and one for the console."""
        counts = texts.counts
        if (line["event"], number) not in self.told:
            self.news.append({**line, "refresh": number, **counts})
        share = {name: counts[name] / max(counts["in"], 1) for name in ("right", "cut_off")}
        said = f"refresh {number}: {counts['out']:,} of {counts['in']:,} texts, {share['right']:.0%} right, "
        said += f"{share['cut_off']:.0%} cut off, {counts['tokens_mean']:.1f} tokens"
        said += "".join(f", {name} {count}" for name, count in counts["rejected"].items())
        said += f"; {line['unread']:,} of them in no step" if line.get("unread") else ""
        self.job.console.print(said, highlight=False, soft_wrap=True)
        if self.ended is not None:
            self.job.console.print(f"training ends: {self.ended['why']}", style="yellow", soft_wrap=True)

    def corrected(self, micro: Sequence[MicroStep]) -> Sequence[MicroStep]:
        """The micro-steps of the coming step, their weights corrected for the age of what they learn from. Called on
        every rank between two steps."""
        if self.job.progress.step - self.samples.first <= self.own.max_lag:
            return micro
        found = []
        for one in micro:
            ratio = self.samples.ratio(one, token_nll(self.job.engine, one))
            own = ratio[one.packed.active].double()
            self.ratios += torch.stack([own.sum(), (own >= self.own.max_ratio).sum(), own.new_tensor(len(own))])
            found.append(corrected(one, ratio))
        return found

    def read(self) -> dict[str, Any]:
        """For a line of the log: the shares of time since the last one, and the mean ratio. Called on every rank."""
        now = time.perf_counter()
        whole = max(now - self.since, 1e-9)
        training = max(whole - sum(self.spent.values()), 0.0)
        found: dict[str, Any] = {"time": {name: self.spent[name] / whole for name in PARTS}}
        found["time"]["training"] = training / whole
        for name in PARTS:
            self.all_spent[name] += self.spent[name]
            self.spent[name] = 0.0
        self.all_spent["training"] += training
        self.since = now
        dist.all_reduce(self.ratios)
        total, bound, count = self.ratios.tolist()
        self.ratios.zero_()
        return found | ({"ratio": total / count, "ratio_bound": bound / count} if count else {})

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: of the refresh that was learnt from last."""
        learnt = {"refresh": self.samples.first // self.own.refresh, "written": self.samples.texts.digest}
        if not learnt["written"]:  # training went on, and ended before another step
            learnt = {name: self.named[name] for name in learnt}
        return {**learnt, "seconds": self.all_spent}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.named, self.all_spent = dict(state), dict(state.get("seconds", self.all_spent))

    def summary(self) -> dict[str, Any]:
        """For the manifest of a finished training: its texts, counted, and where the time went."""
        every = [read_manifest(path / WRITTEN) for path in sorted(self.folder(0).parent.glob("[0-9]*"))]
        counts = [held["counts"] for held in every if held is not None]
        spent = {name: seconds + self.spent.get(name, 0.0) for name, seconds in self.all_spent.items()}
        whole = max(sum(spent.values()), 1e-9)
        reasons = sorted({reason for one in counts for reason in one["rejected"]})
        return {
            "refreshes": len(counts),
            **{key: sum(one[key] for one in counts) for key in ("in", "out", "right", "cut_off", "tokens")},
            "rejected": {reason: sum(one["rejected"].get(reason, 0) for one in counts) for reason in reasons},
            "right_first": counts[0]["right"] / max(counts[0]["in"], 1) if counts else 0.0,
            "right_last": counts[-1]["right"] / max(counts[-1]["in"], 1) if counts else 0.0,
            "time": {name: seconds / whole for name, seconds in spent.items()},
            "ended": self.ended,
        }

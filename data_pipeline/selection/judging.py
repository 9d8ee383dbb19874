"""One record judged by itself: what is wrong with it, and what it has in common with others of its question."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tracestill.data_pipeline.answers.plain import normal_text
from tracestill.data_pipeline.base.schema import weight_fault
from tracestill.data_pipeline.selection.config import CHECKS, SelectConfig
from tracestill.data_pipeline.selection.paths import LONGEST, path_of
from tracestill.data_pipeline.selection.policy import OF_ANSWER, OF_TRACE, POLICIES, REASONS, REPETITION, rejecting
from tracestill.data_pipeline.selection.repetition import copied, repeats, words_of
from tracestill.data_pipeline.selection.verified import Fault
from tracestill.data_pipeline.soundness.checkers.chain import Checks
from tracestill.data_pipeline.soundness.checkers.finding import Trace

READ = ("question", "gold", "trace", "answer", "weight")  # columns of a record that are judged
FLAGS = ("answered", "right", "sound", "fuzzy", *REPETITION, *POLICIES)  # the last: whether it passes each policy
BIT = {name: 1 << at for at, name in enumerate(FLAGS)}
CODE = {reason: at for at, reason in enumerate(("", *REASONS))}
NONE = np.zeros(0, np.uint32)
DETAIL = 300  # characters of a detail that are kept: an answer may be a page


class Judged(NamedTuple):
    faults: dict[str, str]  # reason -> detail, in the order of the checks
    path: str  # equal for traces that reason alike
    fuzzy: bool  # the path is a text: others may be nearly the same
    words: Sequence[str]


class Batch(NamedTuple):
    """Records judged, in their order; ``reasons`` of the recipe's policy."""

    flags: np.ndarray  # (n,) uint16, bits of BIT
    reasons: np.ndarray  # (n,) uint8, CODE of the reason that rejects it; 0: none does
    paths: np.ndarray  # (n,) uint64
    lengths: np.ndarray  # (n,) int32, characters of the trace
    details: list[str]
    counts: np.ndarray  # (n,) int32, of each one's words below; 0 where nothing compares them
    words: np.ndarray  # uint32, of all records, one after the other


Job = tuple[SelectConfig, list[dict[str, Any]], list[Fault | None]]  # the last: what is wrong with each one's answer


def judged(select: SelectConfig, row: Mapping[str, Any], wrong: Fault | None, checks: Checks) -> Judged:
    """``row`` holds the columns READ; ``wrong``: what is wrong with its answer. No policy decides here; what is to be
    ignored is not looked for."""
    trace = Trace(row["trace"], row["question"], row["answer"], row["gold"])
    plain = normal_text(row["trace"])
    repetition = select.repeats != "ignore" or select.copies_question != "ignore"
    fuzzy = select.paths.same != "off" and (select.paths.same == "text" or not trace.equations)
    needed = repetition or fuzzy or select.paths.choose == "different"
    words = words_of(plain) if needed else []
    faults = dict(faults_of(select, row, wrong, checks, trace, words))
    return Judged(faults, path_of(trace.text, trace.equations, plain, select.paths), fuzzy, words)


def faults_of(
    select: SelectConfig,
    row: Mapping[str, Any],
    wrong: Fault | None,
    checks: Checks,
    trace: Trace,
    words: Sequence[str],
) -> Iterator[Fault]:
    """All that is wrong with a record, as far as nobody is asked: see ``step_judge``."""
    if not row["answer"].strip():
        yield "no_answer", "the answer is empty"
    if told := weight_fault(row["weight"]):
        yield "bad_weight", f"its weight: {told}"
    if wrong is not None:
        yield wrong
    if (false := checks.fault(trace, ask=False)) is not None:
        yield false
    if select.repeats != "ignore" and (told := repeats(row["trace"], words)):
        yield "repeats", told
    if select.copies_question != "ignore" and (told := copied(words_of(row["question"]), words)):
        yield "copies_question", told


def accepted_path(select: SelectConfig, row: Mapping[str, Any], checks: Checks | None = None) -> str | None:
    """The reasoning path of a record of a right answer that the policy keeps, others of its question aside; else
    None. ``checks``: those of ``select``, made ready before."""
    found = judged(select, row, None, checks or Checks(select.checks, CHECKS))
    return None if rejects(select)[select.policy] & found.faults.keys() else found.path


def rejects(select: SelectConfig) -> dict[str, frozenset[str]]:
    """Policy -> the reasons that reject under it, with all else as the recipe has it."""
    repetition = {reason: getattr(select, reason) for reason in REPETITION}
    return {policy: rejecting(policy, repetition) for policy in POLICIES}


def judge(job: Job) -> Batch:
    """Rows with the columns READ, judged; what a worker process does."""
    select, rows, answers = job
    by_policy, compared = rejects(select), select.paths.choose == "different"
    checks = Checks(select.checks, CHECKS)
    flags, reasons, details, paths, words = [], [], [], [], [NONE]
    for row, fault in zip(rows, answers, strict=True):
        found = judged(select, row, fault, checks)
        answered, wrong = "no_answer" not in found.faults, found.faults.keys()
        true: dict[str, bool] = {
            **{"answered": answered, "right": answered and not wrong & OF_ANSWER, "sound": not wrong & OF_TRACE},
            **{"fuzzy": found.fuzzy, **{reason: reason in wrong for reason in REPETITION}},
            **{policy: not wrong & by_policy[policy] for policy in POLICIES},
        }
        flags.append(sum(BIT[name] for name, holds in true.items() if holds))
        reason = next((reason for reason in found.faults if reason in by_policy[select.policy]), "")
        reasons.append(CODE[reason])
        told = found.faults.get(reason, "")
        details.append(told if len(told) <= DETAIL else told[: DETAIL - 1] + "…")
        paths.append(digest(found.path))
        words.append(digests(found.words) if found.fuzzy or compared else NONE)
    return Batch(
        flags=np.array(flags, np.uint16),
        reasons=np.array(reasons, np.uint8),
        paths=np.array(paths, np.uint64),
        lengths=np.array([len(row["trace"]) for row in rows], np.int32),
        details=details,
        counts=np.array([len(each) for each in words[1:]], np.int32),
        words=np.concatenate(words),
    )


def digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def digests(words: Sequence[str]) -> np.ndarray:
    return np.fromiter((zlib.crc32(word.encode("utf-8", "surrogatepass")) for word in words[:LONGEST]), np.uint32)
